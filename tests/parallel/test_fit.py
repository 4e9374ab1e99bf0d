"""A script's own `fit`: on two ranks it trains what it trains on one, under every strategy, writes ordinary files, and
is ended where it would hang or train something else."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import TIMEOUT_SECONDS, Ended, mpirun, run_command

TOLERANCE, TOLERANCE_16_BITS = 1e-4, 1e-2
"""Relative; in bfloat16, whose numbers have 8 bits, a sum over the rows of a rank is rounded before ranks add up."""


def run(program: str, *words: str | Path, folder: Path, ranks: int = 2) -> Ended:
    """A program of tests/parallel."""
    command = mpirun(ranks, "python", "-m", f"tests.parallel.{program}", *words)
    return run_command(command, folder, 2 * TIMEOUT_SECONDS)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict[str, np.ndarray]]:
    """What each case gives, on one rank and on two."""
    folder = tmp_path_factory.mktemp("fit")
    found = {}
    for ranks in (1, 2):
        output = folder / f"{ranks}.npz"
        ended = run("fit_against_one_rank", output, folder=folder, ranks=ranks)
        assert ended.status == 0, ended.output
        with np.load(output) as file:
            found[ranks] = dict(file)
    return found


def test_models_and_data_that_nobody_needs_are_given_up(trained: dict[int, dict[str, np.ndarray]]) -> None:
    """With the threads that read them: they would add up where one script trains many models, and at its end each was
    waited for."""
    assert [int(found["held"]) for found in trained.values()] == [0, 0]


def test_two_ranks_train_what_one_trains(trained: dict[int, dict[str, np.ndarray]]) -> None:
    """After ten steps, of global batches of which the last has a single row: weights, losses and metrics."""
    alone, together = trained[1], trained[2]
    assert alone.keys() == together.keys()
    behind_pooling = "layers with ReLU behind pooling"
    assert [int(each.pop(behind_pooling)) for each in (alone, together)] == [0, 1]
    cases = {name.rpartition(" | ")[0] for name in alone if name != "held"}
    assert len(cases) >= 62
    differences = {}
    for name, expected in alone.items():
        tolerance = TOLERANCE_16_BITS if "bfloat16" in name else TOLERANCE
        difference = np.linalg.norm(together[name] - expected)
        if not difference <= tolerance * np.linalg.norm(expected):
            differences[name] = difference / np.linalg.norm(expected)
    assert differences == {}


def test_a_mesh_of_four_ranks_trains_what_one_trains(trained: dict[int, dict[str, np.ndarray]], tmp_path: Path) -> None:
    """In two groups of two; a batch has nine rows, so that ranks have unequal parts."""
    ended = run("fit_against_one_rank", tmp_path / "4.npz", "divided, by groups", folder=tmp_path, ranks=4)
    assert ended.status == 0, ended.output
    with np.load(tmp_path / "4.npz") as found:
        names = [name for name in found if name.startswith("divided, by groups")]
        assert len(names) == 8
        for name in names:
            together = found[name]
            assert np.linalg.norm(together - trained[1][name]) <= TOLERANCE * np.linalg.norm(trained[1][name]), name


def test_files_of_every_strategy_are_ordinary_ones_and_training_goes_on_from_them(tmp_path: Path) -> None:
    ended = run("fit_saved", tmp_path / "found.json", folder=tmp_path)
    assert ended.status == 0, ended.output
    for of_rank in json.loads((tmp_path / "found.json").read_text()):
        for strategy, found in of_rank.items():
            wrong = {what: difference for what, difference in found.items() if not difference <= 1e-6}
            assert wrong == {}, strategy


REFUSED = {
    "not a model": "takes a keras.Model of Keras 3, and was given builtins.str",
    "not compiled": "is not compiled: call compile(optimizer, loss, ...) before distribute",
    "unknown strategy": "strategy 'ring' is unknown: one of allreduce, sharded, tensor, mesh, auto, none",
    "unknown option": "distribute takes no compress: options are",
    "an option of another strategy": "compression is 'fp16' but strategy sharded cannot use it",
    "equal seeds of no layer": "equal_seeds names 'mask', and no layer of that name draws random numbers by a seed",
    "twice": "is distributed already: call distribute once",
    "two optimizers": "has more than one optimizer (optimizer, other_optimizer)",
    "an optimizer that combines gradients already": "hvd.DistributedOptimizer, which combines gradients itself",
    "XLA": "jit_compile=True, and XLA on a CPU cannot call MPI",
    "a stateful layer": "is stateful: it keeps a state for each place in the batch",
    "Dice": "loss dice compares rows of a batch with each other",
    "a loss of many values": "has reduction None, which leaves as many losses as rows",
    "an activity regularizer": "OrthogonalRegularizer of layer dense",
    "Adafactor of parts": "optimizer Adafactor may look at whole weights, which strategy 'sharded' divides",
    "factors of a step that changes them": "(the step changes its gradient, or reads its kernel elsewhere, too)",
    "factors of a divided layer": "dense_gradients is 'factors' but strategy tensor cannot use it",
    "factors of another name": "dense_gradients is 'factor': one of auto, reduced, factors",
    "a number in words": "shard_above is '4000': give a whole number, or leave it out",
    "nothing to divide": "has no Dense layer of at least 4,000 weights to divide",
    "weights that are changed otherwise": "applies its optimizer 0 times; it has to be applied once",
    "a loss of its own that adds rows up": "adds up over the rows of a batch (twice the rows give 2 times",
    "train_on_batch": "train_on_batch trains on one rank's rows: call fit",
    "another model on one rank": "rank 1 has another model than rank 0: weight 0 is (6, 10) float32",
    "another activation on one rank": 'activation of layer 2 is "relu" there, and "tanh" on rank 0',
    "another learning rate on one rank": "learning_rate of the optimizer is 0.2",
    "other calls on one rank": "different places of the script: rank 0 at evaluate, rank 1 at fit",
}


def test_what_cannot_work_is_refused_on_every_rank_in_one_sentence(tmp_path: Path) -> None:
    ended = run("fit_refusals", tmp_path / "found.json", folder=tmp_path)
    assert ended.status == 0, ended.output
    found: dict[str, list[Any]] = json.loads((tmp_path / "found.json").read_text())
    assert found.keys() == REFUSED.keys()
    for name, said in found.items():
        assert said[0] is not None, name
        assert REFUSED[name] in said[0], said[0]
        assert said[1] == said[0]
        assert "\n" not in said[0]


@pytest.mark.parametrize(
    ("how", "status", "said"),
    [
        ("fits alone", 2, "rank 0 at fit, rank 1 at the end of the script"),
        ("raises", 1, "failed: ValueError: this callback has a defect"),
        ("exits", 1, "rank 1 has left fit by sys.exit and is at the end of the script, and the others are not"),
        ("is killed", 137, "exited on signal 9 (Killed)"),
        (
            "is asked to stop",
            1,
            "asked to stop (SIGUSR1), and did after step 3 of epoch 1, with nothing saved: give fit",
        ),
        ("drifts", 1, "no longer match at the end of an epoch: look for code that depends on the rank"),
        ("raises outside", 1, "failed: KeyError: 'rank 1 lacks something'"),
        ("other backend", 2, "Keras runs on jax here (KERAS_BACKEND)"),
        ("hangs", 1, "hangs, not waiting for another rank, at callbacks after epoch 1, step 2 for"),
    ],
)
def test_a_mistake_of_one_rank_ends_the_job_and_is_told(how: str, status: int, said: str, tmp_path: Path) -> None:
    ended = run("fit_endings", how, folder=tmp_path)
    assert ended.status == status, ended.output
    assert said in ended.output
    assert "trained" not in ended.stdout
    assert ended.output.count("Traceback") == (how in ("raises", "raises outside"))


def test_a_script_without_mpirun_is_one_rank_and_is_told_so(tmp_path: Path) -> None:
    ended = run_command(["python", "-m", "tests.parallel.fit_endings", "nothing"], tmp_path)
    assert ended.status == 0, ended.output
    first, last = ended.stdout.strip().splitlines()
    assert first.startswith("one rank: started without mpirun, so there is nothing to divide")
    assert last == "trained"
