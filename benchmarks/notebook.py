"""What most people run on tf_flowers: a notebook's loop. One process, all cores, fp32, photos decoded in every epoch.

TFDS_DATA_DIR=FOLDER python benchmarks/notebook.py --epochs 10 --seed 0

The flower CNN through Keras fit: tf.data decodes and resizes on all cores, batch 32, Adam, no augmentation. Prints a
JSON line with the validation accuracy after every epoch and the seconds of training until then (validation left out).
"""

import argparse
import json
import os
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import tensorflow as tf
import tensorflow_datasets as tfds

from horovod_flowers.model.registry import build_model

SIZE, BATCH = 180, 32


class EpochSeconds(keras.callbacks.Callback):
    """Seconds of training in each epoch, the validation after it left out."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []

    def on_epoch_begin(self, epoch: int, logs: object = None) -> None:
        self._started = time.monotonic()

    def on_test_begin(self, logs: object = None) -> None:
        self.seconds.append(time.monotonic() - self._started)


def main() -> None:
    parser = argparse.ArgumentParser(description=next(iter((__doc__ or "").splitlines()), ""), allow_abbrev=False)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    keras.utils.set_random_seed(asked.seed)
    (training, validation), info = tfds.load(
        "tf_flowers", split=["train[:85%]", "train[85%:]"], download=False, as_supervised=True, with_info=True
    )

    def resized(image: tf.Tensor, label: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return tf.image.resize(image, (SIZE, SIZE)), label

    def batches(photos: tf.data.Dataset) -> tf.data.Dataset:
        return photos.map(resized, num_parallel_calls=tf.data.AUTOTUNE).batch(BATCH).prefetch(tf.data.AUTOTUNE)

    model = build_model("flower_cnn", SIZE, info.features["label"].num_classes)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer="adam", loss=loss, metrics=["accuracy"])
    clock = EpochSeconds()
    fitted = model.fit(
        batches(training.shuffle(1000, seed=asked.seed)),
        validation_data=batches(validation),
        epochs=asked.epochs,
        callbacks=[clock],
        verbose=0,
    )
    seconds = [sum(clock.seconds[: epoch + 1]) for epoch in range(asked.epochs)]
    accuracies = [float(accuracy) for accuracy in fitted.history["val_accuracy"]]
    json.dump({"training_seconds": seconds, "validation_accuracy": accuracies}, sys.stdout)
    print()


if __name__ == "__main__":
    main()
