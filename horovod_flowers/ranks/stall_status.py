"""What ranks tell each other of where they stand, through a folder that all nodes see, when one of them asks.

    RUNS/.stall-NAME/asks-00000                 rank 0 has stood still for long and asks all others
    RUNS/.stall-NAME/answers/rank-00001.json    the answer of rank 1, renewed while anybody asks

Each rank that looks lists the questions, of which there are a few, whoever else would like to ask; only those who ask
list and read the answers. So a look costs each rank the same at any number of ranks.

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
"""So many ranks ask, and read the answers: all of a thousand would be a million files at a time."""


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
        self._folder, self._asks = folder, f"asks-{rank:05d}"
        self._answers, self._own = folder / "answers", f"rank-{rank:05d}.json"
        self._has_answered = False
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
        asking = self._asking()
        if own.asks and self._asks not in asking and len(asking) < READERS:
            self._folder.mkdir(exist_ok=True)
            (self._folder / self._asks).touch()
            asking = self._asking()
        elif self._asks in asking and (not own.asks or self._asks not in asking[:READERS]):
            (self._folder / self._asks).unlink(missing_ok=True)
            asking.remove(self._asks)
        if asking:
            self._answer(own)
        elif self._has_answered:
            self._leave()
        reads = own.asks and (reads or self._asks in asking[:READERS])
        return Visit(self._read() if reads else None)

    def _asking(self) -> list[str]:
        return [name for name in _names(self._folder) if name.startswith("asks-")]

    def _answer(self, own: Answer) -> None:
        temporary = self._answers / f".{self._own}"
        with contextlib.suppress(FileNotFoundError):  # whoever asked goes on, and took the folder along
            self._answers.mkdir(exist_ok=True)
            temporary.write_bytes(msgspec.json.encode(own))
            os.replace(temporary, self._answers / self._own)
            self._has_answered = True

    def _read(self) -> dict[int, Answer]:
        answers = {}
        for name in _names(self._answers):
            if name.startswith("rank-"):
                with contextlib.suppress(FileNotFoundError, msgspec.MsgspecError):
                    answer = msgspec.json.decode((self._answers / name).read_bytes(), type=Answer)
                    answers[answer.rank] = answer
        return answers

    def _leave(self) -> None:
        """Take this rank's files away, and the folder with the last of them."""
        self._has_answered = False
        for path in (self._folder / self._asks, self._answers / self._own, self._answers / f".{self._own}"):
            path.unlink(missing_ok=True)
        for folder in (self._answers, self._folder):
            with contextlib.suppress(OSError):  # another rank's files are there, or no folder any more
                folder.rmdir()


def _names(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except FileNotFoundError:
        return []
