"""A rank that hangs, or is stopped, ends the job within the stall limit, by name."""

import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from horovod_flowers import checkpoint
from horovod_flowers.runlog import EpochRecord, Header, StepRecord, read_lines
from tests.conftest import TIMEOUT_SECONDS, TINY, Workplace, clean_environment, mpirun

LIMIT_SECONDS = "6"
HOST = os.uname().nodename


class Job:
    """Two ranks that train, their output in one file."""

    def __init__(self, folder: Path, words: list[str], variables: dict[str, str]) -> None:
        self._log = folder / "output"
        with open(self._log, "wb") as output:
            self.process = subprocess.Popen(
                words,
                cwd=folder,
                env=clean_environment() | variables,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._folder = folder
        self._deadline = time.monotonic() + TIMEOUT_SECONDS

    @property
    def output(self) -> str:
        return self._log.read_text()

    def wait_for(self, text: str) -> None:
        while text not in self.output:
            assert self.process.poll() is None, self.output
            assert time.monotonic() < self._deadline, self.output
            time.sleep(0.01)

    def rank(self, number: int) -> psutil.Process:
        for child in psutil.Process(self.process.pid).children(recursive=True):
            if child.environ().get("OMPI_COMM_WORLD_RANK") == str(number):
                return child
        raise AssertionError(f"no rank {number}: {self.output}")

    def end(self, seconds: float) -> int:
        """Its exit status, after `seconds` at the most; no process of it is left then."""
        try:
            status = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            pytest.fail(f"still there after {seconds} s: {self.output}")
        deadline = time.monotonic() + 10
        while self.left():
            assert time.monotonic() < deadline, (self.left(), self.output)
            time.sleep(0.1)
        return status

    def left(self) -> list[psutil.Process]:
        """Processes that work in its folder."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.cwd() == str(self._folder) and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except psutil.Error:
                continue
        return found


@contextmanager
def training(workplace: Workplace, *options: str, **variables: str) -> Iterator[Job]:
    """Start two ranks; whatever is left of them in the end is killed."""
    words = ["python", "-m", "horovod_flowers.train", "--data.prepared-dir", str(workplace.prepared), *TINY, *options]
    job = Job(workplace.folder, [str(word) for word in mpirun(2, *words)], variables)
    try:
        yield job
    finally:
        for process in job.left():
            process.kill()
        job.process.wait()


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
        sentence = f"the job stalls and is ended: rank {stopped} on {HOST} does not answer (stopped, dead or cut off), "
        assert job.output.count(sentence + f"and rank {1 - stopped} on {HOST} has waited for others at ") == 1
    assert_whole(workplace.folder / "runs" / "s")


def test_a_rank_that_hangs_is_told_from_one_that_waits(workplace: Workplace) -> None:
    """In a user's layer: both ranks are in the same step, and one of them could go on."""
    model = ("--global-batch", "16", "--model.name", "tests.parallel.faulty_model:faulty")
    options = (*model, "--epochs", "9", "--name", "h", "--stall-seconds", LIMIT_SECONDS)
    with training(workplace, *options, FAULT="hang", FAULTY_RANK="1") as job:
        assert job.end(120) == 1
        found = re.findall(r"the job stalls and is ended: (.*); to allow longer", job.output)
    assert len(found) == 1, found
    assert re.fullmatch(rf"rank 1 on {HOST} hangs, waiting for nobody, at step \d+ of epoch \d+ for \d+ s", found[0])


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


def assert_whole(run: Path) -> None:
    """Every file of a run that died can be read, but for the line that was being written."""
    for rank, path in enumerate(sorted((run / "steps").glob("rank-*.jsonl"))):
        header, *steps = list(read_lines(path, Header | StepRecord))
        assert header.rank == rank
        assert [record.step for record in steps] == list(range(len(steps)))
    if (run / "epochs.jsonl").exists():
        for number, record in enumerate(read_lines(run / "epochs.jsonl", EpochRecord), 1):
            assert record.epoch == number
    for path in (run / "checkpoints").glob("[!.]*"):
        assert checkpoint.read_progress(path).epochs_done >= 1
