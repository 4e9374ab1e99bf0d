"""Ways to mislead, each noticed in words: on the page, in the proposal, and by a check."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from horovod_flowers.report.__main__ import main
from horovod_flowers.report.analysis.claims import judge, parse_check, proposal_of
from horovod_flowers.report.analysis.doubts import doubts_of
from horovod_flowers.report.analysis.points import Point, points_of, series_of
from horovod_flowers.report.analysis.run_summary import summarise
from horovod_flowers.report.pages.wording import proposal_paragraph
from horovod_flowers.runlog.reading.run import read_run
from tests.single.recorded_runs import write_run

SCATTER = (0, 2, -2, 1, -1, 3)
"""Percent, of six runs."""


def write(folder: Path, ranks: int, step_ms: int, runs: int = 6, steps: int = 20, factor: Sequence[float] = ()) -> None:
    """Runs with a little scatter. factor: of each run's steps, in the order in which they are started."""
    for number in range(runs):
        each = step_ms * (1 + SCATTER[number % 6] / 100) * (factor[number] if factor else 1)
        # Single steps scatter, too, by the same little in every run.
        rows = [[1] * ranks, *([round(each * (1 + 0.01 * (step % 3)))] * ranks for step in range(steps))]
        started = f"2026-01-01T{number:02}:00:00+00:00"
        write_run(folder / f"{ranks}ranks-run{number}", ranks, rows, started_utc=started)


def points(folder: Path) -> list[Point]:
    return points_of([summarise(read_run(path)) for path in sorted(folder.iterdir())])


def of_two(folder: Path) -> list[str]:
    return doubts_of(next(point for point in points(folder) if point.ranks == 2))


def test_doubts_are_on_the_page_in_the_proposal_and_in_the_check(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = tmp_path / "runs"
    write(runs, 1, 800)
    write(runs, 2, 220)
    words = ["--runs-dir", str(runs), "--output", str(tmp_path / "report"), "--format", "md,json,html"]
    monkeypatch.delenv("CI", raising=False)
    main([*words, "--check", "min-efficiency=0.8@2"])  # passes, and says so
    doubt = "a parallel efficiency of 1.82 is above the ideal"
    printed = capsys.readouterr().out
    assert f"doubtful: 2 ranks (allreduce): {doubt}" in " ".join(printed.split())
    assert (
        f"Doubtful: 2 ranks, allreduce, strong, batch 64, fp32: {doubt}" in (tmp_path / "report/report.md").read_text()
    )
    assert (
        f"Doubtful: 2 ranks, allreduce, strong, batch 64, fp32: {doubt}" in (tmp_path / "report/index.html").read_text()
    )
    point = json.loads((tmp_path / "report/scaling.json").read_text())["points"][1]
    assert point["doubts"][0].startswith(doubt)
    assert f" Doubtful: {doubt}" in proposal_paragraph(proposal_of(series_of(points(runs))[0], 0.75))  # type: ignore[arg-type]
    with pytest.raises(SystemExit) as ended:
        main([*words, "--check", "min-efficiency=0.8@2", "--strict", "yes"])
    assert ended.value.code == 1
    monkeypatch.setenv("CI", "true")
    with pytest.raises(SystemExit):
        main([*words, "--check", "min-efficiency=0.8@2"])


@pytest.mark.parametrize(
    ("runs", "limit", "strict", "passed", "words"),
    [
        (6, "min-efficiency=0.8@2", False, True, "0.869 (0.85 "),
        (6, "min-efficiency=0.8@2", True, True, "0.869 (0.85 "),
        # The figure keeps it, the low end of its interval does not.
        (6, "min-efficiency=0.865@2", False, False, "the interval reaches past the limit: more runs are needed"),
        (1, "min-efficiency=0.8@2", False, True, "no interval, which takes 6 runs of each side"),
        (1, "min-efficiency=0.8@2", True, False, "no interval, which takes 6 runs of each side"),
        (5, "min-speed-up=1.5@2", True, False, "no interval"),
        (6, "max-step-seconds=0.235@2", False, False, "the interval reaches past the limit"),
        (6, "max-step-seconds=0.3@2", True, True, "0.23"),
    ],
)
def test_a_limit_is_kept_by_the_worse_end_of_the_interval(
    tmp_path: Path, runs: int, limit: str, strict: bool, passed: bool, words: str
) -> None:
    write(tmp_path, 1, 400, runs=runs)
    write(tmp_path, 2, 230, runs=runs)
    verdict = judge(parse_check(limit), points(tmp_path), strict)
    assert verdict.passed is passed, verdict.reason
    assert words in verdict.reason


def test_a_proposal_with_few_runs_says_that_more_are_needed(tmp_path: Path) -> None:
    write(tmp_path, 1, 400, runs=3)
    write(tmp_path, 2, 230, runs=3)
    proposal = proposal_of(series_of(points(tmp_path))[0], 0.75)
    assert proposal is not None
    assert "More runs are needed to be sure: an interval takes 6 of each side." in proposal_paragraph(proposal)


def test_a_proposal_does_not_contradict_itself_by_rounding(tmp_path: Path) -> None:
    """0.7499 is below 0.75, and is not told as 0.75."""
    write(tmp_path, 1, 8000, runs=1)
    write(tmp_path, 2, 4200, runs=1)
    write(tmp_path, 4, 2667, runs=1)
    (series,) = series_of(points(tmp_path))
    proposal = proposal_of(series, 0.75)
    assert proposal is not None
    text = proposal_paragraph(proposal)
    assert "of at least 0.75 up to 2 ranks: 0.95" in text
    assert "At 4 ranks it falls to 0.7499" in text
