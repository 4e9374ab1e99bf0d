"""Which image comes when, and on which rank: functions of seed, epoch and counts alone.

The sequence of global batches does not depend on the number of ranks: N ranks see the images that one rank sees, in
the same order, each rank a contiguous part of every global batch.
"""

from dataclasses import dataclass

import numpy as np

from horovod_flowers.config.data import DataConfig
from horovod_flowers.data.prepared import Prepared
from horovod_flowers.runtime.errors import UserError

# Domain tags keep the streams drawn from one user seed apart.
_ORDER, _AUGMENT = 1, 2


@dataclass(frozen=True)
class Split:
    """int64 indices into the prepared images; disjoint, together all of them."""

    training: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    """Empty where no share of the images is held out for it."""


def split(prepared: Prepared, config: DataConfig) -> Split:
    """Training, validation and test images.

    Ordered sources are cut as tensorflow-datasets cuts `train[:85%]` and `train[85%:]` (to the closest whole image),
    the test images last; the user's photos are split at random, seeded, with the same share of each class. Raises
    UserError where a class is too small for that.
    """
    indices = np.arange(len(prepared))
    if config.source != "folder":
        begin, end = validation_range(prepared.source_images, config)
        positions = prepared.positions
        within = (positions >= begin) & (positions < end)
        return Split(indices[positions < begin], indices[within], indices[positions >= end])
    from sklearn.model_selection import train_test_split

    counts = np.bincount(prepared.labels, minlength=len(prepared.class_names))
    if counts.min() < 2:
        name = prepared.class_names[int(counts.argmin())]
        raise UserError(f"class {name!r} has {counts.min()} readable photos: at least 2 are needed, one to validate on")
    test = indices[:0]
    try:
        if config.test_fraction:
            indices, test = train_test_split(
                indices, test_size=config.test_fraction, random_state=config.split_seed, stratify=prepared.labels
            )
        share = config.validation_fraction / (1 - config.test_fraction)
        training, validation = train_test_split(
            indices, test_size=share, random_state=config.split_seed, stratify=prepared.labels[indices]
        )
    except ValueError as error:  # fewer validation images than classes, say
        raise UserError(
            f"{len(prepared)} photos of {len(prepared.class_names)} classes cannot be split with "
            f"data.validation_fraction {config.validation_fraction} ({error}): add photos or choose a "
            "share nearer to 0.5"
        ) from error
    return Split(np.sort(training), np.sort(validation), np.sort(test))


def validation_range(source_images: int, config: DataConfig) -> tuple[int, int]:
    """Positions at which validation begins and ends in an ordered source."""
    begin = round(source_images * (1 - config.validation_fraction - config.test_fraction))
    return begin, round(source_images * (1 - config.test_fraction))


def epoch_order(images: int, seed: int, epoch: int) -> np.ndarray:
    """A full permutation of range(images), int64, new in every epoch."""
    return np.random.default_rng([seed, _ORDER, epoch]).permutation(images)


def steps_per_epoch(images: int, global_batch: int) -> int:
    """Steps in which every image is seen exactly once; the last global batch may be partly empty."""
    return -(-images // global_batch)


def rank_slice(step: int, global_batch: int, rank: int, size: int) -> slice:
    """Where in an epoch's order this rank's part of a step's global batch stands; in the last step, past its end.

    Where the ranks do not divide the batch (elastic training), the first ones get one image more.
    """
    share, more = divmod(global_batch, size)
    start = step * global_batch + rank * share + min(rank, more)
    return slice(start, start + share + (rank < more))


def per_rank_batch(global_batch: int, size: int) -> int:
    """Images that every rank's batches have room for."""
    return -(-global_batch // size)


def augmentation_draws(images: int, seed: int, epoch: int, draws: int) -> np.ndarray:
    """float32 [images, draws], uniform in [0, 1): row i belongs to image i of the training split in this epoch.

    One table for the whole split instead of a generator an image: as determined, a hundred times cheaper.
    """
    return np.random.default_rng([seed, _AUGMENT, epoch]).random((images, draws), np.float32)
