"""File systems that refuse what others do, and permissions: what fails is told, and nothing fails that need not."""

import contextlib
import errno
import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from horovod_flowers.checkpoint.format import SavedProgress, load_newest, read_progress, save_checkpoint
from horovod_flowers.config.data import DataConfig
from horovod_flowers.data.prepared import prepare
from horovod_flowers.data.sources import open_source
from horovod_flowers.runlog.study_attempts import PointFiles
from horovod_flowers.runlog.training_progress import BEGINNING
from horovod_flowers.runtime.errors import GoneError, UserError
from horovod_flowers.runtime.exit import error_boundary
from horovod_flowers.runtime.files import (
    own_temporary_files,
    put_aside,
    temporary_folder,
    whole_file,
    whole_folder,
    write_whole,
)

NOBODY = 65534


def save(folder: Path, epoch: int = 1, keep: int = 1) -> None:
    reached = {name: getattr(BEGINNING, name) for name in BEGINNING.__struct_fields__}
    reached |= {"epochs_done": epoch, "steps_done": epoch, "best_epoch": 1}
    progress = SavedProgress(**reached, model="m", class_names=("a",), data_digest="d")
    save_checkpoint(folder, {"weight.0": np.ones(3, np.float32)}, progress, keep)


@contextlib.contextmanager
def umask(value: int) -> Iterator[None]:
    before = os.umask(value)
    try:
        yield
    finally:
        os.umask(before)


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600), (0o027, 0o640)])
def test_checkpoints_have_the_permissions_that_the_umask_gives(tmp_path: Path, mask: int, mode: int) -> None:
    """All of them, though safetensors puts a private file of its own in the place of the one that it is given."""
    with umask(mask):
        for epoch in (1, 2, 3):
            save(tmp_path / "c", epoch, keep=3)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "c").iterdir()}
    names = ("best.safetensors", "last.safetensors", "earlier-00000001.safetensors", "earlier-00000002.safetensors")
    assert modes == dict.fromkeys(names, mode)


def test_folders_that_libraries_fill_have_them_too(tmp_path: Path) -> None:
    with umask(0o027), whole_folder(tmp_path / "made") as folder:
        (folder / "private").mkdir(mode=0o700)
        for name in ("private/file", "file"):
            (folder / name).touch(mode=0o600)
        (folder / "program").touch(mode=0o700)
    made = tmp_path / "made"
    found = {path.name: stat.S_IMODE(path.stat().st_mode) for path in [made, *made.rglob("*")]}
    assert found == {"made": 0o750, "private": 0o750, "file": 0o640, "program": 0o750}


