"""A legend below a picture that leaves the axes their room, however many series there are and whatever their names."""

import textwrap
from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure

FONT_SIZE = 9
_POINTS_PER_INCH = 72
_MEAN_LETTER, _LINE = 0.55, 1.45
"""Width of a letter and height of a line of text, in font sizes."""
_HANDLE_POINTS = 55
"""A line's sample, and the room around it."""


def legend_below(figure: Figure, handles: Sequence[Any], labels: Sequence[str], *, columns: int) -> None:
    """Put a legend of at most so many columns below the axes; the figure grows by its height.

    Long labels are wrapped: where they made a legend wider than the figure, or higher, no room was left for the axes.
    """
    columns = max(1, min(columns, len(labels)))
    width, height = figure.get_size_inches()
    letters = int((width * _POINTS_PER_INCH / columns - _HANDLE_POINTS) / (_MEAN_LETTER * FONT_SIZE))
    in_one_row = sum(len(label) * _MEAN_LETTER * FONT_SIZE + _HANDLE_POINTS for label in labels)
    fits = len(labels) == columns and in_one_row <= width * _POINTS_PER_INCH
    wrapped = [label if fits else textwrap.fill(label, letters, subsequent_indent="  ") for label in labels]
    per_column = -(-len(wrapped) // columns)
    lines = max(
        sum(label.count("\n") + 1 for label in wrapped[begin : begin + per_column])
        for begin in range(0, max(1, len(wrapped)), per_column or 1)
    )
    figure.set_size_inches(width, height + max(0, lines - 2) * _LINE * FONT_SIZE / _POINTS_PER_INCH)
    figure.legend(handles, wrapped, loc="outside lower center", ncols=columns, fontsize=FONT_SIZE)
