"""Emulated runs in the report: marked wherever they stand, never beside real ones, and no ground for a claim."""

import csv
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from horovod_flowers.config.emulate import EmulateConfig
from horovod_flowers.config.emulated_network import EmulatedNetwork
from horovod_flowers.config.run import RunConfig
from horovod_flowers.report.__main__ import main
from horovod_flowers.report.analysis.claims import before_and_after, compare, judge, parse_check, proposal_of
from horovod_flowers.report.analysis.points import Point, points_of, series_of
from horovod_flowers.report.analysis.proposal_table import proposal_table_of
from horovod_flowers.report.analysis.run_summary import RunSummary, summarise
from horovod_flowers.runlog.emulated_step import EmulatedStep
from horovod_flowers.runlog.emulation import CoreGauge, Emulation
from horovod_flowers.runlog.reading.run import read_run
from horovod_flowers.runtime.errors import UserError
from tests.single.recorded_runs import write_run

REAL = RunConfig(global_batch=64, threads=1, warmup_steps=1)
SLEPT = dataclasses.replace(REAL, emulate=EmulateConfig(profile="p.json"))
NETWORK = EmulatedNetwork(nodes=4, mbit=200, shrink=4.0)
STEP = EmulatedStep(
    model="flower_cnn",
    rows=32,
    median_step_seconds=0.4,
    shrink=4.0,
    profile="p.json",
    cpu_model="Test CPU",
    started_utc="2026-01-01T00:00:00+00:00",
    command=["python", "-m", "horovod_flowers.step_profile"],
)
BOTH = Emulation(network=NETWORK, step=STEP)


def gauge(ranks: int, waited: float = 0.0) -> CoreGauge:
    fields: dict[str, Any] = {"precedence": True} if "precedence" in CoreGauge.__struct_fields__ else {}
    return CoreGauge(
        elapsed_seconds=[10.0] * ranks, waited_seconds=[waited] * ranks, cpu_seconds=[0.1] * ranks, cores=2, **fields
    )


def write(path: Path, ranks: int, milliseconds: int, emulated: Emulation | None, **options: Any) -> None:
    """A run whose steps take so long."""
    config = REAL if emulated is None or emulated.step is None else SLEPT
    options = {"core_gauge": None if emulated is None else gauge(ranks)} | options
    options["oversubscribed"] = emulated is not None and ranks > 1
    write_run(
        path,
        ranks,
        [[1] * ranks, [milliseconds] * ranks],
        config=config,
        emulated=emulated,
        accuracy=None if emulated else 0.5,
        **options,
    )


def both_kinds(folder: Path) -> list[RunSummary]:
    """One and four ranks, real and emulated; the latter are faster."""
    for name, emulated, alone, four in (("real", None, 400, 200), ("emulated", BOTH, 400, 100)):
        write(folder / f"{name}-1", 1, alone, emulated)
        write(folder / f"{name}-4", 4, four, emulated)
    return [summarise(read_run(path)) for path in sorted(folder.iterdir())]


def by_name(points: list[Point]) -> dict[str, Point]:
    return {run.name: point for point in points for run in point.runs}


def test_emulated_and_real_runs_of_the_same_work_are_never_pooled(tmp_path: Path) -> None:
    points = points_of(both_kinds(tmp_path))
    found = by_name(points)
    assert len(points) == 4
    assert {name: point.strategy for name, point in found.items()} == {
        "real-1": "one rank",
        "real-4": "allreduce",
        "emulated-1": "one rank (emulated)",
        "emulated-4": "allreduce (emulated)",
    }
    speed_ups = {name: point.speed_up.value for name, point in found.items() if point.speed_up is not None}
    assert speed_ups == pytest.approx({"real-1": 1, "real-4": 2, "emulated-1": 1, "emulated-4": 4})
    assert not found["emulated-4"].oversubscribed  # its gauge tells whether it counts


def test_an_emulated_run_has_no_baseline_of_real_ones(tmp_path: Path) -> None:
    write(tmp_path / "real-1", 1, 400, None)
    write(tmp_path / "emulated-4", 4, 100, BOTH)
    found = by_name(points_of([summarise(read_run(path)) for path in sorted(tmp_path.iterdir())]))["emulated-4"]
    assert (found.speed_up, found.refusal) == (None, None)
    assert any(words.startswith("emulated: ") for words in found.other_work)


def test_runs_on_other_emulated_networks_are_other_work(tmp_path: Path) -> None:
    slower = Emulation(network=EmulatedNetwork(nodes=4, mbit=50, shrink=4.0), step=STEP)
    write(tmp_path / "a-1", 1, 400, BOTH)
    write(tmp_path / "b-4", 4, 300, slower)
    larger = Emulation(network=EmulatedNetwork(nodes=8, mbit=200, shrink=4.0), step=STEP)
    write(tmp_path / "c-4", 4, 100, larger)  # of which it needs four nodes
    found = by_name(points_of([summarise(read_run(path)) for path in sorted(tmp_path.iterdir())]))
    assert found["b-4"].speed_up is None
    assert found["c-4"].speed_up is not None


