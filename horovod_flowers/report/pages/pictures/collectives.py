"""What collective calls cost by their size, measured and modelled."""

from collections.abc import Iterator

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

from horovod_flowers.report.analysis.call_costs import kind_of, network_of, real_ones
from horovod_flowers.report.content import Content
from horovod_flowers.report.pages.pictures.picture import SERIES_COLOURS, Drawn
from horovod_flowers.scaling_model.calibration import OPERATIONS
from horovod_flowers.scaling_model.step_tasks import Call, RankGroup


def draw(content: Content) -> Iterator[Drawn]:
    """A panel for each number of ranks. Calls on an emulated network are drawn where no others were measured."""
    measured = real_ones(content.collectives)
    emulated = bool(content.collectives) and not measured
    if emulated:  # of one network
        measured = [each for each in content.collectives if network_of(each) == network_of(content.collectives[0])]
    sizes = sorted({record.world_size for record in measured})
    if not sizes:
        return
    models = content.call_models
    shown = sizes if len(sizes) <= 4 else [sizes[0], *sizes[-3:]]
    figure, grid = plt.subplots(1, len(shown), figsize=(4.2 * len(shown) + 1, 4), squeeze=False, sharey=True)
    for axes, ranks in zip(grid.flat, shown, strict=True):
        records = [record for record in measured if record.world_size == ranks]
        for operation, colour in zip(OPERATIONS, SERIES_COLOURS, strict=False):
            points = [
                (call.bytes, float(np.median(call.seconds)))
                for record in records
                for call in record.measured
                if call.operation == operation
            ]
            if points:
                axes.loglog(*zip(*points, strict=True), "o", color=colour, markersize=3, label=operation)
            for found in {id(model): model for record in records if (model := models.get(kind_of(record)))}.values():
                if points:
                    line = np.geomspace(min(size for size, _ in points), max(size for size, _ in points), 50)
                    calls = [Call(operation, size, RankGroup(ranks)) for size in line]
                    seconds = [found.model.alone(call, ranks) for call in calls]
                    axes.loglog(line, seconds, color=colour, linewidth=1)
        crowded = not emulated and any(record.oversubscribed for record in records)
        axes.set(title=f"{ranks}{'*' if crowded else ''} ranks", xlabel="message, each rank's input")
        axes.xaxis.set_major_locator(LogLocator(10, numticks=8))
        axes.xaxis.set_major_formatter(EngFormatter("B"))
        axes.yaxis.set_major_formatter(EngFormatter("s"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.grid(alpha=0.3)
    grid[0, 0].set_ylabel("time of the slowest rank")
    handles, labels = grid[0, 0].get_legend_handles_labels()
    title = "Collective calls: medians measured, and the fitted cost models"
    if emulated:
        title = f"{title}\nemulated: {network_of(measured[0])}"
    elif any(record.oversubscribed for record in measured):
        title += "  (* oversubscribed)"
    figure.suptitle(title)
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    yield "collectives", "bounds", "Seconds of collective calls by message size, with fitted cost models", figure
