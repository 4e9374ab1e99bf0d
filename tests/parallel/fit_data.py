"""A program for several ranks: `fit`, `evaluate` and `predict` of each kind of data, on all ranks and, on rank 0, by
Keras alone; every metric of Keras on parts of the rows and on all of them; and data that ranks cannot train on.

    mpirun -np N python -m tests.parallel.fit_data OUTPUT.json
"""

import inspect
import json
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

import horovod_flowers
from horovod_flowers.ranks.communicator import Ranks
from horovod_flowers.runtime.errors import UserError

ROWS, FEATURES, CLASSES, BATCH = 23, 4, 3, 7
Found = dict[str, Any]


def rows() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    return random.normal(size=(ROWS, FEATURES)).astype(np.float32), random.integers(0, CLASSES, ROWS)


def batches_of(x: np.ndarray, y: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for begin in range(0, len(x), BATCH):
        yield x[begin : begin + BATCH], y[begin : begin + BATCH]


def dataset(*more: np.ndarray) -> Any:
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices((*rows(), *more)).batch(BATCH)


def tensors(*arrays: np.ndarray) -> list[Any]:
    import tensorflow as tf

    return [tf.constant(array) for array in arrays]


def py_dataset(changing: bool = True, **options: Any) -> Any:
    """Its rows come in another order in each epoch, where it is changing."""
    import keras

    class Batches(keras.utils.PyDataset):
        def __init__(self) -> None:
            super().__init__(**options)
            self.epoch = 0

        def __len__(self) -> int:
            return math.ceil(ROWS / BATCH)

        def __getitem__(self, index: int) -> Any:
            x, y = (np.roll(each, self.epoch, axis=0) for each in rows())
            return list(batches_of(x, y))[index]

        def on_epoch_end(self) -> None:
            self.epoch += changing

    return Batches()


def endless() -> Any:
    while True:
        yield from batches_of(*rows())


def given_to_fit() -> dict[str, Callable[[], Found]]:
    """Arguments of fit, made anew for each call: what a generator has given is gone."""
    x, y = rows()
    arrays = {"x": x, "y": y, "batch_size": BATCH, "shuffle": False}
    weights = np.linspace(0, 2, ROWS)
    return {
        "arrays": lambda: dict(arrays),
        "tensors": lambda: arrays | dict(zip("xy", tensors(x, y), strict=True)),
        "the default batch of 32": lambda: {"x": x, "y": y, "shuffle": False},
        "batches smaller than the ranks are many": lambda: arrays | {"batch_size": 1},
        "a last batch of one row": lambda: arrays | {"batch_size": ROWS - 1},
        "fewer rows than ranks": lambda: arrays | {"x": x[:1], "y": y[:1]},
        "class weights": lambda: arrays | {"class_weight": {0: 2.0, 2: 0.5}},
        "weights of samples": lambda: arrays | {"sample_weight": weights},
        "steps of arrays": lambda: {"x": x, "y": y, "shuffle": False, "steps_per_epoch": 4},
        "a split for validation": lambda: arrays | {"validation_split": 0.3},
        "a dataset": lambda: {"x": dataset()},
        "a dataset of unknown length": lambda: {"x": dataset().filter(lambda x, y: True)},
        "an endless dataset": lambda: {"x": dataset().repeat(), "steps_per_epoch": 2},
        "a dataset with weights": lambda: {"x": dataset(weights)},
        "a dataset shuffled with a seed": lambda: {"x": dataset().unbatch().shuffle(ROWS, seed=3).batch(BATCH)},
        "a dataset to validate with": lambda: arrays | {"validation_data": dataset(), "validation_freq": 2},
        "steps to validate with": lambda: arrays | {"validation_data": dataset().repeat(), "validation_steps": 2},
        "arrays to validate with": lambda: arrays | {"validation_data": (x, y, weights), "validation_batch_size": 5},
        "a PyDataset": lambda: {"x": py_dataset(), "shuffle": False},
        "a PyDataset with workers": lambda: {"x": py_dataset(workers=2), "shuffle": False},
        "a PyDataset with steps": lambda: {"x": py_dataset(changing=False), "shuffle": False, "steps_per_epoch": 2},
        "a generator": lambda: {"x": endless(), "steps_per_epoch": 3},
        "a generator that ends": lambda: {"x": batches_of(x, y), "epochs": 1},
        "a generator without weights": lambda: {"x": ((*b, None) for b in batches_of(x, y)), "epochs": 1},
        "a later epoch": lambda: arrays | {"epochs": 4, "initial_epoch": 2},
    }


class Model:
    """One model that is trained from the same weights again and again, so that its graphs are traced once."""

    def __init__(self, ranks: Any = None, **compiled: Any) -> None:
        import keras

        inputs = keras.Input((FEATURES,))
        outputs = keras.layers.Dense(CLASSES, activation="softmax")(keras.layers.Dense(5, activation="tanh")(inputs))
        self.model = keras.Model(inputs, outputs, name="of_rows")
        options: Found = {
            "loss": "sparse_categorical_crossentropy",
            "metrics": ["accuracy"],
            "weighted_metrics": [keras.metrics.SparseTopKCategoricalAccuracy(2)],
        }
        self.model.compile(keras.optimizers.SGD(0.5), **(options | compiled))
        self._begin = [
            np.random.default_rng(number).normal(size=w.shape) for number, w in enumerate(self.model.weights)
        ]
        if ranks is not None:
            ranks.distribute(self.model)

    def fit(self, given: Found) -> Found:
        """History of two epochs, and the weights after them."""
        self.model.set_weights(self._begin)
        history = self.model.fit(**({"epochs": 2, "verbose": 0} | given)).history
        found = {name: [float(each) for each in values] for name, values in history.items()}
        return found | {"weights": [float(np.abs(each).sum()) for each in self.model.get_weights()]}

    def evaluate_and_predict(self) -> Found:
        x, y = rows()
        self.model.set_weights(self._begin)
        options: Found = {"batch_size": BATCH, "verbose": 0}
        found = {
            "evaluate": [float(each) for each in self.model.evaluate(x, y, **options)],
            "evaluate a dataset": [float(each) for each in self.model.evaluate(dataset(), verbose=0)],
            "evaluate some steps": [float(each) for each in self.model.evaluate(dataset(), steps=2, verbose=0)],
        }
        predicted = {
            "predict": self.model.predict(x, **options),
            "predict in batches smaller than the ranks are many": self.model.predict(x, batch_size=1, verbose=0),
            "predict a dataset": self.model.predict(dataset(), verbose=0),
            "predict one row": self.model.predict(x[:1], verbose=0),
        }
        return found | {name: values.astype(float).ravel().tolist() for name, values in predicted.items()}


def several_inputs_and_outputs(ranks: Any = None) -> Found:
    """With dictionaries, a weight of samples for each output, several losses, and two steps an execution."""
    import keras

    x, y = rows()
    one, other = keras.Input((FEATURES,), name="one"), keras.Input((2,), name="other")
    joined = keras.layers.Concatenate()([one, other])
    named = {
        "kind": keras.layers.Dense(CLASSES, name="kind", kernel_initializer="ones")(joined),
        "size": keras.layers.Dense(1, name="size", kernel_initializer="ones")(joined),
    }
    model = keras.Model({"one": one, "other": other}, named, name="of_dictionaries")
    model.compile(
        keras.optimizers.SGD(0.05),
        {"kind": keras.losses.SparseCategoricalCrossentropy(from_logits=True), "size": "mse"},
        metrics={"kind": ["accuracy"], "size": ["mae"]},
        weighted_metrics={"size": ["mse"]},
        steps_per_execution=2,
    )
    if ranks is not None:
        ranks.distribute(model)
    inputs = {"one": x, "other": x[:, :2]}
    targets = {"kind": y, "size": x[:, 3:]}
    weights = {"kind": np.linspace(0, 1, ROWS), "size": np.linspace(1, 0, ROWS)}
    history = model.fit(inputs, targets, batch_size=BATCH, sample_weight=weights, shuffle=False, epochs=2, verbose=0)
    predicted = model.predict(inputs, batch_size=BATCH, verbose=0)
    found = {name: [float(each) for each in values] for name, values in history.history.items()}
    return found | {f"predicted {name}": values.astype(float).ravel().tolist() for name, values in predicted.items()}


def own_logs(ranks: Any = None) -> Found:
    """Of a train_step that returns what is no metric, and a metric of the user's own with sums in it."""
    import keras
    import tensorflow as tf

    class Wrong(keras.metrics.Metric):
        def __init__(self) -> None:
            super().__init__(name="wrong")
            self.count = self.add_weight(shape=(), initializer="zeros", name="count")

        def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
            wrong = tf.argmax(y_pred, -1) != tf.cast(tf.reshape(y_true, [-1]), tf.int64)
            self.count.assign_add(tf.reduce_sum(tf.cast(wrong, tf.float32)))

        def result(self) -> Any:
            return self.count

    class Own(keras.Model):
        def train_step(self, data: Any) -> Any:
            x, y = data
            with tf.GradientTape() as tape:
                predicted = self(x, training=True)
                loss = self.compute_loss(x, y, predicted)
            weights = self.trainable_weights
            self.optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))
            return {"loss": loss, "mean": tf.reduce_mean(x), **self.compute_metrics(x, y, predicted)} | {"raw": loss}

    x, y = rows()
    inputs = keras.Input((FEATURES,))
    model = Own(
        inputs, keras.layers.Dense(CLASSES, activation="softmax", kernel_initializer="ones")(inputs), name="own"
    )

    def largest(y_true: Any, y_pred: Any) -> Any:
        return tf.reduce_mean(tf.reduce_max(y_pred, -1))  # one number for a batch

    model.compile(keras.optimizers.SGD(0.5), "sparse_categorical_crossentropy", metrics=[Wrong(), largest])
    if ranks is not None:
        ranks.distribute(model)
    history = model.fit(x, y, batch_size=BATCH, shuffle=False, epochs=2, verbose=0).history
    return {name: [float(each) for each in values] for name, values in history.items()}


