"""The ranks of a person's script: `ranks = horovod_flowers.start()`."""

import atexit
import os
import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

from horovod_flowers.config.run import HorovodConfig, RunConfig
from horovod_flowers.fit.roll_call import END, RollCall
from horovod_flowers.launch.job_environment import SINGLE, JobEnvironment
from horovod_flowers.ranks.affinity import Cores
from horovod_flowers.ranks.communicator import Ranks
from horovod_flowers.ranks.stall_watch import StallWatch, longest
from horovod_flowers.ranks.startup import connect, start_horovod, start_tensorflow_for_script, take_cores
from horovod_flowers.runtime.console import say
from horovod_flowers.runtime.errors import JobError, Stopped, UserError
from horovod_flowers.runtime.exit import error_boundary
from horovod_flowers.runtime.heartbeat import HEARTBEAT

if TYPE_CHECKING:
    from horovod_flowers.fit.model import StrategyChoice

STALL_SECONDS = 120.0
SCRIPT = "the script's own code"


class ScriptRanks:
    """This process among the ranks that run the script, and what it needs to train on all of them.

    Of one rank everything works as without it.
    """

    def __init__(self, ranks: Ranks, cores: Cores) -> None:
        self._ranks, self._cores = ranks, cores
        self._horovod: Ranks | None = None
        self._roll_call = RollCall(ranks)

    @property
    def rank(self) -> int:
        """This process, from 0."""
        return self._ranks.rank

    @property
    def size(self) -> int:
        """How many ranks there are."""
        return self._ranks.size

    @property
    def local_rank(self) -> int:
        """This process among those of its node, from 0."""
        return self._ranks.local_rank

    @property
    def local_size(self) -> int:
        """How many ranks this node has."""
        return self._ranks.local_size

    @property
    def is_root(self) -> bool:
        """Whether this is rank 0, which prints and writes files."""
        return self._ranks.rank == 0

    def barrier(self) -> None:
        """Wait for all ranks, however long they take. Every rank calls it."""
        self.answer("ranks.barrier()")

    def answer(self, call: str) -> None:
        """Wait until all ranks are about to make the same call. Raises UserError, on every rank, where they are not."""
        self._roll_call.answer(call)

    def distribute(self, model: Any, strategy: "StrategyChoice" = "allreduce", **options: Any) -> Any:
        """Let all ranks train a compiled Keras model together: its `fit`, `evaluate`, `predict` and `save`.

        In place; returns the model. Every rank calls it. strategy: how the work of a step is divided
        (docs/strategies.md); 'none' trains one model a rank, independently. options: see `fit.model.Options`.

        The batches that `fit` is given, or makes of arrays by `batch_size`, are global ones: each rank computes its
        part of each. What is trained is what one rank trains on them.

        Raises UserError, on every rank, where the model is not compiled, was distributed before, or cannot be trained
        so.
        """
        from horovod_flowers.fit.model import distribute

        return distribute(model, self, strategy, **options)

    def shard(self, dataset: Any, with_share: bool = False) -> Any:
        """This rank's part of each global batch of a tf.data.Dataset, for a training loop of one's own.

        dataset: batched with global batches, in the same order on every rank (shuffled with a seed). with_share:
        elements become (data, share): multiply the loss by `share`, a float32 scalar, so that the mean over ranks is
        that of one rank on the global batch; a rank without a row of a short batch gets one row of share 0. Without it,
        a batch that the ranks do not divide evenly fails (tf.errors.InvalidArgumentError).

        Raises UserError where the dataset is none, or its elements have no rows.
        """
        from horovod_flowers.fit.row_shares import shard

        return shard(dataset, self._ranks, with_share)

    def with_horovod(self, model_parallel_size: int | None = None) -> Ranks:
        """The ranks, once Horovod is started; with process sets for a mesh. Every rank calls it.

        model_parallel_size: ranks of a mesh that share one copy of the divided layers; None: those of a node.
        Raises UserError where Horovod was started for others before.
        """
        if self._horovod is None:
            ranks = self._ranks
            if ranks.size > 1:
                local_size = ranks.allreduce_min(ranks.local_size)
                group = RunConfig(model_parallel_size=model_parallel_size).model_parallel_size_for(ranks.size, local_size)
                ranks = start_horovod(ranks, HorovodConfig(), group)
                _at_exit(self)  # again: before Horovod's own, which would end it for all ranks
            self._horovod = ranks
        elif model_parallel_size not in (None, self._horovod.model_parallel_size):
            raise UserError(
                f"model_parallel_size {model_parallel_size} was asked for, and the ranks of this script are grouped by "
                f"{self._horovod.model_parallel_size} already: give the first distribute of a script model_parallel_size"
            )
        return self._horovod

    @property
    def plain(self) -> Ranks:
        """The ranks by MPI alone."""
        return self._ranks


_started: ScriptRanks | None = None
_watch: StallWatch | None = None


