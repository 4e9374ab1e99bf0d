"""Runs a launcher with all that it starts, passes requests to stop on to it, and ends it for certain.

SIGTERM is passed on as SIGUSR1: mpirun answers SIGTERM by killing its ranks, and hands SIGUSR1 to them. A terminal that
is closed (SIGHUP) asks in the same way; Ctrl-C and Ctrl-\\ end the job at once. Whatever ends this process instead
(kill -9), its guard then ends the job.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

import psutil

from horovod_flowers.launch.process_tree import ProcessTree
from horovod_flowers.launch.signals import Signals
from horovod_flowers.mpi.identify import MANAGERS
from horovod_flowers.runtime.errors import UserError
from horovod_flowers.runtime.parent_death import end_with_parent
from horovod_flowers.runtime.temporary_space import refuse_full_temporary_folder

SIGNALS = (signal.SIGUSR1, signal.SIGTERM)
"""Ask a job, or a rank of it, to stop with everything in its place."""
STOP_SIGNALS = (*SIGNALS, signal.SIGHUP)
"""Ask a launcher for it."""
END_SIGNALS = (signal.SIGINT, signal.SIGQUIT)
"""End it at once."""
SECONDS_TO_STOP = 600.0
"""For a step, a checkpoint and the end, once a job was asked to stop; as long as a rank may take without a sign of life
between steps (stall_watch.longest of the usual limit)."""
SECONDS_WITHOUT_RANKS = 30.0
"""That mpirun may stay once all ranks of this machine have ended. It waits for ever for a node that is frozen: whose
kernel answers for it, but not its daemon."""
_SECONDS_BETWEEN_LOOKS = 1.0

# TensorFlow's notices, which horovodrun's own probes print too, would bury what a job says.
VARIABLES = {"TF_CPP_MIN_LOG_LEVEL": "3"}
"""Of every job, unless they are set."""
RANK_VARIABLES = {kind.rank_variable for kind in MANAGERS.values()} - {None}
"""By which a process is known to be a rank."""


@dataclass(frozen=True)
class Ending:
    """How a job ended."""

    status: int
    """Of the launcher: its exit status, or minus the number of the signal that ended it."""
    timed_out: bool
    asked_to_stop: str | None
    """Name of the signal that was passed on to it."""
    given_up: str | None = None
    """Why it was killed though nobody asked for that, or has failed though it says nothing: one sentence without its
    stop."""
    ranks_seen: int = 0
    """How many of its ranks have said that they run (rank_reports.py)."""

    @property
    def exit_status(self) -> int:
        """As a shell tells it: 128 + the signal's number; 1 for what was given up."""
        if self.given_up is not None:
            return 1
        return self.status if self.status >= 0 else 128 - self.status


def run_job(
    words: Sequence[str],
    *,
    output: IO[Any] | None = None,
    timeout_seconds: float | None = None,
    variables: Mapping[str, str] | None = None,
    ranks_end_together: bool = False,
    folder: Path | None = None,
) -> Ending:
    """Run a command to its end, its output into a file where one is given, or end it after `timeout_seconds`.

    `ranks_end_together`: of ranks that wait for each other at their end, so that mpirun has to end soon after those of
    this machine. `folder`: goes with the job if this process is killed. Raises UserError where it cannot be started,
    or would not have the room to start; KeyboardInterrupt and SystemExit, for Ctrl-C and Ctrl-\\, once the job has
    ended.
    """
    refuse_full_temporary_folder()
    environment = {**VARIABLES, **os.environ, **(variables or {})}
    with Signals([*STOP_SIGNALS, *END_SIGNALS]) as signals, _guarded(words, environment, output, folder) as process:
        job = _Job(process, timeout_seconds, ranks_end_together)
        while process.poll() is None and job.goes_on(signals.wait(job.seconds_to_next_look)):
            pass
        job.end()
    if job.ended_by == signal.SIGINT:
        raise KeyboardInterrupt
    if job.ended_by is not None:
        raise SystemExit(128 + job.ended_by)
    return Ending(process.returncode, job.timed_out, job.asked_to_stop, job.given_up)