def own_trackers(ranks: Any = None) -> Found:
    """Of a subclassed model that keeps its metrics itself, and counts a loss by no rows."""
    import keras
    import tensorflow as tf

    class Own(keras.Model):
        def __init__(self) -> None:
            super().__init__(name="of_trackers")
            self.dense = keras.layers.Dense(1, kernel_initializer="ones")
            self.tracker, self.error = keras.metrics.Mean(name="loss"), keras.metrics.MeanAbsoluteError(name="error")

        def call(self, x: Any) -> Any:
            return self.dense(x)

        def train_step(self, data: Any) -> Any:
            x, y = data
            with tf.GradientTape() as tape:
                predicted = self(x, training=True)
                loss = tf.reduce_mean((y - predicted) ** 2)
            weights = self.trainable_variables
            self.optimizer.apply(tape.gradient(loss, weights), weights)
            self.tracker.update_state(loss)
            self.error.update_state(y, predicted)
            return {metric.name: metric.result() for metric in self.metrics}

        @property
        def metrics(self) -> Any:
            return [self.tracker, self.error]

    x, y = rows()
    model = Own()
    model.compile(keras.optimizers.SGD(0.05), run_eagerly=True)
    if ranks is not None:
        ranks.distribute(model)
    history = model.fit(x, y[:, None].astype(np.float32), batch_size=BATCH, shuffle=False, epochs=2, verbose=0).history
    return {name: [float(each) for each in values] for name, values in history.items()}


