"""Labels of photos from a CSV beside them: read as they are meant, or refused with what to write."""

from pathlib import Path

import pytest

from horovod_flowers.data.order import split
from horovod_flowers.data.prepared import prepare
from horovod_flowers.data.sources import open_source
from horovod_flowers.runtime.errors import UserError
from tests.single.photo_folders import config, put


def table(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8-sig")
    return str(path)


def flat(folder: Path, count: int = 6) -> Path:
    put(*(folder / "photos" / f"{number}.jpg" for number in range(count)))
    return folder / "photos"


@pytest.mark.parametrize(
    "text",
    [
        "file,label\n0.jpg,daisy\n1.jpg,daisy\n2.jpg,rose\n3.jpg,rose\n",
        "image_id;breed\n0;daisy\n1;daisy\n2;rose\n3;rose\n",
        "label\tpath\textra\ndaisy\tphotos/0.jpg\t1\ndaisy\tphotos/1.jpg\t1\nrose\tphotos/2.jpg\t1\nrose\tphotos/3.jpg\t\n",
        "some,thing\n0.jpg,daisy\n1.jpg,daisy\n2.jpg,rose\n3.jpg,rose\n",
        'class id, "filepaths", labels\n0, "0.jpg", daisy\n0, "1.jpg", daisy\n1, "2.jpg", rose\n1, "3.jpg", rose\n',
    ],
)
def test_labels_from_a_csv(tmp_path: Path, text: str) -> None:
    chosen = config(flat(tmp_path), labels_csv=table(tmp_path / "train.csv", text))
    source = open_source(chosen)
    assert source.class_names == ("daisy", "rose")
    assert source.layout is not None
    assert [photo.name for photo in source.layout.photos] == ["0.jpg", "1.jpg", "2.jpg", "3.jpg"]
    assert any("2 photos in" in remark and "does not name" in remark for remark in source.layout.remarks)
    prepared = prepare(tmp_path / "prepared", source, processes=1)
    assert prepared.labels.tolist() == [0, 0, 1, 1]


def test_lines_without_a_label_are_counted_once(tmp_path: Path) -> None:
    text = "file,label\n0.jpg,a\n1.jpg,b\n2.jpg,\n3.jpg,\n4.jpg,a\n5.jpg,b\n"
    layout = open_source(config(flat(tmp_path), labels_csv=table(tmp_path / "l.csv", text))).layout
    assert layout is not None
    left_out = [remark for remark in layout.remarks if remark.startswith("left out")]
    assert len(left_out) == 1
    assert "since they have no label: 2 lines" in left_out[0]


def test_other_labels_of_the_same_photos_are_another_set(tmp_path: Path) -> None:
    photos = flat(tmp_path, 4)
    digests = {
        prepare(tmp_path / "prepared", open_source(config(photos, labels_csv=table(tmp_path / name, text))), 1).digest
        for name, text in (
            ("a.csv", "file,label\n0.jpg,a\n1.jpg,a\n2.jpg,b\n3.jpg,b\n"),
            ("b.csv", "file,label\n0.jpg,a\n1.jpg,b\n2.jpg,a\n3.jpg,b\n"),
        )
    }
    assert len(digests) == 2


def test_a_csv_may_say_the_sets_and_numbers_are_in_order(tmp_path: Path) -> None:
    rows = "0.jpg,10,train\n1.jpg,9,train\n2.jpg,10,val\n3.jpg,9,valid\n4.jpg,9,test\n5.jpg,,train\n"
    chosen = config(flat(tmp_path), labels_csv=table(tmp_path / "l.csv", f"file,label,split\n{rows}"))
    prepared = prepare(tmp_path / "prepared", open_source(chosen), processes=1)
    assert prepared.class_names == ("9", "10")
    found = split(prepared, chosen)
    assert [prepared.labels[part].tolist() for part in (found.training, found.validation, found.test)] == [
        [0, 1],
        [0, 1],
        [0],
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "has the columns (none): name the columns file and label"),
        ("a,b,c\n1,2,3\n", "has the columns a, b, c: name the columns file and label in its first line"),
        ("file,label\n0.jpg,a\n", "has 1 different labels: at least 2 are needed"),
        ("file,label\n0.jpg,a\n0.jpg,b\n", "has 0.jpg twice, in lines 2 and 3"),
        ("file,label\nx.jpg,a\ny.jpg,b\n", "none of the 2 files that"),
        ("file,label\n/etc/passwd,a\n0.jpg,b\n", "names /etc/passwd, which is not in"),
        ("file,label\n../../x.jpg,a\n0.jpg,b\n", "names ../../x.jpg, which is not in"),
        ("file,label,split\n0.jpg,a,train\n1.jpg,b,fold3\n", "line 3 of .* has the split 'fold3': give train, val or"),
        ("file,label\n0.jpg,a\x1b\n1.jpg,b\n", "control characters"),
        ("\x00", "has the columns"),
        ("0.jpg,a\n1.jpg,b\n", "the first line of .* has a photo, 0.jpg, and no names of columns: write a line above"),
    ],
)
def test_a_csv_that_says_no_label_is_refused(tmp_path: Path, text: str, said: str) -> None:
    chosen = config(flat(tmp_path), labels_csv=table(tmp_path / "l.csv", text))
    with pytest.raises(UserError, match=said.replace("(none)", r"\(none\)")):
        open_source(chosen)


def test_a_csv_that_is_none_is_refused(tmp_path: Path) -> None:
    photos = flat(tmp_path)
    with pytest.raises(UserError, match="cannot be read as CSV"):
        open_source(config(photos, labels_csv=str(photos / "0.jpg")))
    with pytest.raises(UserError, match="cannot be read as CSV"):
        open_source(config(photos, labels_csv=str(tmp_path / "none.csv")))
