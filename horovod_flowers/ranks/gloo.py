"""A communicator over Horovod's own calls, for the ranks of an elastic job: they are connected by Gloo, without MPI."""

import pickle
from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np

from horovod_flowers.ranks.communicator import Communicator
from horovod_flowers.ranks.single_process import Done
from horovod_flowers.runtime.errors import UserError

_LOST = ("Horovod", "horovod", "gloo")


class GlooCommunicator:
    """All ranks, one call at a time: what is started has ended when the call returns.

    A call raises one of TensorFlow's errors where a rank has gone (`is_lost`). Groups of ranks, and messages from one
    rank to another, are refused.
    """

    mpi_library: str | None = None

    def __init__(self) -> None:
        """Horovod has to be started."""
        import horovod.tensorflow as hvd
        import tensorflow as tf

        self._hvd, self._tf = hvd, tf

    @property
    def rank(self) -> int:
        """This process' rank."""
        return int(self._hvd.rank())

    @property
    def size(self) -> int:
        """How many ranks there are."""
        return int(self._hvd.size())

    def allgather(self, value: Any) -> list[Any]:
        """Every rank's object, in rank order."""
        own = np.frombuffer(pickle.dumps(value), np.uint8)
        sizes = self._hvd.allgather(self._tf.constant([own.size], self._tf.int64), name="world.sizes").numpy()
        together = self._hvd.allgather(self._tf.constant(own), name="world.objects").numpy()
        # Between ranks of one job, as mpi4py does it; never from a file.
        return [pickle.loads(part.tobytes()) for part in np.split(together, np.cumsum(sizes)[:-1])]  # noqa: S301

    def gather(self, value: Any) -> list[Any] | None:
        """Every rank's object on rank 0; None elsewhere."""
        gathered = self.allgather(value)
        return gathered if self.rank == 0 else None

    def broadcast(self, value: Any, root: int = 0) -> Any:
        """The root's object."""
        at_root = self.rank == root
        contents = np.frombuffer(pickle.dumps(value), np.uint8).copy() if at_root else np.empty(0, np.uint8)
        size = np.array([contents.size], np.int64)
        self.broadcast_array(size, root)
        if not at_root:
            contents = np.empty(int(size[0]), np.uint8)
        self.broadcast_array(contents, root)
        return pickle.loads(contents.tobytes())  # noqa: S301 (as above)

    def broadcast_array(self, values: np.ndarray, root: int = 0) -> None:
        """Overwrite an array with the root's."""
        octets = values.reshape(-1).view(np.uint8)  # Horovod does not know every type
        octets[:] = self._hvd.broadcast(self._tf.constant(octets), root, name="world.broadcast").numpy()

    def allreduce_sum(self, values: np.ndarray, sums: np.ndarray) -> None:
        """Element-wise sums over the ranks."""
        sums[...] = self._hvd.allreduce(self._tf.constant(values), op=self._hvd.Sum, name="world.sum").numpy()

    def allreduce_max(self, values: np.ndarray, largest: np.ndarray) -> None:
        """Element-wise largest values over the ranks."""
        largest[...] = self._hvd.allreduce(self._tf.constant(values), op=self._hvd.Max, name="world.max").numpy()

    def start_allreduce_max(self, values: np.ndarray, largest: np.ndarray) -> Done:
        """The same."""
        self.allreduce_max(values, largest)
        return Done()

    def start_barrier(self) -> Done:
        """Wait for all ranks."""
        self._hvd.allreduce(self._tf.zeros([1]), op=self._hvd.Sum, name="world.barrier")
        return Done()

    def split(self, color: int) -> Communicator:
        """Refused (UserError)."""
        self._refuse("groups of ranks")

    def free(self) -> None:
        """Nothing is kept."""

    def gather_slices(self, own: np.ndarray, sizes: Sequence[int], whole: np.ndarray | None) -> None:
        """Refused (UserError)."""
        self._refuse("weights that are divided over ranks")

    def scatter_slices(self, whole: np.ndarray | None, sizes: Sequence[int], own: np.ndarray) -> None:
        """Refused (UserError)."""
        self._refuse("weights that are divided over ranks")

    def send(self, value: Any, to: int) -> None:
        """Refused (UserError)."""
        self._refuse("messages from one rank to another")

    def receive(self, source: int) -> Any:
        """Refused (UserError)."""
        self._refuse("messages from one rank to another")

    def send_array(self, values: np.ndarray, to: int) -> None:
        """Refused (UserError)."""
        self._refuse("messages from one rank to another")

    def receive_array(self, values: np.ndarray, source: int) -> None:
        """Refused (UserError)."""
        self._refuse("messages from one rank to another")

    def exchange_arrays(self, sent: np.ndarray, received: np.ndarray, other: int) -> None:
        """Refused (UserError)."""
        self._refuse("messages from one rank to another")

    def _refuse(self, what: str) -> NoReturn:
        raise UserError(f"an elastic job, whose ranks are connected by Gloo, has no {what}: start it with mpirun")


def is_lost(error: BaseException) -> bool:
    """Whether an error says that ranks have gone: those that are left can meet again."""
    import tensorflow as tf
    from horovod.common.exceptions import HorovodInternalError

    kinds = (HorovodInternalError, tf.errors.UnknownError, tf.errors.AbortedError, tf.errors.FailedPreconditionError)
    return isinstance(error, kinds) and any(word in str(error) for word in _LOST)
