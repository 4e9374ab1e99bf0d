"""A script written for Horovod, under Keras 3: one line of it was changed, the import of hvd.

    mpirun -np 2 --bind-to none python examples/horovod_keras.py

It is Horovod's own example of Keras on digits, with digits that it draws itself, so that nothing is downloaded.
"""

import keras
import numpy as np
import tensorflow as tf

import horovod_flowers.keras as hvd  # was: import horovod.tensorflow.keras as hvd

SIDE, CLASSES = 28, 10


def draw_digits(images: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Images [images, 28, 28, 1] of blurred bars, one place and slope for each class, with noise; and their labels."""
    numbers = np.random.default_rng(seed)
    labels = numbers.integers(0, CLASSES, images)
    row, column = np.mgrid[0:SIDE, 0:SIDE]
    angle = labels[:, None, None] * np.pi / CLASSES
    distance = (row - SIDE / 2) * np.cos(angle) + (column - SIDE / 2) * np.sin(angle)
    bars = np.exp(-(distance**2) / 8) + numbers.normal(0, 0.3, distance.shape)
    return bars[..., None].astype(np.float32), labels


# Horovod: start it, one process for each core or GPU.
hvd.init()

gpus = tf.config.experimental.list_physical_devices("GPU")
for gpu in gpus:
    tf.config.experimental.set_memory_growth(gpu, True)
if gpus:
    tf.config.experimental.set_visible_devices(gpus[hvd.local_rank()], "GPU")

# Each rank draws images of its own, from a seed of its own.
images, labels = draw_digits(2048, seed=hvd.rank())
dataset = tf.data.Dataset.from_tensor_slices((images, labels))
dataset = dataset.repeat().shuffle(2048, seed=hvd.rank()).batch(32)

model = keras.Sequential(
    [
        keras.Input((SIDE, SIDE, 1)),
        keras.layers.Conv2D(16, 3, 2, activation="relu"),
        keras.layers.Conv2D(32, 3, 2, activation="relu"),
        keras.layers.GlobalAveragePooling2D(),
        keras.layers.Dropout(0.1),
        keras.layers.Dense(CLASSES, activation="softmax"),
    ]
)

# Horovod: scale the learning rate by the number of ranks, and wrap the optimizer.
scaled_lr = 0.003 * hvd.size()
opt = keras.optimizers.Adam(scaled_lr)
opt = hvd.DistributedOptimizer(opt)
model.compile(loss="sparse_categorical_crossentropy", optimizer=opt, metrics=["accuracy"])

callbacks = [
    # Horovod: the same weights on all ranks, before the first batch.
    hvd.callbacks.BroadcastGlobalVariablesCallback(0),
    # Horovod: metrics of all ranks, before callbacks that decide by them.
    hvd.callbacks.MetricAverageCallback(),
    # Horovod: a learning rate that grows from that of one rank to the scaled one.
    hvd.callbacks.LearningRateWarmupCallback(initial_lr=scaled_lr, warmup_epochs=2, verbose=1),
]

# Horovod: save checkpoints on one rank only.
if hvd.rank() == 0:
    callbacks.append(keras.callbacks.ModelCheckpoint("checkpoint-{epoch}.keras"))

# Horovod: write logs on one rank only.
verbose = 2 if hvd.rank() == 0 else 0

# Horovod: the more ranks, the fewer steps.
model.fit(dataset, steps_per_epoch=64 // hvd.size(), callbacks=callbacks, epochs=4, verbose=verbose)

if hvd.rank() == 0:
    loss, accuracy = model.evaluate(*draw_digits(512, seed=1000), verbose=0)
    print(f"{hvd.size()} ranks: accuracy {accuracy:.3f} on images that no rank has seen", flush=True)
