"""The callbacks of Horovod's Keras interface."""

from typing import Any

import horovod.tensorflow as hvd
import keras

from horovod_flowers.keras.argument_error import ArgumentError
from horovod_flowers.keras.broadcast import BroadcastGlobalVariablesCallback
from horovod_flowers.keras.learning_rate import LearningRateScheduleCallback, LearningRateWarmupCallback
from horovod_flowers.keras.metric_average import MetricAverageCallback

__all__ = [
    "BestModelCheckpoint",
    "BroadcastGlobalVariablesCallback",
    "LearningRateScheduleCallback",
    "LearningRateWarmupCallback",
    "MetricAverageCallback",
]


class BestModelCheckpoint(keras.callbacks.ModelCheckpoint):
    """Writes the best model so far, on rank 0, to `filepath`, an attribute to be set before training."""

    def __init__(
        self,
        monitor: str = "val_loss",
        verbose: int = 0,
        save_weights_only: bool = False,
        mode: str = "auto",
        save_freq: Any = "epoch",
    ) -> None:
        """Arguments as of keras.callbacks.ModelCheckpoint. A MetricAverageCallback before it makes ranks agree."""
        super().__init__(
            "best.weights.h5" if save_weights_only else "best.keras",  # which Keras asks for
            monitor=monitor,
            verbose=verbose,
            save_best_only=True,
            save_weights_only=save_weights_only,
            mode=mode,
            save_freq=save_freq,
        )
        self.filepath: str | None = None

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Raises ArgumentError where there is no file to write to, or one that Keras cannot write."""
        ending = ".weights.h5" if self.save_weights_only else ".keras"
        if self.filepath is None:
            raise ArgumentError(f"BestModelCheckpoint has no file: set its filepath, such as 'best{ending}'")
        self.filepath = str(self.filepath)
        if not self.filepath.endswith(ending):
            raise ArgumentError(f"BestModelCheckpoint's filepath is {self.filepath!r}, and has to end in {ending}")
        super().on_train_begin(logs)

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """On rank 0."""
        if hvd.rank() == 0:
            super().on_train_batch_end(batch, logs)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """On rank 0."""
        if hvd.rank() == 0:
            super().on_epoch_end(epoch, logs)
