"""Start-up of the ranks: MPI, cores and threads, TensorFlow, Horovod, in the order that each needs.

MPI comes first (to learn who shares this node), then the affinity mask and thread counts, which TensorFlow reads when
it is imported and when it first computes, then Horovod, whose background thread inherits the mask.
"""

import os
import time
from dataclasses import dataclass, replace
from typing import Any, Literal

from horovod_flowers.affinity import Cores, share_out, should_yield_when_idle, unbound
from horovod_flowers.errors import UserError
from horovod_flowers.launch import Launch

STALL_WARNING_SECONDS = "30"
STALL_SHUTDOWN_SECONDS = "120"
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
    """mpi4py's COMM_WORLD; None under horovodrun --gloo, and where a process was started without a launcher."""

    def gather(self, value: Any) -> list[Any] | None:
        """Every rank's value, in rank order, on rank 0; None elsewhere."""
        if self.mpi is not None:
            return self.mpi.gather(value, root=0)
        if self.size == 1:
            return [value]
        import horovod.tensorflow as hvd

        values = hvd.allgather_object(value)
        return values if self.rank == 0 else None

    def broadcast(self, value: Any) -> Any:
        """Rank 0's value, on every rank."""
        if self.mpi is not None:
            return self.mpi.bcast(value, root=0)
        if self.size == 1:
            return value
        import horovod.tensorflow as hvd

        return hvd.broadcast_object(value, root_rank=0)

    def barrier(self) -> None:
        """Wait for all ranks without occupying a core, however long they take."""
        if self.mpi is None:
            self.gather(None)
            return
        request = self.mpi.Ibarrier()
        pause = _SHORTEST_POLL_SECONDS
        while not request.Test():
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_POLL_SECONDS)


def connect(launch: Launch) -> Ranks:
    """Start MPI and agree with the launcher on the number of ranks.

    Raises UserError where MPI knows of fewer ranks than the launcher started.
    """
    _set_unless_given("HOROVOD_STALL_CHECK_TIME_SECONDS", STALL_WARNING_SECONDS)
    # Horovod's default is to wait for a missing rank for ever.
    _set_unless_given("HOROVOD_STALL_SHUTDOWN_TIME_SECONDS", STALL_SHUTDOWN_SECONDS)
    if should_yield_when_idle(_usable_cores(), launch.local_size):
        _set_unless_given("OMPI_MCA_mpi_yield_when_idle", "1")
    if not launch.uses_mpi:
        return Ranks(launch.rank, launch.size, launch.local_rank, launch.local_size, launch.launcher, None)
    from mpi4py import MPI

    world = MPI.COMM_WORLD
    if world.Get_size() != launch.size:
        raise UserError(
            f"the launcher ({launch.launcher}) started {launch.size} ranks but MPI knows of {world.Get_size()}: use "
            "the mpirun that belongs to this environment's MPI, or srun with --mpi=pmix"
        )
    node = world.Split_type(MPI.COMM_TYPE_SHARED)
    ranks = Ranks(world.Get_rank(), world.Get_size(), node.Get_rank(), node.Get_size(), launch.launcher, world)
    node.Free()
    return ranks


def _usable_cores() -> int:
    """Cores of this node that its ranks may use, as far as one rank can tell: a bound rank's mask is its own only."""
    mask = len(os.sched_getaffinity(0))
    return mask if mask > 1 else (os.cpu_count() or 1)


def _set_unless_given(name: str, value: str) -> None:
    os.environ.setdefault(name, value)


def take_cores(ranks: Ranks, bind: Literal["auto", "none"], threads: int) -> Cores:
    """Pin this rank to its share of the node's cores (bind 'auto'), or to `threads` of them, and say which those are.

    Under horovodrun --gloo a rank knows its own mask only, which the launcher leaves unbound.
    """
    own = frozenset(os.sched_getaffinity(0))
    if ranks.mpi is None:
        masks = [own] * ranks.local_size
    else:
        from mpi4py import MPI

        node = ranks.mpi.Split_type(MPI.COMM_TYPE_SHARED)
        masks = node.allgather(own)
        node.Free()
    if bind == "none":
        return unbound(masks, ranks.local_rank)
    cores = share_out(masks)[ranks.local_rank]
    cores = replace(cores, cores=cores.cores[: threads or None])
    os.sched_setaffinity(0, cores.cores)
    return cores


def start_tensorflow(ranks: Ranks, threads: int) -> None:
    """Import TensorFlow with `threads` compute threads, pin this local rank's GPU if there is one, start Horovod."""
    # TensorFlow's own notices (CPU features, a missing GPU) would come once from every rank.
    _set_unless_given("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    # Two: one thread waits for a batch or a timestamp while the other computes.
    tf.config.threading.set_inter_op_parallelism_threads(2)
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        # Not run on real hardware.
        if ranks.local_rank >= len(gpus):
            raise UserError(
                f"{ranks.local_size} ranks on {os.uname().nodename}, which has {len(gpus)} GPUs: start one rank a GPU"
            )
        tf.config.set_visible_devices(gpus[ranks.local_rank], "GPU")
        tf.config.experimental.set_memory_growth(gpus[ranks.local_rank], True)
    if ranks.size == 1:
        return  # an honest baseline: no background thread of Horovod beside the one rank
    import horovod.tensorflow as hvd

    hvd.init()
    if hvd.size() != ranks.size:
        raise UserError(
            f"MPI started {ranks.size} ranks but Horovod knows of {hvd.size()}: rebuild Horovod against this "
            "environment's MPI"
        )
