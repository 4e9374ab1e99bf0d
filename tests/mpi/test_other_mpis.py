"""The suite on an MPI that is not the default: what `./flowers --mpi NAME run true` has built, in .ci/run MPICH.

`python -m tests.mpi.matrix` tries all of them, under every launcher.
"""

from pathlib import Path

import pytest

from tests.conftest import PROJECT, run_command
from tests.mpi import cells
from tests.mpi.cells import Place
from tests.mpi.environments import MpiEnvironment, built_environments


@pytest.fixture(scope="module")
def environments() -> dict[str, MpiEnvironment]:
    """All that are built, MPICH's among them."""
    found = built_environments()
    if "mpich" not in found:
        pytest.skip("MPICH's environment is not built: ./flowers --mpi mpich run true")
    if "openmpi" not in found:
        pytest.skip("these tests compare with the environment of ./flowers, which is not built here")
    return found


@pytest.fixture
def mpich(environments: dict[str, MpiEnvironment], tmp_path: Path) -> Place:
    return Place(environments["mpich"], "mpirun", cells.fresh(tmp_path / "a job"))


def test_a_study_on_mpich_learns_what_open_mpi_learns(
    environments: dict[str, MpiEnvironment], mpich: Place, tmp_path: Path
) -> None:
    """One and two ranks, with the preflight and the report; then two ranks of Open MPI."""
    studied = cells.study(mpich)
    trained = cells.train(Place(environments["openmpi"], "mpirun", cells.fresh(tmp_path / "open mpi")))
    assert (studied.refusal, trained.refusal) == (None, None)
    assert studied.losses == pytest.approx(trained.losses, rel=1e-6)
    (run,) = (mpich.folder / "runs").glob("s-2ranks-*")
    assert str(mpich.recorded(run.name).environment.mpi_library).startswith("MPICH")


def test_a_run_on_mpich_ends_early(mpich: Place) -> None:
    assert cells.ending_early(mpich).refusal is None


def test_a_killed_rank_ends_the_job_on_mpich(mpich: Place) -> None:
    assert cells.killed_rank(mpich).refusal is None


@pytest.mark.parametrize(("library", "launcher"), [("mpich", "openmpi"), ("openmpi", "mpich")])
def test_ranks_started_by_another_mpi_are_refused(
    environments: dict[str, MpiEnvironment], tmp_path: Path, library: str, launcher: str
) -> None:
    place = Place(environments[library], "mpirun", cells.fresh(tmp_path / "a job"))
    refusal = cells.wrong_launcher(place, environments[launcher]).refusal
    assert refusal is not None
    assert "MPICH" in refusal
    assert "Open MPI" in refusal


def test_flowers_finds_what_it_has_built(tmp_path: Path) -> None:
    """Beside the default's environment, which stays as it is; and a uv run in there changes nothing."""
    built_from = PROJECT / ".venv-mpich" / "built-from.toml"
    if not built_from.exists() or built_from.read_bytes() != (PROJECT / "pyproject.toml").read_bytes():
        pytest.skip("not built, or out of date: ./flowers --mpi mpich run true")
    program = (
        "import os; from mpi4py import MPI; print(MPI.Get_library_version().split()[:2], os.environ['UV_NO_SYNC'])"
    )
    ended = run_command([PROJECT / "flowers", "--mpi", "mpich", "run", "python", "-c", program], tmp_path)
    assert ended.status == 0, ended.output
    assert ended.stdout.startswith("['MPICH', 'Version:'] 1")
    assert ended.stderr == ""
    (library,) = (PROJECT / ".venv-mpich").glob("lib/python3*/site-packages/horovod/tensorflow/mpi_lib*.so")
    assert b"\0libmpi.so.12\0" in library.read_bytes()
