"""N ranks train what one rank trains: gradients, weights, accuracy, records, at 1, 2 and 4 ranks."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from horovod_flowers.runlog.reading.run import read_run
from tests.conftest import TINY, Workplace
from tests.parallel.commands_in_one_job import Command

RANKS = (1, 2, 4)
# The 96 training images make four whole global batches of 20 and one of 16.
OPTIONS = ("--global-batch", "20", "--warmup-steps", "1")


@pytest.fixture(scope="module")
def runs(shared_workplace: Workplace) -> Path:
    """Five steps (one epoch) at each number of ranks, and gradients and accuracy from the checkpoint that one wrote."""
    folder = shared_workplace.folder
    checkpoint = folder / "runs" / "n1" / "checkpoints" / "last.safetensors"
    options = (*TINY, *OPTIONS, "--data.prepared-dir", str(shared_workplace.prepared))
    for ranks in RANKS:
        training = shared_workplace.training(*OPTIONS, "--name", f"n{ranks}")
        output = folder / f"numbers-{ranks}.npz"
        numbers = Command.of("tests.parallel.gradient_and_accuracy", checkpoint, output, *options)
        shared_workplace.run_in_one_job(training, numbers, ranks=ranks)
    return folder / "runs"


@pytest.fixture(scope="module")
def numbers(runs: Path) -> dict[int, dict[str, np.ndarray]]:
    """Gradients and accuracy by each number of ranks."""
    return {ranks: dict(np.load(runs.parent / f"numbers-{ranks}.npz")) for ranks in RANKS}


def relative_difference(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.linalg.norm(one.astype(np.float64) - other) / np.linalg.norm(one.astype(np.float64)))


@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("batch", ["first", "last"])  # the last one is smaller than the others
def test_averaged_gradients_are_one_ranks_gradient(
    numbers: dict[int, dict[str, np.ndarray]], batch: str, ranks: int
) -> None:
    names = [name for name in numbers[1] if name.startswith(batch)]
    assert len(names) == 10
    for name in names:
        assert np.linalg.norm(numbers[1][name]) > 0
        assert relative_difference(numbers[1][name], numbers[ranks][name]) < 1e-5, name


@pytest.mark.parametrize("ranks", [2, 4])
def test_weights_agree_after_five_steps(runs: Path, ranks: int) -> None:
    one = load_file(runs / "n1" / "checkpoints" / "last.safetensors")
    many = load_file(runs / f"n{ranks}" / "checkpoints" / "last.safetensors")
    assert one.keys() == many.keys()
    for name in one:
        if name.startswith("weight."):
            assert relative_difference(one[name], many[name]) < 1e-4, name
    assert int(one["optimizer.0000"]) == 5  # Keras' iterations


@pytest.mark.parametrize("ranks", [2, 4])
def test_accuracy_is_the_same_number_over_any_number_of_ranks(
    numbers: dict[int, dict[str, np.ndarray]], ranks: int
) -> None:
    correct, images, loss = numbers[1]["evaluation"]
    assert images == 24
    assert 0 < correct <= images
    assert numbers[ranks]["evaluation"][:2].tolist() == [correct, images]
    assert numbers[ranks]["evaluation"][2] == pytest.approx(loss, rel=1e-5)


@pytest.mark.parametrize("ranks", RANKS)
def test_records_are_complete(runs: Path, ranks: int) -> None:
    run = read_run(runs / f"n{ranks}")
    assert run.ranks == ranks
    assert run.step_ns.shape == (4, ranks)  # five steps, one of them warm-up
    assert run.images == 96 - 20
    assert np.array_equal(run.part_ns.sum(axis=2), run.step_ns)
    assert [epoch.images for epoch in run.epochs] == [96]
    assert run.epochs[0].validation_images == 24
    assert len(run.environment.ranks) == ranks
    # The masks that the ranks really had: apart from each other where there are enough cores.
    cores = [core for rank in run.environment.ranks for core in rank.cores]
    assert run.environment.oversubscribed == (len(set(cores)) < len(cores))
    if not run.environment.oversubscribed:
        assert len({tuple(rank.cores) for rank in run.environment.ranks}) == ranks


@pytest.mark.parametrize("ranks", [2, 4])
def test_losses_of_the_same_batches_agree(runs: Path, ranks: int) -> None:
    one, many = read_run(runs / "n1").epochs[0], read_run(runs / f"n{ranks}").epochs[0]
    assert many.training_loss == pytest.approx(one.training_loss, rel=1e-4)
    assert many.training_accuracy == one.training_accuracy


def test_communication_is_recorded_where_there_is_some(runs: Path) -> None:
    assert read_run(runs / "n4").part_shares["communication"] > read_run(runs / "n1").part_shares["communication"]
