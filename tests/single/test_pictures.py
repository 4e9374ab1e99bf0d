"""Pictures keep their axes, and say nothing on the way, however many series there are and whatever they are called."""

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from horovod_flowers.config.optimizer import OptimizerConfig
from horovod_flowers.config.run import RunConfig
from horovod_flowers.report.__main__ import main
from horovod_flowers.report.pages.pictures import picture
from tests.conftest import PROJECT
from tests.single.picture_texts import problems_of
from tests.single.recorded_runs import write_run

EXAMPLE = PROJECT / "docs" / "example-report"
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("error")]


@pytest.fixture
def problems(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Of every picture that is drawn in a test."""
    found: list[str] = []
    letter = picture.letter

    def looked_at(figure: Figure) -> None:
        letter(figure)
        found.extend(problems_of(figure))

    monkeypatch.setattr(picture, "letter", looked_at)
    return found


def test_texts_of_the_example_are_readable(problems: list[str], tmp_path: Path) -> None:
    subprocess.run(["tar", "-xzf", EXAMPLE / "runs.tar.gz", "-C", tmp_path], check=True)
    main(["--runs-dir", str(tmp_path / "runs"), "--output", str(tmp_path / "report"), "--format", "pictures"])
    assert problems == []


def test_many_series_with_long_names_leave_the_axes_their_room(problems: list[str], tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    config = RunConfig(global_batch=64, threads=1)
    for number in range(9):
        different = replace(
            config,
            label_smoothing=number / 100,
            average_decay=number / 50,
            accumulate=1 + number,
            optimizer=OptimizerConfig(name="sgd", momentum=number / 10, weight_decay=number / 1000),
        )
        for ranks in (1, 2):
            steps = [[10 - number // 2] * ranks for _ in range(6)]
            write_run(
                runs / f"{number}-{ranks}", ranks, steps, config=different, digest=f"{number:032x}", validation=(0.4,)
            )
    main(["--runs-dir", str(runs), "--output", str(tmp_path / "report")])
    pictures = {path.stem for path in (tmp_path / "report").rglob("*.png")}
    assert any(name.startswith("speed-up") for name in pictures), pictures
    assert "learning" in pictures
    assert problems == []
