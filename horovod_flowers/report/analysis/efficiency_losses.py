"""What each lost percent of parallel efficiency went to: a division of the ranks' time that adds up.

All are seconds an image. Ideal is what the baseline takes for an image, divided by N (times its own ranks). What a
point takes more than that is, part by part, how much more than the ideal share of the baseline's part it shows:

    input           waiting for batches
    imbalance       waiting, in communication, for a rank whose own work took longer
    communication   the rest of the communication that computation did not hide
    update          the optimizer: what is not divided among the ranks costs each rank the same at any N
    contention      passes that take longer though nobody communicates: those of strategy none at the same N
    the rest        passes that take longer than those of none (copies, Horovod's thread, extra products), and skew of
                    the ranks at the ends of epochs; without runs of none, contention is in it

A negative one is a gain, such as the update where it is divided.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from horovod_flowers.report.analysis.points import Point

CAUSES = ("input", "imbalance", "communication", "update", "contention", "rest")


@dataclass(frozen=True)
class EfficiencyLosses:
    """Where the ranks' time went, as shares of it: efficiency and all losses add up to 1."""

    efficiency: float
    shares: dict[str, float | None]
    """By CAUSES; contention is None where strategy none was not run at the same number of ranks."""

    @property
    def total(self) -> float:
        """Efficiency and all losses together."""
        return self.efficiency + sum(share for share in self.shares.values() if share is not None)


@dataclass(frozen=True)
class _Seconds:
    """Seconds an image of a point, part by part; they add up to `elapsed`."""

    elapsed: float
    input: float
    imbalance: float
    communication: float
    update: float
    compute: float
    skew: float
    """Elapsed, by the slowest rank of each epoch, beyond the mean over ranks."""


def _seconds(point: Point) -> _Seconds:
    images = sum(run.images for run in point.runs)
    elapsed = sum(run.timed_seconds for run in point.runs) / images
    parts = {part: sum(run.part_seconds[part] for run in point.runs) / images for part in point.runs[0].part_seconds}
    imbalance = sum(run.imbalance_seconds for run in point.runs) / images
    return _Seconds(
        elapsed=elapsed,
        input=parts["input_wait"],
        imbalance=imbalance,
        communication=parts["communication"] - imbalance,
        update=parts["update"],
        compute=parts["compute"],
        skew=elapsed - sum(parts.values()),
    )


def without_communication_of(point: Point, points: Sequence[Point]) -> Point | None:
    """The runs of strategy none beside a point: the same work, ranks and baseline, and no communication."""
    for other in points:
        same = (other.work, other.ranks, other.oversubscribed) == (point.work, point.ranks, point.oversubscribed)
        if same and other.without_communication and other.baseline is point.baseline:
            return other
    return None


def efficiency_losses_of(point: Point, undisturbed: Point | None) -> EfficiencyLosses | None:
    """Divide a point's loss; None where it has no baseline, or is it."""
    if point.baseline is None or point.ranks <= point.baseline.ranks:
        return None
    here, base = _seconds(point), _seconds(point.baseline)
    scale = point.baseline.ranks / point.ranks
    none = None if undisturbed is None else _seconds(undisturbed)
    passes = here.compute - base.compute * scale
    contention = None if none is None else none.compute - base.compute * scale
    lost: dict[str, float | None] = {
        "input": here.input - base.input * scale,
        "imbalance": here.imbalance - base.imbalance * scale,
        "communication": here.communication - base.communication * scale,
        "update": here.update - base.update * scale,
        "contention": contention,
        "rest": passes - (contention or 0.0) + here.skew - base.skew * scale,
    }
    shares = {cause: None if seconds is None else seconds / here.elapsed for cause, seconds in lost.items()}
    return EfficiencyLosses(base.elapsed * scale / here.elapsed, shares)
