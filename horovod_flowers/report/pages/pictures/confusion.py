"""Confusion matrices of the runs that have predictions."""

from collections.abc import Iterator

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from horovod_flowers.report.analysis.classification import Metrics
from horovod_flowers.report.content import Content
from horovod_flowers.report.pages.pictures.lettering import shortened
from horovod_flowers.report.pages.pictures.picture import Drawn

LONGEST_NAME = 24


def draw(content: Content) -> Iterator[Drawn]:
    """One picture an evaluation."""
    for number, found in enumerate(content.evaluations, 1):
        alt = f"Confusion matrix of {found.title}, {found.metrics.images} images"
        yield f"confusion-{number}", "evaluation", alt, confusion_figure(found.title, found.metrics)


def confusion_figure(title: str, found: Metrics) -> Figure:
    """Shares by row, numbers of images in the cells."""
    names = [shortened(row.name, LONGEST_NAME) for row in found.classes]
    figure, axes = plt.subplots(figsize=(2.4 + 0.6 * len(names), 2.0 + 0.6 * len(names)))
    rows = found.confusion.sum(axis=1, keepdims=True)
    shares = found.confusion / rows.clip(min=1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row in range(len(names)):
        for column in range(len(names)):
            colour = "white" if shares[row, column] > 0.55 else "black"
            axes.text(column, row, str(found.confusion[row, column]), ha="center", va="center", color=colour)
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right")
    axes.set_yticks(range(len(names)), names)
    figure.suptitle(f"{title[0].upper()}{title[1:]}: accuracy {found.accuracy.value:.3f}", fontsize=11)
    axes.set(xlabel="taken for", ylabel="class")
    return figure
