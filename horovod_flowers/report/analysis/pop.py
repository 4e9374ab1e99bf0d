"""The efficiency hierarchy of POP (Performance Optimisation and Productivity, pop-coe.eu, 'POP Standard Metrics for
Parallel Performance Analysis'), by its own names.

    global efficiency = parallel efficiency x computation scaling
    parallel efficiency = load balance x communication efficiency

With u_r the seconds that rank r spends on its own work (forward and backward pass, optimizer, waiting for its
batch), and T the elapsed seconds: load balance is mean(u) / max(u), communication efficiency max(u) / T, computation
scaling the sum of u that the baseline takes for an image over what the ranks take for one. The two parts of
communication efficiency, serialisation and transfer, would take a replay on an ideal network and are not told.
"""

from dataclasses import dataclass

import numpy as np

from horovod_flowers.report.analysis.points import Point


@dataclass(frozen=True)
class PopEfficiencies:
    """Of a point, over the timed steps of all of its runs."""

    load_balance: float
    communication: float
    computation_scaling: float
    """Over the baseline; above 1 where the ranks together work less for an image."""

    @property
    def parallel(self) -> float:
        """Of the ranks' time, the share that is their own work."""
        return self.load_balance * self.communication

    @property
    def global_efficiency(self) -> float:
        """The product of all."""
        return self.parallel * self.computation_scaling


def pop_of(point: Point) -> PopEfficiencies | None:
    """A point's efficiencies; None where it has no baseline, or is it."""
    if point.baseline is None or point.ranks <= point.baseline.ranks:
        return None
    own, base = _own_seconds(point), _own_seconds(point.baseline)
    elapsed = sum(run.timed_seconds for run in point.runs)
    largest = float(own.max())
    if largest <= 0 or elapsed <= 0:
        return None
    images, base_images = (float(each.totals[:, 0].sum()) for each in (point, point.baseline))
    return PopEfficiencies(
        load_balance=float(own.mean()) / largest,
        communication=largest / elapsed,
        computation_scaling=float(base.sum()) / base_images / (float(own.sum()) / images),
    )


def _own_seconds(point: Point) -> np.ndarray:
    """float64 [ranks]: each rank's own work over all timed steps of all runs."""
    return np.asarray(sum(run.rank_work_mean_seconds * len(run.slowest_seconds) for run in point.runs))
