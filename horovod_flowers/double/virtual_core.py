"""A processor that computes by sleeping: one thing after the other, each for as long as it was measured to take."""

import heapq
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager


class VirtualCore:
    """Of one rank.

    Sleeping goes by absolute times: what begins where something else ended is late by no more than the last wake-up,
    however many parts a step has. Only what had to wait for other ranks begins when it gets there.
    """

    def __init__(self) -> None:
        self._turns = threading.Condition()
        self._waiting: list[int] = []
        self._busy = False
        self._busy_until = 0.0
        self.busy_seconds = 0.0
        """What it has computed of the step so far."""

    def begin(self) -> None:
        """A step begins now."""
        self._busy_until, self.busy_seconds = time.monotonic(), 0.0

    def compute(self, place: int, seconds: float, after_others: bool) -> None:
        """Be busy for so long. Blocks, without the interpreter's lock.

        place: in the order of the step; the lowest of those that wait is next. after_others: whether it could not begin
        before other ranks had sent something.
        """
        with self._turn(place):
            now = time.monotonic()
            start = max(self._busy_until, now) if after_others else self._busy_until
            self._busy_until = start + seconds
            self.busy_seconds += seconds
            if self._busy_until > now:
                time.sleep(self._busy_until - now)

    @contextmanager
    def _turn(self, place: int) -> Iterator[None]:
        with self._turns:
            heapq.heappush(self._waiting, place)
            self._turns.wait_for(lambda: not self._busy and self._waiting[0] == place)
            heapq.heappop(self._waiting)
            self._busy = True
        try:
            yield
        finally:
            with self._turns:
                self._busy = False
                self._turns.notify_all()
