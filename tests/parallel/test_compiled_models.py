"""Compiled models, losses, optimizers and frozen layers at 1 and 2 ranks: one training, whoever divides the work."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from horovod_flowers.runlog.reading.run import read_run
from tests.conftest import Workplace
from tests.parallel.commands_in_one_job import Command
from tests.single import compiled_models

MODULE = compiled_models.__name__
OWN = ("--model.name", f"{MODULE}:wider", "--model.options.width", "96")
TWO = ("--data.synthetic-images", "120")

CASES: dict[str, tuple[str, ...]] = {
    **{name: ("--model.name", f"{MODULE}:{name}") for name in ("clipped", "scheduled", "own_parts", "one_number")},
    **{name: ("--model.name", f"{MODULE}:{name}") for name in ("one_sum", "added_up", "focal", "by_name")},
    "whole_weights": ("--model.name", f"{MODULE}:whole_weights"),
    "instance": ("--model.name", f"{MODULE}:INSTANCE"),
    "balanced": ("--model.name", f"{MODULE}:focal", "--data.class-weights", "balanced"),
    "accumulated": ("--model.name", f"{MODULE}:scheduled", "--accumulate", "2"),
    "overridden": (
        *("--model.name", f"{MODULE}:scheduled", "--optimizer.learning-rate", "0.001"),
        *("--optimizer.clipvalue", "0.01", "--loss", "kl_divergence", "--optimizer.decay", "polynomial"),
    ),
    **{
        f"{name} {strategy}": (*OWN, "--optimizer.name", name, "--strategy", strategy, *options)
        for name, strategy, options in (
            ("rmsprop", "sharded", ("--optimizer.options", "{centered: true, momentum: 0.5}")),
            ("nadam", "tensor", ("--loss", "categorical_focal_crossentropy", "--label-smoothing", "0.1")),
            ("adam", "sharded", ("--optimizer.options.amsgrad", "true", "--loss", "hinge")),
            ("adagrad", "tensor", ("--loss", "huber", "--loss-options.delta", "0.3")),
            ("adadelta", "sharded", ("--loss", "mse", "--optimizer.clipvalue", "0.001")),
            ("adamax", "tensor", ("--loss", "dice", "--optimizer.clipnorm", "0.01")),
            ("adamw", "sharded", ("--optimizer.weight-decay", "0.1", "--loss", "poisson")),
            ("ftrl", "sharded", ("--loss", "categorical_generalized_cross_entropy")),
            ("lion", "sharded", ("--loss", "binary_crossentropy")),
            ("adafactor", "allreduce", ("--optimizer.decay", "exponential", "--optimizer.decay-epochs", "1")),
            ("lamb", "allreduce", ("--optimizer.decay", "piecewise", "--optimizer.decay-epochs", "1")),
            ("muon", "allreduce", ("--loss", "cosine_similarity")),
            ("sgd", "sharded", ("--optimizer.options", '{"nesterov": true}', "--model.freeze", "head,*/bias")),
            ("sgd", "tensor", ("--model.freeze", "head")),
        )
    },
    **{
        f"{name} {strategy}": ("--model.name", f"{MODULE}:{name}", "--strategy", strategy)
        for name, strategy in (
            *(("clipped", "sharded"), ("clipped", "tensor"), ("scheduled", "sharded")),
            *(("own_parts", "tensor"), ("focal", "sharded")),
        )
    },
}


def commands(workplace: Workplace) -> list[Command]:
    common = ("--global-batch", "16", "--epochs", "2", "--shard-above", "10000", "--optimizer.warmup-epochs", "0")
    free = ("--global-batch", "16", "--epochs", "2", "--shard-above", "10000")
    return [
        workplace.training(*(free if "optimizer.name" not in " ".join(words) else common), *words, "--name", name)
        for name, words in ((name.replace(" ", "-"), words) for name, words in CASES.items())
    ]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, prepared_folder: Path) -> dict[int, tuple[Path, dict[str, str]]]:
    """The runs and what each printed, by the number of ranks."""
    found = {}
    for ranks in (1, 2):
        workplace = Workplace(tmp_path_factory.mktemp(f"compiled {ranks}"), prepared_folder)
        printed = workplace.run_in_one_job(*commands(workplace), ranks=ranks)
        found[ranks] = workplace.folder / "runs", dict(zip(CASES, printed, strict=True))
    return found


@pytest.mark.parametrize("name", CASES)
def test_two_ranks_train_what_one_rank_trains(trained: dict[int, tuple[Path, dict[str, str]]], name: str) -> None:
    one, two = (read_run(trained[ranks][0] / name.replace(" ", "-")) for ranks in (1, 2))
    for alone, together in zip(one.epochs, two.epochs, strict=True):
        assert together.training_loss == pytest.approx(alone.training_loss, rel=1e-4)
        assert together.validation_loss == pytest.approx(alone.validation_loss, rel=1e-4)
        assert together.learning_rate == alone.learning_rate
        assert together.training_metrics == pytest.approx(alone.training_metrics, rel=1e-4, abs=1e-4)
        assert together.validation_metrics == pytest.approx(alone.validation_metrics, rel=1e-4, abs=1e-4)
    checkpoints = [
        load_file(trained[ranks][0] / name.replace(" ", "-") / "checkpoints" / "last.safetensors") for ranks in (1, 2)
    ]
    assert checkpoints[0].keys() == checkpoints[1].keys()
    for key, value in checkpoints[0].items():
        if key.startswith("weight."):
            difference = np.linalg.norm(value.astype(np.float64) - checkpoints[1][key])
            assert difference <= 1e-4 * np.linalg.norm(value), key
