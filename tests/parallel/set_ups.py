"""Models and training set-ups of the kinds that people bring: what `model.fit` has to train on N ranks as on one.

Each is a function that returns a compiled model with its data. None draws random numbers while it trains and none but
those with `synchronized=True` normalise over a batch: what these do by nature is tested elsewhere.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops

from horovod_flowers.fit.model import StrategyChoice

CLASSES = 5
ROWS, BATCH = 20, 8
"""Two whole global batches and one of four rows."""
FEW = 8
"""Rows, in one global batch, for large models."""


@dataclass(frozen=True)
class SetUp:
    """A compiled model, and what its `fit` is given."""

    model: Any
    x: Any
    y: Any
    batch: int = BATCH
    options: dict[str, Any] = field(default_factory=dict)
    strategies: tuple[StrategyChoice, ...] = ("allreduce",)
    distribute: dict[str, Any] = field(default_factory=dict)
    """Further options of `distribute`."""
    is_large: bool = False
    """Whether building and tracing it takes so long that it is only trained."""
    grows_rounding: bool = False
    """Whether rounding grows so much on the way through its layers that one rank trains another thing if the rows of a
    batch come in another order."""


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    """fp32 in -1..1."""
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


def labels(rows: int, classes: int = CLASSES) -> np.ndarray:
    """int32 [rows]."""
    return np.random.default_rng(1).integers(0, classes, rows).astype(np.int32)


def classifier(model: Any, optimizer: Any = "sgd", **options: Any) -> Any:
    """Compiled for integer labels."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=optimizer, loss=loss, metrics=["accuracy"], **options)
    return model


def application(make: Callable[..., Any], **options: Any) -> SetUp:
    """A Keras application on small images, its batch normalisation over the images of all ranks."""
    model = make(weights=None, input_shape=(32, 32, 3), classes=CLASSES, classifier_activation=None, **options)
    normalised = [layer for layer in model.layers if isinstance(layer, layers.BatchNormalization)]
    for layer in normalised:
        layer.synchronized = True
    for layer in model.layers:
        if isinstance(layer, layers.Dropout):
            layer.rate = 0.0
    classifier(model, keras.optimizers.SGD(1e-5))
    rows = noise(FEW, 32, 32, 3)
    return SetUp(model, rows, labels(FEW), FEW, is_large=True, grows_rounding=bool(normalised))


def mobilenet_v2() -> SetUp:
    """Depthwise convolutions."""
    return application(keras.applications.MobileNetV2, alpha=0.35)


def efficientnet_v2_b0() -> SetUp:
    """Squeeze and excitation."""
    return application(keras.applications.EfficientNetV2B0)


def resnet50() -> SetUp:
    """Residual blocks."""
    return application(keras.applications.ResNet50)


def densenet121() -> SetUp:
    """Hundreds of concatenations and of batch normalisations."""
    return application(keras.applications.DenseNet121)


def convnext_tiny() -> SetUp:
    """Layer normalisation, layer scale, GELU."""
    return application(keras.applications.ConvNeXtTiny)


class Patches(layers.Layer):
    """Images -> sequences of flattened patches."""

    def __init__(self, size: int, **options: Any) -> None:
        super().__init__(**options)
        self.size = size

    def call(self, images: Any) -> Any:
        """[n, h, w, c] -> [n, patches, size * size * c]."""
        patches = ops.image.extract_patches(images, self.size)
        return ops.reshape(patches, (-1, patches.shape[1] * patches.shape[2], patches.shape[3]))


class Positions(layers.Layer):
    """Adds a learned vector for each place of a sequence."""

    def build(self, shape: Any) -> None:
        """shape: [n, places, width]."""
        self.vectors = self.add_weight(shape=shape[1:], initializer="random_normal", name="vectors")

    def call(self, sequence: Any) -> Any:
        """The sum."""
        return sequence + self.vectors


def vision_transformer() -> SetUp:
    """Patches, learned positions, attention."""
    images = keras.Input((16, 16, 3))
    x = Positions()(layers.Dense(24)(Patches(4)(images)))
    for _ in range(2):
        normed = layers.LayerNormalization()(x)
        x = x + layers.MultiHeadAttention(3, 8, use_bias=False)(normed, normed)  # a key's bias has no gradient
        x = x + layers.Dense(24)(layers.Dense(48, activation="gelu")(layers.LayerNormalization()(x)))
    outputs = layers.Dense(CLASSES)(layers.GlobalAveragePooling1D()(layers.LayerNormalization()(x)))
    optimizer = keras.optimizers.AdamW(1e-3, weight_decay=0.01)
    model = classifier(keras.Model(images, outputs), optimizer)
    return SetUp(model, noise(ROWS, 16, 16, 3), labels(ROWS), strategies=("allreduce", "sharded"))


