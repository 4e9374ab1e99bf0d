"""Speed-up and efficiency by ranks, with intervals, bounds and fitted laws."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from horovod_flowers.report.analysis.intervals import Estimate
from horovod_flowers.report.analysis.laws import Fit
from horovod_flowers.report.analysis.points import Point, Series
from horovod_flowers.report.content import Content, SeriesFits
from horovod_flowers.report.pages.pictures.layout import Layout, both
from horovod_flowers.report.pages.pictures.legend import legend_below
from horovod_flowers.report.pages.pictures.picture import SERIES_COLOURS, SERIES_MARKERS, Drawn

EXTRAPOLATION = 2
"""How far beyond the measured numbers of ranks a law is drawn, in multiples."""
MARGIN = 1.15
"""Of an axis, beyond what was measured."""
LAW_STYLES = (("-", ":"), ("-.", (0, (1, 3))))
"""Of the laws of a series: among the measured numbers of ranks, and beyond."""
ASIDE = 0.05
"""Between the points of two series on the same number of ranks, in powers of two."""
RUN_ASIDE = 2**0.025
"""Of single runs, from their point."""
RUN_ALPHA = 0.5


def draw(content: Content) -> Iterator[Drawn]:
    """A picture for each kind of scaling that has ratios, or one of throughput where none has."""
    rated = [members for members in content.series if any(point.speed_up for point in members.points)]
    for scaling in ("strong", "weak"):
        chosen = [members for members in rated if members.points[0].scaling == scaling]
        if chosen:
            yield _speed_up(content, chosen, scaling)
    if not rated:
        yield _throughput(content)


def _speed_up(content: Content, chosen: Sequence[Series], scaling: str) -> Drawn:
    words = ", ".join(_in_words(point) for members in chosen for point in members.points)
    alt = f"Speed-up and efficiency by ranks, {scaling} scaling: {words}"
    drawn = both(lambda layout: _speed_up_figure(content, chosen, scaling, layout))
    return f"speed-up-{scaling}", "scaling", alt, *drawn


def _speed_up_figure(content: Content, chosen: Sequence[Series], scaling: str, layout: Layout) -> Figure:
    figure, (left, right) = layout.panels([(4.8, 4.4 if not layout.narrow else 3.6)] * 2)
    # Ranks that train independently are no competitor: grey, and beneath.
    ordered = sorted(chosen, key=lambda members: not members.without_communication)
    colours = iter(SERIES_COLOURS * (len(ordered) // len(SERIES_COLOURS) + 1))
    for number, members in enumerate(ordered):
        aside = 2 ** (ASIDE * (number - (len(ordered) - 1) / 2))
        independent = members.without_communication
        colour = "#888888" if independent else next(colours)
        label = "no communication (strategy none)" if independent else members.label
        label += ", emulated" if independent and members.emulated else ""
        label += f" ({members.points[0].which})" if members.points[0].which else ""
        marker = "o" if independent else SERIES_MARKERS[number % len(SERIES_MARKERS)]
        _series(left, members, "speed_up", colour, label, aside, marker)
        _series(right, members, "efficiency", colour, label, aside, marker)
        if not independent:
            _modelled(left, content, members, colour, aside)
        for fits in content.fits:
            if fits.series is members and not independent:
                _laws(left, right, fits, colour)
    most = max(point.ranks for members in chosen for point in members.points)
    least = min(members.baseline.ranks for members in chosen if members.baseline)
    left.set_yscale("log", base=2)  # with ranks in powers of two, too, the ideal is a straight line
    farthest = max((_reach(found) for fits in content.fits if fits.series in chosen for found in fits.fits), default=0)
    end = max(most, farthest)
    left.plot([least, end], [least, end], linestyle="--", color="#666666", label="ideal", zorder=1)
    right.axhline(1, linestyle="--", color="#666666", zorder=1)
    if any(bounds.exposed for bounds in content.bounds.values()):
        left.plot([], [], "x", color="#444444", label="cost model, all communication exposed")
    ticks = sorted({point.ranks for members in chosen for point in members.points} | {least})
    ticks += [most * 2] if farthest > most else []
    for axes in (left, right):
        _rank_axis(axes, ticks)
        axes.set_xlim(least / MARGIN, end * MARGIN)
    _follow_measurements(left, right, chosen, least, most)
    left.set(ylabel="speed-up", title=f"Speed-up, {scaling} scaling")
    left.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    right.set(ylabel="parallel efficiency", title="Parallel efficiency")
    crowded = any(point.oversubscribed for members in chosen for point in members.points)
    if crowded:
        left.plot([], [], "o", mfc="white", mec="#444444", label="oversubscribed: not a measure of speed")
    if any(len(point.runs) > 1 for members in chosen for point in members.points):
        left.plot([], [], ".", color="#444444", alpha=RUN_ALPHA, markersize=7, mew=0, label="single runs")
    legend_below(figure, *left.get_legend_handles_labels(), columns=1 if layout.narrow else 2)
    return figure


def _reach(found: Fit) -> float:
    """The largest number of ranks up to which a law is drawn."""
    return found.rank_counts[-1] * (EXTRAPOLATION if found.not_extrapolated is None else 1)


def _follow_measurements(left: Any, right: Any, chosen: Sequence[Series], least: int, most: int) -> None:
    """Scale the axes to what was measured and to the ideal there: a law may go anywhere."""
    points = [point for members in chosen for point in members.points if point.speed_up is not None]
    speeds = [value for point in points if point.speed_up for value in _values(point.speed_up)]
    efficiencies = [value for point in points if point.efficiency for value in _values(point.efficiency)]
    left.set_ylim(min(least, *speeds) / MARGIN, max(most, *speeds) * MARGIN)
    right.set_ylim(0, max(1.08, *(value * 1.05 for value in efficiencies)))


def _values(found: Estimate) -> list[float]:
    """Everything of an estimate that is drawn."""
    return [found.value, *found.each, *(end for end in (found.low, found.high) if end is not None)]


def _in_words(point: Point) -> str:
    if point.speed_up is None:
        return f"{point.strategy} on {point.ranks} ranks without a ratio"
    return f"{point.strategy} on {point.ranks} ranks {point.speed_up.value:.2f}"


def _rank_axis(axes: Any, ticks: Sequence[int]) -> None:
    axes.set_xscale("log", base=2)
    while len(ticks) > 10:
        ticks = ticks[::2]
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel("ranks")
    axes.grid(alpha=0.3)


def _series(axes: Any, members: Series, name: str, colour: str, label: str, aside: float, marker: str) -> None:
    """Points with their intervals, and the single runs; a little aside, so that those of several series can be seen."""
    points = [point for point in members.points if getattr(point, name) is not None]
    base = [members.baseline] if members.baseline is not None else []
    found: list[Estimate] = [getattr(point, name) for point in points]
    start = [float(point.ranks) if name == "speed_up" else 1.0 for point in base]
    ranks = [point.ranks * aside for point in (*base, *points)]
    values = [*start, *(value.value for value in found)]
    axes.plot(ranks, values, marker=marker, color=colour, label=label, zorder=3, markersize=5)
    for point, value in zip(points, found, strict=True):
        if value.low is not None and value.high is not None:
            ends = [[value.value - value.low], [value.high - value.value]]
            axes.errorbar([point.ranks * aside], [value.value], yerr=ends, color=colour, capsize=4, zorder=3)
        if len(value.each) > 1:
            beside = [point.ranks * aside * RUN_ASIDE] * len(value.each)
            axes.plot(beside, value.each, ".", color=colour, alpha=RUN_ALPHA, markersize=7, mew=0, zorder=2)
        if point.oversubscribed:
            axes.plot([point.ranks * aside], [value.value], marker, mfc="white", mec=colour, markersize=7, zorder=4)


def _laws(left: Any, right: Any, fits: SeriesFits, colour: str) -> None:
    baseline = fits.series.baseline
    if baseline is None:
        return
    one = baseline.images_per_second.value / baseline.ranks
    for found, (inner, outer) in zip(fits.fits, LAW_STYLES, strict=False):
        words = ", ".join(f"{name.replace('_', ' ')} {value.value:.3g}" for name, value in found.parameters.items())
        extrapolated = found.not_extrapolated is None
        said = "rejected by the runs" if not found.quality.holds else "not extrapolated"
        label = f"{found.law}: {words} ({'dotted: extrapolated' if extrapolated else said})"
        first, last = found.rank_counts[0], found.rank_counts[-1]
        _law(left, right, found, np.geomspace(first, last, 60), one, colour, inner, label)
        if extrapolated:
            _law(left, right, found, np.geomspace(last, last * EXTRAPOLATION, 60), one, colour, outer, None)


def _law(
    left: Any, right: Any, found: Fit, ranks: np.ndarray, one: float, colour: str, style: Any, label: str | None
) -> None:
    """One piece of a law's curve, with its band; neither is drawn above the ideal, which no law may promise."""
    shape = {"linestyle": style, "color": colour, "linewidth": 1.1, "alpha": 0.9, "zorder": 2}
    speed = np.clip(found.rates(ranks) / one, 0, ranks)
    left.plot(ranks, speed, label=label, **shape)
    right.plot(ranks, speed / ranks, **shape)
    band = found.band(ranks)
    if band is not None:
        low, high = (np.clip(end / one, 0, ranks) for end in band)
        left.fill_between(ranks, low, high, color=colour, alpha=0.12, linewidth=0)
        right.fill_between(ranks, low / ranks, high / ranks, color=colour, alpha=0.12, linewidth=0)


