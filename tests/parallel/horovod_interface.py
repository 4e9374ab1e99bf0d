# ruff: noqa: E402
"""Run under MPI: what horovod_flowers.keras computes at this number of ranks, as JSON for test_horovod_interface.py.

    mpirun -np 2 python -m tests.parallel.horovod_interface RESULTS.json [all]

Each case returns numbers of this rank; the file has those of all ranks, by case. Those that take longest are left out
without `all`.
"""

import json
import os
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from horovod_flowers.ranks.tensorflow_import import import_tensorflow

import_tensorflow()  # in half the time

import keras
import numpy as np
import tensorflow as tf

import horovod_flowers.keras as hvd
from horovod_flowers.runtime.errors import UserError

CASES: dict[str, Callable[[], Any]] = {}
FITS = ("saved_models", "learning_rates", "metrics", "broadcast_before_the_first_batch")
"""Cases that call fit several times."""


def case(function: Callable[[], Any]) -> Callable[[], Any]:
    CASES[function.__name__] = function
    return function


def stepped(optimizer: Any, gradients: list[Any], start: Any = 0.0, steps: int = 1, shape: Any = (3, 2)) -> list[Any]:
    """Weights after each of some updates, made in a tf.function as fit makes them: without AutoGraph."""
    weights = [keras.Variable(np.full(shape, start, np.float32), name=f"w{k}") for k in range(len(gradients))]
    optimizer.build(weights)

    @tf.function(autograph=False)
    def step() -> None:
        optimizer.apply_gradients(zip(gradients, weights, strict=True))

    found = []
    for _ in range(steps):
        step()
        found.append([np.array(weight).tolist() for weight in weights])
    return found


def in_graph(optimizer: Any, gradients: list[Any], weights: list[Any]) -> Callable[[], None]:
    """One update, as fit makes it."""

    @tf.function(autograph=False)
    def step() -> None:
        optimizer.apply_gradients(zip([gradient + 0.0 for gradient in gradients], weights, strict=True))

    return step


def own_gradient() -> tf.Tensor:
    return tf.fill((3, 2), float(hvd.rank() + 1))


def rows(*numbers: int, values: float = 1.0) -> tf.IndexedSlices:
    return tf.IndexedSlices(tf.fill((len(numbers), 2), values), tf.constant(numbers), tf.constant([3, 2]))


@case
def reductions() -> Any:
    weights = [keras.Variable(np.zeros((3, 2), np.float32)) for _ in range(3)]
    options: dict[str, dict[str, Any]] = {
        "average": {},
        "sum": {"op": hvd.Sum},
        "predivided": {"gradient_predivide_factor": 4.0},
        "fp16": {"compression": hvd.Compression.fp16},
        "groups": {"groups": 2},
        "num_groups": {"num_groups": 2},
        "lists": {"groups": [[weights[2], weights[0]]]},
        "device": {"device_dense": "/cpu:0", "device_sparse": "/cpu:0", "name": "Mine"},
    }
    found = {}
    for name, settings in options.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            optimizer = hvd.DistributedOptimizer(keras.optimizers.SGD(1.0), **settings)
        if name == "lists":
            gradient = own_gradient()
            in_graph(optimizer, [gradient, 2 * gradient, 3 * gradient], weights)()
            found[name] = [float(weight[0, 0]) for weight in weights]
        else:
            (after,) = stepped(optimizer, [own_gradient(), 2 * own_gradient(), 3 * own_gradient()])
            found[name] = [weight[0][0] for weight in after]
    return found


@case
def sparse() -> Any:
    """Every rank has rows 0 and, twice, its own (modulo 3)."""
    own = hvd.rank() % 3
    found = {}
    cases: dict[str, dict[str, Any]] = {
        "average": {},
        "sum": {"op": hvd.Sum},
        "as_dense": {"sparse_as_dense": True},
        "fp16": {"compression": hvd.Compression.fp16},
        "predivided": {"gradient_predivide_factor": 2.0},
        "passes": {"backward_passes_per_step": 2, "average_aggregated_gradients": True},
        "passes_as_dense": {"backward_passes_per_step": 2, "sparse_as_dense": True},
    }
    for name, settings in cases.items():
        optimizer = hvd.DistributedOptimizer(keras.optimizers.SGD(1.0), **settings)
        found[name] = stepped(optimizer, [rows(0, own, own)], steps=2)[-1][0]
    return found


