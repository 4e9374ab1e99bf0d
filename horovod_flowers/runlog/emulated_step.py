"""What an emulated run slept for instead of computing: part of its environment. No TensorFlow here."""

import msgspec

from horovod_flowers.runlog.field_types import Positive, Seconds


class EmulatedStep(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The measured step that the steps of a run stand for."""

    model: str
    rows: Positive
    """Images of a step on a rank."""
    median_step_seconds: Seconds
    """Of the step on one rank, as it was measured."""
    shrink: float
    """By how much weights and activations are smaller than those of the model. Bytes in the records are those of the
    model; on their way were 1/shrink of them."""
    profile: str
    """The file that holds what was measured (step_profile.py)."""
    cpu_model: str | None
    """Where it was measured, and by which command and when."""
    started_utc: str
    command: list[str]

    def __str__(self) -> str:
        return (
            f"ranks sleep for what {self.rows} images of {self.model} took on one rank, {self.median_step_seconds:.4g} "
            f"s a step ({self.profile})"
        )
