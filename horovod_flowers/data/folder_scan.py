"""A folder of photos and all that is below it, as the file system has it."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from horovod_flowers.data.photo_names import is_hidden, is_photo_name, suffix_of, unpack_command
from horovod_flowers.runtime.errors import UserError, harmless

NAMED = 5
"""How many names a sentence lists."""


class PhotosMissing(UserError):
    """There is no folder, or no photo in it: moved, perhaps, after they were prepared."""


@dataclass
class ScannedFolder:
    """A folder without what is hidden; sorted by name."""

    name: str
    path: Path
    photos: list[str]
    folders: list["ScannedFolder"]
    others: Counter[str]
    """Suffixes of files that are no photos."""
    tables: list[str]
    """Names of CSV files."""
    archives: list[str]
    hidden_photos: int

    @cached_property
    def count(self) -> int:
        """Photos in it and below it."""
        return len(self.photos) + sum(folder.count for folder in self.folders)

    @property
    def with_photos(self) -> list["ScannedFolder"]:
        """The folders in it that hold photos, or folders with photos."""
        return [folder for folder in self.folders if folder.count]

    def below(self, prefix: str = "") -> Iterator[str]:
        """Photos by their way from here: those in it first."""
        yield from (f"{prefix}{name}" for name in self.photos)
        for folder in self.folders:
            yield from folder.below(f"{prefix}{folder.name}/")

    @property
    def all_others(self) -> Counter[str]:
        """Files that are no photos, here and below."""
        return sum((folder.all_others for folder in self.folders), self.others)

    @property
    def all_hidden_photos(self) -> int:
        """Hidden files called photos, here and below."""
        return self.hidden_photos + sum(folder.all_hidden_photos for folder in self.folders)


def scan(path: Path, option: str) -> ScannedFolder:
    """All of a folder that `option` names. Raises UserError where it is missing, unreadable or an archive."""
    if not path.is_dir():
        command = unpack_command(path) if path.exists() else None
        if command is not None:
            raise UserError(f"{option} {path} is an archive: unpack it with '{command}' and give that folder")
        if path.exists():
            raise UserError(f"{option} {path} is a file: give a folder that holds one folder of photos per class")
        raise PhotosMissing(f"{option} {path} does not exist: give a folder that holds one folder of photos per class")
    try:
        return _scanned(path, path.name, ())
    except OSError as error:
        raise UserError(f"cannot read {error.filename} ({error.strerror}): check its permissions") from error


def _scanned(path: Path, name: str, above: tuple[tuple[int, int], ...]) -> ScannedFolder:
    """Links are followed, but for those that lead back to a folder above."""
    found = ScannedFolder(name, path, [], [], Counter(), [], [], 0)
    status = os.stat(path)
    here = (*above, (status.st_dev, status.st_ino))
    for entry in sorted(os.scandir(path), key=lambda entry: entry.name):
        if _is_folder(entry):
            if not is_hidden(entry.name) and not (entry.is_symlink() and _leads_to(entry, here)):
                found.folders.append(_scanned(path / entry.name, entry.name, here))
        elif is_photo_name(entry.name):
            found.photos.append(entry.name)
        elif is_hidden(entry.name):
            found.hidden_photos += is_photo_name(entry.name.lstrip("._"))
        else:
            found.others[suffix_of(entry.name)] += 1
            if suffix_of(entry.name) in (".csv", ".tsv"):
                found.tables.append(entry.name)
            elif unpack_command(Path(entry.name)) is not None:
                found.archives.append(entry.name)
    return found


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads back to itself
        return False


def _leads_to(entry: os.DirEntry[str], folders: Sequence[tuple[int, int]]) -> bool:
    status = entry.stat()
    return (status.st_dev, status.st_ino) in folders


def counted(suffixes: Counter[str]) -> str:
    """Suffixes with their numbers, the most frequent first."""
    return ", ".join(f"{suffix} {count}" for suffix, count in suffixes.most_common())


def listed(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(harmless(name) for name in names[:NAMED]) + more
