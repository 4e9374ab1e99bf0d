"""Curves, time to an accuracy, and the predictions of a run."""

import json
from pathlib import Path
from typing import Any

import pytest

from horovod_flowers.report.analysis.evaluation import evaluation_of
from horovod_flowers.report.analysis.learning import common_accuracy, curve_of, reached_by, seconds_to
from horovod_flowers.report.analysis.points import points_of
from horovod_flowers.report.analysis.run_summary import RunSummary, summarise
from horovod_flowers.report.content import evaluations_of
from horovod_flowers.runlog.reading.run import read_run
from horovod_flowers.runlog.run_folder import RunFolder
from horovod_flowers.runtime.errors import UserError
from tests.single.recorded_runs import write_run

JPEG = b"\xff\xd8\xff\xe0 a photo"


def summary(path: Path) -> RunSummary:
    return summarise(read_run(path))


def test_time_to_an_accuracy_is_the_end_of_the_first_epoch_that_has_it(tmp_path: Path) -> None:
    write_run(tmp_path / "r", 1, [[100], [400]], validation=[0.3, 0.52, 0.5, 0.6], accuracy=0.6)
    run = summary(tmp_path / "r")
    assert curve_of(run).training_seconds == pytest.approx((0.5, 1.0, 1.5, 2.0))
    assert seconds_to(run, 0.5) == pytest.approx(1.0)
    assert seconds_to(run, 0.3) == pytest.approx(0.5)
    assert seconds_to(run, 0.61) is None


def test_the_common_accuracy_is_one_that_all_reached(tmp_path: Path) -> None:
    for name, accuracy in (("a", 0.6500001), ("b", 0.7)):
        write_run(tmp_path / name, 1, [[100], [400]], validation=[accuracy], accuracy=accuracy)
    runs = [summary(path) for path in sorted(tmp_path.iterdir())]
    assert common_accuracy(runs) == 0.65
    (found,) = reached_by(points_of(runs), None)
    assert [found.accuracy, found.runs, found.median_seconds] == pytest.approx([0.65, 2, 0.5])
    (found,) = reached_by(points_of(runs), 0.68)
    assert (found.runs, found.median_seconds) == (1, None)  # the other would take longer, nobody knows how long


@pytest.mark.parametrize(("accuracy", "common"), [(0.15, 0.15), (0.3, 0.3), (0.04, None), (1.0, 1.0)])
def test_multiples_of_a_twentieth_are_exact(tmp_path: Path, accuracy: float, common: float | None) -> None:
    write_run(tmp_path / "r", 1, [[100], [400]], accuracy=accuracy)
    assert common_accuracy([summary(tmp_path / "r")]) == common


def test_a_run_without_a_model_has_no_time_to_accuracy(tmp_path: Path) -> None:
    write_run(tmp_path / "r", 1, [[100], [400]], accuracy=None)
    assert reached_by(points_of([summary(tmp_path / "r")]), 0.5) == []


