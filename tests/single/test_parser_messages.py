"""What jsonargparse says is known for one version alone: asked for here, message by message."""

import importlib.metadata
import re
from pathlib import Path
from typing import Any, NoReturn

import jsonargparse
import pytest

from horovod_flowers.config import parser_messages
from horovod_flowers.config.command_line import add_options, parse
from horovod_flowers.config.run import RunConfig
from horovod_flowers.runtime.errors import UserError
from tests.conftest import PROJECT


class Said(Exception):
    """What the parser said."""


class Parser(jsonargparse.ArgumentParser):
    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        raise Said(message)


def message_for(*words: str) -> str:
    parser = Parser(default_env=False, allow_abbrev=False)
    parser.add_argument("--config", action="config")
    add_options(parser, RunConfig)
    with pytest.raises(Said) as said:
        parser.parse_args(list(words))
    return re.sub(r"\s+", " ", "; ".join(line.strip(" -\t") for line in str(said.value).splitlines()))


def test_the_patterns_are_of_the_version_that_is_installed_and_pinned() -> None:
    installed = importlib.metadata.version("jsonargparse")
    written = parser_messages.WRITTEN_FOR
    assert installed == written, (
        f"jsonargparse {installed} is installed, and config/parser_messages.py reads the messages of {written}: run "
        "these tests, mend the patterns that no longer match, and change WRITTEN_FOR"
    )
    assert f'"jsonargparse=={written}"' in (PROJECT / "pyproject.toml").read_text(), "pyproject.toml pins another one"


@pytest.mark.parametrize(
    ("words", "pattern", "groups"),
    [
        (["--epoch", "3"], "NO_SUCH_FLAG", {"word": "--epoch"}),
        (["--data.imagesize=3"], "NO_SUCH_FLAG", {"word": "--data.imagesize=3"}),
        ("epocks: 4\n", "NO_SUCH_KEY", {"key": "epocks"}),
        ("data:\n  imagesize: 4\n", "NO_SUCH_KEY", {"key": "data.imagesize"}),
        (["--epochs", "many"], "WRONG_VALUE", {"key": "epochs", "value": "many"}),
        (["--optimizer.name", "x"], "WRONG_VALUE", {"key": "optimizer.name", "value": "x"}),
        ("data: {image_size: x}\n", "WRONG_VALUE", {"key": "data.image_size", "value": "x"}),
        (["--steps", "x"], "WRONG_VALUE_OF_SEVERAL_KINDS", {"key": "steps", "value": "x"}),
        (["--horovod.cycle-time-ms", "x"], "WRONG_VALUE_OF_SEVERAL_KINDS", {"key": "horovod.cycle_time_ms"}),
    ],
)
def test_each_pattern_matches_what_that_version_says(
    tmp_path: Path, words: list[str] | str, pattern: str, groups: dict[str, str]
) -> None:
    if isinstance(words, str):
        (tmp_path / "job.yaml").write_text(words)
        words = ["--config", str(tmp_path / "job.yaml")]
    found = getattr(parser_messages, pattern).match(message_for(*words))
    assert found is not None
    assert groups.items() <= found.groupdict().items()


def test_there_is_no_pattern_that_no_message_is_asked_for() -> None:
    patterns = {name for name, value in vars(parser_messages).items() if isinstance(value, re.Pattern)}
    assert patterns == {"NO_SUCH_FLAG", "NO_SUCH_KEY", "WRONG_VALUE", "WRONG_VALUE_OF_SEVERAL_KINDS"}


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--steps", "x"], "steps is 'x': allowed is a whole number"),
        (["--horovod.cycle-time-ms", "fast"], "horovod.cycle_time_ms is 'fast': allowed is a number"),
        (["--epochs"], "argument --epochs: expected one argument (--help lists what is allowed)"),
        (["--resume=3"], "argument --resume/--no-resume: ignored explicit argument '3' (--help lists what is allowed)"),
        ("epochs: null\n", "epochs is 'None', which is not of that option's type"),
        ("data: {augment: null}\n", "data.augment is 'None', which is not of that option's type"),
    ],
)
def test_the_user_gets_one_sentence(tmp_path: Path, words: Any, sentence: str) -> None:
    if isinstance(words, str):
        (tmp_path / "job.yaml").write_text(words)
        words = ["--config", str(tmp_path / "job.yaml")]
    with pytest.raises(UserError) as refused:
        parse(RunConfig, "horovod_flowers.train", "", words)
    assert str(refused.value) == sentence
