"""A run evaluated over 1, 2 and 3 ranks: every image once, the accuracy that training logged, one set of figures."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

from horovod_flowers.data.synthetic import CLASSES
from horovod_flowers.inference.evaluation.record import EvaluationRecord, read_evaluation
from horovod_flowers.report.__main__ import main as report
from horovod_flowers.report.analysis.classification import metrics_of, proportion
from horovod_flowers.runlog.json_lines import read_lines
from horovod_flowers.runlog.reading.run import read_run
from horovod_flowers.runlog.records import Prediction
from horovod_flowers.runlog.run_folder import RunFolder
from tests.commands.test_wrong_use import assert_one_sentence, snapshot
from tests.conftest import Ended, Workplace, mpirun, write_photos_in
from tests.parallel.commands_in_one_job import Command

RANKS = (1, 2, 3)
RUN = "evaluated"
COMMAND = ("python", "-m", "horovod_flowers.evaluate", f"runs/{RUN}", "--threads", "1")


@dataclass(frozen=True)
class Evaluated:
    """A folder of runs and their evaluations, and the photos that the model never saw."""

    folder: Path
    photos: Path
    printed: dict[str, str]
    """Of each evaluation, by the name of its output."""


@pytest.fixture(scope="module")
def evaluated(shared_workplace: Workplace, tmp_path_factory: pytest.TempPathFactory) -> Evaluated:
    """Two runs; the last checkpoint of one evaluated at each number of ranks, in batches that do not divide 24 images,
    and on other photos at one and at two. One job for each number."""
    photos = write_photos_in(tmp_path_factory.mktemp("unseen"), tulips=4, daisy=3, roses=4)
    (photos / "roses" / "002.jpg").write_bytes((photos / "roses" / "002.jpg").read_bytes()[:200])
    options = ("--global-batch", "20", "--name")
    shared_workplace.run_in_one_job(
        shared_workplace.training(*options, RUN, "--epochs", "2"),
        shared_workplace.training(*options, "held-out", "--data.test-fraction", "0.25"),
    )
    printed: dict[str, str] = {}
    for ranks in RANKS:
        seen = ("--photos", photos, "--batch", "4", "--output", f"seen-by-{ranks}")
        commands = {
            f"evaluated-{ranks}": evaluation(
                *("--checkpoint", "last", "--batch", "5", "--top-k", "2", "--output", f"evaluated-{ranks}")
            ),
            **({f"seen-by-{ranks}": evaluation(*seen)} if ranks < 3 else {}),
            **({"held-out": evaluation("--split", "test", run="held-out")} if ranks == 2 else {}),
        }
        ended = shared_workplace.run_in_one_job(*commands.values(), ranks=ranks)
        printed |= dict(zip(commands, ended, strict=True))
    return Evaluated(shared_workplace.folder, photos, printed)


def evaluation(*options: str | Path, run: str = RUN) -> Command:
    return Command.of("horovod_flowers.evaluate", f"runs/{run}", "--threads", "1", *options)


@pytest.fixture(scope="module")
def folder(evaluated: Evaluated) -> Path:
    return evaluated.folder


def record_of(folder: Path, ranks: int) -> EvaluationRecord:
    return read_evaluation(folder / f"evaluated-{ranks}" / "evaluation.json")


def predictions_in(folder: Path) -> list[Prediction]:
    return list(read_lines(folder / "predictions.jsonl", Prediction))


@pytest.mark.parametrize("ranks", RANKS)
def test_predictions_are_the_same_bytes(folder: Path, ranks: int) -> None:
    one, many = ((folder / f"evaluated-{n}" / "predictions.jsonl").read_bytes() for n in (1, ranks))
    assert many == one
    assert record_of(folder, ranks).evaluated.world_size == ranks


def test_every_validation_image_comes_once_in_order(folder: Path) -> None:
    assert [found.image for found in predictions_in(folder / "evaluated-1")] == list(range(96, 120))


@pytest.mark.parametrize("ranks", RANKS)
def test_accuracy_is_what_training_logged(evaluated: Evaluated, ranks: int) -> None:
    folder = evaluated.folder
    run, record = read_run(folder / "runs" / RUN), record_of(folder, ranks)
    assert record.images == 24
    assert record.accuracy.value == run.epochs[1].validation_accuracy == record.evaluated.logged_accuracy
    assert record.log_loss == pytest.approx(run.epochs[1].validation_loss, rel=1e-4)
    assert record.evaluated.epoch == 2
    assert record.evaluated.data_digest == run.result.data_digest
    assert f"accuracy {record.accuracy.value:.3f} (95 % interval" in evaluated.printed[f"evaluated-{ranks}"]


def test_figures_are_those_of_the_predictions(folder: Path) -> None:
    record, found = record_of(folder, 2), predictions_in(folder / "evaluated-2")
    figures = metrics_of(found, 2)
    right = sum(each.label == each.predicted for each in found)
    within = sum(each.rank_of_label in (1, 2) for each in found)
    assert record.accuracy == proportion(right, 24)
    assert record.top_k is not None
    assert (record.top_k.k, record.top_k.accuracy) == (2, proportion(within, 24))
    assert record.confusion == figures.confusion.tolist()
    assert record.classes == figures.classes
    assert record.calibration == figures.calibration
    assert record.mistakes == 24 - right


def test_the_worst_mistakes_have_their_photos(folder: Path) -> None:
    record, output = record_of(folder, 1), folder / "evaluated-1"
    chances = [mistake.probability for mistake in record.worst_mistakes]
    assert chances == sorted(chances, reverse=True)
    assert len(chances) == min(12, record.mistakes)
    names = {f"{mistake.image}.jpg" for mistake in record.worst_mistakes}
    assert {path.name for path in (output / "photos").iterdir()} == names
    for name in names:
        with Image.open(output / "photos" / name) as photo:
            assert (photo.format, photo.size) == ("JPEG", (32, 32))
    for name in ("confusion.png", "calibration.png", "mistakes.png"):
        assert (output / name).read_bytes().startswith(b"\x89PNG")
    for name in ("confusion.svg", "calibration.svg"):
        assert (output / name).read_bytes().startswith(b"<?xml")


def test_the_report_shows_it(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "runs" / RUN
    run.parent.mkdir()
    run.symlink_to(folder / "runs" / RUN)
    evaluation = RunFolder(run).predictions.parent
    (folder / "evaluated-3").rename(evaluation)
    try:
        report(["--runs-dir", str(run.parent), "--output", str(tmp_path / "report")])
        record = read_evaluation(evaluation / "evaluation.json")
    finally:
        evaluation.rename(folder / "evaluated-3")
    (found,) = json.loads((tmp_path / "report" / "scaling.json").read_text())["evaluations"]
    assert found["accuracy"] == vars(record.accuracy)
    assert found["expected_calibration_error"] == record.calibration.expected_error
    words = f"accuracy {record.accuracy.value:.3f} (95 % interval {record.accuracy.low:.3f} to"
    assert f"predictions of run {RUN}: {words}" in capsys.readouterr().out
    assert f"A{words[1:]}" in (tmp_path / "report" / "index.html").read_text()
    for name in ("confusion-1.png", "calibration-1.svg"):
        assert (tmp_path / "report" / "pictures" / name).exists()


# --- photos that the model never saw ---------------------------------------------------------------------------------


def test_photos_it_never_saw_are_found_by_the_names_of_their_classes(evaluated: Evaluated) -> None:
    """In another order than the run's classes, one of them broken, at one rank and at two."""
    folder, names = evaluated.folder, ("seen-by-1", "seen-by-2")
    for name in names:
        assert "unreadable, left out: roses/002.jpg: " in evaluated.printed[name]
    outputs = [(folder / name / "predictions.jsonl").read_bytes() for name in names]
    assert outputs[0] == outputs[1]
    found, record = predictions_in(folder / "seen-by-2"), read_evaluation(folder / "seen-by-2" / "evaluation.json")
    assert [each.image for each in found] == [0, 1, 2, 3, 4, 6, 7, 8, 9, 10]
    assert all(str(each.photo).split("/")[0] == each.label for each in found)
    assert {each.predicted for each in found} <= set(CLASSES)
    assert [item.photo for item in record.unreadable] == ["roses/002.jpg"]
    assert (record.evaluated.photos, record.evaluated.logged_accuracy) == (str(evaluated.photos), None)


