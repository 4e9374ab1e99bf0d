"""Throughput of every run over the time at which it was started: whether the machine drifted while a study ran."""

from collections.abc import Iterator

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from horovod_flowers.report.analysis.drift import Drift
from horovod_flowers.report.content import Content
from horovod_flowers.report.pages.pictures.layout import Layout, both
from horovod_flowers.report.pages.pictures.legend import legend_below
from horovod_flowers.report.pages.pictures.picture import SERIES_COLOURS, SERIES_MARKERS, Drawn
from horovod_flowers.report.pages.wording import row_words

MOST_TOLD_APART = len(SERIES_COLOURS)
"""Rows of the table with a colour of their own; of more, the runs of all are drawn alike."""
FEWEST_FOR_A_LINE = 9
"""Runs, of whose neighbours the median is drawn."""


def draw(content: Content) -> Iterator[Drawn]:
    """Where several runs have their like."""
    if content.drift is not None:
        found = content.drift
        alt = f"Throughput of each run over its start, beside the median of its row: {found.sentence}"
        yield "drift", "drift", alt, *both(lambda layout: _figure(found, layout))


def _figure(found: Drift, layout: Layout) -> Figure:
    figure, (axes,) = layout.panels([(9, 3.6 if layout.narrow else 3.2)])
    last = found.starts[-1].seconds
    unit, seconds = next(((name, size) for name, size in (("h", 3600), ("min", 60)) if last >= 2 * size), ("s", 1))
    points = list(dict.fromkeys(start.point for start in found.starts))
    for number, point in enumerate(points):
        own = [(start.seconds / seconds, start.relative) for start in found.starts if start.point is point]
        few = len(points) <= MOST_TOLD_APART
        colour = SERIES_COLOURS[number] if few else SERIES_COLOURS[0]
        marker = SERIES_MARKERS[number] if few else "o"
        filled = "white" if point.oversubscribed else colour
        label = row_words(point) if few else ("each run" if number == 0 else None)
        axes.plot(*zip(*own, strict=True), marker, color=colour, mfc=filled, markersize=5, label=label)
    if len(found.starts) >= FEWEST_FOR_A_LINE:
        across = [start.seconds / seconds for start in found.starts]
        label = "median of neighbouring runs"
        axes.plot(across, found.medians, color="#444444", linewidth=1.2, label=label, zorder=1)
    axes.axhline(1, color="#999999", linewidth=0.8, linestyle="--", zorder=0)
    low, high = (end([start.relative for start in found.starts]) for end in (min, max))
    axes.set_ylim(min(0.9, low - 0.03), max(1.1, high + 0.03))
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.xaxis.set_major_locator(MaxNLocator(5 if layout.narrow else 9))
    title = "Throughput of each run over its start"
    axes.set(xlabel=f"started, {unit} after the first run", ylabel="throughput / median of its row", title=title)
    axes.grid(alpha=0.3)
    legend_below(figure, *axes.get_legend_handles_labels(), columns=2 if layout.narrow else 4)
    return figure
