"""Folders that appear whole or not at all."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from horovod_flowers.runtime.files import clear_abandoned, unfinished, whole_folder
from tests.conftest import clean_environment


def contents(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_takes_the_place_of_the_earlier_one_as_a_whole(tmp_path: Path) -> None:
    for text, name in (("first", "a"), ("second", "b")):
        with whole_folder(tmp_path / "made") as folder:
            (folder / "in").mkdir()
            (folder / "in" / name).write_text(text)
    assert contents(tmp_path) == {"made/in/b": "second"}


def test_a_link_still_leads_to_the_folder(tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    (tmp_path / "link").symlink_to("made")
    with whole_folder(tmp_path / "link") as folder:
        (folder / "a").write_text("new")
    assert (tmp_path / "link").is_symlink()
    assert contents(tmp_path / "made") == {"a": "new"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "made"]


def test_the_earlier_folder_stays_where_writing_fails(tmp_path: Path) -> None:
    def write(text: str, error: Exception | None) -> None:
        with whole_folder(tmp_path / "made") as folder:
            (folder / "a").write_text(text)
            if error is not None:
                raise error

    write("first", None)
    with pytest.raises(OSError, match="full"):
        write("second", OSError("full"))
    assert contents(tmp_path) == {"made/a": "first"}
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


def test_the_earlier_folder_comes_back_where_the_exchange_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with whole_folder(tmp_path / "made") as folder:
        (folder / "a").write_text("first")

    rename = os.rename

    def refuse(source: Path, target: Path) -> None:
        if source.name.endswith(".tmp"):
            raise OSError("no more")
        rename(source, target)

    def write() -> None:
        with whole_folder(tmp_path / "made"):
            monkeypatch.setattr(os, "rename", refuse)

    with pytest.raises(OSError, match="no more"):
        write()
    assert contents(tmp_path) == {"made/a": "first"}
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


def test_what_killed_processes_left_goes_at_the_next_start(tmp_path: Path) -> None:
    """What a living process writes stays, and what one of another machine does, until it is days old."""
    script = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from horovod_flowers.runtime.files import *\n"
        "with whole_file(Path('file')) as a, whole_folder(Path('folder')) as b:\n"
        "    (b / 'in').touch()\n"
        "    unfinished(Path('moved'), 'earlier').mkdir()\n"
        "    print(flush=True)\n"
        "    sys.stdin.read()\n"
    )
    words = [sys.executable, "-c", script]
    writer = subprocess.Popen(
        words, cwd=tmp_path, env=clean_environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        there = sorted(tmp_path.iterdir())
        assert [path.name.split(".")[1] for path in there] == ["file", "folder", "moved"]
        clear_abandoned(tmp_path)
        assert sorted(tmp_path.iterdir()) == there
        writer.kill()
    foreign = tmp_path / there[0].name.replace(there[0].name.split("-")[1], "0" * 8)
    foreign.touch()
    mine = unfinished(tmp_path / "mine")
    mine.touch()
    clear_abandoned(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([foreign.name, mine.name, "moved"])
    os.utime(foreign, (1, 1))
    clear_abandoned(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([mine.name, "moved"])
