"""A program for 2 ranks: a callback of each kind in `fit`, where rank 1's own metric would decide otherwise than all
rows do; writes what each rank has done, and what one rank does with all rows.

    mpirun -np 2 python -m tests.parallel.fit_callbacks OUTPUT.json

One weight w, predictions w, targets 4 (rank 0's rows) and 0 (rank 1's rows): from w = 0 the loss over all rows falls
until w is 2, while that of rank 1's rows rises from the beginning.
"""

import http.server
import json
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import horovod_flowers
from horovod_flowers.runtime.errors import UserError

ROWS, EPOCHS = 8, 5
Found = dict[str, Any]


def data() -> tuple[np.ndarray, np.ndarray]:
    """Two global batches of ROWS rows each; of each, the first half belongs to rank 0."""
    targets = np.array([[4.0]] * (ROWS // 2) + [[0.0]] * (ROWS // 2), np.float32)
    return np.ones((2 * ROWS, 1), np.float32), np.concatenate([targets, targets])


def make(**options: Any) -> Any:
    import keras

    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)], name="one_weight")
    model.compile(keras.optimizers.SGD(0.02, **options), "mse")
    return model


class Cases:
    """The fits of this rank, or of a model that is not distributed."""

    def __init__(self, ranks: Any = None) -> None:
        self._ranks, self.rank = ranks, -1 if ranks is None else ranks.rank
        self._model, self._averaged = self._on_all(make()), self._on_all(make(use_ema=True, ema_momentum=0.5))

    def _on_all(self, model: Any, **options: Any) -> Any:
        return model if self._ranks is None else self._ranks.distribute(model, **options)

    def divided(self) -> Any:
        """A new model of some weights, whose optimizer keeps a state."""
        import keras

        layers = [keras.layers.Dense(64, "relu", kernel_initializer="ones"), keras.layers.Dense(1)]
        model = keras.Sequential([keras.Input((1,)), *layers], name="divided")
        model.set_weights([each if each.ndim == 1 else np.full(each.shape, 0.1) for each in model.get_weights()])
        model.compile(keras.optimizers.Adam(0.01), "mse")
        return self._on_all(model, strategy="sharded", shard_above=32)

    def fit(self, *callbacks: Any, epochs: int = EPOCHS, averaged: bool = False, **options: Any) -> Found:
        """What a fit from w = 0 shows, epoch by epoch."""
        import keras

        model = self._averaged if averaged else self._model
        model.set_weights([np.zeros((1, 1), np.float32)])
        model.optimizer.learning_rate = 0.02
        model.optimizer.iterations.assign(0)
        own: list[float] = []

        class Watch(keras.callbacks.Callback):
            def on_test_end(self, logs: Any = None) -> None:
                own.append(float(model.metrics[0].result()))  # the state of this rank

        x, y = data()
        held_out = {"validation_data": (x[:ROWS], y[:ROWS])} if "y" not in options else {}
        arguments: dict[str, Any] = {
            "x": x,
            "y": y,
            "batch_size": ROWS,
            "shuffle": False,
            "verbose": 0,
            "epochs": epochs,
        }
        watch = [Watch()] if held_out else []
        history = model.fit(**(arguments | held_out | options), callbacks=[*callbacks, *watch])
        return {
            "epochs": history.epoch,
            "history": {name: [float(each) for each in values] for name, values in history.history.items()},
            "own": own,
            "weight": float(model.get_weights()[0][0, 0]),
            "rate": float(model.optimizer.learning_rate),
            "steps": int(model.optimizer.iterations),
        }


def early_stopping(cases: Cases) -> Found:
    import keras

    return cases.fit(keras.callbacks.EarlyStopping("val_loss", patience=1))


def stopped_early(cases: Cases) -> Found:
    import keras

    stopping = keras.callbacks.EarlyStopping("val_loss", patience=1, min_delta=0.45, restore_best_weights=True)
    return cases.fit(stopping, epochs=30)


def plateau(cases: Cases) -> Found:
    import keras

    return cases.fit(keras.callbacks.ReduceLROnPlateau("val_loss", factor=0.5, patience=1, min_delta=0.45), epochs=8)


