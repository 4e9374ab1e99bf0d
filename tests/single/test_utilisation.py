"""Percent of peak: of runs with known operations and a known peak, and what there is no percent of."""

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest

from horovod_flowers.config.emulated_network import EmulatedNetwork
from horovod_flowers.report.analysis.points import Point, points_of
from horovod_flowers.report.analysis.run_summary import summarise
from horovod_flowers.report.analysis.utilisation import Utilisation, doubts_of_utilisation, utilisation_of
from horovod_flowers.runlog.emulation import CoreGauge, Emulation
from horovod_flowers.runlog.machine_peak import MachinePeak, peak_file, write_peak
from horovod_flowers.runlog.model_flops import ModelFlops
from horovod_flowers.runlog.reading.run import read_run
from tests.single.machine_peaks import peak_record
from tests.single.recorded_runs import write_run
from tests.single.test_report import run_report

FLOPS = ModelFlops(images=32, forward=32e8, backward=64e8)
"""3e8 an image."""


def points(folder: Path) -> list[Point]:
    return points_of(summarise(read_run(path)) for path in sorted(folder.iterdir()) if not path.name.startswith("."))


def of_two(folder: Path, *peaks: MachinePeak, **run: Any) -> Utilisation:
    """Of two ranks whose steps of 64 images take 320 ms: 200 images/s, 60 GFLOP/s."""
    write_run(folder / "one", 1, [[1], [640]], model_flops=FLOPS)
    write_run(folder / "two", 2, [[1, 1], [320, 320]], **({"model_flops": FLOPS} | run))
    (point,) = (point for point in points(folder) if point.ranks == 2)
    found = utilisation_of(point, peaks)
    assert found is not None
    return found


def test_percent_and_bounds_are_those_of_their_definitions(tmp_path: Path) -> None:
    """Two cores reach 60 of 100 GFLOP/s; at the peak they would train 100e9 / 3e8 images/s."""
    found = of_two(tmp_path, peak_record(5e10), peak_record(4e10))  # the most of several counts
    assert (found.unit, found.units, found.flops_per_image, found.missing) == ("core", 2, 3e8, None)
    assert found.achieved is not None
    assert found.share is not None
    assert found.achieved.value == pytest.approx(60e9)
    assert found.peak == pytest.approx(100e9)
    assert found.share.value == pytest.approx(0.6)
    assert found.bound_images_per_second == pytest.approx(1000 / 3)
    assert found.bound_speed_up == pytest.approx(1000 / 3 / 100)  # one rank trains 100 images/s
    assert not list(doubts_of_utilisation(found))


def test_a_utilisation_above_the_peak_is_doubted(tmp_path: Path) -> None:
    (told,) = doubts_of_utilisation(of_two(tmp_path, peak_record(2e10)))
    assert told.startswith("a model FLOPs utilisation of 1.50 is above the measured peak")
    assert "Winograd" in told


@pytest.mark.parametrize(
    ("changed", "run", "why"),
    [
        ({"cpu_models": ["Other CPU"]}, {}, "CPU Other CPU against Test CPU"),
        ({"cpu_features": [["amx_bf16"]]}, {}, "CPU features amx_bf16 against none known"),
        ({"gpus": ["A100", "A100"]}, {"gpu": "H100"}, "GPU A100 against H100"),
        ({}, {"gpu": "H100"}, "GPU none against H100"),
        ({"precision": "bf16"}, {}, "precision bf16 against fp32"),
        ({}, {"precision": "bf16"}, "precision fp32 against bf16"),
        ({"threads": 2, "physical_cores": 2}, {}, "threads 2 against 1"),
        ({"world_size": 1, "ranks_per_node": [1]}, {}, "ranks a node 1 against 2"),
        ({}, {"hosts": 2}, "ranks a node 2 against 1"),
        ({"oversubscribed": True}, {}, "ranks shared a core as it was measured"),
    ],
)
def test_a_peak_of_something_else_is_not_used(
    tmp_path: Path, changed: dict[str, Any], run: dict[str, Any], why: str
) -> None:
    found = of_two(tmp_path, peak_record(**changed), **run)
    assert (found.peak, found.share, found.bound_images_per_second) == (None, None, None)
    assert found.achieved is not None  # of which no percent is known
    assert found.missing == f"peaks were measured otherwise than its runs ({why})"


@pytest.mark.parametrize(
    ("run", "why"),
    [
        ({"model_flops": None}, "the operations of a step were not recorded (an older run)"),
        (
            {"model_flops": ModelFlops(images=1, forward=None, backward=None, not_counted=["RFFT"])},
            "not counted in a step: RFFT",
        ),
        (
            {"model_flops": ModelFlops(images=1, forward=0.0, backward=0.0)},
            "its model has no matrix products or convolutions",
        ),
        ({"oversubscribed": True}, "ranks shared a core, so its times are no measure of speed"),
    ],
)
def test_without_operations_or_a_time_there_is_no_percent(tmp_path: Path, run: dict[str, Any], why: str) -> None:
    found = of_two(tmp_path, peak_record(), **run)
    assert (found.flops_per_image, found.achieved, found.share, found.missing) == (None, None, None, why)


