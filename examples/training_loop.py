"""A training loop of one's own on any number of ranks: ranks.shard divides the batches, an optimizer of
horovod_flowers.keras combines the gradients.

    python examples/training_loop.py
    mpirun -np 2 --bind-to none python examples/training_loop.py
"""

import horovod_flowers

ranks = horovod_flowers.start()

import keras  # noqa: E402
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402

import horovod_flowers.keras as hvd  # noqa: E402

GLOBAL_BATCH, EPOCHS = 64, 3

hvd.init()
keras.utils.set_random_seed(0)
random = np.random.default_rng(0)
rows = random.normal(size=(1000, 20)).astype(np.float32)
labels = (rows[:, :5].argmax(1)).astype(np.int32)

model = keras.Sequential([keras.Input((20,)), keras.layers.Dense(64, activation="relu"), keras.layers.Dense(5)])
loss_of = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
optimizer = hvd.DistributedOptimizer(keras.optimizers.Adam(0.01))
optimizer.build(model.trainable_variables)
hvd.broadcast_variables([*model.variables, *optimizer.variables], root_rank=0)

# Every rank gives the same dataset of global batches; the last one of 40 rows is divided, too.
dataset = tf.data.Dataset.from_tensor_slices((rows, labels)).shuffle(1000, seed=0).batch(GLOBAL_BATCH)
parts = ranks.shard(dataset, with_share=True)


@tf.function
def step(images: tf.Tensor, targets: tf.Tensor, share: tf.Tensor) -> tf.Tensor:
    """One update; this rank's part of the mean loss over the global batch."""
    with tf.GradientTape() as tape:
        loss = loss_of(targets, model(images, training=True)) * share
    optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)
    return loss


for epoch in range(EPOCHS):
    losses = [float(step(images, targets, share)) for (images, targets), share in parts]
    mean = hvd.allreduce(np.mean(losses, dtype=np.float64), name="epoch_loss")  # over ranks
    if ranks.is_root:
        print(f"epoch {epoch + 1}: mean loss of a batch {float(mean):.6f}", flush=True)
