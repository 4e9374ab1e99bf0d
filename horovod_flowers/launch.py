"""What the launcher says about this process before MPI starts, and how a command ends when something is wrong.

Reads environment variables only, so that a mistake is told by one rank, within seconds, before any rank waits for
another.
"""

import contextlib
import os
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from horovod_flowers.errors import JobError, Stopped, UserError, cause, harmless
from horovod_flowers.files import storage_errno, storage_sentence

EXIT_FAILURE = 1
EXIT_USER_ERROR = 2
EXIT_STOPPED = 75  # EX_TEMPFAIL of sysexits.h: starting the same again goes on from here
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141
# How long the other ranks hold back so that rank 0's sentence is the one that is read. mpirun ends them sooner.
GRACE_SECONDS = 5.0
ELASTIC: Literal["horovodrun-elastic"] = "horovodrun-elastic"
"""The launcher of ranks that may come and go: horovodrun with a discovery script, over Gloo."""


@dataclass(frozen=True)
class Launch:
    """Rank and world size as the launcher's environment variables tell them."""

    launcher: Literal["openmpi", "pmix", "pmi", "single", "horovodrun-elastic"]
    rank: int
    size: int
    local_rank: int
    local_size: int

    @staticmethod
    def from_environment(environment: Mapping[str, str], elastic: bool = False) -> "Launch":
        """Read Open MPI's, PMIx's (srun --mpi=pmix) or PMI's (MPICH) variables; horovodrun's for a command that can be
        `elastic`.

        Raises UserError for a Slurm task without any of them: `srun` without a matching PMI starts N separate
        one-rank jobs; and for horovodrun --gloo, under which every rank would be an MPI singleton.
        """

        def number(name: str, default: int) -> int:
            value = environment.get(name, "")
            return int(value) if value.isdigit() else default

        if "OMPI_COMM_WORLD_SIZE" in environment:
            return Launch(
                "openmpi",
                number("OMPI_COMM_WORLD_RANK", 0),
                number("OMPI_COMM_WORLD_SIZE", 1),
                number("OMPI_COMM_WORLD_LOCAL_RANK", 0),
                number("OMPI_COMM_WORLD_LOCAL_SIZE", 1),
            )
        if "HOROVOD_GLOO_RENDEZVOUS_ADDR" in environment:
            if elastic and environment.get("HOROVOD_ELASTIC") == "1":
                return Launch(
                    ELASTIC,
                    number("HOROVOD_RANK", 0),
                    number("HOROVOD_SIZE", 1),
                    number("HOROVOD_LOCAL_RANK", 0),
                    number("HOROVOD_LOCAL_SIZE", 1),
                )
            raise UserError(
                "horovodrun --gloo leaves out MPI, which this version needs: leave out --gloo, or start with mpirun "
                "(training alone does without: --elastic, with horovodrun's --host-discovery-script)"
            )
        tasks = number("SLURM_STEP_NUM_TASKS", number("SLURM_NTASKS", 1))
        if "PMIX_RANK" in environment:
            tasks_per_node = environment.get("SLURM_STEP_TASKS_PER_NODE", environment.get("SLURM_TASKS_PER_NODE", "1"))
            return Launch(
                "pmix",
                number("PMIX_RANK", 0),
                tasks,
                number("SLURM_LOCALID", 0),
                _tasks_on_node(tasks_per_node, number("SLURM_NODEID", 0)),
            )
        if "PMI_RANK" in environment:
            return Launch(
                "pmi",
                number("PMI_RANK", 0),
                number("PMI_SIZE", 1),
                number("MPI_LOCALRANKID", number("SLURM_LOCALID", 0)),
                number("MPI_LOCALNRANKS", 1),
            )
        if tasks > 1:
            raise UserError(
                f"Slurm started {tasks} tasks (SLURM_NTASKS={tasks}) but this process knows of one rank only: "
                "start them with 'srun --mpi=pmix', or with mpirun or horovodrun inside the allocation "
                "('mpirun -np 1' for a one-rank run)"
            )
        return Launch("single", 0, 1, 0, 1)


def slurm_layout(layout: str) -> list[int]:
    """Slurm's run-length list of tasks a node: '2(x3),1' is 2, 2, 2, 1."""
    counts: list[int] = []
    for part in layout.split(","):
        count, _, repeat = part.partition("(x")
        counts += [int(count)] * int(repeat.rstrip(")") or 1)
    return counts


