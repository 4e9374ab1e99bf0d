"""Sources and the prepared store: contents, identity, bad photos, two jobs at once."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from horovod_flowers.config.data import DataConfig
from horovod_flowers.data import synthetic
from horovod_flowers.data.decoding import decode_photo
from horovod_flowers.data.order import split
from horovod_flowers.data.prepared import find, prepare
from horovod_flowers.data.sources import open_source
from horovod_flowers.runtime.errors import UserError

SYNTHETIC = DataConfig(image_size=32, synthetic_images=20)


def folder_config(path: Path, **changes: object) -> DataConfig:
    return DataConfig(source="folder", path=str(path), image_size=32, **changes)  # type: ignore[arg-type]


def test_synthetic_images_depend_on_seed_and_index_alone() -> None:
    alone = synthetic.draw(3, 17, 48)
    for index in (5, 99):
        synthetic.draw(3, index, 48)
    assert np.array_equal(alone, synthetic.draw(3, 17, 48))
    assert alone.shape == (48, 48, 3)
    assert alone.dtype == np.uint8
    assert not np.array_equal(alone, synthetic.draw(4, 17, 48))
    assert not np.array_equal(alone, synthetic.draw(3, 22, 48))


def test_prepared_images_are_the_drawn_ones(tmp_path: Path) -> None:
    source = open_source(SYNTHETIC)
    assert find(tmp_path, source) is None
    prepared = prepare(tmp_path, source, processes=2)
    assert len(prepared) == 20
    assert prepared.class_names == ("dandelion", "daisy", "tulips", "sunflowers", "roses")
    assert np.array_equal(prepared.image(19), synthetic.draw(0, 19, 32))
    assert prepared.labels.tolist() == [synthetic.label(index) for index in range(20)]
    found = find(tmp_path, source)
    assert found is not None
    assert found.digest == prepared.digest


def test_another_request_is_another_object(tmp_path: Path) -> None:
    first = prepare(tmp_path, open_source(SYNTHETIC), processes=1)
    second = prepare(tmp_path, open_source(DataConfig(image_size=32, synthetic_images=20, synthetic_seed=1)), 1)
    assert first.digest != second.digest


def test_touched_photos_are_looked_at_again_but_stored_once(tmp_path: Path, write_photos: Callable[..., Path]) -> None:
    photos, root = write_photos(red=3, blue=3), tmp_path / "prepared"
    first = prepare(root, open_source(folder_config(photos)), processes=1)
    os.utime(photos / "red" / "000.jpg", ns=(1, 1))
    source = open_source(folder_config(photos))
    assert find(root, source) is None
    assert prepare(root, source, processes=1).digest == first.digest
    assert len(list((root / "objects").iterdir())) == 1
    assert len(list((root / "refs").iterdir())) == 2


def test_two_jobs_may_prepare_at_once(tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as jobs:
        first, second = jobs.map(lambda _: prepare(tmp_path, open_source(SYNTHETIC), 1), range(2))
    assert first.digest == second.digest
    assert [path.name for path in (tmp_path / "objects").iterdir()] == [first.digest]


def test_unreadable_photos_are_skipped_counted_and_listed(tmp_path: Path, write_photos: Callable[..., Path]) -> None:
    photos = write_photos(red=3, blue=3)
    whole = (photos / "red" / "000.jpg").read_bytes()
    (photos / "red" / "001.jpg").write_bytes(whole[: len(whole) // 2])
    (photos / "blue" / "empty.png").write_bytes(b"")
    (photos / "blue" / "text.jpg").write_text("no photo")
    (photos / "blue" / "notes.txt").write_text("not looked at")
    prepared = prepare(tmp_path / "prepared", open_source(folder_config(photos)), processes=1)
    assert len(prepared) == 5
    assert [name for name, _ in prepared.unreadable] == ["blue/empty.png", "blue/text.jpg", "red/001.jpg"]
    assert "truncated" in dict(prepared.unreadable)["red/001.jpg"].lower()
    assert prepared.labels.tolist() == [0, 0, 0, 1, 1]


def test_a_pipe_called_a_photo_holds_nobody_up(tmp_path: Path, write_photos: Callable[..., Path]) -> None:
    photos = write_photos(red=3, blue=3)
    os.mkfifo(photos / "red" / "pipe.jpg")
    prepared = prepare(tmp_path / "prepared", open_source(folder_config(photos)), processes=1)
    assert prepared.unreadable == (("red/pipe.jpg", "not a file"),)


def test_strict_refuses_an_unreadable_photo(tmp_path: Path, write_photos: Callable[..., Path]) -> None:
    photos = write_photos(red=3, blue=3)
    (photos / "red" / "001.jpg").write_bytes(b"")
    with pytest.raises(UserError, match=r"1 of 6 images cannot be read: red/001.jpg"):
        prepare(tmp_path / "prepared", open_source(folder_config(photos)), processes=1, strict=True)
    assert list((tmp_path / "prepared" / "objects").iterdir()) == []


def test_a_folder_of_non_images_is_refused_and_leaves_nothing(
    tmp_path: Path, write_photos: Callable[..., Path]
) -> None:
    photos = write_photos(red=2, blue=2)
    for photo in photos.glob("*/*.jpg"):
        photo.write_text("no photo")
    with pytest.raises(
        UserError, match="none of the 4 files is a readable JPEG, PNG, WebP, BMP, TIFF or GIF image: blue/000.jpg"
    ):
        prepare(tmp_path / "prepared", open_source(folder_config(photos)), processes=1)
    assert list((tmp_path / "prepared" / "objects").iterdir()) == []
    assert list((tmp_path / "prepared" / "refs").iterdir()) == []


def test_missing_empty_and_one_class_folders_are_refused(tmp_path: Path, write_photos: Callable[..., Path]) -> None:
    with pytest.raises(UserError, match="does not exist: give a folder"):
        open_source(folder_config(tmp_path / "nowhere"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no photo found in"):
        open_source(folder_config(tmp_path / "empty"))
    with pytest.raises(UserError, match=r"one class only \(red\)"):
        open_source(folder_config(write_photos(red=3)))
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(UserError, match="is a file: give a folder"):
        open_source(folder_config(file))


def test_a_folder_that_cannot_be_written_is_refused() -> None:
    with pytest.raises(UserError, match=r"cannot write in /proc/prepared .*: choose another folder"):
        prepare(Path("/proc/prepared"), open_source(SYNTHETIC), processes=1)


def test_damaged_prepared_data_is_refused_with_the_remedy(tmp_path: Path) -> None:
    prepared = prepare(tmp_path, open_source(SYNTHETIC), processes=1)
    (prepared.folder / "manifest.json").write_text("{")
    with pytest.raises(UserError, match="delete that folder and prepare again"):
        find(tmp_path, open_source(SYNTHETIC))


def test_the_split_of_photos_is_stratified_and_seeded(tmp_path: Path, write_photos: Callable[..., Path]) -> None:
    photos = write_photos(red=40, blue=20)
    config = folder_config(photos, validation_fraction=0.25)
    prepared = prepare(tmp_path / "prepared", open_source(config), processes=1)
    images = split(prepared, config)
    assert sorted([*images.training, *images.validation]) == list(range(60))
    assert np.bincount(prepared.labels[images.validation]).tolist() == [5, 10]
    assert np.array_equal(split(prepared, config).validation, images.validation)
    other = split(prepared, folder_config(photos, validation_fraction=0.25, split_seed=1))
    assert not np.array_equal(other.validation, images.validation)
    thirds = split(prepared, folder_config(photos, validation_fraction=0.25, test_fraction=0.25))
    assert sorted([*thirds.training, *thirds.validation, *thirds.test]) == list(range(60))
    for part in (thirds.validation, thirds.test):
        assert np.bincount(prepared.labels[part]).tolist() == [5, 10]


def test_a_class_of_one_photo_is_refused(tmp_path: Path, write_photos: Callable[..., Path]) -> None:
    config = folder_config(write_photos(red=9, blue=1))
    prepared = prepare(tmp_path / "prepared", open_source(config), processes=1)
    with pytest.raises(UserError, match="class 'blue' has 1 readable photos: at least 2 are needed"):
        split(prepared, config)


def test_photos_are_turned_upright_and_made_rgb(tmp_path: Path) -> None:
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[:, :30] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to see it upright
    Image.fromarray(pixels).save(tmp_path / "turned.jpg", exif=exif, quality=95)
    upright = decode_photo(tmp_path / "turned.jpg", 32)
    assert upright[4].mean() > 240
    assert upright[-4].mean() < 15
    for mode in ("L", "CMYK", "RGBA", "P"):
        suffix = "jpg" if mode in ("L", "CMYK") else "png"
        Image.new(mode, (30, 20)).save(tmp_path / f"{mode}.{suffix}")
        assert decode_photo(tmp_path / f"{mode}.{suffix}", 24).shape == (24, 24, 3)


def test_photos_that_are_gone_are_listed_as_unreadable(tmp_path: Path, write_photos: Callable[..., Path]) -> None:
    photos = write_photos(red=3, blue=3)
    source = open_source(folder_config(photos))
    shutil.rmtree(photos / "red")
    prepared = prepare(tmp_path / "prepared", source, processes=1)
    assert [name for name, _ in prepared.unreadable] == ["red/000.jpg", "red/001.jpg", "red/002.jpg"]


TOLD_WHILE_IT_DRAWS = """
import signal, sys
from pathlib import Path
from horovod_flowers.config.data import DataConfig
from horovod_flowers.data.prepared import prepare
from horovod_flowers.data.sources import open_source

if __name__ == "__main__":
    told = []
    signal.signal(signal.SIGUSR1, lambda number, frame: told.append(number))
    print("begins", flush=True)
    prepared = prepare(Path(sys.argv[1]), open_source(DataConfig(image_size=64, synthetic_images=60)), 2)
    print(len(prepared), bool(told))
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # of Python's handlers none is left when it ends
"""


def test_a_time_limit_while_images_are_drawn_reaches_nobody_but_the_rank(tmp_path: Path) -> None:
    """The signal goes to all processes of a rank, at any moment of theirs: one that died would take the run along."""
    (tmp_path / "draw.py").write_text(TOLD_WHILE_IT_DRAWS)
    words = [sys.executable, "draw.py", "prepared"]
    with subprocess.Popen(words, cwd=tmp_path, start_new_session=True, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begins\n"
        while process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGUSR1)
            time.sleep(0.02)
        assert process.stdout.read() == "60 True\n"
        assert process.returncode == 0