def words(ranks: Any = None) -> Found:
    """Strings."""
    import keras
    import tensorflow as tf

    text, (_, y) = np.array(["one two", "two", "three", "one"])[np.arange(ROWS) % 4], rows()
    inputs = keras.Input((), dtype="string")
    counts = keras.layers.TextVectorization(vocabulary=["one", "two", "three"], output_mode="count")(inputs)
    outputs = keras.layers.Dense(CLASSES, activation="softmax", kernel_initializer="ones")(counts)
    model = keras.Model(inputs, outputs, name="of_words")
    model.compile(keras.optimizers.SGD(0.5), "sparse_categorical_crossentropy")
    if ranks is not None:
        ranks.distribute(model)
    history = model.fit(tf.data.Dataset.from_tensor_slices((text, y)).batch(BATCH), verbose=0).history
    return {name: [float(each) for each in values] for name, values in history.items()}


NEEDS: dict[str, Found] = {
    "BinaryIoU": {"target_class_ids": [0, 1], "threshold": 0.5},
    "IoU": {"num_classes": CLASSES, "target_class_ids": [0, 1]},
    "OneHotIoU": {"num_classes": CLASSES, "target_class_ids": [0, 2]},
    "MeanIoU": {"num_classes": CLASSES},
    "OneHotMeanIoU": {"num_classes": CLASSES},
    "PrecisionAtRecall": {"recall": 0.5},
    "RecallAtPrecision": {"precision": 0.4},
    "SensitivityAtSpecificity": {"specificity": 0.5},
    "SpecificityAtSensitivity": {"sensitivity": 0.5},
}
"""Arguments without a default."""
OF_CLASSES = ("SparseCategoricalAccuracy", "SparseTopKCategoricalAccuracy", "SparseCategoricalCrossentropy")
OF_INTEGERS = ("IoU", "MeanIoU")
OF_VALUES = ("Mean", "Sum")
NOT_TRIED = ("Metric", "MeanMetricWrapper")
"""What others are made of."""


