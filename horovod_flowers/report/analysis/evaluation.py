"""What a run's model takes images for: accuracy, confusion matrix, per-class figures, calibration, worst mistakes.

Read from RUN/evaluation/predictions.jsonl, and from RUN/evaluation-NAME/ (other images than those that the run was
validated on), as `python -m horovod_flowers.evaluate` writes them (docs/run-log.md). A photo of a mistake is
photos/IMAGE.jpg or .png beside the predictions, and left out where it is not one.
"""

import stat
from dataclasses import dataclass
from pathlib import Path

from horovod_flowers.report.analysis.classification import Metrics, check_predictions, metrics_of, worst_mistakes
from horovod_flowers.report.analysis.run_summary import RunSummary
from horovod_flowers.runlog.json_lines import read_lines
from horovod_flowers.runlog.records import Prediction
from horovod_flowers.runlog.run_folder import RunFolder

MOST_MISTAKES = 12
MOST_PHOTO_BYTES = 500_000
_TYPES = {".jpg": ("image/jpeg", b"\xff\xd8\xff"), ".png": ("image/png", b"\x89PNG")}


@dataclass(frozen=True)
class Mistake:
    """One image that was taken for another class."""

    image: int
    name: str
    """CLASS/FILE of a photo, 'image 7' of prepared data."""
    label: str
    predicted: str
    probability: float
    photo: bytes | None
    photo_type: str


@dataclass(frozen=True)
class Evaluation:
    """The predictions of one run."""

    run: str
    of: str
    """Empty for the run's validation images, else NAME of the folder evaluation-NAME."""
    metrics: Metrics
    mistakes: list[Mistake]
    """The surest first."""

    @property
    def title(self) -> str:
        """What was evaluated, in words."""
        return f"run {self.run}, {self.of}" if self.of else f"run {self.run}"


def predictions_of(run: RunSummary) -> dict[str, Path]:
    """The files of predictions that a run has, by what they are of: '' for its validation images, which come first."""
    own = RunFolder(run.path).predictions
    files = {"": own, **{path.parent.name[len("evaluation-") :]: path for path in _others(run)}}
    return {of: path for of, path in files.items() if path.is_file()}


def _others(run: RunSummary) -> list[Path]:
    """Of folders that are in the run itself: no link out of it is followed."""
    found = sorted(run.path.glob("evaluation-*/predictions.jsonl"))
    return [path for path in found if not (path.is_symlink() or path.parent.is_symlink())]


def evaluation_of(run: RunSummary, of: str = "") -> Evaluation | None:
    """An evaluation of a run; None where it has none. Raises UserError where its file is damaged."""
    path = predictions_of(run).get(of)
    if path is None:
        return None
    found: list[Prediction] = list(read_lines(path, Prediction))
    check_predictions(found, path)
    return Evaluation(
        run=run.name,
        of=of,
        metrics=metrics_of(found),
        mistakes=[_mistake(path.parent / "photos", wrong) for wrong in worst_mistakes(found, MOST_MISTAKES)],
    )


def _mistake(photos: Path, prediction: Prediction) -> Mistake:
    photo, kind = None, ""
    for ending, (name, magic) in _TYPES.items():
        data = _small_file(photos / f"{prediction.image}{ending}")
        if data is not None and data.startswith(magic):
            photo, kind = data, name
            break
    return Mistake(
        image=prediction.image,
        name=prediction.photo or f"image {prediction.image}",
        label=prediction.label,
        predicted=prediction.predicted,
        probability=prediction.probability,
        photo=photo,
        photo_type=kind,
    )


def _small_file(path: Path) -> bytes | None:
    """Contents of a regular file of a thumbnail's size; None for anything else that a folder of others may hold."""
    try:
        found = path.lstat()
        if not stat.S_ISREG(found.st_mode) or found.st_size > MOST_PHOTO_BYTES:
            return None
        return path.read_bytes()
    except OSError:
        return None