def checkpoint(cases: Cases) -> Found:
    import keras

    folder = Path(f"checkpoints_of_{cases.rank}")
    best = keras.callbacks.ModelCheckpoint(folder / "{epoch}.keras", "val_loss", save_best_only=True)
    found = cases.fit(best, epochs=3)
    weights = [
        float(keras.models.load_model(path, compile=False).get_weights()[0][0, 0]) for path in sorted(folder.glob("*"))
    ]
    return found | {"files": sorted(path.name for path in folder.glob("*")), "weights": weights}


def checkpoint_by_batches(cases: Cases) -> Found:
    """Files are named by the loss, as all ranks see it."""
    import keras

    folder = Path(f"batches_of_{cases.rank}")
    named = folder / "{epoch}-{batch}-{loss:.2f}.weights.h5"
    found = cases.fit(keras.callbacks.ModelCheckpoint(named, save_weights_only=True, save_freq=1), epochs=2)
    return found | {"files": sorted(path.name for path in folder.glob("*"))}


def backup(cases: Cases) -> Found:
    import keras

    folder = Path(f"backup_of_{cases.rank}")
    cases.fit(keras.callbacks.BackupAndRestore(folder, delete_checkpoint=False), epochs=2)
    found = cases.fit(keras.callbacks.BackupAndRestore(folder), epochs=4)
    return found | {"files": sorted(path.name for path in folder.glob("*"))}


def csv_logger(cases: Cases) -> Found:
    import keras

    path = Path(f"log_of_{cases.rank}.csv")
    found = cases.fit(keras.callbacks.CSVLogger(path), epochs=2)
    return found | {"lines": path.read_text().splitlines() if path.exists() else None}


def own_csv_logger(cases: Cases) -> Found:
    """A subclass runs on every rank, since it may decide something, and writes on rank 0."""
    import keras

    class Stopping(keras.callbacks.CSVLogger):
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            super().on_epoch_end(epoch, logs)
            self.model.stop_training = epoch == 2

    path = Path(f"own_log_of_{cases.rank}.csv")
    found = cases.fit(Stopping(path))
    return found | {"lines": len(path.read_text().splitlines()) if path.exists() else None}


def tensorboard(cases: Cases) -> Found:
    import keras

    files = {}
    for freq in (0, 1):
        folder = Path(f"board_{freq}_of_{cases.rank}")
        found = cases.fit(keras.callbacks.TensorBoard(folder, histogram_freq=freq), epochs=2)
        files[freq] = sorted({path.parent.name for path in folder.rglob("*") if path.is_file()})
    return found | {"files": list(files.values())}


def not_a_number(cases: Cases) -> Found:
    """Of rank 1's rows alone; in the second batch."""
    import keras

    y = data()[1].copy()
    y[-1] = np.nan
    return cases.fit(keras.callbacks.TerminateOnNaN(), y=y, epochs=3)


def schedule(cases: Cases) -> Found:
    import keras

    return cases.fit(keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate * 0.5 if epoch else rate), epochs=3)


def function_of_batches(cases: Cases) -> Found:
    """A user's own decision by the loss of a batch: stop when it is below 7.8, which rank 1's own never is."""
    import keras

    seen: list[float] = []

    def look(batch: int, logs: Any = None) -> None:
        seen.append(float(logs["loss"]))
        if logs["loss"] < 7.8:
            model.stop_training = True

    model = cases._model
    return cases.fit(keras.callbacks.LambdaCallback(on_train_batch_end=look)) | {"seen": seen}


def averaged_weights(cases: Cases) -> Found:
    import keras

    return cases.fit(keras.callbacks.SwapEMAWeights(), averaged=True, epochs=3)


def stopped_by_rank_1(cases: Cases) -> Found:
    """In the second batch of the second epoch; what one rank does: the same."""
    import keras

    class Stop(keras.callbacks.Callback):
        epoch = 0

        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            self.epoch = epoch

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            if cases.rank in (1, -1):
                self.model.stop_training = (self.epoch, batch) == (1, 0)

    return cases.fit(Stop())


def early_stopping_of_rank_0(cases: Cases) -> Found:
    """What users write today, and what ends in a hang."""
    import keras

    stopping = keras.callbacks.EarlyStopping("val_loss", patience=1, min_delta=0.45)
    return cases.fit(*([stopping] if cases.rank <= 0 else []), epochs=30)


