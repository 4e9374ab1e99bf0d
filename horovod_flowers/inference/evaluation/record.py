"""What `python -m horovod_flowers.evaluate` writes, but for the predictions: evaluation.json, pictures, photos.

RUN/evaluation/evaluation.json      the figures; schema: docs/evaluate.md
RUN/evaluation/predictions.jsonl    one runlog.Prediction an image, by image
RUN/evaluation/photos/IMAGE.jpg     the worst mistakes, at the size that the model sees
RUN/evaluation/*.png, *.svg         confusion matrix, reliability diagram, mistakes
"""

import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np

from horovod_flowers.report.analysis.classification import Calibration, ClassFigures, Metrics, Proportion, TopK
from horovod_flowers.runlog.record_file import read_record
from horovod_flowers.runlog.records import Count, Positive, Prediction, Share
from horovod_flowers.runtime.errors import UserError
from horovod_flowers.runtime.files import whole_folder

SCHEMA = 1
MOST_PHOTO_BYTES = 500_000
"""As the report takes them."""
JPEG_QUALITIES = (90, 70, 40, 10)

ImagesOf = Literal["validation", "training", "test", "photos"]


class Unreadable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A photo that was left out."""

    photo: str
    reason: str


class Evaluated(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which model saw which images, and on what."""

    run: str
    checkpoint: Literal["best", "last"]
    epoch: Count
    """Epochs that the checkpoint had seen."""
    steps: Count
    model: str
    class_names: list[str]
    """Of the run, in the order of its outputs."""
    images_of: ImagesOf
    photos: str | None
    """The folder of photos that was given."""
    data_digest: str
    """Of the prepared images; of photos that were given, over names, classes and decoded pixels."""
    logged_accuracy: Share | None
    """Validation accuracy that training logged for this epoch; null for other images, or where it logged none."""
    logged_precision: str | None
    """That training computed it in; here it is fp32, which may take an image or two for another class than bf16 did."""
    world_size: Positive
    batch: Positive
    threads: Positive
    """Of rank 0."""
    command: list[str]


class EvaluationRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """evaluation.json."""

    schema: int
    evaluated: Evaluated
    images: Count
    unreadable: list[Unreadable]
    accuracy: Proportion
    top_k: TopK | None
    log_loss: float | None
    classes: list[ClassFigures]
    confusion: list[list[int]]
    """Images by class (rows) and by what they were taken for (columns), in the order of `classes`."""
    calibration: Calibration
    mistakes: Count
    worst_mistakes: list[Prediction]
    """The surest first; those whose photos are kept. All of them: predictions.jsonl."""


def record_of(
    evaluated: Evaluated,
    metrics: Metrics,
    mistakes: Sequence[Prediction],
    unreadable: Sequence[tuple[str, str]],
) -> EvaluationRecord:
    """The record of an evaluation; `mistakes`: the worst ones."""
    return EvaluationRecord(
        schema=SCHEMA,
        evaluated=evaluated,
        images=metrics.images,
        unreadable=[Unreadable(photo=photo, reason=reason) for photo, reason in unreadable],
        accuracy=metrics.accuracy,
        top_k=metrics.top_k,
        log_loss=metrics.log_loss,
        classes=metrics.classes,
        confusion=metrics.confusion.tolist(),
        calibration=metrics.calibration,
        mistakes=metrics.images - int(np.trace(metrics.confusion)),
        worst_mistakes=list(mistakes),
    )


def check_replaceable(output: Path) -> None:
    """Refuse to replace what is no evaluation (UserError)."""
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return
    if not (output / "predictions.jsonl").is_file():
        raise UserError(
            f"{output} is there and is no evaluation (no predictions.jsonl), so it is not replaced: choose another "
            "folder with --output"
        )


def write_evaluation(
    output: Path,
    record: EvaluationRecord,
    predictions: Sequence[Prediction],
    metrics: Metrics,
    image: Callable[[int], np.ndarray],
) -> None:
    """Write everything, in place of an earlier evaluation, or nothing. `image`: uint8 [size, size, 3] by number."""
    shown = [(mistake, image(mistake.image)) for mistake in record.worst_mistakes]
    with whole_folder(output) as folder:
        encode = msgspec.json.encode
        lines = b"".join(encode(prediction) + b"\n" for prediction in predictions)
        (folder / "predictions.jsonl").write_bytes(lines)
        (folder / "evaluation.json").write_bytes(msgspec.json.format(encode(record), indent=1) + b"\n")
        (folder / "photos").mkdir()
        for mistake, pixels in shown:
            photo = jpeg(pixels)
            if photo is not None:
                (folder / "photos" / f"{mistake.image}.jpg").write_bytes(photo)
        for name, data in _pictures(record, metrics, shown).items():
            (folder / name).write_bytes(data)


def read_evaluation(path: Path) -> EvaluationRecord:
    """Read evaluation.json. Raises FileNotFoundError, or UserError where it is damaged or of another schema."""
    return read_record(path, EvaluationRecord, SCHEMA, if_older=": evaluate the run again")


def jpeg(pixels: np.ndarray) -> bytes | None:
    """A photo, uint8 [height, width, 3] RGB, as JPEG of at most MOST_PHOTO_BYTES; None where that is too few."""
    from PIL import Image

    for quality in JPEG_QUALITIES:
        with io.BytesIO() as buffer:
            Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
            if buffer.tell() <= MOST_PHOTO_BYTES:
                return buffer.getvalue()
    return None


def _pictures(
    record: EvaluationRecord, metrics: Metrics, shown: Sequence[tuple[Prediction, np.ndarray]]
) -> dict[str, bytes]:
    """Contents by file name, drawn as the report draws them."""
    from horovod_flowers.report.pages.pictures.calibration import calibration_figure
    from horovod_flowers.report.pages.pictures.confusion import confusion_figure
    from horovod_flowers.report.pages.pictures.mistakes import mistakes_figure
    from horovod_flowers.report.pages.pictures.picture import Drawn, rendered

    title = title_of(record.evaluated)

    def draw() -> Iterator[Drawn]:
        yield "confusion", "", "", confusion_figure(title, metrics)
        yield "calibration", "", "", calibration_figure(title, metrics)
        if shown:
            yield "mistakes", "", "", mistakes_figure(title, shown)

    files = {}
    for picture in rendered(draw()):
        files[f"{picture.name}.png"] = picture.png
        if picture.name != "mistakes":  # photos, which an SVG only wraps
            files[f"{picture.name}.svg"] = picture.svg
    return files


def title_of(evaluated: Evaluated) -> str:
    """What was evaluated, in words."""
    other = {
        "validation": "",
        "training": ", training",
        "test": ", test",
        "photos": f", {Path(evaluated.photos or '').name}",
    }
    return f"run {evaluated.run}{other[evaluated.images_of]}"
