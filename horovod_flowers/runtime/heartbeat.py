"""Where this process stands: what its main thread is at, and whether it waits for other ranks there.

There is one, told by whoever begins something (an assignment, no more) and read by the watch that ends a job in which
nothing moves (stall.py). It says nothing to the other ranks.
"""

import contextlib
from collections.abc import Iterator


class Heartbeat:
    """What the main thread is at."""

    def __init__(self) -> None:
        self.moves = 0
        """Counts whatever is begun: a process whose count stands still hangs, or works on one thing for long."""
        self.long = True
        """Whether it may take long without a sign of life, as tracing a graph or writing a checkpoint does."""
        self.waits = False
        """Whether other ranks are waited for."""
        self.away = False
        """Whether a person's own code runs, of which nothing is known: it may take as long as it wants."""
        self._what: tuple[str, tuple[int, ...]] = ("the start", ())

    def at(self, what: str, *numbers: int, long: bool = False) -> None:
        """Something is begun: `what`, with a {} for each of `numbers`, put in only where somebody asks."""
        self._what, self.long, self.waits, self.away = (what, numbers), long, False, False
        self.moves += 1

    def moved(self) -> None:
        """There was progress in what was begun."""
        self.moves += 1

    def wait_begins(self) -> None:
        """Nothing is left to do but wait for other ranks."""
        self.waits = True
        self.moves += 1

    def wait_ends(self) -> None:
        """What was waited for has come."""
        self.waits = False
        self.moves += 1

    def leave(self, what: str) -> None:
        """A person's own code goes on, `what`, until something is begun again."""
        self.at(what)
        self.away = True

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """A block in which other ranks are waited for."""
        self.wait_begins()
        try:
            yield
        finally:
            self.wait_ends()

    def __str__(self) -> str:
        what, numbers = self._what
        return what.format(*numbers)


HEARTBEAT = Heartbeat()
"""That of this process."""