def metric_names() -> list[str]:
    """Of the classes that keras.metrics exports, each once."""
    import keras

    classes = inspect.getmembers(keras.metrics, inspect.isclass)
    return sorted({kind.__name__ for _, kind in classes if issubclass(kind, keras.metrics.Metric)} - {*NOT_TRIED})


def arguments_of(name: str) -> tuple[np.ndarray, ...]:
    """Of an update with all rows: [ROWS, ...]; the last is the weight of each."""
    random = np.random.default_rng(1)
    predicted = random.uniform(0.05, 0.95, (ROWS, CLASSES)).astype(np.float32)
    predicted /= predicted.sum(-1, keepdims=True)
    classes = random.integers(0, CLASSES, ROWS)
    weights = random.uniform(0.5, 2, ROWS).astype(np.float32)
    if name in OF_VALUES:
        return predicted[:, 0], weights
    if name in OF_INTEGERS:
        return classes, random.integers(0, CLASSES, ROWS), weights
    if name in OF_CLASSES:
        return classes, predicted, weights
    return np.eye(CLASSES, dtype=np.float32)[classes], predicted, weights


def metrics_over_ranks(ranks: Ranks) -> dict[str, tuple[Any, Any]]:
    """Of each metric, what all ranks find of their rows together, and what one finds of all rows."""
    import keras

    from horovod_flowers.fit.metrics import summed_over_ranks

    metrics = {name: getattr(keras.metrics, name)(**NEEDS.get(name, {})) for name in metric_names()}
    whole = {name: type(metric).from_config(metric.get_config()) for name, metric in metrics.items()}
    for name, metric in metrics.items():
        *given, weights = arguments_of(name)
        own = slice(ranks.rank, None, ranks.size)
        options: dict[str, Any] = {} if "IoU" in name else {"sample_weight": weights}  # it counts in integers
        metric.update_state(*(each[own] for each in given), **{key: each[own] for key, each in options.items()})
        whole[name].update_state(*given, **options)
    before = [np.array(variable) for metric in metrics.values() for variable in metric.variables]
    with summed_over_ranks(list(metrics.values()), ranks):
        found = {name: np.asarray(metric.result(), float).tolist() for name, metric in metrics.items()}
    after = [np.array(variable) for metric in metrics.values() for variable in metric.variables]
    assert all(np.array_equal(one, other) for one, other in zip(before, after, strict=True))
    return {name: (found[name], np.asarray(whole[name].result(), float).tolist()) for name in metrics}


