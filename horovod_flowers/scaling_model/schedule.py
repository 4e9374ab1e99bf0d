"""The tasks of a step on two resources: a rank's compute threads, and Horovod's background thread.

Computing runs one task after the other: of those that nothing keeps waiting, the first of the list. Horovod's thread
looks for calls once a cycle: all that are ready on all ranks by then it executes one after the other, in the order in
which they became ready; those that come meanwhile wait for the next cycle (Sergeev and Del Balso 2018, arXiv
1802.05799; HOROVOD_CYCLE_TIME). A call that finds the thread asleep waits half a cycle on average.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from horovod_flowers.scaling_model.step_tasks import Task


@dataclass(frozen=True)
class Coordination:
    """What Horovod adds to the calls themselves."""

    cycle_seconds: float = 0.001
    """HOROVOD_CYCLE_TIME: the least time from one look for calls to the next (Horovod 0.28's own default: 1 ms)."""
    seconds: float = 0.0
    """Agreement of the ranks on what is ready, once a cycle in which something is."""


@dataclass(frozen=True)
class ScheduledStep:
    """When everything of a step happens, in seconds from its beginning."""

    tasks: tuple[Task, ...]
    starts: tuple[float, ...]
    ends: tuple[float, ...]
    call_seconds: tuple[float, ...]
    """Of each task: 0 for computing."""

    @property
    def seconds(self) -> float:
        """Of the whole step."""
        return max(self.ends, default=0.0)

    @property
    def compute_seconds(self) -> float:
        """Of computing, the optimizer's too."""
        return sum(task.seconds for task in self.tasks)

    @property
    def communication_seconds(self) -> float:
        """Of all calls together, hidden or not."""
        return sum(self.call_seconds)

    @property
    def exposed_seconds(self) -> float:
        """Of the step, beyond its computing."""
        return self.seconds - self.compute_seconds

    @property
    def nothing_hidden(self) -> float:
        """Seconds of the step if computing and calls took turns."""
        return self.compute_seconds + self.communication_seconds

    @property
    def all_hidden(self) -> float:
        """Seconds of the step if the longer of computing and communication hid the other altogether."""
        return max(self.compute_seconds, self.communication_seconds)


def schedule(tasks: Sequence[Task], call_seconds: Sequence[float], coordination: Coordination) -> ScheduledStep:
    """Run the tasks. call_seconds: of each task, 0 for computing.

    Raises ValueError where a task waits for a later one.
    """
    for number, task in enumerate(tasks):
        if any(not 0 <= other < number for other in task.after):
            raise ValueError(f"task {number} ({task.name}) waits for {task.after}: not all of them come before it")
    return _Run(tasks, call_seconds, coordination).done()


class _Run:
    """A step while it runs."""

    def __init__(self, tasks: Sequence[Task], call_seconds: Sequence[float], coordination: Coordination) -> None:
        self._tasks, self._call_seconds, self._coordination = tasks, call_seconds, coordination
        self._starts: list[float] = [0.0] * len(tasks)
        self._ends: list[float | None] = [None] * len(tasks)
        """When each task ends, once that is known."""
        self._readies: list[float | None] = [None] * len(tasks)
        """When each can begin, as far as others let it, once that is known."""
        self._computing = [number for number, task in enumerate(tasks) if task.call is None]
        self._calls = [number for number, task in enumerate(tasks) if task.call is not None]
        self._compute_free = 0.0
        self._next_look = 0.0
        """Of Horovod's thread for calls."""

    def done(self) -> ScheduledStep:
        """Of the two resources always that one goes on which would begin something first."""
        while self._computing or self._calls:
            compute, calls = self._next_compute(), self._next_calls()
            if calls is None or (compute is not None and compute[0] <= calls[0]):
                assert compute is not None, "every task waits for earlier ones only, so one of them can begin"
                begin, number = compute
                self._starts[number] = begin
                self._compute_free = self._ends[number] = begin + self._tasks[number].seconds
                self._computing.remove(number)
            else:
                self._execute(*calls)
        calls_only = [
            seconds if task.call is not None else 0.0
            for task, seconds in zip(self._tasks, self._call_seconds, strict=True)
        ]
        ends = tuple(end for end in self._ends if end is not None)
        return ScheduledStep(tuple(self._tasks), tuple(self._starts), ends, tuple(calls_only))

    def _ready(self, number: int) -> float | None:
        """When everything that a task waits for has ended; None as long as that is not known."""
        known = self._readies[number]
        if known is not None:
            return known
        latest = 0.0
        for other in self._tasks[number].after:
            end = self._ends[other]
            if end is None:
                return None
            latest = max(latest, end)
        self._readies[number] = latest
        return latest

    def _next_compute(self) -> tuple[float, int] | None:
        """When the next computing begins, and which: the first of the list of those that are ready by then."""
        found: tuple[float, int] | None = None
        for number in self._computing:
            ready = self._ready(number)
            if ready is not None and (found is None or max(ready, self._compute_free) < found[0]):
                found = max(ready, self._compute_free), number
                if ready <= self._compute_free:
                    return found  # nothing begins before
        return found

    def _next_calls(self) -> tuple[float, list[int]] | None:
        """When Horovod's thread next finds calls, and which, in the order in which they became ready."""
        known = [(ready, number) for number in self._calls if (ready := self._ready(number)) is not None]
        if not known:
            return None
        first = min(known)[0]
        asleep = first >= self._next_look
        look = first + self._coordination.cycle_seconds / 2 if asleep else self._next_look
        return look, [number for ready, number in sorted(known) if ready <= look]

    def _execute(self, look: float, batch: Sequence[int]) -> None:
        free = look + self._coordination.seconds
        for number in batch:
            self._starts[number] = free
            free = self._ends[number] = free + self._call_seconds[number]
            self._calls.remove(number)
        self._next_look = max(look + self._coordination.cycle_seconds, free)
