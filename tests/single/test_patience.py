"""Paths that never answer hold nothing up for longer than a limit."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from horovod_flowers.inference.prediction import decoding
from horovod_flowers.inference.prediction.decoding import decoded
from horovod_flowers.inference.prediction.patience import Hands, answered
from horovod_flowers.inference.prediction.photos import photos, reads_a_pipe
from horovod_flowers.runtime.errors import UserError

NEVER = threading.Event()


def test_names_come_in_order_and_errors_with_them() -> None:
    assert list(answered(iter(map(str, range(5000))))) == list(map(str, range(5000)))

    def broken() -> Iterator[str]:
        yield "a"
        raise UserError("no list")

    names = answered(broken())
    assert next(names) == "a"
    with pytest.raises(UserError, match="no list"):
        next(names)


def test_a_list_into_which_nobody_writes(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "list")
    with pytest.raises(UserError, match=r"cannot be listed: nothing has come for 1 s; look at the file system or the"):
        next(answered(photos([f"@{tmp_path / 'list'}"]), seconds=1))
    assert reads_a_pipe([f"@{tmp_path / 'list'}"])
    (tmp_path / "names").touch()
    assert not reads_a_pipe([f"@{tmp_path / 'names'}", "photo.jpg", f"@{tmp_path / 'none'}"])


def work(item: int) -> str:
    if item % 10 == 3:
        NEVER.wait()
    return f"done {item}"


def test_an_item_that_never_answers_is_left_out() -> None:
    with Hands[int, str](work, 2, seconds=0.5) as hands:
        assert hands.each(range(6), lambda item: f"late {item}") == [
            "done 0", "done 1", "done 2", "late 3", "done 4", "done 5",
        ]  # fmt: skip
        assert hands.each(range(11, 15), lambda item: f"late {item}") == ["done 11", "done 12", "late 13", "done 14"]
        with pytest.raises(UserError, match=r"3 photos did not answer within 0.5 s, the last one 23"):
            hands.each(range(20, 30), str)


def test_a_photo_that_never_answers_is_listed_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def decode(path: Path, size: int) -> np.ndarray | str:
        if path.name == "b":
            NEVER.wait()
        return np.full((size, size, 3), 7, np.uint8)

    monkeypatch.setattr(decoding, "photo_or_reason", decode)
    monkeypatch.setattr(decoding, "SECONDS", 0.5)
    (block,) = decoded(iter([["a", "b", "c"]]), 4, 8, 2)
    assert block.problems == [None, "its file system does not answer (0.5 s)", None]
    assert block.images[:, 0, 0, 0].tolist() == [7, 0, 7, 0]