@case
def missing_or_of_another_kind() -> Any:
    """Only rank 0 has a first gradient; the second is sparse on rank 0, dense on others; nobody has the third."""
    first = rows(1) if hvd.rank() == 0 else None
    second = rows(1) if hvd.rank() == 0 else own_gradient()
    optimizer = hvd.DistributedOptimizer(keras.optimizers.SGD(1.0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return stepped(optimizer, [first, second, None, own_gradient()])[0]


@case
def aggregation() -> Any:
    """As Horovod tests it: four passes to an update, gradients of the rank's number."""
    found = {}
    for average in (True, False):
        optimizer = hvd.DistributedOptimizer(
            keras.optimizers.SGD(-1.0), backward_passes_per_step=4, average_aggregated_gradients=average
        )
        weight = keras.Variable([0.0])
        gradient = tf.constant([float(hvd.rank())])
        step = in_graph(optimizer, [gradient], [weight])
        values, iterations = [], []
        for _ in range(10):
            step()
            values.append(float(weight[0]))
            iterations.append(int(optimizer.iterations))
        found[str(average)] = [values, iterations]
    return found


@case
def passes_are_as_keras_accumulates() -> Any:
    """Adam, whose bias correction goes by updates: against gradient_accumulation_steps, eager and in a graph."""
    numbers = np.random.default_rng(hvd.rank())
    differences = []
    cases: list[dict[str, Any]] = [{}, {"global_clipnorm": 0.3}, {"use_ema": True, "ema_overwrite_frequency": 2}]
    for settings in cases:
        ours = hvd.DistributedOptimizer(
            keras.optimizers.Adam(0.1, **settings), backward_passes_per_step=3, average_aggregated_gradients=True
        )
        keras_own = hvd.DistributedOptimizer(keras.optimizers.Adam(0.1, gradient_accumulation_steps=3, **settings))
        weights = [keras.Variable(np.ones(4, np.float32)) for _ in range(2)]
        for _ in range(9):
            gradient = tf.constant(numbers.normal(size=4), tf.float32)
            for optimizer, weight in zip((ours, keras_own), weights, strict=True):
                optimizer.apply([gradient], [weight])
        differences.append(float(np.abs(np.array(weights[0]) - np.array(weights[1])).max()))
        differences.append(float(np.abs(np.array(weights[0]) - 1).max()))
    return differences


OPTIMIZERS: dict[str, dict[str, Any]] = {
    "SGD": {"learning_rate": 0.1, "momentum": 0.9, "nesterov": True},
    "Adam": {"amsgrad": True},
    "AdamW": {"weight_decay": 0.1},
    "RMSprop": {"momentum": 0.5, "centered": True},
    **{name: {} for name in ("Nadam", "Adagrad", "Adamax", "Adafactor", "Ftrl", "Lion", "Lamb")},
    "Adadelta": {"learning_rate": 1.0},
}
SETTINGS: list[dict[str, Any]] = [
    {"clipnorm": 0.2},
    {"global_clipnorm": 0.2},
    {"clipvalue": 0.1},
    {"use_ema": True, "weight_decay": 0.01},
    {"gradient_accumulation_steps": 2},
]


def local_gradients(step: int, rank: int) -> list[np.ndarray]:
    numbers = np.random.default_rng([step, rank])
    return [numbers.normal(size=shape).astype(np.float32) for shape in ((3, 4), (4,))]


@case
def optimizers() -> Any:
    """The largest relative difference from the user's optimizer given the mean gradients of all ranks."""
    found = {}
    for number, (name, own) in enumerate(OPTIMIZERS.items()):
        settings = own | SETTINGS[number % len(SETTINGS)]
        kind = getattr(keras.optimizers, name)
        schedule = keras.optimizers.schedules.ExponentialDecay(settings.pop("learning_rate", 0.01), 2, 0.5)
        plain = kind(schedule, **settings)
        ours = hvd.DistributedOptimizer(kind(schedule, **settings))
        models = [[keras.Variable(np.ones(s, np.float32)) for s in ((3, 4), (4,))] for _ in range(2)]
        for step in range(4):
            every = [local_gradients(step, rank) for rank in range(hvd.size())]
            mean = [np.mean(each, axis=0) for each in zip(*every, strict=True)]
            plain.apply([tf.constant(each) for each in mean], models[0])
            ours.apply([tf.constant(each) for each in every[hvd.rank()]], models[1])
        pairs = list(zip(*([np.array(v) for v in model] for model in models), strict=True))
        moved = max(float(np.abs(one - 1).max()) for one, _ in pairs)
        found[name] = [max(float(np.abs(one - two).max()) for one, two in pairs) / moved, moved]
    return found


@case
def infinite_gradients() -> Any:
    """Rank 0 has one in the first update, of one pass or of two: all leave it out, halve the scale, and go on."""
    found = {}
    for name, passes in (("outside", 1), ("inside", 1), ("outside_2", 2), ("inside_2", 2)):
        settings: dict[str, Any] = {"backward_passes_per_step": passes, "average_aggregated_gradients": True}
        inner: Any = keras.optimizers.SGD(1.0)
        if name.startswith("outside"):
            scaled = hvd.DistributedOptimizer(keras.optimizers.LossScaleOptimizer(inner, initial_scale=4.0), **settings)
        else:
            inner = hvd.DistributedOptimizer(inner, **settings)
            scaled = keras.optimizers.LossScaleOptimizer(inner, initial_scale=4.0)
        weight = keras.Variable([0.0])
        gradient = tf.Variable([0.0])
        step = in_graph(scaled, [gradient], [weight])
        steps = []
        for number in range(3 * passes):
            infinite = number == 0 and hvd.rank() == 0
            gradient.assign([float("inf") if infinite else 2.0 * (hvd.rank() + 1)])
            step()
            steps.append([float(weight[0]), float(scaled.dynamic_scale), int(scaled.iterations)])
        found[name] = steps
    return found


@case
def mixed_float16() -> Any:
    """compile puts a LossScaleOptimizer around the optimizer; the labels of rank 1 are infinite at first."""
    keras.utils.set_random_seed(1)
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, dtype="mixed_float16")])
        model.compile(hvd.DistributedOptimizer(keras.optimizers.SGD(0.01)), "mse")
    finally:
        keras.config.set_dtype_policy("float32")
    last = hvd.rank() == hvd.size() - 1
    before = model.get_weights()
    model.train_on_batch(np.ones((4, 2)), np.full((4, 1), np.inf if last else 1.0))
    skipped = float(max(np.abs(a - b).max() for a, b in zip(before, model.get_weights(), strict=True)))
    scale = float(model.optimizer.dynamic_scale)
    model.train_on_batch(np.ones((4, 2)), np.full((4, 1), 1.0))
    return [type(model.optimizer).__name__, skipped, scale, model.get_weights()[0].tolist()]


