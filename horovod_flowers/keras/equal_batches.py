"""Ranks have to train equally many batches: each batch ends in calls that all of them make."""

import os
import threading
from typing import Any

import horovod.tensorflow as hvd
from horovod.tensorflow.mpi_ops import global_process_set

from horovod_flowers.keras.agreement import of_all_ranks
from horovod_flowers.ranks.startup import STALL_WARNING_SECONDS
from horovod_flowers.runtime.errors import UserError


def check_same_steps(steps: int | None) -> None:
    """Refuse on all ranks numbers of batches an epoch that differ over ranks (UserError); None: it is not known."""
    found = of_all_ranks(steps, "horovod_flowers.keras.steps", global_process_set)
    for rank, other in enumerate(found):
        if None not in (other, found[0]) and other != found[0]:
            raise UserError(
                f"rank {rank} has {other} batches an epoch and rank 0 has {found[0]}, so one would wait for the other "
                "for ever: give all ranks the same steps_per_epoch, or equally many samples"
            )


def check_short_epoch(epoch: int, batches: int, steps: int) -> None:
    """This rank's data have ended before the epoch: refuse that (UserError) unless the others' have, too.

    They are waited for as long as Horovod waits before it warns (HOROVOD_STALL_CHECK_TIME_SECONDS).
    """
    found: list[Any] = []

    def ask() -> None:
        found.extend(hvd.allgather_object(batches, name=f"horovod_flowers.keras.short_epoch.{epoch}"))

    # In a thread: ranks that have more batches are in a call of theirs, which this rank never makes.
    asking = threading.Thread(target=ask, name="short epoch", daemon=True)
    asking.start()
    asking.join(float(os.environ.get("HOROVOD_STALL_CHECK_TIME_SECONDS") or STALL_WARNING_SECONDS))
    if not found:
        raise UserError(
            f"rank {hvd.rank()} has only {batches} of {steps} batches in epoch {epoch + 1}, and other ranks wait for "
            "it in the next: give all ranks equally many batches (a lower steps_per_epoch, or dataset.repeat())"
        )
