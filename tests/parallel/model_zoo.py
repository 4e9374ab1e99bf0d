"""Small models of every build that a strategy must cope with, as users write them: function(image_size, classes)."""

from typing import Any

import numpy as np


def uneven(image_size: int, classes: int) -> Any:
    """Inputs that no number of ranks divides; penalties on weights; a layer without bias or activation."""
    from keras import Sequential, layers, regularizers

    return Sequential(
        [
            layers.Input((image_size, image_size, 3)),
            layers.Rescaling(1 / 255),
            layers.Conv2D(5, 3, strides=3, activation="relu", kernel_regularizer=regularizers.L2(0.01)),
            layers.Flatten(),
            layers.Dense(211, activation="tanh", kernel_regularizer=regularizers.L2(0.02)),
            layers.Dense(67, use_bias=False, kernel_regularizer=regularizers.L1(0.001)),
            layers.Dense(classes),
        ]
    )


def functional(image_size: int, classes: int) -> Any:
    """A nested model, a Dense layer that is used twice, and one that sees sequences."""
    import keras
    from keras import layers

    inputs = layers.Input((image_size, image_size, 3))
    scaled = layers.Rescaling(1 / 255)(inputs)
    rows = layers.Reshape((image_size, image_size * 3))(scaled)
    rows = layers.Dense(40, activation="tanh", name="on_sequences")(rows)
    twice = layers.Dense(40, activation="tanh", name="twice")
    inner = keras.Sequential([layers.Input((image_size * 40,)), layers.Dense(60, activation="tanh")], name="inner")
    outputs = layers.Dense(classes)(inner(layers.Flatten()(twice(twice(rows)))))
    return keras.Model(inputs, outputs)


def subclassed(image_size: int, classes: int) -> Any:
    """A model in its own code, whose layers nobody else can follow."""
    import keras
    from keras import layers

    class Own(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.flatten, self.large = layers.Flatten(), layers.Dense(64, activation="tanh", name="large")
            self.last = layers.Dense(classes)
            self.output_shape = (None, classes)

        def call(self, inputs: Any) -> Any:
            return self.last(self.large(self.flatten(inputs / 255)))

    model = Own()
    model(np.zeros((1, image_size, image_size, 3), np.float32))
    return model


def looked_at(image_size: int, classes: int) -> Any:
    """Weights that more than the optimizer looks at, penalties on activations, statistics over the whole batch."""
    import keras
    from keras import constraints, layers, ops, regularizers

    class Clipping(layers.Layer):
        """Keeps its weights in bounds itself."""

        def build(self, shape: Any) -> None:
            self.matrix = self.add_weight(shape=(shape[-1], 70), name="matrix", initializer="glorot_uniform")

        def call(self, inputs: Any) -> Any:
            self.matrix.assign(ops.clip(self.matrix, -0.1, 0.1))
            return ops.matmul(inputs, self.matrix)

    class Tied(layers.Layer):
        """Goes back through the kernel of another layer."""

        def __init__(self, dense: Any) -> None:
            super().__init__()
            self.dense = dense

        def call(self, inputs: Any) -> Any:
            return ops.matmul(inputs, ops.transpose(self.dense.kernel))

    class Whitening(layers.Layer):
        """Takes statistics of the batch itself."""

        def call(self, inputs: Any, training: bool = False) -> Any:
            if not training:
                return inputs
            mean, variance = ops.moments(inputs, axes=0, keepdims=True, synchronized=True)
            return (inputs - mean) / ops.sqrt(variance + 0.1)

    inputs = layers.Input((image_size, image_size, 3))
    x = layers.Conv2D(6, 3, strides=3, activation="relu", activity_regularizer=regularizers.L2(0.001))(inputs / 255)
    x = layers.MaxPooling2D(2)(x)
    x = layers.BatchNormalization(momentum=0.5, synchronized=True)(x)
    x = layers.Flatten()(x)
    x = layers.Dense(120, activation="tanh", kernel_constraint=constraints.MaxNorm(0.5))(x)
    x = layers.SpectralNormalization(layers.Dense(90))(layers.ActivityRegularization(l1=0.001)(x))
    x = Clipping()(x)
    encoder = layers.Dense(80, activation="tanh")
    x = Whitening()(Tied(encoder)(encoder(x)))
    x = layers.Dense(65, activation="tanh", activity_regularizer=regularizers.L1(0.002), name="divided")(x)
    return keras.Model(inputs, layers.Dense(classes)(x))


def without_dense(image_size: int, classes: int) -> Any:
    """Nothing for 'tensor' to divide."""
    from keras import Sequential, layers

    pooled = [layers.GlobalAveragePooling2D(), layers.Activation("linear")]
    return Sequential([layers.Input((image_size, image_size, 3)), layers.Conv2D(classes, 3), *pooled])
