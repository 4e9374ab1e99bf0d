"""The README's first command as typed."""

import json
import re
from pathlib import Path

import pytest

from horovod_flowers.runlog.reading.run import read_run
from tests.commands.conftest import Drawn
from tests.conftest import ANY_LINK, PROJECT, run_command


@pytest.fixture(scope="module")
def studied(tmp_path_factory: pytest.TempPathFactory, drawn: Drawn) -> Path:
    """The first command's job, as typed, in an empty folder: 3,670 drawn flowers at 180 pixels, one and two ranks."""
    folder = tmp_path_factory.mktemp("study")
    ended = run_command(["bash", PROJECT / "jobs" / "small_study.sh"], folder, timeout=1500, variables=ANY_LINK)
    (folder / "output").write_text(ended.output)
    assert ended.status == 0, ended.output
    drawn.keep(folder / "data")
    return folder


def test_the_study_ends_with_a_trained_model_and_a_speed_up(studied: Path) -> None:
    output = (studied / "output").read_text()
    assert re.search(r"2 ranks \(allreduce\) against one rank: speed-up \d+\.\d\d, parallel efficiency", output)
    one, two = json.loads((studied / "report" / "scaling.json").read_text())["points"]
    assert (one["ranks"], two["ranks"]) == (1, 2)
    assert one["speed_up"] == 1
    assert two["speed_up"] > 0
    for run in (studied / "runs").iterdir():
        assert {"best.safetensors", "last.safetensors"} == {path.name for path in (run / "checkpoints").iterdir()}
    assert (studied / "report" / "pictures" / "speed-up-strong.png").stat().st_size > 10_000
    assert "interval not available: fewer than 6 runs" in output


def test_the_drawn_flowers_are_worth_learning(studied: Path) -> None:
    """After one epoch well above chance (0.2) and well below 1; the same work at one and at two ranks."""
    runs = sorted((read_run(path) for path in (studied / "runs").iterdir()), key=lambda run: run.ranks)
    one, two = (run.result for run in runs)
    assert one.training_images == 3120
    for result in (one, two):
        assert result.progress.best_validation_accuracy is not None
        assert 0.35 < result.progress.best_validation_accuracy < 0.9
    assert one.data_digest == two.data_digest


def test_plain_lines_where_there_is_no_terminal(studied: Path) -> None:
    output = (studied / "output").read_text()
    assert "\x1b[" not in output
    assert "auto_mixed_precision" not in output  # TensorFlow's notices of its own work
    assert re.search(r"epoch 1/1: \d+/49 steps loss", output)
