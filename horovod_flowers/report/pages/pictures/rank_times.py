"""The ranks of a run: slowest and fastest of each step, each rank's own time, and a timeline of a few steps."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from horovod_flowers.report.analysis.rank_times import RankTimes
from horovod_flowers.report.content import Content
from horovod_flowers.report.pages.pictures.layout import Layout, both
from horovod_flowers.report.pages.pictures.legend import legend_below
from horovod_flowers.report.pages.pictures.picture import PART_COLOURS, Drawn
from horovod_flowers.report.pages.wording import counted, marks, time_words
from horovod_flowers.runlog.reading.run import PARTS

MOST_BARS = 64
"""Ranks whose timeline is drawn as bars; of more, one line of pixels a rank."""
MOST_POINTS = 2_000
"""Steps drawn one by one; of more, the span of neighbours."""
MOST_DRAWN = 8
PIXELS = 1_600


def draw(content: Content) -> Iterator[Drawn]:
    """For each series its largest point that is a measure of speed: step times by rank, and a timeline."""
    for number, times in enumerate(content.detailed[:MOST_DRAWN], 1):
        label = f"{times.point.ranks} ranks{marks(times.point)}, {times.point.strategy}, run {times.run.name}"
        yield _steps(times, number, label)
        yield _timeline(times, number, label)


def _steps(times: RankTimes, number: int, label: str) -> Drawn:
    told = ", ".join(f"{name} {seconds:.4g} s" for name, seconds in times.percentiles.items())
    alt = f"Seconds per step of {label}: {told}; {counted(times.straggler_count, 'slow rank')}"
    return f"ranks-{number}", "ranks", alt, *both(lambda layout: _steps_figure(times, label, layout))


def _steps_figure(times: RankTimes, label: str, layout: Layout) -> Figure:
    figure, (left, right) = layout.panels([(6.6, 3.6), (4.4, 3.6)])
    run = times.run
    slowest, fastest = run.slowest_seconds, run.fastest_seconds
    positions = np.arange(len(slowest))
    if len(slowest) > MOST_POINTS:
        edges = np.linspace(0, len(slowest), MOST_POINTS // 4 + 1).astype(int)[:-1]
        slowest, fastest = np.maximum.reduceat(slowest, edges), np.minimum.reduceat(fastest, edges)
        positions = edges
    left.fill_between(
        positions, fastest, slowest, color="#56b4e9", alpha=0.6, label="fastest to slowest rank", step="mid"
    )
    left.plot(positions, slowest, color="#0072b2", linewidth=0.9, drawstyle="steps-mid", label="slowest rank")
    for name, style in (("p50", "-"), ("p95", "--"), ("p99", ":")):
        left.axhline(times.percentiles[name], color="#444444", linestyle=style, linewidth=0.9, label=name)
    left.set(xlabel="timed step", ylabel="seconds per step", title=layout.wrapped(f"Steps: {label}", 6))
    left.set_ylim(0, 1.15 * max(float(slowest.max()), times.percentiles["p99"]))
    legend_below(figure, *left.get_legend_handles_labels(), columns=2 if layout.narrow else 5)
    _own_work(right, times)
    return figure


def _own_work(axes: Any, times: RankTimes) -> None:
    work = times.run.rank_work_seconds
    many = len(work) > MOST_BARS
    axes.plot(
        np.arange(len(work)),
        work,
        "," if many else "o",
        color="#0072b2",
        markersize=None if many else 4,
        rasterized=many,
    )
    axes.axhline(float(np.median(work)), color="#444444", linewidth=0.9)
    for slow in times.stragglers:
        axes.plot([slow.rank], [work[slow.rank]], "o", color="#d55e00", markersize=5)
    for slow in times.stragglers[:3]:
        place = (slow.rank, work[slow.rank])
        axes.annotate(f"rank {slow.rank}, {slow.host}", place, fontsize=8, xytext=(4, 4), textcoords="offset points")
    axes.set(xlabel="rank", ylabel="seconds per step (median)", title="Each rank's time without communication")
    axes.set_ylim(0, 1.15 * float(work.max()) or 1)
    if not many:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _timeline(times: RankTimes, number: int, label: str) -> Drawn:
    steps = times.run.timeline.steps
    alt = f"Timeline of steps {int(steps[0])} to {int(steps[-1])} over all ranks of {label}"
    return f"timeline-{number}", "ranks", alt, *both(lambda layout: _timeline_figure(times, label, layout))


def _timeline_figure(times: RankTimes, label: str, layout: Layout) -> Figure:
    ranks = times.run.ranks
    height = min(7.0, 1.8 + 0.28 * ranks) if ranks <= MOST_BARS else 7.0
    figure, (axes,) = layout.panels([(11, height + (0.8 if layout.narrow else 0))])
    line = times.run.timeline
    ends = line.start_seconds[:, :, None] + np.cumsum(line.part_seconds, axis=2)
    starts = ends - line.part_seconds
    if ranks <= MOST_BARS:
        for column, part in enumerate(PARTS):
            for rank in range(ranks):
                spans = list(zip(starts[:, rank, column], line.part_seconds[:, rank, column], strict=True))
                axes.broken_barh(spans, (rank - 0.4, 0.8), color=PART_COLOURS[part], linewidth=0)
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    else:
        _as_pixels(axes, starts, ends)
    axes.set_ylim(ranks - 0.5, -0.5)
    first, last = int(line.steps[0]), int(line.steps[-1])
    title = layout.wrapped(f"Timeline: {label}", 10)
    axes.set(xlabel=f"seconds, steps {first} to {last}", ylabel="rank", title=title)
    handles = [Patch(color=colour) for colour in PART_COLOURS.values()]
    labels = [time_words(part) for part in PART_COLOURS]
    legend_below(figure, handles, labels, columns=1 if layout.narrow else len(PARTS))
    return figure


def _as_pixels(axes: Any, starts: np.ndarray, ends: np.ndarray) -> None:
    """One line of an image a rank: which part each moment belongs to."""
    moments = np.linspace(0, float(ends.max()), PIXELS, endpoint=False)
    ranks = starts.shape[1]
    # [ranks, pieces] in order of time: pieces follow each other, so the last that has begun is the one that runs.
    begins = starts.transpose(1, 0, 2).reshape(ranks, -1)
    finishes = ends.transpose(1, 0, 2).reshape(ranks, -1)
    image = np.full((ranks, PIXELS), np.nan, np.float32)
    for rank in range(ranks):
        piece = np.searchsorted(begins[rank], moments, side="right") - 1
        running = (piece >= 0) & (moments < finishes[rank][np.maximum(piece, 0)])
        image[rank, running] = piece[running] % len(PARTS)
    colours = ListedColormap([PART_COLOURS[part] for part in PARTS])
    extent = (0, float(ends.max()), ranks - 0.5, -0.5)
    axes.imshow(image, aspect="auto", interpolation="nearest", cmap=colours, vmin=-0.5, vmax=3.5, extent=extent)
