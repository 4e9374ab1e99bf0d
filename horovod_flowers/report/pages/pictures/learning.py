"""Accuracy and loss by epoch and by training time."""

from collections.abc import Iterator
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from horovod_flowers.report.analysis.learning import Curve
from horovod_flowers.report.analysis.points import Point
from horovod_flowers.report.content import Content
from horovod_flowers.report.pages.pictures.layout import Layout, both
from horovod_flowers.report.pages.pictures.legend import legend_below
from horovod_flowers.report.pages.pictures.picture import SERIES_COLOURS, Drawn
from horovod_flowers.report.pages.wording import row_words, work_words

MOST_POINTS = 14
MOST_RUNS = 12
"""Curves drawn of one point."""
MOST_TICKS = 12
"""Epochs that each have a tick."""


def draw(content: Content) -> Iterator[Drawn]:
    """One picture of all points that trained a common model; single epochs are drawn as dots."""
    shown = [(point, curves) for point, curves in content.curves if point.best_validation_accuracy is not None]
    if not shown:
        return
    best = "; ".join(f"{point.strategy} on {point.ranks}: {point.best_validation_accuracy:.3f}" for point, _ in shown)
    alt = f"Accuracy and loss by epoch and time; best validation accuracy: {best}"
    yield "learning", "learning", alt, *both(lambda layout: _figure(shown, layout))


def _figure(shown: list[tuple[Point, list[Curve]]], layout: Layout) -> Figure:
    figure, (by_epoch, by_time, losses) = layout.panels([(4.2, 4.4 if not layout.narrow else 3.0)] * 3)
    for (point, curves), colour in zip(shown[:MOST_POINTS], SERIES_COLOURS * MOST_POINTS, strict=False):
        label = f"{row_words(point)}, {work_words(point)}"
        for curve in curves[:MOST_RUNS]:
            _curve(by_epoch, curve.epochs, curve.validation_accuracy, colour, label)
            _curve(by_time, curve.training_seconds, curve.validation_accuracy, colour, label)
            _curve(losses, curve.epochs, curve.validation_loss, colour, label)
            _curve(losses, curve.epochs, curve.training_loss, colour, None, linestyle="--")
            label = None  # type: ignore[assignment]
    by_epoch.set(xlabel="epoch", ylabel="validation accuracy", title="Accuracy by epoch", ylim=(0, 1))
    by_time.set(xlabel="training seconds", ylabel="validation accuracy", title="Accuracy by time", ylim=(0, 1))
    losses.set(xlabel="epoch", ylabel="loss", title="Loss (dashed, ×: training)")
    by_time.xaxis.set_major_locator(MaxNLocator(4))
    _whole_epochs(by_epoch, shown)
    _whole_epochs(losses, shown)
    for axes in (by_epoch, by_time, losses):
        axes.grid(alpha=0.3)
    legend_below(figure, *by_epoch.get_legend_handles_labels(), columns=1 if layout.narrow else 3)
    return figure


def _curve(
    axes: Any,
    across: tuple[float, ...],
    up: tuple[float | None, ...],
    colour: str,
    label: str | None,
    linestyle: str = "-",
) -> None:
    known = [(x, y) for x, y in zip(across, up, strict=True) if y is not None]
    if known:
        marker = "." if linestyle == "-" else "x"  # of a single epoch there is no line
        look: dict[str, Any] = {"marker": marker, "markersize": 5, "linewidth": 1, "alpha": 0.8, "linestyle": linestyle}
        axes.plot(*zip(*known, strict=True), color=colour, label=label, **look)


def _whole_epochs(axes: Any, shown: list[tuple[Any, list[Curve]]]) -> None:
    last = max((epoch for _, curves in shown for curve in curves for epoch in curve.epochs), default=1)
    if last <= MOST_TICKS:
        axes.set_xticks(range(1, last + 1))
    axes.set_xlim(0.5, last + 0.5)
