"""The sequence of images: full permutations, the same at any number of ranks, every image exactly once."""

import numpy as np
import pytest

from horovod_flowers.config.data import DataConfig
from horovod_flowers.data.order import (
    augmentation_draws,
    epoch_order,
    per_rank_batch,
    rank_slice,
    steps_per_epoch,
    validation_range,
)

IMAGES = 103  # not a multiple of any batch below


def sequence(global_batch: int, size: int, epoch: int = 1, seed: int = 0) -> list[list[int]]:
    """Global batches as the ranks together see them."""
    order = epoch_order(IMAGES, seed, epoch)
    return [
        [int(i) for rank in range(size) for i in order[rank_slice(step, global_batch, rank, size)]]
        for step in range(steps_per_epoch(IMAGES, global_batch))
    ]


@pytest.mark.parametrize("size", [1, 2, 4, 8, 3, 5, 17])  # the last ones do not divide the batch
def test_any_number_of_ranks_sees_the_same_global_batches(size: int) -> None:
    assert sequence(16, size) == sequence(16, 1)


def test_ranks_that_do_not_divide_a_batch_differ_by_one_image() -> None:
    parts = [rank_slice(1, 16, rank, 5) for rank in range(5)]
    assert [part.stop - part.start for part in parts] == [4, 3, 3, 3, 3]
    assert [part.start for part in parts] == [16, 20, 23, 26, 29]
    assert per_rank_batch(16, 5) == 4


@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_shards_are_disjoint_and_cover_the_data(size: int) -> None:
    seen = [index for batch in sequence(16, size) for index in batch]
    assert sorted(seen) == list(range(IMAGES))


def test_every_epoch_and_seed_has_its_own_full_permutation() -> None:
    first, second, other = epoch_order(IMAGES, 0, 1), epoch_order(IMAGES, 0, 2), epoch_order(IMAGES, 1, 1)
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, other)
    # Not a window: what comes first is drawn from everywhere.
    assert np.abs(first - np.arange(IMAGES)).mean() > IMAGES / 5


def test_order_and_augmentation_draw_from_different_streams() -> None:
    draws = augmentation_draws(IMAGES, 0, 1, 1)[:, 0]
    assert not np.array_equal(np.argsort(draws), epoch_order(IMAGES, 0, 1))


def test_validation_begins_where_tensorflow_datasets_cuts() -> None:
    # tfds rounds a percentage boundary to the closest whole image: train[:85%] of 3,120 is 2,652.
    config = DataConfig(validation_fraction=0.15)
    assert validation_range(3120, config) == (2652, 3120)
    assert validation_range(3670, config) == (3120, 3670)


def test_test_images_are_apart_from_both() -> None:
    config = DataConfig(validation_fraction=0.15, test_fraction=0.15)
    assert validation_range(3120, config) == (2184, 2652)  # the rest is what others validate on
