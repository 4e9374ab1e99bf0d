"""Room for temporary files is looked at before an MPI starts, whose own words name neither the folder nor the lack."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from horovod_flowers.runtime import temporary_space
from horovod_flowers.runtime.errors import UserError
from horovod_flowers.runtime.temporary_space import refuse_full_temporary_folder, scarce_space, temporary_folder_of_mpi
from tests.conftest import Ended, mpirun, run_command


@pytest.fixture
def full(tmp_path: Path) -> Iterator[Path]:
    """A file system in memory of a megabyte."""
    folder = tmp_path / "full"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"no file system can be mounted here ({done.stderr.strip()})")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def sentence_of(ended: Ended, folder: Path) -> None:
    assert ended.status == 2, ended.output
    (sentence,) = (line for line in ended.stderr.splitlines() if ": error: " in line)
    assert f"error: {folder} on " in sentence
    assert "has no room for the 8 MiB that MPI starts with (No space left on device, 1.0 MiB free): free" in sentence
    assert "set TMPDIR" in sentence


def test_a_launcher_and_a_rank_name_the_folder(full: Path, tmp_path: Path) -> None:
    launcher = ["python", "-m", "horovod_flowers.launcher", "--ranks", "1", "--", "true"]
    ended = run_command(launcher, tmp_path, variables={"TMPDIR": str(full)})
    sentence_of(ended, full)
    assert "PMIX" not in ended.output
    assert list(full.iterdir()) == []
    # Started by mpirun itself, which complains in its own words before it starts the rank.
    words = mpirun(1, "python", "-m", "horovod_flowers.train", "--data.image-size", "32", "--global-batch", "16")
    sentence_of(run_command(words, tmp_path, variables={"OMPI_MCA_orte_tmpdir_base": str(full)}), full)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none on .* cannot be written \(No such file or directory\).*: set TMPDIR"):
        refuse_full_temporary_folder(tmp_path / "none")
    refuse_full_temporary_folder(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_preflight_sees_what_is_scarce(full: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TMPDIR", str(full))
    monkeypatch.setattr(temporary_space, "SHARED_MEMORY", tmp_path)
    assert scarce_space(2) == (f"{full} has 1.0 MiB free, and 64 are needed",)
    monkeypatch.setattr(temporary_space, "SHARED_MEMORY", full)
    assert f"{full} has 1.0 MiB free, and 8 are needed" in scarce_space(2)


def test_the_folder_is_the_one_that_open_mpi_takes() -> None:
    assert temporary_folder_of_mpi({}) == Path("/tmp")
    assert temporary_folder_of_mpi({"TMP": "/a", "TMPDIR": ""}) == Path("/a")
    assert temporary_folder_of_mpi({"TMPDIR": "/b", "OMPI_MCA_orte_tmpdir_base": "/c"}) == Path("/c")
