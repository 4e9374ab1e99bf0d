"""The picture of a prediction: speed-up and efficiency by ranks with their intervals, and what was measured."""

from collections.abc import Iterator
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from horovod_flowers.report.content import Content
from horovod_flowers.report.pages.pictures.layout import Layout, both
from horovod_flowers.report.pages.pictures.legend import legend_below
from horovod_flowers.report.pages.pictures.picture import SERIES_COLOURS, Drawn, Picture, rendered
from horovod_flowers.report.prediction.answer import Answer
from horovod_flowers.scaling_model.measured_steps import Setting

MOST_TICKS = 10


def picture_of(found: Answer) -> Picture:
    """Drawn in the report's style."""
    (picture,) = rendered(_draw(found) for _ in range(1))
    return picture


def draw(content: Content) -> Iterator[Drawn]:
    """Where a report predicts anything."""
    if content.predicted is not None:
        yield _draw(content.predicted)


def _shown(found: Answer) -> list[Setting]:
    """As many settings as there are colours: those that come nearest to the fastest, at any number of ranks."""
    best = found.recommendation.best
    nearest: dict[Setting, float] = {}
    for one in found.predictions:
        behind = one.step_seconds / best[one.ranks].step_seconds
        nearest[one.setting] = min(behind, nearest.get(one.setting, behind))
    return sorted(nearest, key=lambda setting: nearest[setting])[: len(SERIES_COLOURS)]


def _draw(found: Answer) -> Drawn:
    alt = f"Predicted speed-up and efficiency: {found.recommendation.sentence}"
    return "prediction", "predicted", alt, *both(lambda layout: _figure(found, layout))


def _figure(found: Answer, layout: Layout) -> Figure:
    figure, (left, right) = layout.panels([(5.5, 4.8 if not layout.narrow else 3.6)] * 2)
    for setting, colour in zip(_shown(found), SERIES_COLOURS, strict=False):
        ones = sorted((one for one in found.predictions if one.setting == setting), key=lambda one: one.ranks)
        ranks = [one.ranks for one in ones]
        ends = [found.speed_up(one) for one in ones]
        for axes, scale in ((left, [1.0] * len(ones)), (right, [float(count) for count in ranks])):
            value, low, high = ([end[k] / each for end, each in zip(ends, scale, strict=True)] for k in range(3))
            axes.plot(ranks, value, "--o", color=colour, markersize=4, mfc="white", label=setting.label, zorder=3)
            axes.fill_between(ranks, low, high, color=colour, alpha=0.15, linewidth=0)
        _measured(found, setting, colour, left, right)
    most = max(one.ranks for one in found.predictions)
    left.plot([1, most], [1, most], linestyle=":", color="#666666", label="ideal", zorder=1)
    right.axhline(1, linestyle=":", color="#666666", zorder=1)
    right.axhline(found.recommendation.least_efficiency, linestyle="-.", color="#bbbbbb", zorder=1)
    left.plot([], [], "o", color="#444444", label="measured")
    ticks = sorted({one.ranks for one in found.predictions} | set(found.study.counts))
    while len(ticks) > MOST_TICKS:
        ticks = ticks[::2]
    for axes in (left, right):
        axes.set_xscale("log", base=2)
        axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
        axes.minorticks_off()
        axes.set_xlabel("ranks")
        axes.grid(alpha=0.3)
    left.set_yscale("log", base=2)
    left.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    kind = "predicted from emulated runs" if found.study.emulated else "predicted"
    left.set(ylabel="speed-up", title=f"Speed-up, {kind}")
    right.set(ylabel="parallel efficiency", title=f"Parallel efficiency, {kind}")
    right.set_ylim(0, max(1.08, right.get_ylim()[1]))
    figure.suptitle(layout.wrapped(f"{found.study.label}; network {found.network}", 11), fontsize=10)
    legend_below(figure, *left.get_legend_handles_labels(), columns=1 if layout.narrow else 3)
    return figure


def _measured(found: Answer, setting: Setting, colour: str, left: Any, right: Any) -> None:
    """Runs of this setting, and of one rank."""
    alone = found.images_per_second_alone
    known = [step for step in found.predictor.measured if step.setting == setting or step.ranks == 1]
    work = found.predictor.work
    ranks = [step.ranks for step in known]
    speed = [work.images_of_step(step.ranks) / step.step_seconds / alone for step in known]
    left.plot(ranks, speed, "o", color=colour, markersize=5, zorder=4)
    right.plot(ranks, [each / count for each, count in zip(speed, ranks, strict=True)], "o", color=colour, zorder=4)
