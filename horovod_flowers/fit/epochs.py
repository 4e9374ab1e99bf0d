"""What all ranks do at the end of an epoch, and where this one stands meanwhile."""

from typing import Any

import keras

from horovod_flowers.fit.state import State
from horovod_flowers.runtime.heartbeat import HEARTBEAT


class Epochs(keras.callbacks.Callback):
    """Before all other callbacks: what all ranks do at the end of an epoch, and where this one stands."""

    def __init__(self, state: State) -> None:
        super().__init__()
        self._state, self._first, self._epoch = state, True, 0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._epoch = epoch + 1
        HEARTBEAT.at("the beginning of epoch {}", self._epoch)

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self._state.step_begins()
        HEARTBEAT.at("epoch {}, step {}", self._epoch, batch, long=self._first)
        HEARTBEAT.wait_begins()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self._first = False
        HEARTBEAT.at("callbacks after epoch {}, step {}", self._epoch, batch)

    def on_test_batch_begin(self, batch: int, logs: Any = None) -> None:
        HEARTBEAT.at("the validation after epoch {}, step {}", self._epoch, batch, long=batch == 0)
        HEARTBEAT.wait_begins()

    def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
        HEARTBEAT.at("callbacks in the validation after epoch {}, step {}", self._epoch, batch)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self._state.steps_end()
        HEARTBEAT.at("callbacks after epoch {}", self._epoch, long=True)
