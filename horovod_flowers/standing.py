"""How far a run is: what its epochs and the one in work have added up to."""

from dataclasses import dataclass, replace
from typing import Any

from horovod_flowers import checkpoint
from horovod_flowers.runlog import SCHEMA, Result


@dataclass
class Standing:
    """How far the run is; the same on every rank."""

    epochs_done: int = 0
    steps_done: int = 0
    """Steps of the epochs done; those of an interrupted epoch are in `partial`."""
    partial: checkpoint.PartialEpoch | None = None
    training_seconds: float = 0.0
    last_validation_accuracy: float | None = None
    best_validation_accuracy: float | None = None
    best_epoch: int | None = None

    @staticmethod
    def of(saved: checkpoint.Progress) -> "Standing":
        """Where a checkpoint stands."""
        return Standing(
            epochs_done=saved.epochs_done,
            steps_done=saved.steps_done,
            partial=saved.partial,
            training_seconds=saved.training_seconds,
            last_validation_accuracy=saved.validation_accuracy,
            best_validation_accuracy=saved.best_validation_accuracy,
            best_epoch=saved.best_epoch,
        )

    def progress(self, model: str, class_names: tuple[str, ...], data_digest: str) -> checkpoint.Progress:
        """This, for a checkpoint."""
        return checkpoint.Progress(
            epochs_done=self.epochs_done,
            steps_done=self.steps_done,
            partial=self.partial,
            training_seconds=self.training_seconds,
            model=model,
            class_names=class_names,
            data_digest=data_digest,
            validation_accuracy=self.last_validation_accuracy,
            best_validation_accuracy=self.best_validation_accuracy,
            best_epoch=self.best_epoch,
        )

    def result(self, **more: Any) -> Result:
        """This, for the run's result; `more`: its other fields."""
        return Result(
            schema=SCHEMA,
            epochs=self.epochs_done,
            steps=self.steps_done,
            training_seconds=self.training_seconds,
            best_validation_accuracy=self.best_validation_accuracy,
            best_epoch=self.best_epoch,
            last_validation_accuracy=self.last_validation_accuracy,
            **more,
        )

    def evaluated(self, accuracy: float) -> None:
        """Take in the validation accuracy of the last epoch done."""
        self.last_validation_accuracy = accuracy
        if self.best_validation_accuracy is None or accuracy > self.best_validation_accuracy:
            self.best_validation_accuracy, self.best_epoch = accuracy, self.epochs_done

    @property
    def epochs_without_progress(self) -> int:
        """Epochs since the best validation accuracy."""
        return 0 if self.best_epoch is None else self.epochs_done - self.best_epoch

    def within_epoch(self, sums: "EpochSums") -> "Standing":
        """This, with the steps that the epoch in work has done; `sums` over all ranks."""
        partial = checkpoint.PartialEpoch(sums.steps, sums.images, sums.loss_sum, sums.correct, sums.seconds)
        return replace(self, partial=partial if sums.steps else None)

    @property
    def steps(self) -> int:
        """Done since the run began, those of an interrupted epoch too."""
        return self.steps_done + self.steps_into_epoch

    @property
    def steps_into_epoch(self) -> int:
        """Steps of the next epoch that are done already."""
        return self.partial.steps if self.partial else 0


@dataclass
class EpochSums:
    """What one rank adds up over the steps of an epoch."""

    steps: int = 0
    loss_sum: float = 0.0
    correct: int = 0
    images: int = 0
    seconds: float = 0.0
    learning_rate: float = 0.0
    checkpoint_seconds: float = 0.0
    """Of this rank, waiting for checkpoints in the middle of the epoch; no part of `seconds`."""
    stopped_by: str | None = None
    """The signal after which all ranks stopped in the middle of the epoch."""
