"""Learning rates by epoch: schedules, and the warm-up to the rate of a larger batch (Goyal et al. 2017, 1706.02677)."""

from collections.abc import Callable
from typing import Any

import horovod.tensorflow as hvd
import keras

from horovod_flowers.keras.argument_error import ArgumentError
from horovod_flowers.model.keras_internals import velocities


class LearningRateScheduleCallback(keras.callbacks.Callback):
    """Sets the learning rate between two epochs to `initial_lr` times a factor."""

    def __init__(
        self,
        initial_lr: float,
        multiplier: float | Callable[[float], float],
        start_epoch: int = 0,
        end_epoch: int | None = None,
        staircase: bool = True,
        momentum_correction: bool = True,
        steps_per_epoch: int | None = None,
    ) -> None:
        """Every rank has one, with the same arguments.

        initial_lr: the learning rate that is multiplied.
        multiplier: the factor, as a function of the epoch; a number m for m ** (epoch - start_epoch).
        start_epoch, end_epoch: the first epoch of the schedule, and the first after it (None: it has no end).
        staircase: set at the start of each epoch, else of each batch, whose epoch then is epoch + batch / steps.
        momentum_correction: scale the momentum of SGD and RMSprop with the learning rate (Goyal et al., section 3).
        steps_per_epoch: where Keras does not know it (generators) and staircase is False.
        Raises ArgumentError for an initial_lr of None.
        """
        super().__init__()
        if initial_lr is None:
            raise ArgumentError("initial_lr is None: give the learning rate that the schedule multiplies")
        self.initial_lr, self.start_epoch, self.end_epoch = initial_lr, start_epoch, end_epoch
        self.staircase, self.momentum_correction = staircase, momentum_correction
        self.steps_per_epoch = steps_per_epoch
        self.current_epoch = 0
        self.multiplier: Callable[[float], float]
        if callable(multiplier):
            self.multiplier = multiplier
        else:
            constant = float(multiplier)
            self.multiplier = lambda epoch: constant ** (epoch - start_epoch)

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Raises ArgumentError where the schedule cannot set what it is to."""
        if not self.staircase and not self.steps_per_epoch:
            self.steps_per_epoch = self.params.get("steps")
            if not self.steps_per_epoch:
                raise ArgumentError(
                    f"{type(self).__name__} does not learn from Keras how many batches an epoch has: give "
                    "steps_per_epoch"
                )
        try:
            self._set_rate(self._rate)
        except TypeError as error:
            raise ArgumentError(
                f"{type(self).__name__} cannot set the learning rate of an optimizer that has a schedule of its own: "
                "give the optimizer a number as learning_rate"
            ) from error
        if self.momentum_correction and velocities(self.model.optimizer) is None:
            raise ArgumentError(
                f"{type(self).__name__} does not know how {type(self.model.optimizer).__name__} uses its momentum: "
                "give momentum_correction=False"
            )

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Takes note of the epoch."""
        self.current_epoch = epoch

    def on_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Sets the learning rate."""
        if self.current_epoch < self.start_epoch:
            return
        if self.end_epoch is not None and self.current_epoch >= self.end_epoch:
            return
        if not self.staircase:
            assert self.steps_per_epoch is not None
            self._adjust(self.current_epoch + batch / self.steps_per_epoch)
        elif batch == 0:
            self._adjust(self.current_epoch)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Logs the learning rate as `lr`."""
        if logs is not None:
            logs["lr"] = self._rate

    @property
    def _rate(self) -> float:
        return float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))

    def _set_rate(self, rate: float) -> None:
        self.model.optimizer.learning_rate = rate

    def _adjust(self, epoch: float) -> None:
        before, after = self._rate, self.initial_lr * self.multiplier(epoch)
        self._set_rate(after)
        # The velocities of Keras hold the learning rate: v = m v - rate g. What is in them goes on at the new one.
        if self.momentum_correction and before > 0 and after != before:
            for velocity in velocities(self.model.optimizer) or []:
                velocity.assign(velocity * (after / before))


class LearningRateWarmupCallback(LearningRateScheduleCallback):
    """Raises the learning rate from initial_lr / ranks to initial_lr, batch by batch, in the first epochs."""

    def __init__(
        self,
        initial_lr: float,
        warmup_epochs: float = 5,
        momentum_correction: bool = True,
        steps_per_epoch: int | None = None,
        verbose: int = 0,
    ) -> None:
        """Arguments as of LearningRateScheduleCallback.

        warmup_epochs: after how many epochs the learning rate is initial_lr.
        verbose: 1 tells the learning rate at the end, on rank 0.
        """

        def multiplier(epoch: float) -> float:
            # The last batch of an epoch ends it: round numbers there.
            assert self.steps_per_epoch is not None
            done = min(epoch + 1.0 / self.steps_per_epoch, warmup_epochs)
            return 1.0 / hvd.size() * (done * (hvd.size() - 1) / warmup_epochs + 1)

        if not warmup_epochs > 0:
            raise ArgumentError(f"warmup_epochs is {warmup_epochs!r}, and has to be above 0")
        super().__init__(
            initial_lr,
            multiplier,
            start_epoch=0,
            end_epoch=warmup_epochs,  # type: ignore[arg-type]
            staircase=False,
            momentum_correction=momentum_correction,
            steps_per_epoch=steps_per_epoch,
        )
        self.warmup_epochs, self.verbose = warmup_epochs, verbose

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Logs the learning rate as `lr`."""
        last = epoch < self.warmup_epochs <= epoch + 1
        if last:  # also where a batch is not announced, with steps_per_execution
            self._adjust(epoch + 1)
        super().on_epoch_end(epoch, logs)
        if last and self.verbose > 0 and hvd.rank() == 0:
            print(f"\nEpoch {epoch + 1}: finished gradual learning rate warmup to {self._rate:g}.", flush=True)
