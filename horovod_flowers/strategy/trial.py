"""Which strategy is fastest here: a few timed steps of each that fits, before training begins ('auto')."""

import gc
import statistics
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from horovod_flowers.config.choices import INDEPENDENT, STRATEGIES, StrategyName
from horovod_flowers.runlog.records import Trial
from horovod_flowers.runtime.errors import UserError

WARMUP_STEPS = 2
TIMED_STEPS = 5


class Timed(Protocol):
    """What a trial needs of a training."""

    def time_steps(self, updates: int) -> list[float]:
        """Seconds a step of the slowest rank, in each of some updates."""
        ...


def candidates(world_size: int, group: int) -> list[StrategyName]:
    """Strategies to try at this world size, where a mesh would have groups of `group` ranks."""
    divisible = 1 < group < world_size
    return [name for name in STRATEGIES if name != INDEPENDENT and (name != "mesh" or divisible)]


def try_out(names: Sequence[StrategyName], start: Callable[[StrategyName], Timed]) -> list[Trial]:
    """Time each strategy on a training of its own, made by `start` and thrown away: nothing of it reaches the run.

    A strategy that finds nothing to divide in the model is left out. Every rank calls it and gets the same answer.
    Raises the UserError of the last one where none fits: the mistake is then not the strategy's.
    """
    trials, refusal = [], None
    for name in names:
        try:
            training: Any = start(name)
        except UserError as error:
            refusal = error
            continue
        seconds = training.time_steps(WARMUP_STEPS + TIMED_STEPS)[WARMUP_STEPS:]
        trials.append(Trial(strategy=name, steps=TIMED_STEPS, median_step_seconds=statistics.median(seconds)))
        del training
        gc.collect()  # the next one needs the memory
    if refusal is not None and not trials:
        raise refusal
    return trials


def fastest(trials: Sequence[Trial]) -> str:
    """The strategy with the shortest median step."""
    return min(trials, key=lambda trial: trial.median_step_seconds).strategy
