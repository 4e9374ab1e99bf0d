"""Folders of photos as people have them: read as they are meant, or refused with what to type instead."""

import shutil
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from horovod_flowers.config.data import DataConfig
from horovod_flowers.data.class_table import class_lines, class_warnings, sets_of
from horovod_flowers.data.folder_layout import read_layout
from horovod_flowers.data.folder_source import FolderSource
from horovod_flowers.data.order import split
from horovod_flowers.data.photo_names import role_of, unpack_command
from horovod_flowers.data.prepared import Prepared, prepare
from horovod_flowers.data.sources import open_source
from horovod_flowers.evaluate import EvaluateConfig
from horovod_flowers.inference.evaluation.images import PhotoImages
from horovod_flowers.inference.prediction.photos import photos as photos_to_predict
from horovod_flowers.prepare import main as prepare_main
from horovod_flowers.runtime.errors import UserError
from tests.single.photo_folders import classes, config, layout, names, put, refusal

# One set


def test_one_folder_a_class(tmp_path: Path) -> None:
    classes(tmp_path, "rose", "daisy", images=2)
    found = layout(tmp_path)
    assert found.class_names == ("daisy", "rose")
    assert names(found) == (["daisy/0.jpg", "daisy/1.jpg", "rose/0.jpg", "rose/1.jpg"], [], [])
    assert (found.notes, found.remarks, found.without_photos) == ({}, (), ())


def test_all_kinds_of_photos_count_and_others_are_told(tmp_path: Path) -> None:
    """5 of 17 photos were used, without a word."""
    classes(tmp_path, "daisy", "rose", images=1)
    for suffix in ("WEBP", "bmp", "tif", "tiff", "gif", "jfif", "jpe", "png", "jpeg"):
        kind = {"jfif": "JPEG", "jpe": "JPEG", "tif": "TIFF"}.get(suffix)
        Image.new("RGB", (9, 9)).save(tmp_path / "rose" / f"x.{suffix}", kind)
    for name in ("a.heic", "b.heic", "list", "c.txt"):
        (tmp_path / "rose" / name).touch()
    found = layout(tmp_path)
    assert len(found.training) == 11
    assert found.notes == {"rose": "no photos: .heic 2, .txt 1, without suffix 1"}
    assert found.remarks == ("left out, since they are no photos: .heic 2, .txt 1, without suffix 1",)
    prepared = prepare(tmp_path / "prepared", open_source(config(tmp_path)), processes=1)
    assert (len(prepared), prepared.unreadable) == (11, ())


def test_hidden_files_and_folders_are_no_photos(tmp_path: Path) -> None:
    classes(tmp_path, "daisy", "rose", images=2)
    put(tmp_path / "rose" / ".hidden.jpg", tmp_path / ".trash" / "x.jpg", tmp_path / "__MACOSX" / "rose" / "0.jpg")
    (tmp_path / "rose" / "._0.jpg").write_bytes(b"AppleDouble")
    found = layout(tmp_path)
    assert found.class_names == ("daisy", "rose")
    assert len(found.training) == 4
    assert found.notes == {"rose": "hidden: 2"}
    assert found.remarks == ("left out, since they are hidden: 2 files (.NAME.jpg or ._NAME.jpg)",)
    # predict looks at the same photos
    assert len(list(photos_to_predict([str(tmp_path)]))) == 4
    hidden = str(tmp_path / "rose" / ".hidden.jpg")  # but those that are named themselves
    assert list(photos_to_predict([hidden])) == list(photos_to_predict([f"{tmp_path}/rose/.h*"])) == [hidden]


def test_photos_a_level_deeper_belong_to_the_class(tmp_path: Path) -> None:
    classes(tmp_path, "daisy", "rose/2023", "rose/2024/june", images=2)
    put(tmp_path / "daisy" / "2024" / "9.jpg")
    found = layout(tmp_path)
    assert [len([photo for photo in found.training if photo.label == label]) for label in (0, 1)] == [3, 4]
    assert found.notes == {"daisy": "1 in folders below it (2024)", "rose": "all in folders below it (2023, 2024)"}


