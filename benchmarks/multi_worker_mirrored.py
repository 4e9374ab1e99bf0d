"""TensorFlow's own data parallelism (tensorflow.org, 'Multi-worker training with Keras'): MultiWorkerMirroredStrategy
with ring collectives, under tf-keras.

    mpirun -np 2 --bind-to none python benchmarks/multi_worker_mirrored.py --output FOLDER
"""

import json
import os
import time

import peer

os.environ["TF_USE_LEGACY_KERAS"] = "1"
FIRST_PORT = 29700


def main():
    options = peer.arguments(__doc__)
    rank, size = peer.place()
    workers = [f"127.0.0.1:{FIRST_PORT + worker}" for worker in range(size)]
    os.environ["TF_CONFIG"] = json.dumps({"cluster": {"worker": workers}, "task": {"type": "worker", "index": rank}})
    import tensorflow as tf
    import tf_keras as keras

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(2)
    ring = tf.distribute.experimental.CommunicationOptions(
        implementation=tf.distribute.experimental.CommunicationImplementation.RING
    )
    strategy = tf.distribute.MultiWorkerMirroredStrategy(communication_options=ring)
    with strategy.scope():
        model = peer.flower_cnn(keras)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(optimizer=keras.optimizers.Adam(0.001), loss=loss, metrics=["accuracy"])
    steps = options.warmup_steps + options.steps
    own = tf.data.Dataset.from_tensors(peer.images(rank, options.batch)).cache().repeat()
    distributed = strategy.distribute_datasets_from_function(lambda _: own)
    clock = peer.Clock()
    timing = keras.callbacks.LambdaCallback(on_batch_end=lambda *_, **__: clock.step())
    model.fit(distributed, steps_per_epoch=steps, epochs=1, callbacks=[timing], verbose=0)
    clock.write(options, rank, size, {"tf-keras": keras.__version__, "tensorflow": tf.__version__})
    # TensorFlow's coordination service would wait for minutes for workers that have ended.
    time.sleep(2)
    os._exit(0)


if __name__ == "__main__":
    main()
