"""A user's model whose steps take long enough that a signal finds it in the middle of an epoch."""

import os
import time
from pathlib import Path
from typing import Any


def slow_without_dropout(image_size: int, classes: int) -> Any:
    """The same, but all ranks together compute what one rank computes: no dropout, no statistics. Compiled."""
    import keras

    model = slow(image_size, classes, of_each_rank=False)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(1e-4, momentum=0.9), loss, metrics=[keras.metrics.SparseCategoricalAccuracy()])
    return model


def slow(image_size: int, classes: int, of_each_rank: bool = True) -> Any:
    """A small network with dropout and statistics, behind a layer that sleeps while it trains, or while file
    $SLOW_WHILE exists."""
    import keras
    import tensorflow as tf
    from keras import layers

    slow_while = os.environ.get("SLOW_WHILE")

    def pause(images: Any) -> Any:
        if slow_while is None or Path(slow_while).exists():
            time.sleep(0.5 if slow_while else 0.15)
        return images

    class Slow(layers.Layer):
        def call(self, inputs: Any, training: bool = False) -> Any:
            if not training:
                return inputs
            return tf.ensure_shape(tf.numpy_function(pause, [inputs], tf.float32), inputs.shape)

        def compute_output_spec(self, inputs: Any, training: bool = False) -> Any:
            return keras.KerasTensor(inputs.shape, inputs.dtype)

    rest = [layers.Conv2D(4, 3, strides=4), *([layers.BatchNormalization()] if of_each_rank else [])]
    rest += [layers.GlobalAveragePooling2D(), *([layers.Dropout(0.2)] if of_each_rank else []), layers.Dense(classes)]
    return keras.Sequential([layers.Input((image_size, image_size, 3)), Slow(), *rest])
