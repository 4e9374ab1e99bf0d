"""Paths that never answer (a file server that is gone, a pipe into which nobody writes) are waited for up to a limit.

A thread that stands in such a call cannot be ended: it is left behind, and does not keep the process from ending.
"""

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as LateError
from typing import Generic, TypeVar

from horovod_flowers.runtime.errors import UserError

SECONDS = 60.0
"""For one photo, or one more name of a list."""
_READ_AHEAD = 1000
Item = TypeVar("Item")
Result = TypeVar("Result")


def answered(names: Iterator[str], seconds: float = SECONDS) -> Iterator[str]:
    """The same names, listed by a thread. Raises UserError where the next one does not come within `seconds`."""
    found: queue.Queue[str | BaseException | None] = queue.Queue(_READ_AHEAD)
    left = threading.Event()

    def put(item: str | BaseException | None) -> bool:
        while not left.is_set():
            try:
                found.put(item, timeout=1.0)
            except queue.Full:
                continue
            return True
        return False

    def fill() -> None:
        try:
            for name in names:
                if not put(name):
                    return
            put(None)
        except BaseException as error:  # for whoever reads
            put(error)

    threading.Thread(target=fill, name="names", daemon=True).start()
    last = None
    try:
        while True:
            try:
                item = found.get(timeout=seconds)
            except queue.Empty:
                after = f"after {last} " if last is not None else ""
                raise UserError(
                    f"the photos cannot be listed: nothing has come {after}for {seconds:g} s; look at the file "
                    "system or the pipe that the names come from"
                ) from None
            if item is None:
                return
            if isinstance(item, BaseException):
                raise item
            last = item
            yield item
    finally:
        left.set()


class Hands(Generic[Item, Result]):
    """Threads that do one thing to many items; those that are held up by one are replaced, up to a limit.

    Use as a context manager.
    """

    def __init__(self, work: Callable[[Item], Result], count: int, seconds: float = SECONDS) -> None:
        """`count`: threads that work at a time; `seconds`: for one item, from when it was begun."""
        self._work, self._count, self._seconds = work, count, seconds
        self._tasks: queue.SimpleQueue[tuple[Item, threading.Event, Future[Result]] | None] = queue.SimpleQueue()
        self._held_up = 0

    def __enter__(self) -> "Hands[Item, Result]":
        for _ in range(self._count):
            self._hire()
        return self

    def __exit__(self, *unused: object) -> None:
        for _ in range(self._count + self._held_up):
            self._tasks.put(None)

    def each(self, items: Sequence[Item], late: Callable[[Item], Result]) -> list[Result]:
        """What comes of each item, in order: of one that takes too long what `late` says.

        Raises UserError where more items hold up their threads than there are threads.
        """
        begun = [(item, threading.Event(), Future[Result]()) for item in items]
        for task in begun:
            self._tasks.put(task)
        return [self._result(*task, late) for task in begun]

    def _result(
        self, item: Item, started: threading.Event, future: "Future[Result]", late: Callable[[Item], Result]
    ) -> Result:
        started.wait()  # it waits for others, each of which has its limit
        try:
            return future.result(self._seconds)
        except LateError:
            self._held_up += 1
            if self._held_up > self._count:
                raise UserError(
                    f"{self._held_up} photos did not answer within {self._seconds:g} s, the last one {item}: look at "
                    "their file system"
                ) from None
            self._hire()
            return late(item)

    def _hire(self) -> None:
        threading.Thread(target=self._serve, name="decode", daemon=True).start()

    def _serve(self) -> None:
        while (task := self._tasks.get()) is not None:
            item, started, future = task
            started.set()
            try:
                future.set_result(self._work(item))
            except BaseException as error:  # for whoever reads
                future.set_exception(error)