def best_weights_of_rank_0(cases: Cases) -> Found:
    """Restored at the end of the fit, on the rank that has the callback, and so on all."""
    import keras

    stopping = keras.callbacks.EarlyStopping("val_loss", patience=1, min_delta=0.45, restore_best_weights=True)
    return cases.fit(*([stopping] if cases.rank <= 0 else []), epochs=30)


def remote_monitor(cases: Cases) -> Found:
    """A server is told of each epoch once, by rank 0."""
    import keras

    told: list[Any] = []

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *words: Any) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monitor = keras.callbacks.RemoteMonitor(f"http://127.0.0.1:{server.server_port}", send_as_json=True)
        found = cases.fit(monitor, epochs=2)
        server.shutdown()
    return found | {"lines": [round(each["loss"], 4) for each in told]}


def stopped_evaluation(cases: Cases) -> Found:
    import keras

    class Stop(keras.callbacks.Callback):
        def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
            self.model.stop_evaluating = cases.rank in (1, -1)

    x, y = data()
    cases._model.set_weights([np.ones((1, 1), np.float32)])
    changed = np.concatenate([y[:ROWS], y[ROWS:] + 1])
    return {"loss": float(cases._model.evaluate(x, changed, batch_size=ROWS, verbose=0, callbacks=[Stop()]))}


def checkpoint_of_rank_0(cases: Cases) -> Found:
    import keras

    return cases.fit(*([keras.callbacks.ModelCheckpoint("only_0.keras")] if cases.rank <= 0 else []), epochs=1)


def rates_that_differ(cases: Cases) -> Found:
    import keras

    return cases.fit(keras.callbacks.LearningRateScheduler(lambda epoch: 0.01 * (2 + max(cases.rank, 0))), epochs=1)


def divided_state(cases: Cases) -> Found:
    """Every rank holds a part of the optimizer's state: to save it takes all of them."""
    import keras

    x, y = data()
    model = cases.divided()
    folder = Path(f"divided_of_{cases.rank}")
    stopping = keras.callbacks.EarlyStopping("val_loss", patience=1, min_delta=1.0, restore_best_weights=True)
    saving = [
        keras.callbacks.ModelCheckpoint(folder / "{epoch}.keras", "val_loss", save_best_only=True),
        keras.callbacks.BackupAndRestore(folder / "backup", save_freq=2),
        keras.callbacks.TensorBoard(folder / "board", histogram_freq=1),
    ]
    options: Found = {"batch_size": ROWS, "shuffle": False, "verbose": 0, "validation_data": (x[:ROWS], y[:ROWS])}
    history = model.fit(x, y, epochs=6, callbacks=[stopping, *saving], **options)
    return {
        "epochs": history.epoch,
        "history": {name: [float(each) for each in values] for name, values in history.history.items()},
        "weight": float(sum(np.abs(each).sum() for each in model.get_weights())),
        "files": sorted(path.name for path in folder.glob("*")),
    }


DECISIONS: tuple[Callable[[Cases], Found], ...] = (
    early_stopping,
    stopped_early,
    plateau,
    checkpoint,
    checkpoint_by_batches,
    csv_logger,
    own_csv_logger,
    tensorboard,
    not_a_number,
    schedule,
    function_of_batches,
    averaged_weights,
    stopped_by_rank_1,
    early_stopping_of_rank_0,
    best_weights_of_rank_0,
    remote_monitor,
    stopped_evaluation,
    divided_state,
    backup,  # the last: Keras begins every later fit of the same model where it went on
)
REFUSALS = (checkpoint_of_rank_0, rates_that_differ)


def main() -> None:
    ranks = horovod_flowers.start()
    import tensorflow as tf

    # Most of the time of this program is the making of graphs.
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    own = Cases(ranks)
    found: dict[str, Any] = {}
    for refusal in REFUSALS:
        try:
            refusal(own)
        except UserError as error:
            found[refusal.__name__] = str(error)
    found |= {case.__name__: case(own) for case in DECISIONS}
    everybodys = ranks.plain.gather(found)
    if ranks.rank == 0:
        alone = Cases()
        told = {"ranks": everybodys, "alone": {case.__name__: case(alone) for case in DECISIONS}}
        Path(sys.argv[1]).write_text(json.dumps(told))
    ranks.barrier()


if __name__ == "__main__":
    main()
