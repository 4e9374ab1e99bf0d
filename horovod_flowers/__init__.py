"""Train Keras models across MPI ranks with Horovod, and measure what the ranks are worth.

For a script of one's own (docs/keras.md):

    ranks = horovod_flowers.start()
    model.compile(...)
    ranks.distribute(model)
    model.fit(...)
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from horovod_flowers.fit.start import ScriptRanks, start

__version__ = "0.1.0"
__all__ = ["ScriptRanks", "__version__", "start"]


def __getattr__(name: str) -> Any:
    """What scripts use, imported at its first use: importing this package does nothing."""
    if name in ("ScriptRanks", "start"):
        from horovod_flowers.fit import start as module

        return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
