"""Two layouts of a picture: panels side by side for a wide page, one below the other for a phone or a narrow window."""

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

NARROW_INCHES = 4.4
"""Width of a narrow picture: on 360 pixels its letters are as large as those of the page's small print."""
_LETTERS_PER_INCH = 10
"""Of a title."""


@dataclass(frozen=True)
class Layout:
    """How the panels of a picture are arranged."""

    narrow: bool

    def panels(
        self, sizes: Sequence[tuple[float, float]], *, most_in_a_row: int | None = None, sharey: bool = False
    ) -> tuple[Figure, list[Any]]:
        """A figure with a panel of each of these widths and heights in inches, in rows of at most so many."""
        widths, heights = [width for width, _ in sizes], [height for _, height in sizes]
        columns = 1 if self.narrow else min(most_in_a_row or len(sizes), len(sizes))
        rows = -(-len(sizes) // columns)
        size = (NARROW_INCHES, sum(heights)) if self.narrow else (sum(widths[:columns]), max(heights) * rows)
        figure, grid = plt.subplots(
            rows,
            columns,
            figsize=size,
            squeeze=False,
            width_ratios=None if self.narrow else widths[:columns],
            height_ratios=heights if self.narrow else None,
            sharey=sharey and not self.narrow,
        )
        panels = list(grid.flat)
        for spare in panels[len(sizes) :]:
            spare.set_visible(False)
        return figure, panels[: len(sizes)]

    def wrapped(self, text: str, inches: float) -> str:
        """A title in as many lines as a panel of this width needs, or a narrow picture."""
        width = NARROW_INCHES if self.narrow else inches
        return "\n".join(textwrap.fill(line, max(20, int(width * _LETTERS_PER_INCH))) for line in text.split("\n"))


WIDE, NARROW = Layout(narrow=False), Layout(narrow=True)


def both(draw: Callable[[Layout], Figure]) -> tuple[Figure, Figure]:
    """A picture in both layouts."""
    return draw(WIDE), draw(NARROW)
