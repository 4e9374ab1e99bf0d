"""Options that change what a run does or leaves behind."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from horovod_flowers.runlog.reading.run import read_run
from tests.conftest import Workplace

pytestmark = pytest.mark.quick
SGD = ("--optimizer.name", "sgd", "--optimizer.decay", "cosine", "--optimizer.learning-rate", "0.01")


# At this rate no weight moves, so the first epoch's loss stays the lowest.
STILL = (
    *("--optimizer.learning-rate", "1e-30", "--optimizer.plateau-epochs", "2", "--optimizer.plateau-factor", "0.5"),
    *("--early-stopping", "5", "--early-stopping-on", "loss", "--steps", "2"),
)


@dataclass(frozen=True)
class Trained:
    """The runs of this module, and what two of them printed."""

    runs: Path
    independent: str
    plateau: str


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, prepared_folder: Path) -> Trained:
    workplace = Workplace(tmp_path_factory.mktemp("options"), prepared_folder)
    parts = (*STILL, "--global-batch", "16", "--name", "plateau-parts")
    independent, _, plateau, *_ = workplace.run_in_one_job(
        workplace.training("--strategy", "none", "--global-batch", "16", "--name", "independent"),
        workplace.training(*SGD, "--global-batch", "32", "--epochs", "2", "--tensorboard", "--name", "s"),
        workplace.training(*STILL, "--global-batch", "16", "--epochs", "9", "--name", "plateau"),
        workplace.training(*parts, "--epochs", "4"),
        workplace.training(*parts, "--epochs", "9", "--resume"),
        ranks=2,
    )
    return Trained(workplace.folder / "runs", independent, plateau)


def test_independent_ranks_are_timed_but_train_no_common_model(trained: Trained) -> None:
    assert "finished: not evaluated" in trained.independent
    run = read_run(trained.runs / "independent")
    assert run.step_ns.shape == (3, 2)  # six steps, three of them warm-up
    assert [epoch.images for epoch in run.epochs] == [96]
    assert run.result.progress.best_validation_accuracy is None
    convolutions = [2 * 30**2 * 32 * 9 * 3, 2 * 13**2 * 64 * 9 * 32, 2 * 4**2 * 128 * 9 * 64]
    forward = 16 * (sum(convolutions) + 2 * (2 * 2 * 128) * 512 + 2 * 512 * 5)
    flops = run.environment.model_flops
    assert flops is not None
    assert (flops.images, flops.forward) == (16, forward)
    assert flops.backward == 2 * forward - 16 * convolutions[0]  # of the photos there is no gradient
    assert run.epochs[0].validation_accuracy is None
    assert not (trained.runs / "independent" / "checkpoints").exists()


def test_sgd_with_cosine_decay_and_tensorboard(trained: Trained) -> None:
    run = trained.runs / "s"
    first, second = read_run(run).epochs
    # Nothing to scale or warm up at the base batch: half a cosine over six steps, read at steps 2 and 5.
    assert first.learning_rate == 0.01 * 0.5 * (1 + np.cos(np.pi * 2 / 6))
    assert second.learning_rate == 0.01 * 0.5 * (1 + np.cos(np.pi * 5 / 6))
    (events,) = (run / "tensorboard").iterdir()
    assert b"validation_accuracy" in events.read_bytes()
    state = load_file(run / "checkpoints" / "last.safetensors")
    momenta = [value for name, value in state.items() if name.startswith("optimizer.") and value.ndim > 1]
    assert len(momenta) == 5  # SGD keeps one momentum a kernel


def test_a_loss_that_no_longer_falls_lowers_the_learning_rate_and_ends_the_run(trained: Trained) -> None:
    run = read_run(trained.runs / "plateau")
    rates = np.array([epoch.learning_rate for epoch in run.epochs])
    assert list(rates / rates[0]) == pytest.approx([1, 1, 1, 0.5, 0.5, 0.25])
    progress = run.result.progress
    assert (progress.best_loss_epoch, progress.best_validation_loss) == (1, run.epochs[0].validation_loss)
    assert (progress.plateau.factor, run.result.stopped_early) == (0.25, True)
    resumed = read_run(trained.runs / "plateau-parts")
    assert [epoch.learning_rate for epoch in resumed.epochs] == list(rates)
    assert resumed.result.progress.plateau == progress.plateau
    assert "not fallen in 2 epochs: learning rate times 0.5, 0.25 of its schedule" in trained.plateau
    assert "stopped early: validation loss has not improved in 5 epochs since epoch 1" in trained.plateau


def test_an_epoch_can_be_cut_for_timing(workplace: Workplace) -> None:
    ended = workplace.train("--global-batch", "16", "--steps", "4", "--no-checkpoint", "--name", "cut")
    assert ended.status == 0, ended.output
    run = read_run(workplace.folder / "runs" / "cut")
    assert (run.result.progress.steps_done, run.epochs[0].images) == (4, 64)
    assert not (workplace.folder / "runs" / "cut" / "checkpoints").exists()
