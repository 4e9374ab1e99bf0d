"""The import of TensorFlow in little more than half its time: every rank waits for it, at every start."""

import contextlib
import gc
import sys
from collections.abc import Iterator

# Keras imports them, where they are installed, to offer plots and scikit-learn's interface: with what they bring a
# quarter of the time, for nothing that training uses.
UNUSED = ("matplotlib", "sklearn")


def import_tensorflow() -> None:
    """Import TensorFlow, and Keras with it, without what Keras imports only in case it is asked for."""
    # Hundreds of thousands of objects are made, none of which is garbage: another quarter goes into looking for some.
    collecting = gc.isenabled()
    gc.disable()
    try:
        with _not_installed(UNUSED):
            import tensorflow  # noqa: F401  (and with it Keras)
    finally:
        if collecting:
            gc.enable()
    gc.freeze()  # nor is it looked for later among what was imported


@contextlib.contextmanager
def _not_installed(packages: tuple[str, ...]) -> Iterator[None]:
    """Let imports of packages fail as if they were not there; afterwards they can be imported."""
    hidden = [name for name in packages if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None stops an import
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]
