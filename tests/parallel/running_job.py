"""A job that a test does something to while it runs, and what has to be left of it."""

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from horovod_flowers.checkpoint.format import read_progress
from horovod_flowers.runlog.json_lines import read_lines
from horovod_flowers.runlog.records import EpochRecord, Header, StepRecord
from tests.conftest import TIMEOUT_SECONDS, TINY, Workplace, mpirun, start_command

HOST = os.uname().nodename


class Job:
    """Two ranks that train, their output in one file."""

    def __init__(self, folder: Path, words: list[str], variables: dict[str, str]) -> None:
        self._log = folder / "output"
        with open(self._log, "wb") as output:
            self.process = start_command(words, folder, output, variables)
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
        assert read_progress(path).epochs_done >= 1
