"""This process among the ranks of the job, and what they tell each other outside of a step."""

import os
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from horovod_flowers.launch.job_environment import ELASTIC
from horovod_flowers.runtime.errors import UserError
from horovod_flowers.runtime.heartbeat import HEARTBEAT

_SHORTEST_POLL_SECONDS, _LONGEST_POLL_SECONDS = 0.001, 0.05


@dataclass(frozen=True)
class Ranks:
    """This process among the ranks of the job."""

    rank: int
    size: int
    local_rank: int
    local_size: int
    launcher: str
    mpi: Any
    """mpi4py's COMM_WORLD; what takes its place without MPI (elastic.world.GlooWorld); None for a process that
    was started without a launcher."""
    model_parallel_size: int = 1
    """Consecutive ranks that share one copy of the large Dense layers (mesh)."""
    members_set: Any = None
    """Horovod's process set of the ranks of this rank's copy; None where there are none of their own."""
    copies_set: Any = None
    """Horovod's process set of the ranks that hold the same slice as this one, one a copy."""

    def gather(self, value: Any) -> list[Any] | None:
        """Every rank's value, in rank order, on rank 0; None elsewhere."""
        if self.mpi is None:
            return [value]
        with HEARTBEAT.waiting():
            return self.mpi.gather(value, root=0)

    def allgather(self, value: Any) -> list[Any]:
        """Every rank's value, in rank order, on every rank."""
        if self.mpi is None:
            return [value]
        with HEARTBEAT.waiting():
            return self.mpi.allgather(value)

    def broadcast(self, value: Any) -> Any:
        """Rank 0's value, on every rank."""
        if self.mpi is None:
            return value
        with HEARTBEAT.waiting():
            return self.mpi.bcast(value, root=0)

    def allreduce_min(self, value: int) -> int:
        """The smallest rank's value, on every rank."""
        return min(self.allgather(value))

    def allreduce_max(self, value: float) -> float:
        """The largest rank's value, on every rank."""
        return max(self.allgather(value))

    def allreduce_sum(self, values: np.ndarray) -> np.ndarray:
        """Element-wise sum over ranks, on every rank."""
        if self.mpi is None:
            return values
        sums = np.empty_like(values)
        with HEARTBEAT.waiting():
            self.mpi.Allreduce(values, sums)
        return sums

    def start_allreduce_max(self, values: np.ndarray, allreduce_max: np.ndarray) -> Any:
        """Begin to find the element-wise largest values over ranks: they are in `largest` once `Test()` of the request,
        which is returned, says so. For more than one process."""
        if self.launcher == ELASTIC:
            return self.mpi.start_allreduce_max(values, allreduce_max)
        from mpi4py import MPI

        return self.mpi.Iallreduce(values, allreduce_max, op=MPI.MAX)

    def barrier(self) -> None:
        """Wait for all ranks without occupying a core, however long they take."""
        if self.mpi is None:
            return
        request = self.mpi.Ibarrier()
        pause = _SHORTEST_POLL_SECONDS
        with HEARTBEAT.waiting():
            while not request.Test():
                time.sleep(pause)
                pause = min(2 * pause, _LONGEST_POLL_SECONDS)

    def raise_on_all(self, error: UserError | None) -> None:
        """Raise on every rank what the lowest failing rank found, so that one rank tells it for all."""
        if self.mpi is None:
            if error is not None:
                raise error
            return
        found = self.allgather(None if error is None else f"{error} [rank {self.rank} on {os.uname().nodename}]")
        for message in found:
            if message is not None:
                raise UserError(message)
