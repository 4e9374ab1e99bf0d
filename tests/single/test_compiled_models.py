"""Compiled models: their losses are Keras' own, to rounding; what cannot be followed is refused in a sentence."""

from fnmatch import fnmatch
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from horovod_flowers.config.run import ModelConfig, RunConfig
from horovod_flowers.model.registry import build_whole
from horovod_flowers.runtime.errors import UserError
from horovod_flowers.training.recipe import Recipe, recipe_of
from tests.single import compiled_models
from tests.single.compiled_models import REFUSED, REFUSED_OF_TWO_CLASSES

SIZE = 32
IMAGES = np.random.default_rng(3).integers(0, 256, (4, SIZE, SIZE, 3)).astype(np.float32)
MODULE = compiled_models.__name__


def recipe(name: str, classes: int = 5, overrides: str = "", **options: Any) -> Recipe:
    config = RunConfig(model=ModelConfig(f"{MODULE}:{name}", overrides=overrides), **options)
    return recipe_of(config, build_whole(config.model.name, SIZE, classes), classes, weighted=False, divided=False)


ONE_HOT = ("scheduled", "own_parts", "focal", "added_up", "one_sum")


@pytest.mark.parametrize(
    ("name", "classes"),
    [
        *((name, 5) for name in ("clipped", *ONE_HOT, "one_number", "by_name", "without_loss")),
        ("unit", 2),
        ("unit_of_logits", 2),
    ],
)
def test_the_gradients_of_a_compiled_loss_are_keras_own(name: str, classes: int) -> None:
    """Of what Keras computes from the model as it was compiled, on four images."""
    raw = getattr(compiled_models, name)(SIZE, classes)
    if name == "without_loss":
        raw.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    labels = np.arange(4, dtype=np.int32) % classes
    truth: Any = keras.utils.to_categorical(labels, classes) if name in ONE_HOT else labels
    truth = labels[:, None].astype(np.float32) if classes == 2 else truth
    with tf.GradientTape() as tape:
        loss = raw.compute_loss(IMAGES, tf.constant(truth), raw(IMAGES, training=True))
    wanted = tape.gradient(loss, [variable.value for variable in raw.trainable_variables])

    built = build_whole(f"{MODULE}:{name}", SIZE, classes)
    chosen = recipe(name, classes)
    with tf.GradientTape() as tape:
        losses = chosen.loss.of_images(labels, built.model(IMAGES, training=True))
        total = tf.reduce_sum(losses) if chosen.loss.added_up else tf.reduce_mean(losses)
    found = tape.gradient(total, [variable.value for variable in built.model.trainable_variables])
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", [*REFUSED, *REFUSED_OF_TWO_CLASSES])
def test_what_a_model_is_compiled_with_is_followed_or_refused_in_one_sentence(name: str) -> None:
    with pytest.raises(UserError) as error:
        recipe(name, 2 if name in REFUSED_OF_TWO_CLASSES else 5)
    said, wanted = str(error.value), {**REFUSED, **REFUSED_OF_TWO_CLASSES}[name]
    assert fnmatch(said, f"*{wanted.replace('[', '[[]')}*"), said
    assert "\n" not in said
