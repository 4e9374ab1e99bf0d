"""All that a launcher has started on this machine, found by session and by parent, and ended for certain."""

import contextlib
import os
import signal
import time
from pathlib import Path

import psutil

from horovod_flowers.runtime.temporary_space import clear_files_of_mpirun

SECONDS_TO_END = 15.0
"""What mpirun gets to end its ranks on other nodes, before it is killed."""
LAUNCHERS = ("mpirun", "mpiexec", "mpiexec.hydra", "orterun", "prterun")
"""Programs that hand a signal on to their ranks, by name."""
_SECONDS_TO_DIE = 5.0
"""After SIGKILL. A process that its kernel does not let go (state D) stays."""
_SECONDS_BETWEEN_LOOKS = 0.1


class ProcessTree:
    """A process that leads a session of its own, with all that descends from it or belongs to that session.

    mpirun gives each rank a process group of its own, and horovodrun's shell leaves its mpirun behind when it is ended:
    neither a group nor the children of one process are all of it.
    """

    def __init__(self, root: int) -> None:
        """`root`: process id of the leader, which may have ended just now."""
        self._root = root
        self._known: dict[int, psutil.Process] = {}
        self._mpiruns: set[int] = set()
        with contextlib.suppress(psutil.NoSuchProcess):
            self._known[root] = psutil.Process(root)

    def alive(self) -> list[psutil.Process]:
        """Those that have not ended; what was known once stays known when its parents have gone."""
        self._look()
        found = []
        for process in self._known.values():
            with contextlib.suppress(psutil.Error):
                if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def launchers(self) -> list[psutil.Process]:
        """Who ends or tells the ranks: the mpirun that horovodrun started behind a shell, or what Intel MPI's mpirun, a
        shell script, has started; else the leader itself."""
        alive = self.alive()
        found = {process.pid: process for process in alive if _program(process) in LAUNCHERS}
        for pid, process in list(found.items()):
            with contextlib.suppress(psutil.Error):
                if any(parent.pid in found for parent in process.parents()):
                    del found[pid]  # a rank's own
        self._mpiruns |= found.keys()
        return list(found.values()) or [process for process in alive if process.pid == self._root]

    @property
    def name_of_launcher(self) -> str:
        """Of the first of them that is there."""
        return next((_program(process) for process in self.launchers()), "the launcher")

    def send(self, number: int) -> None:
        """Send a signal to the launchers."""
        for process in self.launchers():
            with contextlib.suppress(psutil.Error):  # it has just ended
                process.send_signal(number)

    def end(self, seconds: float = SECONDS_TO_END) -> None:
        """Ask the launchers to end, so that they end their ranks everywhere; after `seconds` kill what is left here."""
        self.send(signal.SIGTERM)
        self.wait(seconds)
        self.kill()

    def kill(self) -> None:
        """Kill what is left here: stopped processes, too."""
        self.launchers()  # to know them afterwards
        deadline = time.monotonic() + _SECONDS_TO_DIE
        while (left := self.alive()) and time.monotonic() < deadline:
            for process in left:
                with contextlib.suppress(psutil.Error):
                    process.kill()
            time.sleep(_SECONDS_BETWEEN_LOOKS)
        for number in self._mpiruns:
            clear_files_of_mpirun(number)

    def wait(self, seconds: float) -> None:
        """Until nothing is left here, `seconds` at the most."""
        deadline = time.monotonic() + seconds
        while self.alive() and time.monotonic() < deadline:
            time.sleep(_SECONDS_BETWEEN_LOOKS)

    def _look(self) -> None:
        """Take in what belongs here and is not known yet."""
        parents = {}
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                if os.getsid(process.pid) == self._root:
                    self._known.setdefault(process.pid, process)
                parents[process] = process.ppid()
        found = True
        while found:
            found = False
            for process, parent in parents.items():
                known = self._known.get(parent)
                if process.pid not in self._known and known is not None and known.is_running():
                    self._known[process.pid] = process
                    found = True


def _program(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error):
        return Path(next(iter(process.cmdline()), "")).name
    return ""