def test_nothing_is_claimed_from_emulated_runs(tmp_path: Path) -> None:
    runs = both_kinds(tmp_path)
    points = points_of(runs)
    series = series_of(points)
    assert [members.strategy for members in series if proposal_of(members, 0.4) is not None] == ["allreduce"]
    assert [members.strategy for members in series if proposal_table_of(members, 0.4) is not None] == ["allreduce"]
    told = before_and_after(series)
    assert told is not None
    assert told.after is not None
    assert told.after.strategy == "allreduce"
    verdict = judge(parse_check("min-speed-up=3@4"), points, strict=False)
    assert (verdict.passed, verdict.reason) == (
        False,
        "allreduce, strong scaling: 2, no interval, which takes 6 runs of each side",
    )
    emulated = [point for point in points if point.emulated]
    verdict = judge(parse_check("min-speed-up=3@4"), emulated, strict=False)
    assert not verdict.passed
    assert verdict.reason == "there is no run of 4 ranks, but for emulated ones, which measure no machine"


def test_a_comparison_of_real_and_emulated_runs_is_refused_whatever_is_allowed(tmp_path: Path) -> None:
    runs = both_kinds(tmp_path)
    with pytest.raises(UserError, match="some runs of real-4 and emulated-4 are emulated and some are not"):
        compare(runs, ["real-4", "emulated-4"], allow_differences=True)
    assert compare(runs, ["emulated-1", "emulated-4"], allow_differences=True).emulated


def test_every_page_and_file_marks_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    both_kinds(tmp_path / "runs")
    write(tmp_path / "runs" / "crowded-4", 4, 100, BOTH, core_gauge=gauge(4, waited=2.0))
    write(tmp_path / "runs" / "unknown-4", 4, 100, BOTH, core_gauge=None)
    output = tmp_path / "report"
    main(["--runs-dir", str(tmp_path / "runs"), "--output", str(output)])
    said = " ".join(capsys.readouterr().out.split())
    assert "4 ranks (allreduce (emulated)) against one rank: speed-up 4.00" in said
    assert "emulated: ranks slept for the measured time of a step" in said
    assert "left out: crowded-4: emulated, and no measurement: a rank waited for a core 20.0% of the time" in said
    assert "left out: unknown-4: emulated, and no measurement: nobody knows how long its ranks waited" in said
    for page in ("index.html", "report.md"):
        text = (output / page).read_text(encoding="utf-8")
        assert "emulated: ranks slept for" in text, page
        assert "allreduce (emulated)" in text, page
    points = json.loads((output / "scaling.json").read_text())["points"]
    told = {point["run_names"]: point["emulated"] for point in points}
    assert told["real-4"] is None
    assert told["emulated-4"] == BOTH.kind
    rows = {row["run_names"]: row for row in csv.DictReader((output / "scaling.csv").open())}
    assert rows["emulated-4"]["emulated"] == BOTH.kind
    assert rows["real-4"]["emulated"] == ""
    for picture in ("speed-up-strong", "parts"):
        assert "(emulated)" in (output / "pictures" / f"{picture}.svg").read_text(encoding="utf-8"), picture
    traces = [path.read_text() for path in (output / "traces").glob("*.json")]
    assert sum("(emulated)" in text for text in traces) == 1
    curves = (output / "pictures" / "learning.svg").read_text(encoding="utf-8")
    assert "emulated" not in curves


def test_a_report_of_real_runs_says_nothing_of_it(tmp_path: Path) -> None:
    write(tmp_path / "runs" / "real-1", 1, 400, None)
    main(["--runs-dir", str(tmp_path / "runs"), "--output", str(tmp_path / "report"), "--format", "csv,json,md"])
    for name in ("report.md", "scaling.csv", "scaling.json"):
        text = (tmp_path / "report" / name).read_text(encoding="utf-8")
        assert not {word for word in ('"emulated', "(emulated)", ",emulated", "emulate.") if word in text}, name


def test_a_record_that_does_not_agree_with_itself_is_refused(tmp_path: Path) -> None:
    write_run(tmp_path / "a", 1, [[1], [1]], config=SLEPT)
    with pytest.raises(UserError, match="do not agree whether it is emulated"):
        read_run(tmp_path / "a")


def test_settings_of_horovod_keep_nobody_from_a_baseline_of_one_rank(tmp_path: Path) -> None:
    """Which does not start it, whereas on three and more the suite chooses some itself."""
    write_run(tmp_path / "one", 1, [[1], [400]], config=REAL)
    write_run(tmp_path / "four", 4, [[1] * 4, [200] * 4], config=REAL, horovod_settings={"HOROVOD_CYCLE_TIME": "5"})
    points = by_name(points_of([summarise(read_run(path)) for path in sorted(tmp_path.iterdir())]))
    assert points["four"].speed_up is not None
    assert points["four"].speed_up.value == pytest.approx(2)
    assert points["four"].unlike == ()
