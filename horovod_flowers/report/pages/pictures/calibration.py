"""Reliability diagrams: how often a model is right where it is that sure."""

from collections.abc import Iterator

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from horovod_flowers.report.analysis.classification import Metrics
from horovod_flowers.report.content import Content
from horovod_flowers.report.pages.pictures.picture import SERIES_COLOURS, Drawn


def draw(content: Content) -> Iterator[Drawn]:
    """One picture an evaluation."""
    for number, found in enumerate(content.evaluations, 1):
        error = found.metrics.calibration.expected_error
        alt = f"Reliability diagram of {found.title}: expected calibration error {error:.3f}"
        yield f"calibration-{number}", "evaluation", alt, calibration_figure(found.title, found.metrics)


def calibration_figure(title: str, found: Metrics) -> Figure:
    """Accuracy by confidence, bin by bin with 95 % intervals, over how many images each bin has."""
    calibration = found.calibration
    filled = [(row, row.confidence, row.accuracy) for row in calibration.bins if row.accuracy is not None]
    across = [confidence for _, confidence, _ in filled]
    heights = [accuracy.value for _, _, accuracy in filled]
    spans = [
        [max(0.0, accuracy.value - accuracy.low) for _, _, accuracy in filled],  # 1 - 1 may come out as -1e-16
        [max(0.0, accuracy.high - accuracy.value) for _, _, accuracy in filled],
    ]
    figure, (axes, counts) = plt.subplots(2, 1, figsize=(5.2, 5.6), sharex=True, height_ratios=(3, 1))
    axes.plot((0, 1), (0, 1), color="#999999", linestyle="--", label="perfectly calibrated")
    axes.errorbar(
        across, heights, yerr=spans, fmt="o", markersize=5, color=SERIES_COLOURS[0], capsize=3, label="measured, 95 %"
    )
    axes.set(ylabel="accuracy", xlim=(0, 1), ylim=(0, 1.03))
    axes.legend(loc="lower right", fontsize=9)
    axes.grid(alpha=0.3)
    left = [row.low for row in calibration.bins]
    width = calibration.bins[0].high - calibration.bins[0].low
    counts.bar(left, [row.images for row in calibration.bins], width, align="edge", color="#999999", edgecolor="white")
    counts.set(xlabel="probability of the predicted class", ylabel="images")
    words = f"expected calibration error {calibration.expected_error:.3f} ({len(calibration.bins)} bins)"
    figure.suptitle(f"{title[0].upper()}{title[1:]}: {words}", fontsize=11, wrap=True)
    return figure
