"""The configuration tree: what it accepts, what it refuses, and how flags and YAML become it."""

from pathlib import Path

import pytest

from horovod_flowers.config.command_line import flags, parse, to_yaml
from horovod_flowers.config.data import DataConfig
from horovod_flowers.config.run import RunConfig
from horovod_flowers.runtime.errors import UserError


def read(*arguments: str) -> RunConfig:
    return parse(RunConfig, "horovod_flowers.train", "Train.", arguments)


def test_flags_use_dashes_and_reach_the_tree() -> None:
    config = read("--global-batch", "64", "--data.image-size", "96", "--resume", "--name", "a", "--no-checkpoint")
    assert (config.global_batch, config.data.image_size) == (64, 96)
    assert (config.resume, config.checkpoint) == (True, False)


def test_flags_override_the_yaml_file(tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    file.write_text("epochs: 4\ndata:\n  image_size: 77\n")
    config = read("--config", str(file), "--epochs", "9")
    assert (config.epochs, config.data.image_size) == (9, 77)


def test_a_written_configuration_reads_back_equal(tmp_path: Path) -> None:
    config = read("--global-batch", "64", "--optimizer.decay", "cosine", "--data.augment", "--name", "x")
    file = tmp_path / "config.yaml"
    file.write_text(to_yaml(config))
    assert read("--config", str(file)) == config


def test_print_config_is_readable_yaml(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as end:
        read("--epochs", "7", "--print-config")
    assert end.value.code == 0
    file = tmp_path / "printed.yaml"
    file.write_text(capsys.readouterr().out)
    assert read("--config", str(file)).epochs == 7


def test_help_explains_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        read("--help")
    assert end.value.code == 0
    text = capsys.readouterr().out
    for flag in ("--global-batch", "--per-rank-batch", "--strategy", "--data.source", "--optimizer.decay", "--resume"):
        assert f"\n  {flag}" in text


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--epoch", "3"], "there is no option --epoch: did you mean --epochs?"),
        (["--data.imagesize", "3"], "there is no option --data.imagesize: did you mean --data.image-size?"),
        (["--epochs", "many"], "epochs is 'many': allowed is a whole number"),
        (["--epochs", "0"], "epochs is 0: give a positive whole number"),
        (["--commit-steps", "0"], "commit_steps is 0: give a positive whole number"),
        (["--elastic", "--strategy", "sharded"], "strategy is 'sharded' but elastic training keeps all weights on"),
        (
            ["--strategy", "ring"],
            "strategy is 'ring': allowed is one of 'allreduce', 'sharded', 'tensor', 'mesh', 'none', 'auto'",
        ),
        (["--data.validation-fraction", "1.5"], "validation_fraction is 1.5: give a share between 0 and 1"),
        (["--global-batch", "64", "--per-rank-batch", "32"], "give --global-batch for strong scaling or --per-rank"),
        (["--name", "../elsewhere"], "name is '../elsewhere': use up to 128 letters"),
        (["--resume"], "resume needs to know which run: add --name RUN"),
        (["--data.source", "folder"], "no folder is given: add --data.path FOLDER"),
        (["--data.path", "photos"], "data.source is 'synthetic': add --data.source folder"),
        (["--optimizer.learning-rate", "-1"], "learning_rate is -1.0: give a positive number"),
        (["--optimizer.learning-rate", "nan"], "learning_rate is 'nan': allowed is a number"),
        (["--seed", "-1"], "seed is -1: give 0 or a positive whole number"),
        (["--config", "/no/such/file.yaml"], "/no/such/file.yaml"),
        (["--label-smoothing", "1"], "label_smoothing is 1.0: give a number from 0 to below 1"),
        (["--average-decay", "-0.1"], "average_decay is -0.1: give a number from 0 to below 1"),
        (["--early-stopping", "0"], "early_stopping is 0: give a positive whole number"),
        (["--early-stopping", "2", "--no-validate"], "leave out --no-validate or --early-stopping"),
        (["--early-stopping-on", "loss"], "early_stopping_on is given without --early-stopping: add it"),
        (["--optimizer.plateau-epochs", "2", "--no-validate"], "leave out --no-validate or --optimizer.plateau-epochs"),
        (
            ["--optimizer.plateau-epochs", "2", "--optimizer.decay", "cosine"],
            "validation loss or a curve, not both",
        ),
        (["--optimizer.plateau-factor", "0.5"], "plateau_factor needs --optimizer.plateau-epochs: add it"),
        (["--optimizer.weight-decay", "1"], "weight_decay is 1.0: give 0 to below 1, such as 0.05"),
        (["--optimizer.global-clipnorm", "0"], "global_clipnorm is 0.0: give a positive number, such as 1"),
        (["--optimizer.clipnorm", "nan"], "clipnorm is 'nan': allowed is a number"),
        (["--data.crop-size", "64"], "data.crop_size is given but images are not augmented: add --data.augment"),
        (["--data.augment", "--data.crop-size", "200"], "crop_size is 200: give 24 to data.image_size (180) pixels"),
        (["--data.stretch", "0.5"], "data.stretch is 0.5: give a number from 1 to 4"),
        (["--data.test-fraction", "0.9"], "data.test_fraction is 0.9: give 0 to below 0.85"),
    ],
)
def test_mistakes_get_one_sentence(arguments: list[str], sentence: str) -> None:
    with pytest.raises(UserError) as error:
        read(*arguments)
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("epochs: four\n", "epochs is 'four'"),
        ("epocks: 4\n", "epocks"),
        ("epochs: [4\n", "onfig"),
        ("data: 3\n", "data"),
    ],
)
def test_mistakes_in_yaml_get_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    file = tmp_path / "job.yaml"
    file.write_text(text)
    with pytest.raises(UserError) as error:
        read("--config", str(file))
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


