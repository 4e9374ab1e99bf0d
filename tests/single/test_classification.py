"""Figures of predictions against numbers made by hand, published ones, and scikit-learn's."""

import math

import msgspec
import numpy as np
import pytest
from sklearn import metrics
from sklearn.calibration import calibration_curve

from horovod_flowers.report.analysis.classification import (
    calibration_of,
    check_predictions,
    metrics_of,
    proportion,
    worst_mistakes,
)
from horovod_flowers.runlog.records import Prediction
from horovod_flowers.runtime.errors import UserError

CLASSES = ("daisy", "rose", "tulip", "iris")


def predictions(*rows: tuple[str, str, float]) -> list[Prediction]:
    return [
        Prediction(image=image, label=label, predicted=predicted, probability=chance)
        for image, (label, predicted, chance) in enumerate(rows)
    ]


def drawn(images: int = 400) -> tuple[list[Prediction], np.ndarray, np.ndarray]:
    """Predictions of a model that is often wrong, with its probabilities [images, 4] and labels [images]."""
    random = np.random.default_rng(0)
    labels = random.integers(0, 4, images)
    chances = random.dirichlet(np.ones(4), images) + 0.5 * np.eye(4)[labels]
    chances /= chances.sum(axis=1, keepdims=True)
    best = chances.argmax(axis=1)
    found = [
        Prediction(
            image=k,
            label=CLASSES[labels[k]],
            predicted=CLASSES[best[k]],
            probability=float(chances[k, best[k]]),
            label_probability=float(chances[k, labels[k]]),
            rank_of_label=1 + int((chances[k] > chances[k, labels[k]]).sum()),
        )
        for k in range(images)
    ]
    return found, chances, labels


@pytest.mark.parametrize(
    ("count", "total", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_intervals_are_those_published(count: int, total: int, low: float, high: float) -> None:
    """Newcombe 1998, 'Two-sided confidence intervals for the single proportion', table I, method 3."""
    found = proportion(count, total)
    assert (found.low, found.high) == pytest.approx((low, high), abs=5e-5)
    assert found.value == count / total


def test_figures_by_hand() -> None:
    found = metrics_of(
        predictions(
            *(("daisy", "daisy", 0.9), ("daisy", "rose", 0.6), ("rose", "rose", 0.8), ("rose", "rose", 0.7)),
            *(("tulip", "daisy", 0.99), ("tulip", "daisy", 0.5), ("tulip", "iris", 0.4)),
        )
    )
    daisy, iris, rose, tulip = found.classes
    assert (found.images, found.accuracy.value) == pytest.approx((7, 3 / 7))
    assert found.confusion.tolist() == [[1, 0, 1, 0], [0, 0, 0, 0], [0, 0, 2, 0], [2, 1, 0, 0]]
    assert (daisy.precision, daisy.recall, daisy.f1) == pytest.approx((1 / 3, 1 / 2, 2 / 5))
    assert (rose.precision, rose.recall, rose.f1, rose.images) == pytest.approx((2 / 3, 1, 4 / 5, 2))
    assert rose.accuracy == proportion(2, 2)
    assert (tulip.precision, tulip.recall, tulip.images) == (0, 0, 3)
    assert (iris.images, iris.accuracy, iris.top_k_accuracy) == (0, None, None)
    assert found.confused == [(2, "tulip", "daisy"), (1, "daisy", "rose"), (1, "tulip", "iris")]


def test_predictions_that_tell_less_have_fewer_figures() -> None:
    found = metrics_of(predictions(("daisy", "daisy", 0.9)))
    assert (found.top_k, found.log_loss) == (None, None)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_top_k_accuracy_is_scikit_learns(k: int) -> None:
    found, chances, labels = drawn()
    figures = metrics_of(found, k)
    assert figures.top_k is not None
    assert figures.top_k.k == k
    assert figures.top_k.accuracy.value == pytest.approx(metrics.top_k_accuracy_score(labels, chances, k=k))
    for number, name in enumerate(CLASSES):
        own = labels == number
        expected = metrics.top_k_accuracy_score(labels[own], chances[own], k=k, labels=range(4))
        (row,) = (row for row in figures.classes if row.name == name)
        assert row.top_k_accuracy == pytest.approx(expected)


def test_log_loss_is_scikit_learns() -> None:
    found, chances, labels = drawn()
    assert metrics_of(found).log_loss == pytest.approx(metrics.log_loss(labels, chances))


def test_a_label_of_no_written_probability_costs_a_finite_loss() -> None:
    found = Prediction(
        image=0, label="daisy", predicted="rose", probability=1.0, label_probability=0.0, rank_of_label=2
    )
    assert metrics_of([found]).log_loss == pytest.approx(-math.log(5e-7))


def test_calibration_by_hand() -> None:
    """Bins (0, 0.5] and (0.5, 1]: half of 0.45 right, and 1 of 3 right at a mean of 0.8."""
    found = calibration_of(
        predictions(("a", "a", 0.4), ("a", "b", 0.5), ("a", "a", 0.6), ("a", "b", 0.8), ("a", "b", 1.0)), bins=2
    )
    low, high = found.bins
    assert (low.images, low.confidence, high.images, high.confidence) == pytest.approx((2, 0.45, 3, 0.8))
    assert (low.accuracy, high.accuracy) == (proportion(1, 2), proportion(1, 3))
    assert found.expected_error == pytest.approx(2 / 5 * 0.05 + 3 / 5 * (0.8 - 1 / 3))
    assert found.confidence == pytest.approx(0.66)


def test_bins_are_scikit_learns() -> None:
    found, chances, labels = drawn()
    correct = chances.argmax(axis=1) == labels
    shares, means = calibration_curve(correct, chances.max(axis=1), n_bins=15)
    filled = [row for row in calibration_of(found).bins if row.accuracy is not None]
    assert [row.accuracy.value for row in filled if row.accuracy] == pytest.approx(shares)
    assert [row.confidence for row in filled] == pytest.approx(means)
    assert sum(row.images for row in filled) == len(labels)


def test_probabilities_that_can_be_believed_have_no_error() -> None:
    rows = [("a", "a" if k < 8 else "b", 0.8) for k in range(10)]
    assert calibration_of(predictions(*rows)).expected_error == pytest.approx(0)


def test_the_surest_mistakes_come_first() -> None:
    found = predictions(("a", "b", 0.6), ("a", "a", 1.0), ("a", "b", 0.9), ("b", "a", 0.9), ("b", "a", 0.5))
    assert [mistake.image for mistake in worst_mistakes(found, 3)] == [2, 3, 0]


def test_predictions_that_contradict_themselves_are_refused() -> None:
    right = Prediction(image=3, label="a", predicted="a", probability=0.5, rank_of_label=1)
    check_predictions([right], "file")
    with pytest.raises(UserError, match="file contradicts itself: image 3 has the wrong rank_of_label"):
        check_predictions([msgspec.structs.replace(right, rank_of_label=2)], "file")
    with pytest.raises(UserError, match="file is empty or lists an image twice"):
        check_predictions([right, right], "file")
