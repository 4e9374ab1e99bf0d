"""Penalties of a model: those that one rank applies, whatever the ranks."""

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops, regularizers

from horovod_flowers.runtime.errors import UserError
from horovod_flowers.training.penalties import Penalties, adds_losses, kind_of, kinds_of_losses

IMAGES = np.random.default_rng(0).normal(size=(8, 6)).astype(np.float32)


class MeanSquare(regularizers.Regularizer):
    """Of a user's, that divides by the number of images."""

    def __call__(self, outputs: Any) -> Any:
        return ops.mean(ops.square(outputs))


class Spread(regularizers.Regularizer):
    """Of a user's, that compares images with each other."""

    def __call__(self, outputs: Any) -> Any:
        return ops.sum(ops.square(ops.sum(outputs, axis=0)))


class FarOnly(regularizers.Regularizer):
    """Of a user's, that leaves usual activations alone."""

    def __call__(self, outputs: Any) -> Any:
        return ops.sum(ops.relu(outputs - 100))


class Variance(regularizers.Regularizer):
    """Of a user's: twice the same images have the same one."""

    def __call__(self, outputs: Any) -> Any:
        return ops.sum(ops.var(outputs, axis=0))


def model_of(regularizer: Any) -> Any:
    keras.utils.set_random_seed(0)
    return keras.Sequential([layers.Input((6,)), layers.Dense(5, activity_regularizer=regularizer)])


