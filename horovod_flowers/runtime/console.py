"""Progress for a person at a terminal, plain lines for a log."""

import contextlib
import os
import sys
import time
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from horovod_flowers.runtime.errors import harmless
from horovod_flowers.runtime.heartbeat import HEARTBEAT

SECONDS_BETWEEN_LINES = 10.0


def say(message: str) -> None:
    """Print one line at once: logs of a batch job are read while it runs. It may name files of anybody's."""
    encoding = sys.stdout.encoding or "utf-8"
    print(harmless(message).encode(encoding, "backslashreplace").decode(encoding), flush=True)


def warn(message: str) -> None:
    """Print one line that matters even where the output is thrown away; what cannot be said stops nothing."""
    with contextlib.suppress(OSError):
        print(f"warning: {harmless(message)}", file=sys.stderr, flush=True)


class Terminal(Console):
    """rich's console, which would end the process with status 1 where nobody reads it: commands answer that alike."""

    def on_broken_pipe(self) -> None:
        """Leave the BrokenPipeError, which is being handled, to `exit.error_boundary`."""
        raise  # noqa: PLE0704 (rich calls this where it has caught it)


def on_terminal() -> bool:
    """Whether a live display reaches a person's terminal untouched.

    mpirun gives every rank a pseudo-terminal of its own and forwards what is written there, possibly into a file, so
    its standard output counts instead; with --tag-output (as horovodrun starts it) or into files it breaks up lines.
    """
    if not sys.stdout.isatty():
        return False
    parent = Path(f"/proc/{os.getppid()}")
    try:
        command = parent.joinpath("cmdline").read_bytes().split(b"\0")
        output = os.readlink(parent / "fd" / "1")
    except OSError:  # another user's process, or one that has ended
        return False
    program = Path(os.fsdecode(command[0])).name
    if program not in LAUNCHER_PROCESSES:
        return True
    rewritten = any(word.lstrip(b"-") in _REWRITING_OPTIONS for word in command)
    return output.startswith(("/dev/pts/", "/dev/tty")) and not rewritten


LAUNCHER_PROCESSES = frozenset(
    (
        *("mpirun", "mpiexec", "orterun", "prterun", "orted", "prted", "prte", "prun", "srun", "slurmstepd"),
        *("mpiexec.hydra", "hydra_pmi_proxy", "hydra_bstrap_proxy", "pmi_proxy", "mpirun_rsh", "mpispawn"),
        *("aprun", "palsd", "jsrun", "flux-shell", "psidforwarder"),
    )
)
"""Parents of ranks. The rooms above know more of each (mpi/); here it matters that what they forward is no terminal."""
_REWRITING_OPTIONS = (
    *(b"tag-output", b"timestamp-output", b"output-filename", b"output-proctable", b"xml"),
    *(b"prepend-rank", b"l", b"prepend-pattern", b"outfile-pattern", b"output", b"label"),
)


class Steps:
    """Counts towards a total: a live bar on a terminal, else a line every ten seconds.

    Use as a context manager; a muted one (any rank but 0) prints nothing.
    """

    def __init__(self, label: str, total: int, unit: str, muted: bool = False) -> None:
        self._label, self._total, self._unit, self._muted = label, total, unit, muted
        self._done = 0
        self._last_line = time.monotonic()
        self._bar: Progress | None = None
        if not muted and on_terminal():
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[detail]}"),
            )
            self._bar = Progress(*columns, TimeRemainingColumn(), console=Terminal(), transient=True)
            self._task = self._bar.add_task(label, total=total, detail=unit)

    def __enter__(self) -> "Steps":
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()

    def advance(self, count: int = 1, detail: str = "") -> None:
        """Count `count` more; `detail` (a loss, a rate) is shown beside."""
        self._done += count
        HEARTBEAT.moved()
        if self._bar:
            self._bar.update(self._task, advance=count, detail=f"{self._unit} {detail}")
        elif not self._muted and time.monotonic() - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            say(f"{self._label}: {self._done}/{self._total} {self._unit} {detail}".rstrip())
