"""How fast each run was beside its like, over the time at which it was started: whether the machine drifts."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone

import numpy as np

from horovod_flowers.report.analysis.doubts import change_in_order
from horovod_flowers.report.analysis.points import Point

FEWEST_RUNS = 3
"""Of points with several runs, from which on there is something to see."""
FEWEST_FOR_LIKENESS = 12
LEAST_PROBABILITY = 1e-3
LEAST_SPAN = 0.05
"""Between the least and the largest median of neighbouring runs, below which a likeness is not told."""


@dataclass(frozen=True)
class Start:
    """One run."""

    point: Point
    seconds: float
    """Between the start of the first run and of this one."""
    relative: float
    """Its throughput over the median of its point's."""


@dataclass(frozen=True)
class Drift:
    """All runs of points that have several, in the order of their starts."""

    starts: list[Start]
    change: float | None
    """Of throughput from the first third of the runs to the last; None where it is none, or chance."""
    span: tuple[float, float] | None
    """Least and largest median of neighbouring runs, where runs that were started one after the other are more alike
    than chance has it; None where they are not."""

    @property
    def medians(self) -> list[float]:
        """Of each run and its neighbours, a third of all runs together."""
        return neighbour_medians([start.relative for start in self.starts])

    @property
    def seen(self) -> bool:
        """Whether the machine was not the same from the first run to the last."""
        return self.change is not None or self.span is not None

    @property
    def sentence(self) -> str:
        """What is seen."""
        remedy = "(temperature, clocks, neighbours): run all rows in random order, and again when it is quiet"
        if self.change is not None:
            faster = "faster" if self.change > 0 else "slower"
            return (
                f"the last third of the runs to be started was {abs(self.change) * 100:.0f} % {faster} than the first, "
                f"each run against the median of its row: the machine's speed drifts {remedy}"
            )
        if self.span is not None:
            return (
                "the machine's speed changed while the runs were made: medians of runs started one after the other go "
                f"from {self.span[0] * 100:.0f} % to {self.span[1] * 100:.0f} % of the medians of their rows {remedy}"
            )
        return "no drift of the machine is seen over the starts of the runs"


def drift_of(points: Sequence[Point]) -> Drift | None:
    """None where too few runs have their like, or a time of start cannot be read."""
    found: list[tuple[float, Point, float]] = []
    for point in points:
        rates = sorted(point.images_per_second.each)
        if len(rates) < 2:
            continue
        middle = len(rates) // 2
        median = rates[middle] if len(rates) % 2 else (rates[middle - 1] + rates[middle]) / 2
        for run, rate in zip(point.runs, point.images_per_second.each, strict=True):
            started = _seconds(run.environment.started_utc)
            if started is None or not (0 < median < math.inf and 0 < rate < math.inf):
                return None
            found.append((started, point, rate / median))
    if len(found) < FEWEST_RUNS:
        return None
    found.sort(key=lambda each: each[0])
    first = found[0][0]
    if found[-1][0] == first:  # of runs that are told to have started at once nothing is to be seen
        return None
    starts = [Start(point, started - first, relative) for started, point, relative in found]
    relative = [start.relative for start in starts]
    medians = neighbour_medians(relative)
    alike = len(relative) >= FEWEST_FOR_LIKENESS and likeness(relative) < LEAST_PROBABILITY
    span = (min(medians), max(medians))
    return Drift(starts, change_in_order(relative), span if alike and span[1] / span[0] > 1 + LEAST_SPAN else None)


def neighbour_medians(values: Sequence[float]) -> list[float]:
    """The median around each value, of as many as a third of all."""
    half = max(2, len(values) // 6)
    return [float(np.median(values[max(0, place - half) : place + half + 1])) for place in range(len(values))]


def likeness(values: Sequence[float]) -> float:
    """Probability that neighbours are as alike as these by chance: the rank version of von Neumann's ratio (Bartels
    1982), one-sided, by its normal approximation."""
    count = len(values)
    order = np.argsort(np.argsort(np.asarray(values), kind="stable"), kind="stable").astype(np.float64)
    ratio = float((np.diff(order) ** 2).sum() / ((order - order.mean()) ** 2).sum())
    spread = math.sqrt(4 * (count - 2) * (5 * count**2 - 2 * count - 9) / (5 * count * (count + 1) * (count - 1) ** 2))
    return 0.5 * math.erfc((2 - ratio) / spread / math.sqrt(2))


def _seconds(utc: str) -> float | None:
    try:
        moment = datetime.fromisoformat(utc)
        return (moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)).timestamp()
    except (ValueError, OverflowError):
        return None