@contextlib.contextmanager
def _guarded(
    words: Sequence[str], environment: Mapping[str, str], output: IO[Any] | None, folder: Path | None
) -> Iterator["subprocess.Popen[bytes]"]:
    """Start a command in a session of its own, with a guard that ends that session if this process is killed, and
    removes that folder."""
    try:
        guard = subprocess.Popen(
            [sys.executable, "-m", "horovod_flowers.launch.guard"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError as error:
        raise UserError(f"no process can be started beside the job ({error.strerror or error})") from error
    try:
        process = _started(words, environment, output)
        assert guard.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # somebody killed it
            guard.stdin.write(f"{process.pid}\n".encode() + (b"" if folder is None else os.fsencode(folder)))
            guard.stdin.flush()
        try:
            yield process
        except BaseException:  # a defect: the job must not go on by itself
            ProcessTree(process.pid).end()
            raise
    finally:
        guard.kill()
        guard.wait()


def _started(words: Sequence[str], environment: Mapping[str, str], output: IO[Any] | None) -> "subprocess.Popen[bytes]":
    try:
        return subprocess.Popen(
            list(words),
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=None if output is None else subprocess.STDOUT,
            start_new_session=True,
            # Until the guard knows of it. This process has no other threads, with which a function here may hang.
            preexec_fn=partial(end_with_parent, os.getpid(), signal.SIGTERM),  # noqa: PLW1509
        )
    except (OSError, subprocess.SubprocessError) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        raise UserError(f"{words[0]} cannot be started ({reason or error})") from error


class _Job:
    """A launcher while it runs, and why it is ended if it does not end by itself."""

    def __init__(
        self, process: "subprocess.Popen[bytes]", timeout_seconds: float | None, ranks_end_together: bool
    ) -> None:
        self._process, self._tree = process, ProcessTree(process.pid)
        self._limit = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        self._ranks = _RanksHere(process.pid) if ranks_end_together else None
        self._asked_at: float | None = None
        self.timed_out = False
        self.asked_to_stop: str | None = None
        self.ended_by: signal.Signals | None = None
        self.given_up: str | None = None

    @property
    def seconds_to_next_look(self) -> float:
        """Until there may be something to do."""
        left = _SECONDS_BETWEEN_LOOKS if self._limit is None else self._limit - time.monotonic()
        return min(_SECONDS_BETWEEN_LOOKS, left)

    def goes_on(self, numbers: Sequence[int]) -> bool:
        """Answer the signals that have come; whether the launcher may go on."""
        now = time.monotonic()
        for number in numbers:
            if number in END_SIGNALS:
                self.ended_by = signal.Signals(number)
                return False
            # Once: a second one of a signal that is not answered yet says nothing new.
            if self.asked_to_stop is None:
                self._tree.send(signal.SIGUSR1)
                self.asked_to_stop, self._asked_at = signal.Signals(number).name, now
        if self._limit is not None and now >= self._limit:
            self.timed_out = True
        elif self._asked_at is not None and now - self._asked_at >= SECONDS_TO_STOP:
            self.given_up = (
                f"the job did not end within {SECONDS_TO_STOP:.0f} s of {self.asked_to_stop}, and was killed"
            )
        elif self._ranks is not None and self._ranks.seconds_without(now) >= SECONDS_WITHOUT_RANKS:
            self.given_up = (
                f"all ranks on {os.uname().nodename} had ended {SECONDS_WITHOUT_RANKS:.0f} s before and "
                f"{self._tree.name_of_launcher} still waited, as for a node that is frozen: it was killed"
            )
        return not self.timed_out and self.given_up is None

    def end(self) -> None:
        """End what still runs, and whatever is left of it here."""
        if self._process.poll() is None and self.given_up is None:
            self._tree.end()
        else:
            self._tree.kill()
        self._process.wait()


class _RanksHere:
    """The ranks that mpirun has started on this machine."""

    def __init__(self, root: int) -> None:
        self._root = root
        self._ranks: list[psutil.Process] = []
        self._last_seen: float | None = None

    def seconds_without(self, now: float) -> float:
        """Since the last of them was seen; 0 while there is one, and before there was any."""
        if not any(_runs(rank) for rank in self._ranks):
            self._ranks = self._find()
        if self._ranks or self._last_seen is None:
            self._last_seen = now if self._ranks else None
            return 0.0
        return now - self._last_seen

    def _find(self) -> list[psutil.Process]:
        found = []
        with contextlib.suppress(psutil.Error):
            for process in psutil.Process(self._root).children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    if _runs(process) and RANK_VARIABLES & process.environ().keys():
                        found.append(process)
        return found


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
