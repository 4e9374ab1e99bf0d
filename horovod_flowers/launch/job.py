"""Runs a launcher with all that it starts, passes requests to stop on to it, and ends it for certain.

SIGTERM is passed on as SIGUSR1: mpirun answers SIGTERM by killing its ranks, and hands SIGUSR1 to them.
"""

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import IO, Any

import psutil

from horovod_flowers.runtime.errors import UserError

SECONDS_TO_END = 15.0
"""What mpirun gets to end its ranks on other nodes, before it is killed."""

VARIABLES = {
    # TensorFlow's notices, which horovodrun's own probes print too, would bury what a job says.
    "TF_CPP_MIN_LOG_LEVEL": "3",
    # mpirun asks a node that is silent, and gives it up within a minute instead of eight: before ranks there stall.
    "OMPI_MCA_oob_tcp_keepalive_time": "20",
    "OMPI_MCA_oob_tcp_keepalive_intvl": "5",
    "OMPI_MCA_oob_tcp_keepalive_probes": "4",
}
"""Of every job, unless they are set."""


@dataclass(frozen=True)
class Ending:
    """How a job ended."""

    status: int
    """Of the launcher: its exit status, or minus the number of the signal that ended it."""
    timed_out: bool
    asked_to_stop: str | None
    """Name of the signal that was passed on to it."""

    @property
    def exit_status(self) -> int:
        """As a shell tells it: 128 + the signal's number."""
        return self.status if self.status >= 0 else 128 - self.status


def run_job(
    words: Sequence[str],
    *,
    output: IO[Any] | None = None,
    timeout_seconds: float | None = None,
    variables: Mapping[str, str] | None = None,
) -> Ending:
    """Run a command to its end, its output into a file where one is given, or end it after `timeout_seconds`.

    Raises UserError where it cannot be started.
    """
    try:
        process = subprocess.Popen(
            list(words),
            env={**VARIABLES, **os.environ, **(variables or {})},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=None if output is None else subprocess.STDOUT,
            start_new_session=True,
        )
    except OSError as error:
        raise UserError(f"{words[0]} cannot be started ({error.strerror or error})") from error
    timed_out = False
    with _passing_on(process) as asked:
        try:
            process.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            timed_out = True
        finally:
            _end(process)
    return Ending(process.returncode, timed_out, asked[0] if asked else None)


@contextlib.contextmanager
def _passing_on(process: "subprocess.Popen[bytes]") -> Iterator[list[str]]:
    """Pass requests to stop on to a process meanwhile; yields the names of the signals that came."""
    asked: list[str] = []

    def pass_on(number: int, frame: FrameType | None) -> None:
        # Once: a second one of a signal that is not answered yet says nothing new.
        if not asked:
            for recipient in _launchers(process):
                recipient.send_signal(signal.SIGUSR1)
        asked.append(signal.Signals(number).name)

    before = {number: signal.signal(number, pass_on) for number in SIGNALS}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _launchers(process: "subprocess.Popen[bytes]") -> "list[psutil.Process] | list[subprocess.Popen[bytes]]":
    """Who answers SIGUSR1: the mpirun that horovodrun started behind a shell, which would die of it; else `process`."""
    found = []
    with contextlib.suppress(psutil.Error):  # it has just ended
        for child in psutil.Process(process.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if Path(next(iter(child.cmdline()), "")).name == "mpirun":
                    found.append(child)
    return found or [process]


def _end(process: "subprocess.Popen[bytes]") -> None:
    """End what still runs: the launcher first, so that it ends its ranks everywhere, then whatever is left here."""
    if process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(SECONDS_TO_END)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


SIGNALS = (signal.SIGUSR1, signal.SIGTERM)
