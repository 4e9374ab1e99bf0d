"""The suite on a newer TensorFlow: what `./flowers --tensorflow 2.21 run true` has built, in .ci/run.

Jobs of both environments, compared; .ci/run also has some files of the other tests run on it.
"""

import json
from pathlib import Path

import pytest

from tests.conftest import PROJECT, run_command
from tests.mpi import cells
from tests.mpi.cells import Place
from tests.mpi.environments import MpiEnvironment, built_environments

NEWER = "tensorflow-2.21"
OWN_SCRIPT = Path(__file__).with_name("own_script.py")


@pytest.fixture(scope="module")
def environments() -> dict[str, MpiEnvironment]:
    """The default's, and that of the newer TensorFlow."""
    found = built_environments()
    for name, how in ((NEWER, "./flowers --tensorflow 2.21 run true"), ("openmpi", "./flowers run true")):
        if name not in found:
            pytest.skip(f"not built: {how}")
    return found


@pytest.fixture
def places(environments: dict[str, MpiEnvironment], tmp_path: Path) -> tuple[Place, Place]:
    """To start jobs in: of the default, and of the newer TensorFlow. They share the prepared images."""
    default, newer = (Place(environments[name], "mpirun", cells.fresh(tmp_path / name)) for name in ("openmpi", NEWER))
    return default, newer


def test_a_study_learns_what_the_default_learns(places: tuple[Place, Place]) -> None:
    """One and two ranks, with the preflight and the report, all of which end well; then two ranks of the default."""
    default, newer = places
    studied, trained = cells.study(newer), cells.train(default)
    assert (studied.refusal, trained.refusal) == (None, None)
    assert studied.losses == pytest.approx(trained.losses, rel=1e-6)
    (run,) = (newer.folder / "runs").glob("s-2ranks-*")
    versions = [place.recorded(name).environment.versions for place, name in ((default, "t"), (newer, run.name))]
    of_tensorflow = [next(found[name] for name in found if name.startswith("tensorflow")) for found in versions]
    assert of_tensorflow == ["2.18.1", "2.21.0"]


def test_a_run_ends_early(places: tuple[Place, Place]) -> None:
    assert cells.ending_early(places[1]).refusal is None


def test_a_persons_own_script_learns_what_it_learns_on_the_default(places: tuple[Place, Place]) -> None:
    losses = []
    for place in places:
        ended = place.run(["mpirun", "-np", "2", "--oversubscribe", "--bind-to", "none", "python", str(OWN_SCRIPT)])
        assert ended.status == 0, ended.output
        losses.append(json.loads(ended.output.splitlines()[-1]))
    assert losses[1] == pytest.approx(losses[0], rel=1e-6)


def test_flowers_finds_what_it_has_built(tmp_path: Path) -> None:
    """From any folder, with the suite in it."""
    derived, environment = PROJECT / ".tools" / NEWER / "pyproject.toml", PROJECT / f".venv-{NEWER}"
    if not derived.exists() or (environment / "built-from.toml").read_bytes() != derived.read_bytes():
        pytest.skip("not built, or out of date: ./flowers --tensorflow 2.21 run true")
    program = (
        "from importlib.metadata import version; import os, horovod_flowers; "
        "print(version('tensorflow-cpu'), version('horovod-flowers'), os.path.realpath(horovod_flowers.__path__[0]))"
    )
    words = ("--tensorflow", "2.21", "run", "env", "-u", "PYTHONPATH", "python", "-c", program)
    ended = run_command([PROJECT / "flowers", *words], tmp_path)
    assert (ended.status, ended.stderr) == (0, ""), ended.output
    assert ended.stdout.split(maxsplit=2) == ["2.21.0", "0.1.0", f"{PROJECT / 'horovod_flowers'}\n"]
