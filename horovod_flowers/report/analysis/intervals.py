"""95 % intervals by bootstrap over runs. Arithmetic only.

The unit that is drawn again is the run, not the step: steps of one run share its cores, its neighbours and its hour,
and a thousand of them say no more of the next run than one does.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

CONFIDENCE = 0.95
FEWEST_RUNS = 6
"""With 5 values not even the span from the least to the largest covers a median with 95 %: 1 - 2 (1/2)^5 = 0.94."""
RESAMPLES = 9_999

Statistic = Callable[..., np.ndarray]


@dataclass(frozen=True)
class Estimate:
    """A figure, its 95 % interval where there are runs enough, and the figure of each single run."""

    value: float
    low: float | None = None
    high: float | None = None
    each: tuple[float, ...] = ()

    @property
    def has_interval(self) -> bool:
        """Whether there were runs enough for an interval."""
        return self.low is not None


def expanded_level(runs: int) -> float:
    """The level at which a percentile interval of that many values covers what 95 % promises.

    Resampling n values understates their variance by (n-1)/n, and percentiles are those of a normal distribution where
    few values have Student's: Hesterberg 2015, 'What Teachers Should Know About the Bootstrap', The American
    Statistician 69(4), 'expanded percentile interval'.
    """
    from scipy import special, stats  # takes half a second, which --help and small studies need not

    quantile = stats.t.ppf(0.5 + CONFIDENCE / 2, runs - 1) * math.sqrt(runs / (runs - 1))
    return float(2 * special.ndtr(quantile) - 1)


def resampled(statistic: Statistic, *groups: np.ndarray) -> np.ndarray | None:
    """[RESAMPLES, ...]: the statistic of groups whose runs were drawn again; None with fewer than FEWEST_RUNS in any.

    groups: each [runs, values of a run]. statistic: of arrays [..., runs, values], one a group, gives [...]. The draws
    are seeded: the same runs give the same interval.
    """
    if not groups or min(len(group) for group in groups) < FEWEST_RUNS:
        return None
    generator = np.random.default_rng(0)
    drawn = [group[generator.integers(0, len(group), (RESAMPLES, len(group)))] for group in groups]
    return statistic(*drawn)


def limits(distribution: np.ndarray, runs: int) -> tuple[Any, Any]:
    """Low and high end, [...], of a bootstrap distribution [RESAMPLES, ...] of groups of `runs` runs or more."""
    tail = (1 - expanded_level(runs)) / 2
    low, high = np.quantile(distribution, (tail, 1 - tail), axis=0)
    return low, high


def estimate(statistic: Statistic, *groups: np.ndarray, each: tuple[float, ...] = ()) -> Estimate:
    """The statistic of the groups with its interval; `each` is what single runs give."""
    value = float(statistic(*groups))
    distribution = resampled(statistic, *groups)
    if distribution is None or not np.isfinite(distribution).all():
        return Estimate(value, each=each)
    low, high = limits(distribution, min(len(group) for group in groups))
    return Estimate(value, float(low), float(high), each)
