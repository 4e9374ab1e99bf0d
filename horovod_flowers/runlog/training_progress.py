"""How far a training run is: what its epochs have added up to, and the epoch that it was in the middle of.

The trainer moves it on, a checkpoint stores it, and the result of a run ends with it.
"""

from typing import Any, Literal

import msgspec

from horovod_flowers.runlog.field_types import Count, Seconds, Share


class PartialEpoch(msgspec.Struct, frozen=True, omit_defaults=True):
    """The steps that an interrupted epoch has done: sums over all ranks."""

    steps: int
    images: int
    loss_sum: float
    correct: int
    training_seconds: float
    metric_sums: tuple[float, ...] = ()
    """What the metrics of a compiled model have added up."""


class Plateau(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where the learning rate stands that falls when the validation loss no longer does."""

    factor: float = 1.0
    """Of the schedule's learning rate, from the next epoch on."""
    lowest_loss: float | None = None
    since_epoch: Count = 0
    """The last one whose loss was the lowest, or after which the factor fell."""

    def after(self, epoch: int, loss: float, patience: int, fall: float) -> "Plateau":
        """After an epoch of this validation loss; with Keras' threshold, ReduceLROnPlateau's `min_delta`."""
        if self.lowest_loss is None or loss < self.lowest_loss - LEAST_IMPROVEMENT:
            return msgspec.structs.replace(self, lowest_loss=loss, since_epoch=epoch)
        if epoch - self.since_epoch < patience:
            return self
        return msgspec.structs.replace(self, factor=self.factor * fall, since_epoch=epoch)


LEAST_IMPROVEMENT = 1e-4


class TrainingProgress(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """How far a run is; the same on every rank."""

    epochs_done: Count
    steps_done: Count
    """Steps of the epochs done; those of an interrupted epoch are in `partial`."""
    training_seconds: Seconds
    """Sum over the epochs done of the slowest rank's seconds."""
    validation_accuracy: Share | None
    """After the last epoch done."""
    best_validation_accuracy: Share | None
    best_epoch: Count | None
    best_validation_loss: float | None = None
    best_loss_epoch: Count | None = None
    """The lowest validation loss, and its epoch; null in older records."""
    plateau: Plateau = Plateau()
    """Of --optimizer.plateau-epochs."""
    partial: PartialEpoch | None = None
    """Of the epoch after `epochs_done`, in the middle of it."""

    def after_epoch(self, steps: int, seconds: float) -> "TrainingProgress":
        """One epoch of so many steps further; it is not evaluated yet."""
        return msgspec.structs.replace(
            self,
            epochs_done=self.epochs_done + 1,
            steps_done=self.steps_done + steps,
            training_seconds=self.training_seconds + seconds,
            partial=None,
        )

    def evaluated(self, accuracy: float | None, loss: float | None) -> "TrainingProgress":
        """With the validation accuracy and loss of the last epoch done; None where it was not evaluated."""
        best, lowest = self.best_validation_accuracy, self.best_validation_loss
        found: dict[str, Any] = {"validation_accuracy": accuracy}
        if accuracy is not None and (best is None or accuracy > best):
            found |= {"best_validation_accuracy": accuracy, "best_epoch": self.epochs_done}
        if loss is not None and (lowest is None or loss < lowest):
            found |= {"best_validation_loss": loss, "best_loss_epoch": self.epochs_done}
        return msgspec.structs.replace(self, **found)

    def within_epoch(self, partial: PartialEpoch) -> "TrainingProgress":
        """With the steps that the epoch in work has done; unchanged where it has done none."""
        return msgspec.structs.replace(self, partial=partial if partial.steps else None)

    def epochs_without_progress(self, watched: Literal["accuracy", "loss"]) -> int:
        """Epochs since the best validation accuracy, or the lowest validation loss."""
        best = self.best_epoch if watched == "accuracy" else self.best_loss_epoch
        return 0 if best is None else self.epochs_done - best

    @property
    def steps(self) -> int:
        """Done since the run began, those of an interrupted epoch too."""
        return self.steps_done + self.steps_into_epoch

    @property
    def steps_into_epoch(self) -> int:
        """Steps of the next epoch that are done already."""
        return self.partial.steps if self.partial else 0


BEGINNING = TrainingProgress(
    epochs_done=0,
    steps_done=0,
    training_seconds=0.0,
    validation_accuracy=None,
    best_validation_accuracy=None,
    best_epoch=None,
)
"""Of a run that has not trained yet."""
