"""Which ranks are slow and where they ran, and a timeline of a few steps over all ranks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from horovod_flowers.report.analysis.points import Point, Series
from horovod_flowers.report.analysis.run_factors import EMULATED
from horovod_flowers.report.analysis.run_summary import STRAGGLER_SHARE, RunSummary, step_percentiles
from horovod_flowers.runlog.reading.run import PARTS
from horovod_flowers.runlog.step_spread import Spread, bursts_in_words

MOST_STRAGGLERS = 10


@dataclass(frozen=True)
class Straggler:
    """A rank whose own work takes longer than the others'."""

    rank: int
    host: str
    cores: str
    excess: float
    """Its median work of a step over that of the median rank, less 1."""
    last_share: float
    """Share of steps in which its work ended last."""


@dataclass(frozen=True)
class RankTimes:
    """The ranks of one point, shown by its run of median step seconds."""

    point: Point
    run: RunSummary
    percentiles: dict[str, float]
    """p50, p95 and p99 of the slowest rank's step seconds, over all steps of all runs of the point."""
    stragglers: list[Straggler]
    """The slowest first, at most MOST_STRAGGLERS."""
    straggler_count: int


def median_run(point: Point) -> RunSummary:
    """The run whose median step is the median one (the lower of two)."""
    ordered = sorted(point.runs, key=lambda run: (run.median_step_seconds, run.name))
    return ordered[(len(ordered) - 1) // 2]


def rank_times_of(point: Point) -> RankTimes:
    """What is shown of a point's ranks."""
    run = median_run(point)
    found = stragglers_of(run)
    return RankTimes(point, run, step_percentiles(list(point.runs)), found[:MOST_STRAGGLERS], len(found))


def bursts_of(point: Point) -> str | None:
    """A sentence where mean and median of a point's steps part, as where a rank is slowed in bursts; else None."""
    steps = Spread.of(np.concatenate([run.slowest_seconds for run in point.runs]))
    counts = [len(run.slowest_seconds) for run in point.runs]
    means, medians = (
        np.average([getattr(run, name) for run in point.runs], axis=0, weights=counts)
        for name in ("rank_work_mean_seconds", "rank_work_seconds")
    )
    work = {
        f"rank {rank.rank} on {rank.host}": Spread(float(means[rank.rank]), float(medians[rank.rank]), steps.steps)
        for rank in point.runs[0].environment.ranks
    }
    return bursts_in_words(steps, work)


def stragglers_of(run: RunSummary) -> list[Straggler]:
    """The ranks whose own work exceeds the median rank's by STRAGGLER_SHARE, the slowest first."""
    work = run.rank_work_seconds
    middle = float(np.median(work))
    if run.ranks == 1 or middle <= 0:
        return []
    excess = work / middle - 1
    slow = [rank for rank in np.argsort(-excess, kind="stable").tolist() if excess[rank] > STRAGGLER_SHARE]
    by_rank = {rank.rank: rank for rank in run.environment.ranks}
    return [
        Straggler(
            rank, by_rank[rank].host, spans(by_rank[rank].cores), float(excess[rank]), float(run.rank_last_share[rank])
        )
        for rank in slow
    ]


def spans(cores: Sequence[int]) -> str:
    """Core numbers in words: '0-3,8'."""
    found: list[list[int]] = []
    for core in sorted(cores):
        if found and core == found[-1][1] + 1:
            found[-1][1] = core
        else:
            found.append([core, core])
    return ",".join(f"{first}" if first == last else f"{first}-{last}" for first, last in found)


def shown_in_detail(series: Sequence[Series]) -> list[Point]:
    """The points whose ranks are drawn: of each series the largest that is a measure of speed, or the largest."""
    return [(members.rated or list(members.points))[-1] for members in series]


def chrome_trace(run: RunSummary) -> dict[str, Any]:
    """The timeline as Chrome trace events (microseconds), a process a host and a thread a rank: Perfetto opens it.

    The parts of a step stand one behind the other in the order of PARTS, each the sum of its pieces.
    """
    hosts = list(dict.fromkeys(rank.host for rank in run.environment.ranks))
    number = {host: position for position, host in enumerate(hosts, 1)}
    events: list[dict[str, Any]] = []
    for host in hosts:
        shown = host if run.environment.emulated is None else f"{host} {EMULATED}"
        events.append({"ph": "M", "name": "process_name", "pid": number[host], "args": {"name": shown}})
    for rank in run.environment.ranks:
        name = {"name": f"rank {rank.rank} (cores {spans(rank.cores)})"}
        events.append({"ph": "M", "name": "thread_name", "pid": number[rank.host], "tid": rank.rank + 1, "args": name})
    starts = run.timeline.start_seconds[:, :, None] + np.cumsum(run.timeline.part_seconds, axis=2)
    starts = np.concatenate([run.timeline.start_seconds[:, :, None], starts[:, :, :-1]], axis=2)
    for position, step in enumerate(run.timeline.steps.tolist()):
        for rank in run.environment.ranks:
            for column, part in enumerate(PARTS):
                seconds = float(run.timeline.part_seconds[position, rank.rank, column])
                if seconds > 0:
                    events.append(
                        {
                            "ph": "X",
                            "name": part.replace("_", " "),
                            "cat": "step",
                            "pid": number[rank.host],
                            "tid": rank.rank + 1,
                            "ts": round(float(starts[position, rank.rank, column]) * 1e6, 3),
                            "dur": round(seconds * 1e6, 3),
                            "args": {"step": step},
                        }
                    )
    return {"traceEvents": events, "displayTimeUnit": "ms"}
