"""Start-up of the ranks: MPI, cores and threads, TensorFlow, Horovod, in the order that each needs.

MPI comes first (to learn who shares this node), then the affinity mask and thread counts, which TensorFlow reads when
it is imported and when it first computes, then Horovod, whose background thread inherits the mask; Horovod only where
the strategy sends something.
"""

import os
import zlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

from horovod_flowers.config.run import HorovodConfig
from horovod_flowers.launch.job_environment import ELASTIC, SINGLE, JobEnvironment, Told
from horovod_flowers.ranks.affinity import Cores, share_out, should_yield_when_idle, unbound
from horovod_flowers.ranks.communicator import Ranks
from horovod_flowers.ranks.horovod_build import import_horovod
from horovod_flowers.ranks.mpi import MpiCommunicator
from horovod_flowers.ranks.mpi_start import is_alone, load_mpi, loaded_library, refuse_other_launcher
from horovod_flowers.ranks.single_process import SingleProcess
from horovod_flowers.ranks.tensorflow_import import check_python, import_for_script, import_tensorflow
from horovod_flowers.ranks.tensorflow_notices import silence_notices
from horovod_flowers.runtime.console import warn
from horovod_flowers.runtime.errors import UserError
from horovod_flowers.runtime.heartbeat import HEARTBEAT
from horovod_flowers.runtime.machine import core_of, machine_id

STALL_WARNING_SECONDS = 30
STALL_SECONDS = 120


def find_job(elastic: bool = False) -> JobEnvironment:
    """This process among the ranks, before MPI starts: as the launcher's variables tell it.

    Where they do not tell all, or contradict each other, MPI starts here, and its own answer counts. `elastic`: for a
    command that can be. Raises UserError for ranks that cannot find each other (`JobEnvironment.from_environment`).
    """
    job = JobEnvironment.from_environment(os.environ, elastic, ask_mpi)
    if job.size == 1 and job.launcher not in (SINGLE, ELASTIC) and is_alone(load_mpi()):
        return JobEnvironment(SINGLE, 0, 1, 0, 1)  # the launcher of another MPI, with which this one would not start
    return job


def ask_mpi(told: Told) -> JobEnvironment:
    """This process among the ranks as MPI knows them. Starts MPI. Raises UserError as `mpi_start.start_mpi` does."""
    check_python()
    # As many ranks as the node has cores, if it is not told: a rank that owns more loses little by yielding.
    online = os.cpu_count() or 1
    library = load_mpi()
    refuse_other_launcher(told, library, os.environ)
    world: MpiCommunicator | None = None
    if not is_alone(library):
        world = MpiCommunicator.world(told, should_yield_when_idle(len(os.sched_getaffinity(0)), online, online))
    if world is None or world.size == 1:
        if told.size is None:
            warn(
                f"this process was started by a launcher ({told.launcher}) that does not say of how many ranks, and "
                f"MPI ({library.summary}) knows of this one: if there are others, each works by itself"
            )
        return JobEnvironment(SINGLE, 0, 1, 0, 1)
    local_rank, local_size = _place_on_node(world)
    return JobEnvironment(told.launcher, world.rank, world.size, local_rank, local_size)


class _Node:
    """What MPI is asked once, and by every rank: some may have to know before it would start for the others."""

    place: tuple[int, int] | None = None


def _place_on_node(world: MpiCommunicator) -> tuple[int, int]:
    """Of this rank among those that share the node's memory, and how many they are. Every rank calls it."""
    if _Node.place is None:
        node = world.split_by_node()
        _Node.place = node.rank, node.size
        node.free()
    return _Node.place


def connect(
    job: JobEnvironment, threads: int, bind: Literal["auto", "none"], stall_seconds: int = STALL_SECONDS
) -> Ranks:
    """Start MPI, whose own answer says how many ranks there are and which of them share this node.

    stall_seconds: how long Horovod waits for a rank that takes no part in a collective call; 0: for ever.
    Raises UserError where there is no MPI or no room for it, where it is of another kind than the launcher, and where
    it knows of this rank alone though the launcher started more.
    """
    check_python()  # before MPI starts
    limit_stalls(stall_seconds)
    if job.launcher == SINGLE:
        return Ranks(0, 1, 0, 1, job.launcher, SingleProcess())
    most = threads if bind == "auto" else None
    yields = should_yield_when_idle(len(os.sched_getaffinity(0)), os.cpu_count() or 1, job.local_size, most)
    world = MpiCommunicator.world(job.told(), yields)
    local_rank, local_size = _place_on_node(world)
    return Ranks(world.rank, world.size, local_rank, local_size, job.launcher, world)


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
    masks, place = _masks_on_machine(ranks)
    if bind == "none":
        return unbound(masks, _cores_of(masks), place)
    cores = share_out(masks, _cores_of(masks), threads or None)[place]
    os.sched_setaffinity(0, cores.cpus)
    return cores


def share_of_cores(ranks: Ranks) -> int:
    """How many of the machine's cores are this rank's, which stays where the launcher bound it; every rank calls it."""
    masks, place = _masks_on_machine(ranks)
    return share_out(masks, _cores_of(masks))[place].physical


_LARGEST_COLOR = 2**31 - 1
"""Of MPI_Comm_split: a C int, at least 0."""


def _masks_on_machine(ranks: Ranks) -> tuple[list[frozenset[int]], int]:
    """The affinity masks of the ranks of this machine, and this rank's place among them."""
    own = machine_id()
    # By a number, which is all that MPI compares: the names of all nodes would go to every rank. Two may have the same.
    near = ranks.communicator.split(zlib.crc32(own.encode()) & _LARGEST_COLOR)
    found = near.allgather((own, frozenset(os.sched_getaffinity(0))))
    place = sum(machine == own for machine, _ in found[: near.rank])
    near.free()
    return [mask for machine, mask in found if machine == own], place


