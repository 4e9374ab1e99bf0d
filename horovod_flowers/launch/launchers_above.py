"""The launcher that has started this process, found among its parents, where it sets no variables that are known."""

import itertools
import os
import re
from dataclasses import dataclass
from pathlib import Path

from horovod_flowers.mpi.identify import all_processes

_IN_BETWEEN = re.compile(
    r"-?(sh|bash|dash|zsh|ksh|tcsh|csh|env|nice|timeout|numactl|taskset|time|setsid|stdbuf|xargs|catchsegv)"
    r"|(starter.*|apptainer|singularity|shifter|sarus|podman|conmon)"
)
"""What may stand between a launcher and its rank: shells, and programs that run another. A rank that starts a process
of its own, or a test program that does, is none of them."""
_OTHERS = ("mpirun_rsh", "mpispawn", "prun", "apinit", "jsrun", "flux-shell", "psidforwarder", "pmi_proxy")
"""Of launchers that this package does not start, but may be started by."""
_MOST_PARENTS = 12
_RANKS = ("-n", "-np", "--np", "-c", "--n", "-ntasks")


@dataclass(frozen=True)
class LauncherAbove:
    """A launcher among the parents."""

    name: str
    ranks: int | None
    """That its command asks for, or that it has started here; None where neither tells of more than one."""


def launcher_above(process: int | None = None) -> LauncherAbove | None:
    """The nearest one above this process, or another, with nothing but shells in between."""
    number = os.getpid() if process is None else process
    names = {*all_processes(), *_OTHERS}
    for _ in range(_MOST_PARENTS):
        parent = _parent_of(number)
        if parent is None or parent <= 1:
            return None
        words = _words_of(parent)
        name = Path(words[0]).name if words else ""
        if name in names:
            return LauncherAbove(name, _ranks_in(words) or _alike_below(parent, number))
        if not _IN_BETWEEN.fullmatch(name):
            return None
        number = parent
    return None


def _alike_below(launcher: int, process: int) -> int | None:
    """How many processes it has started with the same words as this one: a daemon's command tells of no ranks."""
    own, count = _words_of(process), 0
    for other in Path("/proc").glob("[0-9]*"):
        if _parent_of(int(other.name)) == launcher and _words_of(int(other.name)) == own:
            count += 1
    return count if count > 1 else None


def _parent_of(process: int) -> int | None:
    try:
        fields = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        return int(fields[1])
    except (OSError, ValueError, IndexError):
        return None


def _words_of(process: int) -> list[str]:
    try:
        return os.fsdecode(Path(f"/proc/{process}/cmdline").read_bytes()).split("\0")[:-1]
    except OSError:
        return []


def _ranks_in(words: list[str]) -> int | None:
    """Of one program alone: behind a colon begins another."""
    if ":" in words:
        return None
    for option, value in itertools.pairwise(words):
        if option in _RANKS and value.isdecimal():
            return int(value)
    return None