@case
def local_variables() -> Any:
    """Two weights, the second of which is this rank's own: registered, or of a layer that is built later."""
    found = {}
    for scale in (True, False):
        optimizer = hvd.DistributedOptimizer(keras.optimizers.SGD(1.0), scale_local_gradients=scale)
        weights = [keras.Variable([0.0]), keras.Variable([0.0])]
        optimizer.register_local_var(weights[1])
        gradient = tf.constant([float(hvd.rank() + 1)])
        optimizer.apply([gradient, gradient], weights)
        found[f"registered_{scale}"] = [float(weight[0]) for weight in weights]

        keras.utils.set_random_seed(2)
        layer = keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")
        model = keras.Sequential([keras.layers.Dense(1, use_bias=False, kernel_initializer="ones"), layer])
        model.compile(
            hvd.PartialDistributedOptimizer(keras.optimizers.SGD(1.0), local_layers=layer, scale_local_gradients=scale),
            "mse",
        )
        model.train_on_batch(np.full((2, 1), 1.0), np.full((2, 1), hvd.rank() + 1.0))
        found[f"layer_{scale}"] = [float(weight[0, 0]) for weight in model.get_weights()]
    inner = hvd.DistributedOptimizer(keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(1.0), 4.0))
    weights = [keras.Variable([0.0]), keras.Variable([0.0])]
    inner.register_local_var(weights[1])
    own = float("nan") if hvd.rank() == 0 else 4.0
    inner.apply([tf.constant([4.0]), tf.constant([own])], weights)
    found["not_finite_here_alone"] = [float(inner.dynamic_scale), *[float(weight[0]) for weight in weights]]
    return found