def _cores_of(masks: Sequence[frozenset[int]]) -> dict[int, tuple[int, ...]]:
    return {cpu: core_of(cpu) for mask in masks for cpu in mask}


INTER_OP_THREADS = 2
"""One waits for a batch or a timestamp while the other computes."""


def start_tensorflow(
    place: Ranks | JobEnvironment, threads: int, inter_op_threads: int = INTER_OP_THREADS, bf16: bool = False
) -> bool:
    """Import TensorFlow with `threads` compute threads, pin this local rank's GPU; whether there is one.

    inter_op_threads: that run parts of a graph, and may wait in them. bf16: whether products may be computed in
    bfloat16, which some CPUs have to be told before (`onednn.py`). Raises UserError where Keras cannot be started on
    it.
    """
    # TensorFlow's own notices (CPU features, a missing GPU) would come once from every rank.
    _set_unless_given("TF_CPP_MIN_LOG_LEVEL", "3")
    HEARTBEAT.at("the start of TensorFlow", long=True)
    replaced = import_tensorflow(bf16)
    if replaced is not None and place.rank == 0:
        warn(replaced)
    silence_notices()
    _set_threads(threads, inter_op_threads)
    return _take_gpu(place)


def start_tensorflow_for_script(ranks: Ranks, threads: int) -> bool:
    """The same for a person's own script, whose settings of Keras stay, and which may have begun to compute before.

    Raises UserError where Keras does not run on TensorFlow.
    """
    _set_unless_given("TF_CPP_MIN_LOG_LEVEL", "3")
    HEARTBEAT.at("the start of TensorFlow", long=True)
    import_for_script()
    silence_notices()
    try:
        _set_threads(threads)
        return _take_gpu(ranks)
    except RuntimeError:  # TensorFlow's, which has computed: it keeps its threads and devices
        if ranks.rank == 0:
            warn(
                "TensorFlow has computed before horovod_flowers.start(), so each rank keeps the threads and devices "
                "that it has: call start() before models and tensors are made"
            )
        return False


def _set_threads(threads: int, inter_op_threads: int = INTER_OP_THREADS) -> None:
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(inter_op_threads)


def _take_gpu(place: Ranks | JobEnvironment) -> bool:
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    if gpus:  # not run on real hardware
        own = gpu_of(place, gpus)
        tf.config.set_visible_devices(own, "GPU")
        tf.config.experimental.set_memory_growth(own, True)
    return bool(gpus)


MOST_RANKS_IN_ANY_ORDER = 2
"""a + b is b + a, bit by bit. With a third summand the order counts."""


def set_horovod_options(config: HorovodConfig, size: int | None) -> None:
    """Hand the options to Horovod, which reads them when it starts. `size`: of the world; None where it may change.

    Which tensors Horovod fuses into one call depends on which of them are ready when it looks. MPI sums up an element
    in an order that depends on the size of the call and on the place of the element in it, so that from three ranks
    on two runs would differ in their last bits. Without fusion calls have the contents that a strategy gives them
    (strategy/call_contents.py).
    """
    if config.fusion_threshold_mb is not None:
        os.environ["HOROVOD_FUSION_THRESHOLD"] = str(round(config.fusion_threshold_mb * 2**20))
    elif size is None or size > MOST_RANKS_IN_ANY_ORDER:
        _set_unless_given("HOROVOD_FUSION_THRESHOLD", "0")
    if config.cycle_time_ms is not None:
        os.environ["HOROVOD_CYCLE_TIME"] = str(config.cycle_time_ms)


def fuses_tensors() -> bool:
    """Whether Horovod may put several calls into one."""
    return os.environ.get("HOROVOD_FUSION_THRESHOLD") != "0"


def start_horovod(ranks: Ranks, config: HorovodConfig, model_parallel_size: int) -> Ranks:
    """Start Horovod, with process sets for copies of `model_parallel_size` ranks where they are more than one.

    Raises UserError where Horovod was built for something else than is here, and where it knows of other ranks than
    MPI.
    """
    set_horovod_options(config, ranks.size)
    hvd = import_horovod(loaded_library())
    size, sets = model_parallel_size, []
    if 1 < size < ranks.size:
        sets = [hvd.ProcessSet(range(start, start + size)) for start in range(0, ranks.size, size)]
        sets += [hvd.ProcessSet(range(place, ranks.size, size)) for place in range(size)]
    HEARTBEAT.at("the start of Horovod", long=True)
    with HEARTBEAT.waiting():
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


def gpu_of(place: Ranks | JobEnvironment, gpus: Sequence[Any]) -> Any:
    """The GPU of this rank: the node's, by local rank; or the one that the launcher left visible to it.

    Raises UserError where the node has more ranks than GPUs.
    """
    if len(gpus) == 1 and place.local_size > 1 and _visible_devices_are_own():
        return gpus[0]
    if place.local_rank >= len(gpus):
        raise UserError(
            f"{place.local_size} ranks on {os.uname().nodename}, which has {len(gpus)} GPUs: start one rank per GPU"
        )
    return gpus[place.local_rank]


def _visible_devices_are_own() -> bool:
    """Whether Slurm gave each task a GPU of its own (--gpus-per-task, --gpu-bind): a rank sees just that one."""
    return "SLURM_STEP_GPUS" in os.environ and "," not in os.environ.get("CUDA_VISIBLE_DEVICES", ",")


def horovod_features() -> list[str]:
    """What Horovod was built with. Raises UserError where it cannot be loaded."""
    hvd = import_horovod(loaded_library())
    features = ("mpi", "gloo", "nccl", "ddl", "ccl", "cuda", "rocm")
    return [name for name in features if getattr(hvd, f"{name}_built")()]
