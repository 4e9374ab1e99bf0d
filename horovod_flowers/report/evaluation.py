"""What a run's model takes each validation image for: confusion matrix, per-class figures, worst mistakes.

Read from RUN/evaluation/predictions.jsonl (docs/run-log.md) where the run has it. A photo of a mistake is
RUN/evaluation/photos/IMAGE.jpg or .png, and left out where it is not one.
"""

import stat
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from horovod_flowers.errors import UserError
from horovod_flowers.report.run_summary import RunSummary
from horovod_flowers.runlog import Prediction, RunFolder, read_lines

MOST_MISTAKES = 12
MOST_PHOTO_BYTES = 500_000
_TYPES = {".jpg": ("image/jpeg", b"\xff\xd8\xff"), ".png": ("image/png", b"\x89PNG")}


@dataclass(frozen=True)
class ClassFigures:
    """One class."""

    name: str
    precision: float
    """0 where no image was taken for it."""
    recall: float
    f1: float
    images: int


@dataclass(frozen=True)
class Mistake:
    """One image that was taken for another class."""

    image: int
    label: str
    predicted: str
    probability: float
    photo: bytes | None
    photo_type: str


@dataclass(frozen=True)
class Evaluation:
    """The predictions of one run."""

    run: str
    images: int
    accuracy: float
    confusion: np.ndarray
    """int64 [classes, classes]: images by class (rows) and by what they were taken for (columns)."""
    classes: list[ClassFigures]
    mistakes: list[Mistake]
    """The surest first."""


def evaluation_of(run: RunSummary) -> Evaluation | None:
    """The evaluation of a run; None where it has none. Raises UserError where its file is damaged."""
    folder = RunFolder(run.path)
    if not folder.predictions.is_file():
        return None
    found = list(read_lines(folder.predictions, Prediction))
    if not found or len({prediction.image for prediction in found}) != len(found):
        raise UserError(f"{folder.predictions} is empty or tells of an image twice")
    from sklearn import metrics  # takes a second, which runs without predictions need not

    labels = [prediction.label for prediction in found]
    predicted = [prediction.predicted for prediction in found]
    names = sorted({*labels, *predicted})
    precision, recall, f1, images = metrics.precision_recall_fscore_support(
        labels, predicted, labels=names, zero_division=0
    )
    wrong = [prediction for prediction in found if prediction.label != prediction.predicted]
    wrong.sort(key=lambda prediction: (-prediction.probability, prediction.image))
    return Evaluation(
        run=run.name,
        images=len(found),
        accuracy=metrics.accuracy_score(labels, predicted),
        confusion=metrics.confusion_matrix(labels, predicted, labels=names),
        classes=[
            ClassFigures(name, float(precision[k]), float(recall[k]), float(f1[k]), int(images[k]))
            for k, name in enumerate(names)
        ],
        mistakes=[_mistake(folder, prediction) for prediction in wrong[:MOST_MISTAKES]],
    )


def _mistake(folder: RunFolder, prediction: Prediction) -> Mistake:
    photo, kind = None, ""
    for ending, (name, magic) in _TYPES.items():
        data = _small_file(folder.predictions.parent / "photos" / f"{prediction.image}{ending}")
        if data is not None and data.startswith(magic):
            photo, kind = data, name
            break
    return Mistake(prediction.image, prediction.label, prediction.predicted, prediction.probability, photo, kind)


def _small_file(path: Path) -> bytes | None:
    """Contents of a regular file of a thumbnail's size; None for anything else that a folder of others may hold."""
    try:
        found = path.lstat()
        if not stat.S_ISREG(found.st_mode) or found.st_size > MOST_PHOTO_BYTES:
            return None
        return path.read_bytes()
    except OSError:
        return None
