"""How a command ends when something is wrong: one sentence from one rank, and the exit status."""

import contextlib
import os
import sys
import time
import traceback
from collections.abc import Iterator
from types import TracebackType

from horovod_flowers.runtime.errors import JobError, Stopped, UserError, cause, harmless
from horovod_flowers.runtime.files import refusal_sentence, storage_errno, storage_sentence
from horovod_flowers.runtime.standard_streams import (
    drop_what_fails,
    lead_nowhere,
    open_where_closed,
    output_that_failed,
)

EXIT_FAILURE = 1


EXIT_USER_ERROR = 2


EXIT_STOPPED = 75  # EX_TEMPFAIL of sysexits.h: starting the same again goes on from here


EXIT_INTERRUPTED = 130


EXIT_BROKEN_PIPE = 141


REPORT_VARIABLE = "FLOWERS_RANK_REPORT"
"""The file in which a rank tells its launcher of its end (launch/rank_reports.py). Named after the rank's process, so
that what a rank starts, which inherits the variable, does not speak for it."""


# How long the other ranks hold back so that rank 0's sentence is the one that is read. mpirun ends them sooner.
GRACE_SECONDS = 5.0


@contextlib.contextmanager
def error_boundary(command: str, say_trace: bool = True) -> Iterator[None]:
    """End the process, and the whole job with it, on any error inside the block.

    A UserError becomes one sentence on one rank and exit status 2, a JobError the same with status 1; a job that
    stopped because it was asked to status 75 (every rank of it: nothing is wrong); Ctrl-C status 130; anything else is
    a defect of ours or of the machine: its traceback is printed with rank and host, and the job ends with status 1.
    """
    open_where_closed()
    try:
        yield
        sys.stdout.flush()  # here, where its failure is answered
    except UserError as error:
        _end_with_one_voice(f"{command}: error: {harmless(str(error))}", EXIT_USER_ERROR)
    except JobError as error:
        _end_with_one_voice(f"{command}: error: {harmless(str(error))}", EXIT_FAILURE)
    except Stopped as stop:
        if _own_rank() == 0:
            _complain(f"{command}: {stop}")
        _tell_launcher(EXIT_STOPPED)
        raise SystemExit(EXIT_STOPPED) from stop
    except SystemExit as end:
        _tell_launcher(end.code if isinstance(end.code, int) else int(end.code is not None))
        raise
    except KeyboardInterrupt:
        _end_with_one_voice(f"{command}: interrupted", EXIT_INTERRUPTED)
    except BrokenPipeError:
        _end_where_nobody_listens()
    except Exception as error:
        path = getattr(error, "filename", None)
        if isinstance(error, PermissionError) and path is not None:
            _end_with_one_voice(f"{command}: error: {harmless(refusal_sentence(path, error))}", EXIT_USER_ERROR)
        if (number := storage_errno(error)) is not None:
            what = path or output_that_failed(error) or "a file"
            _end_with_one_voice(f"{command}: error: {harmless(storage_sentence(what, number))}", EXIT_FAILURE)
        if _ranks_connected() and follows_from_another(error):
            time.sleep(GRACE_SECONDS)  # the launcher ends this rank by then: the one that failed first is read
        trace = _trace_of(error) if say_trace else ""
        _end_job(f"{trace}{command}: {failure(error)}", EXIT_FAILURE)


