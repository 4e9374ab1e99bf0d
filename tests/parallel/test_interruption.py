"""A run that is asked to stop keeps what it has, says so by its exit status, and continues from there."""

import os
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from horovod_flowers.runlog.json_lines import read_lines
from horovod_flowers.runlog.reading.run import read_run
from horovod_flowers.runlog.records import EpochRecord
from horovod_flowers.runlog.training_progress import PartialEpoch
from tests.conftest import TIMEOUT_SECONDS, TINY, Ended, Workplace, clean_environment, mpirun

# One thread a rank: sums in the same order, so that the weights can be compared bit by bit.
OPTIONS = ("--global-batch", "16", "--threads", "1", "--data.augment", "--model.name", "tests.parallel.slow_model:slow")
STOPPED = 75


def stop_once_it_trains(workplace: Workplace, name: str, number: int, ranks: int | None, *options: str) -> Ended:
    """Start a run, send its launcher (or itself, without one) a signal in the middle of an epoch, wait for its end."""
    words: list[str | Path] = ["python", "-m", "horovod_flowers.train", "--data.prepared-dir", workplace.prepared]
    words += [*TINY, *OPTIONS, "--name", name, *options]
    job = subprocess.Popen(
        [str(word) for word in (words if ranks is None else mpirun(ranks, *words))],
        cwd=workplace.folder,
        env=clean_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        steps = workplace.folder / "runs" / name / "steps" / "rank-00000.jsonl"
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while not steps.exists() or steps.read_bytes().count(b'"epoch":2') < 2:  # into the second epoch
            assert job.poll() is None, job.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        job.send_signal(number)
        stdout, stderr = job.communicate(timeout=TIMEOUT_SECONDS)
    finally:
        if job.poll() is None:
            os.killpg(job.pid, signal.SIGKILL)
    return Ended(job.returncode, stdout, stderr)


RESUMING = ("--name", "stopped", "--resume-or-start", "--epochs", "3")
APART = ("--name", "apart", "--epochs", "3", "--strategy", "none")


@dataclass(frozen=True)
class Stopped:
    """Two runs that were stopped, one of ranks that train independently, and went on in another job."""

    runs: Path
    stopped: Ended
    apart: Ended
    resumed: str
    """What the first printed as it went on."""


@pytest.fixture(scope="module")
def stopped(shared_workplace: Workplace) -> Stopped:
    """Beside them, in the job in which they go on, a run that is left alone."""
    ended = stop_once_it_trains(shared_workplace, "stopped", signal.SIGUSR1, 2, "--epochs", "3")
    apart = stop_once_it_trains(shared_workplace, "apart", signal.SIGUSR1, 2, *APART[2:])
    runs, training = shared_workplace.folder / "runs", shared_workplace.training
    assert not (runs / "stopped" / "result.json").exists()
    resumed, *_ = shared_workplace.run_in_one_job(
        training(*OPTIONS, *RESUMING),
        training(*OPTIONS, "--name", "left-alone", "--epochs", "3"),
        training(*OPTIONS, *APART, "--resume-or-start"),
        ranks=2,
    )
    return Stopped(runs, ended, apart, resumed)


def test_a_run_stopped_in_an_epoch_goes_on_to_the_same_weights(shared_workplace: Workplace, stopped: Stopped) -> None:
    assert stopped.stopped.status == STOPPED, stopped.stopped.output
    assert stopped.stopped.stderr.count("stopped on request (SIGUSR1) after epoch 1 and ") == 1
    folder = stopped.runs / "stopped"
    whole = load_file(stopped.runs / "left-alone" / "checkpoints" / "last.safetensors")
    assert "resuming after epoch 1, step " in stopped.resumed
    for name, value in load_file(folder / "checkpoints" / "last.safetensors").items():
        assert np.array_equal(value, whole[name]), name
    assert (folder / "checkpoints" / "best.safetensors").exists()
    # The epoch that was interrupted counts as a whole one.
    unbroken = stopped.runs / "left-alone" / "epochs.jsonl"
    for record, expected in zip(
        read_lines(folder / "epochs.jsonl", EpochRecord), read_lines(unbroken, EpochRecord), strict=True
    ):
        assert (record.epoch, record.steps, record.images) == (expected.epoch, expected.steps, expected.images)
        assert record.training_loss == pytest.approx(expected.training_loss, rel=1e-6)
        assert record.training_accuracy == expected.training_accuracy
        assert record.validation_loss == expected.validation_loss
    run = read_run(folder)
    assert run.result.progress.steps_done == read_run(unbroken.parent).result.progress.steps_done
    # Started once more, as a job script would, it has nothing left to do.
    again = shared_workplace.train(*OPTIONS, *RESUMING, ranks=2)
    assert again.status == 0, again.output
    assert again.stdout.count("is complete: nothing to do") == 1


def test_a_process_without_a_launcher_stops_on_sigterm(workplace: Workplace) -> None:
    stopped = stop_once_it_trains(workplace, "alone", signal.SIGTERM, None, "--epochs", "3", "--accumulate", "3")
    assert stopped.status == STOPPED, stopped.output
    found = PartialEpoch(**read_partial(workplace.folder / "runs" / "alone"))
    assert found.steps % 3 == 0  # an update is never broken up
    assert found.images == 16 * found.steps


def test_ranks_that_train_apart_stop_too(stopped: Stopped) -> None:
    assert stopped.apart.status == STOPPED, stopped.apart.output
    assert "without a checkpoint; rerunning it starts run runs/apart from the beginning" in stopped.apart.stderr
    assert len(read_run(stopped.runs / "apart").epochs) == 3


def read_partial(run: Path) -> dict[str, Any]:
    import json

    from safetensors import safe_open

    with safe_open(run / "checkpoints" / "last.safetensors", framework="numpy") as file:
        return json.loads(file.metadata()["progress"])["partial"]
