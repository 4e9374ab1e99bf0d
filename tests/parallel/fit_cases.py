"""Models and training set-ups for `fit`, each of which has to train on several ranks what it trains on one.

A case builds and compiles its model, and tells what it is trained on. Tiny: what is compared is arithmetic.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers, losses, optimizers, regularizers

ROWS, BATCH, FEATURES, CLASSES = 37, 9, 6, 3
"""Five steps in an epoch, the last of a single row: one rank of two has none."""


@dataclass(frozen=True)
class Case:
    """One set-up."""

    build: Callable[[], Any]
    """A compiled model."""
    data: Callable[[], dict[str, Any]]
    """Arguments of fit."""
    strategies: tuple[str, ...] = ("allreduce",)
    options: dict[str, Any] = field(default_factory=dict)
    """Of distribute."""


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def rows() -> dict[str, Any]:
    return {"x": noise(ROWS, FEATURES), "y": np.random.default_rng(1).integers(0, CLASSES, ROWS)}


def weighted_rows() -> dict[str, Any]:
    return rows() | {"sample_weight": np.random.default_rng(2).uniform(0.1, 3, ROWS).astype(np.float32)}


def images() -> dict[str, Any]:
    return rows() | {"x": noise(ROWS, 6, 6, 2)}


def weighted_images() -> dict[str, Any]:
    return images() | {"sample_weight": weighted_rows()["sample_weight"]}


def sentences() -> dict[str, Any]:
    words = np.random.default_rng(3).integers(1, 11, (ROWS, 7))
    lengths = np.random.default_rng(4).integers(1, 8, ROWS)
    words[np.arange(7) >= lengths[:, None]] = 0  # padding, which is masked
    return {"x": words, "y": np.random.default_rng(5).integers(0, CLASSES, (ROWS, 7))}


def sparse_loss(**options: Any) -> Any:
    return losses.SparseCategoricalCrossentropy(from_logits=True, **options)


def head() -> Any:
    return layers.Dense(CLASSES)


def sequential(optimizer: Any = None, loss: Any = None, hidden: Any = None, **options: Any) -> Any:
    model = keras.Sequential([keras.Input((FEATURES,)), hidden or layers.Dense(8, activation="tanh"), head()])
    # Eagerly unless told otherwise: tracing a graph takes longer than all ten steps.
    model.compile(optimizer or optimizers.SGD(0.1), loss or sparse_loss(), **{"run_eagerly": True, **options})
    return model


def unbuilt() -> Any:
    model = keras.Sequential([layers.Dense(8, activation="tanh"), head()])
    model.compile(optimizers.Adam(0.01), sparse_loss(), metrics=["accuracy"])
    return model


def functional() -> Any:
    inputs = keras.Input((FEATURES,))
    hidden = layers.Dense(FEATURES, activation="tanh")
    outputs = head()(layers.Add()([hidden(hidden(inputs)), inputs]))
    model = keras.Model(inputs, outputs)
    model.compile(optimizers.Adam(0.01), sparse_loss(), metrics=["accuracy"])
    return model


class Subclassed(keras.Model):
    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.head = layers.Dense(8, activation="tanh"), head()

    def call(self, inputs: Any, training: bool = False) -> Any:
        return self.head(self.hidden(inputs))


def subclassed(kind: Any = Subclassed, **options: Any) -> Any:
    model = kind()
    model.compile(optimizers.Adam(0.01), sparse_loss(), **options)
    return model


class OwnStep(Subclassed):
    """A train_step in the words of Keras' guide."""

    def train_step(self, data: Any) -> Any:
        x, y = data
        with tf.GradientTape() as tape:
            y_pred = self(x, training=True)
            loss = self.compute_loss(y=y, y_pred=y_pred)
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
        for metric in self.metrics:
            if metric.name == "loss":
                metric.update_state(loss)
            else:
                metric.update_state(y, y_pred)
        return {metric.name: metric.result() for metric in self.metrics}