def _tasks_on_node(layout: str, node: int) -> int:
    counts = slurm_layout(layout)
    return counts[node] if node < len(counts) else counts[-1]


def own_command() -> list[str]:
    """How this process was started, for records: bytes of a word that are no UTF-8 become \\udcNN."""
    return [word.encode("utf-8", "backslashreplace").decode("utf-8") for word in sys.orig_argv]


@contextlib.contextmanager
def error_boundary(command: str) -> Iterator[None]:
    """End the process, and the whole job with it, on any error inside the block.

    A UserError becomes one sentence on one rank and exit status 2, a JobError the same with status 1; a job that
    stopped because it was asked to status 75 (every rank of it: nothing is wrong); Ctrl-C status 130; anything else is
    a defect of ours or of the machine: its traceback is printed with rank and host, and the job ends with status 1.
    """
    try:
        yield
        sys.stdout.flush()  # here, where its failure is answered
    except UserError as error:
        _end_with_one_voice(f"{command}: error: {harmless(str(error))}", EXIT_USER_ERROR)
    except JobError as error:
        _end_with_one_voice(f"{command}: error: {harmless(str(error))}", EXIT_FAILURE)
    except Stopped as stop:
        if _own_rank() == 0:
            print(f"{command}: {stop}", file=sys.stderr, flush=True)
        raise SystemExit(EXIT_STOPPED) from stop
    except KeyboardInterrupt:
        _end_with_one_voice(f"{command}: interrupted", EXIT_INTERRUPTED)
    except BrokenPipeError:
        _end_where_nobody_listens()
    except Exception as error:
        if (number := storage_errno(error)) is not None:
            what = getattr(error, "filename", None) or "a file"
            _end_with_one_voice(f"{command}: error: {storage_sentence(what, number)}", EXIT_FAILURE)
        if _ranks_connected() and follows_from_another(error):
            time.sleep(GRACE_SECONDS)  # the launcher ends this rank by then: the one that failed first is read
        _end_job(f"{_trace_of(error)}{command}: {failure(error)}", EXIT_FAILURE)


_OUT_OF_MEMORY = ("MemoryError", "ResourceExhaustedError", "std::bad_alloc")
_OF_ANOTHER = ("Horovod has been shut down", "HorovodInternalError", "MPI_ERR_PROC_FAILED")


def failure(error: BaseException) -> str:
    """Which rank failed, where, and of what; and what to try where memory ran out."""
    text = f"rank {_own_rank()} on {os.uname().nodename} failed: {cause(error)}"
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
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    raise SystemExit(EXIT_BROKEN_PIPE)


def _own_rank() -> int:
    """The rank by whichever variable is there, 0 without any: good enough to choose who speaks."""
    for name in ("OMPI_COMM_WORLD_RANK", "HOROVOD_RANK", "PMIX_RANK", "PMI_RANK", "SLURM_PROCID"):
        if os.environ.get(name, "").isdigit():
            return int(os.environ[name])
    return 0


def _end_with_one_voice(message: str, status: int) -> None:
    """Rank 0 speaks at once; another rank only if nothing has ended it by then, so that the mistake is its own."""
    if _own_rank() != 0:
        time.sleep(GRACE_SECONDS)
        if not _ranks_connected() and "OMPI_COMM_WORLD_RANK" not in os.environ:
            # Nothing ends the other tasks of srun, and before MPI starts every rank makes the same mistake, which
            # rank 0 has told. (mpirun would have ended this rank by now: its mistake is its own.)
            raise SystemExit(status)
        message = f"{message} [rank {_own_rank()} on {os.uname().nodename}]"
    _end_job(message, status)


def _ranks_connected() -> bool:
    mpi = sys.modules.get("mpi4py.MPI")
    return mpi is not None and mpi.Is_initialized() and not mpi.Is_finalized() and mpi.COMM_WORLD.Get_size() > 1


def _end_job(message: str, status: int) -> None:
    sys.stdout.flush()
    print(message, file=sys.stderr, flush=True)
    if not _ranks_connected():
        raise SystemExit(status)
    # Not sys.exit: exit handlers would wait for ranks that are waiting for this one.
    sys.modules["mpi4py.MPI"].COMM_WORLD.Abort(status)
