"""Who holds a run: what stands in its lock file, and whether that process still works on it."""

import errno
import os
import secrets
from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from horovod_flowers.runtime.errors import harmless
from horovod_flowers.runtime.machine import own_process, process_numbers, process_start, utc_now

BEAT_SECONDS = 10.0
"""Between two signs of life."""
STALE_SECONDS = 60.0
"""Without a sign of life, by the clock of the file system, a holder that cannot be looked at is taken for dead."""


class Holder(msgspec.Struct, frozen=True, kw_only=True):
    """The contents of a lock file."""

    token: str
    """No other hold has it."""
    command: str
    """Such as horovod_flowers.train."""
    host: str
    pid: int
    process_start: int | None
    """Clock ticks from the start of the kernel to that of the process: a later one of the same number has another."""
    kernel: str
    """The same for processes that know each other by their numbers: boot id, and namespace of process numbers."""
    since_utc: str
    job: str | None
    """The scheduler's, such as 'Slurm job 4711'."""
    attempt: int | None
    """How often the scheduler had put the job back into the queue; None where it does not tell."""
    group: str | None
    """Of an elastic job: the same for all of its processes, each of which may become rank 0."""

    @property
    def words(self) -> str:
        """Who that is, for messages."""
        job = f", {self.job}" if self.job else ""
        return harmless(f"{self.command} on {self.host} (process {self.pid}{job}), since {self.since_utc}")

    @property
    def since(self) -> str:
        """Since when and where, for messages that name the run."""
        return harmless(f"since {self.since_utc}, by process {self.pid} on {self.host}")

    def is_earlier_attempt_of(self, own: "Holder") -> bool:
        """Whether it is, or may be, the scheduler's job that `own` is of, before it was put back into the queue."""
        if self.job is None or self.job != own.job:
            return False
        return self.attempt is None or own.attempt is None or self.attempt < own.attempt

    def is_own(self, own: "Holder") -> bool:
        """Whether `own` may go on in its place: it is the same process, or another of the same elastic job."""
        same_process = (self.kernel, self.pid, self.process_start) == (own.kernel, own.pid, own.process_start)
        return same_process or (self.group is not None and self.group == own.group)


def this_process(command: str, environment: Mapping[str, str] = os.environ) -> Holder:
    """This process as a holder, with a new token."""
    job, attempt = _scheduler_job(environment)
    pid, start, numbers = own_process()
    address, port = (environment.get(f"HOROVOD_GLOO_RENDEZVOUS_{name}") for name in ("ADDR", "PORT"))
    return Holder(
        token=secrets.token_hex(8),
        command=command,
        host=os.uname().nodename,
        pid=pid,
        process_start=start,
        kernel=numbers,
        since_utc=utc_now(),
        job=job,
        attempt=attempt,
        group=f"{address}:{port}" if address else None,  # of horovodrun's server
    )


class Found(NamedTuple):
    """A lock file as it was found."""

    holder: Holder | None
    """None where its contents are no holder's: half written, or from another version."""
    silent_seconds: float
    """Since the last sign of life, by the clock of the file system."""

    @property
    def is_dead(self) -> bool:
        """Whether its holder is known to be gone, or taken for that.

        A process of this kernel is looked at: it is dead or alive at once, however long it was silent. Any other, and
        one that cannot be looked at, is judged by its signs of life.
        """
        alive = None if self.holder is None or self.holder.kernel != process_numbers() else _is_alive(self.holder)
        return self.silent_seconds > STALE_SECONDS if alive is None else not alive

    @property
    def shares_cores(self) -> bool:
        """Whether it is known to work on the machine that this process is on."""
        return self.holder is not None and self.holder.kernel == process_numbers()

    @property
    def words(self) -> str:
        """Who holds it and, where only time will tell whether that one is alive, what is waited for."""
        who = "an unknown process" if self.holder is None else self.holder.words
        if self.shares_cores:
            return who
        return (
            f"{who}, last sign of life {self.silent_seconds:.0f} s ago (after {STALE_SECONDS:.0f} s without one "
            "it counts as dead)"
        )


def _scheduler_job(environment: Mapping[str, str]) -> tuple[str | None, int | None]:
    """The scheduler's job, and how often it was requeued."""
    if number := environment.get("SLURM_JOB_ID"):
        restarts = environment.get("SLURM_RESTART_COUNT", "")
        return f"Slurm job {number}", int(restarts) if restarts.isdigit() else 0
    if number := environment.get("PBS_JOBID"):
        return f"PBS job {number}", None
    return None, None


def _is_alive(holder: Holder) -> bool | None:
    """Whether a process of this kernel is the holder and has not ended; None where that cannot be seen."""
    start, state = process_start(holder.pid)
    if start is not None and holder.process_start is not None:
        return start == holder.process_start and state not in ("Z", "X")  # a zombie does nothing any more
    try:
        os.kill(holder.pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass
    return None  # /proc hides the processes of others: it may be another one of the same number


NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EXDEV, errno.EMLINK, errno.EINVAL)
"""What file systems without hard links answer."""
