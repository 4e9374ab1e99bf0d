"""The prepared images of a run, opened on every rank; drawn ones are made where they are missing."""

from pathlib import Path

from horovod_flowers.config.run import RunConfig
from horovod_flowers.data.order import Split, split
from horovod_flowers.data.prepared import Prepared, find, open_prepared
from horovod_flowers.data.preparing import command_for, prepare_with_progress
from horovod_flowers.data.sources import Source, open_source
from horovod_flowers.ranks.communicator import Ranks
from horovod_flowers.runtime.console import say
from horovod_flowers.runtime.errors import UserError


def open_training_source(config: RunConfig) -> Source:
    """The source, which training never downloads. Raises UserError that names the prepare command."""
    try:
        return open_source(config.data)
    except UserError as error:
        if config.data.source != "tf_flowers":
            raise
        raise UserError(
            f"{error}: run '{command_for(config.data)}' first, where there is internet access, or set TFDS_DATA_DIR"
        ) from error


def open_data(config: RunConfig, ranks: Ranks) -> tuple[Prepared, Split]:
    """Open the prepared images that rank 0 finds; the others need neither the photos nor a look at them.

    The drawn ones are prepared where missing, by one rank a node, the others waiting. Raises UserError where a node
    does not see the prepared images.
    """
    root = Path(config.data.prepared_dir)
    if config.data.source == "synthetic" and not config.elastic:
        draw_where_missing(root, open_source(config.data), ranks)
    found = find(root, open_training_source(config)) if ranks.rank == 0 else None
    digest = ranks.broadcast(found.digest if found is not None else None)
    prepared, error = None, None
    try:
        prepared = open_prepared(root / "objects" / str(digest))
    except (OSError, ValueError, KeyError):
        error = UserError(
            f"{root} does not hold the prepared images: choose a --data.prepared-dir that all nodes share"
        )
    ranks.raise_on_all(error)
    assert prepared is not None
    return prepared, split_checked(prepared, config, ranks.size)


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
    """The split, refused where it leaves too few images for that many ranks or that batch (UserError)."""
    images = split(prepared, config.data)
    config.check_against(size, len(images.training), len(images.validation))
    return images
