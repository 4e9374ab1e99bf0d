"""Options that change what a run does or leaves behind."""

import numpy as np
from safetensors.numpy import load_file

from horovod_flowers.runlog.reading.run import read_run
from tests.conftest import Workplace


def test_independent_ranks_are_timed_but_train_no_common_model(workplace: Workplace) -> None:
    ended = workplace.train("--strategy", "none", "--global-batch", "16", "--name", "ceiling", ranks=2)
    assert ended.status == 0, ended.output
    assert "finished: not evaluated" in ended.stdout
    run = read_run(workplace.folder / "runs" / "ceiling")
    assert run.step_ns.shape == (3, 2)  # six steps, three of them warm-up
    assert [epoch.images for epoch in run.epochs] == [96]
    assert run.result.progress.best_validation_accuracy is None
    assert run.epochs[0].validation_accuracy is None
    assert not (workplace.folder / "runs" / "ceiling" / "checkpoints").exists()


def test_sgd_with_cosine_decay_and_tensorboard(workplace: Workplace) -> None:
    options = ["--optimizer.name", "sgd", "--optimizer.decay", "cosine", "--optimizer.learning-rate", "0.01"]
    ended = workplace.train(*options, "--global-batch", "32", "--epochs", "2", "--tensorboard", "--name", "s", ranks=2)
    assert ended.status == 0, ended.output
    run = workplace.folder / "runs" / "s"
    first, second = read_run(run).epochs
    # Nothing to scale or warm up at the base batch: half a cosine over six steps, read at steps 2 and 5.
    assert first.learning_rate == 0.01 * 0.5 * (1 + np.cos(np.pi * 2 / 6))
    assert second.learning_rate == 0.01 * 0.5 * (1 + np.cos(np.pi * 5 / 6))
    (events,) = (run / "tensorboard").iterdir()
    assert b"validation_accuracy" in events.read_bytes()
    state = load_file(run / "checkpoints" / "last.safetensors")
    momenta = [value for name, value in state.items() if name.startswith("optimizer.") and value.ndim > 1]
    assert len(momenta) == 5  # SGD keeps one momentum a kernel


def test_an_epoch_can_be_cut_for_timing(workplace: Workplace) -> None:
    ended = workplace.train("--global-batch", "16", "--steps", "4", "--no-checkpoint", "--name", "cut")
    assert ended.status == 0, ended.output
    run = read_run(workplace.folder / "runs" / "cut")
    assert (run.result.progress.steps_done, run.epochs[0].images) == (4, 64)
    assert not (workplace.folder / "runs" / "cut" / "checkpoints").exists()
