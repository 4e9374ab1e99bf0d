"""A program for any number of ranks: fits that are asked to stop, and go on; writes what they have trained, beside what
one trains that nobody stops.

    mpirun -np 2 python -m tests.parallel.fit_stopped OUTPUT.json
"""

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import horovod_flowers
from horovod_flowers.runtime.errors import UserError

ROWS, BATCH, EPOCHS = 45, 6, 3
STEPS = 8
"""Of an epoch; the last has three rows."""


def rows() -> tuple[np.ndarray, np.ndarray]:
    x = np.random.default_rng(0).normal(size=(ROWS, 5)).astype(np.float32)
    return x, (x.sum(1) > 0).astype(np.int32)


def arrays(ranks: Any) -> dict[str, Any]:
    """Shuffled: by ranks in an order that a backup keeps."""
    x, y = rows()
    return {"x": x, "y": y, "batch_size": BATCH, "shuffle": ranks.size > 1, "validation_data": (x[:9], y[:9])}


def py_dataset(ranks: Any) -> dict[str, Any]:
    import keras

    x, y = rows()

    class Batches(keras.utils.PyDataset):
        def __len__(self) -> int:
            return STEPS

        def __getitem__(self, index: int) -> Any:
            return x[index * BATCH : (index + 1) * BATCH], y[index * BATCH : (index + 1) * BATCH]

    return {"x": Batches(), "shuffle": ranks.size > 1}


def steps_of_dataset(ranks: Any) -> dict[str, Any]:
    import tensorflow as tf

    return {"x": tf.data.Dataset.from_tensor_slices(rows()).batch(BATCH).repeat(), "steps_per_epoch": STEPS}


CASES: dict[str, tuple[Callable[[Any], dict[str, Any]], str, int, int]] = {
    "in the middle of an epoch": (arrays, "allreduce", 11, 1),
    "at the end of an epoch, weights divided": (arrays, "sharded", 16, 1),
    "of a PyDataset, a layer divided, several steps at a time": (py_dataset, "tensor", 4, 2),
    "with steps_per_epoch": (steps_of_dataset, "allreduce", 13, 1),
}
"""Data, strategy, the step at which one rank is told to stop, and steps that are computed at a time."""


def make(ranks: Any, strategy: str, at_a_time: int) -> Any:
    import keras

    keras.utils.set_random_seed(7)
    layers = [
        keras.layers.Dense(32, "relu"),
        keras.layers.BatchNormalization(),
        keras.layers.Dropout(0.3),
        keras.layers.Dense(2),
    ]
    model = keras.Sequential([keras.Input((5,)), *layers])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    options = {"shard_above": 100} if strategy in ("sharded", "tensor") and ranks.size > 1 else {}
    strategy = strategy if ranks.size > 1 else "allreduce"
    model.compile(
        keras.optimizers.Adam(0.01),
        loss,
        metrics=["accuracy"],
        steps_per_execution=at_a_time,
        run_eagerly=strategy != "sharded",  # to make graphs takes longest
    )
    return ranks.distribute(model, strategy, **options)


def fit(ranks: Any, name: str, *callbacks: Any) -> Any:
    """What a fit from the beginning of a script has trained."""
    import keras

    data, strategy, _, at_a_time = CASES[name]
    model, begun = make(ranks, strategy, at_a_time), []
    watch = keras.callbacks.LambdaCallback(on_train_batch_begin=lambda batch, logs: begun.append(batch))
    history = model.fit(**data(ranks), epochs=EPOCHS, verbose=0, callbacks=[watch, *callbacks])
    return {
        "epochs": history.epoch,
        "begun": begun,
        "history": {key: [float(each) for each in values] for key, values in history.history.items()},
        "weights": [float(np.linalg.norm(each)) for each in model.get_weights()],
        "steps": int(model.optimizer.iterations),
    }


def stopped(ranks: Any, name: str, folder: str) -> int:
    """A fit, and the status with which it ends."""
    import keras

    stop, told = CASES[name][2], ranks.size - 1

    class Tell(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            if int(self.model.optimizer.iterations) == stop and ranks.rank == told:
                os.kill(os.getpid(), signal.SIGUSR1)

    try:
        fit(ranks, name, Tell(), keras.callbacks.BackupAndRestore(folder))
    except SystemExit as end:
        ranks.stop_request._own = 0  # as in a new process
        return int(end.code or 0)
    return 0


def by_step(ranks: Any) -> dict[str, Any]:
    """A job that was killed after its backup at the sixth step, with Keras' save_freq."""
    import keras

    class Killed(Exception):
        pass

    kept = Path("kept")

    class Kill(keras.callbacks.Callback):
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            if epoch == 0 and ranks.is_root:
                shutil.copytree("by_step", kept)

    name = "with steps_per_epoch"
    backup = keras.callbacks.BackupAndRestore("by_step", save_freq=6)
    fit(ranks, name, backup, Kill())
    ranks.barrier()
    return fit(ranks, name, keras.callbacks.BackupAndRestore("kept"))


def other_batches(ranks: Any, **settings: int) -> Any:
    """Batches that are others than when the backup was made: the epoch begins anew."""
    import keras

    stopped(ranks, "in the middle of an epoch", "other")
    model = make(ranks, "allreduce", 1)
    x, y = rows()
    backup = keras.callbacks.BackupAndRestore("other")
    history = model.fit(x, y, epochs=EPOCHS, verbose=0, callbacks=[backup], **settings)
    return {"epochs": history.epoch, "steps": int(model.optimizer.iterations)}


def independent(ranks: Any) -> str | None:
    import keras

    x, y = rows()
    try:
        make(ranks, "none", 1).fit(x, y, verbose=0, callbacks=[keras.callbacks.BackupAndRestore("none")])
    except UserError as error:
        return str(error)
    return None


def main() -> None:
    ranks = horovod_flowers.start()
    import keras
    import tensorflow as tf

    # Most of what is left of the time is the making of graphs.
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    found: dict[str, Any] = {}
    for number, name in enumerate(CASES):
        folder = f"backup_{number}"
        expected = fit(ranks, name)
        status = stopped(ranks, name, folder)
        there = sorted(path.name for path in Path(folder).glob("*"))
        gone_on = fit(ranks, name, keras.callbacks.BackupAndRestore(folder))
        found[name] = {"status": status, "files": there, "expected": expected, "gone on": gone_on}
    found["by step"] = by_step(ranks)
    if ranks.size > 1:
        found["other steps"] = other_batches(ranks, batch_size=9)
        found["other rows"] = other_batches(ranks, batch_size=5, steps_per_epoch=STEPS)
        found["independent"] = independent(ranks)
    everybodys = ranks.plain.gather(found)
    if ranks.is_root:
        Path(sys.argv[1]).write_text(json.dumps(everybodys))
    ranks.barrier()


if __name__ == "__main__":
    main()
