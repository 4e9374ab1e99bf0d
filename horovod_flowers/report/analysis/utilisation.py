"""Model FLOPs utilisation: how much of what the cores, or GPUs, compute at most a training makes use of.

Observed throughput over that of the same step at the measured peak (Chowdhery et al. 2022, arXiv 2204.02311, section
4.1 and appendix B): the step's operations are those that its model needs (runlog/model_flops.py), the peak is that of
large matrix products on all ranks of a node at once, in the same precision (runlog/machine_peak.py). Missing stays
missing.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from horovod_flowers.report.analysis.intervals import Estimate
from horovod_flowers.report.analysis.points import Point, mapped
from horovod_flowers.report.analysis.run_factors import cpu_models_of
from horovod_flowers.report.analysis.run_summary import RunSummary
from horovod_flowers.runlog.machine_peak import MachinePeak

BEYOND_PEAK = 0.02
"""By how much a utilisation without an interval passes 1 before it is told."""
NOT_RECORDED = "the operations of a step were not recorded (an older run)"
NO_PEAK = "no peak was measured: add peak: true to the job file, and run the study again"


@dataclass(frozen=True)
class Utilisation:
    """What a point computes, and what its cores or GPUs would at most; what is not known is None."""

    unit: str
    """core, or GPU."""
    units: int
    """Of all ranks."""
    flops_per_image: float | None = None
    """Forward and backward pass."""
    achieved: Estimate | None = None
    """FLOP/s of all ranks."""
    peak: float | None = None
    """FLOP/s of all ranks, as measured."""
    share: Estimate | None = None
    """Model FLOPs utilisation."""
    bound_images_per_second: float | None = None
    """At the peak: what no division of the work can pass."""
    bound_speed_up: float | None = None
    missing: str | None = None
    """Why there is no share of the peak, in a clause."""


def utilisation_of(point: Point, peaks: Sequence[MachinePeak]) -> Utilisation | None:
    """Of a point; None of emulated runs, which compute nothing."""
    if point.emulated:
        return None
    run = point.runs[0]
    ranks = run.environment.ranks
    on_gpus = all(rank.gpu is not None for rank in ranks)
    units = len(ranks) if on_gpus else sum(min(rank.threads, rank.physical_cores) for rank in ranks)
    found = Utilisation("GPU" if on_gpus else "core", units)
    if point.oversubscribed:
        return _without(found, "ranks shared a core, so its times are no measure of speed")
    flops, missing = _flops_per_image(point.runs)
    if flops is None:
        return _without(found, missing)
    achieved = mapped(point.images_per_second, lambda rate: rate * flops)
    peak, missing = _peak_of_a_rank(run, peaks)
    if peak is None:
        return Utilisation(found.unit, units, flops, achieved, missing=missing)
    whole = peak * point.ranks
    bound = whole / flops
    base = point.baseline
    return Utilisation(
        unit=found.unit,
        units=units,
        flops_per_image=flops,
        achieved=achieved,
        peak=whole,
        share=mapped(achieved, lambda rate: rate / whole),
        bound_images_per_second=bound,
        bound_speed_up=None if base is None else bound / (base.images_per_second.value / base.ranks),
    )


def _without(found: Utilisation, why: str) -> Utilisation:
    return Utilisation(found.unit, found.units, missing=why)


def _flops_per_image(runs: Sequence[RunSummary]) -> tuple[float | None, str]:
    """Of the runs that have a record of it, and why there is none."""
    every = [run.environment.model_flops for run in runs if run.environment.model_flops is not None]
    if not every:
        return None, NOT_RECORDED
    left = dict.fromkeys(word for each in every for word in each.not_counted)
    counts = {each.per_image for each in every}
    if left or None in counts:
        return None, f"not counted in a step: {'; '.join(left) or 'something that was not recorded'}"
    if len(counts) > 1:
        return None, "its runs were counted with different numbers of operations"
    value = counts.pop()
    return (value, "") if value else (None, "its model has no matrix products or convolutions")


def _peak_of_a_rank(run: RunSummary, peaks: Sequence[MachinePeak]) -> tuple[float | None, str]:
    """FLOP/s of each rank: the most of all records that were measured on the same, and why there is none."""
    if not peaks:
        return None, NO_PEAK
    apart = [list(_apart(run, record)) for record in peaks]
    precision = run.environment.precision
    found = [record.flops_per_second(precision) for record, words in zip(peaks, apart, strict=True) if not words]
    known = [value for value in found if value is not None]
    if known:
        return max(known), ""
    nearest = sorted(apart, key=len)[0]
    return None, f"peaks were measured otherwise than its runs ({'; '.join(nearest)})"


def _apart(run: RunSummary, record: MachinePeak) -> Iterator[str]:
    """What a peak has to share with a run and does not, in words."""
    environment = run.environment
    if record.oversubscribed:
        yield "ranks shared a core as it was measured"
    pairs = (
        (
            "CPU",
            sorted({model or "unknown" for model in record.cpu_models}),
            [m or "unknown" for m in cpu_models_of(run)],
        ),
        ("CPU features", _features(record.cpu_features), _features([host.cpu_features for host in environment.hosts])),
        ("GPU", sorted({gpu or "none" for gpu in record.gpus}), sorted({r.gpu or "none" for r in environment.ranks})),
        ("threads", [str(record.threads)], sorted({str(rank.threads) for rank in environment.ranks})),
        ("ranks a node", _counts(record.ranks_per_node), _counts([host.ranks for host in environment.hosts])),
    )
    for name, measured, own in pairs:
        if measured != own:
            yield f"{name} {'/'.join(measured)} against {'/'.join(own)}"
    cores = min(rank.physical_cores for rank in environment.ranks)
    same_threads = {record.threads} == {rank.threads for rank in environment.ranks}
    if same_threads and min(record.physical_cores, record.threads) != min(cores, record.threads):
        yield f"cores of a rank {record.physical_cores} against {cores}"
    if record.flops_per_second(environment.precision) is None:
        known = "/".join(dict.fromkeys(each.precision for each in record.measured))
        yield f"precision {known} against {environment.precision}"


def _known(names: Sequence[str]) -> list[str]:
    return sorted(name or "unknown" for name in names)


def _features(of_hosts: Sequence[Sequence[str]]) -> list[str]:
    return [" ".join(sorted({feature for features in of_hosts for feature in features})) or "none known"]


def _counts(values: Sequence[int]) -> list[str]:
    return [str(value) for value in sorted(set(values))]


def doubts_of_utilisation(found: Utilisation | None) -> Iterator[str]:
    """What cannot be: more than the peak."""
    if found is None or found.share is None:
        return
    least = found.share.low if found.share.low is not None else found.share.value - BEYOND_PEAK
    if least > 1:
        yield (
            f"a model FLOPs utilisation of {found.share.value:.2f} is above the measured peak: the peak was measured "
            "while the machine was busy or slower (measure it again), or convolutions are computed with fewer "
            "operations than the direct ones that are counted (Winograd's)"
        )
