"""The loop of a notebook: one process, Keras' own model.fit in fp32 with stock Adam, on one core or on all.

python benchmarks/keras_fit.py --cores one --output FOLDER
"""

import os

import peer


def main():
    options = peer.arguments(__doc__, cores=["one", "all"])
    if options.cores == "one":
        peer.place()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import keras
    import tensorflow as tf

    if options.cores == "one":
        tf.config.threading.set_intra_op_parallelism_threads(1)
    model = peer.flower_cnn(keras)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=keras.optimizers.Adam(0.001), loss=loss, metrics=["accuracy"])
    steps = options.warmup_steps + options.steps
    dataset = tf.data.Dataset.from_tensors(peer.images(0, options.batch)).cache().repeat()
    clock = peer.Clock()
    timing = keras.callbacks.LambdaCallback(on_train_batch_end=lambda *_, **__: clock.step())
    model.fit(dataset, steps_per_epoch=steps, epochs=1, callbacks=[timing], verbose=0)
    clock.write(options, 0, 1, {"keras": keras.__version__, "tensorflow": tf.__version__})


if __name__ == "__main__":
    main()
