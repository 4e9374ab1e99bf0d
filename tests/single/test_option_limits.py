"""Limits of numbers, declared with the option: every command refuses what is outside in one sentence."""

from dataclasses import MISSING, fields, is_dataclass, replace
from typing import Any

import pytest

from horovod_flowers.bench.__main__ import BenchConfig
from horovod_flowers.collectives.config import MicrobenchmarkConfig
from horovod_flowers.config.data import DataConfig
from horovod_flowers.config.optimizer import OptimizerConfig
from horovod_flowers.config.options import check_limits, option, rank_counts
from horovod_flowers.config.run import HorovodConfig, RunConfig
from horovod_flowers.evaluate import EvaluateConfig
from horovod_flowers.export import ExportConfig
from horovod_flowers.launcher import LauncherConfig
from horovod_flowers.predict import PredictConfig
from horovod_flowers.prepare import PrepareConfig
from horovod_flowers.runtime.errors import UserError
from horovod_flowers.study.__main__ import StudyConfig

ALL = (
    *(
        RunConfig(name="a", strategy="auto"),
        DataConfig(),
        OptimizerConfig(),
        HorovodConfig(),
        LauncherConfig(),
        PrepareConfig(),
    ),
    *(EvaluateConfig(run=("r",)), MicrobenchmarkConfig(), PredictConfig(photos=("p",), run="r"), BenchConfig()),
    *(ExportConfig(run=("r",)), StudyConfig(files=("f",))),
)


@pytest.mark.parametrize("config", ALL, ids=lambda config: type(config).__name__)
def test_every_limit_is_checked_when_the_options_are_made(config: Any) -> None:
    """Just outside of each limit, and just inside of those that are part of the range."""
    checked = 0
    for item in fields(config):
        if is_dataclass(item.type) or "option" not in item.metadata or item.default is MISSING:
            continue
        declared = item.metadata["option"]
        outside = [
            *([] if declared.at_least is None else [declared.at_least - 1]),
            *([] if declared.above is None else [declared.above]),
            *([] if declared.at_most is None else [declared.at_most + 1]),
            *([] if declared.below is None else [declared.below]),
        ]
        for value in outside:
            checked += 1
            with pytest.raises(UserError, match=rf"{item.name} is {value}: "):
                replace(config, **{item.name: value})
        if declared.at_least is not None:
            replace(config, **{item.name: declared.at_least})
    assert checked


@pytest.mark.parametrize(
    ("limits", "value", "sentence"),
    [
        ({"at_least": 1}, 0, "x.number is 0: give a positive whole number"),
        ({"at_least": 0}, -1, "x.number is -1: give 0 or a positive whole number"),
        ({"at_least": 3}, 2, "x.number is 2: give at least 3"),
        ({"at_least": 0, "at_most": 0.9}, 1.5, "x.number is 1.5: give a number from 0 to 0.9"),
        ({"at_least": 0, "below": 1}, float("nan"), "x.number is nan: give a number from 0 to below 1"),
        ({"above": 0, "limits": "give more"}, 0, "x.number is 0: give more"),
    ],
)
def test_limits_are_told_in_words(limits: dict[str, Any], value: float, sentence: str) -> None:
    declared = option(0, "a number", **limits).metadata["option"]
    with pytest.raises(UserError) as refused:
        declared.check_limits("x.number", value)
    assert str(refused.value) == sentence
    declared.check_limits("x.number", None)


def test_options_without_limits_are_left_alone() -> None:
    check_limits(RunConfig())


@pytest.mark.parametrize("words", ["0", "1,", "", "a", "1, 2", "²", "-1", "9" * 5000])
def test_numbers_of_ranks_are_positive_and_whole(words: str) -> None:
    with pytest.raises(UserError, match="give positive whole numbers separated by commas, such as 1,2"):
        rank_counts(words)
    assert rank_counts("4,1,04") == [4, 1, 4]
