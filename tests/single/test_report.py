"""The report command on recorded runs."""

import csv
import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from horovod_flowers.command_line import parse
from horovod_flowers.config import DataConfig, RunConfig
from horovod_flowers.report.__main__ import main
from tests.single.recorded_runs import write_run


def run_report(folder: Path) -> None:
    main(["--runs-dir", str(folder / "runs"), "--output", str(folder / "report")])


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    folder = tmp_path / "runs"
    folder.mkdir()
    return folder


def test_a_study_ends_with_table_files_and_a_sentence(
    tmp_path: Path, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(runs / "one", 1, [[1], [400], [400]], accuracy=0.61)
    write_run(runs / "two", 2, [[1, 1], [250, 240], [250, 240]], accuracy=0.62)
    run_report(tmp_path)
    text = capsys.readouterr().out
    assert "2 ranks (allreduce) against one rank: speed-up 1.60, parallel efficiency 0.80\n" in text
    assert "oversubscribed" not in text
    with open(tmp_path / "report" / "scaling.csv", newline="") as file:
        one, two = csv.DictReader(file)
    assert (one["ranks"], two["ranks"]) == ("1", "2")
    assert float(two["speed_up"]) == pytest.approx(1.6)
    assert float(two["best_validation_accuracy"]) == 0.62
    document = json.loads((tmp_path / "report" / "scaling.json").read_text())
    assert document["schema"] == 2
    assert document["points"][1]["efficiency"] == pytest.approx(0.8)
    pictures = tmp_path / "report" / "pictures"
    assert (pictures / "speed-up-strong.png").read_bytes().startswith(b"\x89PNG")
    assert (pictures / "speed-up-strong.svg").read_bytes().startswith(b"<?xml")


def test_a_ratio_without_its_baseline_is_refused_with_the_command_that_makes_it(
    tmp_path: Path, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = DataConfig(source="folder", path="my photos", augment=True)
    config = RunConfig(global_batch=64, threads=1, epochs=3, precision="fp32", data=data)
    write_run(runs / "two", 2, [[1, 1], [250, 240]], config=config)
    run_report(tmp_path)
    text = capsys.readouterr().out
    assert "no speed-up for 2 ranks (allreduce, two): its one-rank baseline is missing; run: mpirun -np 1 " in text
    command = text.split("is missing; run: ")[1].splitlines()[0]
    words = shlex.split(command)
    assert words[:6] == ["mpirun", "-np", "1", "python", "-m", "horovod_flowers.train"]
    baseline = parse(RunConfig, "horovod_flowers.train", "", words[6:])
    assert baseline == config
    document = json.loads((tmp_path / "report" / "scaling.json").read_text())
    assert document["points"][0]["speed_up"] is None
    with open(tmp_path / "report" / "scaling.csv", newline="") as file:
        assert next(csv.DictReader(file))["speed_up"] == ""


def test_oversubscribed_ranks_are_marked_wherever_they_appear(
    tmp_path: Path, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(runs / "one", 1, [[1], [400]])
    write_run(runs / "eight", 8, [[1] * 8, [500] * 8], oversubscribed=True)
    run_report(tmp_path)
    text = capsys.readouterr().out
    assert " 8* " in text
    assert "* oversubscribed: ranks shared a core, no measure of speed" in text
    assert "speed-up 0.80, parallel efficiency 0.10 (oversubscribed: no measure of speed)" in text
    with open(tmp_path / "report" / "scaling.csv", newline="") as file:
        assert [row["oversubscribed"] for row in csv.DictReader(file)] == ["False", "True"]


def test_runs_with_gaps_are_listed_and_left_out(tmp_path: Path, runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(runs / "whole", 1, [[1], [400]])
    write_run(runs / "dead", 1, [[1], [400]]).result.unlink()
    (runs / "notes").mkdir()
    run_report(tmp_path)
    text = capsys.readouterr().out
    assert "left out: dead: unfinished\n" in text
    assert "left out: notes: no config.yaml\n" in text
    document = json.loads((tmp_path / "report" / "scaling.json").read_text())
    assert [point["run_names"] for point in document["points"]] == ["whole"]


def test_a_strategy_without_a_common_model_has_no_accuracy(
    tmp_path: Path, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(runs / "none", 2, [[1, 1], [250, 240]], config=RunConfig(strategy="none", threads=1), accuracy=None)
    run_report(tmp_path)
    assert "–" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("make", "sentence"),
    [(False, "there is no folder"), (True, "no finished run in")],
)
def test_nothing_to_report_is_told_in_one_sentence(
    tmp_path: Path, make: bool, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if make:
        (tmp_path / "runs").mkdir()
    with pytest.raises(SystemExit) as end:
        run_report(tmp_path)
    assert end.value.code == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "report").exists()


def test_the_report_imports_no_tensorflow() -> None:
    modules = "horovod_flowers.report.__main__, horovod_flowers.report.written, horovod_flowers.report.pictures"
    code = f"import sys, {modules}; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_importing_a_command_does_nothing() -> None:
    code = (
        "import sys, horovod_flowers.train, horovod_flowers.prepare;"
        "sys.exit(bool({'tensorflow', 'horovod', 'mpi4py.MPI'} & set(sys.modules)))"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, b"", b"")