@case
def process_sets() -> Any:
    first = rest = hvd.global_process_set
    if hvd.size() > 1:
        first, rest = hvd.add_process_set([0]), hvd.add_process_set(range(1, hvd.size()))
    found = []
    for process_set in (first, rest):
        optimizer = hvd.DistributedOptimizer(keras.optimizers.SGD(1.0), process_set=process_set)
        assert optimizer.process_set is process_set
        found.append(stepped(optimizer, [own_gradient()])[0][0][0][0])
    return [*found, hvd.size() == 1 or hvd.remove_process_set(rest)]


@case
def configuration() -> Any:
    """A copy made of the configuration combines gradients, too."""
    optimizer = hvd.DistributedOptimizer(keras.optimizers.Adam(0.5), name="mine", op=hvd.Sum)
    again = optimizer.from_config(optimizer.get_config())
    third = optimizer.__class__.from_config(optimizer.get_config())
    assert optimizer.get_config() == again.get_config() == third.get_config()
    sgd = hvd.DistributedOptimizer(keras.optimizers.SGD(1.0))
    copy = sgd.__class__.from_config(sgd.get_config())
    assert len(sgd.variables()) == len(sgd.variables)
    name = keras.saving.serialize_keras_object(optimizer)
    return [stepped(copy, [own_gradient()])[0][0][0][0], name["module"], name["class_name"]]


def small_model(optimizer: Any) -> keras.Model:
    keras.utils.set_random_seed(3)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4, "relu"), keras.layers.Dense(1)])
    model.compile(optimizer, keras.losses.MeanSquaredError())
    return model


def own_rows(rows_a_rank: int = 4, steps: int = 2) -> tuple[np.ndarray, np.ndarray]:
    numbers = np.random.default_rng(5)
    x = numbers.normal(size=(steps, hvd.size(), rows_a_rank, 3)).astype(np.float32)
    return x[:, hvd.rank()].reshape(-1, 3), x[:, hvd.rank()].sum(axis=-1).reshape(-1, 1)


@case
def two_optimizers_in_a_step() -> Any:
    """A generator and a critic, each with an optimizer of its own, in a train_step of the user's; then a loop."""

    class Pair(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.one = keras.layers.Dense(1, use_bias=False, kernel_initializer="ones")
            self.two = keras.layers.Dense(1, use_bias=False, kernel_initializer="ones")
            self.optimizers = [hvd.DistributedOptimizer(keras.optimizers.SGD(1.0)) for _ in range(2)]

        def build(self, shape: Any) -> None:
            self.one.build(shape)
            self.two.build(shape)

        def train_step(self, data: Any) -> dict[str, Any]:
            for factor, (layer, optimizer) in enumerate(zip((self.one, self.two), self.optimizers, strict=True), 1):
                with tf.GradientTape() as tape:
                    loss = factor * tf.reduce_mean(layer(data))
                weights = layer.trainable_variables
                optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))
            return {"loss": loss}

    model = Pair()
    model.compile()
    model.fit(np.full((4, 1), hvd.rank() + 1.0), batch_size=2, verbose=0)
    optimizer = hvd.DistributedOptimizer(keras.optimizers.SGD(1.0, global_clipnorm=0.5))
    weight = tf.Variable([1.0])
    for _ in range(2):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(weight) * (hvd.rank() + 1.0)
        optimizer.apply_gradients([(tape.gradient(loss, weight), weight)])
    return [float(model.one.kernel[0, 0]), float(model.two.kernel[0, 0]), float(weight[0])]


