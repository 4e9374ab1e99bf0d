"""How much an image counts: by its class, by a CSV; in the loss alone, at any number of ranks."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from horovod_flowers.config.data import DataConfig
from horovod_flowers.data.batches import training_batches
from horovod_flowers.data.image_weights import image_weights
from horovod_flowers.data.order import split
from horovod_flowers.data.prepared import Prepared, prepare
from horovod_flowers.data.sources import open_source
from horovod_flowers.runtime.errors import UserError


def config(photos: Path, **options: object) -> DataConfig:
    return DataConfig(source="folder", path=str(photos), image_size=24, **options)  # type: ignore[arg-type]


def prepared_from(folder: Path, chosen: DataConfig) -> Prepared:
    return prepare(folder / "prepared", open_source(chosen), processes=1)


def test_balanced_classes_count_alike(tmp_path: Path, write_photos: Callable[..., Path]) -> None:
    """As scikit-learn's compute_class_weight('balanced'), over the training images alone."""
    from sklearn.utils.class_weight import compute_class_weight

    chosen = config(write_photos(red=30, blue=6), class_weights="balanced", validation_fraction=0.25)
    prepared = prepared_from(tmp_path, chosen)
    training = split(prepared, chosen).training
    weights = image_weights(prepared, training, chosen)
    assert weights is not None
    labels = prepared.labels[training]
    of_class = compute_class_weight("balanced", classes=np.array([0, 1]), y=labels)
    np.testing.assert_allclose(weights[training], of_class[labels], rtol=1e-6)
    assert weights[training].mean() == pytest.approx(1)
    assert image_weights(prepared, training, config(Path(str(chosen.path)))) is None


def test_any_number_of_ranks_gives_an_image_the_same_weight(tmp_path: Path, write_photos: Callable[..., Path]) -> None:
    chosen = config(write_photos(red=9, blue=4), class_weights="balanced")
    prepared = prepared_from(tmp_path, chosen)
    training = split(prepared, chosen).training
    weights = image_weights(prepared, training, chosen)
    assert weights is not None
    for size in (1, 3):
        seen: dict[int, float] = {}
        counted = 0
        for rank in range(size):
            for batch in training_batches(
                prepared,
                training,
                global_batch=6,
                rank=rank,
                size=size,
                seed=0,
                epoch=1,
                augmentation=None,
                image_weights=weights,
            ):
                counted += batch.rank_images
                there = batch.weights > 0
                assert there.sum() == batch.rank_images
                seen |= dict(zip(batch.indices[there].tolist(), batch.weights[there].tolist(), strict=True))
        assert counted == len(training)
        assert seen == {int(index): float(weights[index]) for index in training}


def test_a_class_without_training_images_cannot_be_balanced(tmp_path: Path, write_photos: Callable[..., Path]) -> None:
    chosen = config(write_photos(red=9, blue=4), class_weights="balanced")
    prepared = prepared_from(tmp_path, chosen)
    with pytest.raises(UserError, match="class 'red' has no training image"):
        image_weights(prepared, np.flatnonzero(prepared.labels == 0), chosen)


def test_weights_from_a_csv(tmp_path: Path, write_photos: Callable[..., Path]) -> None:
    photos = write_photos(red=4, blue=4)
    (photos / "red" / "001.jpg").write_bytes(b"")
    table = tmp_path / "weights.csv"
    table.write_text("file,weight\nred/000.jpg,2.5\nred/001.jpg,9\nred/002.jpg,0.5\nunknown.jpg,3\n")
    chosen = config(photos, sample_weights=str(table))
    prepared = prepared_from(tmp_path, chosen)
    assert prepared.weights is not None
    assert prepared.weights.tolist() == [1, 1, 1, 1, 2.5, 0.5, 1]
    both = image_weights(prepared, np.arange(7), config(photos, sample_weights=str(table), class_weights="balanced"))
    assert both is not None
    np.testing.assert_allclose(both, np.array([7 / 8] * 4 + [7 / 6 * 2.5, 7 / 6 * 0.5, 7 / 6]), rtol=1e-6)
    # Other weights are another set: a run is not resumed with them.
    plain = prepared_from(tmp_path, config(photos))
    assert (plain.weights, plain.digest == prepared.digest) == (None, False)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("file,weight\nred/000.jpg,0\n", "line 2 of .* has the weight '0': give a number above 0"),
        ("file,weight\nred/000.jpg,-1\n", "has the weight '-1'"),
        ("file,weight\nred/000.jpg,inf\n", "has the weight 'inf'"),
        ("file,weight\nred/000.jpg,heavy\n", "has the weight 'heavy'"),
        ("file,label\nred/000.jpg,1\n", "name the columns file and weight"),
        ("file,weight\nother.jpg,1\n", "names none of the photos in"),
    ],
)
def test_what_is_no_weight_is_refused(tmp_path: Path, write_photos: Callable[..., Path], text: str, said: str) -> None:
    table = tmp_path / "weights.csv"
    table.write_text(text)
    with pytest.raises(UserError, match=said):
        open_source(config(write_photos(red=2, blue=2), sample_weights=str(table)))


def test_weights_count_in_the_loss_alone() -> None:
    """Keras' own loss with sample_weight, over as many images."""
    import keras
    import tensorflow as tf

    from horovod_flowers.config.optimizer import OptimizerConfig
    from horovod_flowers.data.batches import Batch
    from horovod_flowers.strategy.allreduce import OneRank
    from horovod_flowers.strategy.layout import Groups
    from horovod_flowers.training.optimizer import build_over, make_optimizer
    from horovod_flowers.training.step import TrainingStep, Update

    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.layers.Input((4, 4, 3)), keras.layers.Flatten(), keras.layers.Dense(3)])
    random = np.random.default_rng(0)
    images = random.integers(0, 9, (6, 4, 4, 3), dtype=np.uint8)
    labels, weights = random.integers(0, 3, 6).astype(np.int32), np.array([2, 0.5, 1, 0.1, 3, 0], np.float32)
    logits = model(images.astype(np.float32))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)(labels[:5], logits[:5], weights[:5])
    hits = int((np.argmax(logits, -1) == labels)[:5].sum())
    strategy = OneRank(Groups())
    from horovod_flowers.checkpoint.model_state import ModelState

    ModelState(model, strategy)
    optimizer = make_optimizer(OptimizerConfig())
    build_over(optimizer, strategy.optimizer_variables, [part.shape for part in strategy.parts])
    outcome = TrainingStep(model, optimizer, strategy, 1, "fp32")(
        Batch(images, labels, weights, 5, np.arange(6)), 0.001, Update(5)
    )
    assert outcome.loss_sum / 5 == pytest.approx(float(tf.convert_to_tensor(loss)), rel=1e-5)
    assert outcome.correct == hits
