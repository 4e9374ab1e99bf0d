"""Horovod's Keras pattern (horovod/horovod, examples/tensorflow2/tensorflow2_keras_mnist.py): DistributedOptimizer and
the broadcast callback, under tf-keras (Keras 2), which it needs.

    mpirun -np 2 --bind-to none python benchmarks/horovod_keras.py --output FOLDER
"""

import os
import sys

import peer

os.environ["TF_USE_LEGACY_KERAS"] = "1"


def main():
    options = peer.arguments(__doc__)
    rank, size = peer.place()
    import tensorflow as tf
    import tf_keras as keras

    # Horovod imports its callbacks' backend from the package keras, which is Keras 3 here and lacks what they call.
    sys.modules["keras"] = keras
    import horovod.tensorflow.keras as hvd

    hvd.init()
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(2)
    model = peer.flower_cnn(keras)
    optimizer = hvd.DistributedOptimizer(keras.optimizers.Adam(0.001 * size))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=optimizer, loss=loss, metrics=["accuracy"])
    steps = options.warmup_steps + options.steps
    dataset = tf.data.Dataset.from_tensors(peer.images(rank, options.batch)).cache().repeat()
    clock = peer.Clock()
    timing = keras.callbacks.LambdaCallback(on_batch_end=lambda *_, **__: clock.step())
    callbacks = [hvd.callbacks.BroadcastGlobalVariablesCallback(0), hvd.callbacks.MetricAverageCallback(), timing]
    model.fit(dataset, steps_per_epoch=steps, epochs=1, callbacks=callbacks, verbose=0)
    clock.write(options, rank, size, {"tf-keras": keras.__version__, "tensorflow": tf.__version__})


if __name__ == "__main__":
    main()
