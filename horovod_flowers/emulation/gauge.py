"""Reads what the gauge of an emulated run is made from: how long this rank's threads waited for a core and had one.

Linux counts the waiting of each thread: the second number of /proc/self/task/TID/schedstat, in nanoseconds
(Documentation/scheduler/sched-stats of the kernel).
"""

import contextlib
import os
import resource
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from horovod_flowers.runtime.errors import UserError
from horovod_flowers.runtime.machine import cpu_quota

_THREADS = Path("/proc/self/task")


@dataclass(frozen=True)
class RankGauge:
    """Of one rank, over a span of time."""

    elapsed_seconds: float
    waited_seconds: float
    """For a core: of the thread that waited longest."""
    cpu_seconds: float
    cpus: frozenset[int]
    """That the rank may run on."""
    quota: float | None
    """Cores' worth of time that its control group gives it, shared with all else in there; None: no limit."""
    has_precedence: bool
    """Whether it took a core from other processes when it woke."""


def together(spans: Sequence[RankGauge]) -> RankGauge | None:
    """Of several spans of time; None of none."""
    if not spans:
        return None
    return RankGauge(
        sum(span.elapsed_seconds for span in spans),
        sum(span.waited_seconds for span in spans),
        sum(span.cpu_seconds for span in spans),
        frozenset[int]().union(*(span.cpus for span in spans)),
        spans[-1].quota,
        all(span.has_precedence for span in spans),
    )


class CoreReading:
    """The counters at the start of a span of time; made there.

    Until the span ends the rank's threads come before all other processes (SCHED_RR, man 7 sched) where this user may
    have that, as root may: they sleep nearly all of the time, and a core that they get at once is what a rank on a node
    of its own has.
    """

    def __init__(self, precedence: bool = True) -> None:
        """precedence: whether to ask for it; not for ranks that compute, or spin while they wait.

        Raises UserError where this kernel does not count.
        """
        self._has_precedence = precedence and _schedule(os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.sched_param(1))
        self._waited = _waited_by_thread()
        if not self._waited:
            raise UserError(
                "this kernel does not tell how long threads wait for a core (/proc/self/task/*/schedstat), without "
                "which no emulated time can be trusted: emulate on another machine"
            )
        self._cpu, self._started = _cpu_seconds(), time.monotonic()

    def until_now(self) -> RankGauge:
        """What has come to it since."""
        elapsed, cpu = time.monotonic() - self._started, _cpu_seconds() - self._cpu
        # TensorFlow wakes many threads for one piece of work: they wait beside each other, not one after the other.
        waited = max(now - self._waited.get(thread, 0) for thread, now in _waited_by_thread().items())
        if self._has_precedence:
            _schedule(os.SCHED_OTHER, os.sched_param(0))
        cpus = frozenset(os.sched_getaffinity(0))
        return RankGauge(elapsed, max(0, waited) / 1e9, cpu, cpus, cpu_quota(), self._has_precedence)


def _schedule(policy: int, parameters: os.sched_param) -> bool:
    """Set how all threads of this process get cores; whether that is allowed."""
    try:
        for thread in os.listdir(_THREADS):
            with contextlib.suppress(ProcessLookupError):  # it has just ended
                os.sched_setscheduler(int(thread), policy, parameters)
    except OSError:
        return False
    return True


def _waited_by_thread() -> dict[str, int]:
    found = {}
    for thread in os.listdir(_THREADS):
        with contextlib.suppress(OSError, ValueError, IndexError):  # it has just ended
            found[thread] = int((_THREADS / thread / "schedstat").read_text(encoding="ascii").split()[1])
    return found


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