def mlp_mixer() -> SetUp:
    """Dense layers over places and over channels in turn."""
    images = keras.Input((16, 16, 3))
    x = layers.Dense(24)(Patches(4)(images))
    for _ in range(2):
        places = layers.Permute((2, 1))(layers.LayerNormalization()(x))
        x = x + layers.Permute((2, 1))(layers.Dense(16)(layers.Dense(32, activation="gelu")(places)))
        x = x + layers.Dense(24)(layers.Dense(48, activation="gelu")(layers.LayerNormalization()(x)))
    outputs = layers.Dense(CLASSES)(layers.GlobalAveragePooling1D()(x))
    model = classifier(keras.Model(images, outputs), keras.optimizers.Adam(1e-3))
    return SetUp(model, noise(ROWS, 16, 16, 3), labels(ROWS), strategies=("allreduce", "sharded"))


def conv_mixer() -> SetUp:
    """Depthwise and pointwise convolutions with synchronised batch normalisation."""
    images = keras.Input((16, 16, 3))
    x = layers.Conv2D(16, 4, strides=4, activation="gelu")(images)
    for _ in range(2):
        mixed = layers.DepthwiseConv2D(3, padding="same", activation="gelu")(x)
        x = x + layers.BatchNormalization(synchronized=True)(mixed)
        x = layers.BatchNormalization(synchronized=True)(layers.Conv2D(16, 1, activation="gelu")(x))
    outputs = layers.Dense(CLASSES)(layers.GlobalAveragePooling2D()(x))
    model = classifier(keras.Model(images, outputs), keras.optimizers.SGD(0.01, momentum=0.9, nesterov=True))
    return SetUp(model, noise(ROWS, 16, 16, 3), labels(ROWS))


def text_lstm() -> SetUp:
    """An embedding, whose gradients are sparse, and a bidirectional LSTM."""
    model = keras.Sequential(
        [layers.Input((6,)), layers.Embedding(600, 8), layers.Bidirectional(layers.LSTM(6)), layers.Dense(CLASSES)]
    )
    words = np.random.default_rng(2).integers(0, 20, (ROWS, 6))
    optimizer = keras.optimizers.RMSprop(1e-3, global_clipnorm=0.5)
    return SetUp(classifier(model, optimizer), words, labels(ROWS), strategies=("allreduce", "sharded"))


def language_model() -> SetUp:
    """A causal transformer: one label for each place, tied weights."""
    words = keras.Input((7,), dtype="int32")
    embedding = layers.ReversibleEmbedding(40, 12)
    x = Positions()(embedding(words))
    normed = layers.LayerNormalization()(x)
    x = x + layers.MultiHeadAttention(2, 6, use_bias=False)(normed, normed, use_causal_mask=True)
    model = classifier(keras.Model(words, embedding(x, reverse=True)), keras.optimizers.Adam(1e-3, global_clipnorm=0.5))
    text = np.random.default_rng(3).integers(0, 40, (ROWS, 8))
    return SetUp(model, text[:, :-1], text[:, 1:])


def autoencoder() -> SetUp:
    """Images from images, with transposed convolutions."""
    model = keras.Sequential(
        [
            layers.Input((8, 8, 3)),
            layers.Conv2D(8, 3, strides=2, padding="same", activation="relu"),
            layers.Conv2DTranspose(8, 3, strides=2, padding="same", activation="relu"),
            layers.Conv2D(3, 3, padding="same"),
        ]
    )
    model.compile(keras.optimizers.Adamax(1e-3), loss="mse", metrics=["mae"])
    images = noise(ROWS, 8, 8, 3)
    return SetUp(model, images, images)


def segmentation() -> SetUp:
    """A small U-Net: a label for each pixel."""
    images = keras.Input((8, 8, 3))
    fine = layers.Conv2D(8, 3, padding="same", activation="relu")(images)
    coarse = layers.Conv2D(8, 3, padding="same", activation="relu")(layers.MaxPooling2D()(fine))
    x = layers.Concatenate()([fine, layers.UpSampling2D()(coarse)])
    model = classifier(keras.Model(images, layers.Conv2D(CLASSES, 1)(x)), keras.optimizers.Nadam(1e-3))
    pixels = np.random.default_rng(4).integers(0, CLASSES, (ROWS, 8, 8))
    return SetUp(model, noise(ROWS, 8, 8, 3), pixels)


