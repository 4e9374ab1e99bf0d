"""Mean and median of what steps took, and what it means where they part: steps, or a rank, slowed in bursts.

A median does not see what happens to fewer than half of the steps, however long they take; images per second do.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

PARTED = 1.2
"""A mean that is this many times the median, or the median that many times the mean, is told. The runs of
docs/example-report whose ranks had a core each reach 1.11."""
FEWEST_STEPS = 20
"""Below which one odd step may part them."""


NOTICED = 0.05
"""Share of a mean step that a rank's bursts have to cost in order to be told: as much as makes a rank a slow one."""


@dataclass(frozen=True)
class Spread:
    """Of some steps' seconds."""

    mean_seconds: float
    median_seconds: float
    steps: int

    @staticmethod
    def of(seconds: "np.ndarray | Sequence[float]") -> "Spread":
        """Of so many steps; zeros of none."""
        values = np.asarray(seconds, np.float64)
        if not len(values):
            return Spread(0.0, 0.0, 0)
        return Spread(float(values.mean()), float(np.median(values)), len(values))

    @property
    def parted(self) -> bool:
        """Whether the median alone would give a wrong picture."""
        larger, smaller = sorted((self.mean_seconds, self.median_seconds), reverse=True)
        return self.steps >= FEWEST_STEPS and larger > PARTED * smaller

    @property
    def excess_seconds(self) -> float:
        """Of the mean over the median."""
        return self.mean_seconds - self.median_seconds

    def __str__(self) -> str:
        return f"{self.mean_seconds:.3g} s in the mean and {self.median_seconds:.3g} s in the median"


def bursts_in_words(steps: Spread, work: Mapping[str, Spread]) -> str | None:
    """What a reader of medians should know; None where they tell all.

    steps: of the slowest rank; work: of each rank's own work, by a name that says rank and host. A rank is named that
    is slowed in bursts where no other is, also where the medians of whole steps happen to tell.
    """
    slowed = _slowed_rank(steps, work)
    if not steps.parted:
        if slowed is None:
            return None
        return f"{slowed} is slowed in bursts, which no median tells: its own work took {work[slowed]} of a step"
    sentence = f"a step took {steps}: its median does not tell how fast these steps are"
    if slowed is not None:
        return f"{sentence}; {slowed} is slowed in bursts: its own work took {work[slowed]}"
    if steps.excess_seconds < 0:
        return f"{sentence}; most of them are slowed, and some are not"
    where = "all ranks alike" if len(work) > 1 else "as by other work on its cores"
    return f"{sentence}; some of them are slowed, {where}"


def _slowed_rank(steps: Spread, work: Mapping[str, Spread]) -> str | None:
    """The rank whose own work takes longer in the mean than in the median, as that of no other does."""
    excess = {name: spread.excess_seconds for name, spread in work.items()}
    if len(excess) < 2:
        return None
    name = max(excess, key=lambda each: excess[each])
    others = float(np.median([seconds for other, seconds in excess.items() if other != name]))
    alone = excess[name] > 2 * max(0.0, others)
    matters = excess[name] > NOTICED * max(steps.mean_seconds, steps.median_seconds)
    return name if work[name].parted and alone and matters else None