def start(
    threads: int = 0, bind: Literal["auto", "none"] = "auto", stall_seconds: float = STALL_SECONDS
) -> ScriptRanks:
    """Start MPI, give this rank its cores, import TensorFlow with as many threads; the ranks of the script.

    Best called before anything imports TensorFlow, whose threads are fixed once it has computed. A second call gives
    the same object. Started without a launcher the script is one rank, and is told so.

    threads: of TensorFlow, for each rank; 0: as many as it has cores. bind: 'auto' pins each rank to its share of the
    node's cores, 'none' leaves it as the launcher bound it. stall_seconds: a job in which nothing moves for so long
    within a call of this interface is ended, and the rank named; 0: never.

    From then on an error that nobody catches, on any rank, ends the whole job: a UserError in one sentence.

    Raises UserError where ranks were started in a way that cannot work, or Keras runs on something else than
    TensorFlow.
    """
    global _started
    if _started is not None:
        return _started
    sys.excepthook, threading.excepthook = _Hook(sys.excepthook), _thread_hook(threading.excepthook)
    HEARTBEAT.at("the start", long=True)
    job = JobEnvironment.from_environment(os.environ)
    refuse_other_keras(os.environ)
    if threads < 0 or stall_seconds < 0 or bind not in ("auto", "none"):
        raise UserError(
            f"start(threads={threads!r}, bind={bind!r}, stall_seconds={stall_seconds!r}): threads and stall_seconds "
            "are 0 or more, bind is 'auto' or 'none'"
        )
    ranks = connect(job, threads, bind, round(longest(stall_seconds)))
    cores = take_cores(ranks, bind, threads)
    start_tensorflow_for_script(ranks, threads or ranks.allreduce_min(cores.physical))
    _started = ScriptRanks(ranks, cores)
    if ranks.size > 1:
        _begin_watch(ranks, stall_seconds)
        _at_exit(_started)
    elif job.launcher == SINGLE:
        say("one rank: started without mpirun, so there is nothing to divide (mpirun -np N python SCRIPT starts N)")
    HEARTBEAT.leave(SCRIPT)
    return _started


def refuse_other_keras(variables: Any) -> None:
    """Refuse another library under Keras than TensorFlow, and Keras 2 behind tf.keras (UserError)."""
    backend = variables.get("KERAS_BACKEND") or "tensorflow"
    if backend == "tensorflow" and (keras := sys.modules.get("keras")) is not None and hasattr(keras, "config"):
        backend = keras.config.backend()
    if backend != "tensorflow":
        raise UserError(
            f"Keras runs on {backend} here (KERAS_BACKEND), and ranks train together on TensorFlow alone: set "
            "KERAS_BACKEND=tensorflow, or unset it, on every rank"
        )
    if variables.get("TF_USE_LEGACY_KERAS", "") not in ("", "0", "False"):
        raise UserError("TF_USE_LEGACY_KERAS puts Keras 2 behind tf.keras, and this interface is for Keras 3: unset it")


def _begin_watch(ranks: Ranks, stall_seconds: float) -> None:
    """Watch for stalls through a folder here, if all ranks see the same one."""
    global _watch
    name = ranks.broadcast(f".stall-{os.uname().nodename}-{os.getpid()}")
    sign, seen = Path(f"{name}-sign"), False
    if ranks.rank == 0:
        try:
            sign.touch()
        except OSError:
            pass
    ranks.barrier()
    seen = sign.exists()
    everywhere = bool(ranks.allreduce_min(int(seen)))
    if ranks.rank == 0 and seen:
        sign.unlink()
    if everywhere:
        _watch = StallWatch("horovod_flowers")
        _watch.begin(ranks, Path(name).absolute(), stall_seconds)


def _at_exit(ranks: ScriptRanks) -> None:
    atexit.unregister(_end)
    atexit.register(_end, ranks)


def _end(ranks: ScriptRanks) -> None:
    """Wait for all ranks at the end of the script: one that comes early is told, where others go on."""
    if _Hook.has_failed:
        return
    with error_boundary("horovod_flowers"):
        ranks.answer(END)
    if _watch is not None:
        _watch.__exit__(None, None, None)


class _Hook:
    """In place of sys.excepthook: an error that nobody has caught ends the whole job."""

    has_failed = False

    def __init__(self, before: Any) -> None:
        self._before = before

    def __call__(self, kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        _Hook.has_failed = True
        alone = _started is None or _started.size == 1
        if alone and not isinstance(error, UserError | JobError | Stopped):
            self._before(kind, error, trace)
            return
        with error_boundary(Path(sys.argv[0]).name or "python"):
            raise error.with_traceback(trace)


def _thread_hook(before: Any) -> Any:
    def hook(arguments: threading.ExceptHookArgs) -> None:
        if _started is None or _started.size == 1 or arguments.exc_value is None:
            before(arguments)
        else:
            _Hook(before)(arguments.exc_type, arguments.exc_value, arguments.exc_traceback)

    return hook