def test_global_batch_is_divided_equally_or_refused() -> None:
    assert RunConfig(global_batch=64).global_batch_for(4) == 64
    assert RunConfig(per_rank_batch=16).global_batch_for(4) == 64
    assert RunConfig().global_batch_for(8) == 256
    assert RunConfig(global_batch=64, elastic=True).global_batch_for(3) == 64  # some ranks get one image less
    with pytest.raises(UserError, match="cannot be divided equally over 3 ranks: try 63 or 66"):
        RunConfig(global_batch=64).global_batch_for(3)
    with pytest.raises(UserError, match="try 4$"):
        RunConfig(global_batch=2).global_batch_for(4)


def test_more_ranks_or_batch_than_images_are_refused() -> None:
    with pytest.raises(UserError, match="200 ranks are more than the 100 training images"):
        RunConfig(per_rank_batch=1).check_against(200, 100, 10)
    with pytest.raises(UserError, match="a global batch of 128 images"):
        RunConfig(global_batch=128).check_against(2, 100, 10)
    with pytest.raises(UserError, match="no image is left for validation"):
        RunConfig().check_against(1, 100, 0)
    RunConfig(global_batch=100).check_against(2, 100, 1)


def test_configurations_cannot_change_after_the_check() -> None:
    with pytest.raises(AttributeError):
        DataConfig().image_size = 3  # type: ignore[misc]


def test_flags_spell_options_so_that_they_are_read_back() -> None:
    options = {"steps": None, "epochs": 3, "validate": False, "data.augment": True, "optimizer.learning_rate": 0.5}
    words = flags(options)
    assert words[:4] == ["--steps", "null", "--epochs", "3"]
    config = read(*words)
    assert (config.steps, config.epochs, config.validate) == (None, 3, False)
    assert (config.data.augment, config.optimizer.learning_rate) == (True, 0.5)
    assert read("--data.augment", *flags({"data.augment": False})).data.augment is False
