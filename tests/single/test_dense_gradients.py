"""Which training steps can take the gradients of all ranks from a Dense layer, and what keeps others from it."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from horovod_flowers.fit.dense_gradients import why_not_in_step

FEATURES, CLASSES, ROWS = 6, 3, 4
CHANGED = "the step changes its gradient, or reads its kernel elsewhere, too"


class Model(keras.Model):
    """A large layer and a small one, and in `gradients` what a test case does with them."""

    def __init__(self, gradients: Callable[..., Any]) -> None:
        super().__init__()
        self.hidden = keras.layers.Dense(8, activation="tanh", kernel_regularizer="l2")
        self.head, self.gradients = keras.layers.Dense(CLASSES), gradients

    def call(self, inputs: Any) -> Any:
        return self.head(self.hidden(inputs))

    def loss_of(self, x: Any, y: Any) -> Any:
        return self.compute_loss(x=x, y=y, y_pred=self(x))

    def train_step(self, data: Any) -> Any:
        gradients = self.gradients(self, *data)
        self.optimizer.apply(gradients, self.trainable_variables)
        return {}


def plain(model: Model, x: Any, y: Any) -> Any:
    with tf.GradientTape() as tape:
        loss = model.loss_of(x, y)
    return tape.gradient(loss, model.trainable_variables)


def two_calls(model: Model, x: Any, y: Any) -> Any:
    with tf.GradientTape() as tape:
        loss = model.loss_of(x, y) + tf.reduce_mean(model(0.5 * x))
    return tape.gradient(loss, model.trainable_variables)


def cut_off(model: Model, x: Any, y: Any) -> Any:
    return tf.clip_by_global_norm(plain(model, x, y), 1.0)[0]


def with_penalty(model: Model, x: Any, y: Any) -> Any:
    with tf.GradientTape() as tape:
        loss = model.loss_of(x, y) + tf.nn.l2_loss(model.hidden.kernel)
    return tape.gradient(loss, model.trainable_variables)


def multiplied_again(model: Model, x: Any, y: Any) -> Any:
    with tf.GradientTape() as tape:
        loss = model.loss_of(x, y) + tf.reduce_mean(tf.matmul(x, model.hidden.kernel))
    return tape.gradient(loss, model.trainable_variables)


def of_the_gradient(model: Model, x: Any, y: Any) -> Any:
    with tf.GradientTape() as tape:
        with tf.GradientTape() as inner:
            inner.watch(x)
            outputs = model(x)
        loss = model.loss_of(x, y) + tf.reduce_mean(tf.square(inner.gradient(outputs, x)))
    return tape.gradient(loss, model.trainable_variables)


def in_a_branch(model: Model, x: Any, y: Any) -> Any:
    with tf.GradientTape() as tape:
        loss = tf.cond(tf.reduce_sum(x) > 0, lambda: model.loss_of(x, y), lambda: tf.zeros([]))
    return tape.gradient(loss, model.trainable_variables)


def in_a_loop(model: Model, x: Any, y: Any) -> Any:
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(tf.map_fn(lambda row: model(row[None])[0], x)) + 0.0 * model.loss_of(x, y)
    return tape.gradient(loss, model.trainable_variables)


def of_the_head(model: Model, x: Any, y: Any) -> Any:
    return [None, None, *plain(model, x, y)[2:]]


def raises(model: Model, x: Any, y: Any) -> Any:
    float(x[0, 0])
    return plain(model, x, y)


@pytest.mark.parametrize(
    ("gradients", "reason"),
    [
        (plain, None),
        (two_calls, None),
        (cut_off, CHANGED),
        (with_penalty, CHANGED),
        (multiplied_again, CHANGED),
        (of_the_gradient, "differentiated twice"),
        (in_a_branch, "called in a branch, a loop or a function of the step"),
        (in_a_loop, "called in a branch, a loop or a function of the step"),
        (of_the_head, "not updated by the step"),
        (raises, "the step could not be traced"),
    ],
)
def test_a_step_of_the_users_own(gradients: Callable[..., Any], reason: str | None) -> None:
    model = Model(gradients)
    model.compile(keras.optimizers.Adam(), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    assert reason_of(model, model.hidden) == reason


def test_the_step_of_keras() -> None:
    hidden = keras.layers.Dense(8, kernel_regularizer="l2")
    model = keras.Sequential([keras.Input((FEATURES,)), hidden, keras.layers.Dropout(0.5), keras.layers.Dense(CLASSES)])
    scaled = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1))
    model.compile(scaled, keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    assert reason_of(model, hidden) is None


def reason_of(model: Any, layer: Any) -> str | None:
    """Leaves the model as it was."""
    x = tf.constant(np.random.default_rng(0).normal(size=(ROWS, FEATURES)), tf.float32)
    model(x)
    kind, weights, known = type(model.optimizer), model.get_weights(), set(vars(layer))
    regularizer = layer.kernel.regularizer
    found = why_not_in_step(model, (x, tf.constant([0, 1, 2, 0])), [layer])
    assert type(layer) is keras.layers.Dense
    assert set(vars(layer)) == known
    assert layer.kernel.regularizer is regularizer
    assert type(model.optimizer) is kind
    assert not model.optimizer.built
    for weight, before in zip(model.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(weight, before)
    return found.get(id(layer))
