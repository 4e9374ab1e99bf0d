"""The efficiency hierarchy of POP (Performance Optimisation and Productivity, pop-coe.eu, 'POP Standard Metrics for
Parallel Performance Analysis'), by its own names.

    global efficiency = parallel efficiency x computation scaling
    parallel efficiency = load balance x communication efficiency
    communication efficiency = serialisation x transfer

With u_r the seconds that rank r spends on its own work (forward and backward pass, optimizer, waiting for its
batch), and T the elapsed seconds: load balance is mean(u) / max(u), communication efficiency max(u) / T, computation
scaling the sum of u that the baseline takes for an image over what the ranks take for one.

The two parts of communication efficiency take the elapsed seconds T_i on an ideal network, which POP gets by replay:
serialisation is max(u) / T_i, transfer T_i / T. Here they are modelled: T_i is T less what the cost model has for the
calls of the steps, one after the other, and at least max(u). Calls that computation hides cost none of T, so that
transfer may be better than told, and serialisation worse.
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
    transfer: float | None
    """Modelled; None where the cost of the calls is not known."""

    @property
    def serialisation(self) -> float | None:
        """Of communication efficiency, what is left beside `transfer`."""
        return None if self.transfer is None else self.communication / self.transfer

    @property
    def parallel(self) -> float:
        """Of the ranks' time, the share that is their own work."""
        return self.load_balance * self.communication

    @property
    def global_efficiency(self) -> float:
        """The product of all."""
        return self.parallel * self.computation_scaling


def pop_of(point: Point, call_seconds: float | None = None) -> PopEfficiencies | None:
    """A point's efficiencies; None where it has no baseline, or is it. call_seconds: of a step, by the cost model."""
    if point.baseline is None or point.ranks <= point.baseline.ranks:
        return None
    own, base = _own_seconds(point), _own_seconds(point.baseline)
    elapsed = sum(run.timed_seconds for run in point.runs)
    largest = float(own.max())
    if largest <= 0 or elapsed <= 0:
        return None
    transfer = None
    if call_seconds is not None:
        steps = sum(len(run.slowest_seconds) for run in point.runs)
        transfer = max(elapsed - call_seconds * steps, largest) / elapsed
    images, base_images = (float(each.totals[:, 0].sum()) for each in (point, point.baseline))
    return PopEfficiencies(
        load_balance=float(own.mean()) / largest,
        communication=largest / elapsed,
        computation_scaling=float(base.sum()) / base_images / (float(own.sum()) / images),
        transfer=transfer,
    )


def _own_seconds(point: Point) -> np.ndarray:
    """float64 [ranks]: each rank's own work over all timed steps of all runs."""
    return np.asarray(sum(run.rank_work_mean_seconds * len(run.slowest_seconds) for run in point.runs))
