"""Which photos, how they are decoded, and the tables of what they show."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from horovod_flowers.data.decoding import photo_or_reason
from horovod_flowers.inference.prediction.decoding import Decoded, decoded
from horovod_flowers.inference.prediction.parts import classify, in_order, merge, part_of, unreadable_list
from horovod_flowers.inference.prediction.photos import blocks, photos, shown, write_list
from horovod_flowers.inference.prediction.tables import Row, format_of, table
from horovod_flowers.runtime.errors import UserError

CLASSES = ("rose", 'a,"b')


@pytest.fixture
def folder(tmp_path: Path, write_photos: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    found = write_photos(red=3, blue=2)
    monkeypatch.chdir(found)
    return found


def test_files_folders_globs_and_lists_in_the_order_given(folder: Path) -> None:
    (folder / "notes.txt").write_text("no photo")
    (folder / "red" / "sub").mkdir()
    (folder / "red" / "sub" / "deep.PNG").write_bytes(b"")
    (folder / "[odd].jpg").write_bytes(b"")
    (folder / "list").write_bytes(b"blue/a b.jpg\r\n\nmissing\xff.jpg\nlast")
    red = sorted(f"red/{name}" for name in os.listdir("red") if name != "sub")
    assert list(photos(["red"])) == [*red, "red/sub/deep.PNG"]
    assert list(photos(["blue/*", "notes.txt", "[odd].jpg"])) == [
        *sorted(map(str, Path().glob("blue/*"))),
        "notes.txt",
        "[odd].jpg",
    ]
    assert list(photos(["**/deep*"])) == ["red/sub/deep.PNG"]
    assert list(photos(["@list"])) == ["blue/a b.jpg", "missing\udcff.jpg", "last"]


def test_links_that_lead_in_a_circle_end(folder: Path) -> None:
    (folder / "red" / "circle").symlink_to(folder)
    (folder / "self.jpg").symlink_to("self.jpg")
    found = list(photos(["."]))
    assert len(found) == 6
    assert photo_or_reason(Path("self.jpg"), 8) == "Too many levels of symbolic links"


@pytest.mark.parametrize("word", ["none.jpg", "*.png", "empty", "@none", "@blank"])
def test_a_word_without_photos_is_a_mistake(folder: Path, word: str) -> None:
    (folder / "empty").mkdir()
    (folder / "blank").write_text("\n\n")
    with pytest.raises(UserError, match="give"):
        list(photos([word]))


@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
def test_ranks_get_all_photos_in_turn_and_parts_give_them_back_in_order(tmp_path: Path, ranks: int) -> None:
    names = [f"odd\n\u00fc{number}\udcff" for number in range(23)]
    assert write_list(tmp_path / "list", iter(names)) == 23
    for rank in range(ranks):
        given = (
            Decoded(block, np.zeros((4, 2, 2, 3), np.uint8), [None] * len(block))
            for block in blocks(tmp_path / "list", 4, rank, ranks)
        )
        list(classify(given, lambda images: np.full((len(images), 2), 0.5, np.float32), part_of(tmp_path, rank)))
    assert [name for name, _, _ in in_order(tmp_path, ranks, 4)] == names


def test_unreadable_photos_say_why_and_leave_the_others_alone(folder: Path) -> None:
    (folder / "pipe.jpg").unlink(missing_ok=True)
    os.mkfifo("pipe.jpg")
    (folder / "text.jpg").write_text("text")
    good = next(photos(["red"]))
    names = ["pipe.jpg", good, "none.jpg", "text.jpg", "red"]
    (block,) = decoded(iter([names]), 8, 16, threads=3)
    reasons = [
        "not a file",
        None,
        "No such file or directory",
        "no JPEG, PNG, WebP, BMP, TIFF or GIF image",
        "not a file",
    ]
    assert block.problems == reasons
    assert block.images.shape == (8, 16, 16, 3)
    assert [bool(image.any()) for image in block.images] == [False, True, *[False] * 6]


def rows() -> Iterator[Row]:
    for number in range(3):
        yield Row(f'p,"{number}\n.jpg', CLASSES[number % 2], 0.61239, (0.61239, 0.38761))


def test_every_table_holds_the_same(tmp_path: Path) -> None:
    for ending in ("csv", "jsonl", "parquet"):
        with table(tmp_path / f"t.{ending}", ending, CLASSES) as found:
            for row in rows():
                found.write(row)
    text = (tmp_path / "t.csv").read_text()
    assert text.startswith('photo,class,probability,p_rose,"p_a,""b"\n"p,""0\n.jpg",rose,0.6124,0.6124,0.3876\n')
    lines = [json.loads(line) for line in (tmp_path / "t.jsonl").read_text().splitlines()]
    assert [line["photo"] for line in lines] == [row.photo for row in rows()]
    assert lines[1] == {
        "photo": 'p,"1\n.jpg',
        "class": 'a,"b',
        "probability": 0.6124,
        "probabilities": {"rose": 0.6124, 'a,"b': 0.3876},
    }
    parquet = pq.read_table(tmp_path / "t.parquet").to_pylist()
    assert [line["photo"] for line in parquet] == [row.photo for row in rows()]
    assert parquet[0]['p_a,"b'] == pytest.approx(0.3876)
    with pytest.raises(UserError, match=r"allowed endings are \.csv"):
        format_of(tmp_path / "t.xls")


def test_an_earlier_table_stays_where_no_photo_can_be_read(tmp_path: Path) -> None:
    output = tmp_path / "out.csv"
    output.write_text("earlier")
    unread = Decoded(["a", "b\udcff"], np.zeros((2, 2, 2, 3), np.uint8), ["broken", "gone"])
    list(classify(iter([unread]), lambda images: pytest.fail("nothing to classify"), part_of(tmp_path, 0)))
    assert merge(tmp_path, 1, 2, output, "csv", CLASSES) == (0, 2)
    assert output.read_text() == "earlier"
    assert unreadable_list(output).read_text() == "photo,reason\na,broken\nb\\udcff,gone\n"
    assert shown("b\udcff") == "b\\udcff"
    read = Decoded(["a"], np.zeros((2, 2, 2, 3), np.uint8), [None])
    list(classify(iter([read]), lambda images: np.array([[0.2, 0.8]] * 2, np.float32), part_of(tmp_path, 0)))
    assert merge(tmp_path, 1, 2, output, "csv", CLASSES) == (1, 0)
    assert not unreadable_list(output).exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.csv", part_of(tmp_path, 0).name]