class OwnTracker(Subclassed):
    """A train_step with a loss and metrics of its own, that updates some of its weights only."""

    def __init__(self) -> None:
        super().__init__()
        self.tracker = keras.metrics.Mean(name="own_loss")

    @property
    def metrics(self) -> list[Any]:
        return [self.tracker]

    def train_step(self, data: Any) -> Any:
        x, y = data
        with tf.GradientTape() as tape:
            logits = self(x, training=True)
            loss = tf.reduce_mean(keras.losses.sparse_categorical_crossentropy(y, logits, from_logits=True))
        weights = self.head.trainable_variables
        self.optimizer.apply(tape.gradient(loss, weights), weights)
        self.tracker.update_state(loss, sample_weight=tf.shape(x)[0])
        return {"own_loss": self.tracker.result()}


class OwnLoss(Subclassed):
    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> Any:
        return super().compute_loss(x, y, y_pred, sample_weight) + 0.1 * tf.reduce_mean(tf.square(y_pred))


def several() -> Any:
    one, other = keras.Input((FEATURES,), name="one"), keras.Input((2,), name="other")
    hidden = layers.Concatenate()([layers.Dense(5, activation="tanh")(one), other])
    outputs = {"classes": layers.Dense(CLASSES, name="classes")(hidden), "value": layers.Dense(1, name="value")(hidden)}
    model = keras.Model({"one": one, "other": other}, outputs)
    model.compile(
        optimizers.Adam(0.01),
        loss={"classes": sparse_loss(), "value": losses.MeanSquaredError(reduction="sum")},
        loss_weights={"classes": 1.0, "value": 0.1},
        metrics={"classes": ["accuracy"]},
    )
    return model


def several_rows() -> dict[str, Any]:
    data = rows()
    return {
        "x": {"one": data["x"], "other": noise(ROWS, 2, seed=6)},
        "y": {"classes": data["y"], "value": noise(ROWS, 1, seed=7)},
    }


def listed() -> Any:
    one, other = keras.Input((FEATURES,)), keras.Input((2,))
    hidden = layers.Concatenate()([layers.Dense(5, activation="tanh")(one), other])
    model = keras.Model([one, other], [head()(hidden), layers.Dense(1)(hidden)])
    model.compile(optimizers.SGD(0.05), loss=[sparse_loss(), "mse"])
    return model


def listed_rows() -> dict[str, Any]:
    data = several_rows()
    return {"x": list(data["x"].values()), "y": list(data["y"].values())}


def frozen() -> Any:
    below = layers.Dense(8, activation="tanh")
    below.trainable = False
    return sequential(optimizers.Adam(0.01), hidden=below)


def nested() -> Any:
    inner = keras.Sequential([keras.Input((FEATURES,)), layers.Dense(8, activation="tanh"), layers.Dense(4)])
    other = Subclassed()
    inputs = keras.Input((FEATURES,))
    model = keras.Model(inputs, layers.Add()([head()(inner(inputs)), other(inputs)]))
    model.compile(optimizers.Adam(0.01), sparse_loss())
    return model


def synchronised() -> Any:
    model = keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            layers.Conv2D(4, 3, use_bias=False),
            layers.BatchNormalization(synchronized=True),
            layers.Activation("tanh"),
            layers.GlobalAveragePooling2D(),
            head(),
        ]
    )
    model.compile(optimizers.SGD(0.1), sparse_loss())
    return model


def spectral() -> Any:
    return sequential(hidden=layers.SpectralNormalization(layers.Dense(8, activation="tanh")))


def normalised() -> Any:
    model = keras.Sequential(
        [keras.Input((6, 6, 2)), layers.Conv2D(4, 3), layers.LayerNormalization(), layers.Flatten(), head()]
    )
    model.compile(optimizers.RMSprop(0.001), sparse_loss())
    return model


