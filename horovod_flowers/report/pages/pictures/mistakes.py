"""The worst mistakes as one picture."""

import math
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from horovod_flowers.report.pages.pictures.lettering import shortened
from horovod_flowers.runlog.records import Prediction

COLUMNS = 4
LONGEST_NAME = 20


def mistakes_figure(title: str, shown: Sequence[tuple[Prediction, np.ndarray]]) -> Figure:
    """Predictions that are wrong with their images, uint8 [size, size, 3], in the order given; at least one."""
    columns = min(COLUMNS, len(shown))
    rows = math.ceil(len(shown) / columns)
    figure, grid = plt.subplots(rows, columns, figsize=(max(2.4 * columns, 4.8), 2.9 * rows + 0.4), squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for axes, (mistake, pixels) in zip(grid.flat, shown, strict=False):
        axes.imshow(pixels)
        label, predicted = (shortened(name, LONGEST_NAME) for name in (mistake.label, mistake.predicted))
        axes.set_title(f"{label}, taken for\n{predicted} ({mistake.probability * 100:.1f} %)", fontsize=9)
        axes.text(0.5, -0.04, f"image {mistake.image}", ha="center", va="top", fontsize=8, transform=axes.transAxes)
    figure.suptitle(f"{title[0].upper()}{title[1:]}: its most confident mistakes", fontsize=11)
    return figure