def end_job_on_uncaught_errors(command: str) -> None:
    """Let an exception that a script does not catch end the whole job from now on, as `error_boundary` does.

    An excepthook of the script's own is called before.
    """
    before = sys.excepthook
    if getattr(before, "ends_job", False):
        return

    def end(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        own = before is not sys.__excepthook__
        if own:
            before(kind, error, trace)
        with error_boundary(command, say_trace=not own):
            raise error

    end.ends_job = True  # type: ignore[attr-defined]
    sys.excepthook = end


_OUT_OF_MEMORY = ("MemoryError", "ResourceExhaustedError", "std::bad_alloc")


RANK_VARIABLES = (
    *("OMPI_COMM_WORLD_RANK", "HOROVOD_RANK", "MV2_COMM_WORLD_RANK", "MVP_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK"),
    *("PMI_ID", "PALS_RANKID", "JSM_NAMESPACE_RANK", "FLUX_TASK_RANK", "MPIRUN_RANK", "ALPS_APP_PE", "SLURM_PROCID"),
)
"""By which launchers tell a process its rank (launch/job_environment.py): good enough to choose who speaks."""


_SHUT_DOWN = "Horovod has been shut down"
_OF_ANOTHER = (_SHUT_DOWN, "HorovodInternalError", "MPI_ERR_PROC_FAILED")


def failure(error: BaseException) -> str:
    """Which rank failed, where, and of what; and what to try where memory ran out."""
    where = f"rank {_own_rank()} on {os.uname().nodename}"
    if _SHUT_DOWN in str(error):  # TensorFlow puts pages around it
        return f"{where} stops: {_SHUT_DOWN}, since a rank failed, ended, or was waited for too long in a call of all"
    text = f"{where} failed: {cause(error)}"
    if any(mark in text for mark in _OUT_OF_MEMORY):
        text += "; memory ran out: try a smaller batch, fewer ranks on a node, or --strategy sharded"
    return text


def follows_from_another(error: BaseException) -> bool:
    """Whether an error says that another rank has failed before, and not which."""
    return any(mark in f"{type(error).__name__}: {error}" for mark in _OF_ANOTHER)


def _trace_of(error: BaseException) -> str:
    try:
        return "".join(traceback.format_exception(error))
    except MemoryError:
        return ""


def _end_where_nobody_listens() -> None:
    """End as a program that SIGPIPE ends, such as when `head` has read enough, without a second complaint at exit."""
    lead_nowhere(sys.stdout)
    _tell_launcher(EXIT_BROKEN_PIPE)
    raise SystemExit(EXIT_BROKEN_PIPE)


def _own_rank() -> int:
    """The rank, by MPI where it has started, else by whichever variable is there; 0 without any."""
    if _ranks_connected():
        return int(sys.modules["mpi4py.MPI"].COMM_WORLD.Get_rank())
    for name in RANK_VARIABLES:
        if os.environ.get(name, "").isdecimal():
            return int(os.environ[name])
    return 0


def _end_with_one_voice(message: str, status: int) -> None:
    """Rank 0 speaks at once; another rank only if nothing has ended it by then, so that the mistake is its own."""
    if _own_rank() != 0:
        time.sleep(GRACE_SECONDS)
        if not _ranks_connected() and "OMPI_COMM_WORLD_RANK" not in os.environ and _hydra() is None:
            # Nothing ends the other tasks of srun, and before MPI starts every rank makes the same mistake, which
            # rank 0 has told. (mpirun would have ended this rank by now: its mistake is its own.)
            raise SystemExit(status)
        message = f"{message} [rank {_own_rank()} on {os.uname().nodename}]"
    _end_job(message, status)


def _ranks_connected() -> bool:
    mpi = sys.modules.get("mpi4py.MPI")
    return mpi is not None and mpi.Is_initialized() and not mpi.Is_finalized() and mpi.COMM_WORLD.Get_size() > 1


def _complain(message: str) -> None:
    """Say it, where anybody can be told; nothing is left that would be tried again at the end."""
    drop_what_fails()
    with contextlib.suppress(OSError, ValueError):
        print(message, file=sys.stderr, flush=True)
    drop_what_fails()


def _tell_launcher(status: int) -> None:
    """Where it listens: some launchers lose the status of their ranks."""
    report = os.environ.get(REPORT_VARIABLE, "")
    if status and report.endswith(f"-{os.getpid()}"):
        with contextlib.suppress(OSError), open(report, "r+") as file:
            file.write(str(status))


def _end_job(message: str, status: int) -> None:
    _complain(message)
    _tell_launcher(status)
    if not _ranks_connected():
        _end_ranks_of_hydra(status)
        raise SystemExit(status)
    # Not sys.exit: exit handlers would wait for ranks that are waiting for this one.
    sys.modules["mpi4py.MPI"].COMM_WORLD.Abort(status)


def _hydra() -> int | None:
    """The file descriptor by which MPICH's launcher, or Intel MPI's, listens to a rank that has not started MPI yet."""
    mpi = sys.modules.get("mpi4py.MPI")
    if (mpi is not None and mpi.Is_initialized()) or "MPI_LOCALNRANKS" not in os.environ:
        return None
    number = os.environ.get("PMI_FD", "")
    return int(number) if number.isdecimal() else None


def _end_ranks_of_hydra(status: int) -> None:
    """Have the launcher end all ranks: it goes on where one has just ended, and the others would wait in MPI_Init.

    By the command 'abort' of PMI-1's wire protocol, which MPI_Abort sends (RFC 13 of the Flux framework describes it).
    """
    descriptor = _hydra()
    if descriptor is None or os.environ.get("PMI_SIZE") == "1":
        return
    with contextlib.suppress(OSError):
        os.write(descriptor, f"cmd=abort exitcode={status}\n".encode())
        time.sleep(GRACE_SECONDS)  # it ends this rank, too, by then