@case
def saved_models() -> Any:
    """Trained on, a loaded model is the one that was saved, loaded by this package or by Keras alone."""
    folder = Path(hvd.broadcast_object(tempfile.mkdtemp() if hvd.rank() == 0 else None))
    x, y = own_rows()
    model = small_model(hvd.DistributedOptimizer(keras.optimizers.Adam(0.01)))
    model.fit(x, y, batch_size=4, shuffle=False, verbose=0)
    files = [folder / "model.keras", folder / "model.h5"]
    if hvd.rank() == 0:
        for file in files:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                model.save(file)
    hvd.allreduce(1.0, name="written")
    iterations = int(model.optimizer.iterations)
    loaded = [hvd.load_model(str(file)) for file in files[:1]] + [hvd.load_model(files[1])]
    alone: Any = keras.models.load_model(files[0])
    kinds = [type(alone.optimizer) is keras.optimizers.Adam, int(alone.optimizer.iterations) == iterations]
    kinds += [int(each.optimizer.iterations) == iterations for each in loaded]
    alone.compile(hvd.DistributedOptimizer(alone.optimizer), "mse")
    for each in (model, *loaded, alone):
        each.fit(x, y, batch_size=4, shuffle=False, verbose=0)
    weights = [np.concatenate([w.ravel() for w in each.get_weights()]) for each in (model, *loaded, alone)]
    return [kinds, [float(np.abs(weights[0] - other).max()) for other in weights[1:]], weights[0].tolist()]


class Seen(keras.callbacks.Callback):
    """Learning rates and weights when a batch begins and ends."""

    def __init__(self) -> None:
        super().__init__()
        self.rates: list[float] = []
        self.weights: list[float] = []
        self.logs: list[dict[str, float]] = []

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self.rates.append(float(self.model.optimizer.learning_rate))
        if self.model.built and self.model.weights:
            self.weights.append(float(np.sum([np.sum(np.array(w)) for w in self.model.weights])))

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.logs.append(dict(logs))


@case
def learning_rates() -> Any:
    x, y = own_rows(steps=4)
    found: dict[str, Any] = {}
    callbacks = {
        "warmup": hvd.callbacks.LearningRateWarmupCallback(0.4, warmup_epochs=2),
        "warmup_by_twos": hvd.callbacks.LearningRateWarmupCallback(0.4, warmup_epochs=2),
        "warmup_in_part": hvd.callbacks.LearningRateWarmupCallback(0.4, warmup_epochs=1.5),
        "staircase": hvd.callbacks.LearningRateScheduleCallback(0.4, lambda epoch: 10.0**-epoch, start_epoch=1),
        "smooth": hvd.callbacks.LearningRateScheduleCallback(0.4, lambda epoch: 1 + epoch, 0, 2, staircase=False),
        "exponential": hvd.callbacks.LearningRateScheduleCallback(0.4, 0.5, start_epoch=1),
    }
    for name, callback in callbacks.items():
        model, seen = small_model(hvd.DistributedOptimizer(keras.optimizers.SGD(0.3))), Seen()
        model.steps_per_execution = 2 if name == "warmup_by_twos" else 1
        history = model.fit(x, y, batch_size=4, epochs=3, callbacks=[callback, seen], verbose=0)
        found[name] = [seen.rates, history.history["lr"], float(model.optimizer.lr)]
    return found


@case
def momentum_correction() -> Any:
    """A rate that halves: velocities follow it. One weight, a gradient of 1 in each of four steps."""
    found = []
    for correct in (True, False):
        model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")])
        model.compile(hvd.DistributedOptimizer(keras.optimizers.SGD(1.0, momentum=0.5)), lambda y, p: p)
        callback = hvd.callbacks.LearningRateScheduleCallback(
            1.0, lambda epoch: 0.5 ** int(2 * epoch), staircase=False, momentum_correction=correct
        )
        model.fit(np.ones((4, 1)), np.ones((4, 1)), batch_size=1, callbacks=[callback], verbose=0)
        found.append(float(model.get_weights()[0][0, 0]))
    return found


