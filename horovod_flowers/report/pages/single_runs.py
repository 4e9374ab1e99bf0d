"""The table of single runs: every run with its timed steps, whatever the figures above it are made of."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone

import numpy as np

from horovod_flowers.report.analysis.points import Point
from horovod_flowers.report.analysis.run_summary import RunSummary
from horovod_flowers.report.content import Content

MOST_ROWS = 400
"""Of the page; scaling.json has all."""


@dataclass(frozen=True)
class SingleRun:
    """A row."""

    run: RunSummary
    point: Point
    started: str
    """As day and time, UTC."""
    images_per_second: float
    speed_up: float | None
    """Over the baseline's throughput, all of its runs together."""

    @property
    def timed_steps(self) -> int:
        """Without warm-up."""
        return len(self.run.slowest_seconds)


def single_runs(content: Content) -> list[SingleRun]:
    """Of every point, in the order of the main table, and of the starts."""
    return list(_rows(content))[:MOST_ROWS]


def _rows(content: Content) -> Iterator[SingleRun]:
    for point in content.points:
        rates = point.images_per_second.each
        # Of the baseline itself a ratio says how far a run is from all of them together.
        base = None if point.baseline is None else point.baseline.images_per_second.value / point.baseline.ranks
        found = [
            SingleRun(run, point, _started(run.environment.started_utc), rate, rate / base if base else None)
            for run, rate in zip(point.runs, rates, strict=True)
        ]
        yield from sorted(found, key=lambda row: (row.run.environment.started_utc, row.run.name))


def _started(utc: str) -> str:
    try:
        moment = datetime.fromisoformat(utc)
    except ValueError:
        return utc
    return (moment.astimezone(timezone.utc) if moment.tzinfo else moment).strftime("%Y-%m-%d %H:%M:%S")


def timed_steps_words(point: Point) -> str:
    """How many timed steps a run of a point has: '12', or '10 to 12'."""
    counts = np.array([len(run.slowest_seconds) for run in point.runs])
    least, most = int(counts.min()), int(counts.max())
    return f"{least}" if least == most else f"{least} to {most}"
