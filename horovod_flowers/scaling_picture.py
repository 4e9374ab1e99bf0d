"""The report's picture: how fast the ranks are together, and where a step's time goes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # no display on a compute node
import matplotlib.pyplot as plt

from horovod_flowers.recorded_run import PARTS
from horovod_flowers.scaling import Point

PART_COLOURS = {"input_wait": "#8c8c8c", "compute": "#4c72b0", "communication": "#dd8452", "update": "#55a868"}


def draw_scaling(points: Sequence[Point], path: Path) -> None:
    """Write a PNG with two panels: speed-up by ranks (throughput where no baseline exists), and the parts of a step."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    _draw_speed(left, points)
    _draw_parts(right, points)
    figure.savefig(path, dpi=150, format="png")
    plt.close(figure)


def _draw_speed(axes: Any, points: Sequence[Point]) -> None:
    rated = any(point.speed_up is not None and point.ranks > 1 for point in points)
    shown = [point for point in points if not rated or point.speed_up is not None]
    series: dict[tuple[Any, str], list[Point]] = {}
    for point in shown:
        if point.ranks > 1 or not rated:
            series.setdefault((point.work, point.strategy), []).append(point)
    for (work, strategy), members in series.items():
        line = [members[0].baseline] if rated and members[0].baseline else []
        line = [point for point in (*line, *members) if point is not None]
        values = [_speed(point, rated) for point in line]
        label = f"{strategy}, {dict(work)['scaling']} scaling, {dict(work)['precision']}"
        (drawn,) = axes.plot([point.ranks for point in line], values, marker="o", label=label)
        hollow = [(point.ranks, value) for point, value in zip(line, values, strict=True) if point.oversubscribed]
        if hollow:
            axes.plot(
                *zip(*hollow, strict=True), "o", mfc="white", mec=drawn.get_color(), label="oversubscribed", zorder=3
            )
    most = max(point.ranks for point in shown)
    if rated:
        axes.plot([1, most], [1, most], linestyle="--", color="#666666", label="ideal")
    axes.set(
        xlabel="ranks",
        ylabel="speed-up against one rank" if rated else "images/s",
        title="Speed-up" if rated else "Throughput (no one-rank baseline)",
        ylim=(0, None),
    )
    axes.set_xticks(sorted({point.ranks for point in shown}))
    axes.grid(alpha=0.3)
    axes.legend()


def _speed(point: Point, rated: bool) -> float:
    if not rated:
        return point.images_per_second
    return 1.0 if point.speed_up is None else point.speed_up


def _draw_parts(axes: Any, points: Sequence[Point]) -> None:
    labels = [_label(point) for point in points]
    bottoms = [0.0] * len(points)
    for part in PARTS:
        seconds = [point.part_shares[part] * point.median_step_seconds for point in points]
        axes.barh(range(len(points)), seconds, left=bottoms, color=PART_COLOURS[part], label=part.replace("_", " "))
        bottoms = [bottom + value for bottom, value in zip(bottoms, seconds, strict=True)]
    axes.set_yticks(range(len(points)), labels)
    axes.invert_yaxis()
    title = "Where a step's time goes"
    if any(point.oversubscribed for point in points):
        title += "  (* oversubscribed)"
    axes.set(xlabel="median step seconds, by mean share of each part", title=title)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=len(PARTS), frameon=False)


def _label(point: Point) -> str:
    (_, scaling), (_, batch), *_ = point.work
    ranks = f"{point.ranks}{'*' if point.oversubscribed else ''} {'rank' if point.ranks == 1 else 'ranks'}"
    return f"{ranks}, {scaling} {batch}, {dict(point.work)['precision']}" + (
        f"\n{point.strategy}" if point.ranks > 1 else ""
    )
