"""Decode and resize photos once, for every later run.

    python -m horovod_flowers.prepare                                          the drawn flowers
    python -m horovod_flowers.prepare --data.source tf_flowers                 through tensorflow-datasets
    python -m horovod_flowers.prepare --data.source folder --data.path PHOTOS  your own, as CLASS/*.jpg|png

On a cluster, run it on the login node, into a folder that the compute nodes see: training never downloads.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from horovod_flowers.config.command_line import parse
from horovod_flowers.config.data import DataConfig
from horovod_flowers.config.options import check_limits, option
from horovod_flowers.data.prepared import find
from horovod_flowers.data.preparing import describe, prepare_with_progress
from horovod_flowers.data.sources import open_source
from horovod_flowers.runtime.console import say
from horovod_flowers.runtime.exit import error_boundary


@dataclass(frozen=True)
class PrepareConfig:
    """Options of the prepare command."""

    processes: int = option(0, "processes that decode; 0: one for each core that this process may use", at_least=0)
    strict: bool = option(False, "refuse a source with an unreadable image instead of skipping the image")
    data: DataConfig = field(default_factory=DataConfig)

    def __post_init__(self) -> None:
        check_limits(self)


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of `python -m horovod_flowers.prepare`."""
    with error_boundary("horovod_flowers.prepare"):
        config = parse(PrepareConfig, "horovod_flowers.prepare", (__doc__ or "").splitlines()[0], arguments)
        source = open_source(config.data, download=True)
        root = Path(config.data.prepared_dir)
        prepared = find(root, source)
        if prepared is not None and not (config.strict and prepared.unreadable):
            say(f"prepared already: {describe(prepared)}")
        else:
            prepared = prepare_with_progress(root, source, config.processes, config.strict)
        for name, reason in prepared.unreadable:
            say(f"unreadable, skipped: {name}: {reason}")


if __name__ == "__main__":
    main()
