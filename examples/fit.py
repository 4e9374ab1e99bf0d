"""An ordinary Keras script, trained on all ranks: the lines that are not in a script for one process are marked.

    python examples/fit.py
    mpirun -np 2 --bind-to none python examples/fit.py --epochs 3
    python -m horovod_flowers.study jobs/script.yaml            at 1, 2 and more ranks, measured

Its images are drawn, so that nothing is downloaded.
"""

import argparse

import horovod_flowers  # added

ranks = horovod_flowers.start()  # added: before TensorFlow computes anything

import keras  # noqa: E402
import numpy as np  # noqa: E402


def make_model() -> keras.Model:
    """A small convolutional network for grey images of [28, 28, 1] and ten classes."""
    return keras.Sequential(
        [
            keras.layers.Input((28, 28, 1)),
            keras.layers.Conv2D(16, 3, activation="relu"),
            keras.layers.MaxPooling2D(),
            keras.layers.Conv2D(32, 3, activation="relu"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )


def make_images(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Noise with a bright bar whose place is the class: float32 [count, 28, 28, 1], and int64 [count]."""
    random = np.random.default_rng(seed)
    images, labels = random.random((count, 28, 28, 1), np.float32), random.integers(0, 10, count)
    for image, label in zip(images, labels, strict=True):
        image[4 + 2 * label : 6 + 2 * label, 4:24] += 1
    return images, labels


def main() -> None:
    """Train and evaluate."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch", type=int, default=64, help="images of a step, over all ranks")
    parser.add_argument("--images", type=int, default=2048)
    parser.add_argument("--strategy", default="allreduce")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    keras.utils.set_random_seed(options.seed)
    images, labels = make_images(options.images, options.seed)
    model = make_model()
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    ranks.distribute(model, strategy=options.strategy)  # added
    model.fit(images, labels, batch_size=options.batch, epochs=options.epochs, verbose=2)


if __name__ == "__main__":
    main()
