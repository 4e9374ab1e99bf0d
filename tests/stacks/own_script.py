"""A person's own script, on all ranks: Keras is imported before anything of ours.

    mpirun -np 2 python own_script.py

Prints on rank 0 the loss of each epoch, as JSON.
"""

import json

import keras
import numpy as np

import horovod_flowers

ranks = horovod_flowers.start()


def main() -> None:
    """Train a small network on drawn images."""
    keras.utils.set_random_seed(0)
    layers = keras.layers
    model = keras.Sequential(
        [
            layers.Input((12, 12, 1)),
            layers.Conv2D(4, 3, activation="relu"),
            layers.BatchNormalization(),
            layers.Flatten(),
            layers.Dense(3, activation="softmax"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    ranks.distribute(model)
    random = np.random.default_rng(0)
    images, labels = random.random((96, 12, 12, 1), np.float32), random.integers(0, 3, 96)
    history = model.fit(images, labels, batch_size=16, epochs=2, verbose=0)
    if ranks.rank == 0:
        print(json.dumps(history.history["loss"]))


main()
