"""A run that is resumed ends with the weights of a run that never stopped."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from horovod_flowers.runlog.reading.run import read_run
from horovod_flowers.runtime.errors import UserError
from tests.conftest import Ended, Workplace
from tests.parallel.commands_in_one_job import Command

# One thread a rank: sums in the same order, so that the weights can be compared bit by bit.
OPTIONS = ("--global-batch", "16", "--threads", "1", "--data.augment")


REGULARISED = (*OPTIONS, "--model.name", "tests.single.test_model:regularised")


@dataclass(frozen=True)
class Resumed:
    """The runs of this module, and what the resumed ones printed, by their names."""

    runs: Path
    printed: dict[str, str]


@pytest.fixture(scope="module")
def resumed(shared_workplace: Workplace) -> Resumed:
    """Three epochs in one go, and the first two of three; in new jobs then, what goes on from them."""
    training, runs = shared_workplace.training, shared_workplace.folder / "runs"
    shared_workplace.run_in_one_job(
        training(*OPTIONS, "--name", "whole", "--epochs", "3"),
        training(*OPTIONS, "--name", "first", "--epochs", "2"),
        training(*REGULARISED, "--name", "d", "--epochs", "2"),
        training(*REGULARISED, "--name", "e", "--epochs", "1"),
        ranks=2,
    )
    for name in ("resumed-on-2", "resumed-on-1", "resumed-briefly"):
        shutil.copytree(runs / "first", runs / name)
    shutil.copytree(runs / "whole", runs / "nearly")
    (runs / "nearly" / "result.json").unlink()
    brief = ("--resume", "--name", "resumed-briefly", "--epochs", "3")
    on_two = {
        "e": training(*REGULARISED, "--name", "e", "--epochs", "2", "--resume"),
        "resumed-on-2": training(*OPTIONS, "--name", "resumed-on-2", "--epochs", "3", "--resume"),
        "resumed-briefly": Command.of("horovod_flowers.train", *brief),
        "nearly": training(*OPTIONS, "--name", "nearly", "--epochs", "3", "--resume-or-start"),
    }
    printed = dict(zip(on_two, shared_workplace.run_in_one_job(*on_two.values(), ranks=2), strict=True))
    printed["resumed-on-1"], _ = shared_workplace.run_in_one_job(
        training(*OPTIONS, "--name", "resumed-on-1", "--epochs", "3", "--resume"),
        training(*OPTIONS, "--name", "a"),
        ranks=1,
    )
    return Resumed(runs, printed)


@pytest.fixture(scope="module")
def runs(resumed: Resumed) -> Path:
    return resumed.runs


@pytest.mark.parametrize("ranks", [2, 1])
def test_resume_gives_the_weights_of_an_uninterrupted_run(resumed: Resumed, ranks: int) -> None:
    name, runs = f"resumed-on-{ranks}", resumed.runs
    assert "resuming after epoch 2, step 12" in resumed.printed[name]
    expected = load_file(runs / "whole" / "checkpoints" / "last.safetensors")
    found = load_file(runs / name / "checkpoints" / "last.safetensors")
    for key, value in expected.items():
        if ranks == 2:
            assert np.array_equal(value, found[key]), key
        elif key.startswith("weight."):
            np.testing.assert_allclose(value, found[key], rtol=0, atol=1e-4)
    if ranks == 2:
        assert [epoch.epoch for epoch in read_run(runs / name).epochs] == [1, 2, 3]
    else:
        with pytest.raises(UserError, match="step records of 2 of 1 ranks"):
            read_run(runs / name)


def test_a_run_that_died_before_its_result_is_finished(runs: Path) -> None:
    found, kept = (json.loads((runs / name / "result.json").read_bytes()) for name in ("nearly", "whole"))
    used = {"peak_memory_bytes": 0, "resources": None}  # by the process that wrote it
    assert {**found, **used} == {**kept, **used}
    assert [each["resources"]["steps_before"] for each in (kept, found)] == [0, 18]
    walls = kept["resources"]["wall_seconds"]
    assert len(walls) == 2
    assert min(walls) > kept["progress"]["training_seconds"]  # the start, epochs' ends and checkpoints are in it
    assert kept["resources"]["checkpoints"] == 3
    # One is some bytes longer than another, by the digits of what it says of its run.
    last_bytes = (runs / "whole/checkpoints/last.safetensors").stat().st_size
    assert kept["resources"]["checkpoint_bytes"] == pytest.approx(3 * last_bytes, rel=1e-4)


def test_a_run_resumes_with_its_own_options(runs: Path) -> None:
    """Only what goes on has to be said: the run's configuration gives the rest."""
    expected = load_file(runs / "whole" / "checkpoints" / "last.safetensors")
    found = load_file(runs / "resumed-briefly" / "checkpoints" / "last.safetensors")
    assert all(np.array_equal(value, found[key]) for key, value in expected.items())


def test_dropout_and_statistics_resume_too(runs: Path) -> None:
    expected = load_file(runs / "d" / "checkpoints" / "last.safetensors")
    found = load_file(runs / "e" / "checkpoints" / "last.safetensors")
    # Dropout's seed and its count of 12 steps are there.
    states = [value for name, value in expected.items() if name.startswith("weight.") and value.dtype.kind in "iu"]
    assert [(state.shape, int(state[1])) for state in states] == [((2,), 12)]
    assert all(np.array_equal(value, found[key]) for key, value in expected.items())


def test_what_does_not_continue_the_run_is_refused(
    workplace: Workplace, refused_here: Callable[..., Ended], runs: Path
) -> None:
    shutil.copytree(runs / "a", workplace.folder / "runs" / "a")
    before = {path: path.read_bytes() for path in (workplace.folder / "runs").rglob("*") if path.is_file()}
    # Known once the checkpoint has been read, after TensorFlow has started: in a process of its own.
    nothing_left = workplace.train("--name", "a", "--resume", "--epochs", "1")
    assert nothing_left.status == 2, nothing_left.output
    assert "has trained 1 epochs already: give --epochs above that" in nothing_left.stderr
    for change, sentence in (
        (("--epochs", "2", "--seed", "5"), "was trained with seed 0, not 5: leave out --seed to resume it"),
        (("--epochs", "2", "--global-batch", "8"), "was trained with a global batch of 16, not 8"),
        (("--epochs", "2", "--model.name", "tests.single.test_model:wide"), "was trained with model.name flower_cnn"),
        (("--epochs", "2", "--optimizer.learning-rate", "0.1"), "was trained with optimizer.learning_rate 0.001"),
        (("--epochs", "2", "--data.synthetic-images", "80"), "was trained with data.synthetic_images 120, not 80"),
    ):
        ended = refused_here("train", "--name", "a", "--resume", *change)
        assert ended.status == 2, ended.output
        assert sentence in ended.stderr
        assert ended.stderr.count("\n") == 1
    after = {path: path.read_bytes() for path in (workplace.folder / "runs").rglob("*") if path.is_file()}
    assert after == before
