"""The wrapper behind the README's two commands, where it must refuse before it builds anything."""

import os
import shutil
from pathlib import Path

import pytest

from tests.conftest import PROJECT, run_command


@pytest.fixture
def fresh_copy(tmp_path: Path) -> Path:
    """The project as a new user has it, nothing built, in a folder with spaces in its name."""
    folder = tmp_path / "my flowers"
    folder.mkdir()
    for name in ("flowers", "pyproject.toml"):
        shutil.copy2(PROJECT / name, folder / name)
    return folder


def programs_without_compilers(folder: Path) -> Path:
    """A folder of links to this machine's programs, all but compilers and MPIs."""
    found = folder / "programs"
    found.mkdir()
    for directory in ("/usr/bin", "/bin"):
        for program in os.scandir(directory):
            if not any(word in program.name for word in ("c++", "g++", "clang", "gcc", "mpi")):
                (found / program.name).unlink(missing_ok=True)
                (found / program.name).symlink_to(program.path)
    return found


def test_a_missing_compiler_gets_one_sentence_and_nothing_is_built(fresh_copy: Path, tmp_path: Path) -> None:
    path = str(programs_without_compilers(tmp_path))
    for command in ("study", "test"):
        ended = run_command([fresh_copy / "flowers", command], tmp_path, variables={"PATH": path, "CXX": ""})
        assert ended.status == 2
        assert ended.output == (
            "flowers: a C++ compiler is needed to build Horovod: apt-get install g++, dnf install gcc-c++, or module "
            "load gcc.\n"
        )
    assert not (fresh_copy / ".venv").exists()


def test_unknown_commands_are_refused_and_help_is_given(fresh_copy: Path, tmp_path: Path) -> None:
    ended = run_command([fresh_copy / "flowers", "studdy"], tmp_path)
    assert (ended.status, ended.output.count("\n")) == (2, 1)
    assert "no command 'studdy', only study, test and run" in ended.stderr
    helped = run_command([fresh_copy / "flowers", "--help"], tmp_path)
    assert helped.status == 0
    commands = ("./flowers [CHOICE...] study", "./flowers [CHOICE...] test", "./flowers test --quick")
    for command in (*commands, "./flowers [CHOICE...] run COMMAND..."):
        assert f"{command} " in helped.stdout, command


@pytest.mark.parametrize("words", [["--tensorflow", "2.19", "study"], ["--mpi", "mpich", "--tensorflow=2.19", "study"]])
def test_an_unknown_tensorflow_is_refused(fresh_copy: Path, tmp_path: Path, words: list[str]) -> None:
    ended = run_command([fresh_copy / "flowers", *words], tmp_path)
    assert (ended.status, ended.output) == (
        2,
        "flowers: no TensorFlow '2.19', only 2.18, 2.20 and 2.21. See ./flowers --help\n",
    )


@pytest.mark.parametrize("words", [["--mpi", "mpihc", "study"], ["--mpi=mpihc", "study"]])
def test_an_unknown_mpi_is_refused(fresh_copy: Path, tmp_path: Path, words: list[str]) -> None:
    ended = run_command([fresh_copy / "flowers", *words], tmp_path)
    assert (ended.status, ended.output) == (
        2,
        "flowers: no MPI 'mpihc', only openmpi, openmpi5, mpich, intel and system. See ./flowers --help\n",
    )


def test_the_system_mpi_has_to_be_there(fresh_copy: Path, tmp_path: Path) -> None:
    """Before the first build, and after it, when its module is loaded no more or cannot compile."""
    words = [str(fresh_copy / "flowers"), "--mpi", "system", "run", "true"]
    path = {"PATH": str(programs_without_compilers(tmp_path))}
    ended = run_command(words, tmp_path, variables=path | {"MPICC": "", "MPICXX": ""})
    assert (ended.status, ended.output.count("\n")) == (2, 1)
    assert "needs an MPI's mpicc and mpicxx on the PATH: load its module first" in ended.output

    (fresh_copy / ".venv-system").mkdir()
    (fresh_copy / ".venv-system" / "built-against").write_text("MPICH 4.2.3 (/opt/mpich/bin/mpicc, 17)")
    ended = run_command(words, tmp_path, variables=path | {"MPICC": "", "MPICXX": ""})
    assert (ended.status, ended.output) == (
        2,
        "flowers: no mpicc on the PATH: load the module of MPICH 4.2.3 (/opt/mpich/bin/mpicc, 17) again.\n",
    )

    ended = run_command(words, tmp_path, variables={"MPICC": "false", "MPICXX": "false"})
    assert (ended.status, ended.output.count("\n")) == (2, 1)
    assert "cannot compile for MPI (no mpi.h, or no compiler)" in ended.output
