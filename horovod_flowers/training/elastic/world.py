"""The ranks of an elastic job as a communicator: what `Ranks` and `Groups` ask of mpi4py, over Horovod's own calls."""

import pickle
from typing import Any

import numpy as np

_LOST = ("Horovod", "horovod", "gloo")


class Done:
    """A request that was answered at once."""

    def Test(self) -> bool:
        """Whether it was answered."""
        return True


class GlooWorld:
    """All ranks, with mpi4py's names and meanings of calls. Every rank makes every call, one at a time.

    Objects travel as mpi4py sends them, pickled; between ranks only, never into a file. A call raises one of
    TensorFlow's errors where a rank has gone (`is_lost`).
    """

    def __init__(self) -> None:
        """Horovod has to be started."""
        import horovod.tensorflow as hvd
        import tensorflow as tf

        self._hvd, self._tf = hvd, tf

    def Get_rank(self) -> int:
        """This process' rank."""
        return int(self._hvd.rank())

    def Get_size(self) -> int:
        """How many ranks there are."""
        return int(self._hvd.size())

    def Split(self, color: int) -> None:
        """No groups: strategies that divide weights over them are refused."""

    def allgather(self, value: Any) -> list[Any]:
        """Every rank's object, in rank order."""
        own = np.frombuffer(pickle.dumps(value), np.uint8)
        sizes = self._hvd.allgather(self._tf.constant([own.size], self._tf.int64), name="world.sizes").numpy()
        together = self._hvd.allgather(self._tf.constant(own), name="world.objects").numpy()
        # Between ranks of one job, as mpi4py does it; never from a file.
        return [pickle.loads(part.tobytes()) for part in np.split(together, np.cumsum(sizes)[:-1])]  # noqa: S301

    def gather(self, value: Any, root: int) -> list[Any] | None:
        """Every rank's object on the root; None elsewhere."""
        gathered = self.allgather(value)
        return gathered if self.Get_rank() == root else None

    def bcast(self, value: Any, root: int) -> Any:
        """The root's object."""
        at_root = self.Get_rank() == root
        contents = np.frombuffer(pickle.dumps(value), np.uint8).copy() if at_root else np.empty(0, np.uint8)
        size = np.array([contents.size], np.int64)
        self.Bcast(size, root)
        if not at_root:
            contents = np.empty(int(size[0]), np.uint8)
        self.Bcast(contents, root)
        return pickle.loads(contents.tobytes())  # noqa: S301 (as above)

    def Bcast(self, values: np.ndarray, root: int) -> None:
        """Overwrite a contiguous array of at least one dimension with the root's."""
        octets = values.reshape(-1).view(np.uint8)  # Horovod does not know every type
        octets[:] = self._hvd.broadcast(self._tf.constant(octets), root, name="world.broadcast").numpy()

    def Allreduce(self, values: np.ndarray, sums: np.ndarray) -> None:
        """Element-wise sums over the ranks."""
        sums[...] = self._hvd.allreduce(self._tf.constant(values), op=self._hvd.Sum, name="world.sum").numpy()

    def start_allreduce_max(self, values: np.ndarray, largest: np.ndarray) -> Done:
        """Element-wise largest values over the ranks."""
        largest[...] = self._hvd.allreduce(self._tf.constant(values), op=self._hvd.Max, name="world.max").numpy()
        return Done()

    def Ibarrier(self) -> Done:
        """Wait for all ranks."""
        self._hvd.allreduce(self._tf.zeros([1]), op=self._hvd.Sum, name="world.barrier")
        return Done()


def is_lost(error: BaseException) -> bool:
    """Whether an error says that ranks have gone: those that are left can meet again."""
    import tensorflow as tf
    from horovod.common.exceptions import HorovodInternalError

    kinds = (HorovodInternalError, tf.errors.UnknownError, tf.errors.AbortedError, tf.errors.FailedPreconditionError)
    return isinstance(error, kinds) and any(word in str(error) for word in _LOST)