def siamese() -> SetUp:
    """Two inputs through one network."""
    shared = keras.Sequential([layers.Input((12,)), layers.Dense(8, activation="tanh")])
    first, second = keras.Input((12,), name="first"), keras.Input((12,), name="second")
    outputs = layers.Dense(1, activation="sigmoid")(ops.abs(shared(first) - shared(second)))
    model = keras.Model({"first": first, "second": second}, outputs)
    model.compile(keras.optimizers.Adagrad(0.01), loss="binary_crossentropy", metrics=["AUC", "accuracy"])
    x = {"first": noise(ROWS, 12), "second": noise(ROWS, 12, seed=5)}
    return SetUp(model, x, labels(ROWS, 2).reshape(-1, 1).astype(np.float32))


def several_outputs() -> SetUp:
    """Two losses with weights, one of them weighted by row."""
    inputs = keras.Input((12,))
    x = layers.Dense(16, activation="relu")(inputs)
    outputs = {"kind": layers.Dense(CLASSES, name="kind")(x), "size": layers.Dense(1, name="size")(x)}
    model = keras.Model(inputs, outputs)
    losses = {"kind": keras.losses.SparseCategoricalCrossentropy(from_logits=True), "size": "mse"}
    model.compile(
        keras.optimizers.Lion(1e-3),
        loss=losses,
        loss_weights={"kind": 0.3, "size": 2.0},
        metrics={"kind": ["accuracy"], "size": ["mae"]},
    )
    y = {"kind": labels(ROWS), "size": noise(ROWS, 1, seed=6)}
    return SetUp(model, noise(ROWS, 12), y)


def weighted_rows() -> SetUp:
    """sample_weight, and metrics with and without it."""
    model = keras.Sequential([layers.Input((12,)), layers.Dense(1)])
    model.compile("adam", loss="huber", metrics=["mse"], weighted_metrics=["mae"])
    weights = np.random.default_rng(7).uniform(0, 2, ROWS).astype(np.float32)
    return SetUp(model, noise(ROWS, 12), noise(ROWS, 1, seed=8), options={"sample_weight": weights})


def weighted_classes() -> SetUp:
    """class_weight."""
    model = classifier(keras.Sequential([layers.Input((12,)), layers.Dense(CLASSES)]), keras.optimizers.Ftrl(0.01))
    return SetUp(model, noise(ROWS, 12), labels(ROWS), options={"class_weight": {0: 3.0, 1: 0.5, 2: 1, 3: 1, 4: 2}})


def multi_label() -> SetUp:
    """Several labels a row."""
    model = keras.Sequential([layers.Input((12,)), layers.Dense(CLASSES, activation="sigmoid")])
    model.compile("adam", loss="binary_focal_crossentropy", metrics=[keras.metrics.F1Score(threshold=0.5), "Precision"])
    y = (noise(ROWS, CLASSES, seed=9) > 0).astype(np.float32)
    return SetUp(model, noise(ROWS, 12), y)


def tabular() -> SetUp:
    """Numbers and categories."""
    numbers, category = keras.Input((6,), name="numbers"), keras.Input((1,), dtype="int32", name="category")
    normalised = layers.Normalization(mean=0.1, variance=0.5)(numbers)
    coded = layers.CategoryEncoding(num_tokens=4, output_mode="one_hot")(category)
    x = layers.Dense(16, activation="relu")(layers.Concatenate()([normalised, coded]))
    model = keras.Model({"numbers": numbers, "category": category}, layers.Dense(1)(x))
    model.compile(keras.optimizers.Adadelta(0.1), loss="mae", metrics=["r2_score"])
    x = {"numbers": noise(ROWS, 6), "category": labels(ROWS, 4).reshape(-1, 1)}
    return SetUp(model, x, noise(ROWS, 1, seed=10))


def transfer() -> SetUp:
    """A frozen base inside of the model, and a head."""
    base = keras.Sequential([layers.Input((8, 8, 3)), layers.Conv2D(8, 3), layers.BatchNormalization()], name="base")
    base.trainable = False
    images = keras.Input((8, 8, 3))
    outputs = layers.Dense(CLASSES)(layers.GlobalAveragePooling2D()(base(images, training=False)))
    return SetUp(classifier(keras.Model(images, outputs), "adam"), noise(ROWS, 8, 8, 3), labels(ROWS))


def video() -> SetUp:
    """Convolutions in three dimensions, and one for each frame."""
    model = keras.Sequential(
        [
            layers.Input((4, 8, 8, 2)),
            layers.TimeDistributed(layers.Conv2D(4, 3, activation="relu")),
            layers.Conv3D(4, 2, activation="relu"),
            layers.GlobalAveragePooling3D(),
            layers.Dense(CLASSES),
        ]
    )
    return SetUp(classifier(model), noise(ROWS, 4, 8, 8, 2), labels(ROWS))


