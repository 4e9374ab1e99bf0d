"""The ranks of a person's script: `ranks = horovod_flowers.start()`."""

import atexit
import contextlib
import os
import shutil
import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

from horovod_flowers.config.script import threads_asked_for
from horovod_flowers.fit.roll_call import END
from horovod_flowers.fit.script import SCRIPT, Script
from horovod_flowers.launch.job_environment import SINGLE
from horovod_flowers.ranks.communicator import Ranks
from horovod_flowers.ranks.stall_watch import StallWatch, longest
from horovod_flowers.ranks.startup import connect, find_job, start_tensorflow_for_script, take_cores
from horovod_flowers.runtime.console import say
from horovod_flowers.runtime.errors import JobError, Stopped, UserError
from horovod_flowers.runtime.exit import error_boundary
from horovod_flowers.runtime.heartbeat import HEARTBEAT

if TYPE_CHECKING:
    from horovod_flowers.fit.model import StrategyChoice

STALL_SECONDS = 120.0
SECONDS_FOR_OTHERS = 10.0
"""To come to the end of the script, where a rank has left a call before its end: they do so too, or wait for it."""


class ScriptRanks(Script):
    """This process among the ranks that run the script, and what it needs to train on all of them.

    Of one rank everything works as without it.
    """

    def horovod_started(self) -> None:
        """Its own end of the process would end it for all ranks: ours comes before."""
        _at_exit(self)

    def distribute(self, model: Any, strategy: "StrategyChoice" = "allreduce", **options: Any) -> Any:
        """Let all ranks train a compiled Keras model together: its `fit`, `evaluate`, `predict` and `save`.

        In place; returns the model. Every rank calls it. strategy: how the work of a step is divided
        (docs/strategies.md); 'none' trains one model a rank, independently. options: see `fit.state.Options`.

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


class _Process:
    """What a process has once."""

    started: ScriptRanks | None = None
    watch: StallWatch | None = None
    has_failed = False


def start(
    threads: int = 0, bind: Literal["auto", "none"] = "auto", stall_seconds: float = STALL_SECONDS
) -> ScriptRanks:
    """Start MPI, give this rank its cores, import TensorFlow with as many threads; the ranks of the script.

    Best called before anything imports TensorFlow, whose threads are fixed once it has computed. A second call gives
    the same object. Started without a launcher the script is one rank, and is told so.

    threads: of TensorFlow, for each rank; 0: as many as TF_NUM_INTRAOP_THREADS says, which a study sets, else as it has
    cores. bind: 'auto' pins each rank to its share of the node's cores, 'none' leaves it as the launcher bound it.
    stall_seconds: a job in which nothing moves for so long within a call of this interface is ended, and the rank
    named; 0: never.

    From then on an error that nobody catches, on any rank, ends the whole job: a UserError in one sentence.

    Raises UserError where ranks were started in a way that cannot work, or Keras runs on something else than
    TensorFlow.
    """
    if _Process.started is not None:
        return _Process.started
    sys.excepthook, threading.excepthook = _Hook(sys.excepthook), _thread_hook(threading.excepthook)
    HEARTBEAT.at("the start", long=True)
    job = find_job()
    refuse_other_keras(os.environ)
    if threads < 0 or stall_seconds < 0 or bind not in ("auto", "none"):
        raise UserError(
            f"start(threads={threads!r}, bind={bind!r}, stall_seconds={stall_seconds!r}): threads and stall_seconds "
            "are 0 or more, bind is 'auto' or 'none'"
        )
    threads = threads or threads_asked_for(os.environ)
    ranks = connect(job, threads, bind, round(longest(stall_seconds)))
    cores = take_cores(ranks, bind, threads)
    start_tensorflow_for_script(ranks, threads or ranks.allreduce_min(cores.physical))
    _Process.started = ScriptRanks(ranks, cores)
    if ranks.size > 1:
        _begin_watch(ranks, stall_seconds)
        _at_exit(_Process.started)
    elif job.launcher == SINGLE:
        say("one rank: started without mpirun, so there is nothing to divide (mpirun -np N python SCRIPT starts N)")
    HEARTBEAT.leave(SCRIPT)
    return _Process.started


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
    own = f".stall-{os.uname().nodename}-"
    name = ranks.broadcast(f"{own}{os.getpid()}")
    sign, seen = Path(f"{name}-sign"), False
    if ranks.rank == 0:
        _clear_abandoned(own)
        with contextlib.suppress(OSError):
            sign.touch()
    ranks.barrier()
    seen = sign.exists()
    everywhere = bool(ranks.allreduce_min(int(seen)))
    if ranks.rank == 0 and seen:
        sign.unlink()
    if everywhere:
        _Process.watch = StallWatch("horovod_flowers", to_allow_longer="call start(stall_seconds=...) with more")
        _Process.watch.begin(ranks, Path(name).absolute(), stall_seconds)


def _clear_abandoned(begins: str) -> None:
    """Remove the folders that jobs of this node have left which a stall has ended."""
    for folder in Path().glob(f"{begins}*"):
        number = folder.name.removeprefix(begins)
        if not number.isdecimal():
            continue
        try:
            os.kill(int(number), 0)
        except ProcessLookupError:
            shutil.rmtree(folder, ignore_errors=True)
        except (PermissionError, OverflowError):
            pass


def _at_exit(ranks: ScriptRanks) -> None:
    atexit.unregister(_end)
    atexit.register(_end, ranks)


def _end(ranks: ScriptRanks) -> None:
    """Wait for all ranks at the end of the script: one that comes early is told, where others go on."""
    if _Process.has_failed:
        return
    with error_boundary("horovod_flowers"):
        ranks.answer(END, SECONDS_FOR_OTHERS if ranks.left is not None else None)
    if _Process.watch is not None:
        _Process.watch.__exit__(None, None, None)


class _Hook:
    """In place of sys.excepthook: an error that nobody has caught ends the whole job."""

    def __init__(self, before: Any) -> None:
        self._before = before

    def __call__(self, kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        _Process.has_failed = True
        alone = _Process.started is None or _Process.started.size == 1
        if alone and not isinstance(error, UserError | JobError | Stopped):
            self._before(kind, error, trace)
            return
        with error_boundary(Path(sys.argv[0]).name or "python"):
            raise error.with_traceback(trace)


def _thread_hook(before: Any) -> Any:
    def hook(arguments: threading.ExceptHookArgs) -> None:
        if _Process.started is None or _Process.started.size == 1 or arguments.exc_value is None:
            before(arguments)
        else:
            _Hook(before)(arguments.exc_type, arguments.exc_value, arguments.exc_traceback)

    return hook
