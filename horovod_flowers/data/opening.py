"""The prepared images of a run, opened on every rank; drawn ones are made where they are missing."""

from dataclasses import dataclass
from pathlib import Path

from horovod_flowers.config.run import RunConfig
from horovod_flowers.data.chunks import Source
from horovod_flowers.data.class_table import class_lines, class_warnings, warn_of_empty_classes
from horovod_flowers.data.folder_scan import PhotosMissing
from horovod_flowers.data.image_weights import image_weights
from horovod_flowers.data.order import Split, split
from horovod_flowers.data.prepared import (
    Prepared,
    find,
    find_by_digest,
    find_by_place,
    find_same_contents,
    open_prepared,
)
from horovod_flowers.data.preparing import command_for, describe, prepare_with_progress
from horovod_flowers.data.sources import open_source
from horovod_flowers.ranks.communicator import Ranks
from horovod_flowers.runtime.console import say, warn
from horovod_flowers.runtime.errors import UserError, harmless


@dataclass(frozen=True)
class TrainedOn:
    """The images that a run which is resumed was trained on."""

    run: Path
    class_names: tuple[str, ...]
    digest: str


@dataclass(frozen=True)
class Found:
    """What there is of a run's images."""

    prepared: Prepared | None
    """None where they are not prepared."""
    source: Source | None
    """None where the photos are not there any more, or are not those that were prepared."""
    remark: str | None = None
    """What is to be said of how they were found."""


def find_images(config: RunConfig, trained_on: TrainedOn | None = None) -> Found:
    """Look for a run's images, which need neither lie where they lay when they were prepared nor be there at all.

    Raises UserError where there is nothing prepared that they could be, where they are not those that the run was
    trained on, or where the folder cannot be read as photos of classes.
    """
    root = Path(config.data.prepared_dir)
    try:
        source = open_source(config.data)
    except PhotosMissing as error:
        prepared = find_by_digest(root, trained_on.digest) if trained_on else find_by_place(root, config.data)
        if prepared is None:
            raise _with_prepare_command(error, config) from error
        what = str(error).partition(":")[0]
        return Found(prepared, None, f"{what}: taking what was prepared from there, {describe(prepared)}")
    prepared = find(root, source) or find_same_contents(root, source)
    if trained_on is None or config.data.source == "synthetic":
        return Found(prepared, source)
    return _of_the_run(Found(prepared, source), source, trained_on, root)


def _of_the_run(found: Found, source: Source, trained_on: TrainedOn, root: Path) -> Found:
    """The very images that a run was trained on, whatever has come of their photos since.

    Raises UserError where the classes are others now, or the run's images are gone and others were prepared.
    """
    if source.class_names != trained_on.class_names:
        refuse_other_images(trained_on, source.class_names, None)
    now = found.prepared.digest if found.prepared is not None else None
    if now == trained_on.digest:
        return found
    kept = find_by_digest(root, trained_on.digest)
    if kept is not None:
        remark = (
            "the photos have changed since they were prepared for this run "
            f"({kept.source_images} then, {source.images} now): going on with what was prepared then"
        )
        return Found(kept, None, remark)
    if now is not None:
        refuse_other_images(trained_on, source.class_names, now)
    return found  # to be prepared again: what comes of that is compared


def refuse_other_images(trained_on: TrainedOn, class_names: tuple[str, ...], digest: str | None) -> None:
    """Refuse to resume on images that the run was not trained on, saying what is different (UserError).

    `digest`: of the prepared images; None where these photos have not been prepared.
    """
    if (class_names, digest) == (trained_on.class_names, trained_on.digest):
        return
    more = [harmless(name) for name in class_names if name not in trained_on.class_names]
    fewer = [harmless(name) for name in trained_on.class_names if name not in class_names]
    parts = [
        *([f"{', '.join(more)} came"] if more else []),
        *([f"{', '.join(fewer)} went"] if fewer else []),
    ]
    different = f"of its classes, {' and '.join(parts)}" if parts else "the classes are the same, the images are not"
    raise UserError(
        f"run {trained_on.run} was trained on other images (classes "
        f"{', '.join(map(harmless, trained_on.class_names))}): {different}; give it the same photos, or start another "
        "run"
    )


def _with_prepare_command(error: UserError, config: RunConfig) -> UserError:
    """Training never downloads: it names the command that does."""
    if config.data.source == "folder":
        return error
    return UserError(
        f"{error}: run '{command_for(config.data)}' first, where there is internet access, or set TFDS_DATA_DIR"
    )


def open_data(config: RunConfig, ranks: Ranks, trained_on: TrainedOn | None = None) -> tuple[Prepared, Split]:
    """Open the prepared images that rank 0 finds; the others need neither the photos nor a look at them.

    The drawn ones are prepared where missing, by one rank a node, the others waiting. `trained_on`: of a run that is
    resumed, on rank 0. Raises UserError where a node does not see the prepared images.
    """
    root = Path(config.data.prepared_dir)
    if config.data.source == "synthetic" and not config.elastic:
        draw_where_missing(root, open_source(config.data), ranks)
    found = find_images(config, trained_on) if ranks.rank == 0 else None
    digest = ranks.broadcast(found.prepared.digest if found is not None and found.prepared is not None else None)
    prepared, error = None, None
    try:
        prepared = open_prepared(root / "objects" / str(digest))
    except (OSError, ValueError, KeyError):
        error = UserError(
            f"{root} does not hold the prepared images: choose a --data.prepared-dir that all nodes share"
        )
    ranks.raise_on_all(error)
    assert prepared is not None
    images = split_checked(prepared, config, ranks.size)
    if found is not None:
        _describe(config, prepared, images, found)
    return prepared, images


def _describe(config: RunConfig, prepared: Prepared, images: Split, found: Found) -> None:
    """Say which photos these are: of drawn flowers, everything is known."""
    if config.data.source == "synthetic":
        return
    if found.remark is not None:
        warn(found.remark)
    sets = {"training": images.training, "validation": images.validation, "test": images.test}
    layout = found.source.layout if found.source is not None else None
    if layout is not None:
        warn_of_empty_classes(layout)
    for line in class_lines(prepared, {name: own for name, own in sets.items() if len(own)}, layout):
        say(line)
    for sentence in class_warnings(prepared, images.training, images.validation):
        warn(sentence)


def draw_where_missing(root: Path, source: Source, ranks: Ranks) -> None:
    """Prepare the synthetic images on each node that does not see them. Raises one rank's UserError on all."""
    error = None
    try:
        if ranks.local_rank == 0 and find(root, source) is None:
            if ranks.rank == 0:
                say(f"drawing {source.images} synthetic flowers, once, into {root}")
            prepare_with_progress(root, source, muted=ranks.rank != 0)
    except UserError as found:
        error = found
    ranks.barrier()
    ranks.raise_on_all(error)


def split_checked(prepared: Prepared, config: RunConfig, size: int) -> Split:
    """The split, refused where it leaves too few images for those ranks, that batch or their weights (UserError)."""
    images = split(prepared, config.data)
    image_weights(prepared, images.training, config.data)
    config.check_against(size, len(images.training), len(images.validation))
    return images
