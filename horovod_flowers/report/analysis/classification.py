"""How good predictions are: accuracy with its interval, figures a class, top-k, calibration. No TensorFlow here.

`evaluate` and the report both take their figures from here, and so say the same of the same predictions.
"""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from horovod_flowers.runlog.records import Prediction
from horovod_flowers.runtime.errors import UserError

CONFIDENCE = 0.95
TOP_K = 3
BINS = 15
"""Of the reliability diagram, equally wide, as Guo et al. 2017 draw it."""
LEAST_PROBABILITY = 5e-7
"""Half of the last digit that predictions are written with: log loss counts a written 0 as this."""


@dataclass(frozen=True)
class Proportion:
    """A share in [0, 1] and its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class ClassFigures:
    """One class. Figures that would divide by no image are 0 (precision, f1) or None."""

    name: str
    precision: float
    recall: float
    f1: float
    images: int
    accuracy: Proportion | None
    """Share of its images that were recognised, which is its recall, with the interval; None without images."""
    top_k_accuracy: float | None
    """Share of its images with the class among the k most probable."""


@dataclass(frozen=True)
class Bin:
    """The images whose predicted class has a probability in (low, high]."""

    low: float
    high: float
    images: int
    confidence: float | None
    """Mean probability of the predicted class."""
    accuracy: Proportion | None
    """Both None where the bin is empty."""


@dataclass(frozen=True)
class Calibration:
    """How far probabilities can be believed (Guo et al. 2017, 'On Calibration of Modern Neural Networks', sec. 2)."""

    bins: list[Bin]
    expected_error: float
    """Expected calibration error: mean over images of their bin's |accuracy - confidence|, equation 3."""
    confidence: float
    """Mean over images: above the accuracy, the model is overconfident."""


@dataclass(frozen=True)
class TopK:
    """Share of the images whose class is among the k most probable."""

    k: int
    accuracy: Proportion


@dataclass(frozen=True)
class Metrics:
    """All figures of some predictions."""

    images: int
    accuracy: Proportion
    classes: list[ClassFigures]
    """That images have or were taken for, by name."""
    confusion: np.ndarray
    """int64 [classes, classes]: images by class (rows) and by what they were taken for (columns)."""
    calibration: Calibration
    top_k: TopK | None
    """None where predictions of an earlier version do not tell."""
    log_loss: float | None
    """Mean over images of -ln(probability of their class), in nats: the loss that training minimises. None likewise."""

    @property
    def confused(self) -> list[tuple[int, str, str]]:
        """How often which class was taken for which, the most frequent first."""
        names = [row.name for row in self.classes]
        cells = [(int(self.confusion[i, j]), names[i], names[j]) for i, j in np.argwhere(self.confusion) if i != j]
        return sorted(cells, key=lambda cell: (-cell[0], cell[1:]))


def proportion(count: int, total: int) -> Proportion:
    """`count` of `total`, with Wilson's score interval.

    Wilson 1927, 'Probable Inference, the Law of Succession, and Statistical Inference', Journal of the American
    Statistical Association 22; recommended by Brown, Cai and DasGupta 2001 for its coverage, also near 0 and 1. Takes
    images for independent draws. Raises ValueError where total is 0.
    """
    from scipy import stats  # takes half a second, which those without predictions need not

    interval = stats.binomtest(count, total).proportion_ci(CONFIDENCE, method="wilson")
    return Proportion(count / total, float(interval.low), float(interval.high))


def check_predictions(predictions: Sequence[Prediction], source: object) -> None:
    """Refuse predictions that contradict themselves (UserError that names their `source`)."""
    if not predictions or len({prediction.image for prediction in predictions}) != len(predictions):
        raise UserError(f"{source} is empty or lists an image twice")
    for found in predictions:
        if found.rank_of_label is not None and (found.rank_of_label == 1) != (found.label == found.predicted):
            raise UserError(f"{source} contradicts itself: image {found.image} has the wrong rank_of_label")


def metrics_of(predictions: Sequence[Prediction], k: int = TOP_K) -> Metrics:
    """The figures of at least one prediction; `k` of the top-k accuracy, at least 1."""
    from sklearn import metrics  # takes a second, which those without predictions need not

    labels = [prediction.label for prediction in predictions]
    predicted = [prediction.predicted for prediction in predictions]
    names = sorted({*labels, *predicted})
    precision, recall, f1, images = metrics.precision_recall_fscore_support(
        labels, predicted, labels=names, zero_division=0
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of a single class, whose matrix is right all the same
        confusion = metrics.confusion_matrix(labels, predicted, labels=names)
    within = _within(predictions, k)
    label_of_image = np.array(labels)
    classes = []
    for number, name in enumerate(names):
        count = int(images[number])
        classes.append(
            ClassFigures(
                name=name,
                precision=float(precision[number]),
                recall=float(recall[number]),
                f1=float(f1[number]),
                images=count,
                accuracy=proportion(int(confusion[number, number]), count) if count else None,
                top_k_accuracy=float(within[label_of_image == name].mean()) if within is not None and count else None,
            )
        )
    return Metrics(
        images=len(predictions),
        accuracy=proportion(int(np.trace(confusion)), len(predictions)),
        classes=classes,
        confusion=confusion,
        calibration=calibration_of(predictions),
        top_k=None if within is None else TopK(k, proportion(int(within.sum()), len(within))),
        log_loss=_log_loss(predictions),
    )


def calibration_of(predictions: Sequence[Prediction], bins: int = BINS) -> Calibration:
    """The reliability diagram of at least one prediction, and its expected calibration error."""
    confidence = np.array([prediction.probability for prediction in predictions])
    correct = np.array([prediction.label == prediction.predicted for prediction in predictions])
    edges = np.linspace(0, 1, bins + 1)
    bin_of_image = np.searchsorted(
        edges[1:-1], confidence, side="left"
    )  # (low, high]: an edge belongs to the bin below
    found, error = [], 0.0
    for number in range(bins):
        own = bin_of_image == number
        count = int(own.sum())
        mean = float(confidence[own].mean()) if count else None
        accuracy = proportion(int(correct[own].sum()), count) if count else None
        if mean is not None and accuracy is not None:
            error += count / len(confidence) * abs(accuracy.value - mean)
        found.append(Bin(float(edges[number]), float(edges[number + 1]), count, mean, accuracy))
    return Calibration(found, error, float(confidence.mean()))


def worst_mistakes(predictions: Sequence[Prediction], most: int) -> list[Prediction]:
    """The predictions that are wrong, the surest first, at most `most`."""
    wrong = [prediction for prediction in predictions if prediction.label != prediction.predicted]
    return sorted(wrong, key=lambda prediction: (-prediction.probability, prediction.image))[:most]


def _within(predictions: Sequence[Prediction], k: int) -> np.ndarray | None:
    """bool [images]: whether the label is among the k most probable classes; None where one does not tell."""
    ranks = [prediction.rank_of_label for prediction in predictions]
    return None if None in ranks else np.array([rank is not None and rank <= k for rank in ranks])


def _log_loss(predictions: Sequence[Prediction]) -> float | None:
    chances = [prediction.label_probability for prediction in predictions]
    if None in chances:
        return None
    return -math.fsum(math.log(max(chance or 0.0, LEAST_PROBABILITY)) for chance in chances) / len(chances)
