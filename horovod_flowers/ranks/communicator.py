"""This process among the ranks of the job, and what they tell each other outside of a step.

Ranks talk through a communicator. There is one for each way of starting them: over MPI (mpi.py), over Horovod's Gloo
(gloo.py), and for a process that was started without a launcher (single_process.py).
"""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from horovod_flowers.runtime.errors import AgreedError, UserError
from horovod_flowers.runtime.heartbeat import HEARTBEAT

_SHORTEST_POLL_SECONDS, _LONGEST_POLL_SECONDS = 0.001, 0.05


class Request(Protocol):
    """A call that was started, and goes on while its caller does something else."""

    def done(self) -> bool:
        """Whether it has ended; does not wait."""
        ...


class Communicator(Protocol):
    """Ranks that can talk to each other. Every rank of it makes every collective call, in the same order.

    Objects travel pickled, as mpi4py sends them: between the ranks of one job only, never into a file. Arrays are
    contiguous, of at least one dimension, of a type of C (so no float16), and of the same shape and type on all ranks.
    What an implementation cannot do it refuses (UserError).
    """

    @property
    def rank(self) -> int:
        """This process, from 0."""
        ...

    @property
    def size(self) -> int:
        """How many ranks there are."""
        ...

    @property
    def mpi_library(self) -> str | None:
        """Name and version of the MPI library; None without MPI."""
        ...

    def allgather(self, value: Any) -> list[Any]:
        """Every rank's object, in rank order, on every rank."""
        ...

    def gather(self, value: Any) -> list[Any] | None:
        """Every rank's object, in rank order, on rank 0; None elsewhere."""
        ...

    def broadcast(self, value: Any, root: int = 0) -> Any:
        """The root's object, on every rank."""
        ...

    def broadcast_array(self, values: np.ndarray, root: int = 0) -> None:
        """Overwrite an array with the root's."""
        ...

    def allreduce_sum(self, values: np.ndarray, sums: np.ndarray) -> None:
        """Write the element-wise sums over ranks into `sums`, on every rank."""
        ...

    def allreduce_max(self, values: np.ndarray, largest: np.ndarray) -> None:
        """Write the element-wise largest values over ranks into `largest`, on every rank."""
        ...

    def start_allreduce_max(self, values: np.ndarray, largest: np.ndarray) -> Request:
        """Begin to find the element-wise largest values over ranks: in `largest` once the request is done.

        Both arrays belong to the call until then.
        """
        ...

    def start_barrier(self) -> Request:
        """A request that is done once all ranks have made this call."""
        ...

    def split(self, color: int) -> "Communicator":
        """The ranks that give the same colour, in the order of this communicator; to be freed."""
        ...

    def free(self) -> None:
        """Give back what the library keeps of it."""
        ...

    def gather_slices(self, own: np.ndarray, sizes: Sequence[int], whole: np.ndarray | None) -> None:
        """Fill `whole`, which rank 0 alone has, with the ranks' slices, in rank order.

        own: [sizes[rank]]; sizes: elements of each rank; whole: [sum(sizes)].
        """
        ...

    def scatter_slices(self, whole: np.ndarray | None, sizes: Sequence[int], own: np.ndarray) -> None:
        """Overwrite `own` with this rank's slice of `whole`, which rank 0 alone has. Shapes as in `gather_slices`."""
        ...

    def send(self, value: Any, to: int) -> None:
        """An object to one other rank, which receives it."""
        ...

    def receive(self, source: int) -> Any:
        """The object that one other rank sends."""
        ...

    def send_array(self, values: np.ndarray, to: int) -> None:
        """An array to one other rank, which receives it."""
        ...

    def receive_array(self, values: np.ndarray, source: int) -> None:
        """Overwrite an array with the one that another rank sends."""
        ...

    def exchange_arrays(self, sent: np.ndarray, received: np.ndarray, other: int) -> None:
        """An array to one other rank while it sends one here, which overwrites `received`."""
        ...


@dataclass(frozen=True)
class Ranks:
    """This process among the ranks of the job."""

    rank: int
    size: int
    local_rank: int
    local_size: int
    launcher: str
    communicator: Communicator
    """Of all ranks."""
    model_parallel_size: int = 1
    """Consecutive ranks that share one copy of the large Dense layers (mesh)."""
    members_set: Any = None
    """Horovod's process set of the ranks of this rank's copy; None where there are none of their own."""
    copies_set: Any = None
    """Horovod's process set of the ranks that hold the same slice as this one, one a copy."""

    def gather(self, value: Any) -> list[Any] | None:
        """Every rank's value, in rank order, on rank 0; None elsewhere."""
        with HEARTBEAT.waiting():
            return self.communicator.gather(value)

    def allgather(self, value: Any) -> list[Any]:
        """Every rank's value, in rank order, on every rank."""
        with HEARTBEAT.waiting():
            return self.communicator.allgather(value)

    def broadcast(self, value: Any) -> Any:
        """Rank 0's value, on every rank."""
        with HEARTBEAT.waiting():
            return self.communicator.broadcast(value)

    def allreduce_min(self, value: int) -> int:
        """The smallest rank's value, on every rank."""
        return -round(self._largest(-value))

    def allreduce_max(self, value: float) -> float:
        """The largest rank's value, on every rank."""
        return self._largest(value)

    def same_on_all(self, values: Sequence[int]) -> list[bool]:
        """Which of these numbers, below 2^53, every rank has; as many on each."""
        own = np.array(values, np.float64)
        largest = self._largest_of(np.concatenate([own, -own]))
        return (largest[: len(own)] == -largest[len(own) :]).tolist()

    def _largest(self, value: float) -> float:
        return float(self._largest_of(np.array([value], np.float64))[0])

    def _largest_of(self, values: np.ndarray) -> np.ndarray:
        """A few bytes, in log2(size) messages a rank: gathered objects would be as many as ranks, on each of them."""
        largest = np.empty_like(values)
        with HEARTBEAT.waiting():
            self.communicator.allreduce_max(values, largest)
        return largest

    def allreduce_sum(self, values: np.ndarray) -> np.ndarray:
        """Element-wise sum over ranks, on every rank."""
        sums = np.empty_like(values)
        with HEARTBEAT.waiting():
            self.communicator.allreduce_sum(values, sums)
        return sums

    def barrier(self) -> None:
        """Wait for all ranks without occupying a core, however long they take."""
        request = self.communicator.start_barrier()
        pause = _SHORTEST_POLL_SECONDS
        with HEARTBEAT.waiting():
            while not request.done():
                time.sleep(pause)
                pause = min(2 * pause, _LONGEST_POLL_SECONDS)

    def raise_on_all(self, error: UserError | None) -> None:
        """Raise on every rank what the lowest failing rank found, so that one rank tells it for all."""
        if self.size == 1:
            if error is not None:
                raise error
            return
        first = self.allreduce_min(self.size if error is None else self.rank)
        if first == self.size:
            return
        message = f"{error} [rank {self.rank} on {os.uname().nodename}]"
        with HEARTBEAT.waiting():
            raise AgreedError(self.communicator.broadcast(message, root=first))
