"""All runs of some folders, one at a time, and why others are left out. No TensorFlow here."""

import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from horovod_flowers.config.run import RUN_NAME
from horovod_flowers.runlog.reading.run import RecordedRun, read_run
from horovod_flowers.runlog.run_folder import RunFolder
from horovod_flowers.runtime.errors import UserError

_LONGEST_SHOWN = 400


@dataclass(frozen=True)
class LeftOut:
    """A folder that is no figure, and why; both can be shown as they are."""

    name: str
    reason: str
    path: Path


def runs_in(folders: Sequence[Path]) -> Iterator[RecordedRun | LeftOut]:
    """Every whole run of folders of runs, or of folders that are a run, in order of their names.

    One is read when it is asked for and not kept: the caller decides how many are in memory. Folders whose names begin
    with a dot are skipped. Raises UserError where a given folder is not there.
    """
    seen: dict[tuple[int, int], str] = {}
    fingerprints: dict[str, str] = {}
    for path in [path for folder in folders for path in _candidates(folder)]:
        name = Path(os.path.abspath(path)).name
        try:
            _check_place(path, name, seen)
            run = read_run(path)
            fingerprint = _fingerprint(run, path)
            if fingerprint in fingerprints:
                raise UserError(f"a copy of {fingerprints[fingerprint]}")
            fingerprints[fingerprint] = name
        except (UserError, OSError) as error:
            yield LeftOut(printable(name), printable(str(error)), path)
        else:
            yield run
            del run  # while the next one is read


def printable(text: str) -> str:
    """Text in one line that terminals, rich and HTML show as text: what could be anything else is written as its code.

    Inside the quotes of an HTML attribute it has to be escaped like any other text.
    """
    safe = "".join(_code(letter) if not letter.isprintable() or letter in "\\<&" else letter for letter in text)
    safe = re.sub(r"\[(?=[a-zA-Z#/@!])", lambda _: _code("["), safe)
    return safe if len(safe) <= _LONGEST_SHOWN else safe[: _LONGEST_SHOWN - 1] + "…"


def _code(letter: str) -> str:
    """As Python writes it: \\n, \\x3c, \\udcff."""
    escaped = letter.encode("unicode_escape", "surrogatepass").decode()
    return escaped if len(escaped) > 1 else f"\\x{ord(letter):02x}"


def _candidates(folder: Path) -> list[Path]:
    """What may be a run: the folder itself where it has a config.yaml, else the folders in it (UserError)."""
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}: run 'python -m horovod_flowers.train' first, or give --runs-dir")
    try:
        if os.path.lexists(folder / "config.yaml"):
            return [folder]
        found = [path for path in folder.iterdir() if not path.name.startswith(".")]
    except OSError as error:
        raise UserError(f"{folder} cannot be read ({error.strerror})") from error
    return sorted(path for path in found if path.is_dir() or path.is_symlink())


def _check_place(path: Path, name: str, seen: dict[tuple[int, int], str]) -> None:
    """Refuse a name that no run has, or a folder met before (UserError)."""
    if not RUN_NAME.fullmatch(name):
        raise UserError("train --name takes no such name: rename the folder")
    try:
        status = path.stat()
    except OSError as error:
        raise UserError(f"unreadable ({error.strerror})") from error
    if (status.st_dev, status.st_ino) in seen:
        raise UserError(f"the same folder as {seen[status.st_dev, status.st_ino]}")
    seen[status.st_dev, status.st_ino] = name


def _fingerprint(run: RecordedRun, path: Path) -> str:
    """Equal for copies of a run: rank 0's records hold clock readings that no two runs share."""
    digest = hashlib.blake2b(run.environment.started_utc.encode("utf-8", "surrogatepass"))
    with open(RunFolder(path).steps(0), "rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()