def applied(regularizer: Any, size: int, counted: int = 8, steps: int = 1) -> float:
    """The mean over ranks of what each adds, in one of so many steps of an update."""
    model = model_of(regularizer)
    penalties, sums = Penalties(model, size), []
    for rank in range(size):
        part = slice(rank * 8 // size, (rank + 1) * 8 // size)
        # How much an image counts in the loss does not matter here.
        weights = tf.constant(np.where(np.arange(8) < counted, 1.5, 0).astype(np.float32)[part])
        shares = tf.constant([size / (counted * steps), 1 / steps], tf.float32)
        with penalties.counting(weights, shares):
            model(IMAGES[part])
            (penalty,) = penalties.of_step(shares)
        sums.append(float(penalty))
    return float(np.mean(sums))


def expected(regularizer: Any, counted: int = 8) -> float:
    """What Keras applies to the images that count."""
    model = model_of(regularizer)
    model(IMAGES[:counted])
    (penalty,) = model.losses
    return float(penalty)


@pytest.mark.parametrize("regularizer", [regularizers.L2(0.1), regularizers.L1(0.2), MeanSquare()])
@pytest.mark.parametrize("counted", [8, 7, 3])
@pytest.mark.parametrize("size", [1, 2, 4])
def test_the_ranks_apply_what_keras_applies_to_the_global_batch(regularizer: Any, counted: int, size: int) -> None:
    assert applied(regularizer, size, counted) == pytest.approx(expected(regularizer, counted), rel=1e-5)


def test_steps_of_one_update_add_up_as_one_larger_batch_does() -> None:
    assert 3 * applied(regularizers.L2(0.1), 2, steps=3) == pytest.approx(3 * expected(regularizers.L2(0.1)), rel=1e-5)
    assert 3 * applied(MeanSquare(), 2, steps=3) == pytest.approx(expected(MeanSquare()), rel=1e-5)


def test_what_compares_images_is_refused_at_more_than_one_rank() -> None:
    layer = model_of(Spread()).layers[0]
    assert kind_of(Spread(), layer) is None
    assert kind_of(FarOnly(), layer) is None  # of nothing nobody can tell
    assert kind_of(Variance(), layer) is None
    assert applied(Spread(), 1) == pytest.approx(expected(Spread()))
    with pytest.raises(UserError, match=r"activity regularizer Spread of layer \w+ is neither a sum over images nor"):
        Penalties(model_of(Spread()), 2)


def test_outside_of_a_step_a_model_has_its_own_penalties() -> None:
    model = model_of(regularizers.L2(0.1))
    Penalties(model, 2)
    Penalties(model, 4)  # another training step of the same model
    model(IMAGES)
    (penalty,) = model.losses
    assert float(penalty) == pytest.approx(expected(regularizers.L2(0.1)))


class Adding(layers.Layer):
    """Adds losses of its own: a sum over images, a mean, and, behind a dropout, something of both."""

    def __init__(self, *, noisy: bool = False) -> None:
        super().__init__(name="adding")
        self.dropout = layers.Dropout(0.5) if noisy else None

    def call(self, inputs: Any) -> Any:
        self.add_loss(ops.sum(ops.square(inputs)))
        self.add_loss(ops.mean(ops.square(inputs)))
        if self.dropout is not None:
            self.add_loss(ops.sum(self.dropout(inputs)))
        return inputs


def adding_model(**options: Any) -> Any:
    keras.utils.set_random_seed(0)
    dense = layers.Dense(5, kernel_regularizer="l2")
    first = [layers.Input((4, 4, 3)), layers.Flatten(), layers.Rescaling(1 / 255), layers.Dropout(0.0)]
    return keras.Sequential([*first, dense, layers.BatchNormalization(), Adding(**options)])


def test_losses_that_a_layer_adds_itself_are_tried_out() -> None:
    model = adding_model()
    before = [np.array(variable) for variable in model.variables]
    assert [layer.name for layer in model.layers if adds_losses(layer)] == ["adding"]
    assert kinds_of_losses(model) == ["sum", "mean", "mean"]  # the last: of the weights
    assert all(np.array_equal(now, then) for now, then in zip(model.variables, before, strict=True))
    penalties = Penalties(model, 2)
    assert penalties.notes == []
    shares = tf.constant([2 / 8, 1 / 2], tf.float32)
    images = np.random.default_rng(0).uniform(0, 255, (8, 4, 4, 3)).astype(np.float32)
    with penalties.counting(tf.ones(8), shares):
        outputs = np.array(model(images))
        total, mean, of_weights = penalties.of_step(shares)
    assert float(total) == pytest.approx(2 * float(np.square(outputs).sum()), rel=1e-5)
    assert float(mean) == pytest.approx(float(np.square(outputs).mean()) / 2, rel=1e-5)
    kernel = next(np.array(variable) for variable in model.variables if len(variable.shape) == 2)
    assert float(of_weights) == pytest.approx(0.01 * float(np.square(kernel).sum()) / 2, rel=1e-5)


class Balanced(layers.Layer):
    """Adds what compares images with each other, as routers of experts do: a square of a mean over images."""

    def call(self, inputs: Any) -> Any:
        self.add_loss(ops.sum(ops.square(ops.mean(inputs, axis=0))))
        return inputs


def test_a_loss_that_compares_images_is_averaged_and_named() -> None:
    first = [layers.Input((4, 4, 3)), layers.Flatten(), layers.Rescaling(1 / 255), layers.Dense(5)]
    penalties = Penalties(keras.Sequential([*first, Balanced(name="balanced")]), 2)
    assert penalties.notes == ["add_loss of balanced averaged over ranks"]


class Subclassed(keras.Model):
    """Adds a sum over images in its own call."""

    def __init__(self) -> None:
        super().__init__(name="subclassed")
        self.flatten, self.dense = layers.Flatten(), layers.Dense(5)

    def call(self, images: Any) -> Any:
        outputs = self.dense(self.flatten(images / 255))
        self.add_loss(ops.sum(ops.square(outputs)))
        return outputs


def test_a_subclassed_model_is_tried_out_at_the_size_of_its_images() -> None:
    model = Subclassed()
    model(np.zeros((1, 4, 4, 3), np.float32))
    assert kinds_of_losses(model) == []
    assert kinds_of_losses(model, image_size=4) == ["sum"]


def test_losses_that_are_neither_sums_nor_means_are_averaged_and_named() -> None:
    penalties = Penalties(adding_model(noisy=True), 2)
    assert penalties.notes == ["add_loss of adding averaged over ranks"]
    assert Penalties(adding_model(noisy=True), 1).notes == []
