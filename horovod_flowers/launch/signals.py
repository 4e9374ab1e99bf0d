"""Signals that are answered one after the other, instead of ending this process wherever it stands."""

import contextlib
import os
import select
import signal
from collections.abc import Sequence
from types import FrameType, TracebackType
from typing import Any


class Signals:
    """Takes signals in while it is open, as a context manager of the main thread. The end of a child wakes it, too.

    A signal that this process was started to ignore (nohup) stays ignored.
    """

    def __init__(self, numbers: Sequence[int]) -> None:
        self._numbers = numbers
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> "Signals":
        self._read, self._write = os.pipe()
        for end in (self._read, self._write):
            os.set_blocking(end, False)
        self._wakeup_before = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        for number in self._numbers:
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._handlers[number] = signal.signal(number, _nothing)
        # Even where it was ignored: nobody could be waited for.
        self._handlers[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, _nothing)
        return self

    def wait(self, seconds: float) -> list[int]:
        """The signals that have come, after `seconds` at the most."""
        select.select([self._read], [], [], max(0.0, seconds))
        with contextlib.suppress(BlockingIOError):
            return [number for number in os.read(self._read, 4096) if number in self._numbers]
        return []

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        signal.set_wakeup_fd(self._wakeup_before)
        os.close(self._read)
        os.close(self._write)


def _nothing(number: int, frame: FrameType | None) -> None:
    """Have the signal noticed at all; the wakeup descriptor tells which it was."""
