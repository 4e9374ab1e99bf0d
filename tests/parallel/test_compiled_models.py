"""Compiled models, losses, optimizers and frozen layers at 1 and 2 ranks: one training, whoever divides the work."""

import csv
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import keras
import msgspec
import numpy as np
import pytest
from safetensors.numpy import load_file

from horovod_flowers.runlog.records import EpochRecord
from tests.conftest import Workplace, write_photos_in
from tests.parallel.commands_in_one_job import Command
from tests.single import compiled_models

MODULE = compiled_models.__name__
WIDER = ("--model.name", f"{MODULE}:wider", "--model.options.width", "96")


def own(name: str, *options: str) -> tuple[str, ...]:
    return "--model.name", f"{MODULE}:{name}", *options


def optimizer(name: str, *options: str) -> tuple[str, ...]:
    return *WIDER, "--optimizer.name", name, "--optimizer.warmup-epochs", "0", *options


CASES: dict[str, tuple[str, ...]] = {
    **{
        name: own(name) for name in ("clipped", "scheduled", "own_parts", "one_number", "added_up", "focal", "averaged")
    },
    "balanced": own("focal", "--data.class-weights", "balanced"),
    "accumulated": own("scheduled", "--accumulate", "2"),
    "overridden": own(
        *("scheduled", "--optimizer.learning-rate", "0.001", "--optimizer.clipvalue", "0.01"),
        *("--loss", "kl_divergence", "--optimizer.decay", "polynomial"),
    ),
    "saved": ("--model.name", "model.keras", "--checkpoint-steps", "4", "--keep-checkpoints", "9"),
    "unit": own("unit", "--data.source", "folder", "--data.path", "photos"),
    "rmsprop": optimizer("rmsprop", "--optimizer.options", "{centered: true, momentum: 0.5}", "--loss", "huber"),
    "nadam": optimizer("nadam", "--loss", "categorical_focal_crossentropy", "--label-smoothing", "0.1"),
    "adam": optimizer("adam", "--optimizer.options.amsgrad", "true", "--loss", "dice"),
    "adafactor": optimizer("adafactor", "--optimizer.decay", "exponential", "--optimizer.decay-epochs", "1"),
    "muon": optimizer("muon", "--loss", "hinge", "--optimizer.decay", "piecewise", "--optimizer.decay-epochs", "0.5"),
    "averaged_frozen": optimizer(
        *("adam", "--model.freeze", "wide", "--average-decay", "0.8"),
        *("--checkpoint-steps", "4", "--keep-checkpoints", "9"),
    ),
    "frozen": optimizer("sgd", "--optimizer.options", '{"nesterov": true}', "--model.freeze", "head,*/bias"),
}
STRATEGIES = {
    "sharded": ("averaged", "clipped", "scheduled", "balanced", "rmsprop", "adam", "frozen"),
    "tensor": ("clipped", "own_parts", "overridden", "nadam", "frozen"),
}
INTERRUPTED = ("saved", "averaged_frozen")
TWO_RANKS = {
    **{(name, "allreduce"): words for name, words in CASES.items()},
    **{(name, each): (*CASES[name], "--strategy", each) for each, names in STRATEGIES.items() for name in names},
}


@dataclass(frozen=True)
class Trained:
    """The runs of this module at one rank and at two, and what those at one printed."""

    alone: Path
    together: Path
    printed: dict[str, str]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, prepared_folder: Path) -> Trained:
    """Every case; and at one rank what goes on from the middle of an epoch at two, when the model's file has gone."""
    workplace = Workplace(tmp_path_factory.mktemp("compiled"), prepared_folder)
    folder, common = workplace.folder, ("--global-batch", "16", "--shard-above", "10000")
    compiled_models.clipped(32, 5).save(folder / "model.keras")
    write_photos_in(folder, red=24, blue=16)
    data = ("--data.image-size", "32", "--data.source", "folder", "--data.path", "photos")
    preparing = Command.of("horovod_flowers.prepare", *data, "--data.prepared-dir", prepared_folder)
    together = {
        (name, strategy): workplace.training(*common, *words, "--runs-dir", "two", "--name", f"{name}-{strategy}")
        for (name, strategy), words in TWO_RANKS.items()
    }
    workplace.run_in_one_job(preparing)
    workplace.run_in_one_job(*together.values(), ranks=2)
    for name in INTERRUPTED:
        interrupted = folder / "one" / f"interrupted-{name}"
        shutil.copytree(folder / "two" / f"{name}-allreduce", interrupted)
        shutil.copy(interrupted / "checkpoints" / "earlier-00000004.safetensors", folder / "middle.safetensors")
        shutil.rmtree(interrupted / "checkpoints")
        (interrupted / "checkpoints").mkdir()
        shutil.copy(folder / "middle.safetensors", interrupted / "checkpoints" / "last.safetensors")
    alone = {
        name: workplace.training(*common, *words, "--runs-dir", "one", "--name", name) for name, words in CASES.items()
    }
    printed = workplace.run_in_one_job(*alone.values(), ranks=1)
    (folder / "model.keras").unlink()
    saved, last, fp32 = "one/interrupted-saved", ("--checkpoint", "last"), ("--precision", "fp32")
    workplace.run_in_one_job(
        *(
            workplace.training("--runs-dir", "one", "--name", f"interrupted-{name}", "--resume", *common)
            for name in INTERRUPTED
        ),
        Command.of("horovod_flowers.evaluate", saved, *last),
        Command.of("horovod_flowers.export", saved, *last),
        Command.of("horovod_flowers.predict", "photos", "--run", saved, *last, *fp32, "--output", "of_run.csv"),
        Command.of(
            "horovod_flowers.predict", "photos", "--model", f"{saved}/export", *fp32, "--output", "of_export.csv"
        ),
    )
    return Trained(folder / "one", folder / "two", dict(zip(CASES, printed, strict=True)))


