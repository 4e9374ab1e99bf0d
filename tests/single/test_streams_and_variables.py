"""Standard output that is closed or full, and variables that somebody has set: one sentence, or none is needed."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from horovod_flowers.launch.job_environment import JobEnvironment
from horovod_flowers.launch.launchers import Mpirun, choose_launcher, oversubscription_asked_for
from horovod_flowers.launch.slots import Slots
from horovod_flowers.ranks.tensorflow_import import check_python
from horovod_flowers.runtime.errors import UserError
from tests.conftest import Ended, Workplace, clean_environment, run_command


def in_shell(words: str, folder: Path, **variables: str) -> Ended:
    """A command with redirections of its own."""
    ended = subprocess.run(
        ["sh", "-c", words],
        cwd=folder,
        env=clean_environment() | variables,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    return Ended(ended.returncode, ended.stdout, ended.stderr)


PREPARE = f"'{sys.executable}' -m horovod_flowers.prepare --data.synthetic-images 10 --data.image-size 24"


def test_output_that_is_closed_is_no_hindrance(tmp_path: Path) -> None:
    """Nor does a file that is opened get its number, into which a library would print."""
    assert in_shell(f"{PREPARE} <&- >&- 2>&-", tmp_path).status == 0
    again = in_shell(f"{PREPARE} >&-", tmp_path)
    assert (again.status, again.stderr) == (0, "")
    mistake = in_shell(f"{PREPARE} --processes x >&-", tmp_path)
    assert (mistake.status, mistake.stderr.count("\n")) == (2, 1)


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_output_that_is_full_is_named(tmp_path: Path, unbuffered: str) -> None:
    for _ in range(2):  # while it works, and where nothing is left to do
        ended = in_shell(f"{PREPARE} >/dev/full", tmp_path, PYTHONUNBUFFERED=unbuffered)
        assert ended.status == 1
        assert ended.stderr == (
            "horovod_flowers.prepare: error: cannot write the standard output to /dev/full (No space left on device): "
            "free some space, or choose another folder\n"
        )
    assert in_shell(f"{PREPARE} --processes x 2>/dev/full", tmp_path).status == 2


def test_variables_that_an_mpirun_left_behind(workplace: Workplace) -> None:
    """Exported from one of its ranks, say: MPI would look for an mpirun that is not there."""
    ended = workplace.train("--name", "left", variables={"OMPI_COMM_WORLD_SIZE": "2"})
    assert ended.status == 2, ended.output
    assert "OMPI_COMM_WORLD_SIZE is 2, as mpirun sets it, but no mpirun has started this process" in ended.stderr
    assert "ORTE" not in ended.output
    assert list((workplace.folder / "runs").iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("command", ["prepare", "train", "study", "report", "predict", "export", "launcher", "bench"])
def test_commands_explain_themselves_without_docstrings(tmp_path: Path, command: str) -> None:
    ended = run_command(["python", "-OO", "-m", f"horovod_flowers.{command}", "--help"], tmp_path)
    assert ended.status == 0, ended.stderr
    assert f"usage: python -m horovod_flowers.{command}" in ended.stdout


def test_a_python_with_which_tensorflow_cannot_be_imported_is_refused(tmp_path: Path) -> None:
    ended = run_command(["python", "-OO", "-m", "horovod_flowers.train"], tmp_path)
    assert ended.status == 2
    assert "PYTHONOPTIMIZE=2 (python -OO) leaves docstrings out" in ended.stderr
    assert ended.stderr.count("\n") == 1
    assert list(tmp_path.glob("runs/*")) == []
    check_python(1)


@pytest.mark.parametrize(
    ("variables", "sentence"),
    [
        ({"SIZE": "0"}, "speak of rank 0 of 0"),
        ({"SIZE": "2", "RANK": "2"}, "speak of rank 2 of 2"),
        ({"SIZE": "2", "RANK": "-1"}, "speak of rank -1 of 2"),
        ({"SIZE": "2", "LOCAL_SIZE": "0"}, "on its node rank 0 of 0, which cannot be"),
        ({"SIZE": "two"}, "OMPI_COMM_WORLD_SIZE is 'two', and a launcher sets it to a whole number"),
        ({"SIZE": "2²"}, "is '2²', and a launcher sets it to a whole number"),
    ],
)
def test_ranks_that_cannot_be(variables: dict[str, str], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        JobEnvironment.from_environment({f"OMPI_COMM_WORLD_{name}": value for name, value in variables.items()})


def test_no_ranks_are_refused_by_a_command(refused_here: Callable[..., Ended]) -> None:
    ended = refused_here("train", variables={"OMPI_COMM_WORLD_SIZE": "0"})
    assert (ended.status, ended.stderr.count("\n")) == (2, 1)


@pytest.mark.parametrize("name", ["HOROVOD_CONTROLLER", "HOROVOD_CPU_OPERATIONS"])
def test_gloo_under_mpirun_is_refused(refused_here: Callable[..., Ended], name: str) -> None:
    """Horovod would end the ranks with a crash."""
    for value in ("gloo", "GLOO"):
        ended = refused_here("train", ranks=2, variables={name: value})
        assert ended.status == 2
        assert f"{name} is '{value}', but these ranks talk through MPI: unset it" in ended.stderr
    ranks = {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1"}
    assert JobEnvironment.from_environment(ranks | {name: "MPI"}).size == 2
    gloo = {"HOROVOD_GLOO_RENDEZVOUS_ADDR": "127.0.0.1", "HOROVOD_ELASTIC": "1", name: "gloo"}
    assert JobEnvironment.from_environment(gloo, elastic=True).launcher == "horovodrun-elastic"


def test_switches_say_yes_or_no() -> None:
    for value, meant in (("1", True), ("yes", True), ("True", True), ("no", False), ("0", False), ("off", False)):
        assert oversubscription_asked_for({"FLOWERS_OVERSUBSCRIBE": value}) is meant, value
    assert oversubscription_asked_for({}) is oversubscription_asked_for({"FLOWERS_OVERSUBSCRIBE": ""}) is False
    with pytest.raises(UserError, match=r"FLOWERS_OVERSUBSCRIBE is 'maybe': give 1 \(yes, true, on\) or 0"):
        oversubscription_asked_for({"FLOWERS_OVERSUBSCRIBE": "maybe"})
    with pytest.raises(UserError, match=r"FLOWERS_LAUNCHER_OPTIONS is .* \(No closing quotation\)"):
        choose_launcher("mpirun", "n:1", False, {"FLOWERS_LAUNCHER_OPTIONS": "--mca 'a"})
    with pytest.raises(UserError, match=r"speak of '2\(x' tasks a node"):
        JobEnvironment.from_environment({"PMIX_RANK": "0", "SLURM_NTASKS": "2", "SLURM_TASKS_PER_NODE": "2(x"})


def test_a_slip_of_the_keyboard_takes_no_time(refused_here: Callable[..., Ended]) -> None:
    ended = refused_here("launcher", "--ranks", "999999999", "--oversubscribe", "--dry-run", "--", "x")
    assert (ended.status, "ranks is 999999999: give a positive whole number up to 100000" in ended.stderr) == (2, True)
    assert Mpirun(Slots((("n", 1),), "hosts"), True).filled(100_000) == [("n", 100_000)]
    ended = refused_here("train", "--threads", "99999999999")
    assert (ended.status, "threads is 99999999999: give 0 or a positive whole number up to 65536" in ended.stderr) == (
        2,
        True,
    )
