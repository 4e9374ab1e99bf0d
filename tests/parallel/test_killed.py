"""kill -9 to a random rank at a random moment of a run: the others end at once, and every file can be read."""

import random
import signal
import time

import psutil
import pytest

from horovod_flowers.runlog.reading.run import read_run
from tests.conftest import Workplace
from tests.parallel.running_job import HOST, assert_whole, training

RANDOM = random.Random(20)
STARTING = [(seconds, 0) for seconds in (0.0, *(RANDOM.uniform(0.5, 4) for _ in range(5)))]
"""Seconds after the start: before MPI is up, in it, and while TensorFlow and Horovod start."""
TRAINING = [(RANDOM.uniform(0, 0.15), RANDOM.randint(1, 12)) for _ in range(14)]
"""Seconds after that epoch: in steps, validation, the checkpoint, or at the end of the run."""


# Four steps an epoch: what happens around them counts.
IMAGES = ("--data.synthetic-images", "40")


@pytest.fixture(scope="module", autouse=True)
def prepared(shared_workplace: Workplace) -> None:
    """The images, so that no rank draws them when it is killed."""
    data = ("--data.image-size", "32", *IMAGES, "--data.prepared-dir", shared_workplace.prepared)
    assert shared_workplace.run("python", "-m", "horovod_flowers.prepare", *data).status == 0


@pytest.mark.parametrize(("seconds", "epoch"), STARTING + TRAINING)
def test_a_rank_killed_at_a_random_moment(workplace: Workplace, seconds: float, epoch: int) -> None:
    rank, run = round(seconds * 1000) % 2, workplace.folder / "runs" / "k"
    options = (*IMAGES, "--global-batch", "8", "--epochs", "12", "--name", "k", "--resume-or-start")
    with training(workplace, *options) as job:
        killed = False
        if epoch:
            job.wait_for(f"epoch {epoch}/12: ")
        time.sleep(seconds)
        while not killed and job.process.poll() is None:  # until mpirun has started it
            for process in started_ranks(job.process.pid, rank):
                process.kill()
                killed = True
        status = job.end(30)
        said = job.output
    if killed and not (run / "result.json").exists():
        assert status == 128 + signal.SIGKILL, said
        # Of one that it has just forked and has not heard of yet, mpirun says no more than that a process has ended.
        named = f"process rank {rank} with PID 0 on node {HOST} exited on signal 9 (Killed)" in said
        assert named or (seconds == 0 and "1 process returned" in said), said
    if run.exists():
        assert_whole(run)
    if (seconds, epoch) in (STARTING[-1], TRAINING[0]):
        again = workplace.train(*options, ranks=2)
        assert again.status == 0, again.output
        assert len(read_run(run).epochs) == 12


def started_ranks(launcher: int, rank: int) -> list[psutil.Process]:
    """The process of a rank, as soon as it is there."""
    found = []
    try:
        for child in psutil.Process(launcher).children():
            if child.environ().get("OMPI_COMM_WORLD_RANK") == str(rank):
                found.append(child)
    except psutil.Error:
        return []
    return found


def test_a_run_that_died_as_its_folder_was_made_is_started(workplace: Workplace) -> None:
    """Before anything was in it; a folder that holds anything else is nobody's to replace."""
    run = workplace.folder / "runs" / "b"
    (run / "steps").mkdir(parents=True)
    (run / ".config.yaml.123-abc.tmp").touch()
    (run / "thesis.txt").touch()
    refused = workplace.train("--name", "b", "--resume-or-start")
    assert refused.status == 2
    assert "is not a run (no config.yaml), so it is not overwritten" in refused.stderr
    (run / "thesis.txt").unlink()
    started = workplace.train("--name", "b", "--resume-or-start")
    assert started.status == 0, started.output
    assert (run / "result.json").exists()
    assert list(run.glob(".*")) == []