def _modelled(axes: Any, content: Content, members: Series, colour: str, aside: float) -> None:
    """What the cost models leave of the speed-up if no communication were hidden."""
    found = [(point.ranks, content.bounds[point].exposed) for point in members.points if point in content.bounds]
    known = [(ranks * aside, value) for ranks, value in found if value is not None]
    if known:
        axes.plot(*zip(*known, strict=True), "x", color=colour, zorder=5, markersize=7)


def _throughput(content: Content) -> Drawn:
    drawn = both(lambda layout: _throughput_figure(content, layout))
    return "throughput", "scaling", "Images per second by ranks, without a baseline", *drawn


def _throughput_figure(content: Content, layout: Layout) -> Figure:
    figure, (axes,) = layout.panels([(7, 4.2)])
    groups: dict[tuple[object, str], list[Point]] = {}
    for point in content.points:
        groups.setdefault((point.work, point.strategy), []).append(point)
    for (members), colour in zip(groups.values(), SERIES_COLOURS * len(groups), strict=False):
        ranks = [point.ranks for point in members]
        values = [point.images_per_second.value for point in members]
        label = f"{members[0].strategy}, {members[0].scaling} scaling, {members[0].precision}"
        axes.plot(ranks, values, marker="o", color=colour, label=label)
        for point in members:
            each = point.images_per_second.each
            if len(each) > 1:
                axes.plot([point.ranks * RUN_ASIDE] * len(each), each, ".", color=colour, alpha=RUN_ALPHA, mew=0)
            if point.oversubscribed:
                axes.plot([point.ranks], [point.images_per_second.value], "o", mfc="white", mec=colour, markersize=7)
    _rank_axis(axes, sorted({point.ranks for point in content.points}))
    title = "Throughput (no baseline to take ratios against)"
    if content.oversubscribed:
        title += "\nhollow: oversubscribed, not a measure of speed"
    axes.set(ylabel="images/s", title=layout.wrapped(title, 7), ylim=(0, None))
    legend_below(figure, *axes.get_legend_handles_labels(), columns=1 if layout.narrow else 2)
    return figure
