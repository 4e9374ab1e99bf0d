"""Real horovodrun jobs whose ranks are killed and whose hosts come: they go on, and train what a quiet run trains."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psutil
import pytest
from safetensors.numpy import load_file

from horovod_flowers.checkpoint.format import read_progress
from horovod_flowers.runlog.json_lines import read_json, read_lines
from horovod_flowers.runlog.reading.run import read_run
from horovod_flowers.runlog.records import Change, EpochRecord, Header, Result, StepRecord
from horovod_flowers.runlog.run_folder import RunFolder
from horovod_flowers.runtime.errors import UserError
from tests.conftest import TIMEOUT_SECONDS, TINY, Workplace, clean_environment

# 96 images: six steps of 15, which two ranks do not divide, and one of 6.
EPOCHS, STEPS = 6, 7
COMMIT_STEPS = 4
OPTIONS = (
    *("--global-batch", "15", "--epochs", str(EPOCHS), "--threads", "1"),
    *("--model.name", "tests.parallel.slow_model:slow_without_dropout"),
)
ELASTIC = ("--elastic", "--commit-steps", str(COMMIT_STEPS))


class Job:
    """A horovodrun job on two names of this machine."""

    def __init__(self, workplace: Workplace, name: str, *options: str, launch: Sequence[str] = ()) -> None:
        """Start it. `launch`: options of horovodrun."""
        self.folder = RunFolder(workplace.folder / "runs" / name)
        self.hosts, self.slow_while = workplace.folder / "hosts", workplace.folder / "slow"
        self.slow_while.touch()
        self.set_hosts("localhost:1\n127.0.0.1:1\n")
        script = workplace.folder / "discover.sh"
        script.write_text(f"#!/bin/sh\ncat {self.hosts}\n")
        script.chmod(0o755)
        words = ["horovodrun", "-np", "2", "--min-np", "1", "--max-np", "2", "--host-discovery-script", str(script)]
        words += ["--network-interfaces", "lo", *launch, "python", "-m", "horovod_flowers.train"]
        words += ["--data.prepared-dir", str(workplace.prepared), *TINY, *OPTIONS, *ELASTIC, "--name", name, *options]
        self._log = workplace.folder / "output"
        with open(self._log, "wb") as output:
            self.process = subprocess.Popen(
                words,
                cwd=workplace.folder,
                env=clean_environment() | {"SLOW_WHILE": str(self.slow_while)},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def set_hosts(self, lines: str) -> None:
        """What the discovery script says from now on."""
        new = self.hosts.with_name("hosts.new")
        new.write_text(lines)
        new.replace(self.hosts)

    @property
    def output(self) -> str:
        return self._log.read_text(errors="replace")

    @property
    def changes(self) -> list[Change]:
        return list(read_lines(self.folder.changes, Change)) if self.folder.changes.exists() else []

    def steps(self, rank: int) -> list[Header | StepRecord]:
        """The records of a step file, headers between them."""
        file = self.folder.steps(rank)
        return list(read_lines(file, Header | StepRecord)) if file.exists() else []

    def rank(self, number: int) -> psutil.Process:
        """The process that was started as this rank."""
        for process in psutil.Process(self.process.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if process.name().startswith("python") and process.environ().get("HOROVOD_RANK") == str(number):
                    return process
        raise AssertionError(self.output)

    def until(self, happened: Callable[[], bool]) -> None:
        """Wait for it."""
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while not happened():
            assert self.process.poll() is None, self.output
            assert time.monotonic() < deadline, self.output
            time.sleep(0.05)

    def end(self) -> int:
        """Wait for its end: its status."""
        self.slow_while.unlink(missing_ok=True)
        try:
            return self.process.wait(timeout=TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            pytest.fail(self.output)


@contextlib.contextmanager
def started(workplace: Workplace, name: str, *options: str, launch: Sequence[str] = ()) -> Iterator[Job]:
    """A job of which nothing is left afterwards: horovodrun gives each rank a session of its own."""
    job = Job(workplace, name, *options, launch=launch)
    try:
        yield job
    finally:
        if job.process.poll() is None:
            left = psutil.Process(job.process.pid).children(recursive=True)
            os.killpg(job.process.pid, signal.SIGKILL)
            for process in left:
                with contextlib.suppress(psutil.Error):
                    process.kill()
            job.process.wait()


@pytest.fixture(scope="module")
def quiet(shared_workplace: Workplace) -> Path:
    """The run of one rank that nothing disturbs; it draws the images, too."""
    ended = shared_workplace.train(*OPTIONS, "--name", "quiet", variables={"SLOW_WHILE": "/nonexistent"})
    assert ended.status == 0, ended.output
    return shared_workplace.folder / "runs" / "quiet"


@pytest.fixture(scope="module")
def disturbed(shared_workplace: Workplace, quiet: Path) -> tuple[Job, str]:
    """An elastic run whose rank 0 is killed, and whose other host then gets a second slot."""
    with started(shared_workplace, "disturbed") as job:
        job.until(lambda: len(job.steps(0)) > COMMIT_STEPS + 2)  # a header, a commit, and steps that are lost
        job.rank(0).send_signal(signal.SIGKILL)
        job.until(lambda: len(job.changes) == 1)
        host = job.changes[0].slots[0].partition(":")[0]
        job.set_hosts(f"{host}:2\n")
        job.until(lambda: len(job.changes) == 2)
        assert job.end() == 0, job.output
    return job, host


def assert_same_weights(run: Path, quiet: Path) -> None:
    expected = load_file(quiet / "checkpoints" / "last.safetensors")
    found = load_file(run / "checkpoints" / "last.safetensors")
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        # A step changes weights by some 1e-3; three ranks differ from one by 4e-7.
        assert found[name] == pytest.approx(value, rel=0, abs=1e-5), name


def test_a_killed_rank_costs_the_steps_since_the_last_commit_and_a_new_one_is_taken_in(
    disturbed: tuple[Job, str],
) -> None:
    job, host = disturbed
    lost, joined = job.changes
    other = {"localhost": "127.0.0.1", "127.0.0.1": "localhost"}[host]
    assert (lost.cause, lost.ranks_before, lost.ranks_after) == ("rank lost", 2, 1)
    assert (lost.left, lost.joined, lost.slots) == ([f"{other}:0"], [], [f"{host}:0"])
    assert 0 < lost.steps_lost <= COMMIT_STEPS
    assert lost.step % STEPS == COMMIT_STEPS
    assert (joined.cause, joined.ranks_before, joined.ranks_after) == ("hosts changed", 1, 2)
    assert (joined.left, joined.joined, joined.steps_lost) == ([], [f"{host}:1"], 0)
    assert joined.slots == [f"{host}:0", f"{host}:1"]
    assert lost.monotonic_ns < joined.monotonic_ns
    assert f"2 -> 1 ranks (lost {other}:0): continuing with step {lost.step}" in job.output


def test_every_step_is_recorded_by_the_ranks_that_did_it(disturbed: tuple[Job, str]) -> None:
    job, _ = disturbed
    lost, joined = job.changes
    assert [record.size for record in job.steps(0) if isinstance(record, Header)] == [2, 1, 2]
    assert [record.size for record in job.steps(1) if isinstance(record, Header)] == [2, 2]
    steps = [record for record in job.steps(0) if isinstance(record, StepRecord)]
    # What was lost is done again, and nothing else.
    expected = [*range(lost.step + lost.steps_lost), *range(lost.step, EPOCHS * STEPS)]
    assert [record.step for record in steps] == expected
    others = {record.step: record for record in job.steps(1) if isinstance(record, StepRecord)}
    for record in steps[lost.step + lost.steps_lost :]:
        batch = 6 if record.step % STEPS == STEPS - 1 else 15
        together = record.step >= joined.step
        assert record.images == (min(batch, 8) if together else batch)
        assert record.images + (others[record.step].images if together else 0) == batch


def test_the_run_trains_what_a_quiet_one_trains(disturbed: tuple[Job, str], quiet: Path) -> None:
    job, _ = disturbed
    assert_same_weights(job.folder.path, quiet)
    found, expected = (list(read_lines(path, EpochRecord)) for path in (job.folder.epochs, quiet / "epochs.jsonl"))
    for record, wanted in zip(found, expected, strict=True):
        assert (record.epoch, record.steps, record.images) == (wanted.epoch, wanted.steps, wanted.images)
        assert record.learning_rate == wanted.learning_rate
        assert record.training_loss == pytest.approx(wanted.training_loss, rel=1e-4)
        accuracy = record.training_metrics["sparse_categorical_accuracy"]  # also of the epoch in which a rank was lost
        assert accuracy == pytest.approx(wanted.training_metrics["sparse_categorical_accuracy"], abs=1e-6)
        assert accuracy == pytest.approx(record.training_accuracy, abs=1e-6)
    assert read_json(job.folder.result, Result).progress.steps_done == EPOCHS * STEPS


def test_its_times_are_left_out_of_reports(disturbed: tuple[Job, str]) -> None:
    with pytest.raises(UserError, match=r"ranks joined or left during training \(2, 1, 2 ranks\)"):
        read_run(disturbed[0].folder.path)


def test_a_job_that_is_told_to_stop_writes_a_checkpoint_and_goes_on_from_it(
    shared_workplace: Workplace, quiet: Path
) -> None:
    with started(shared_workplace, "told") as job:
        job.until(lambda: len(job.steps(0)) > 2)
        job.process.send_signal(signal.SIGTERM)  # horovodrun passes it on, and gives the ranks five seconds
        assert job.end() != 0
        assert job.output.count("stopped on request (SIGTERM) after epoch 0 and ") == 1
    with started(shared_workplace, "told", "--resume-or-start") as job:
        assert job.end() == 0, job.output
        assert "resuming after epoch 0, step " in job.output
    assert_same_weights(job.folder.path, quiet)
    assert job.changes == []
    run = read_run(job.folder.path)
    assert (run.environment.launcher, run.environment.mpi_library) == ("horovodrun-elastic", None)
    assert (run.environment.global_batch, run.config["global_batch"]) == (15, 15)


def test_too_few_ranks_end_the_job_with_a_checkpoint_of_the_last_commit(
    shared_workplace: Workplace, quiet: Path
) -> None:
    with started(shared_workplace, "few", launch=("--min-np", "2", "--elastic-timeout", "10")) as job:
        job.until(lambda: len(job.steps(0)) > COMMIT_STEPS + 2)
        job.rank(0).send_signal(signal.SIGKILL)
        assert job.process.wait(timeout=TIMEOUT_SECONDS) != 0
        assert f"checkpoint written after step {COMMIT_STEPS}; --resume --name few continues from there" in job.output
    progress = read_progress(job.folder.checkpoints / "last.safetensors")
    assert progress.partial is not None
    assert (progress.partial.steps, progress.partial.images) == (COMMIT_STEPS, 15 * COMMIT_STEPS)
    assert not job.folder.result.exists()


def test_a_mistake_that_rank_0_finds_ends_all_ranks_with_one_sentence(shared_workplace: Workplace, quiet: Path) -> None:
    with started(shared_workplace, "quiet") as job:
        assert job.end() != 0
        assert job.output.count("horovod_flowers.train: error: run runs/quiet exists already") == 1
        assert "horovod_flowers/train.py" not in job.output  # no traceback of ours
    assert (quiet / "result.json").exists()
