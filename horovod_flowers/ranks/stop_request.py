"""Ending before the end without losing anything: a time limit that is near (SIGUSR1), or pre-emption (SIGTERM).

The signal handler only remembers; the training loop asks after each update, and all ranks stop after the same one.
mpirun and srun pass SIGUSR1 on to every rank. SIGTERM reaches ranks that srun started; mpirun ends its ranks itself,
one second after it gets one, so whoever asks mpirun to stop sends SIGUSR1 (as `horovod_flowers.study` and slurm/ do).
"""

import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any

import numpy as np

from horovod_flowers.launch.job import SIGNALS
from horovod_flowers.ranks.communicator import Ranks, Request
from horovod_flowers.runtime.heartbeat import HEARTBEAT

ALARM = "alarm"
"""What the ranks agree on where one of them cannot go on."""
_ALARM_NUMBER = 1000  # above every signal's
_POLL_SECONDS = 0.0002


class StopRequest:
    """Whether this job has been asked to stop. Use as a context manager around all that may be interrupted."""

    def __init__(self) -> None:
        self._own = 0
        self._before: dict[int, Any] = {}
        self._sent, self._answer = np.zeros(1, np.int32), np.zeros(1, np.int32)
        self._pending: Request | None = None

    def __enter__(self) -> "StopRequest":
        self._before = {number: signal.signal(number, self._remember) for number in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def answer_for_script(self) -> None:
        """Answer from now on, up to the end of the process, what nothing of the script's own answers or ignores.

        Does nothing in a thread other than the main one, where Python takes no handlers.
        """
        if threading.current_thread() is not threading.main_thread():
            return
        for number in SIGNALS:
            if signal.getsignal(number) is signal.SIG_DFL:
                signal.signal(number, self._remember)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self._own = self._own or number

    def alarm(self) -> None:
        """Have all ranks stop as if they were asked to: this one cannot go on."""
        self._own = _ALARM_NUMBER

    def agreed(self, ranks: Ranks, together: bool = True) -> str | None:
        """The signal's name, or ALARM, where the ranks agree to stop after this update, else None. Every rank calls it.

        What a rank knows travels while the next update is computed, so nobody waits and all stop one update after the
        first of them was told. Ranks that are not `together` (they train apart) each go by what they were told.
        """
        if ranks.size == 1 or not together:
            return _name(self._own)
        stop = self._awaited()
        if not stop:
            self._sent[0] = self._own
            self._pending = ranks.communicator.start_allreduce_max(self._sent, self._answer)
        return _name(stop)

    @property
    def received(self) -> str | None:
        """The signal's name where this process has received one, whatever the others know."""
        return _name(self._own)

    def forget(self) -> None:
        """Leave out what other ranks said: there are other ranks now. What this one was told stays."""
        self._pending = None

    def agreed_now(self, ranks: Ranks) -> str | None:
        """The same between two epochs, where the ranks wait for each other anyway."""
        awaited = self._awaited()
        return _name(int(ranks.allreduce_max(max(awaited, self._own))))

    def _awaited(self) -> int:
        """What the ranks told each other after the update before; 0 where they did not."""
        if self._pending is None:
            return 0
        with HEARTBEAT.waiting():
            while not self._pending.done():
                time.sleep(_POLL_SECONDS)
        self._pending = None
        return int(self._answer[0])


def _name(number: int) -> str | None:
    if number == _ALARM_NUMBER:
        return ALARM
    return signal.Signals(number).name if number else None
