"""One rank's batches: contents, weights, augmentation, and the thread that reads ahead."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from horovod_flowers.config.data import DataConfig
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


@pytest.mark.parametrize("size", [3, 17])  # 17 ranks share 16 images: one has none
def test_ranks_that_do_not_divide_the_batch_fill_theirs_up(prepared: Prepared, size: int) -> None:
    alone = batches(prepared, 0, 1)
    by_rank = [batches(prepared, rank, size) for rank in range(size)]
    for step, whole in enumerate(alone):
        parts = [own[step] for own in by_rank]
        assert {part.images.shape for part in parts} == {(-(-16 // size), 32, 32, 3)}
        counted = np.concatenate([part.images[part.weights == 1] for part in parts])
        assert np.array_equal(counted, whole.images[whole.weights == 1])
        assert {part.global_images for part in parts} == {whole.rank_images}


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


def test_the_middle_of_the_draws_changes_nothing_but_the_crop() -> None:
    """A turn of 0, no stretch, nothing erased: half-way draws of an odd-sized image give its middle back."""
    image = np.random.default_rng(1).integers(0, 256, (33, 33, 3), dtype=np.uint8)
    draws = np.array([0.9, 0.0, 0.5, 0.5, *[0.5] * 9], np.float32)
    cropped = replace(AUGMENTATION, size=11, smallest_crop=1 / 3)(image, draws)
    assert cropped.shape == (11, 11, 3)
    assert np.array_equal(cropped, image[11:22, 11:22])


@pytest.mark.parametrize(("turn", "quarters"), [(1.0, 1), (0.0, -1)])
def test_a_quarter_turn_is_numpys(turn: float, quarters: int) -> None:
    image = np.random.default_rng(2).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    draws = np.array([0.9, 1.0, 0.5, 0.5, *[0.5] * 4, turn, *[0.5] * 4], np.float32)
    turned = replace(AUGMENTATION, size=24, rotation_degrees=90)(image, draws)
    assert np.abs(turned.astype(int) - np.rot90(image, quarters).astype(int)).max() <= 1


def test_stretched_crops_are_narrower_or_lower() -> None:
    """Columns brighten by 1 a pixel: their step in the result tells how wide the crop was."""
    image = np.repeat(np.arange(100, dtype=np.uint8)[None, :, None].repeat(100, axis=0), 3, axis=2)
    steps = []
    for stretch in (0.0, 0.5, 1.0):
        draws = np.array([0.9, 0.0, 0.5, 0.5, *[0.5] * 3, stretch, *[0.5] * 5], np.float32)
        result = replace(AUGMENTATION, size=50, smallest_crop=0.5, stretch=1.44)(image, draws)
        steps.append((int(result[25, -1, 0]) - int(result[25, 0, 0])) / 49)
    assert steps == pytest.approx([1 / 1.2, 1.0, 1.2], abs=0.03)


def test_as_many_images_as_asked_have_a_grey_square_of_a_fifth_to_two_fifths() -> None:
    random = np.random.default_rng(3)
    image = np.full((50, 50, 3), 10, np.uint8)
    augmentation = Augmentation(50, smallest_crop=1, stretch=1, rotation_degrees=0, recolour=0, erase=0.25)
    edges = [np.sqrt((augmentation(image, random.random(DRAWS)) == 128).all(axis=2).sum()) for _ in range(400)]
    erased = [edge for edge in edges if edge]
    assert len(erased) / len(edges) == pytest.approx(0.25, abs=0.08)
    assert min(erased) == pytest.approx(10, abs=1)
    assert max(erased) == pytest.approx(20, abs=1)


def test_training_images_have_the_size_of_the_crops(prepared: Prepared) -> None:
    cropped = replace(CONFIG, augment=True, crop_size=24)
    training = split(prepared, CONFIG).training
    options: dict[str, Any] = {"global_batch": 16, "rank": 0, "size": 1, "seed": 0, "epoch": 1}
    first = next(training_batches(prepared, training, augmentation=Augmentation.of(cropped), **options))
    assert first.images.shape == (16, 24, 24, 3)
    (whole, *_) = evaluation_batches(prepared, training, batch=16, rank=0, size=1)
    assert whole.images.shape == (16, 32, 32, 3)


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