@case
def broadcast_before_the_first_batch() -> Any:
    """Other weights and another optimizer state on each rank, a model without Input too."""
    found = {}
    for name in ("built", "unbuilt", "local"):
        keras.utils.set_random_seed(hvd.rank())
        layers = [keras.layers.Dense(2, use_bias=False), keras.layers.Dropout(0.5), keras.layers.Dense(1)]
        model = keras.Sequential([] if name == "unbuilt" else [keras.Input((3,))])
        for layer in layers:
            model.add(layer)
        model.compile(hvd.DistributedOptimizer(keras.optimizers.SGD(0.0, momentum=1.0)), "mse")
        local = None
        if name != "unbuilt":
            model.optimizer.build(model.trainable_variables)
            for variable in model.optimizer.variables[2:]:
                variable.assign(variable + hvd.rank() + 1)
        if name == "local":
            local = [layers[2].kernel]
        seen = Seen()
        callbacks = [hvd.callbacks.BroadcastGlobalVariablesCallback(0, local_variables=local), seen]
        before = [np.array(each).sum() for each in ([] if name == "unbuilt" else model.weights)]
        model.fit(np.zeros((1, 3)), np.zeros((1, 1)), callbacks=callbacks, verbose=0)
        # A learning rate of 0 and a momentum of 1: the step adds the velocities, 1 each as rank 0 has them.
        found[name] = {
            "seen": seen.weights,
            "before": [float(each) for each in before],
            "after": [float(np.array(each).sum()) for each in model.weights],
            "velocity": [float(np.array(each).mean()) for each in model.optimizer.variables[2:]],
            "kernel": float(np.array(layers[0].kernel).sum()),
        }
    return found


@case
def metrics() -> Any:
    """Ranks with unequally many samples: the metrics are those of all samples."""
    numbers = np.random.default_rng(9)
    sizes = [4 * (rank + 1) for rank in range(hvd.size())]
    ends = np.cumsum([0, *sizes])
    x, y = numbers.normal(size=(ends[-1], 3)).astype(np.float32), numbers.integers(0, 2, (ends[-1], 1))
    mine = slice(ends[hvd.rank()], ends[hvd.rank() + 1])

    class Largest(keras.Metric):
        """Its state cannot be added up."""

        def __init__(self) -> None:
            super().__init__(name="largest")
            self.largest = self.add_variable((), "zeros", name="largest")

        def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
            self.largest.assign(tf.maximum(self.largest, tf.reduce_max(y_pred)))

        def result(self) -> Any:
            return self.largest.value

    def model() -> keras.Model:
        keras.utils.set_random_seed(4)
        made = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, "sigmoid")])
        names: list[Any] = ["accuracy", keras.metrics.AUC(name="auc"), keras.metrics.F1Score(threshold=0.5)]
        made.compile(keras.optimizers.SGD(0.0), "binary_crossentropy", metrics=[*names, Largest()])
        return made

    ours, seen = model(), Seen()
    local = ours.evaluate(x[mine], y[mine], verbose=0, return_dict=True)
    ours.fit(
        x[mine],
        y[mine],
        batch_size=4,
        verbose=0,
        epochs=2,
        validation_data=(x[mine], y[mine]),
        validation_freq=2,
        callbacks=[hvd.callbacks.MetricAverageCallback(), seen],
    )
    expected = model().evaluate(x, y, verbose=0, return_dict=True)
    return {
        "epochs": [{key: float(np.mean(value)) for key, value in logs.items()} for logs in seen.logs],
        "expected": {key: float(np.mean(value)) for key, value in expected.items()},
        "local": {key: float(np.mean(value)) for key, value in local.items()},
        "samples": sizes[hvd.rank()],
    }


@case
def weights_that_nobody_broadcasts() -> Any:
    """Other weights on each rank, before the first batch and made by it: both are warned of."""
    for layers in ([keras.Input((3,)), keras.layers.Dense(1)], [keras.layers.Dense(1)]):
        keras.utils.set_random_seed(hvd.rank())
        model = keras.Sequential(layers)
        model.compile(hvd.DistributedOptimizer(keras.optimizers.SGD(0.0)), "mse")
        model.fit(np.ones((1, 3)), np.ones((1, 1)), verbose=0)
    return float(np.sum(model.get_weights()[0]))


@case
def numbers_of_no_metric() -> Any:
    """Logs that a model's metrics do not give are averaged: with no samples counted, plainly."""
    logs: dict[str, Any] = {"loss": float(hvd.rank()), "name": "text"}
    callback = hvd.callbacks.MetricAverageCallback()
    callback.on_epoch_end(0, logs)
    callback.set_model(small_model("sgd"))
    others = {"loss": float(hvd.rank())}
    callback.on_epoch_end(0, others)
    return [logs["loss"], others["loss"]]


