"""Users' models that go wrong: a loss that is no number for one image, weights that drift apart on one rank."""

import os
from typing import Any


def nan_for_one_image(image_size: int, classes: int) -> Any:
    """A small network that divides zero by zero for images whose pixels add up to $POISON."""
    import keras
    import tensorflow as tf
    from keras import layers

    class Divides(layers.Layer):
        def call(self, inputs: Any) -> Any:
            distance = tf.abs(tf.reduce_sum(inputs, [1, 2, 3], keepdims=True) - float(os.environ["POISON"]))
            return inputs * tf.math.divide(distance, distance)

    rest = [layers.Conv2D(4, 3, strides=4), layers.GlobalAveragePooling2D(), layers.Dense(classes)]
    return keras.Sequential([layers.Input((image_size, image_size, 3)), Divides(), *rest])


def drifting_on_rank_1(image_size: int, classes: int) -> Any:
    """A small network one of whose weights grows by a millionth in each step, on one rank alone."""
    import keras
    from keras import layers

    class Drifts(layers.Layer):
        def build(self, shape: Any) -> None:
            self.offset = self.add_weight(shape=(1,), initializer="zeros")

        def call(self, inputs: Any, training: bool = False) -> Any:
            if training and os.environ.get("OMPI_COMM_WORLD_RANK") == "1":
                self.offset.value.assign_add([1e-6])
            return inputs + self.offset

    rest = [layers.Conv2D(4, 3, strides=4), layers.GlobalAveragePooling2D(), layers.Dense(classes)]
    return keras.Sequential([layers.Input((image_size, image_size, 3)), Drifts(), *rest])
