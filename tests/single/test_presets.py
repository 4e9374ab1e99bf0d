"""Presets: values that other options start from, below the user's file and flags."""

from pathlib import Path

import pytest
import yaml

from horovod_flowers.config.command_line import build, parse
from horovod_flowers.config.options import flat_options
from horovod_flowers.config.run import PRESETS, RunConfig
from horovod_flowers.preflight.__main__ import PreflightConfig
from horovod_flowers.runlog.reading.config import read_config as read_recorded
from horovod_flowers.runtime.errors import UserError
from horovod_flowers.study.file import read_study
from horovod_flowers.study.point import TrainingPoint, option_words
from horovod_flowers.study.points import points_of
from horovod_flowers.training.resume import read_config


def test_every_preset_has_its_file_and_differs_from_the_defaults() -> None:
    for file in PRESETS.glob("*.yaml"):
        values = yaml.safe_load(file.read_text())
        assert values["preset"] == file.stem
        config = build(RunConfig, values)
        assert read_config(["--preset", file.stem], 0) == config
        assert config != RunConfig(preset=config.preset)
    assert read_config(["--preset", "plain"], 0) == read_config([], 0) == RunConfig()


def test_flags_and_the_users_file_override_a_preset(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("preset: accurate\nepochs: 7\noptimizer:\n  weight_decay: 0.25\n")
    config = read_config(["--config", str(file), "--seed=3"], 0)
    assert (config.model.name, config.epochs, config.optimizer.weight_decay) == ("flower_resnet", 7, 0.25)
    config = read_config([f"--config={file}", "--preset=accurate", "--epochs", "9"], 0)
    assert (config.epochs, config.optimizer.weight_decay, config.data.augment) == (9, 0.25, True)


def test_an_unknown_preset_gets_one_sentence() -> None:
    with pytest.raises(UserError, match=r"preset is '?best'?: allowed is one of 'plain', 'accurate'"):
        read_config(["--preset", "best"], 0)


def test_options_that_came_later_say_what_older_runs_did(tmp_path: Path) -> None:
    later = {"preset", "label_smoothing", "average_decay", "early_stopping"}
    older = yaml.safe_load(yaml.safe_dump({k: v for k, v in _plain().items() if k not in later}))
    del older["data"]["erase"], older["model"]["weights"]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(older))
    assert flat_options(read_recorded(tmp_path / "config.yaml")) == flat_options(_plain())
    del older["seed"]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(older))
    with pytest.raises(UserError, match="seed is missing"):
        read_recorded(tmp_path / "config.yaml")


def _plain() -> dict:
    from dataclasses import asdict

    return asdict(RunConfig())


@pytest.mark.parametrize(
    "words",
    [[], ["--epochs", "3"], ["--preset", "accurate"], ["--preset", "accurate", "--epochs", "1", "--no-data.augment"]],
)
def test_the_words_that_a_study_gives_train_mean_its_options(words: list[str]) -> None:
    """Also where an option has its default again, which the preset had changed."""
    if "--no-data.augment" in words:
        words = [*words, "--data.crop-size", "null"]
    config = read_config(words, 0)
    assert read_config(option_words(config), 0) == config
    assert len(option_words(config)) <= len(words)


def test_a_job_file_may_name_a_preset(tmp_path: Path) -> None:
    study = {"name": "a", "ranks": [1], "options": {"preset": "accurate", "epochs": 2, "global_batch": 32}}
    file = tmp_path / "a.yaml"
    file.write_text(yaml.safe_dump(study))
    (point, *_) = points_of(read_study(file), file, "runs")
    assert isinstance(point, TrainingPoint)
    assert (point.config.model.name, point.config.epochs) == ("flower_resnet", 2)
    assert parse(PreflightConfig, "preflight", "", option_words(point.config)).data.crop_size == 128
