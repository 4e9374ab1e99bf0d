"""What a step consists of, as the scaling model sees it: pieces of computing, and collective calls between them.

All ranks do the same at the same time, so one list of tasks describes a step. Two resources work on it
(schedule.py): a rank's compute threads, and Horovod's background thread, which executes one call after the other.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from horovod_flowers.runlog.records import Operation

Part = Literal["passes", "update"]
"""Of a step: forward and backward pass, or the optimizer."""


@dataclass(frozen=True)
class RankGroup:
    """The ranks of a call: `size` of them, `stride` apart, one such group beside the other until all ranks are in one.

    All ranks of a world of 8 are RankGroup(8, 1); the two groups of 4 of a mesh RankGroup(4, 1), and the ranks that
    hold the same slice there RankGroup(2, 4).
    """

    size: int
    stride: int = 1

    def members(self, number: int) -> list[int]:
        """The world's ranks in group `number`, counted from 0."""
        block, place = divmod(number, self.stride)
        first = block * self.stride * self.size + place
        return [first + self.stride * member for member in range(self.size)]


@dataclass(frozen=True)
class Call:
    """One collective call, as every rank of each of its groups makes it."""

    operation: Operation
    bytes: float
    """The larger side of the call on a rank: its input, but of an allgather the result."""
    group: RankGroup


@dataclass(frozen=True)
class Task:
    """A piece of a step: computing of some seconds, or a collective call."""

    name: str
    after: tuple[int, ...] = ()
    """Positions in the step's list of the tasks that have to end before, all of them earlier ones."""
    seconds: float = 0.0
    """Of computing; 0 for a call."""
    call: Call | None = None
    part: Part = "passes"
    """That its computing belongs to."""


class CallCosts(Protocol):
    """An engine: what tells how long calls take."""

    def call_seconds(self, calls: Sequence[Call], ranks: int) -> list[float]:
        """Seconds of each of these calls alone in a world of `ranks`, without Horovod's coordination."""
        ...
