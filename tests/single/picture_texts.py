"""What is wrong with the texts of a figure: raw formulas, and texts that lie over each other."""

from collections.abc import Iterator
from itertools import combinations
from typing import Any

from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

TOUCHING = 1.0
"""Pixels by which the boxes of two texts may overlap: they have room around the letters."""


def problems_of(figure: Figure) -> Iterator[str]:
    """In sentences, of the figure as it is drawn."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    drawn = []
    for text in _drawn_texts(figure):
        if "$" in text.get_text() or "\\math" in text.get_text():
            yield f"a formula in the raw: {text.get_text()!r}"
        drawn.append((text.get_text(), text.get_window_extent(canvas.get_renderer())))
    for (one, first), (other, second) in combinations(drawn, 2):
        width = min(first.x1, second.x1) - max(first.x0, second.x0)
        height = min(first.y1, second.y1) - max(first.y0, second.y0)
        if width > TOUCHING and height > TOUCHING:
            yield f"{one!r} and {other!r} overlap by {width:.0f} x {height:.0f} pixels"


def _drawn_texts(figure: Figure) -> list[Text]:
    """Of ticks those within the limits of their axis, which alone are drawn."""
    axes: list[Axis] = [each for panel in figure.axes for each in (panel.xaxis, panel.yaxis)]
    of_ticks = {id(label) for axis in axes for label in _labels(axis.get_major_ticks() + axis.get_minor_ticks())}
    shown = [label for axis in axes for label in _labels(axis._update_ticks())]  # type: ignore[attr-defined]
    others = [text for text in figure.findobj(Text) if id(text) not in of_ticks]
    visible = [text for text in (*shown, *others) if isinstance(text, Text) and text.get_visible()]
    hidden = {id(text) for panel in figure.axes if not panel.axison for text in panel.findobj(Text)}
    return [text for text in visible if text.get_text().strip() and id(text) not in hidden]


def _labels(ticks: Any) -> list[Text]:
    return [label for tick in ticks for label in (tick.label1, tick.label2) if label.get_visible()]