@contextlib.contextmanager
def as_nobody() -> Iterator[Path]:
    """Act as a user without rights, in a folder that everybody may look into."""
    if os.geteuid() != 0:
        pytest.skip("only root can act as somebody else")
    folder = Path(tempfile.mkdtemp(dir="/var/tmp"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        os.seteuid(0)
        shutil.rmtree(folder)


def test_a_checkpoint_that_this_user_may_not_read_is_not_said_to_be_missing() -> None:
    with as_nobody() as folder:
        save(folder / "c", 1, keep=2)
        save(folder / "c", 2, keep=2)
        (folder / "c" / "last.safetensors").chmod(0o600)
        os.seteuid(NOBODY)
        sentence = r"may not open .*/c/last.safetensors \(Permission denied\): ask its owner for permission"
        with pytest.raises(UserError, match=sentence):
            read_progress(folder / "c" / "last.safetensors")
        with pytest.raises(UserError, match=sentence):  # nor is an older one taken in its place
            load_newest(folder / "c", {"weight.0": (3,)})
        os.seteuid(0)
        (folder / "c").chmod(0o700)
        os.seteuid(NOBODY)
        with pytest.raises(SystemExit) as end, error_boundary("command"):
            load_newest(folder / "c", {"weight.0": (3,)})
        assert end.value.code == 2


Refuse = Callable[[str, int], None]


@pytest.fixture
def refuse(monkeypatch: pytest.MonkeyPatch) -> Refuse:
    """refuse("fsync", errno.EINVAL): this call of the system fails from now on, for folders where it is one of both."""
    real = {name: getattr(os, name) for name in ("fsync", "rename", "replace", "chmod", "link")}

    def refuse(name: str, number: int) -> None:
        def call(*words: object, **more: object) -> object:
            if name == "fsync":
                descriptor = words[0]
                assert isinstance(descriptor, int)
                if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
                    return real[name](*words)
            if name == "rename" and not Path(str(words[0])).name.endswith(".earlier"):
                source = Path(str(words[0]))
                if source.name.startswith("."):  # made just now, in the upper layer
                    return real[name](*words)
            raise OSError(number, os.strerror(number), str(words[0]))

        monkeypatch.setattr(os, name, call)

    return refuse


def test_a_folder_that_cannot_be_forced_to_storage(tmp_path: Path, refuse: Refuse) -> None:
    refuse("fsync", errno.EINVAL)
    save(tmp_path / "c")
    assert read_progress(tmp_path / "c" / "last.safetensors").epochs_done == 1
    with whole_folder(tmp_path / "f") as folder:
        (folder / "a").write_text("a")
    assert (tmp_path / "f" / "a").read_text() == "a"


def test_permissions_that_cannot_be_changed(tmp_path: Path, refuse: Refuse) -> None:
    refuse("chmod", errno.EPERM)
    save(tmp_path / "c")
    assert read_progress(tmp_path / "c" / "best.safetensors").epochs_done == 1
    with umask(0o077):
        source = open_source(DataConfig(image_size=24, synthetic_images=10))
        assert len(prepare(tmp_path / "p", source, processes=1)) == 10


def test_an_earlier_folder_on_another_layer(tmp_path: Path, refuse: Refuse) -> None:
    """As an overlay file system answers for a folder of its lower layer."""
    earlier = tmp_path / "made"
    (earlier / "in").mkdir(parents=True)
    (earlier / "in" / "a").write_text("first")
    (earlier / "link").symlink_to("in")
    refuse("rename", errno.EXDEV)
    with whole_folder(earlier) as folder:
        (folder / "b").write_text("second")
    assert {path.name for path in earlier.rglob("*")} == {"b"}
    with pytest.raises(UserError), whole_folder(earlier) as folder:
        raise UserError(folder.name)
    assert {path.name for path in tmp_path.rglob("*")} == {"made", "b"}
    put_aside(earlier, tmp_path / "aside")
    assert list(tmp_path.iterdir()) == []


def test_a_file_on_another_layer(tmp_path: Path, refuse: Refuse) -> None:
    (tmp_path / "file").write_text("first")
    refuse("replace", errno.EXDEV)
    write_whole(tmp_path / "file", "second")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["second"]


def test_a_real_overlay(tmp_path: Path) -> None:
    for name in ("lower/run/steps", "upper", "work", "merged"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "lower/run/steps/a").write_text("first")
    layers = f"lowerdir={tmp_path}/lower,upperdir={tmp_path}/upper,workdir={tmp_path}/work,redirect_dir=off"
    mount: list[str | Path] = ["mount", "-t", "overlay", "overlay", "-o", layers, tmp_path / "merged"]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"no overlay file system can be mounted here ({done.stderr.strip()})")
    run = tmp_path / "merged" / "run"
    try:
        with pytest.raises(OSError, match="Invalid cross-device link"):
            run.rename(run.with_name("other"))
        with whole_folder(run) as folder:
            (folder / "b").write_text("second")
        assert [path.name for path in run.rglob("*")] == ["b"]
    finally:
        subprocess.run(["umount", tmp_path / "merged"], check=True)


def test_a_file_system_that_knows_no_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*words: object) -> None:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr("fcntl.flock", refused)
    with PointFiles(tmp_path, "a").locked_log() as log:
        assert log is not None


def test_a_folder_that_goes_while_something_is_written_into_it(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    sentence = r"cannot write .*run/.* \(its folder was renamed or deleted while this job ran\)"
    with pytest.raises(GoneError, match=sentence), whole_file(folder / "a"):
        folder.rename(tmp_path / "other")
    with pytest.raises(GoneError, match=sentence):
        save(folder / "checkpoints")


def test_temporary_files_of_killed_processes_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with temporary_folder("test") as folder:
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        left = tmp_path / folder.name.replace(f".{os.getpid()}-", ".4194305-")  # above every process' number
        left.mkdir()
        (left / "file").touch()
    with temporary_folder("test") as folder:
        assert list(tmp_path.iterdir()) == [folder]
    assert list(tmp_path.iterdir()) == []
    with own_temporary_files("test"):  # of whichever library
        assert Path(tempfile.mkdtemp()).parent.parent == tmp_path
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    with pytest.raises(UserError, match="no place for temporary files .*set TMPDIR"), temporary_folder("test"):
        pass