def masked(**options: Any) -> Any:
    model = keras.Sequential(
        [layers.Embedding(11, 4, mask_zero=True), layers.LSTM(5, return_sequences=True), layers.Dense(CLASSES)]
    )
    model.compile(optimizers.SGD(0.5), sparse_loss(**options))
    return model


def mixed(policy: str) -> Any:
    model = keras.Sequential(
        [
            keras.Input((FEATURES,)),
            layers.Dense(8, activation="tanh", dtype=policy),
            layers.Dense(CLASSES, dtype="float32"),
        ]
    )
    model.compile(optimizers.SGD(0.1), sparse_loss())
    return model


def loss_scaled() -> Any:
    scaled = optimizers.LossScaleOptimizer(
        optimizers.SGD(0.1, momentum=0.9), initial_scale=128.0, dynamic_growth_steps=3
    )
    return sequential(scaled)


def constrained() -> Any:
    return sequential(hidden=layers.Dense(8, activation="tanh", kernel_constraint=keras.constraints.MaxNorm(0.7)))


class Adding(layers.Layer):
    """Adds a sum over rows, and a mean over rows, to the loss."""

    def call(self, inputs: Any) -> Any:
        self.add_loss(0.01 * tf.reduce_sum(tf.square(inputs)))
        self.add_loss(0.1 * tf.reduce_mean(tf.abs(inputs)))
        return inputs


