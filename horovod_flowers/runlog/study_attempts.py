"""What became of each point of a study: finished, failed, stopped; kept beside the runs, a file a point.

    RUNS/.study/POINT.json    every attempt, with its outcome, reason and command
    RUNS/.study/POINT.log     the output of the last attempt; locked while it runs
    RUNS/.study/POINT.holder  who runs it, and where: meanwhile, and until the next start where that one was killed

A file a point, so that tasks of a job array on different nodes write without meeting. No TensorFlow here.
"""

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Annotated, Literal

import msgspec
import psutil

from horovod_flowers.runtime.errors import UserError
from horovod_flowers.runtime.files import write_whole
from horovod_flowers.runtime.machine import machine_id, utc_now

SCHEMA = 1
_LAST_BYTES = 20_000


class Attempt(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One start of a point."""

    outcome: Literal["finished", "failed", "stopped"]
    """stopped: it was asked to (a time limit, pre-emption), and goes on when it is started again."""
    reason: str | None
    """Of what did not finish: one line."""
    status: int
    """Exit status of the launcher."""
    elapsed_seconds: Annotated[float, msgspec.Meta(ge=0)]
    started_utc: str
    job: str | None
    """The scheduler's number of the job."""
    command: list[str]


class PointRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All attempts at one point, in order."""

    schema: int
    point: str
    attempts: list[Attempt]


class PointHolder(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The study that runs a point now."""

    host: str
    machine: str
    """The Linux kernel that it runs under."""
    process: int
    started_utc: str
    job: str | None
    """The scheduler's number of the job."""

    @staticmethod
    def this_process() -> "PointHolder":
        """Of a point that this study begins."""
        return PointHolder(
            host=os.uname().nodename,
            machine=machine_id(),
            process=os.getpid(),
            started_utc=utc_now(),
            job=scheduler_job(),
        )

    @property
    def shares_cores(self) -> bool:
        """Whether what it runs takes cores of the machine that this process is on."""
        return self.machine == machine_id()

    @property
    def left_its_job_behind(self) -> bool:
        """Whether the study itself has gone, as far as this process can see."""
        return self.shares_cores and not psutil.pid_exists(self.process)

    def __str__(self) -> str:
        job = f", job {self.job}" if self.job else ""
        return f"since {self.started_utc}, by process {self.process} on {self.host}{job}"


def scheduler_job() -> str | None:
    """The scheduler's number of the job that this process belongs to."""
    return os.environ.get("SLURM_JOB_ID") or os.environ.get("PBS_JOBID")


class PointFiles:
    """The files of one point in a runs folder."""

    def __init__(self, runs_dir: Path, point: str) -> None:
        self.point = point
        self.record = runs_dir / ".study" / f"{point}.json"
        self.log = runs_dir / ".study" / f"{point}.log"
        self._holder = runs_dir / ".study" / f"{point}.holder"

    def attempts(self) -> list[Attempt]:
        """What was tried so far. Raises UserError where the file is damaged."""
        return read_record(self.record).attempts if self.record.exists() else []

    def add(self, attempt: Attempt) -> None:
        """Append an attempt; the file is replaced whole."""
        record = PointRecord(schema=SCHEMA, point=self.point, attempts=[*self.attempts(), attempt])
        write_whole(self.record, msgspec.json.format(msgspec.json.encode(record), indent=1).decode() + "\n")

    @contextlib.contextmanager
    def locked_log(self) -> Iterator[IO[bytes] | None]:
        """The emptied log, held against others that run the same point; None where one does so now.

        The lock goes with the study and with all that writes into the log: a job that has outlived its study holds it,
        too. File systems without locks (some parallel ones) give none.
        """
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with open(self.log, "ab") as file:
            if not _lock(file):
                yield None
                return
            file.truncate(0)
            write_whole(self._holder, msgspec.json.encode(PointHolder.this_process()).decode() + "\n")
            try:
                yield file
            finally:
                self._holder.unlink(missing_ok=True)

    def holder(self) -> PointHolder | None:
        """Who runs the point now; None where nobody does, or it cannot be told."""
        if not self.log.exists():
            return None
        with open(self.log, "rb") as file:
            if _lock(file):
                return None
        try:
            return msgspec.json.decode(self._holder.read_bytes(), type=PointHolder)
        except (OSError, msgspec.MsgspecError):  # it has ended just now, or is of another version
            return None

    def reason(self) -> str:
        """The line of the log that says why: the first that names an error, else the last."""
        with open(self.log, "rb") as file:
            file.seek(max(0, file.seek(0, 2) - _LAST_BYTES))
            text = file.read().decode(errors="replace")
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        told = [line for line in lines if "rror:" in line or " failed: " in line]
        return (told or lines[-1:] or ["no output"])[0][:300]


def _lock(file: IO[bytes]) -> bool:
    """Lock a file, as long as it is open, or say that somebody else has. Yes where its file system knows no locks."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL):
            raise
    return True


def held_points(runs_dir: Path) -> Iterator[tuple[PointFiles, PointHolder]]:
    """The points of any study that are running now, and who runs each."""
    for path in sorted((runs_dir / ".study").glob("*.holder")):
        files = PointFiles(runs_dir, path.stem)
        holder = files.holder()
        if holder is not None:
            yield files, holder


def read_record(path: Path) -> PointRecord:
    """Read and check one point's record. Raises UserError where it is damaged or from another version."""
    try:
        record = msgspec.json.decode(path.read_bytes(), type=PointRecord)
    except (OSError, msgspec.MsgspecError) as error:
        raise UserError(f"{path} is damaged or from another version ({error})") from error
    if record.schema != SCHEMA:
        raise UserError(f"{path} has schema {record.schema}, this version reads {SCHEMA}")
    return record


def last_attempts(runs_dir: Path) -> Iterator[tuple[str, Attempt]]:
    """Name and last attempt of every point of the studies of a folder; those whose record cannot tell are left out."""
    for path in sorted((runs_dir / ".study").glob("*.json")):
        try:
            attempts = read_record(path).attempts
        except UserError:
            continue
        if attempts:
            yield path.stem, attempts[-1]


def failures(runs_dir: Path) -> list[tuple[str, str]]:
    """Name and reason of every point whose last attempt failed, or whose record cannot tell."""
    found = []
    for path in sorted((runs_dir / ".study").glob("*.json")):
        try:
            attempts = read_record(path).attempts
        except UserError as error:
            found.append((path.stem, str(error)))
            continue
        if attempts and attempts[-1].outcome == "failed":
            found.append((path.stem, attempts[-1].reason or "no reason known"))
    return found
