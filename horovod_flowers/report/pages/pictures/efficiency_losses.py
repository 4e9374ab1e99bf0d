"""Where the time goes: the parts of a step, and the waterfall from ideal to measured efficiency."""

import textwrap
from collections.abc import Iterator
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from horovod_flowers.report.analysis.efficiency_losses import CAUSES, EfficiencyLosses
from horovod_flowers.report.analysis.points import Point
from horovod_flowers.report.content import Content
from horovod_flowers.report.pages.pictures.layout import Layout, both
from horovod_flowers.report.pages.pictures.legend import legend_below
from horovod_flowers.report.pages.pictures.picture import PART_COLOURS, Drawn
from horovod_flowers.report.pages.wording import marks, time_words
from horovod_flowers.runlog.reading.run import PARTS

MOST_ROWS = 40
LABEL_LETTERS, LABEL_LINES = 48, 4
NARROW_LABEL_LETTERS, NARROW_LABEL_LINES = 20, 5
MOST_WATERFALLS = 12


def draw(content: Content) -> Iterator[Drawn]:
    """The parts of a step of each point, and a waterfall for the points of most ranks."""
    yield _parts(content)
    # All numbers of ranks while they fit; else of each series the most.
    chosen = list(content.efficiency_losses)
    if len(chosen) > MOST_WATERFALLS:
        last = {id(times.point) for times in content.detailed}
        chosen = [point for point in chosen if id(point) in last][:MOST_WATERFALLS]
    if chosen:
        yield _waterfalls(content, chosen)


def _parts(content: Content) -> Drawn:
    words = "; ".join(
        f"{_label(point)}: " + ", ".join(f"{time_words(part)} {share:.0%}" for part, share in point.part_shares.items())
        for point in content.points[:MOST_ROWS]
    )
    return "parts", "losses", f"The parts of a step: {words}", *both(lambda layout: _parts_figure(content, layout))


def _parts_figure(content: Content, layout: Layout) -> Figure:
    points = content.points[:MOST_ROWS]
    labels = [_wrapped(_label(point), layout) for point in points]
    lines = max(label.count("\n") + 1 for label in labels)
    figure, (axes,) = layout.panels([(9, 1.6 + max(0.42, 0.2 * lines) * len(points))])
    bottoms = [0.0] * len(points)
    for part in PARTS:
        seconds = [point.part_shares[part] * point.step_seconds.value for point in points]
        axes.barh(range(len(points)), seconds, left=bottoms, color=PART_COLOURS[part], label=time_words(part))
        bottoms = [bottom + value for bottom, value in zip(bottoms, seconds, strict=True)]
    axes.set_yticks(range(len(points)), labels)
    axes.invert_yaxis()
    title = "Where the time of a step goes" + ("  (* oversubscribed)" if content.oversubscribed else "")
    if len(content.points) > len(points):
        title += f"\nthe first {len(points)} of {len(content.points)} rows of the table"
    across = "seconds per step (median), divided by each part's share of all steps"
    inches = 2.4 if layout.narrow else 9
    axes.set(xlabel=_lines(across, inches), title=_lines(title, inches))
    axes.xaxis.set_major_locator(MaxNLocator(4 if layout.narrow else "auto"))
    legend_below(figure, *axes.get_legend_handles_labels(), columns=1 if layout.narrow else len(PARTS))
    return figure


def _lines(text: str, inches: float) -> str:
    return "\n".join(textwrap.fill(line, int(inches * 11)) for line in text.split("\n"))


def _wrapped(label: str, layout: Layout) -> str:
    """In lines that leave the bars their room; what is longer is in the table."""
    letters, most = (NARROW_LABEL_LETTERS, NARROW_LABEL_LINES) if layout.narrow else (LABEL_LETTERS, LABEL_LINES)
    return "\n".join(textwrap.wrap(label, letters, max_lines=most, placeholder=" …"))


def _label(point: Point) -> str:
    ranks = f"{point.ranks}{marks(point)} {'rank' if point.ranks == 1 else 'ranks'}"
    strategy = "" if point.ranks == 1 else f" {point.strategy},"
    return f"{ranks},{strategy} {point.scaling} {point.batch}, {point.precision}" + (
        f" ({point.which})" if point.which else ""
    )


def _waterfalls(content: Content, chosen: list[Point]) -> Drawn:
    words = "; ".join(
        f"{_label(point)}: efficiency {content.efficiency_losses[point].efficiency:.0%}, "
        + ", ".join(
            f"{time_words(cause)} {share:.1%}"
            for cause, share in content.efficiency_losses[point].shares.items()
            if share is not None
        )
        for point in chosen
    )
    drawn = both(lambda layout: _waterfalls_figure(content, chosen, layout))
    return "waterfall", "losses", f"What each lost percent went to: {words}", *drawn


def _waterfalls_figure(content: Content, chosen: list[Point], layout: Layout) -> Figure:
    figure, panels = layout.panels([(3.9, 2.9 if layout.narrow else 3.5)] * len(chosen), most_in_a_row=3)
    for axes, point in zip(panels, chosen, strict=True):
        _waterfall(axes, point, content.efficiency_losses[point])
    title = "From ideal to measured efficiency" + ("  (* oversubscribed)" if content.oversubscribed else "")
    figure.suptitle(layout.wrapped(title, 3.9 * min(3, len(chosen))))
    return figure


def _waterfall(axes: Any, point: Point, losses: EfficiencyLosses) -> None:
    labels, level = ["ideal"], 1.0
    axes.bar([0], [1.0], color="#bbbbbb")
    for cause in CAUSES:
        share = losses.shares[cause]
        if share is None:
            continue
        position = len(labels)
        labels.append(time_words(cause).replace(" ", "\n"))  # a long name would leave the bars little room
        axes.bar([position], [-share], bottom=[level], color="#d55e00" if share > 0 else "#009e73")
        axes.text(position, max(level, level - share) + 0.02, f"{share * 100:.1f}", ha="center", fontsize=8)
        level -= share
    axes.bar([len(labels)], [level], color="#0072b2")
    axes.text(len(labels), level + 0.02, f"{level * 100:.1f}", ha="center", fontsize=8)
    labels.append("efficiency")
    axes.set_xticks(range(len(labels)), labels, rotation=90, fontsize=8)
    title = f"{point.ranks}{marks(point)} ranks, {point.strategy}\n{point.scaling} {point.batch}, {point.precision}"
    axes.set_title(title, fontsize=9)
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0 %", "25 %", "50 %", "75 %", "100 %"], fontsize=8)
    axes.set_ylim(min(0, level), max(1.12, 1.12 + max(0.0, level - 1)))
