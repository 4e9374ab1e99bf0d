"""What ranks tell each other of where they stand, through a folder that all nodes see, when one of them asks.

    RUNS/.stall-NAME/asks-00000         rank 0 has stood still for long and asks all others
    RUNS/.stall-NAME/rank-00001.json    the answer of rank 1, renewed while anybody asks

A file system may block whoever touches it: that is done in a thread of its own, which nobody waits for any longer than
he wants to. Nothing here is forced to storage: it is for the moment.
"""

import contextlib
import os
import queue
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import msgspec

from horovod_flowers.runtime.errors import first_line

READERS = 4
"""So many of the ranks that ask read the answers: all of a thousand would be a million files at a time."""


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """Where one rank stands."""

    rank: int
    host: str
    beat: int
    """Higher in each renewal."""
    at: str
    """What its main thread is at."""
    waits: bool
    """Whether it waits for other ranks there."""
    still_seconds: float
    """Since it began anything new."""
    asks: bool
    over: bool
    """Whether it has stood still for longer than what it is at may take."""


@dataclass(frozen=True)
class Visit:
    """What a rank found in the folder."""

    answers: dict[int, Answer] | None
    """By rank; None where it was not this rank's turn to read them."""


class AnswerFolder:
    """The folder as one rank uses it."""

    def __init__(self, folder: Path, rank: int) -> None:
        self._folder, self._own, self._asks = folder, f"rank-{rank:05d}.json", f"asks-{rank:05d}"
        self._work: queue.SimpleQueue[tuple[Answer, bool] | None] = queue.SimpleQueue()
        self._done = threading.Event()
        self._done.set()
        self._found: Visit | None = None
        self._error: OSError | None = None
        self._failing_since: float | None = None
        self._thread = threading.Thread(target=self._serve, name="stall answers", daemon=True)
        self._thread.start()

    def visit(self, own: Answer, reads_whatever_others_do: bool, seconds: float) -> Visit | None:
        """Ask, answer or clean up, whichever is due; None where the file system does not let us, or not within
        `seconds`."""
        if self._done.is_set():
            self._done.clear()
            self._found = self._error = None
            started = time.monotonic()
            self._work.put((own, reads_whatever_others_do))
        else:
            started = time.monotonic() - seconds
        if not self._done.wait(seconds) or self._found is None:
            self._failing_since = self._failing_since or started
            return None
        self._failing_since = None
        return self._found

    @property
    def failing_seconds(self) -> float:
        """How long no visit has gone well."""
        return 0.0 if self._failing_since is None else time.monotonic() - self._failing_since

    @property
    def complaint(self) -> str:
        """What is wrong with the folder."""
        return (
            f"{self._folder} does not answer" if self._error is None else f"{self._folder}: {first_line(self._error)}"
        )

    def close(self, seconds: float) -> None:
        """Take this rank's files away, within `seconds` where the file system lets us."""
        self._work.put(None)
        self._thread.join(seconds)

    def _serve(self) -> None:
        while (work := self._work.get()) is not None:
            try:
                self._found = self._visit(*work)
            except OSError as error:
                self._error = error
            self._done.set()
        with contextlib.suppress(OSError):
            self._leave()

    def _visit(self, own: Answer, reads: bool) -> Visit:
        # Opened anew, its parent is looked up on the server: NFS would remember for a minute that a folder is missing.
        os.close(os.open(self._folder.parent, os.O_RDONLY | os.O_DIRECTORY))
        names = self._names()
        if own.asks:
            self._folder.mkdir(exist_ok=True)
            (self._folder / self._asks).touch()
            names = self._names()
        elif self._asks in names:
            (self._folder / self._asks).unlink(missing_ok=True)
        asking = [name for name in names if name.startswith("asks-") and (own.asks or name != self._asks)]
        if asking:
            self._answer(own)
        elif self._own in names:
            self._leave()
        reads = own.asks and (reads or self._asks in asking[:READERS])
        return Visit(self._read() if reads else None)

    def _names(self) -> list[str]:
        try:
            return sorted(os.listdir(self._folder))
        except FileNotFoundError:
            return []

    def _answer(self, own: Answer) -> None:
        temporary = self._folder / f".{self._own}"
        with contextlib.suppress(FileNotFoundError):  # whoever asked goes on, and took the folder along
            temporary.write_bytes(msgspec.json.encode(own))
            os.replace(temporary, self._folder / self._own)

    def _read(self) -> dict[int, Answer]:
        answers = {}
        for name in self._names():
            if name.startswith("rank-"):
                with contextlib.suppress(FileNotFoundError, msgspec.MsgspecError):
                    answer = msgspec.json.decode((self._folder / name).read_bytes(), type=Answer)
                    answers[answer.rank] = answer
        return answers

    def _leave(self) -> None:
        """Take this rank's files away, and the folder with the last of them."""
        for name in (self._asks, self._own, f".{self._own}"):
            (self._folder / name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # another rank's files are there, or no folder any more
            self._folder.rmdir()