def order_of_rows(ranks: Ranks) -> Found:
    """Which rows all ranks together read, epoch by epoch, of what is shuffled without a seed."""
    import keras

    from horovod_flowers.fit.global_batches import GlobalBatches

    x, y = np.zeros((ROWS, 1), np.float32), np.arange(ROWS)
    found: Found = {}

    class Rows(keras.utils.PyDataset):
        def __len__(self) -> int:
            return ROWS

        def __getitem__(self, index: int) -> Any:
            return x[index : index + 1], y[index : index + 1]

    for name, given, shuffle in (
        ("arrays", (x, y), True),
        ("within batches", (x, y), "batch"),
        ("batches", (Rows(),), True),
    ):
        batches = GlobalBatches(*given, ranks=ranks, batch_size=BATCH, shuffle=shuffle)
        epochs = []
        for _ in range(2):
            batches.on_epoch_begin()
            read = [batch.data[1].numpy()[: int(float(batch.share) > 0) * ROWS].tolist() for batch in batches]
            batches.on_epoch_end()
            everybodys = ranks.allgather(read)
            epochs.append([row for step in zip(*everybodys, strict=True) for part in step for row in part])
        found[name] = epochs
    batches = GlobalBatches(py_dataset(), ranks=ranks, steps=2)
    read = []
    for iterator in [iter(batches)] * 2:
        read += [ranks.allgather(batch.data[1].numpy().tolist()) for batch in iterator.take(2)]
        batches.on_epoch_end()
    found["changed in a pass"] = [[row for part in step for row in part] for step in read]
    y = rows()[1]
    found["expected"] = [list(batches_of(y, np.roll(y, step // 2)))[step][1].tolist() for step in range(4)]
    return found


def ragged_and_sparse(ranks: Ranks) -> Found:
    """Of which the rows of all ranks are those of the data."""
    import tensorflow as tf

    from horovod_flowers.fit.global_batches import GlobalBatches

    lengths = np.arange(5) % 3 + 1
    ragged = tf.RaggedTensor.from_row_lengths(np.arange(lengths.sum()), lengths)
    dense = np.eye(5, dtype=np.float32)
    sparse = tf.sparse.from_dense(dense)
    found: Found = {"ragged": ragged.to_list(), "sparse": dense.tolist()}
    for name, data, rows_of in (
        ("ragged", ragged, lambda part: part.to_list()),
        ("sparse", sparse, lambda part: tf.sparse.to_dense(tf.sparse.reorder(part)).numpy().tolist()),
    ):
        for source, given in (("array", data), ("dataset", tf.data.Dataset.from_tensor_slices(data).batch(4))):
            read = []
            for batch in GlobalBatches(given, ranks=ranks, batch_size=4):
                read.append(rows_of(batch.data) if float(batch.share) > 0 else [])
            everybodys = ranks.allgather(read)
            found[f"{name} {source}"] = [row for step in zip(*everybodys, strict=True) for part in step for row in part]
    return found


def independent(ranks: Any) -> tuple[list[list[float]], list[list[float]]]:
    """Weights that each rank trains with strategy 'none', and that Keras trains on the rows of this rank alone."""
    import keras

    x, y = rows()
    x, y = x[: 4 * 2 * ranks.size], y[: 4 * 2 * ranks.size]
    own = np.arange(len(x)).reshape(-1, ranks.size, 2)[:, ranks.rank].ravel()
    found = []
    for strategy, given, batch in (("none", (x, y), 2 * ranks.size), (None, (x[own], y[own]), 2)):
        model = keras.Sequential([keras.Input((FEATURES,)), keras.layers.Dense(CLASSES, kernel_initializer="ones")])
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.Adam(0.1), loss, run_eagerly=True)
        if strategy is not None:
            ranks.distribute(model, strategy)
        model.fit(*given, batch_size=batch, shuffle=False, epochs=2, verbose=0)
        found.append([each.ravel().tolist() for each in model.get_weights()])
    return found[0], found[1]


def refusals(ranks: Any) -> dict[str, str]:
    """What rank 1 is told of data that ranks cannot train on."""
    import keras
    import tensorflow as tf

    x, y = rows()
    rank, model = ranks.rank, Model(ranks)

    class Largest(keras.metrics.Metric):
        def __init__(self) -> None:
            super().__init__(name="largest")
            self.value = self.add_weight(shape=(), initializer="zeros", name="value")

        def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
            self.value.assign(tf.maximum(self.value.value, tf.reduce_max(y_pred)))

        def result(self) -> Any:
            return self.value

    def failing() -> Any:
        yield from batches_of(x[:14], y[:14])
        if rank == 1:
            raise OSError("the disk is gone")
        yield x[14:], y[14:]

    def other_later(labels: bool) -> Any:
        """The third batch is another one on rank 1."""
        for number, (inputs, targets) in enumerate(batches_of(x, y)):
            other = number == 2 and rank == 1
            yield inputs + (other and not labels), (targets + (other and labels)) % CLASSES

    def changed_and_other_later() -> Any:
        """Inputs differ from the first batch on, labels in the third."""
        for inputs, targets in other_later(labels=True):
            yield inputs + rank, targets

    def changing() -> Any:
        return dataset().map(lambda x, y: (x + tf.random.uniform(tf.shape(x), seed=rank), y))

    many = {"epochs": 1, "batch_size": BATCH}
    cases: dict[str, Callable[[], Any]] = {
        "other arrays": lambda: model.fit({"x": x + (rank == 1), "y": y + 0, **many}),
        "another order": lambda: model.fit({"x": np.roll(x, rank, 0), "y": np.roll(y, rank), **many}),
        "other lengths": lambda: model.fit({"x": x[rank:], "y": y[rank:], **many}),
        "a sharded dataset": lambda: model.fit({"x": dataset().repeat().shard(ranks.size, rank), "steps_per_epoch": 1}),
        "shuffled otherwise": lambda: model.fit({"x": dataset().unbatch().shuffle(ROWS, seed=rank).batch(BATCH)}),
        "unequal ends": lambda: model.fit({"x": dataset().filter(lambda x, y: True).take(2 + rank)}),
        "a failure on one rank": lambda: model.fit({"x": failing(), "epochs": 1}),
        "other inputs later": lambda: model.fit({"x": other_later(labels=False), "epochs": 1}),
        "other labels later": lambda: model.fit({"x": other_later(labels=True), "epochs": 1}),
        "augmented, and other labels later": lambda: model.fit({"x": changed_and_other_later(), "epochs": 1}),
        "not batched": lambda: model.fit({"x": tf.data.Dataset.from_tensor_slices((x, y))}),
        "workers and steps": lambda: model.fit({"x": py_dataset(workers=2), "steps_per_epoch": 2}),
        "other epochs": lambda: model.fit({"x": x, "y": y, "epochs": 1 + rank}),
        "a largest value": lambda: Model(ranks, metrics=[Largest()]).fit({"x": x, "y": y}),
        "arrays of two lengths": lambda: model.fit({"x": x[1:], "y": y}),
        "test_on_batch": lambda: model.model.test_on_batch(x, y),
        "no rows": lambda: model.fit({"x": x[:0], "y": y[:0]}),
        "augmented alike": lambda: model.fit({"x": changing()}),
    }
    found = {}
    for name, case in cases.items():
        try:
            case()
            found[name] = "trained"
        except UserError as error:
            found[name] = str(error)
    return found


def sharded(ranks: Any) -> Found:
    """Of `ranks.shard`: the mean over rows, by shares; and what an uneven batch says without them."""
    import tensorflow as tf

    means = [
        (float(tf.reduce_mean(data[0])) * float(share), float(share))
        for data, share in ranks.shard(dataset(), with_share=True)
    ]
    sums = ranks.plain.allreduce_sum(np.array(means)) / ranks.size
    whole = [float(tf.reduce_mean(data[0])) for data in dataset()]
    even = [len(data[1]) for data in ranks.shard(dataset().unbatch().batch(2 * ranks.size, drop_remainder=True))]
    try:
        list(ranks.shard(dataset()))
        uneven = ""
    except tf.errors.InvalidArgumentError as error:
        uneven = error.message
    return {"means": sums[:, 0].tolist(), "shares": sums[:, 1].tolist(), "whole": whole, "even": even, "uneven": uneven}


def main() -> None:
    ranks = horovod_flowers.start()
    import tensorflow as tf

    # Most of the time of this program is the making of graphs.
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    together, alone = Model(ranks), Model() if ranks.rank == 0 else None
    found: Found = {"fit": {}, "metrics": metrics_over_ranks(ranks.plain)}
    for name in given_to_fit():
        mine = together.fit(given_to_fit()[name]())
        found["fit"][name] = (mine, alone.fit(given_to_fit()[name]()) if alone else {})
    found["calls"] = (together.evaluate_and_predict(), alone.evaluate_and_predict() if alone else {})
    for case in (several_inputs_and_outputs, own_logs, own_trackers, words):
        found["fit"][case.__name__] = (case(ranks), case() if ranks.rank == 0 else {})
    found |= {"order": order_of_rows(ranks.plain), "kinds": ragged_and_sparse(ranks.plain), "shard": sharded(ranks)}
    found["independent"] = independent(ranks)
    found["refusals"] = refusals(ranks)
    everybodys = ranks.plain.gather(found)
    if ranks.rank == 0:
        Path(sys.argv[1]).write_text(json.dumps(everybodys))
    ranks.barrier()


if __name__ == "__main__":
    main()
