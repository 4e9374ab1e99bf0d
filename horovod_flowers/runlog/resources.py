"""What a run took of the machine beside its steps: wall time, memory, checkpoints, data. No TensorFlow here."""

from typing import Annotated

import msgspec

from horovod_flowers.runlog.field_types import Count

Seconds = Annotated[float, msgspec.Meta(ge=0, le=1e10)]
"""Three centuries: hours that are worked out of more would be no numbers."""


class Resources(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of the processes that wrote the result: a run that was resumed had others before."""

    wall_seconds: list[Seconds] | None
    """Of each rank, from the start of its process until it has nothing left to record; null where Linux does not tell
    when a process started."""
    steps_before: Count
    """Steps that earlier processes of the run had done: their times, and the checkpoints that they wrote, are not in
    here."""
    gpu_peak_bytes: list[Count] | None
    """The most of its GPUs' memory that each rank had allocated at a time; null where not every rank had a GPU."""
    checkpoints: Count | None = None
    """That were written; null, with the rest, where a script writes its own."""
    checkpoint_bytes: Count | None = None
    """Of all of these."""
    checkpoint_write_seconds: Seconds | None = None
    """That they took, beside the training for the most part."""
    last_checkpoint_wait_seconds: Seconds | None = None
    """For what was still being written after the last epoch; waiting before is in the epochs' records."""
    data_bytes: Count | None = None
    """Of the prepared images on storage; null, too, where there are none."""
