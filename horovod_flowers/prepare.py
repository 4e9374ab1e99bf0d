"""Decode and resize photos once, for every later run.

    python -m horovod_flowers.prepare                                          the drawn flowers
    python -m horovod_flowers.prepare --data.source tf_flowers                 through tensorflow-datasets
    python -m horovod_flowers.prepare --data.source folder --data.path PHOTOS  your own, as CLASS/*.jpg|png

On a cluster, run it on the login node, into a folder that the compute nodes see: training never downloads.
"""

import os
import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from horovod_flowers.command_line import parse
from horovod_flowers.data.prepared import Prepared, find, prepare
from horovod_flowers.data.sources import Source, open_source
from horovod_flowers.data_config import DataConfig
from horovod_flowers.errors import UserError
from horovod_flowers.launch import error_boundary
from horovod_flowers.options import option
from horovod_flowers.progress import Steps, say


@dataclass(frozen=True)
class PrepareConfig:
    """Options of the prepare command."""

    processes: int = option(0, "processes that decode; 0: one for each core that this process may use")
    strict: bool = option(False, "refuse a source with an unreadable image instead of skipping the image")
    data: DataConfig = field(default_factory=DataConfig)

    def __post_init__(self) -> None:
        if self.processes < 0:
            raise UserError(f"processes is {self.processes}: give 0 or a positive whole number")


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


def prepare_with_progress(
    root: Path, source: Source, processes: int = 0, strict: bool = False, muted: bool = False
) -> Prepared:
    """Prepare a source on this node's cores and say how fast it went."""
    processes = processes or len(os.sched_getaffinity(0))
    started = time.monotonic()
    with Steps("preparing", source.images, "images", muted) as steps:
        prepared = prepare(root, source, processes, strict, progress=steps.advance)
    seconds = time.monotonic() - started
    rate = source.images / seconds
    if not muted:
        say(f"prepared {describe(prepared)} in {seconds:.1f} s: {rate:.0f} images/s with {processes} processes")
    return prepared


def describe(prepared: Prepared) -> str:
    """One line on a prepared set."""
    skipped = f", {len(prepared.unreadable)} unreadable" if prepared.unreadable else ""
    return (
        f"{len(prepared)} images of {len(prepared.class_names)} classes at {prepared.image_size} pixels{skipped} "
        f"({prepared.folder})"
    )


def command_for(config: DataConfig) -> str:
    """The prepare command that makes what this configuration needs, ready to paste."""
    words = ["python", "-m", "horovod_flowers.prepare", "--data.source", config.source]
    defaults = DataConfig()
    for name in ("path", "tfds_dir", "prepared_dir", "image_size"):
        value = getattr(config, name)
        if value != getattr(defaults, name):
            words += [f"--data.{name.replace('_', '-')}", str(value)]
    return shlex.join(words)


if __name__ == "__main__":
    main()
