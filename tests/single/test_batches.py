"""One rank's batches: contents, weights, augmentation, and the thread that reads ahead."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from horovod_flowers.config import DataConfig
from horovod_flowers.data.augment import DRAWS, Augmentation
from horovod_flowers.data.batches import Batch, Prefetcher, evaluation_batches, training_batches
from horovod_flowers.data.order import split
from horovod_flowers.data.prepared import Prepared, prepare
from horovod_flowers.data.sources import open_source

CONFIG = DataConfig(image_size=32, synthetic_images=60, validation_fraction=0.25)
AUGMENTATION = Augmentation(32, smallest_crop=0.75, stretch=1.5, rotation_degrees=20, recolour=0.2, erase=0.3)


@pytest.fixture(scope="module")
def prepared(prepared_folder: Path) -> Prepared:
    return prepare(prepared_folder, open_source(CONFIG), processes=1)


def batches(prepared: Prepared, rank: int, size: int, augmented: bool = False, epoch: int = 1) -> list[Batch]:
    return list(
        training_batches(
            prepared,
            split(prepared, CONFIG).training,
            global_batch=16,
            rank=rank,
            size=size,
            seed=0,
            epoch=epoch,
            augmentation=Augmentation.of(replace(CONFIG, augment=augmented)),
        )
    )


def global_images(prepared: Prepared, size: int, augmented: bool) -> np.ndarray:
    by_rank = [batches(prepared, rank, size, augmented) for rank in range(size)]
    return np.concatenate([by_rank[r][step].images for step in range(len(by_rank[0])) for r in range(size)])


@pytest.mark.parametrize("augmented", [False, True])
def test_pixels_are_the_same_at_any_number_of_ranks(prepared: Prepared, augmented: bool) -> None:
    alone = global_images(prepared, 1, augmented)
    assert np.array_equal(alone, global_images(prepared, 2, augmented))
    assert np.array_equal(alone, global_images(prepared, 4, augmented))


def test_augmentation_changes_images_and_changes_with_the_epoch(prepared: Prepared) -> None:
    plain, first = batches(prepared, 0, 1), batches(prepared, 0, 1, augmented=True)
    second = batches(prepared, 0, 1, augmented=True, epoch=2)
    assert (plain[0].images != first[0].images).mean() > 0.5
    assert (first[0].images != second[0].images).mean() > 0.5


def test_the_last_batch_keeps_its_shape_and_weighs_each_image_once(prepared: Prepared) -> None:
    training = len(split(prepared, CONFIG).training)
    assert training == 45
    for rank in range(4):
        assert [batch.images.shape for batch in batches(prepared, rank, 4)] == [(4, 32, 32, 3)] * 3
    last = [batches(prepared, rank, 4)[-1] for rank in range(4)]
    assert [batch.rank_images for batch in last] == [4, 4, 4, 1]
    assert {batch.global_images for batch in last} == {45 - 32}
    # What fills it up are images too: blanks would enter batch-normalisation statistics.
    assert all(batch.images.reshape(4, -1).std(axis=1).min() > 0 for batch in last)


def test_labels_belong_to_their_images(prepared: Prepared) -> None:
    by_bytes = {prepared.image(k).tobytes(): int(prepared.labels[k]) for k in range(len(prepared))}
    batch = batches(prepared, 1, 2)[0]
    assert [by_bytes[image.tobytes()] for image in batch.images] == batch.labels.tolist()


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_evaluation_sees_every_image_exactly_once(prepared: Prepared, size: int) -> None:
    validation = split(prepared, CONFIG).validation
    parts = [
        batch
        for rank in range(size)
        for batch in evaluation_batches(prepared, validation, batch=4, rank=rank, size=size)
    ]
    seen = sorted(image.tobytes() for b in parts for image in b.images[b.weights > 0])
    assert seen == sorted(prepared.image(int(k)).tobytes() for k in validation)


def test_flip_alone_mirrors_the_image_exactly() -> None:
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    flip_only = np.array([0.0, 1.0, 0.0, 0.0, *[0.5] * 9], np.float32)
    assert len(flip_only) == DRAWS
    assert np.abs(AUGMENTATION(image, flip_only).astype(int) - image[:, ::-1].astype(int)).max() <= 1
    untouched = np.array([0.9, 1.0, 0.0, 0.0, *[0.5] * 9], np.float32)
    assert np.abs(AUGMENTATION(image, untouched).astype(int) - image.astype(int)).max() <= 1


def test_colour_draws_brighten_and_darken() -> None:
    image = np.full((32, 32, 3), 100, np.uint8)
    brighter = AUGMENTATION(image, np.array([0.9, 1, 0, 0, 1.0, *[0.5] * 8], np.float32))
    darker = AUGMENTATION(image, np.array([0.9, 1, 0, 0, 0.0, *[0.5] * 8], np.float32))
    assert brighter.mean() == pytest.approx(120, abs=1)
    assert darker.mean() == pytest.approx(80, abs=1)


def test_errors_of_the_reading_thread_reach_the_reader() -> None:
    def failing() -> Iterator[Batch]:
        raise OSError("disk on fire")
        yield

    with pytest.raises(OSError, match="disk on fire"), Prefetcher(failing()) as ready:
        list(ready)


def test_leaving_early_ends_the_reading_thread(prepared: Prepared) -> None:
    many = (batch for _ in range(1000) for batch in batches(prepared, 0, 1))
    with Prefetcher(many) as ready:
        next(iter(ready))
    assert not ready._thread.is_alive()