@case
def best_model() -> Any:
    folder = Path(hvd.broadcast_object(tempfile.mkdtemp() if hvd.rank() == 0 else None))
    x, y = own_rows()
    model = small_model(hvd.DistributedOptimizer(keras.optimizers.SGD(0.01)))
    checkpoint = hvd.callbacks.BestModelCheckpoint(monitor="loss")
    try:
        model.fit(x, y, verbose=0, callbacks=[checkpoint])
        refused = ""
    except ValueError as error:
        refused = str(error)
    checkpoint.filepath = str(folder / f"{hvd.rank()}.keras")
    model.fit(x, y, verbose=0, callbacks=[hvd.callbacks.MetricAverageCallback(), checkpoint])
    hvd.allreduce(1.0, name="saved")
    return [refused, sorted(path.name for path in folder.iterdir())]


@case
def elastic_state() -> Any:
    """As Horovod tests it."""
    value = 1.0 if hvd.rank() == 0 else 2.0
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, activation="softmax")])
    model.set_weights([np.full((2, 2), value), np.full(2, value)])
    optimizer = keras.optimizers.Adam(0.001 * hvd.size())
    state = hvd.elastic.KerasState(model, optimizer, batch=20 + hvd.rank(), epoch=10 + hvd.rank())
    found = []

    def look() -> None:
        values = [float(np.mean(weight)) for weight in model.get_weights()]
        found.append([*values, state.batch, state.epoch, int(optimizer.iterations)])

    state.sync()
    look()
    others = [np.full((2, 2), 7.0), np.full(2, 5.0)]
    for leave in (state.restore, state.commit, state.restore):
        if leave is not state.restore or len(found) == 1:
            model.set_weights(others)
            optimizer.iterations.assign(3)
            state.batch, state.epoch = 21, 11
        leave()
        look()
    return found


@case
def elastic_callbacks() -> Any:
    """A run that was cut off after one of three batches of its second epoch goes on there."""
    x, y = own_rows(steps=3)
    model = small_model(hvd.DistributedOptimizer(keras.optimizers.SGD(0.01)))
    state = hvd.elastic.KerasState(model, batch=0, epoch=0)
    seen: list[list[int]] = []

    class Commits(keras.callbacks.Callback):
        def on_batch_end(self, batch: int, logs: Any = None) -> None:
            seen.append([state.epoch, state.batch, state._saved_state["batch"]])
            if len(seen) == 4:
                raise KeyError("lost")

    @hvd.elastic.run
    def train(state: Any) -> int:
        callbacks = [
            hvd.elastic.UpdateEpochStateCallback(state),
            hvd.elastic.UpdateBatchStateCallback(state),
            hvd.elastic.CommitStateCallback(state, 2),
            Commits(),
        ]
        model.fit(x, y, batch_size=4, epochs=3 - state.epoch, shuffle=False, callbacks=callbacks, verbose=0)
        return int(model.optimizer.iterations)

    try:
        train(state)
    except KeyError:
        state.restore()
        state.batch = 1  # as if it had been committed
    return [train(state), seen, [state.epoch, state.batch]]


