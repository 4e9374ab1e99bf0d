# ruff: noqa: E402
"""Run by horovodrun with a discovery script: a rank comes, and later is killed, while a model is trained.

    python -m tests.parallel.horovod_elastic FILE_OF_HOSTS RESULTS.json

The first rank adds the other to the hosts. All ranks have the same data, so the weights are those of one rank alone.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from horovod_flowers.ranks.tensorflow_import import import_tensorflow

import_tensorflow()  # in half the time

import keras
import numpy as np

import horovod_flowers.keras as hvd

FIRST_HOST, OTHER_HOST = "localhost", "127.0.0.1"
EPOCHS, STEPS = 3, 4


class Events(keras.callbacks.Callback):
    """After the other callbacks."""

    def __init__(self, state: Any, hosts: Path) -> None:
        super().__init__()
        self.state, self.hosts = state, hosts

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        place = (hvd.size(), self.state.epoch, self.state.batch)
        if place == (1, 0, 2) and OTHER_HOST not in self.hosts.read_text():
            self.hosts.with_name("new").write_text(f"{FIRST_HOST}:1\n{OTHER_HOST}:1\n")
            self.hosts.with_name("new").replace(self.hosts)
            while self.state._host_messages.empty():  # until horovodrun has told
                time.sleep(0.05)
        if place == (2, 1, 3) and os.environ["HOROVOD_HOSTNAME"] == OTHER_HOST:
            os.kill(os.getpid(), signal.SIGKILL)


def model_and_data() -> tuple[keras.Model, np.ndarray, np.ndarray]:
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4, "relu"), keras.layers.Dense(1)])
    # Batches alike: Keras' fit begins an epoch that it goes on with at the first of them.
    x = np.tile(np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32), (STEPS, 1))
    return model, x, x.sum(axis=1, keepdims=True)


def main(hosts: Path, results: Path) -> None:
    hvd.init()
    model, x, y = model_and_data()
    model.compile(hvd.DistributedOptimizer(keras.optimizers.SGD(0.01, momentum=0.9)), "mse")
    state = hvd.elastic.KerasState(model, batch=0, epoch=0)
    seen: list[list[int]] = []

    @hvd.elastic.run
    def train(state: Any) -> None:
        seen.append([hvd.size(), state.epoch, state.batch, int(model.optimizer.iterations)])
        callbacks = [
            hvd.elastic.UpdateEpochStateCallback(state),
            hvd.elastic.UpdateBatchStateCallback(state),
            Events(state, hosts),
            hvd.elastic.CommitStateCallback(state, 2),
        ]
        left = EPOCHS - state.epoch
        model.fit(x, y, batch_size=4, epochs=left, shuffle=False, verbose=0, callbacks=callbacks)

    train(state)
    own, x, y = model_and_data()
    own.compile(keras.optimizers.SGD(0.01, momentum=0.9), "mse")
    own.fit(x, y, batch_size=4, epochs=EPOCHS, shuffle=False, verbose=0)
    differences = [float(np.abs(a - b).max()) for a, b in zip(own.get_weights(), model.get_weights(), strict=True)]
    results.write_text(
        json.dumps([seen, int(model.optimizer.iterations), max(differences), [state.epoch, state.batch]])
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
