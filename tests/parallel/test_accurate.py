"""The preset that generalises: what only shows over ranks and epochs (its accuracy is in docs/accuracy.md)."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from horovod_flowers.runlog.reading.run import read_run
from tests.conftest import Workplace

OPTIONS = ("--preset", "accurate", "--data.crop-size", "24", "--global-batch", "16", "--threads", "1")
GOES_ON = ("--optimizer.decay", "none")  # a cosine ends with the epochs that a run began with


# At this rate no weight moves, so the first epoch stays the best.
STILL = (
    *("--global-batch", "16", "--name", "still", "--epochs", "9", "--early-stopping", "2"),
    *("--optimizer.learning-rate", "1e-30", "--average-decay", "0", "--model.name", "flower_cnn"),
)


@dataclass(frozen=True)
class Trained:
    """The runs of this module, and what the one that stops early printed, the second time too."""

    runs: Path
    still: str
    again: str


@pytest.fixture(scope="module")
def trained(shared_workplace: Workplace) -> Trained:
    """Two epochs in one go, and in two jobs; and one that stops early."""
    training = shared_workplace.training
    *_, still = shared_workplace.run_in_one_job(
        training(*OPTIONS, *GOES_ON, "--name", "accurate-whole", "--epochs", "2"),
        training(*OPTIONS, *GOES_ON, "--name", "accurate-parts", "--epochs", "1"),
        training(*STILL),
        ranks=2,
    )
    _, again = shared_workplace.run_in_one_job(
        training(*OPTIONS, *GOES_ON, "--name", "accurate-parts", "--epochs", "2", "--resume"),
        training(*STILL, "--resume-or-start"),
        ranks=2,
    )
    return Trained(shared_workplace.folder / "runs", still, again)


@pytest.fixture(scope="module")
def runs(trained: Trained) -> Path:
    return trained.runs


def test_averages_statistics_and_schedule_resume_bit_by_bit(runs: Path) -> None:
    expected = load_file(runs / "accurate-whole" / "checkpoints" / "last.safetensors")
    resumed = load_file(runs / "accurate-parts" / "checkpoints" / "last.safetensors")
    averages = [name for name in expected if name.startswith("average.")]
    assert len(averages) == 62  # kernel, scale, shift and two statistics of 12 convolutions; the last layer has two
    assert all(not np.array_equal(expected[name], expected[f"weight.{name[8:]}"]) for name in averages)
    assert all(np.array_equal(value, resumed[name]) for name, value in expected.items())


def test_the_run_log_says_how_it_was_trained(runs: Path) -> None:
    config = read_run(runs / "accurate-whole").config
    assert (config["preset"], config["model"]["name"], config["data"]["crop_size"]) == ("accurate", "flower_resnet", 24)


@pytest.mark.parametrize("ranks", [1, 4])
def test_the_first_steps_are_nearly_the_same_at_any_number_of_ranks(
    shared_workplace: Workplace, runs: Path, ranks: int
) -> None:
    """Not quite the same: each rank normalises over its own images, and drops its own units."""
    name = f"accurate-{ranks}-ranks"
    ended = shared_workplace.train(*OPTIONS, *GOES_ON, "--name", name, "--epochs", "2", ranks=ranks)
    assert ended.status == 0, ended.output
    one, other = (read_run(runs / run).epochs for run in ("accurate-whole", name))
    for two, many in zip(one, other, strict=True):
        assert many.images == two.images
        assert many.learning_rate == pytest.approx(two.learning_rate)
        assert many.training_loss == pytest.approx(two.training_loss, rel=0.1)


def test_a_run_without_progress_stops_early(trained: Trained) -> None:
    assert "stopped early: validation accuracy has not improved in 2 epochs since epoch 1" in trained.still
    run = read_run(trained.runs / "still")
    assert [epoch.epoch for epoch in run.epochs] == [1, 2, 3]
    assert (run.result.progress.epochs_done, run.result.progress.best_epoch, run.result.stopped_early) == (3, 1, True)
    assert "is complete: nothing to do" in trained.again
