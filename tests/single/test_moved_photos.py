"""Prepared images are found again wherever their photos are now; a run goes on with the very images that it had."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from horovod_flowers.config.data import DataConfig
from horovod_flowers.config.run import RunConfig
from horovod_flowers.data.opening import TrainedOn, find_images, refuse_other_images
from horovod_flowers.data.prepared import Prepared, find, prepare
from horovod_flowers.data.preparing import command_for
from horovod_flowers.data.sources import open_source
from horovod_flowers.runtime.errors import UserError


@pytest.fixture
def photos(write_photos: Callable[..., Path]) -> Path:
    return write_photos(red=4, blue=4)


@pytest.fixture
def prepared(tmp_path: Path, photos: Path) -> Prepared:
    return prepare(tmp_path / "prepared", open_source(run_of(tmp_path, photos).data), processes=1)


def run_of(folder: Path, photos: Path) -> RunConfig:
    data = DataConfig(
        source="folder", path=str(photos), image_size=24, prepared_dir=str(folder / "prepared"), validation_fraction=0.5
    )
    return RunConfig(data=data, name="r", per_rank_batch=2)


def trained_on(prepared: Prepared) -> TrainedOn:
    return TrainedOn(Path("runs/r"), prepared.class_names, prepared.digest)


def touch(photos: Path) -> None:
    for number, photo in enumerate(sorted(photos.rglob("*.jpg"))):
        os.utime(photo, ns=(number, number))


def test_copied_photos_are_those_that_were_prepared(
    tmp_path: Path, photos: Path, prepared: Prepared, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(photos, copy, copy_function=shutil.copy)
    touch(copy)
    config = run_of(tmp_path, copy)
    assert find(tmp_path / "prepared", open_source(config.data)) is None
    found = find_images(config)
    assert found.prepared is not None
    assert found.prepared.digest == prepared.digest
    assert "comparing their contents" in capsys.readouterr().out
    assert find_images(config).prepared is not None
    assert capsys.readouterr().out == ""  # remembered


def test_photos_with_other_contents_are_others(tmp_path: Path, photos: Path, prepared: Prepared) -> None:
    photo = photos / "red" / "001.jpg"
    contents = bytearray(photo.read_bytes())
    contents[-20] ^= 1
    photo.write_bytes(contents)
    assert find_images(run_of(tmp_path, photos)).prepared is None


@pytest.mark.parametrize("emptied", [False, True])
def test_prepared_images_do_not_need_their_photos(
    tmp_path: Path, photos: Path, prepared: Prepared, emptied: bool
) -> None:
    shutil.rmtree(photos)
    if emptied:
        photos.mkdir()
    found = find_images(run_of(tmp_path, photos))
    assert found.prepared is not None
    assert (found.prepared.digest, found.source) == (prepared.digest, None)
    assert found.remark is not None
    assert "taking what was prepared from there, 8 images of 2 classes" in found.remark


def test_photos_that_never_were_there_are_told(tmp_path: Path, photos: Path, prepared: Prepared) -> None:
    with pytest.raises(UserError, match="does not exist: give a folder"):
        find_images(run_of(tmp_path, tmp_path / "elsewhere"))
    smaller = DataConfig(source="folder", path=str(photos), image_size=32, prepared_dir=str(tmp_path / "prepared"))
    shutil.rmtree(photos)
    with pytest.raises(UserError, match="does not exist"):
        find_images(RunConfig(data=smaller))


def test_a_tfds_set_that_was_prepared_is_not_needed_either(tmp_path: Path) -> None:
    config = RunConfig(data=DataConfig(source="tf_flowers", tfds_dir=str(tmp_path), prepared_dir=str(tmp_path / "p")))
    with pytest.raises(UserError, match="run 'python -m horovod_flowers.prepare --data.source tf_flowers"):
        find_images(config)


def test_a_run_goes_on_without_its_photos(tmp_path: Path, photos: Path, prepared: Prepared) -> None:
    run = trained_on(prepared)
    moved = tmp_path / "moved"
    photos.rename(moved)
    for config in (run_of(tmp_path, photos), run_of(tmp_path, moved)):
        found = find_images(config, run).prepared
        assert found is not None
        assert found.digest == prepared.digest
    # Prepared before contents were compared: as many photos of the same classes.
    shutil.rmtree(tmp_path / "prepared" / "contents")
    touch(moved)
    assert find_images(run_of(tmp_path, moved)).prepared is None
    kept = find_images(run_of(tmp_path, moved), run)
    assert kept.prepared is not None
    assert kept.remark is not None


def test_a_class_that_came_is_named(
    tmp_path: Path, photos: Path, prepared: Prepared, write_photos: Callable[..., Path]
) -> None:
    run, config = trained_on(prepared), run_of(tmp_path, photos)
    shutil.copytree(photos / "red", photos / "green")
    sentence = r"run runs/r was trained on other images \(classes blue, red\): of its classes, green came"
    with pytest.raises(UserError, match=sentence):
        find_images(config, run)
    prepare(tmp_path / "prepared", open_source(config.data), processes=1)
    with pytest.raises(UserError, match=sentence):
        find_images(config, run)
    shutil.rmtree(photos / "blue")
    with pytest.raises(UserError, match="green came and blue went"):
        find_images(config, run)


def test_a_run_goes_on_with_its_own_images_when_photos_came(tmp_path: Path, photos: Path, prepared: Prepared) -> None:
    shutil.copy(photos / "red" / "001.jpg", photos / "red" / "009.jpg")
    run, config = trained_on(prepared), run_of(tmp_path, photos)
    for prepared_again in (False, True):
        if prepared_again:
            prepare(tmp_path / "prepared", open_source(config.data), processes=1)
        found = find_images(config, run)
        assert found.prepared is not None
        assert found.prepared.digest == prepared.digest
        assert found.remark is not None
        assert "(8 then, 9 now): going on with what was prepared then" in found.remark
    shutil.rmtree(prepared.folder)
    with pytest.raises(UserError, match="the classes are the same, the images are not"):
        find_images(config, run)
    refuse_other_images(run, prepared.class_names, prepared.digest)


def test_the_command_names_all_that_decides(tmp_path: Path) -> None:
    config = DataConfig(source="folder", path="p", validation_path="v", test_path="t", sample_weights="w.csv")
    words = "--data.path p --data.validation-path v --data.test-path t --data.sample-weights w.csv"
    assert command_for(config).endswith(words)
