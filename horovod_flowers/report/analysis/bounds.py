"""Bounds beside the measurements: what the machine gives without communication, and what communication should cost."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from horovod_flowers.config.emulated_network import EmulatedNetwork
from horovod_flowers.report.analysis.cost_model import CollectiveCost, fit_collective
from horovod_flowers.report.analysis.intervals import Estimate
from horovod_flowers.report.analysis.points import Point
from horovod_flowers.runlog.collectives import Collectives
from horovod_flowers.runlog.records import Operation
from horovod_flowers.runtime.errors import UserError

OPERATIONS: tuple[Operation, ...] = ("allreduce", "reducescatter", "allgather", "alltoall")


@dataclass(frozen=True)
class Bounds:
    """What a point could reach at most, by measurement and by model."""

    ceiling: Estimate | None
    """Speed-up of strategy none at the same number of ranks: what sharing memory and cores costs, and nothing else."""
    communication_seconds: float | None
    """A step's collective calls by the cost models; None where they, or the bytes of a step, were not measured."""
    shown_seconds: float
    """Communication of a step that computation did not hide, as measured: mean over ranks and steps."""
    exposed: float | None
    """Speed-up if nothing of `communication_seconds` were hidden, behind passes as quick as those of the ceiling (or,
    where that was not run, ideal ones)."""
    extrapolated_from: int | None
    """Ranks of the measured collective calls, where they are not this point's."""


def fit_costs(records: Sequence[Collectives]) -> dict[tuple[int, str], CollectiveCost]:
    """Cost models by number of ranks and operation, from all measurements of each together."""
    costs: dict[tuple[int, str], CollectiveCost] = {}
    for ranks in sorted({record.world_size for record in records}):
        of_size = [record for record in records if record.world_size == ranks]
        reduction = float(np.median([record.reduction_bytes_per_second for record in of_size]))
        for operation in OPERATIONS:
            calls = [record.calls(operation) for record in of_size]
            sizes = [size for of_record, _ in calls for size in of_record]
            seconds = [value for _, of_record in calls for value in of_record]
            try:
                costs[ranks, operation] = fit_collective(operation, ranks, sizes, seconds, 1 / reduction)
            except UserError:
                continue  # too few sizes of this operation
    return costs


def network_of(record: Collectives) -> EmulatedNetwork | None:
    """The emulated one that calls were measured on; None where they were on the ranks' own."""
    return None if record.emulated is None else record.emulated.network


def real_ones(records: Sequence[Collectives]) -> list[Collectives]:
    """The measurements of the ranks' own network."""
    return [record for record in records if record.emulated is None]


def of_the_same_kind(records: Sequence[Collectives], point: Point) -> list[Collectives]:
    """The measurements made on this point's kind of CPU, with as many threads a rank; of an emulated one, on its
    network."""
    work = dict(point.work)
    emulated = point.runs[0].environment.emulated
    if emulated is not None:  # ranks that sleep have whatever threads they stand for
        network = emulated.network
        return [record for record in records if network is not None and network_of(record) == network]
    return [
        record
        for record in records
        if record.emulated is None
        and tuple(sorted({model or "" for model in record.cpu_models})) == work["cpu_model"]
        and (record.threads,) == work["threads"]
    ]


def bounds_of(point: Point, ceiling: Point | None, records: Sequence[Collectives]) -> Bounds | None:
    """A point's bounds; None where it has no baseline, or is it."""
    if point.baseline is None or point.ranks <= point.baseline.ranks:
        return None
    steps = sum(len(run.slowest_seconds) for run in point.runs)
    shown = sum(run.part_seconds["communication"] for run in point.runs) / steps
    predicted, source = _predicted(point, records)
    exposed = None
    if predicted is not None:
        images = float(point.totals[:, 0].sum()) / steps
        base = point.baseline.images_per_second.value / point.baseline.ranks
        alone = ceiling.images_per_second.value if ceiling is not None else base * point.ranks
        exposed = images / (images / alone + predicted) / base
    return Bounds(
        ceiling=None if ceiling is None else ceiling.speed_up,
        communication_seconds=predicted,
        shown_seconds=shown,
        exposed=exposed,
        extrapolated_from=source if source != point.ranks else None,
    )


def _predicted(point: Point, records: Sequence[Collectives]) -> tuple[float | None, int | None]:
    """Seconds of a step's calls, and the number of ranks whose measurements they come from."""
    volumes = point.runs[0].environment.communication_volume
    costs = fit_costs(of_the_same_kind(records, point))
    sizes = sorted({ranks for ranks, _ in costs}, key=lambda ranks: (abs(ranks - point.ranks), ranks))
    if volumes is None or not sizes:
        return None, None
    total = 0.0
    for call in volumes:
        cost = costs.get((sizes[0], call.operation))
        if cost is None:
            return None, None
        total += cost.step_seconds(call.calls, call.bytes_sent, call.ranks)
    return total, sizes[0]
