"""A rank that hangs, or is stopped, ends the job within the stall limit, by name."""

import os
import re
import signal
import time

import pytest

from tests.conftest import TIMEOUT_SECONDS, Workplace
from tests.parallel.running_job import HOST, assert_whole, training

LIMIT_SECONDS = "6"


@pytest.mark.parametrize("stopped", [0, 1])
def test_a_stopped_rank_is_named_and_ended(workplace: Workplace, stopped: int) -> None:
    """Rank 0, too, through which Horovod would tell of it. SIGSTOP, as a node that freezes."""
    slow = ("--global-batch", "16", "--model.name", "tests.parallel.slow_model:slow")
    with training(workplace, *slow, "--epochs", "1000", "--name", "s", "--stall-seconds", LIMIT_SECONDS) as job:
        job.wait_for("epoch 2/1000: ")
        time.sleep(0.3)  # into its steps: between epochs there is patience, as rank 0 may be writing
        job.rank(stopped).send_signal(signal.SIGSTOP)
        status = job.end(120)
        assert status == 1, job.output
        who = f"rank {stopped} on {HOST} does not respond (stopped, dead or unreachable)"
        sentence = f"the job has stalled and is ended: {who}, "
        assert job.output.count(sentence + f"and rank {1 - stopped} on {HOST} has waited for others at ") == 1
    assert_whole(workplace.folder / "runs" / "s")


def test_a_rank_that_hangs_is_told_from_one_that_waits(workplace: Workplace) -> None:
    """In a user's layer: both ranks are in the same step, and one of them could go on."""
    model = ("--global-batch", "16", "--model.name", "tests.parallel.faulty_model:faulty")
    options = (*model, "--epochs", "9", "--name", "h", "--stall-seconds", LIMIT_SECONDS)
    with training(workplace, *options, FAULT="hang", FAULTY_RANK="1") as job:
        assert job.end(120) == 1
        found = re.findall(r"the job has stalled and is ended: (.*); to allow longer", job.output)
    assert len(found) == 1, found
    assert re.fullmatch(
        rf"rank 1 on {HOST} hangs, not waiting for another rank, at step \d+ of epoch \d+ for \d+ s", found[0]
    )


def test_ranks_that_drift_apart_do_not_stall(workplace: Workplace) -> None:
    """One trains alone for several limits while the other waits for it, and asks; both go on, and leave no question."""
    model = ("--global-batch", "8", "--model.name", "tests.parallel.test_stall:slow_on_rank_1", "--strategy", "none")
    with training(workplace, *model, "--epochs", "1", "--name", "d", "--stall-seconds", "3") as job:
        question = workplace.folder / "runs" / ".stall-d"
        asked = False
        while job.process.poll() is None:
            asked = asked or (question / "asks-00000").exists()
            time.sleep(0.05)
        assert job.end(TIMEOUT_SECONDS) == 0, job.output
        assert asked
        assert not question.exists()


def slow_on_rank_1(image_size: int, classes: int) -> object:
    """Rank 0 is through with its steps at once; rank 1 takes half a second a step."""
    from tests.parallel.slow_model import slow

    os.environ["SLOW_WHILE"] = "/" if os.environ["OMPI_COMM_WORLD_RANK"] == "1" else "/no/such/file"
    return slow(image_size, classes)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("memory", f"rank 1 on {HOST} failed: ArrayMemoryError: Unable to allocate 4.00 GiB for an array"),
        ("leave", "mpirun has exited due to process rank 1 with PID"),
    ],
)
def test_a_rank_without_memory_and_one_that_leaves(workplace: Workplace, fault: str, said: str) -> None:
    model = ("--global-batch", "16", "--model.name", "tests.parallel.faulty_model:faulty")
    with training(workplace, *model, "--epochs", "9", "--name", "m", FAULT=fault, FAULTY_RANK="1") as job:
        assert job.end(120) == 1
        assert said in job.output
        if fault == "memory":
            assert "memory ran out: try a smaller batch" in job.output
    assert_whole(workplace.folder / "runs" / "m")