def epochs_of(run: Path) -> list[EpochRecord]:
    """Without a look at its steps, of which a rank has done two and two ranks the rest."""
    return [msgspec.json.decode(line, type=EpochRecord) for line in (run / "epochs.jsonl").read_bytes().splitlines()]


def same_training(one: Path, other: Path) -> None:
    """Epochs and weights, to rounding."""
    for alone, together in zip(epochs_of(one), epochs_of(other), strict=True):
        assert together.training_loss == pytest.approx(alone.training_loss, rel=1e-4)
        assert together.validation_loss == pytest.approx(alone.validation_loss, rel=1e-4)
        assert together.learning_rate == alone.learning_rate
        assert together.training_metrics == pytest.approx(alone.training_metrics, rel=1e-4, abs=1e-4)
        assert together.validation_metrics == pytest.approx(alone.validation_metrics, rel=1e-4, abs=1e-4)
    weights, others = (load_file(run / "checkpoints" / "last.safetensors") for run in (one, other))
    assert weights.keys() == others.keys()
    for name, value in weights.items():
        if name.startswith(("weight.", "average.")):
            difference = np.linalg.norm(value.astype(np.float64) - others[name])
            assert difference <= 1e-4 * np.linalg.norm(value), name


@pytest.mark.parametrize(("name", "strategy"), TWO_RANKS)
def test_two_ranks_train_what_one_rank_trains(trained: Trained, name: str, strategy: str) -> None:
    same_training(trained.alone / name, trained.together / f"{name}-{strategy}")


def test_a_run_goes_on_from_the_middle_of_an_epoch_with_its_metrics_and_its_own_copy_of_the_model(
    trained: Trained,
) -> None:
    same_training(trained.alone / "saved", trained.alone / "interrupted-saved")
    metrics = epochs_of(trained.alone / "interrupted-saved")[0].training_metrics
    assert list(metrics) == ["accuracy", "top2"]
    evaluated = json.loads((trained.alone / "interrupted-saved" / "evaluation" / "evaluation.json").read_text())
    accuracy = epochs_of(trained.alone / "saved")[0].validation_metrics["accuracy"]
    assert evaluated["accuracy"]["value"] == pytest.approx(accuracy)


def test_a_run_with_frozen_layers_and_averaged_weights_goes_on_from_the_middle_of_an_epoch(trained: Trained) -> None:
    """From a checkpoint of two ranks, on one; the average is not that of the last weights."""
    same_training(trained.alone / "averaged_frozen", trained.alone / "interrupted-averaged_frozen")
    stored = load_file(trained.alone / "interrupted-averaged_frozen" / "checkpoints" / "last.safetensors")
    averages = [name for name in stored if name.startswith("average.")]
    assert averages
    assert any(not np.array_equal(stored[name], stored[name.replace("average.", "weight.")]) for name in averages)


def test_a_compiled_model_is_predicted_with_and_exported_as_it_answers(trained: Trained) -> None:
    of_run, of_export = (
        list(csv.DictReader((trained.alone.parent / name).open())) for name in ("of_run.csv", "of_export.csv")
    )
    assert len(of_run) == 40
    model = keras.models.load_model(trained.alone / "interrupted-saved" / "export" / "model.keras")
    stored = load_file(trained.alone / "interrupted-saved" / "checkpoints" / "last.safetensors")
    for number, value in enumerate(model.get_weights()):
        assert np.array_equal(value, stored[f"weight.{number:04d}"])
    for run, exported in zip(of_run, of_export, strict=True):
        assert run.keys() == exported.keys()
        for column, value in run.items():
            try:
                assert float(exported[column]) == pytest.approx(float(value), abs=1e-5), column
            except ValueError:
                assert exported[column] == value


def test_what_a_compiled_model_brings_and_what_goes_before_it_is_said(trained: Trained) -> None:
    said = trained.printed
    for name, sentence in {
        "clipped": "its optimizer SGD (learning rate 0.02, at any global batch) and its loss sparse_categorical_c",
        "scheduled": "its optimizer AdamW (learning rate by PiecewiseConstantDecay) and its loss categorical_crosse",
        "overridden": "--loss kl_divergence instead of its loss; --optimizer.clipvalue instead of its clipping; "
        "--optimizer.learning-rate 0.001 instead of its PiecewiseConstantDecay",
        "focal": "and its metrics f1, weighted",
        "saved": "model from model.keras, with the weights that it has",
        "frozen": "frozen by 'head': 1 layer; frozen by '*/bias': 2 weight tensors; 18,432 weights in 1 tensor are",
    }.items():
        assert sentence in said[name], said[name]


def test_the_learning_rate_of_a_compiled_schedule_counts_updates(trained: Trained) -> None:
    """Six steps: the third value is for updates after the fourth."""
    for name, rate in {"scheduled": 0.001, "accumulated": 0.01}.items():
        assert epochs_of(trained.alone / name)[0].learning_rate == pytest.approx(rate)


def test_frozen_weights_stay_as_they_were(trained: Trained) -> None:
    stored = load_file(trained.alone / "frozen" / "checkpoints" / "last.safetensors")
    began = [np.array(variable) for variable in compiled_models.wider(32, 5, 96).variables]
    kept = [np.array_equal(stored[f"weight.{number:04d}"], value) for number, value in enumerate(began)]
    assert kept == [False, True, True, True]
