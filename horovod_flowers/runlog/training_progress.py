"""How far a training run is: what its epochs have added up to, and the epoch that it was in the middle of.

The trainer moves it on, a checkpoint stores it, and the result of a run ends with it.
"""

import msgspec

from horovod_flowers.runlog.field_types import Count, Seconds, Share


class PartialEpoch(msgspec.Struct, frozen=True):
    """The steps that an interrupted epoch has done: sums over all ranks."""

    steps: int
    images: int
    loss_sum: float
    correct: int
    training_seconds: float


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

    def evaluated(self, accuracy: float) -> "TrainingProgress":
        """With the validation accuracy of the last epoch done."""
        best = self.best_validation_accuracy
        if best is not None and accuracy <= best:
            return msgspec.structs.replace(self, validation_accuracy=accuracy)
        return msgspec.structs.replace(
            self, validation_accuracy=accuracy, best_validation_accuracy=accuracy, best_epoch=self.epochs_done
        )

    def within_epoch(self, partial: PartialEpoch) -> "TrainingProgress":
        """With the steps that the epoch in work has done; unchanged where it has done none."""
        return msgspec.structs.replace(self, partial=partial if partial.steps else None)

    @property
    def epochs_without_progress(self) -> int:
        """Epochs since the best validation accuracy."""
        return 0 if self.best_epoch is None else self.epochs_done - self.best_epoch

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
