"""How far a run is: what its epochs and the one in work have added up to."""

from dataclasses import dataclass

from horovod_flowers import checkpoint


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
    stopped_by: str | None = None
    """The signal after which all ranks stopped in the middle of the epoch."""
