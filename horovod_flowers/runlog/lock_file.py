"""A lock file that works on network file systems, with signs of life and a takeover that only one can win.

It is made by a hard link, which NFS does at once or not at all (man 2 open, O_EXCL), not by flock, which some file
systems lack and which lies about other nodes on others. Its holder renews its time of change; how long ago that was is
told by the time of change of another file of the same file system, so that clocks of nodes do not matter.

Whoever changes a lock that is there, to take it over or to give it up, first makes a second file beside it, which only
one can make at a time, and looks at the lock again: a lock that has a new holder meanwhile is left alone.
"""

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from horovod_flowers.runlog.holder import NO_LINKS, Found, Holder
from horovod_flowers.runtime.files import unfinished

_CHANGE_SECONDS = 10.0
"""A change takes milliseconds: of one that is older the process has died."""
_PAUSE_SECONDS = 0.05


class LockFile:
    """One lock file, as one process uses it."""

    def __init__(self, path: Path, own: Holder) -> None:
        """Nothing is looked at yet."""
        self.path, self.own = path, own
        self._changing = path.with_name(f"{path.name}.change")

    def take(self) -> Found | None:
        """Hold it; or else who does. A dead holder's is taken over. Raises OSError where the folder refuses files."""
        with self._written() as written:
            while True:
                if _link(written, self.path):
                    return None
                found = self._look(written)
                if found is None:  # given up just now
                    continue
                if not self._may_replace(found):
                    return found
                with self._change(written) as alone:
                    found = self._look(written) if alone else found
                    if alone and found is not None and self._may_replace(found):
                        os.rename(written, self.path)
                        return None
                if not alone:
                    time.sleep(_PAUSE_SECONDS)

    def found(self) -> Found | None:
        """The lock as it is now; None where there is none. Raises OSError where it cannot be read.

        In a folder where this process may not write, the clock of its node stands in for that of the file system.
        """
        if not os.path.lexists(self.path):
            return None
        try:
            with self._written() as written:
                return self._look(written)
        except OSError:
            return look(self.path, time.time())

    def beat(self) -> bool:
        """Give a sign of life; whether it is still held. Raises OSError where the file system does not answer."""
        try:
            descriptor = os.open(self.path, os.O_RDONLY)
        except FileNotFoundError:
            return False
        try:
            holder = _decoded(os.read(descriptor, _MOST_BYTES))
            if holder is None or holder.token != self.own.token:
                return False
            os.utime(descriptor)
        finally:
            os.close(descriptor)
        return True

    def give_up(self) -> None:
        """Hold it no longer; another's is left alone. Raises OSError where the file system does not answer."""
        with self._written() as written:
            for _ in range(round(2 * _CHANGE_SECONDS / _PAUSE_SECONDS)):
                with self._change(written) as alone:
                    if alone:
                        found = self._look(written)
                        if found and found.holder and found.holder.token == self.own.token:
                            self.path.unlink()
                        return
                time.sleep(_PAUSE_SECONDS)

    def _may_replace(self, found: Found) -> bool:
        return found.is_dead or (found.holder is not None and found.holder.is_own(self.own))

    @contextlib.contextmanager
    def _written(self) -> Iterator[Path]:
        """This holder's contents in a file of another name, which goes afterwards."""
        written = unfinished(self.path)
        try:
            written.write_bytes(msgspec.json.encode(self.own))
            yield written
        finally:
            with contextlib.suppress(OSError):
                written.unlink(missing_ok=True)

    def _look(self, written: Path) -> Found | None:
        """The lock as it is now; None where there is none."""
        os.utime(written)
        return look(self.path, os.stat(written).st_mtime)

    @contextlib.contextmanager
    def _change(self, written: Path) -> Iterator[bool]:
        """Whether this process alone may change the lock in the block."""
        if not _link(written, self._changing):
            self._clear_change(written)
            yield False
            return
        try:
            yield True
        finally:
            self._changing.unlink(missing_ok=True)

    def _clear_change(self, written: Path) -> None:
        """Remove what a process has left that died while it changed the lock."""
        os.utime(written)
        now = os.stat(written).st_mtime
        with contextlib.suppress(FileNotFoundError):
            before = os.stat(self._changing)
            if now - before.st_mtime <= _CHANGE_SECONDS:
                return
            aside = unfinished(self._changing)
            os.rename(self._changing, aside)  # one of several succeeds
            moved = os.stat(aside)
            if (moved.st_ino, moved.st_mtime_ns) != (before.st_ino, before.st_mtime_ns):  # a newer one: put it back
                _link(aside, self._changing)
            aside.unlink()


_MOST_BYTES = 65_536


def look(path: Path, now: float) -> Found | None:
    """The lock file of that path; None where there is none. `now`: by the clock of its file system."""
    try:
        # Opened, not only looked at: NFS then asks the server how old it is.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    try:
        contents, changed = os.read(descriptor, _MOST_BYTES), os.fstat(descriptor).st_mtime
    finally:
        os.close(descriptor)
    return Found(_decoded(contents), max(0.0, now - changed))


def _decoded(contents: bytes) -> Holder | None:
    try:
        return msgspec.json.decode(contents, type=Holder)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


def _link(written: Path, path: Path) -> bool:
    """Give a file a second name that must not be there yet; whether that was so."""
    try:
        os.link(written, path)
    except FileExistsError:
        # NFS may have done it, and lost the answer.
        return os.stat(written).st_nlink > 1 and _same(written, path)
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        return _copy(written, path)
    return True


def _same(one: Path, other: Path) -> bool:
    try:
        return os.path.samefile(one, other)
    except FileNotFoundError:
        return False


def _copy(written: Path, path: Path) -> bool:
    """The same without links: a reader may meet it before it has contents, and takes it for somebody's."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    except FileExistsError:
        return False
    try:
        os.write(descriptor, written.read_bytes())
    finally:
        os.close(descriptor)
    return True