class Residual(keras.Model):
    """A subclassed model, built by its first batch."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = [layers.Dense(12, activation="relu", kernel_regularizer="l2") for _ in range(2)]
        self.last = layers.Dense(CLASSES)

    def call(self, rows: Any) -> Any:
        """[n, 12] -> [n, classes]."""
        for layer in self.hidden:
            rows = rows + layer(rows)
        return self.last(rows)


def subclassed() -> SetUp:
    """Not built before `fit`, with a penalty."""
    return SetUp(classifier(Residual(), keras.optimizers.Adam(1e-3, clipnorm=0.1)), noise(ROWS, 12), labels(ROWS))


class Distilled(keras.Model):
    """A student that learns from a frozen teacher in a train_step of its own."""

    def __init__(self, student: Any, teacher: Any) -> None:
        super().__init__()
        self.student, self.teacher = student, teacher
        teacher.trainable = False

    def call(self, rows: Any, training: bool = False) -> Any:
        """The student's."""
        return self.student(rows, training=training)

    def train_step(self, data: Any) -> Any:
        """Half of the loss from the labels, half from the teacher."""
        x, y = data
        with tf.GradientTape() as tape:
            outputs, wanted = self.student(x, training=True), self.teacher(x, training=False)
            loss = 0.5 * self.compute_loss(x, y, outputs) + 0.5 * ops.mean(ops.square(outputs - wanted))
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
        for metric in self.metrics:
            if metric.name == "loss":
                metric.update_state(loss, sample_weight=tf.shape(x)[0])
            else:
                metric.update_state(y, outputs)
        return {metric.name: metric.result() for metric in self.metrics}


def distillation() -> SetUp:
    """A train_step of the user's."""
    student = keras.Sequential([layers.Input((12,)), layers.Dense(8, activation="relu"), layers.Dense(CLASSES)])
    teacher = keras.Sequential([layers.Input((12,)), layers.Dense(32, activation="relu"), layers.Dense(CLASSES)])
    return SetUp(classifier(Distilled(student, teacher), "adam"), noise(ROWS, 12), labels(ROWS))


def schedule_and_average() -> SetUp:
    """A schedule of learning rates, weights averaged over steps, gradients added up over two of them."""
    rates = keras.optimizers.schedules.CosineDecay(0.01, 6)
    optimizer = keras.optimizers.SGD(rates, momentum=0.9, use_ema=True, ema_overwrite_frequency=2)
    model = keras.Sequential([layers.Input((12,)), layers.Dense(16, activation="tanh"), layers.Dense(CLASSES)])
    return SetUp(classifier(model, optimizer), noise(ROWS, 12), labels(ROWS))


def accumulated() -> SetUp:
    """An update every two batches."""
    optimizer = keras.optimizers.Adam(0.01, gradient_accumulation_steps=2)
    model = keras.Sequential([layers.Input((12,)), layers.Dense(CLASSES)])
    return SetUp(classifier(model, optimizer), noise(ROWS, 12), labels(ROWS))


def constrained() -> SetUp:
    """A constraint and a spectral norm: weights that have to stay whole."""
    model = keras.Sequential(
        [
            layers.Input((12,)),
            layers.SpectralNormalization(layers.Dense(16, activation="relu")),
            layers.Dense(CLASSES, kernel_constraint=keras.constraints.MaxNorm(0.5)),
        ]
    )
    return SetUp(classifier(model, "adam"), noise(ROWS, 12), labels(ROWS), strategies=("allreduce", "sharded"))


def several_steps_a_call() -> SetUp:
    """steps_per_execution."""
    model = keras.Sequential([layers.Input((12,)), layers.Dense(CLASSES)])
    return SetUp(classifier(model, "adam", steps_per_execution=2), noise(ROWS, 12), labels(ROWS))


def wide() -> SetUp:
    """A Dense layer that is worth dividing."""
    model = keras.Sequential([layers.Input((64,)), layers.Dense(128, activation="relu"), layers.Dense(CLASSES)])
    strategies: tuple[StrategyChoice, ...] = ("allreduce", "sharded", "tensor")
    large = {"shard_above": 4096}
    return SetUp(classifier(model, "adam"), noise(ROWS, 64), labels(ROWS), strategies=strategies, distribute=large)


SET_UPS: dict[str, Callable[[], SetUp]] = {
    make.__name__: make
    for make in (
        *(mobilenet_v2, efficientnet_v2_b0, resnet50, densenet121, convnext_tiny),
        *(vision_transformer, mlp_mixer, conv_mixer, text_lstm, language_model, autoencoder, segmentation, siamese),
        *(several_outputs, weighted_rows, weighted_classes, multi_label, tabular, transfer, video, subclassed),
        *(distillation, schedule_and_average, accumulated, constrained, several_steps_a_call, wide),
    )
}
