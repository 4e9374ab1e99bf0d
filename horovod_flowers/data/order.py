"""Which image comes when, and on which rank: functions of seed, epoch and counts alone.

The sequence of global batches does not depend on the number of ranks: N ranks see the images that one rank sees, in
the same order, each rank a contiguous part of every global batch.
"""

from dataclasses import dataclass

import numpy as np

from horovod_flowers.config import DataConfig
from horovod_flowers.data.prepared import Prepared
from horovod_flowers.errors import UserError

# Domain tags keep the streams drawn from one user seed apart.
_ORDER, _AUGMENT = 1, 2


@dataclass(frozen=True)
class Split:
    """int64 indices into the prepared images; disjoint, together all of them."""

    training: np.ndarray
    validation: np.ndarray


def split(prepared: Prepared, config: DataConfig) -> Split:
    """Training and validation images.

    Ordered sources are cut as tensorflow-datasets cuts `train[:85%]` and `train[85%:]` (to the closest whole image);
    the user's photos are split at random, seeded, with the same share of each class. Raises UserError where a class
    is too small for that.
    """
    indices = np.arange(len(prepared))
    if config.source != "folder":
        boundary = validation_boundary(prepared.source_images, config.validation_fraction)
        return Split(indices[prepared.positions < boundary], indices[prepared.positions >= boundary])
    from sklearn.model_selection import train_test_split

    counts = np.bincount(prepared.labels, minlength=len(prepared.class_names))
    if counts.min() < 2:
        name = prepared.class_names[int(counts.argmin())]
        raise UserError(f"class {name!r} has {counts.min()} readable photos: at least 2 are needed, one to validate on")
    try:
        training, validation = train_test_split(
            indices, test_size=config.validation_fraction, random_state=config.split_seed, stratify=prepared.labels
        )
    except ValueError as error:  # fewer validation images than classes, say
        raise UserError(
            f"{len(prepared)} photos of {len(prepared.class_names)} classes cannot be split with "
            f"data.validation_fraction {config.validation_fraction} ({error}): add photos or choose a "
            "share nearer to 0.5"
        ) from error
    return Split(np.sort(training), np.sort(validation))


def validation_boundary(source_images: int, validation_fraction: float) -> int:
    """Position at which validation begins in an ordered source."""
    return round(source_images * (1 - validation_fraction))


def epoch_order(images: int, seed: int, epoch: int) -> np.ndarray:
    """A full permutation of range(images), int64, new in every epoch."""
    return np.random.default_rng([seed, _ORDER, epoch]).permutation(images)


def steps_per_epoch(images: int, global_batch: int) -> int:
    """Steps in which every image is seen exactly once; the last global batch may be partly empty."""
    return -(-images // global_batch)


def rank_slice(step: int, global_batch: int, rank: int, size: int) -> slice:
    """Where in an epoch's order this rank's part of a step's global batch stands; in the last step, past its end."""
    per_rank = global_batch // size
    start = step * global_batch + rank * per_rank
    return slice(start, start + per_rank)


def augmentation_draws(images: int, seed: int, epoch: int, draws: int) -> np.ndarray:
    """float32 [images, draws], uniform in [0, 1): row i belongs to image i of the training split in this epoch.

    One table for the whole split instead of a generator an image: as determined, a hundred times cheaper.
    """
    return np.random.default_rng([seed, _AUGMENT, epoch]).random((images, draws), np.float32)
