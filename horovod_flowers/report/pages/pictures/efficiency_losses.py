"""Where the time goes: the parts of a step, and the waterfall from ideal to measured efficiency."""

import textwrap
from collections.abc import Iterator
from typing import Any

import matplotlib.pyplot as plt

from horovod_flowers.report.analysis.efficiency_losses import CAUSES, EfficiencyLosses
from horovod_flowers.report.analysis.points import Point
from horovod_flowers.report.content import Content
from horovod_flowers.report.pages.pictures.picture import PART_COLOURS, Drawn
from horovod_flowers.report.pages.wording import marks, time_words
from horovod_flowers.runlog.reading.run import PARTS

MOST_ROWS = 40
LABEL_LETTERS, LABEL_LINES = 48, 4
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
    points = content.points[:MOST_ROWS]
    labels = [_wrapped(_label(point)) for point in points]
    lines = max(label.count("\n") + 1 for label in labels)
    figure, axes = plt.subplots(figsize=(9, 1.6 + max(0.42, 0.2 * lines) * len(points)))
    bottoms = [0.0] * len(points)
    for part in PARTS:
        seconds = [point.part_shares[part] * point.step_seconds.value for point in points]
        axes.barh(range(len(points)), seconds, left=bottoms, color=PART_COLOURS[part], label=time_words(part))
        bottoms = [bottom + value for bottom, value in zip(bottoms, seconds, strict=True)]
    axes.set_yticks(range(len(points)), labels)
    axes.invert_yaxis()
    title = "Where a step's time goes" + ("  (* oversubscribed)" if content.oversubscribed else "")
    if len(content.points) > len(points):
        title += f"\nthe first {len(points)} of {len(content.points)} rows of the table"
    axes.set(xlabel="seconds: the median step, divided by the parts' shares of all steps", title=title)
    figure.legend(loc="outside lower center", ncols=len(PARTS))
    words = "; ".join(
        f"{_label(point)}: " + ", ".join(f"{part} {share:.0%}" for part, share in point.part_shares.items())
        for point in points
    )
    return "parts", "losses", f"The parts of a step: {words}", figure


def _wrapped(label: str) -> str:
    """In lines that leave the bars their room; what is longer is in the table."""
    return "\n".join(textwrap.wrap(label, LABEL_LETTERS, max_lines=LABEL_LINES, placeholder=" …"))


def _label(point: Point) -> str:
    ranks = f"{point.ranks}{marks(point)} {'rank' if point.ranks == 1 else 'ranks'}"
    strategy = "" if point.ranks == 1 else f" {point.strategy},"
    return f"{ranks},{strategy} {point.scaling} {point.batch}, {point.precision}" + (
        f" ({point.which})" if point.which else ""
    )


def _waterfalls(content: Content, chosen: list[Point]) -> Drawn:
    columns = min(3, len(chosen))
    rows = -(-len(chosen) // columns)
    figure, grid = plt.subplots(rows, columns, figsize=(3.9 * columns, 3.3 * rows), squeeze=False)
    for axes, point in zip(grid.flat, chosen, strict=False):
        _waterfall(axes, point, content.efficiency_losses[point])
    for axes in grid.flat[len(chosen) :]:
        axes.set_visible(False)
    figure.suptitle("From ideal to measured efficiency" + ("  (* oversubscribed)" if content.oversubscribed else ""))
    words = "; ".join(
        f"{_label(point)}: efficiency {content.efficiency_losses[point].efficiency:.0%}, "
        + ", ".join(
            f"{time_words(cause)} {share:.1%}"
            for cause, share in content.efficiency_losses[point].shares.items()
            if share is not None
        )
        for point in chosen
    )
    return "waterfall", "losses", f"What each lost percent went to: {words}", figure


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
