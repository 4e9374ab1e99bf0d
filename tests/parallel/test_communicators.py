"""Both communicators of several ranks give each rank what it has to get."""

from pathlib import Path

import pytest

from tests.conftest import Workplace, mpirun, run_command

PROGRAM = ("python", "-m", "tests.parallel.communicator_calls")


@pytest.mark.parametrize("ranks", [2, 3])
def test_over_mpi(workplace: Workplace, ranks: int) -> None:
    output = workplace.folder / "output"
    ended = run_command(mpirun(ranks, *PROGRAM, "mpi", output), workplace.folder)
    assert ended.status == 0, ended.output
    assert output.read_text().startswith(f"{ranks} ranks, Open MPI v")


def test_over_gloo(workplace: Workplace) -> None:
    output = workplace.folder / "output"
    words: list[str | Path] = ["horovodrun", "--gloo", "-np", "2", "--network-interfaces", "lo"]
    words += [*PROGRAM, "gloo", output]
    ended = run_command(words, workplace.folder)
    assert ended.status == 0, ended.output
    assert output.read_text() == "2 ranks, None"
