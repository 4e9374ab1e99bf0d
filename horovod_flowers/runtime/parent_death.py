"""A process that does not outlive the one that started it, however that one ends: prctl(2), PR_SET_PDEATHSIG."""

import ctypes
import os
import signal

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True)


def end_with_parent(parent: int, number: int = signal.SIGKILL) -> None:
    """Have the kernel send this process a signal as soon as its parent has gone, `parent` being that one's process id.

    Linux means the thread of the parent that started this process. What this process starts itself is not told.
    """
    _LIBC.prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0)  # a kernel that refuses it leaves things as they are
    if os.getppid() != parent:  # it has gone in between
        os.kill(os.getpid(), number)
