"""What collective calls cost by their size, measured and modelled."""

from collections.abc import Iterator, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

from horovod_flowers.report.analysis.call_costs import kind_of, network_of, real_ones
from horovod_flowers.report.content import Content
from horovod_flowers.report.pages.pictures.layout import Layout, both
from horovod_flowers.report.pages.pictures.legend import legend_below
from horovod_flowers.report.pages.pictures.picture import SERIES_COLOURS, Drawn
from horovod_flowers.runlog.collectives import Collectives
from horovod_flowers.scaling_model.calibration import OPERATIONS
from horovod_flowers.scaling_model.step_tasks import Call, RankGroup


def draw(content: Content) -> Iterator[Drawn]:
    """A panel for each number of ranks. Calls on an emulated network are drawn where no others were measured."""
    measured = real_ones(content.collectives)
    emulated = bool(content.collectives) and not measured
    if emulated:  # of one network
        measured = [each for each in content.collectives if network_of(each) == network_of(content.collectives[0])]
    if measured:
        alt = "Seconds of collective calls by message size, with fitted cost models"
        yield "collectives", "bounds", alt, *both(lambda layout: _figure(content, measured, emulated, layout))


def _figure(content: Content, measured: Sequence[Collectives], emulated: bool, layout: Layout) -> Figure:
    sizes = sorted({record.world_size for record in measured})
    models = content.call_models
    shown = sizes if len(sizes) <= 4 else [sizes[0], *sizes[-3:]]
    figure, panels = layout.panels([(4.5, 4 if not layout.narrow else 3.2)] * len(shown), sharey=True)
    for axes, ranks in zip(panels, shown, strict=True):
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
        if layout.narrow or axes is panels[0]:
            axes.set_ylabel("time of the slowest rank")
    title = "Collective calls: medians measured, and the fitted cost models"
    if emulated:
        title = f"{title}\nemulated: {network_of(measured[0])}"
    elif any(record.oversubscribed for record in measured):
        title += "  (* oversubscribed)"
    figure.suptitle(layout.wrapped(title, 4.5 * len(shown)))
    legend_below(figure, *panels[0].get_legend_handles_labels(), columns=2 if layout.narrow else len(OPERATIONS))
    return figure
