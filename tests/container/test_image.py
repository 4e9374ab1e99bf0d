"""The image of containers/Dockerfile, built and run: two ranks train in it what two ranks train outside.

Not in every run of the tests, since it makes a Debian and an environment of its own (minutes, and 12 GB of disk for the
time): FLOWERS_TEST_CONTAINER=1 ./flowers test -n0 tests/container

With CONTAINER_STATE=FOLDER the image stays, and FLOWERS_TEST_CONTAINER=built takes it as it is.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from horovod_flowers.runlog.records import Environment
from tests.conftest import TINY, Ended, Workplace, run_command

IMAGE = Path(__file__).with_name("image.sh")
MPI = os.environ.get("FLOWERS_TEST_CONTAINER_MPI", "openmpi")
BUILD_SECONDS, RUN_SECONDS = 1500, 300

pytestmark = [
    pytest.mark.timeout(BUILD_SECONDS + 4 * RUN_SECONDS),
    pytest.mark.skipif(
        os.environ.get("FLOWERS_TEST_CONTAINER") not in ("1", "built"),
        reason="builds an image, which takes minutes: FLOWERS_TEST_CONTAINER=1 runs it",
    ),
    pytest.mark.skipif(os.geteuid() != 0, reason="buildah's chroot needs root"),
    pytest.mark.skipif(shutil.which("apt-get") is None, reason="debootstrap is installed with apt-get"),
]


@pytest.fixture(scope="module")
def run_in_image() -> Iterator[Callable[..., Ended]]:
    """run_in_image(FOLDER, WORD, ...): a command in the image, FOLDER being its /work."""
    if os.environ["FLOWERS_TEST_CONTAINER"] == "1":
        built = run_command([IMAGE, "build", MPI], Path.cwd(), BUILD_SECONDS)
        assert built.status == 0, built.output[-4000:]
    yield lambda folder, *words: run_command([IMAGE, "run", MPI, folder, *words], folder, RUN_SECONDS)
    if "CONTAINER_STATE" not in os.environ:  # else it is kept, and the next build takes what has not changed
        run_command([IMAGE, "remove"], Path.cwd(), RUN_SECONDS)


@pytest.fixture
def folder() -> Iterator[Path]:
    """Outside of /tmp, which the container has of its own."""
    with tempfile.TemporaryDirectory(dir=Path.home(), prefix="container-test-") as name:
        yield Path(name)


def losses(folder: Path, run: str) -> list[float]:
    records = (folder / f"runs/{run}/epochs.jsonl").read_text().splitlines()
    return [json.loads(record)["training_loss"] for record in records]


def test_two_ranks_train_in_it_as_outside(
    run_in_image: Callable[..., Ended], folder: Path, workplace: Workplace
) -> None:
    """By what the image runs by itself, with further options."""
    shown = run_command([IMAGE, "command", MPI], folder)
    assert shown.status == 0, shown.output
    words = [*shown.stdout.split(), *TINY, "--precision", "fp32", "--threads", "1"]
    inside = run_in_image(folder, *words, "--name", "inside")
    assert inside.status == 0, inside.output
    environment = msgspec.json.decode((folder / "runs/inside/environment.json").read_bytes(), type=Environment)
    assert environment.world_size == 2
    outside = workplace.train("--precision", "fp32", "--threads", "1", "--name", "outside", ranks=2)
    assert outside.status == 0, outside.output
    found, expected = losses(folder, "inside"), losses(workplace.folder, "outside")
    assert len(found) == 1
    assert found == pytest.approx(expected[:1], rel=1e-5)


def test_the_preflight_finds_the_containers_mpi(run_in_image: Callable[..., Ended], folder: Path) -> None:
    words = ["python", "-m", "horovod_flowers.launcher", "--ranks", "2", "--oversubscribe", "--"]
    ended = run_in_image(folder, *words, "python", "-m", "horovod_flowers.preflight", "--no-images", "--oversubscribe")
    assert "2 rank(s) on 1 node(s)" in ended.stdout, ended.output
    assert {"openmpi": "Open MPI v4", "mpich": "MPICH 5", "openmpi5": "Open MPI v5", "intel": "Intel MPI"}[
        MPI
    ] in ended.stdout


def test_what_stays_out_of_it(run_in_image: Callable[..., Ended], folder: Path) -> None:
    listed = run_in_image(folder, "sh", "-c", "ls -A /opt/horovod_flowers; which g++ pytest; true")
    assert listed.status == 0, listed.output
    assert not {".git", "tests", "runs", "docs", ".tools"} & set(listed.stdout.split())
    assert "bin/g++" not in listed.stdout
    assert "bin/pytest" not in listed.stdout