class Mask(layers.Layer):
    """Leaves out the same features for all rows of a batch, others in each batch."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.seeds = keras.random.SeedGenerator(5)

    def call(self, inputs: Any) -> Any:
        return inputs * keras.random.dropout(tf.ones(inputs.shape[1:]), 0.5, seed=self.seeds)


def low_rank(wide: int = 8, quantized: bool = False) -> Any:
    """A Dense layer whose kernel is frozen, and trained by two thin ones."""
    layer = layers.Dense(wide, activation="tanh")
    model = keras.Sequential([keras.Input((FEATURES,)), layers.Dense(9, activation="tanh"), layer, head()])
    model.set_weights([0.3 * noise(*each.shape, seed=number) for number, each in enumerate(model.get_weights())])
    if quantized:
        layer.quantize("int8")
    layer.enable_lora(2)
    layer.lora_kernel_b.assign(0.1 * noise(*layer.lora_kernel_b.shape))
    model.compile(optimizers.Adam(0.01), sparse_loss(), run_eagerly=True)
    return model


def quantized() -> Any:
    """Kernels in int8, which stay; biases are trained."""
    model = keras.Sequential([keras.Input((FEATURES,)), layers.Dense(8, activation="tanh"), head()])
    model.quantize("int8")
    model.compile(optimizers.Adam(0.01), sparse_loss(), run_eagerly=True)
    return model


def penalised() -> Any:
    model = keras.Sequential(
        [
            keras.Input((FEATURES,)),
            layers.Dense(8, activation="tanh", activity_regularizer=regularizers.L2(0.01), kernel_regularizer="l2"),
            Adding(),
            layers.Dense(CLASSES, bias_regularizer=regularizers.L1(0.01)),
        ]
    )
    model.compile(optimizers.SGD(0.1), sparse_loss())
    return model


def sum_of_batch(y_true: Any, y_pred: Any) -> Any:
    return tf.reduce_sum(tf.square(y_pred - tf.one_hot(tf.cast(y_true, tf.int32)[..., 0], CLASSES)))


def mean_of_batch(y_true: Any, y_pred: Any) -> Any:
    return tf.reduce_mean(tf.square(y_pred - tf.one_hot(tf.cast(y_true, tf.int32)[..., 0], CLASSES)))


def columns() -> dict[str, Any]:
    return rows() | {"y": rows()["y"][:, None]}


def wide(optimizer: Any = None, **options: Any) -> Any:
    """With a Dense layer that is divided."""
    model = keras.Sequential(
        [
            keras.Input((FEATURES,)),
            layers.Dense(9, activation="tanh"),
            layers.Dense(500, activation="tanh", name="wide", kernel_regularizer="l2"),
            layers.Dropout(1e-7),  # with a seed, and of no consequence
            head(),
        ]
    )
    model.compile(optimizer or optimizers.Adam(0.01), sparse_loss(), metrics=["accuracy"], **options)
    return model


class WideOwnStep(OwnStep):
    def __init__(self) -> None:
        super().__init__()
        self.hidden = layers.Dense(900, activation="tanh")


class WideTwice(WideOwnStep):
    """Adds up the gradients of two calls, and a penalty of its own on the head."""

    def train_step(self, data: Any) -> Any:
        x, y = data
        with tf.GradientTape() as tape:
            one, other = self(x, training=True), self(0.5 * x, training=True)
            loss = self.compute_loss(y=y, y_pred=one) + tf.reduce_mean(tf.square(one - other))
            loss += 0.01 * tf.nn.l2_loss(self.head.kernel)
        self.optimizer.apply(tape.gradient(loss, self.trainable_variables), self.trainable_variables)
        return {"loss": loss}


def pooled() -> Any:
    """Convolutions with ReLU before max pooling, and a large Dense layer with a regularizer."""
    model = keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            *(layers.Conv2D(4, 3, activation="relu", padding="same"), layers.MaxPooling2D()),
            layers.Flatten(),
            layers.Dense(150, activation="relu", kernel_regularizer="l2"),
            head(),
        ]
    )
    model.compile(optimizers.Adam(0.01), sparse_loss(), metrics=["accuracy"])
    return model


DIVIDED = ("sharded", "tensor")
WHOLE = ("allreduce", "sharded")
ALL = ("allreduce", *DIVIDED)
SMALL = {"shard_above": 4000}
FACTORS = {**SMALL, "dense_gradients": "factors"}
SCHEDULE = optimizers.schedules.ExponentialDecay(0.05, 3, 0.5)

OPTIMIZERS: dict[str, Callable[[], Any]] = {
    "SGD, momentum, clipnorm": lambda: optimizers.SGD(0.1, momentum=0.9, nesterov=True, clipnorm=0.05),
    "Adam, global_clipnorm": lambda: optimizers.Adam(0.01, amsgrad=True, global_clipnorm=0.05),
    "AdamW, clipvalue": lambda: optimizers.AdamW(0.01, weight_decay=0.1, clipvalue=0.01),
    "RMSprop, average": lambda: optimizers.RMSprop(0.01, use_ema=True, ema_momentum=0.8, ema_overwrite_frequency=3),
    "Nadam, schedule": lambda: optimizers.Nadam(SCHEDULE),
    "Adagrad": lambda: optimizers.Adagrad(0.1),
    "Adadelta": lambda: optimizers.Adadelta(1.0),
    "Adamax": lambda: optimizers.Adamax(0.01),
    "Adafactor": lambda: optimizers.Adafactor(0.01),
    "Ftrl": lambda: optimizers.Ftrl(0.1),
    "Lion": lambda: optimizers.Lion(0.003, weight_decay=0.1),
    "Lamb": lambda: optimizers.Lamb(0.01),
    "SGD, accumulating": lambda: optimizers.SGD(0.1, gradient_accumulation_steps=3, clipnorm=0.05),
}
OF_PARTS: dict[str, Callable[[], Any]] = {
    "SGD, momentum, clipnorm": lambda: optimizers.SGD(0.1, momentum=0.9, clipnorm=0.05),
    "Adam, global_clipnorm, average, accumulating": lambda: optimizers.Adam(
        0.01, global_clipnorm=0.05, use_ema=True, ema_momentum=0.8, gradient_accumulation_steps=2
    ),
    "AdamW, schedule": lambda: optimizers.AdamW(SCHEDULE, weight_decay=0.1),
    "Nadam": lambda: optimizers.Nadam(0.01),
}


def _of(optimizer: Callable[[], Any]) -> Callable[[], Any]:
    return lambda: sequential(optimizer())


def _wide_of(optimizer: Callable[[], Any], **options: Any) -> Callable[[], Any]:
    return lambda: wide(optimizer(), **options)


CASES: dict[str, Case] = {
    "unbuilt Sequential": Case(unbuilt, rows),
    "functional, a shared layer": Case(functional, rows),
    "subclassed": Case(subclassed, rows),
    "train_step of its own": Case(lambda: subclassed(OwnStep), rows),
    "train_step with metrics of its own": Case(lambda: subclassed(OwnTracker), rows),
    "compute_loss of its own": Case(lambda: subclassed(OwnLoss), rows),
    "several inputs and outputs by name": Case(several, several_rows),
    "several inputs and outputs in lists": Case(listed, listed_rows),
    "a frozen layer": Case(frozen, rows),
    "nested models": Case(nested, rows),
    "synchronised batch normalisation": Case(synchronised, images),
    "spectral normalisation": Case(spectral, rows),
    "convolution, layer normalisation": Case(normalised, images),
    "masked sequences": Case(masked, sentences),
    "masked sequences, mean by sample weight": Case(lambda: masked(reduction="mean_with_sample_weight"), sentences),
    "sample weights": Case(sequential, weighted_rows),
    "mean by sample weight": Case(
        lambda: sequential(loss=sparse_loss(reduction="mean_with_sample_weight")), weighted_rows
    ),
    "sum over rows": Case(lambda: sequential(optimizers.SGD(0.01), sparse_loss(reduction="sum")), weighted_rows),
    "a loss function that adds rows up": Case(lambda: sequential(optimizers.SGD(0.01), sum_of_batch), columns),
    "a loss function that averages rows": Case(lambda: sequential(loss=mean_of_batch), columns),
    "mixed bfloat16": Case(lambda: mixed("mixed_bfloat16"), rows),
    "loss scaling": Case(loss_scaled, rows),
    "a constraint": Case(constrained, rows),
    "penalties": Case(penalised, rows),
    "random numbers that are the same on every rank": Case(
        lambda: sequential(hidden=Mask(name="mask_1")), rows, options={"equal_seeds": "mask_*"}
    ),
    "low-rank adaptation": Case(low_rank, rows),
    "low-rank adaptation of a large layer": Case(lambda: low_rank(500), rows, ("sharded",), SMALL),
    "low-rank adaptation of int8": Case(lambda: low_rank(quantized=True), rows),
    "int8": Case(quantized, rows),
    "several steps per execution": Case(lambda: sequential(steps_per_execution=2, run_eagerly=False), rows),
    "a divided layer, train_step of its own": Case(lambda: subclassed(WideOwnStep), rows, ("tensor",), SMALL),
    "factors, train_step of its own": Case(lambda: subclassed(WideOwnStep), rows, WHOLE, FACTORS),
    "factors, two calls in a step": Case(lambda: subclassed(WideTwice, run_eagerly=True), rows, WHOLE, FACTORS),
    "factors, ReLU before pooling": Case(pooled, weighted_images, WHOLE, FACTORS),
    "factors, loss scaling": Case(
        lambda: wide(optimizers.LossScaleOptimizer(optimizers.SGD(0.001), initial_scale=128.0), run_eagerly=True),
        weighted_rows,
        ("allreduce",),
        FACTORS,
    ),
    **{name: Case(_of(make), rows) for name, make in OPTIMIZERS.items()},
    "divided, in a graph": Case(_wide_of(optimizers.SGD), rows, (*ALL, "auto"), SMALL),
    "divided, by groups": Case(
        _wide_of(optimizers.Adam, run_eagerly=True), rows, ("mesh",), SMALL | {"model_parallel_size": 2}
    ),
    **{f"divided, {name}": Case(_wide_of(make, run_eagerly=True), rows, ALL, SMALL) for name, make in OF_PARTS.items()},
}
