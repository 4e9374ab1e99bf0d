"""95 % intervals by bootstrap over runs. Arithmetic only.

The unit that is drawn again is the run, not the step: steps of one run share its cores, its neighbours and its hour,
and a thousand of them say no more of the next run than one does.

Studies have few runs, of which the plain bootstrap knows two things wrongly, and so its intervals are too short or too
long. Each is mended as the literature has it:

- Resampling n runs understates their variance by (n-1)/n, and draws no value but these n. Each drawn run gets noise of
  the runs' own scatter over sqrt(n) beside ('smoothing', Hesterberg 2004, 'Unbiasing the bootstrap: bootknife sampling
  vs. smoothing', Proceedings of the Section on Statistics and the Environment, ASA, 2924-2930).
- The scatter itself is estimated from few runs: percentiles are those of Student's t in place of the normal
  distribution (Hesterberg 2015, 'What Teachers Should Know About the Bootstrap', The American Statistician 69(4)), with
  as many degrees of freedom as several groups of runs have together (Welch 1938; Satterthwaite 1946), each group's part
  of the variance by the jackknife (Efron and Stein 1981).
"""

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


@dataclass(frozen=True)
class Resampled:
    """What a statistic is of groups whose runs were drawn again."""

    drawn: np.ndarray
    """[RESAMPLES, ...]."""
    without: tuple[np.ndarray, ...]
    """By group, [runs, ...]: of all runs but one."""

    def mapped(self, function: Callable[[np.ndarray], np.ndarray]) -> "Resampled":
        """Another figure that follows from the statistic: a function of arrays [many, ...]."""
        return Resampled(function(self.drawn), tuple(function(each) for each in self.without))

    @property
    def finite(self) -> bool:
        """Whether every draw gave a number."""
        return bool(np.isfinite(self.drawn).all())

    def limits(self) -> tuple[Any, Any]:
        """Low and high end of the interval, [...]."""
        shape = self.drawn.shape[1:]
        tails = np.broadcast_to(tail(degrees_of_freedom(self.without)), shape).reshape(-1)
        columns = self.drawn.reshape(len(self.drawn), -1)
        ends = [np.quantile(columns[:, place], (share, 1 - share)) for place, share in enumerate(tails.tolist())]
        low, high = np.array(ends).T
        return low.reshape(shape), high.reshape(shape)


def tail(freedom: np.ndarray | float) -> np.ndarray:
    """Share of a bootstrap distribution on either side of an interval, for so many degrees of freedom: where a normal
    distribution has Student's quantile."""
    from scipy import special  # takes half a second, which --help and small studies need not

    return np.asarray(special.ndtr(special.stdtrit(freedom, 0.5 - CONFIDENCE / 2)))


def degrees_of_freedom(without: tuple[np.ndarray, ...]) -> np.ndarray:
    """Of the variance of a statistic of several groups, [...], from what it is without one run of a group, each [runs,
    ...]. Never fewer than those of the smallest group."""
    fewest = min(len(each) for each in without) - 1
    if len(without) == 1:
        return np.full(without[0].shape[1:], float(fewest))
    with np.errstate(all="ignore"):
        parts = np.stack([(len(each) - 1) * each.var(axis=0) for each in without])  # the jackknife's variance, by group
        inverse = np.stack([1 / (len(each) - 1) for each in without]).reshape(-1, *[1] * (parts.ndim - 1))
        found = parts.sum(axis=0) ** 2 / (parts**2 * inverse).sum(axis=0)
    return np.maximum(np.where(np.isfinite(found), found, fewest), fewest)


def resampled(statistic: Statistic, *groups: np.ndarray) -> Resampled | None:
    """The statistic of groups whose runs were drawn again; None with fewer than FEWEST_RUNS in any.

    groups: each [runs, values of a run]. statistic: of arrays [..., runs, values], one a group, gives [...]. The draws
    are seeded: the same runs give the same interval.
    """
    if not groups or min(len(group) for group in groups) < FEWEST_RUNS:
        return None
    generator = np.random.default_rng(0)
    drawn = statistic(*[_drawn_again(group, generator) for group in groups])
    if len(groups) == 1:  # how many runs there are is all that is asked of it
        return Resampled(drawn, (np.zeros((len(groups[0]), *drawn.shape[1:])),))
    return Resampled(drawn, tuple(_without_one(statistic, groups, number) for number in range(len(groups))))


def _drawn_again(group: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """[RESAMPLES, runs, values]: runs drawn with replacement, with noise.

    What is positive (times, rates) gets it in proportion, so that it stays positive; values of a run that vary
    together do so in the noise.
    """
    runs = len(group)
    drawn = group[generator.integers(0, runs, (RESAMPLES, runs))]
    positive = bool((group > 0).all())
    values = np.log(group) if positive else group
    covariance = np.atleast_2d(np.cov(values, rowvar=False)) / runs
    variances, directions = np.linalg.eigh(covariance)
    vary = variances > 1e-12 * variances[-1]
    scatter = directions[:, vary] * np.sqrt(variances[vary])  # [values, directions in which runs vary at all]
    noise = generator.standard_normal((*drawn.shape[:2], scatter.shape[1])) @ scatter.T
    return np.asarray(drawn * np.exp(noise - np.diag(covariance) / 2) if positive else drawn + noise)


def _without_one(statistic: Statistic, groups: tuple[np.ndarray, ...], number: int) -> np.ndarray:
    """[runs, ...]: the statistic without each run of one group in turn."""
    group = groups[number]
    runs = len(group)
    left = group[np.array([[each for each in range(runs) if each != out] for out in range(runs)])]
    whole = [np.broadcast_to(each, (runs, *each.shape)) for each in groups]
    return statistic(*[left if position == number else each for position, each in enumerate(whole)])


def estimate(statistic: Statistic, *groups: np.ndarray, each: tuple[float, ...] = ()) -> Estimate:
    """The statistic of the groups with its interval; `each` is what single runs give."""
    value = float(statistic(*groups))
    found = resampled(statistic, *groups)
    if found is None or not found.finite:
        return Estimate(value, each=each)
    low, high = found.limits()
    return Estimate(value, float(low), float(high), each)