def test_groups_of_classes_are_told(tmp_path: Path) -> None:
    classes(tmp_path, "animals/cat", "animals/dog", "plants/rose", "plants/tulip")
    found = layout(tmp_path)
    assert found.class_names == ("animals", "plants")
    assert "(cat, dog, rose, tulip): where these are the classes, bring them into one folder" in found.remarks[-1]


def test_links_that_lead_back_end(tmp_path: Path) -> None:
    classes(tmp_path, "daisy", "rose", images=2)
    (tmp_path / "rose" / "all").symlink_to(tmp_path)
    (tmp_path / "lily").symlink_to(tmp_path / "rose")  # as people collect classes
    assert len(layout(tmp_path).training) == 6


def test_an_empty_class_is_named_and_refused_with_strict(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    classes(tmp_path / "photos", "daisy", "rose")
    (tmp_path / "photos" / "tulip").mkdir()
    words = ["--data.source", "folder", "--data.path", str(tmp_path / "photos"), "--data.image-size", "24"]
    words += ["--data.prepared-dir", str(tmp_path / "prepared"), "--processes", "1"]
    prepare_main(words)
    printed = capsys.readouterr()
    assert "left out, since there is no photo in them: tulip" in printed.err
    assert [line.split() for line in printed.out.splitlines()[1:]] == [
        ["class", "images"],
        ["daisy", "3"],
        ["rose", "3"],
        ["all", "6"],
    ]
    with pytest.raises(SystemExit) as ended:
        prepare_main([*words, "--strict"])
    assert ended.value.code == 2
    assert "there is no photo in tulip: add some or remove the folder" in capsys.readouterr().err


@pytest.mark.parametrize("way", ["flowers", "flowers/flowers", "a/b/c"])
def test_folders_around_the_classes_are_looked_through(tmp_path: Path, way: str) -> None:
    classes(tmp_path / way, "daisy", "rose")
    (tmp_path / "LICENSE.txt").touch()
    found = layout(tmp_path)
    assert found.class_names == ("daisy", "rose")
    assert names(found)[0][0] == "daisy/0.jpg"
    assert f"the classes are read from {tmp_path / way}" in found.remarks[0]


def test_a_set_inside_of_itself_is_refused(tmp_path: Path) -> None:
    """Kaggle's flowers: five classes, and a folder with the five again."""
    classes(tmp_path, "daisy", "rose", "flowers/daisy", "flowers/rose")
    assert f"give --data.path {tmp_path / 'flowers'}, or move it away" in refusal(tmp_path)


# Sets that are no classes


@pytest.mark.parametrize(
    "folders",
    [
        ("train", "test"),
        ("images", "masks"),
        ("train", "val", "test"),
        ("labels", "photos1"),
        ("train_images", "test_images"),
        ("Training", "Validation"),
        ("cat", "dog", "test"),
    ],
)
def test_sets_of_photos_are_no_classes(tmp_path: Path, folders: tuple[str, ...]) -> None:
    classes(tmp_path, *folders)
    (tmp_path / "train.csv").write_text("file,label\n")
    said = refusal(tmp_path)
    assert "what sets of photos are called, or what lies beside photos, not classes" in said
    assert f"--data.labels-csv {tmp_path / 'train.csv'}" in said


def test_what_to_type_for_labels_in_a_csv(tmp_path: Path) -> None:
    classes(tmp_path, "test_images", "train_images")
    (tmp_path / "train.csv").write_text("image_id,label\n0.jpg,a\n1.jpg,a\n2.jpg,b\n")
    path, table = tmp_path / "train_images", tmp_path / "train.csv"
    assert f"as --data.path {path} --data.labels-csv {table};" in refusal(tmp_path)
    assert open_source(config(path, labels_csv=str(table))).images == 3


def test_classes_that_look_like_sets_are_classes(tmp_path: Path) -> None:
    classes(tmp_path / "vehicles", "train", "bus", "car")
    classes(tmp_path / "faces", "mask", "no_mask")
    assert layout(tmp_path / "vehicles").class_names == ("bus", "car", "train")
    assert layout(tmp_path / "faces").class_names == ("mask", "no_mask")


@pytest.mark.parametrize(
    ("name", "role"),
    [
        *(("train", "training"), ("training_set", "training"), ("seg_train", "training"), ("Train2017", "training")),
        *(("valid", "validation"), ("dev", "validation"), ("test1", "test"), ("test_images", "test")),
        *(("images", "beside"), ("Image_Masks", "beside"), ("labels", "beside")),
        *(
            ("daisy", None),
            ("test tube", None),
            ("train station", None),
            ("2024", None),
            ("photos", None),
            ("花", None),
        ),
    ],
)
def test_roles_of_names(name: str, role: str | None) -> None:
    assert role_of(name) == role


def test_classes_beside_annotations_are_named(tmp_path: Path) -> None:
    classes(tmp_path, "Images/daisy", "Images/rose", "masks/daisy", "masks/rose")
    assert f"such as --data.path {tmp_path / 'Images'}" in refusal(tmp_path)


def test_masks_inside_of_a_class_are_refused(tmp_path: Path) -> None:
    classes(tmp_path, "covid/images", "covid/masks", "normal/images", "normal/masks")
    assert "holds images, masks, which would be learnt as photos of the class alike" in refusal(tmp_path)
    shutil.rmtree(tmp_path / "covid" / "masks")
    shutil.rmtree(tmp_path / "normal" / "masks")
    assert layout(tmp_path).class_names == ("covid", "normal")


def test_detection_sets_are_refused(tmp_path: Path) -> None:
    classes(tmp_path, "train/images", "val/images")
    (tmp_path / "train" / "labels").mkdir()
    assert "images in " in refusal(tmp_path)


def test_a_flat_folder_names_the_csv_option(tmp_path: Path) -> None:
    put(tmp_path / "flat" / "1.jpg")
    assert "holds photos, but no folder of a class" in refusal(tmp_path / "flat")
    (tmp_path / "labels.csv").touch()
    assert f"--data.labels-csv {tmp_path / 'labels.csv'}" in refusal(tmp_path / "flat")


def test_photos_beside_classes_are_told(tmp_path: Path) -> None:
    classes(tmp_path, "daisy", "rose")
    put(tmp_path / "stray.jpg")
    assert layout(tmp_path).remarks == (
        f"left out, since they are in no folder of a class: 1 photos directly in {tmp_path}",
    )


@pytest.mark.parametrize("name", ["photos.zip", "photos.tar.gz", "photos.tgz", "photos.7z", "photos.rar", "archive"])
def test_archives_are_refused_with_the_command_that_unpacks(tmp_path: Path, name: str) -> None:
    with zipfile.ZipFile(tmp_path / name, "w") as archive:
        archive.writestr("daisy/1.jpg", b"")
    command = unpack_command(tmp_path / name)
    assert command is not None
    for said in (refusal(tmp_path / name), *([refusal(tmp_path)] if "." in name else [])):
        assert f"unpack it with '{command}'" in said
    with pytest.raises(UserError, match="unpack it with"):
        list(photos_to_predict([str(tmp_path / name)]))
    if name in ("photos.zip", "archive"):
        subprocess.run(["bash", "-c", command], check=True)
        assert list(tmp_path.rglob("1.jpg"))


# Own sets


@pytest.mark.parametrize("names_of_sets", [("train", "val", "test"), ("training_set", "valid", "seg_test/seg_test")])
def test_sets_of_their_own_stay_apart(tmp_path: Path, names_of_sets: tuple[str, str, str]) -> None:
    photos = tmp_path / "photos"
    for name, images in zip(names_of_sets, (5, 2, 3), strict=True):
        classes(photos / name, "daisy", "rose", images=images)
    source = open_source(config(photos))
    prepared = prepare(tmp_path / "prepared", source, processes=1)
    found = split(prepared, config(photos))
    assert [len(part) for part in (found.training, found.validation, found.test)] == [10, 4, 6]
    assert [name for name, own in sets_of(prepared).items() if len(own)] == ["training", "validation", "test"]
    assert isinstance(source, FolderSource)
    for part, name in zip((found.training, found.validation, found.test), names_of_sets, strict=True):
        positions = prepared.positions[part]
        assert all(source.photos[position].name.startswith(f"{name}/") for position in positions)
        assert np.bincount(prepared.labels[part]).tolist() == [len(part) // 2] * 2


def test_unreadable_photos_do_not_move_images_between_sets(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    classes(photos / "train", "daisy", "rose", images=4)
    classes(photos / "val", "daisy", "rose", images=2)
    (photos / "train" / "daisy" / "1.jpg").write_bytes(b"")
    prepared = prepare(tmp_path / "prepared", open_source(config(photos)), processes=1)
    found = split(prepared, config(photos))
    assert [len(found.training), len(found.validation)] == [7, 4]


def test_what_is_missing_of_the_sets_is_held_out_of_the_training_photos(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    classes(photos / "train", "daisy", "rose", images=20)
    classes(photos / "test", "daisy", "rose", images=5)
    chosen = config(photos, validation_fraction=0.25)
    prepared = prepare(tmp_path / "prepared", open_source(chosen), processes=1)
    found = split(prepared, chosen)
    assert [len(found.training), len(found.validation), len(found.test)] == [30, 10, 10]
    assert found.test.tolist() == list(range(40, 50))


def test_sets_elsewhere(tmp_path: Path) -> None:
    classes(tmp_path / "a", "daisy", "rose", images=4)
    classes(tmp_path / "b" / "wrapped", "daisy", "rose", images=2)
    classes(tmp_path / "c", "rose", images=3)
    found = layout(tmp_path / "a", validation_path=str(tmp_path / "b"), test_path=str(tmp_path / "c"))
    assert [len(part) for part in names(found)] == [8, 4, 3]
    assert names(found)[2] == ["test/rose/0.jpg", "test/rose/1.jpg", "test/rose/2.jpg"]
    assert "the test set has no photo of daisy" in found.remarks
    assert "photos of lily, which the training set has not" in _with_lily(tmp_path)
    classes(tmp_path / "a", "lily/daisy")
    assert refusal(tmp_path / "a", validation_path=str(tmp_path / "a" / "lily"))
    shutil.rmtree(tmp_path / "a" / "lily")
    with pytest.raises(UserError, match="one of the photos in"):
        layout(tmp_path / "a", validation_path=str(tmp_path / "a"))


def _with_lily(folder: Path) -> str:
    classes(folder / "d", "lily", "rose")
    return refusal(folder / "a", validation_path=str(folder / "d"))


def test_a_set_without_labels_is_left_out_and_told(tmp_path: Path) -> None:
    classes(tmp_path, "train/daisy", "train/rose")
    put(tmp_path / "test" / "1.jpg", tmp_path / "test" / "2.jpg")
    found = layout(tmp_path)
    assert [len(part) for part in names(found)] == [6, 0, 0]
    assert f"left out, since it is no set of class folders: {tmp_path / 'test'} (2 photos)" in found.remarks


@pytest.mark.parametrize("inner", ["images", "unknown"])
def test_photos_to_be_classified_in_a_folder_of_their_own_are_no_test_set(tmp_path: Path, inner: str) -> None:
    classes(tmp_path, "train/daisy", "train/rose", "val/daisy", "val/rose", f"test/{inner}")
    found = layout(tmp_path)
    assert [len(part) for part in names(found)] == [6, 6, 0]
    assert f"left out, since it is no set of class folders: {tmp_path / 'test'} (3 photos)" in found.remarks


def test_two_sets_for_the_same_are_refused(tmp_path: Path) -> None:
    classes(tmp_path, "train/daisy", "train/rose", "val/daisy", "valid/daisy")
    assert "holds two validation sets (val and valid)" in refusal(tmp_path)


def test_evaluate_reads_photos_likewise(tmp_path: Path) -> None:
    classes(tmp_path / "unseen" / "unseen", "daisy", "rose")
    classes(tmp_path / "one", "train")  # a class of the run, though it is called train
    assert PhotoImages(tmp_path / "unseen", 24, ("daisy", "rose", "train")).count == 6
    assert PhotoImages(tmp_path / "one", 24, ("daisy", "rose", "train")).count == 3
    classes(tmp_path / "sets", "train/daisy", "train/rose", "val/daisy")
    with pytest.raises(UserError, match=f"give one of its folders, such as --photos {tmp_path / 'sets' / 'val'}"):
        PhotoImages(tmp_path / "sets", 24, ("daisy", "rose"))
    assert EvaluateConfig(run=("r",), photos=str(tmp_path)).images_of == "photos"


# What is told of classes


def prepared_of(folder: Path, **counts: int) -> tuple[Prepared, DataConfig]:
    for name, images in counts.items():
        classes(folder / "photos", name, images=images)
    chosen = config(folder / "photos")
    return prepare(folder / "prepared", open_source(chosen), processes=1), chosen


def test_imbalance_and_few_images_are_told(tmp_path: Path) -> None:
    """200 : 3 trains to an accuracy of 1.000."""
    prepared, chosen = prepared_of(tmp_path, daisy=200, rose=3)
    found = split(prepared, chosen)
    unequal, few = class_warnings(prepared, found.training, found.validation)
    assert "daisy with 169 images and rose with 2: to answer daisy always gives an accuracy of 0.988" in unequal
    assert few.endswith("rose 2 to train and 1 to validate")


def test_a_class_without_a_readable_photo_is_named_and_not_trained(tmp_path: Path) -> None:
    for name in ("train", "val"):
        classes(tmp_path / "photos" / name, "daisy", "rose")
    for photo in (tmp_path / "photos" / "train" / "rose").iterdir():
        photo.write_bytes(b"")
    chosen = config(tmp_path / "photos")
    prepared = prepare(tmp_path / "prepared", open_source(chosen), processes=1)
    (lines, sets) = list(class_lines(prepared, sets_of(prepared), read_layout(chosen))), sets_of(prepared)
    assert lines[0].split() == ["class", "training", "validation", "unreadable"]
    assert lines[2].split() == ["rose", "0", "3", "3"]
    warnings = list(class_warnings(prepared, sets["training"], sets["validation"]))
    assert "training refuses classes without a readable photo: rose" in warnings
    with pytest.raises(UserError, match="class 'rose' has no readable photo to train on"):
        split(prepared, chosen)


def test_the_smallest_classes_reach_every_set(tmp_path: Path) -> None:
    prepared, chosen = prepared_of(tmp_path, daisy=40, lily=2, rose=3, tulip=30)
    found = split(prepared, chosen)
    counts = [np.bincount(prepared.labels[part], minlength=4).tolist() for part in (found.training, found.validation)]
    assert counts[1][1:3] == [1, 1]
    assert counts[0][1:3] == [1, 2]
    assert sorted([*found.training, *found.validation]) == list(range(75))
    again = split(prepared, chosen)
    assert np.array_equal(again.validation, found.validation)
    thirds = split(prepared, config(tmp_path / "photos", test_fraction=0.1))
    held = [np.bincount(prepared.labels[part], minlength=4).tolist() for part in (thirds.validation, thirds.test)]
    assert [part[1:3] for part in held] == [[1, 1], [0, 1]]


def test_the_table_shows_letters_of_two_columns_and_many_classes(
    tmp_path: Path, write_photos: Callable[..., Path]
) -> None:
    prepared, chosen = prepared_of(tmp_path, 花=12, rose=10)
    lines = list(class_lines(prepared, sets_of(prepared), read_layout(chosen)))
    assert lines == ["  class  images", "  rose       10", "  花         12", "  all        22"]
    many, chosen = prepared_of(tmp_path / "many", **{f"c{number:02}": 1 + number for number in range(50)})
    lines = list(class_lines(many, sets_of(many), read_layout(chosen)))
    assert len(lines) == 43
    assert lines[1].split() == ["c49", "50"]
    assert lines[21].strip() == "... and 10 classes between"
    assert lines[-2].split() == ["c00", "1"]
