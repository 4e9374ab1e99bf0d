"""A run in progress is held: one job at a time works in its folder, and another is told who does.

The lock lies beside the folder (RUNS/.NAME.held), since the folder itself comes and goes with --overwrite. A job that
dies leaves it behind, and the next one takes it over (holder.py, lock_file.py).
"""

import contextlib
import os
import stat
import sys
import threading
import time
from pathlib import Path
from types import TracebackType

from horovod_flowers.runlog.holder import BEAT_SECONDS, STALE_SECONDS, Found, this_process
from horovod_flowers.runlog.lock_file import LockFile
from horovod_flowers.runtime.console import say
from horovod_flowers.runtime.errors import JobError, Stopped, UserError
from horovod_flowers.runtime.exit import EXIT_FAILURE

_LOOK_SECONDS = 1.0
_SECONDS_TO_LEAVE = 5.0
"""For a sign of life that is on its way, where a file system may block."""


class RunHold:
    """What this process holds: nothing, or one folder. Use as a context manager around all that is done with it.

    It is given up in the end, but for one of an unforeseen error, after which other ranks may work on for a moment: the
    end of the process frees it then.
    """

    def __init__(self, command: str, beat_seconds: float = BEAT_SECONDS) -> None:
        """`command`: for those who are refused."""
        self._command, self._beat_seconds = command, beat_seconds
        self._lock: LockFile | None = None
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> "RunHold":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None or isinstance(error, UserError | JobError | Stopped):
            self.give_up()
        else:
            self._stop_beating()

    def take(self, folder: Path, remedy: str) -> None:
        """Hold a folder, which need not be there yet; nothing is done where this process holds it already.

        An earlier attempt of this scheduler's job, on a node that does not answer, is waited for until it counts as
        dead. Raises UserError where another process holds it, saying who and `remedy`.
        """
        lock_path = lock_of(folder)
        if self._lock is not None and self._lock.path == lock_path:
            return
        self.give_up()
        lock, begun, told = LockFile(lock_path, this_process(self._command)), time.monotonic(), False
        while (found := self._tried(lock)) is not None:
            mine = found.holder is not None and found.holder.is_earlier_attempt_of(lock.own)
            if not mine or time.monotonic() - begun > STALE_SECONDS + BEAT_SECONDS:
                raise UserError(f"{folder} is in use by {found.words}: {remedy}")
            if not told:
                say(f"{folder} is held by an earlier attempt of this job, {found.words}: waiting for its end")
            told = True
            time.sleep(_LOOK_SECONDS)
        self._keep(lock, folder)

    def take_if_free(self, folder: Path) -> bool:
        """Hold a folder unless another process does; whether it is held."""
        lock = LockFile(lock_of(folder), this_process(self._command))
        if self._tried(lock) is not None:
            return False
        self._keep(lock, folder)
        return True

    def give_up(self) -> None:
        """Hold nothing. What another has taken over is left alone."""
        self._stop_beating()
        if self._lock is not None:
            with contextlib.suppress(OSError):  # read-only by now: it counts as dead once this process has ended
                self._lock.give_up()
        self._lock = None

    def _tried(self, lock: LockFile) -> Found | None:
        try:
            return lock.take()
        except OSError as error:
            raise UserError(
                f"cannot write in {lock.path.parent} ({error.strerror or error}): choose a folder that can be written"
            ) from error

    def _keep(self, lock: LockFile, folder: Path) -> None:
        self._lock, self._over = lock, threading.Event()
        watched = (lock, folder, self._over)
        self._thread = threading.Thread(target=self._beat, args=watched, name="run hold", daemon=True)
        self._thread.start()

    def _stop_beating(self) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join(_SECONDS_TO_LEAVE)
        self._thread = None

    def _beat(self, lock: LockFile, folder: Path, over: threading.Event) -> None:
        while not over.wait(self._beat_seconds):
            try:
                if lock.beat() or over.is_set():
                    continue
                found = lock.found() or lock.take()  # its file may have been deleted
            except OSError:  # the file system does not answer just now, or the folder is gone: others tell that
                continue
            if found is None:
                continue
            if found.holder is not None and found.holder.is_own(lock.own):  # an elastic job has another rank 0
                return
            self._end(folder, found)

    def _end(self, folder: Path, found: Found) -> None:
        """End this process, as one that slept for long and was taken for dead: two would write into one folder."""
        print(
            f"{self._command}: error: {folder} was taken over by {found.words}, since this process gave no sign of "
            f"life for {STALE_SECONDS:.0f} s (stopped, or its file system did not answer): it ends",
            file=sys.stderr,
            flush=True,
        )
        os._exit(EXIT_FAILURE)


def lock_of(folder: Path) -> Path:
    """The lock file of a folder."""
    whole = Path(os.path.realpath(folder))  # one lock, whichever link leads there
    return whole.with_name(f".{whole.name}.held")


def check_not_held(folder: Path, remedy: str) -> None:
    """Raise UserError where another process works on a folder, saying who and `remedy`. Leaves no file."""
    found = holder_of(folder)
    if found is not None:
        raise UserError(f"{folder} is in use by {found.words}: {remedy}")


def holder_of(folder: Path) -> Found | None:
    """Who works on a folder: None where nobody does, or it is this very process. Leaves no file.

    Raises UserError where that cannot be read.
    """
    own = this_process("")
    lock = LockFile(lock_of(folder), own)
    try:
        found = lock.found()
    except OSError as error:
        raise UserError(f"cannot read {lock.path} ({error.strerror or error}): change its permissions") from error
    if found is None or found.is_dead or (found.holder is not None and found.holder.is_own(own)):
        return None
    return found


class RunAtRest:
    """A run that is read from here on, while nobody trains it."""

    def __init__(self, folder: Path, *files: Path) -> None:
        """`files`: of the run, those that are read. Raises UserError where the run is held."""
        check_not_held(folder, "wait for its end")
        self._folder, self._files = folder, files
        self._identities = self._identities_now()

    def check(self) -> None:
        """Raise JobError where a job has begun to train the run since, or has replaced it."""
        if holder_of(self._folder) is not None or self._identities_now() != self._identities:
            raise JobError(
                f"run {self._folder} was trained further or replaced while it was read: nothing was written; start "
                "again when it has ended"
            )

    def _identities_now(self) -> list[tuple[int, int, int] | None]:
        return [_identity(path) for path in (self._folder, *self._files)]


def _identity(path: Path) -> tuple[int, int, int] | None:
    """What no other file or folder of that path has; of a file its last change, too."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    is_folder = stat.S_ISDIR(status.st_mode)
    return status.st_dev, status.st_ino, 0 if is_folder else status.st_mtime_ns
