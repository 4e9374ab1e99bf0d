"""Measurements for Extra-P 4, which models how a time grows with the number of ranks: its JSON Lines format.

One measurement a line, {"params": {"ranks": 4}, "metric": ..., "callpath": ..., "value": ...}, and a file a series, as
Extra-P wants every callpath of a file measured at the same points. It passes over the other keys of a line, which say
what it is of: run, strategy, scaling, batch, which, emulated, doubts, unlike.
Format: docs/file-formats.md of Extra-P 4.
"""

import json
import re
from collections.abc import Iterator, Sequence

from horovod_flowers.report.analysis.points import Point, Series
from horovod_flowers.report.analysis.run_summary import RunSummary
from horovod_flowers.report.content import Content
from horovod_flowers.report.exports.exported import Exported
from horovod_flowers.runtime.errors import harmless

FOLDER = "extra-p"
FEWEST_POINTS = 5
"""Numbers of ranks below which Extra-P's default modeler warns (its min_measurement_points)."""
EMULATED = "emulated"
_EARLIER = r"(strong|weak)-\d+-[a-z0-9.-]+\.jsonl"
_PARTS = {
    "input_wait": "input wait",
    "compute": "forward and backward pass",
    "communication": "exposed communication",
    "update": "optimizer step",
}


def extra_p(content: Content) -> Exported:
    """A file for each series with points that measure speed."""
    files: dict[str, str | bytes] = {}
    told, few, doubtful = [], [], []
    for series in content.series:
        every = [point for point in (series.baseline, *series.points) if point is not None]
        points = [point for point in every if not point.oversubscribed]
        if crowded := [point for point in every if point.oversubscribed]:
            told.append(
                f"for Extra-P: {series.label}: {_ranks(crowded)} were left out, which shared cores: no measure of speed"
            )
        if not any(point in points for point in series.points):
            continue
        path = _path(series, files)
        files[path] = "".join(f"{json.dumps(line)}\n" for point in points for line in _lines(content, point))
        few += [path] if len({point.ranks for point in points}) < FEWEST_POINTS else []
        if doubted := [point for point in points if content.doubts.get(point)]:
            doubtful.append(f"{path} ({_ranks(doubted)})")
    if few:
        told.append(
            f"for Extra-P: of fewer than {FEWEST_POINTS} numbers of ranks, which its models want: {', '.join(few)}"
        )
    if doubtful:
        told.append(f"for Extra-P: read the doubts before you model {', '.join(doubtful)}")
    if not files:
        told.append("for Extra-P: nothing was written: no series has runs on more ranks that measure speed")
    return Exported(files, told, FOLDER, _EARLIER)


def _ranks(points: Sequence[Point]) -> str:
    return " and ".join(", ".join(str(point.ranks) for point in points).rsplit(", ", 1)) + " ranks"


def _path(series: Series, taken: dict[str, str | bytes]) -> str:
    """Such as extra-p/strong-64-bf16-allreduce.jsonl, with a number behind it where several series look alike."""
    point = series.points[0]
    words = f"{point.scaling}-{point.batch}-{point.precision}-{series.strategy}"
    stem = re.sub(r"[^a-z0-9.]+", "-", words.lower()).strip("-")
    path, number = f"{FOLDER}/{stem}.jsonl", 1
    while path in taken:
        number += 1
        path = f"{FOLDER}/{stem}-{number}.jsonl"
    return path


def _lines(content: Content, point: Point) -> Iterator[dict[str, object]]:
    """The lines of a point, those of a run together. Emulated ones have callpaths of their own."""
    root = f"{EMULATED} " if point.emulated else ""
    doubts = content.doubts.get(point, [])
    for run in point.runs:
        about = {
            "run": harmless(run.name),
            "strategy": point.strategy,
            "scaling": point.scaling,
            "batch": point.batch,
            "which": point.which,
            "emulated": point.emulated,
            "doubts": [harmless(sentence) for sentence in doubts],
            "unlike": [harmless(words) for words in point.unlike],
        }
        for callpath, metric, value in _measurements(run, root):
            yield {"params": {"ranks": run.ranks}, "metric": metric, "callpath": callpath, "value": value, **about}


def _measurements(run: RunSummary, root: str) -> Iterator[tuple[str, str, float]]:
    """Callpath, metric and value. The parts are means over ranks, and no children of the slowest rank's step."""
    yield f"{root}step", "seconds", run.median_step_seconds
    yield f"{root}step", "images_per_second", run.images / run.timed_seconds
    for part, name in _PARTS.items():
        yield f"{root}mean over ranks->{name}", "seconds", run.part_seconds[part] / len(run.slowest_seconds)