# --- wrong use -------------------------------------------------------------------------------------------------------


def refused(workplace: Workplace, *options: str | Path) -> Ended:
    """On two ranks; nothing is changed."""
    before = snapshot(workplace.folder / "runs" / RUN)
    ended = workplace.run(*mpirun(2, *COMMAND, *options))
    assert snapshot(workplace.folder / "runs" / RUN) == before
    return ended


def test_a_class_that_the_run_does_not_know_is_named(
    shared_workplace: Workplace, folder: Path, write_photos: Callable[..., Path]
) -> None:
    ended = refused(shared_workplace, "--photos", str(write_photos(daisy=1, orchids=1)))
    assert_one_sentence(ended, "has photos of orchids, which the run does not know: its classes are dandelion, daisy")


def test_what_is_no_evaluation_is_not_replaced(shared_workplace: Workplace, folder: Path) -> None:
    ended = refused(shared_workplace, "--output", f"runs/{RUN}/checkpoints")
    assert_one_sentence(ended, f"runs/{RUN}/checkpoints is there and is no evaluation (no predictions.jsonl)")


def test_a_missing_checkpoint_names_the_other(shared_workplace: Workplace, folder: Path) -> None:
    best = folder / "runs" / RUN / "checkpoints" / "best.safetensors"
    kept = best.rename(best.with_name("kept"))
    try:
        ended = refused(shared_workplace)
    finally:
        kept.rename(best)
    assert_one_sentence(ended, f"run runs/{RUN} has no best checkpoint: give --checkpoint last")


def test_a_run_that_is_not_there_is_told(workplace: Workplace) -> None:
    ended = workplace.run("python", "-m", "horovod_flowers.evaluate", "runs/none")
    assert_one_sentence(ended, "there is no run runs/none: train one, or give the folder of one")


def test_photos_that_changed_since_are_refused(
    workplace: Workplace, write_photos: Callable[..., Path], tmp_path: Path
) -> None:
    options = ["--data.source", "folder", "--data.path", str(write_photos(red=8, blue=8)), "--data.image-size", "32"]
    prepared = ["--data.prepared-dir", "prepared"]
    command = ["python", "-m", "horovod_flowers.prepare", *options, *prepared]
    assert workplace.run(*command).status == 0
    ended = workplace.train(*options, *prepared, "--per-rank-batch", "4", "--name", "r")
    assert ended.status == 0, ended.output
    (images,) = (tmp_path / "prepared" / "objects").iterdir()
    images.rename(images.with_name("f" * 32))
    ended = workplace.run("python", "-m", "horovod_flowers.evaluate", "runs/r")
    assert_one_sentence(ended, f"the images that the run was trained on (digest {images.name}) are not in prepared:")


def test_images_that_were_held_out_are_evaluated_apart(shared_workplace: Workplace, folder: Path) -> None:
    found = predictions_in(folder / "runs" / "held-out" / "evaluation-test")
    assert [each.image for each in found] == list(range(90, 120))
    ended = shared_workplace.run(*COMMAND, "--split", "test")
    assert_one_sentence(ended, "split is 'test' but the run held no image out")