@case
def collectives() -> Any:
    own = np.arange(4, dtype=np.float32).reshape(4, 1) + hvd.rank()
    tensor = tf.constant([1.0, 2.0]) * (hvd.rank() + 1)
    by_adasum = tf.constant([1.0, 0.0] if hvd.rank() % 2 == 0 else [1.0, 1.0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        summed = hvd.allreduce(tensor, average=False)
    return {
        "average": hvd.allreduce(own).numpy().tolist(),
        "sum": hvd.allreduce(tensor, op=hvd.Sum, name="summed").numpy().tolist(),
        "not_average": summed.numpy().tolist(),
        "max": hvd.allreduce(tensor, op=hvd.Max).numpy().tolist(),
        "scaled": hvd.allreduce(tensor, op=hvd.Sum, prescale_factor=2.0, postscale_factor=0.5).numpy().tolist(),
        "fp16": hvd.allreduce(keras.Variable(tensor), compression=hvd.Compression.fp16).numpy().tolist(),
        "bfloat16": tf.cast(hvd.allreduce(tf.cast(tensor, tf.bfloat16), op=hvd.Sum), tf.float32).numpy().tolist(),
        "allgather": hvd.allgather(own[: hvd.rank() + 1], name="gathered").numpy().ravel().tolist(),
        "broadcast": hvd.broadcast([hvd.rank() + 5], hvd.size() - 1, name="of the last").numpy().tolist(),
        "reducescatter": hvd.reducescatter(own, op=hvd.Sum).numpy().ravel().tolist(),
        "object": hvd.broadcast_object({"rank": hvd.rank()}, root_rank=hvd.size() - 1),
        "adasum": hvd.allreduce(by_adasum, op=hvd.Adasum).numpy().tolist(),
        "adasum_in_graph": tf.function(lambda: hvd.allreduce(by_adasum, op=hvd.Adasum))().numpy().tolist(),
        "questions": [hvd.is_initialized(), hvd.mpi_built(), hvd.gloo_built(), hvd.nccl_built(), hvd.local_size()],
        "places": [hvd.rank(), hvd.local_rank(), hvd.cross_rank(), hvd.size(), hvd.local_size(), hvd.cross_size()],
    }


@case
def refusals() -> Any:
    class Own(keras.optimizers.Optimizer):
        momentum = 0.5

    def sgd(**arguments: Any) -> Any:
        return hvd.DistributedOptimizer(keras.optimizers.SGD(), **arguments)

    def fitted(optimizer: Any, callback: Any) -> None:
        model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
        model.compile(optimizer, "mse")
        model.fit(np.ones((1, 1)), np.ones((1, 1)), callbacks=[callback], verbose=0)

    rates = hvd.callbacks.LearningRateScheduleCallback
    schedule = keras.optimizers.schedules.ExponentialDecay(0.1, 1, 0.5)
    accumulating = keras.optimizers.SGD(gradient_accumulation_steps=2)
    tries: dict[str, Callable[[], Any]] = {
        "op": lambda: sgd(op=hvd.Max),
        "adasum": lambda: sgd(op=hvd.Adasum),
        "predivide": lambda: sgd(op=hvd.Sum, gradient_predivide_factor=2.0),
        "factor": lambda: sgd(gradient_predivide_factor=0),
        "groups": lambda: sgd(groups=0),
        "passes": lambda: sgd(backward_passes_per_step=0),
        "both_accumulate": lambda: hvd.DistributedOptimizer(accumulating, backward_passes_per_step=2),
        "compression": lambda: sgd(compression="fp16"),
        "device": lambda: sgd(device_dense="/gpu:0"),
        "process_set": lambda: sgd(process_set=hvd.ProcessSet([0])),
        "twice": lambda: hvd.DistributedOptimizer(sgd()),
        "no_optimizer": lambda: hvd.DistributedOptimizer("sgd"),
        "local_layers": lambda: hvd.PartialDistributedOptimizer(keras.optimizers.SGD(), local_layers=["dense"]),
        "local_variable": lambda: sgd().register_local_var(1),
        "legacy": lambda: hvd.load_model("model.keras", legacy_opts=True),
        "root": lambda: hvd.broadcast(1.0, 77),
        "global_variables": lambda: hvd.broadcast_global_variables(0),
        "average_and_op": lambda: hvd.allreduce(1.0, average=True, op=hvd.Sum),
        "warmup": lambda: hvd.callbacks.LearningRateWarmupCallback(0.1, warmup_epochs=0),
        "initial_lr": lambda: rates(None, 1.0),  # type: ignore[arg-type]
        "schedule": lambda: fitted(keras.optimizers.SGD(schedule), rates(0.1, 1.0)),
        "momentum": lambda: fitted(Own(0.1), rates(0.1, 1.0)),
        "unbuilt_state": lambda: hvd.elastic.KerasState(keras.Sequential([keras.layers.Dense(1)])),
        "commits": lambda: hvd.elastic.CommitStateCallback(None, 0),
    }
    found = {}
    for name, attempt in tries.items():
        try:
            attempt()
        except UserError as error:  # most are a ValueError, too
            found[name] = str(error)
    return found


def main() -> None:
    hvd.init(process_sets="dynamic")
    # Most of the time of this program is the making of graphs.
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    chosen = list(CASES) if sys.argv[2:] == ["all"] else [name for name in CASES if name not in FITS]
    results = {name: hvd.allgather_object(CASES[name](), name=f"case.{name}") for name in chosen}
    if hvd.rank() == 0:
        Path(sys.argv[1]).write_text(json.dumps(results))


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    main()
