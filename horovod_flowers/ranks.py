"""Start-up of the ranks: MPI, cores and threads, TensorFlow, Horovod, in the order that each needs.

MPI comes first (to learn who shares this node), then the affinity mask and thread counts, which TensorFlow reads when
it is imported and when it first computes, then Horovod, whose background thread inherits the mask; Horovod only where
the strategy sends something.
"""

import ctypes
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from horovod_flowers.affinity import Cores, core_of, machine_id, share_out, should_yield_when_idle, unbound
from horovod_flowers.config import HorovodConfig
from horovod_flowers.errors import UserError
from horovod_flowers.launch import ELASTIC, Launch
from horovod_flowers.position import POSITION
from horovod_flowers.strategy.layout import Groups
from horovod_flowers.tensorflow_import import import_tensorflow

STALL_WARNING_SECONDS = 30
STALL_SECONDS = 120
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
        with POSITION.waiting():
            return self.mpi.gather(value, root=0)

    def everyone(self, value: Any) -> list[Any]:
        """Every rank's value, in rank order, on every rank."""
        if self.mpi is None:
            return [value]
        with POSITION.waiting():
            return self.mpi.allgather(value)

    def broadcast(self, value: Any) -> Any:
        """Rank 0's value, on every rank."""
        if self.mpi is None:
            return value
        with POSITION.waiting():
            return self.mpi.bcast(value, root=0)

    def smallest(self, value: int) -> int:
        """The smallest rank's value, on every rank."""
        return min(self.everyone(value))

    def largest(self, value: float) -> float:
        """The largest rank's value, on every rank."""
        return max(self.everyone(value))

    def total(self, values: np.ndarray) -> np.ndarray:
        """Element-wise sum over ranks, on every rank."""
        if self.mpi is None:
            return values
        sums = np.empty_like(values)
        with POSITION.waiting():
            self.mpi.Allreduce(values, sums)
        return sums

    def start_largest(self, values: np.ndarray, largest: np.ndarray) -> Any:
        """Begin to find the element-wise largest values over ranks: they are in `largest` once `Test()` of the request,
        which is returned, says so. For more than one process."""
        if self.launcher == ELASTIC:
            return self.mpi.start_largest(values, largest)
        from mpi4py import MPI

        return self.mpi.Iallreduce(values, largest, op=MPI.MAX)

    def groups(self, size: int) -> Groups:
        """Communicators of groups of `size` consecutive ranks, and across them. Every rank calls it."""
        if self.mpi is None:
            return Groups()
        return Groups(self.mpi, self.mpi.Split(self.rank // size), self.mpi.Split(self.rank % size))

    def barrier(self) -> None:
        """Wait for all ranks without occupying a core, however long they take."""
        if self.mpi is None:
            return
        request = self.mpi.Ibarrier()
        pause = _SHORTEST_POLL_SECONDS
        with POSITION.waiting():
            while not request.Test():
                time.sleep(pause)
                pause = min(2 * pause, _LONGEST_POLL_SECONDS)

    def agree(self, error: UserError | None) -> None:
        """Raise on every rank what the lowest failing rank found, so that one rank tells it for all."""
        if self.mpi is None:
            if error is not None:
                raise error
            return
        found = self.everyone(None if error is None else f"{error} [rank {self.rank} on {os.uname().nodename}]")
        for message in found:
            if message is not None:
                raise UserError(message)


def connect(launch: Launch, threads: int, bind: Literal["auto", "none"], stall_seconds: int = STALL_SECONDS) -> Ranks:
    """Start MPI and agree with the launcher on the number of ranks.

    stall_seconds: how long Horovod waits for a rank that takes no part in a collective call; 0: for ever.
    Raises UserError where MPI knows of fewer ranks than the launcher started.
    """
    limit_stalls(stall_seconds)
    most = threads if bind == "auto" else None
    if should_yield_when_idle(len(os.sched_getaffinity(0)), os.cpu_count() or 1, launch.local_size, most):
        _set_unless_given("OMPI_MCA_mpi_yield_when_idle", "1")
    if launch.launcher == "single":
        return Ranks(0, 1, 0, 1, launch.launcher, None)
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


def limit_stalls(seconds: int) -> None:
    """Have Horovod give up a call in which a rank is missing for so long; 0, its default: it waits for ever."""
    warning = min(STALL_WARNING_SECONDS, seconds) or STALL_WARNING_SECONDS
    _set_unless_given("HOROVOD_STALL_CHECK_TIME_SECONDS", str(warning))
    _set_unless_given("HOROVOD_STALL_SHUTDOWN_TIME_SECONDS", str(seconds))


def _set_unless_given(name: str, value: str) -> None:
    os.environ.setdefault(name, value)


def take_cores(ranks: Ranks, bind: Literal["auto", "none"], threads: int) -> Cores:
    """Pin this rank to its share of the machine's cores (bind 'auto'), at most `threads` of them; 0 sets no limit.

    Shared out among the ranks of a machine rather than of a node: what a scheduler or a container calls two nodes may
    be one machine, whose cores are there once.
    """
    own = frozenset(os.sched_getaffinity(0))
    masks, place = [own], 0
    if ranks.mpi is not None:
        machines = ranks.mpi.allgather(machine_id())
        machine = ranks.mpi.Split(machines.index(machines[ranks.rank]))
        masks, place = machine.allgather(own), machine.Get_rank()
        machine.Free()
    cores_of_cpus = {cpu: core_of(cpu) for mask in masks for cpu in mask}
    if bind == "none":
        return unbound(masks, cores_of_cpus, place)
    cores = share_out(masks, cores_of_cpus, threads or None)[place]
    os.sched_setaffinity(0, cores.cpus)
    return cores


def start_tensorflow(ranks: Ranks, threads: int) -> bool:
    """Import TensorFlow with `threads` compute threads, pin this local rank's GPU; whether there is one."""
    # TensorFlow's own notices (CPU features, a missing GPU) would come once from every rank.
    _set_unless_given("TF_CPP_MIN_LOG_LEVEL", "3")
    POSITION.at("the start of TensorFlow", long=True)
    import_tensorflow()
    import tensorflow as tf

    _silence_notices()
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    # Two: one thread waits for a batch or a timestamp while the other computes.
    tf.config.threading.set_inter_op_parallelism_threads(2)
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:  # not run on real hardware
        own = gpu_of(ranks, gpus)
        tf.config.set_visible_devices(own, "GPU")
        tf.config.experimental.set_memory_growth(own, True)
    return bool(gpus)


def _silence_notices() -> None:
    """Hide what TensorFlow 2.18 says of every graph that it traces or rewrites, through loggers of its own."""
    if os.environ["TF_CPP_MIN_LOG_LEVEL"] < "2":
        return
    import tensorflow as tf

    tf.get_logger().setLevel("ERROR")
    library = ctypes.CDLL(str(Path(tf.sysconfig.get_lib()) / "libtensorflow_framework.so.2"))
    # absl::SetMinLogLevel(LogSeverityAtLeast), in the one version of TensorFlow that we run on; errors are shown.
    least = getattr(library, "_ZN4absl12lts_2023080214SetMinLogLevelENS0_18LogSeverityAtLeastE", None)
    if least is not None:
        least(ctypes.c_int(2))


def set_horovod_options(config: HorovodConfig) -> None:
    """Hand the options to Horovod, which reads them when it starts."""
    if config.fusion_threshold_mb is not None:
        os.environ["HOROVOD_FUSION_THRESHOLD"] = str(round(config.fusion_threshold_mb * 2**20))
    if config.cycle_time_ms is not None:
        os.environ["HOROVOD_CYCLE_TIME"] = str(config.cycle_time_ms)


def start_horovod(ranks: Ranks, config: HorovodConfig, model_parallel_size: int) -> Ranks:
    """Start Horovod, with process sets for copies of `model_parallel_size` ranks where they are more than one.

    Raises UserError where Horovod knows of other ranks than MPI.
    """
    set_horovod_options(config)
    import horovod.tensorflow as hvd

    size, sets = model_parallel_size, []
    if 1 < size < ranks.size:
        sets = [hvd.ProcessSet(range(start, start + size)) for start in range(0, ranks.size, size)]
        sets += [hvd.ProcessSet(range(place, ranks.size, size)) for place in range(size)]
    POSITION.at("the start of Horovod", long=True)
    with POSITION.waiting():
        hvd.init(process_sets=sets)
    if hvd.size() != ranks.size:
        raise UserError(
            f"MPI started {ranks.size} ranks but Horovod knows of {hvd.size()}: rebuild Horovod against this "
            "environment's MPI"
        )
    if not sets:
        return replace(ranks, model_parallel_size=size)
    copies = ranks.size // size
    own = (sets[ranks.rank // size], sets[copies + ranks.rank % size])
    return replace(ranks, model_parallel_size=size, members_set=own[0], copies_set=own[1])


def gpu_of(ranks: Ranks, gpus: Sequence[Any]) -> Any:
    """The GPU of this rank: the node's, by local rank; or the one that the launcher left visible to it.

    Raises UserError where the node has more ranks than GPUs.
    """
    if len(gpus) == 1 and ranks.local_size > 1 and _visible_devices_are_own():
        return gpus[0]
    if ranks.local_rank >= len(gpus):
        raise UserError(
            f"{ranks.local_size} ranks on {os.uname().nodename}, which has {len(gpus)} GPUs: start one rank a GPU"
        )
    return gpus[ranks.local_rank]


def _visible_devices_are_own() -> bool:
    """Whether Slurm gave each task a GPU of its own (--gpus-per-task, --gpu-bind): a rank sees just that one."""
    return "SLURM_STEP_GPUS" in os.environ and "," not in os.environ.get("CUDA_VISIBLE_DEVICES", ",")


def horovod_features() -> list[str]:
    """What Horovod was built with."""
    import horovod.tensorflow as hvd

    features = ("mpi", "gloo", "nccl", "ddl", "ccl", "cuda", "rocm")
    return [name for name in features if getattr(hvd, f"{name}_built")()]
