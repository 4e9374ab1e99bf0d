"""Which image comes when, and on which rank: functions of seed, epoch and counts alone.

The sequence of global batches does not depend on the number of ranks: N ranks see the images that one rank sees, in
the same order, each rank a contiguous part of every global batch.
"""

from dataclasses import dataclass

import numpy as np

from horovod_flowers.config.data import DataConfig
from horovod_flowers.data.chunks import Parts
from horovod_flowers.data.prepared import Prepared
from horovod_flowers.runtime.errors import UserError

# Domain tags keep the streams drawn from one user seed apart.
_ORDER, _AUGMENT, _HELD_OUT = 1, 2, 3


@dataclass(frozen=True)
class Split:
    """int64 indices into the prepared images; disjoint, together all of them."""

    training: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    """Empty where no share of the images is held out for it."""


def split(prepared: Prepared, config: DataConfig) -> Split:
    """Training, validation and test images.

    Sets that the source comes with stay as they are. Of the others, drawn flowers and tf_flowers are cut as
    tensorflow-datasets cuts `train[:85%]` and `train[85%:]` (to the closest whole image), the test images last; photos
    are split at random, seeded, with the same share of each class, and at least one of each to validate on. Raises
    UserError where a class is too small for that.
    """
    indices = np.arange(len(prepared))
    if config.source in _ORDERED:
        begin, end = validation_range(prepared.source_images, config)
        positions = prepared.positions
        within = (positions >= begin) & (positions < end)
        return Split(indices[positions < begin], indices[within], indices[positions >= end])
    parts = prepared.parts or Parts(prepared.source_images, 0, 0)
    training, validation, test = np.split(
        indices, np.searchsorted(prepared.positions, np.cumsum([parts.training, parts.validation]))
    )
    whole_share = 1.0
    if not parts.test and config.test_fraction:
        training, test = _hold_out(prepared, config, training, config.test_fraction, left=2 - bool(parts.validation))
        whole_share -= config.test_fraction
    if not parts.validation:
        share = config.validation_fraction / whole_share
        training, validation = _hold_out(prepared, config, training, share, left=1)
    trained = np.bincount(prepared.labels[training], minlength=len(prepared.class_names))
    if not trained.all():
        name = prepared.class_names[int(trained.argmin())]
        raise UserError(f"class {name!r} has no readable photo to train on: add some, or remove its folder")
    return Split(np.sort(training), np.sort(validation), np.sort(test))


_ORDERED = ("synthetic", "tf_flowers")


def _hold_out(
    prepared: Prepared, config: DataConfig, indices: np.ndarray, share: float, left: int
) -> tuple[np.ndarray, np.ndarray]:
    """A share of the images of every class, seeded: what is left, and what is held out.

    Of each class at least one is held out, unless fewer than `left` were left, as many as every class keeps.
    """
    from sklearn.model_selection import train_test_split

    labels = prepared.labels[indices]
    counts = np.bincount(labels, minlength=len(prepared.class_names))
    if counts.min() < 2:
        name = prepared.class_names[int(counts.argmin())]
        raise UserError(f"class {name!r} has {counts.min()} readable photos: at least 2 are needed, one to validate on")
    try:
        drawn = train_test_split(indices, test_size=share, random_state=config.split_seed, stratify=labels)
    except ValueError as error:  # fewer validation images than classes, say
        raise UserError(
            f"{len(prepared)} photos of {len(prepared.class_names)} classes cannot be split with "
            f"data.validation_fraction {config.validation_fraction} ({error}): add photos or choose a "
            "share nearer to 0.5"
        ) from error
    is_held = np.isin(indices, drawn[1])
    held_counts = np.bincount(labels[is_held], minlength=len(counts))
    wanted = np.clip(held_counts, np.minimum(1, counts - left), counts - left)
    for label in np.flatnonzero(wanted != held_counts):  # rounding left a small class out of one or the other
        own = np.flatnonzero(labels == label)
        is_held[own] = False
        order = np.random.default_rng([config.split_seed, _HELD_OUT, label]).permutation(own)
        is_held[order[: wanted[label]]] = True
    held, order = np.zeros(len(prepared), bool), np.concatenate(drawn)
    held[indices[is_held]] = True
    return order[~held[order]], order[held[order]]


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
