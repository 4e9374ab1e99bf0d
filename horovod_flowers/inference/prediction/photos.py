"""Which photos: from files, folders, globs and lists, one after another, never all in memory."""

import glob
import json
import os
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from horovod_flowers.data.photo_file import PHOTO_SUFFIXES
from horovod_flowers.data.photo_names import is_hidden, is_photo_name, unpack_command
from horovod_flowers.runtime.errors import UserError

LIST_MARK = "@"


def photos(words: Sequence[str]) -> Iterator[str]:
    """Paths in the order of the words, those of a folder or glob sorted; each is named, not looked at.

    A word is a photo, a folder (with all photos below it; links to folders are not followed), a glob (** for any
    folders), or @FILE with one path per line. What is hidden counts where it is named itself, as with `prepare`. Raises
    UserError for a word that gives none.
    """
    for word in words:
        found = _of_word(word)
        first = next(found, None)
        if first is None:
            raise UserError(_nothing(word))
        yield first
        yield from found


def reads_a_pipe(words: Sequence[str]) -> bool:
    """Whether one of the lists can be read only once, as `@<(find ...)` of a shell: a look at it would lose names."""
    lists = (Path(word[len(LIST_MARK) :]) for word in words if word.startswith(LIST_MARK) and not os.path.lexists(word))
    return any(path.exists() and not path.is_file() for path in lists)


def _of_word(word: str) -> Iterator[str]:
    path = Path(word)
    if path.is_dir():
        yield from _in_folder(word)
    elif os.path.lexists(path):
        command = None if is_photo_name(path.name) else unpack_command(path)
        if command is not None:
            raise UserError(f"{word} is an archive: unpack it with '{command}' and give that folder")
        yield word
    elif word.startswith(LIST_MARK):
        yield from _in_list(Path(word[len(LIST_MARK) :]))
    elif glob.has_magic(word):
        # Python's glob hides names that begin with a dot, as a shell does.
        yield from sorted(found for found in glob.iglob(word, recursive=True) if found.lower().endswith(PHOTO_SUFFIXES))


def _in_folder(folder: str) -> Iterator[str]:
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not is_hidden(name))
        yield from (os.path.join(parent, name) for name in sorted(files) if is_photo_name(name))


def _in_list(path: Path) -> Iterator[str]:
    try:
        # Line by line, ended by a line feed alone: a name may hold any other character, in any encoding.
        with open(path, encoding="utf-8", errors="surrogateescape", newline="\n") as lines:
            for line in lines:
                if name := line.removesuffix("\n").removesuffix("\r"):
                    yield name
    except OSError as error:
        raise UserError(
            f"the list {path} cannot be read ({error.strerror}): give @FILE with one path per line"
        ) from error


def _nothing(word: str) -> str:
    kinds = "a photo, a folder, a quoted glob such as 'photos/*.jpg', or @FILE with one path per line"
    if Path(word).is_dir() or glob.has_magic(word):
        return f"there is no photo ({', '.join(PHOTO_SUFFIXES)}) in {word}: give {kinds}"
    return f"there is no {word}, or nothing in it: give {kinds}"


def write_list(path: Path, names: Iterator[str]) -> int:
    """Write names to a file that `blocks` reads back; how many."""
    count = 0
    with open(path, "w", encoding="ascii") as file:
        for name in names:
            file.write(json.dumps(name) + "\n")
            count += 1
    return count


def blocks(path: Path, size: int, rank: int, ranks: int) -> Iterator[list[str]]:
    """This rank's blocks of `size` consecutive names: every `ranks`-th block from its own on."""
    with open(path, encoding="ascii") as file:
        number = 0
        while lines := list(islice(file, size)):
            if number % ranks == rank:
                yield [json.loads(line) for line in lines]
            number += 1


def shown(name: str) -> str:
    """A path as text: bytes that are no UTF-8 become \\udcNN."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")
