"""A communicator over MPI."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from horovod_flowers.launch.job_environment import UNKNOWN, Told
from horovod_flowers.mpi.identify import library_from_text
from horovod_flowers.ranks.communicator import Communicator
from horovod_flowers.ranks.mpi_start import start_mpi

if TYPE_CHECKING:
    from mpi4py import MPI

NOTHING_TOLD = Told(UNKNOWN)


class MpiRequest:
    """A non-blocking call of MPI."""

    def __init__(self, request: "MPI.Request") -> None:
        self._request = request

    def done(self) -> bool:
        """Whether it has ended."""
        return bool(self._request.Test())


class MpiCommunicator:
    """Ranks that a launcher of MPI has started: all of them (`world`), or a group."""

    def __init__(self, communicator: "MPI.Comm") -> None:
        from mpi4py import MPI

        self._mpi, self._communicator = MPI, communicator

    @staticmethod
    def world(told: Told = NOTHING_TOLD, yields: bool = False) -> "MpiCommunicator":
        """All ranks of the job, of which the launcher has `told`. Starts MPI: see `mpi_start.start_mpi`."""
        return MpiCommunicator(start_mpi(told, yields))

    @property
    def rank(self) -> int:
        """This process, from 0."""
        return self._communicator.Get_rank()

    @property
    def size(self) -> int:
        """How many ranks there are."""
        return self._communicator.Get_size()

    @property
    def mpi_library(self) -> str | None:
        """Name and version, such as 'Open MPI v4.1.8' or 'MPICH 5.0.2'."""
        return library_from_text(self._mpi.Get_library_version()).summary

    def split_by_node(self) -> "MpiCommunicator":
        """The ranks that share this node's memory; to be freed."""
        return MpiCommunicator(self._communicator.Split_type(self._mpi.COMM_TYPE_SHARED))

    def split(self, color: int) -> Communicator:
        """The ranks that give the same colour; to be freed."""
        return MpiCommunicator(self._communicator.Split(color))

    def free(self) -> None:
        """Give back what MPI keeps of it."""
        self._communicator.Free()

    def allgather(self, value: Any) -> list[Any]:
        """Every rank's object, in rank order."""
        return self._communicator.allgather(value)

    def gather(self, value: Any) -> list[Any] | None:
        """Every rank's object on rank 0; None elsewhere."""
        return self._communicator.gather(value, root=0)

    def broadcast(self, value: Any, root: int = 0) -> Any:
        """The root's object."""
        return self._communicator.bcast(value, root=root)

    def broadcast_array(self, values: np.ndarray, root: int = 0) -> None:
        """Overwrite an array with the root's."""
        self._communicator.Bcast(values, root=root)

    def allreduce_sum(self, values: np.ndarray, sums: np.ndarray) -> None:
        """Element-wise sums over ranks."""
        self._communicator.Allreduce(values, sums, op=self._mpi.SUM)

    def allreduce_max(self, values: np.ndarray, largest: np.ndarray) -> None:
        """Element-wise largest values over ranks."""
        self._communicator.Allreduce(values, largest, op=self._mpi.MAX)

    def start_allreduce_max(self, values: np.ndarray, largest: np.ndarray) -> MpiRequest:
        """Element-wise largest values over ranks, once the request is done."""
        return MpiRequest(self._communicator.Iallreduce(values, largest, op=self._mpi.MAX))

    def start_barrier(self) -> MpiRequest:
        """Done once all ranks have come."""
        return MpiRequest(self._communicator.Ibarrier())

    def gather_slices(self, own: np.ndarray, sizes: Sequence[int], whole: np.ndarray | None) -> None:
        """The ranks' slices into `whole`, which rank 0 alone has."""
        self._communicator.Gatherv(own, None if whole is None else (whole, sizes), root=0)

    def scatter_slices(self, whole: np.ndarray | None, sizes: Sequence[int], own: np.ndarray) -> None:
        """This rank's slice of `whole`, which rank 0 alone has, into `own`."""
        self._communicator.Scatterv(None if whole is None else (whole, sizes), own, root=0)

    def send(self, value: Any, to: int) -> None:
        """An object to one other rank."""
        self._communicator.send(value, dest=to)

    def receive(self, source: int) -> Any:
        """The object that one other rank sends."""
        return self._communicator.recv(source=source)

    def send_array(self, values: np.ndarray, to: int) -> None:
        """An array to one other rank."""
        self._communicator.Send(values, dest=to)

    def receive_array(self, values: np.ndarray, source: int) -> None:
        """Overwrite an array with the one that another rank sends."""
        self._communicator.Recv(values, source=source)

    def exchange_arrays(self, sent: np.ndarray, received: np.ndarray, other: int) -> None:
        """An array to one other rank while it sends one here, which overwrites `received`."""
        self._communicator.Sendrecv(sent, dest=other, recvbuf=received, source=other)
