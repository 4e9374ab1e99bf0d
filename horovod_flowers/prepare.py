"""Decode and resize photos once, for every later run.

    python -m horovod_flowers.prepare                                          the drawn flowers
    python -m horovod_flowers.prepare --data.source tf_flowers                 through tensorflow-datasets
    python -m horovod_flowers.prepare --data.source folder --data.path PHOTOS  your own, as PHOTOS/CLASS/*.jpg

On a cluster, run it on the login node, into a folder that the compute nodes see: training never downloads.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from horovod_flowers.config.command_line import parse
from horovod_flowers.config.data import DataConfig
from horovod_flowers.config.options import check_limits, option
from horovod_flowers.data.chunks import Source
from horovod_flowers.data.class_table import class_lines, class_warnings, sets_of, warn_of_empty_classes
from horovod_flowers.data.prepared import Prepared, find, find_same_contents, remember_place
from horovod_flowers.data.preparing import describe, prepare_with_progress
from horovod_flowers.data.sources import open_source
from horovod_flowers.runtime.console import say, warn
from horovod_flowers.runtime.errors import UserError, harmless
from horovod_flowers.runtime.exit import error_boundary


@dataclass(frozen=True)
class PrepareConfig:
    """Options of the prepare command."""

    processes: int = option(0, "processes that decode; 0: one for each core that this process may use", at_least=0)
    strict: bool = option(
        False, "refuse a source with an unreadable image, or a class without a photo, instead of leaving it out"
    )
    data: DataConfig = field(default_factory=DataConfig)

    def __post_init__(self) -> None:
        check_limits(self)


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of `python -m horovod_flowers.prepare`."""
    with error_boundary("horovod_flowers.prepare"):
        config = parse(PrepareConfig, "horovod_flowers.prepare", __doc__, arguments)
        source = open_source(config.data, download=True)
        refuse_incomplete(source, config.strict)
        root = Path(config.data.prepared_dir)
        prepared = find(root, source) or find_same_contents(root, source)
        if prepared is not None and not (config.strict and prepared.unreadable):
            remember_place(root, source, prepared)
            say(f"prepared already: {describe(prepared)}")
        else:
            prepared = prepare_with_progress(root, source, config.processes, config.strict)
        tell(config.data, source, prepared)


def refuse_incomplete(source: Source, strict: bool) -> None:
    """With --strict, refuse folders of classes without a photo (UserError)."""
    empty = source.layout.without_photos if source.layout is not None else ()
    if strict and empty:
        raise UserError(
            f"there is no photo in {', '.join(map(harmless, empty))}: add some or remove the folder, or leave out "
            "--strict to go on without the class"
        )


def tell(config: DataConfig, source: Source, prepared: Prepared) -> None:
    """Say what was prepared: unreadable photos, classes with their images, and what is to be known of these."""
    for name, reason in prepared.unreadable:
        say(f"unreadable, skipped: {name}: {reason}")
    if config.source == "synthetic":
        return
    if source.layout is not None:
        warn_of_empty_classes(source.layout)
    sets = sets_of(prepared)
    for line in class_lines(prepared, sets, source.layout):
        say(line)
    training, validation = next(iter(sets.values())), sets.get("validation")
    for sentence in class_warnings(prepared, training, validation):
        warn(sentence)


if __name__ == "__main__":
    main()
