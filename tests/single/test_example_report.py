"""docs/example-report: its numbers are made again from its records."""

import csv
import json
import statistics
import subprocess
from pathlib import Path
from typing import Any

import pytest

from horovod_flowers.report.__main__ import main
from tests.conftest import PROJECT

pytestmark = pytest.mark.slow
EXAMPLE = PROJECT / "docs" / "example-report"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("example")
    subprocess.run(["tar", "-xzf", EXAMPLE / "runs.tar.gz", "-C", folder], check=True)  # as docs/report.md says
    return folder / "runs"


def test_every_number_is_made_again(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["--runs-dir", str(runs), "--output", str(tmp_path), "--format", "csv,json,md"])
    printed = capsys.readouterr().out
    assert "(1.85–1.95)" in printed  # a whole interval: a table that is too narrow cuts figures off
    assert "…" not in printed
    made, there = (json.loads((folder / "scaling.json").read_text()) for folder in (tmp_path, EXAMPLE))
    assert_equal(made | {"command": ""}, there | {"command": ""}, "")
    with open(tmp_path / "scaling.csv", newline="") as one, open(EXAMPLE / "scaling.csv", newline="") as other:
        for made_row, row in zip(csv.DictReader(one), csv.DictReader(other), strict=True):
            assert_equal({k: value(v) for k, v in made_row.items()}, {k: value(v) for k, v in row.items()}, "csv")
    made_page, page = ((folder / "report.md").read_text() for folder in (tmp_path, EXAMPLE))
    assert made_page == page


def value(text: str) -> Any:
    try:
        return float(text)
    except ValueError:
        return text


def assert_equal(one: Any, other: Any, where: str) -> None:
    """The same, but for the last digits of numbers, which differ between processors."""
    if isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_equal(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, list):
        assert len(one) == len(other), where
        for number, (first, second) in enumerate(zip(one, other, strict=True)):
            assert_equal(first, second, f"{where}[{number}]")
    elif isinstance(one, float):
        assert one == pytest.approx(other, rel=1e-9, abs=1e-12), where
    else:
        assert one == other, where


def test_it_is_a_study_of_six_repetitions_of_every_point() -> None:
    """1, 2 and 4 ranks, three strategies, six repetitions of each, nothing left out."""
    with open(EXAMPLE / "scaling.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    found = {(row["ranks"], row["strategy"]): row["runs"] for row in rows}
    strategies = ("allreduce", "tensor", "none")
    assert found == {("1", "one rank"): "6", **{(n, s): "6" for n in ("2", "4") for s in strategies}}
    assert all(row["images_per_second_low"] for row in rows)


def test_a_number_is_traced_to_its_records_as_documented(runs: Path) -> None:
    """The steps of docs/report.md, without the project's own reader."""
    totals: dict[str, list[float]] = {}
    with open(EXAMPLE / "scaling.csv", newline="") as file:
        (row,) = (row for row in csv.DictReader(file) if (row["ranks"], row["strategy"]) == ("2", "tensor"))
    for side in ("run_names", "baseline_runs"):
        images, seconds, medians = 0.0, 0.0, []
        for name in row[side].split():
            ranks = [steps_of(path) for path in sorted((runs / name / "steps").iterdir())]
            images += sum(step["images"] for rank in ranks for step in rank)
            seconds += max(sum(step["total_ns"] for step in rank) for rank in ranks) / 1e9
            medians.append(
                statistics.median(max(s["total_ns"] for s in step) for step in zip(*ranks, strict=True)) / 1e9
            )
        totals[side] = [images, seconds, statistics.median(medians)]
    (images, seconds, median), (base_images, base_seconds, _) = totals["run_names"], totals["baseline_runs"]
    assert float(row["images_per_second"]) == pytest.approx(images / seconds)
    assert float(row["median_step_seconds"]) == pytest.approx(median)
    assert float(row["speed_up"]) == pytest.approx((images / seconds) / (base_images / base_seconds))


def steps_of(path: Path) -> list[dict[str, Any]]:
    records = [json.loads(line) for line in path.read_text().splitlines()]
    return [record for record in records if record["kind"] == "step" and not record["warmup"]]
