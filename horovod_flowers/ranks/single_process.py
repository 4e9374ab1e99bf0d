"""A communicator of one process: started without a launcher, or a group of one rank."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np

from horovod_flowers.ranks.communicator import Communicator


class Done:
    """A request that was answered at once."""

    def done(self) -> bool:
        """Yes."""
        return True


@dataclass(frozen=True)
class SingleProcess:
    """One rank, which has everything already."""

    rank: int = 0
    size: int = 1
    mpi_library: str | None = None

    def split(self, color: int) -> Communicator:
        """The same one rank."""
        return self

    def free(self) -> None:
        """Nothing is kept."""

    def allgather(self, value: Any) -> list[Any]:
        """The object alone."""
        return [value]

    def gather(self, value: Any) -> list[Any] | None:
        """The object alone."""
        return [value]

    def broadcast(self, value: Any, root: int = 0) -> Any:
        """The object itself."""
        return value

    def broadcast_array(self, values: np.ndarray, root: int = 0) -> None:
        """The array stays as it is."""

    def allreduce_sum(self, values: np.ndarray, sums: np.ndarray) -> None:
        """The values themselves."""
        np.copyto(sums, values)

    def allreduce_max(self, values: np.ndarray, largest: np.ndarray) -> None:
        """The values themselves."""
        np.copyto(largest, values)

    def start_allreduce_max(self, values: np.ndarray, largest: np.ndarray) -> Done:
        """The values themselves."""
        np.copyto(largest, values)
        return Done()

    def start_barrier(self) -> Done:
        """Nobody is waited for."""
        return Done()

    def gather_slices(self, own: np.ndarray, sizes: Sequence[int], whole: np.ndarray | None) -> None:
        """The one slice is the whole."""
        if whole is not None:
            np.copyto(whole, own)

    def scatter_slices(self, whole: np.ndarray | None, sizes: Sequence[int], own: np.ndarray) -> None:
        """The whole is the one slice."""
        if whole is not None:
            np.copyto(own, whole)

    def send(self, value: Any, to: int) -> None:
        """There is no other rank (AssertionError)."""
        self._no_other(to)

    def receive(self, source: int) -> Any:
        """There is no other rank (AssertionError)."""
        self._no_other(source)

    def send_array(self, values: np.ndarray, to: int) -> None:
        """There is no other rank (AssertionError)."""
        self._no_other(to)

    def receive_array(self, values: np.ndarray, source: int) -> None:
        """There is no other rank (AssertionError)."""
        self._no_other(source)

    def exchange_arrays(self, sent: np.ndarray, received: np.ndarray, other: int) -> None:
        """There is no other rank (AssertionError)."""
        self._no_other(other)

    def _no_other(self, rank: int) -> NoReturn:
        raise AssertionError(f"a single process has no rank {rank} to exchange anything with")
