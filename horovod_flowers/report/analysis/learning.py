"""What the runs learned, beside how fast they were: curves, and the time to an accuracy."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from horovod_flowers.config.choices import INDEPENDENT
from horovod_flowers.report.analysis.points import Point
from horovod_flowers.report.analysis.run_factors import learned_from
from horovod_flowers.report.analysis.run_summary import RunSummary

ACCURACY_STEP = 0.05


@dataclass(frozen=True)
class Curve:
    """One run's epochs; none where its records were lost."""

    run: str
    epochs: tuple[int, ...]
    training_seconds: tuple[float, ...]
    """Since the start, steps only, of the slowest rank."""
    training_loss: tuple[float | None, ...]
    training_accuracy: tuple[float | None, ...]
    validation_loss: tuple[float | None, ...]
    validation_accuracy: tuple[float | None, ...]


@dataclass(frozen=True)
class Reached:
    """How long a point's runs trained until they reached an accuracy."""

    point: Point
    accuracy: float
    runs: int
    """That reached it, of all of the point."""
    median_seconds: float | None
    """Over the runs that reached it; None where not all did: the others would take longer, nobody knows how long."""


def curve_of(run: RunSummary) -> Curve:
    """The curve of a run."""
    return Curve(
        run.name,
        tuple(epoch.epoch for epoch in run.epochs),
        tuple(float(seconds) for seconds in np.cumsum([epoch.training_seconds for epoch in run.epochs])),
        tuple(epoch.training_loss for epoch in run.epochs),
        tuple(epoch.training_accuracy for epoch in run.epochs),
        tuple(epoch.validation_loss for epoch in run.epochs),
        tuple(epoch.validation_accuracy for epoch in run.epochs),
    )


def seconds_to(run: RunSummary, accuracy: float) -> float | None:
    """Training seconds until the first epoch that ended with that validation accuracy; None where none did."""
    curve = curve_of(run)
    for seconds, reached in zip(curve.training_seconds, curve.validation_accuracy, strict=True):
        if reached is not None and reached >= accuracy:
            return seconds
    return None


def common_accuracy(runs: Sequence[RunSummary]) -> float | None:
    """The highest multiple of ACCURACY_STEP that every run with a common model reached."""
    best = [run.result.progress.best_validation_accuracy for run in runs]
    known = [accuracy for accuracy in best if accuracy is not None]
    if not known:
        return None
    # A hundredth of a millionth, so that 0.15 / 0.05 = 2.9999... counts as 3.
    floor = math.floor(min(known) / ACCURACY_STEP + 1e-8) * ACCURACY_STEP
    return round(floor, 2) or None


def reached_by(points: Sequence[Point], accuracy: float | None) -> list[Reached]:
    """Time to an accuracy of every point that was evaluated; by default to one that all runs of its recipe reached."""
    found = []
    for point in points:
        peers = [run for other in points for run in other.runs if _same_learning(run, point.runs[0])]
        target = common_accuracy(peers) if accuracy is None else accuracy
        if target is None or point.best_validation_accuracy is None:
            continue
        seconds = [value for run in point.runs if (value := seconds_to(run, target)) is not None]
        median = float(np.median(seconds)) if len(seconds) == len(point.runs) else None
        found.append(Reached(point, target, len(seconds), median))
    return found


def _same_learning(one: RunSummary, other: RunSummary) -> bool:
    return learned_from(one) == learned_from(other) and one.environment.strategy != INDEPENDENT
