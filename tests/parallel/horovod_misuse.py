# ruff: noqa: E402
"""Run under MPI: a script that makes a mistake with horovod_flowers.keras.

mpirun -np 2 python -m tests.parallel.horovod_misuse MISTAKE
"""

import sys
import time
from typing import Any

from horovod_flowers.ranks.tensorflow_import import import_tensorflow

import_tensorflow()  # in half the time

import keras
import numpy as np

import horovod_flowers.keras as hvd


class FailsOnRankOne(keras.callbacks.Callback):
    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if hvd.rank() == 1 and batch == 2:
            raise KeyError("a callback of rank 1")


class HangsOnRankOne(keras.callbacks.Callback):
    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if hvd.rank() == 1 and batch == 2:
            time.sleep(1000)


def main(mistake: str) -> None:
    hvd.init()
    units = 3 if mistake == "model" and hvd.rank() == 1 else 2
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(units), keras.layers.Dense(1)])
    op = hvd.Sum if mistake == "arguments" and hvd.rank() == 1 else hvd.Average
    model.compile(hvd.DistributedOptimizer(keras.optimizers.SGD(0.01), op=op), "mse")
    if mistake == "jit":
        model.compile(model.optimizer, "mse", jit_compile=True)
    if mistake == "some" and hvd.rank() == 1:
        return
    callbacks: list[Any] = [hvd.callbacks.BroadcastGlobalVariablesCallback(0)]
    if mistake in ("some", "hang", "jit"):
        callbacks.clear()
    if mistake in ("hang", "callback"):
        callbacks.append(HangsOnRankOne() if mistake == "hang" else FailsOnRankOne())
    steps = 5 if mistake == "short" else None
    rows = 20 if mistake in ("steps", "short") and hvd.rank() == 1 else 16
    x, y = np.ones((rows, 3)), np.ones((rows, 1))
    model.fit(x, y, batch_size=4, verbose=0, callbacks=callbacks, steps_per_epoch=steps)
    print("trained", flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
