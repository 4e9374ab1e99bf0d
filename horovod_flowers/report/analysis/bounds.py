"""Bounds beside the measurements: what the machine gives without communication, and what communication should cost."""

from collections.abc import Mapping
from dataclasses import dataclass

from horovod_flowers.report.analysis.call_costs import Kind, links_of
from horovod_flowers.report.analysis.intervals import Estimate
from horovod_flowers.report.analysis.points import Point
from horovod_flowers.report.analysis.run_factors import cpu_models_of
from horovod_flowers.scaling_model.calibration import Calibration
from horovod_flowers.scaling_model.division import sent_share
from horovod_flowers.scaling_model.step_tasks import Call, RankGroup


@dataclass(frozen=True)
class Bounds:
    """What a point loses to communication, by measurement and by model."""

    no_communication: Estimate | None
    """Speed-up of strategy none at the same number of ranks: if nothing were lost to communication. No bound: ranks
    that divide work which those of none repeat, such as updates, may be faster."""
    communication_seconds: float | None
    """A step's collective calls by the cost models; None where they, or the bytes of a step, were not measured."""
    shown_seconds: float
    """Communication of a step that computation did not hide, as measured: mean over ranks and steps."""
    exposed: float | None
    """Speed-up if nothing of `communication_seconds` were hidden, behind passes as quick as those of none (or,
    where that was not run, ideal ones)."""
    extrapolated_from: tuple[int, ...] | None
    """Numbers of ranks of the measured calls, where this point's is none of them."""


def model_of(point: Point, models: Mapping[Kind, Calibration]) -> Calibration | None:
    """The call model measured on this point's kind of CPU, with as many threads a rank, whose ranks shared cores where
    the point's do; None where there is none, or several that differ in settings."""
    work, emulated = dict(point.work), point.runs[0].environment.emulated
    if emulated is not None:  # ranks that sleep have whatever threads they stand for
        links = links_of(emulated.network)
        found = [model for kind, model in models.items() if model.emulated and links and kind[-1] == links]
    else:
        alike = (cpu_models_of(point.runs[0]), work["threads"], point.oversubscribed)
        found = [
            model
            for (cpu_models, threads, crowded, _, _), model in models.items()
            if not model.emulated and (cpu_models, (threads,), crowded) == alike
        ]
    return max(found, key=lambda model: model.calls, default=None)


def bounds_of(point: Point, none: Point | None, models: Mapping[Kind, Calibration]) -> Bounds | None:
    """A point's bounds; None where it has no baseline, or is it."""
    if point.baseline is None or point.ranks <= point.baseline.ranks:
        return None
    steps = sum(len(run.slowest_seconds) for run in point.runs)
    shown = sum(run.part_seconds["communication"] for run in point.runs) / steps
    calibration = model_of(point, models)
    predicted = None if calibration is None else _predicted(point, calibration)
    exposed = None
    if predicted is not None:
        images = float(point.totals[:, 0].sum()) / steps
        base = point.baseline.images_per_second.value / point.baseline.ranks
        alone = none.images_per_second.value if none is not None else base * point.ranks
        exposed = images / (images / alone + predicted) / base
    measured = None if predicted is None or calibration is None else calibration.ranks
    return Bounds(
        no_communication=None if none is None else none.speed_up,
        communication_seconds=predicted,
        shown_seconds=shown,
        exposed=exposed,
        extrapolated_from=measured if measured is not None and point.ranks not in measured else None,
    )


def _predicted(point: Point, calibration: Calibration) -> float | None:
    """Seconds of a step's calls, one after the other; None where they, or their kind, were not measured."""
    environment = point.runs[0].environment
    if environment.communication_volume is None:
        return None
    total = 0.0
    for entry in environment.communication_volume:
        if entry.operation not in calibration.model.call_seconds_more:
            return None
        across = entry.ranks < point.ranks and entry.operation == "allreduce"
        size = entry.bytes_sent / sent_share(entry.operation, entry.ranks) / entry.calls
        call = Call(entry.operation, size, RankGroup(entry.ranks, point.ranks // entry.ranks if across else 1))
        total += entry.calls * calibration.model.alone(call, point.ranks)
    return total
