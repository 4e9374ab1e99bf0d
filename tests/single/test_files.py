"""Folders that appear whole or not at all."""

import os
from pathlib import Path

import pytest

from horovod_flowers.files import whole_folder


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
