"""Photos of one's own, from the folder to the test set: own sets, weights, and a run whose photos have gone."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from horovod_flowers.config.data import DataConfig
from horovod_flowers.data.prepared import prepare
from horovod_flowers.data.sources import open_source
from horovod_flowers.runlog.reading.run import read_run
from tests.conftest import Workplace, write_photos_in
from tests.parallel.commands_in_one_job import Command


@dataclass(frozen=True)
class Trained:
    """Runs, and what each command printed."""

    runs: Path
    printed: dict[str, str]


@pytest.fixture(scope="module")
def trained(shared_workplace: Workplace, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A set with parts of its own, trained and, without its photos, resumed and tested; an unequal one, trained with
    balanced classes on one rank and on two."""
    folder, prepared = tmp_path_factory.mktemp("own"), shared_workplace.prepared
    for part, images in (("train", 8), ("val", 2), ("test", 3)):
        shutil.copytree(write_photos_in(folder / part, red=images, blue=images), folder / "sets" / part)
    unequal = write_photos_in(folder, red=30, blue=3)
    for photos in (folder / "sets", unequal):
        config = DataConfig(source="folder", path=str(photos), image_size=32)
        prepare(prepared, open_source(config), processes=1)

    def training(photos: Path, *words: str) -> Command:
        options: tuple[str | Path, ...] = (
            "--data.source",
            "folder",
            "--data.path",
            photos,
            "--global-batch",
            "8",
            "--threads",
            "1",
        )
        options += ("--warmup-steps", "0")
        return shared_workplace.training(*options, *words)

    balanced = ("--data.class-weights", "balanced", "--name")
    commands = {
        "sets": training(folder / "sets", "--name", "sets"),
        "two": training(unequal, *balanced, "two"),
        "plain": training(unequal, "--name", "plain"),
    }
    printed = dict(zip(commands, shared_workplace.run_in_one_job(*commands.values(), ranks=2), strict=True))
    (printed["one"],) = shared_workplace.run_in_one_job(training(unequal, *balanced, "one"))
    shutil.rmtree(folder)
    later = {
        "resumed": training(folder / "sets", "--name", "sets", "--epochs", "2", "--resume"),
        "tested": Command.of("horovod_flowers.evaluate", "runs/sets", "--split", "test"),
    }
    printed |= dict(zip(later, shared_workplace.run_in_one_job(*later.values(), ranks=2), strict=True))
    return Trained(shared_workplace.folder / "runs", printed)


def test_training_says_which_classes_it_has(trained: Trained) -> None:
    rows = [line.split() for line in trained.printed["sets"].splitlines()]
    for row in (
        ["class", "training", "validation", "test"],
        ["blue", "8", "2", "3"],
        ["red", "8", "2", "3"],
        ["all", "16", "4", "6"],
    ):
        assert row in rows
    assert "comes with sets of its own: train (training), val (validation), test (test)" in trained.printed["sets"]


def test_a_run_goes_on_without_its_photos_and_is_tested_on_its_test_set(trained: Trained) -> None:
    assert [epoch.epoch for epoch in read_run(trained.runs / "sets").epochs] == [1, 2]
    assert "resuming after epoch 1, step 2" in trained.printed["resumed"]
    tested = json.loads((trained.runs / "sets" / "evaluation-test" / "evaluation.json").read_bytes())
    assert (tested["images"], [row["images"] for row in tested["classes"]]) == (6, [3, 3])


def test_balanced_classes_train_alike_on_one_rank_and_on_two(trained: Trained) -> None:
    (one,), (two,), (plain,) = (read_run(trained.runs / name).epochs for name in ("one", "two", "plain"))
    assert one.training_loss is not None
    assert plain.training_loss is not None
    assert two.training_loss == pytest.approx(one.training_loss, rel=1e-4)
    assert two.images == one.images == plain.images
    assert abs(plain.training_loss - one.training_loss) > 1e-3
