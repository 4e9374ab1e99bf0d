"""Batches of noise, the same global ones at any number of ranks."""

import numpy as np

from horovod_flowers.data.batches import Batch


def batch_of(step: int, rank: int, size: int, *, images: int, pixels: int, classes: int) -> Batch:
    """A rank's part of a global batch of noise, the last image of which does not count."""
    random = np.random.default_rng(step)
    drawn = random.integers(0, 256, (images, pixels, pixels, 3), dtype=np.uint8)
    labels = random.integers(0, classes, images).astype(np.int32)
    weights = (np.arange(images) < images - 1).astype(np.float32)
    part = slice(rank * images // size, (rank + 1) * images // size)
    return Batch(drawn[part], labels[part], weights[part], images - 1, np.arange(images)[part])
