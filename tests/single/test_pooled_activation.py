"""ReLU behind max pooling computes the same as before it."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from horovod_flowers.model.pooled_activation import move_relu_behind_pooling, relu_behind_pooling
from horovod_flowers.model.registry import build_model


def outputs_and_gradients(model: Any) -> list[np.ndarray]:
    images = tf.constant(np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3)).astype(np.float32))
    with tf.GradientTape() as tape:
        outputs = model(images, training=True)
        loss = tf.reduce_sum(outputs * outputs)
    gradients = tape.gradient(loss, [variable.value for variable in model.trainable_variables])
    return [outputs.numpy(), *(gradient.numpy() for gradient in gradients)]


def test_outputs_and_gradients_stay_the_same() -> None:
    keras.utils.set_random_seed(0)
    model = build_model("flower_cnn", 32, 5)
    before = outputs_and_gradients(model)
    assert len(move_relu_behind_pooling(model)) == 3
    after = outputs_and_gradients(model)
    assert [type(layer).__name__ for layer in model.layers].count("PoolingThenReLU") == 3
    assert np.array_equal(before[0], after[0])
    for one, other in zip(before[1:], after[1:], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5 * np.abs(one).max())


def test_a_call_with_relu_behind_pooling_leaves_the_model_as_it_was() -> None:
    model = build_model("flower_cnn", 32, 5)
    before = [(type(layer), getattr(layer, "activation", None)) for layer in model.layers]
    with relu_behind_pooling(model):
        assert [type(layer).__name__ for layer in model.layers].count("PoolingThenReLU") == 3
    assert [(type(layer), getattr(layer, "activation", None)) for layer in model.layers] == before


def test_only_what_nobody_else_looks_at_is_moved() -> None:
    inputs = layers.Input((32, 32, 3))
    seen = layers.Conv2D(4, 3, activation="relu", name="seen")(inputs)  # another pooling sees it before pooling
    pooled = layers.Concatenate()([layers.MaxPooling2D()(seen), layers.AveragePooling2D(2)(seen)])
    output = layers.Conv2D(4, 3, activation="relu", name="output")(pooled)  # an output of the model itself
    smooth = layers.Conv2D(4, 3, activation="gelu", name="smooth")(pooled)  # not monotonic
    moved = layers.MaxPooling2D()(layers.Conv2D(4, 3, activation="relu", name="moved")(pooled))
    after = [layers.MaxPooling2D()(output), layers.MaxPooling2D()(smooth), moved]
    model = keras.Model(inputs, [output, *after])
    assert move_relu_behind_pooling(model) == ["moved"]


def test_values_that_somebody_else_looks_at_stay_where_they_are() -> None:
    class Peeking(layers.Layer):
        """Calls parts of a model itself."""

        def __init__(self, inner: Any) -> None:
            super().__init__()
            self.inner = inner

        def call(self, inputs: Any) -> Any:
            return self.inner(inputs) + keras.ops.mean(self.inner.layers[0](inputs))

    def convolution(name: str, **options: Any) -> Any:
        return layers.Conv2D(4, 3, activation="relu", name=name, **options)

    inputs = layers.Input((32, 32, 3))
    x = layers.MaxPooling2D()(convolution("penalised", activity_regularizer="l2")(inputs))
    inner = keras.Sequential([layers.Input((15, 15, 4)), convolution("peeked_at"), layers.MaxPooling2D()])
    x = Peeking(inner)(x)
    nested = keras.Sequential([layers.Input((6, 6, 4)), convolution("nested"), layers.MaxPooling2D()])
    model = keras.Model(inputs, nested(x))
    assert move_relu_behind_pooling(model) == ["nested"]
