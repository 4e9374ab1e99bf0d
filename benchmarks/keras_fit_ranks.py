"""A notebook's loop on all ranks: Keras' model.fit in fp32 with Adam, through horovod_flowers.start and distribute.

mpirun -np 2 --bind-to none python benchmarks/keras_fit_ranks.py --strategy sharded --output FOLDER
"""

import peer

import horovod_flowers


def main():
    options = peer.arguments(__doc__, strategy=["allreduce", "sharded", "tensor", "none"])
    ranks = horovod_flowers.start(threads=1)
    import keras
    import tensorflow as tf

    model = peer.flower_cnn(keras)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=keras.optimizers.Adam(0.001), loss=loss, metrics=["accuracy"])
    ranks.distribute(model, strategy=options.strategy)
    steps = options.warmup_steps + options.steps
    dataset = tf.data.Dataset.from_tensors(peer.images(0, options.batch * ranks.size)).cache().repeat()
    clock = peer.Clock()
    timing = keras.callbacks.LambdaCallback(on_train_batch_end=lambda *_, **__: clock.step())
    model.fit(dataset, steps_per_epoch=steps, epochs=1, callbacks=[timing], verbose=0)
    clock.write(options, ranks.rank, ranks.size, {"keras": keras.__version__, "tensorflow": tf.__version__})


if __name__ == "__main__":
    main()