def write_predictions(folder: RunFolder, rows: list[tuple[str, str, float]], name: str = "evaluation") -> None:
    path = folder.path / name / "predictions.jsonl"
    path.parent.mkdir()
    lines = [
        {"image": image, "label": label, "predicted": predicted, "probability": probability}
        for image, (label, predicted, probability) in enumerate(rows)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_other_images_are_shown_after_those_that_runs_were_validated_on(tmp_path: Path) -> None:
    runs = []
    for name in ("a", "b"):
        folder = write_run(tmp_path / name, 1, [[100], [400]])
        write_predictions(folder, [("rose", "rose" if name == "b" else "daisy", 0.9), ("daisy", "daisy", 0.9)])
        write_predictions(folder, [("rose", "rose", 0.9)], "evaluation-meadow")
        runs.append(summary(tmp_path / name))
    (tmp_path / "a" / "evaluation-elsewhere").symlink_to(tmp_path / "b" / "evaluation")
    (tmp_path / "b" / "evaluation-meadow" / "predictions.jsonl").write_text("{}\n")
    found, unreadable = evaluations_of(runs)
    assert [each.title for each in found] == ["run b", "run a", "run a, meadow"]
    assert [each.metrics.accuracy.value for each in found] == [1, 0.5, 1]
    assert [name for name, _ in unreadable] == ["predictions of b"]


def test_confusion_classes_and_the_worst_mistakes(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "r", 1, [[100], [400]])
    write_predictions(
        folder,
        [
            *(("daisy", "daisy", 0.9), ("daisy", "rose", 0.6), ("rose", "rose", 0.8), ("rose", "rose", 0.7)),
            ("tulip", "daisy", 0.99),
        ],
    )
    photos = folder.predictions.parent / "photos"
    photos.mkdir()
    (photos / "4.jpg").write_bytes(JPEG)
    found = evaluation_of(summary(tmp_path / "r"))
    assert found is not None
    figures = found.metrics
    assert [figures.images, figures.accuracy.value] == pytest.approx([5, 0.6])
    assert figures.confusion.tolist() == [[1, 1, 0], [0, 2, 0], [1, 0, 0]]
    daisy, rose, tulip = figures.classes
    assert (daisy.precision, daisy.recall, daisy.f1, daisy.images) == (0.5, 0.5, 0.5, 2)
    assert [rose.precision, rose.recall, rose.f1, rose.images] == pytest.approx([2 / 3, 1.0, 0.8, 2])
    assert (tulip.precision, tulip.recall) == (0, 0)
    assert [(mistake.image, mistake.probability) for mistake in found.mistakes] == [(4, 0.99), (1, 0.6)]
    assert [mistake.photo for mistake in found.mistakes] == [JPEG, None]


def test_a_run_without_predictions_has_no_evaluation(tmp_path: Path) -> None:
    write_run(tmp_path / "r", 1, [[100], [400]])
    assert evaluation_of(summary(tmp_path / "r")) is None


def test_what_is_no_photo_is_not_shown(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "r", 1, [[100], [400]])
    write_predictions(folder, [("a", "b", 0.9), ("a", "b", 0.8), ("a", "b", 0.7)])
    photos = folder.predictions.parent / "photos"
    photos.mkdir()
    (photos / "0.jpg").write_bytes(b"<svg onload=alert(1)>")
    secret = tmp_path / "secret.jpg"
    secret.write_bytes(JPEG)
    (photos / "1.jpg").symlink_to(secret)
    with open(photos / "2.jpg", "wb") as file:
        file.write(JPEG)
        file.truncate(10**9)
    found = evaluation_of(summary(tmp_path / "r"))
    assert found is not None
    assert [mistake.photo for mistake in found.mistakes] == [None, None, None]


@pytest.mark.parametrize(
    "line", ['{"image": 0, "label": "a", "predicted": "a", "probability": 1.5}', "{}", '{"image": NaN}']
)
def test_damaged_predictions_are_refused(tmp_path: Path, line: str) -> None:
    folder = write_run(tmp_path / "r", 1, [[100], [400]])
    write_predictions(folder, [])
    folder.predictions.write_text(line + "\n")
    with pytest.raises(UserError, match="line 1, is damaged"):
        evaluation_of(summary(tmp_path / "r"))


@pytest.mark.parametrize("rows", [[], [0, 0]])
def test_an_image_counts_once(tmp_path: Path, rows: list[int]) -> None:
    folder = write_run(tmp_path / "r", 1, [[100], [400]])
    write_predictions(folder, [])
    line: dict[str, Any] = {"image": 0, "label": "a", "predicted": "a", "probability": 1.0}
    folder.predictions.write_text("".join(json.dumps(line) + "\n" for _ in rows))
    with pytest.raises(UserError, match="is empty or lists an image twice"):
        evaluation_of(summary(tmp_path / "r"))
