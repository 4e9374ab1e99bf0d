"""A run that is resumed ends with the weights of a run that never stopped."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from horovod_flowers.runlog.reading.run import read_run
from horovod_flowers.runtime.errors import UserError
from tests.conftest import Workplace, mpirun

# One thread a rank: sums in the same order, so that the weights can be compared bit by bit.
OPTIONS = ("--global-batch", "16", "--threads", "1", "--data.augment")


@pytest.fixture(scope="module")
def runs(shared_workplace: Workplace) -> Path:
    """Three epochs in one go, and the first two of three, on two ranks each."""
    for name, epochs in (("whole", 3), ("first", 2)):
        ended = shared_workplace.train(*OPTIONS, "--name", name, "--epochs", str(epochs), ranks=2)
        assert ended.status == 0, ended.output
    return shared_workplace.folder / "runs"


@pytest.mark.parametrize("ranks", [2, 1])
def test_resume_gives_the_weights_of_an_uninterrupted_run(shared_workplace: Workplace, runs: Path, ranks: int) -> None:
    name = f"resumed-on-{ranks}"
    shutil.copytree(runs / "first", runs / name)
    ended = shared_workplace.train(*OPTIONS, "--name", name, "--epochs", "3", "--resume", ranks=ranks)
    assert ended.status == 0, ended.output
    assert "resuming after epoch 2, step 12" in ended.stdout
    expected = load_file(runs / "whole" / "checkpoints" / "last.safetensors")
    resumed = load_file(runs / name / "checkpoints" / "last.safetensors")
    for key, value in expected.items():
        if ranks == 2:
            assert np.array_equal(value, resumed[key]), key
        elif key.startswith("weight."):
            np.testing.assert_allclose(value, resumed[key], rtol=0, atol=1e-4)
    if ranks == 2:
        assert [epoch.epoch for epoch in read_run(runs / name).epochs] == [1, 2, 3]
    else:
        with pytest.raises(UserError, match="step records of 2 of 1 ranks"):
            read_run(runs / name)


def test_a_run_that_died_before_its_result_is_finished(shared_workplace: Workplace, runs: Path) -> None:
    shutil.copytree(runs / "whole", runs / "nearly")
    expected = (runs / "whole" / "result.json").read_bytes()
    (runs / "nearly" / "result.json").unlink()
    options = (*OPTIONS, "--name", "nearly", "--epochs", "3", "--resume-or-start")
    ended = shared_workplace.train(*options, ranks=2)
    assert ended.status == 0, ended.output
    found, kept = (json.loads(text) for text in ((runs / "nearly" / "result.json").read_bytes(), expected))
    assert {**found, "peak_memory_bytes": 0} == {**kept, "peak_memory_bytes": 0}


def test_a_run_resumes_with_its_own_options(shared_workplace: Workplace, runs: Path) -> None:
    """Only what goes on has to be said: the run's configuration gives the rest."""
    name = "resumed-briefly"
    shutil.copytree(runs / "first", runs / name)
    command = ["python", "-m", "horovod_flowers.train", "--resume", "--name", name, "--epochs", "3"]
    ended = shared_workplace.run(*mpirun(2, *command))
    assert ended.status == 0, ended.output
    expected = load_file(runs / "whole" / "checkpoints" / "last.safetensors")
    resumed = load_file(runs / name / "checkpoints" / "last.safetensors")
    assert all(np.array_equal(value, resumed[key]) for key, value in expected.items())


def test_dropout_and_statistics_resume_too(shared_workplace: Workplace) -> None:
    options = (*OPTIONS, "--model.name", "tests.single.test_model:regularised")
    for name, *more in (("d", "--epochs", "2"), ("e", "--epochs", "1"), ("e", "--epochs", "2", "--resume")):
        ended = shared_workplace.train(*options, "--name", name, *more, ranks=2)
        assert ended.status == 0, ended.output
    runs = shared_workplace.folder / "runs"
    expected = load_file(runs / "d" / "checkpoints" / "last.safetensors")
    resumed = load_file(runs / "e" / "checkpoints" / "last.safetensors")
    # Dropout's seed and its count of 12 steps are there.
    states = [value for name, value in expected.items() if name.startswith("weight.") and value.dtype.kind in "iu"]
    assert [(state.shape, int(state[1])) for state in states] == [((2,), 12)]
    assert all(np.array_equal(value, resumed[key]) for key, value in expected.items())


def test_what_does_not_continue_the_run_is_refused(workplace: Workplace) -> None:
    assert workplace.train(*OPTIONS, "--name", "a").status == 0
    before = {path: path.read_bytes() for path in (workplace.folder / "runs").rglob("*") if path.is_file()}
    for change, sentence in (
        (("--epochs", "1"), "has trained 1 epochs already: give --epochs above that"),
        (("--epochs", "2", "--seed", "5"), "was trained with seed 0, not 5: leave out --seed to resume it"),
        (("--epochs", "2", "--global-batch", "8"), "was trained with a global batch of 16, not 8"),
        (("--epochs", "2", "--model.name", "tests.single.test_model:wide"), "was trained with model.name flower_cnn"),
        (("--epochs", "2", "--optimizer.learning-rate", "0.1"), "was trained with optimizer.learning_rate 0.001"),
        (("--epochs", "2", "--data.synthetic-images", "80"), "was trained with data.synthetic_images 120, not 80"),
    ):
        ended = workplace.run("python", "-m", "horovod_flowers.train", "--name", "a", "--resume", *change)
        assert ended.status == 2, ended.output
        assert sentence in ended.stderr
        assert ended.stderr.count("\n") == 1
    after = {path: path.read_bytes() for path in (workplace.folder / "runs").rglob("*") if path.is_file()}
    assert after == before
