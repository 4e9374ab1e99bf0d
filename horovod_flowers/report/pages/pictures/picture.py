"""One picture of the report: a figure in the report's style, drawn once and kept as SVG and PNG."""

import io
from collections.abc import Iterable
from dataclasses import dataclass

import matplotlib

matplotlib.use("Agg")  # no display on a compute node
import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from horovod_flowers.report.pages.pictures.lettering import letter

# Okabe and Ito 2008: told apart by colour-blind readers too.
SERIES_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")
SERIES_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
"""Told apart in print without colours."""
PART_COLOURS = {"input_wait": "#999999", "compute": "#0072b2", "communication": "#d55e00", "update": "#009e73"}
STYLE = {
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.constrained_layout.use": True,
    "font.size": 10,
    "legend.frameon": False,
    "svg.fonttype": "path",  # looks the same wherever it is opened
    "text.parse_math": False,  # a name with two dollars is a name
}
PNG_DPI = 120


@dataclass(frozen=True)
class Picture:
    """One picture."""

    name: str
    """Of its files, without ending."""
    section: str
    """Of the report."""
    alt: str
    """What it shows, for those who do not see it."""
    svg: bytes
    png: bytes
    narrow_svg: bytes | None = None
    """The same for a phone; None where the one is narrow enough."""


Drawn = tuple[str, str, str, Figure] | tuple[str, str, str, Figure, Figure]
"""Name, section, alternative text, the figure, and perhaps the same in the narrow layout (layout.py)."""


def rendered(figures: Iterable[Drawn]) -> list[Picture]:
    """Draw figures in the report's style: an iterator that draws each when it is asked for it."""
    with plt.rc_context(STYLE):
        return [_rendered(*found) for found in figures]


def _rendered(name: str, section: str, alt: str, figure: Figure, narrow: Figure | None = None) -> Picture:
    letter(figure)
    svg, png = (_saved(figure, kind, name) for kind in ("svg", "png"))
    narrow_svg = None
    if narrow is not None:
        letter(narrow)
        narrow_svg = _saved(narrow, "svg", f"{name} narrow")
        plt.close(narrow)
    plt.close(figure)
    return Picture(name, section, alt, svg, png, narrow_svg)


def _saved(figure: Figure, kind: str, salt: str) -> bytes:
    """The same runs give the same bytes."""
    metadata = {"svg": {"Date": None}, "png": {"Software": None}}[kind]
    with io.BytesIO() as buffer, plt.rc_context({"svg.hashsalt": salt}):
        figure.savefig(buffer, format=kind, dpi=PNG_DPI, metadata=metadata)
        return buffer.getvalue()
