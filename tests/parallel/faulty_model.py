"""A user's model whose layer goes wrong on one rank, in a later step, in the way that $FAULT says."""

import os
import resource
import time
from pathlib import Path
from typing import Any

SOUND_CALLS = 9
"""A look at the model before training, and an epoch of six steps and two batches to validate on."""


def hang(images: Any) -> Any:
    """Never return."""
    while True:
        time.sleep(3600)


def use_up_memory(images: Any) -> Any:
    """Ask for more than the process may have."""
    import numpy as np

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 2**26, resource.RLIM_INFINITY))
    return np.ones(2**30, np.float32)


def leave(images: Any) -> Any:
    """End this rank alone, without a word to MPI."""
    os._exit(0)


FAULTS = {"hang": hang, "memory": use_up_memory, "leave": leave}


def faulty(image_size: int, classes: int) -> Any:
    """A small network behind the layer that goes wrong."""
    import keras
    import tensorflow as tf
    from keras import layers

    calls = 0

    def pass_on(images: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > SOUND_CALLS and os.environ["OMPI_COMM_WORLD_RANK"] == os.environ["FAULTY_RANK"]:
            return FAULTS[os.environ["FAULT"]](images)
        return images

    class Faulty(layers.Layer):
        def call(self, inputs: Any) -> Any:
            return tf.ensure_shape(tf.numpy_function(pass_on, [inputs], tf.float32), inputs.shape)

        def compute_output_spec(self, inputs: Any) -> Any:
            return keras.KerasTensor(inputs.shape, inputs.dtype)

    rest = [layers.Conv2D(4, 3, strides=4), layers.GlobalAveragePooling2D(), layers.Dense(classes)]
    return keras.Sequential([layers.Input((image_size, image_size, 3)), Faulty(), *rest])