def test_without_a_peak_what_was_achieved_is_told(tmp_path: Path) -> None:
    found = of_two(tmp_path)
    assert found.achieved is not None
    assert found.achieved.value == pytest.approx(60e9)
    assert (found.share, found.bound_speed_up) == (None, None)
    assert found.missing == "no peak was measured: add peak: true to the job file, and run the study again"


def test_gpus_are_counted_one_a_rank_and_emulated_runs_have_none(tmp_path: Path) -> None:
    found = of_two(tmp_path, peak_record(gpus=["H100", "H100"]), gpu="H100")
    assert (found.unit, found.units) == ("GPU", 2)
    assert found.share is not None
    network = EmulatedNetwork(nodes=2, mbit=100)
    gauge = CoreGauge(elapsed_seconds=[1] * 2, waited_seconds=[0] * 2, cpu_seconds=[0.1] * 2, cores=2, precedence=True)
    write_run(tmp_path / "e", 2, [[1, 1], [9, 9]], emulated=Emulation(network=network, step=None), core_gauge=gauge)
    (emulated,) = (point for point in points(tmp_path) if point.emulated)
    assert utilisation_of(emulated, [peak_record()]) is None


def test_the_report_shows_it_beside_every_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = tmp_path / "runs"
    for number in range(6):
        write_run(runs / f"two-{number}", 2, [[1, 1], [320, 318 + number]], model_flops=FLOPS)
        write_run(runs / f"one-{number}", 1, [[1], [640]], model_flops=FLOPS)
    write_peak_of(runs, "s-2ranks-peak-run1", peak_record(5e10))
    (runs / ".peaks" / "half.json").write_text('{"schema": 1, ')
    run_report(tmp_path, "--format", "html,md,csv,json,tidy,figures")
    printed = capsys.readouterr().out
    report = tmp_path / "report"
    document = json.loads((report / "scaling.json").read_text())
    one, two = document["points"]
    assert two["model_flops_utilisation"] == pytest.approx(0.6, abs=0.01)
    assert two["model_flops_utilisation_low"] < 0.6 < two["model_flops_utilisation_high"]
    assert two["peak_flops_per_second"] == pytest.approx(1e11)
    assert two["achieved_flops_per_second"] == pytest.approx(two["images_per_second"] * 3e8)
    assert (two["compute_unit"], two["compute_units"], two["model_flops_per_image"]) == ("core", 2, 3e8)
    assert two["bound_speed_up"] == pytest.approx(1000 / 3 / 100, rel=0.01)
    assert (one["model_flops_utilisation"], one["no_utilisation"]) == (
        None,
        "peaks were measured otherwise than its runs (ranks a node 2 against 1)",
    )
    with open(report / "scaling.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert float(rows[1]["model_flops_utilisation"]) == two["model_flops_utilisation"]
    assert rows[0]["model_flops_utilisation"] == ""
    with open(report / "runs.csv", newline="") as file:
        tidy = [row for row in csv.DictReader(file) if row["ranks"] == "2"]
    rates = [float(row["images_per_second"]) for row in tidy]
    assert [float(row["model_flops_utilisation"]) for row in tidy] == pytest.approx(
        [rate * 3e8 / 1e11 for rate in rates]
    )
    figures = (report / "figures.txt").read_text()
    (share,) = re.findall(r"^strong\.\S+\.2_ranks\.model_flops_utilisation = (\S+) 1$", figures, re.MULTILINE)
    assert float(share) == two["model_flops_utilisation"]
    assert "1_rank.model_flops_utilisation" not in figures
    page, markdown = (report / "index.html").read_text(), (report / "report.md").read_text()
    for text in (page, markdown):
        assert "Percent of peak" in text
        assert "300 MFLOP" in text
        assert "50 GFLOP/s" in text  # of a core
        assert "333.3" in text
        assert "Chowdhery et al. 2022" in text
    assert markdown.count("| of peak |") == 1
    shown = f"{two['model_flops_utilisation'] * 100:.1f} %"
    assert shown in page
    assert shown in markdown
    assert "no percent of peak for one rank" in printed.replace("\n", " ")
    assert ("half.json", True) in [(each["run"], "is damaged" in each["reason"]) for each in document["left_out"]]


def write_peak_of(runs: Path, point: str, record: MachinePeak) -> None:
    peak_file(runs, point).parent.mkdir(parents=True)
    write_peak(peak_file(runs, point), record)
