"""The report's answer, and POP's efficiencies, of runs with known parts."""

from pathlib import Path

import pytest

from horovod_flowers.report.analysis.claims import proposal_of
from horovod_flowers.report.analysis.doubts import doubts_of
from horovod_flowers.report.analysis.efficiency_losses import efficiency_losses_of
from horovod_flowers.report.analysis.findings import Findings, findings_of
from horovod_flowers.report.analysis.points import Point, points_of, series_of
from horovod_flowers.report.analysis.pop import pop_of
from horovod_flowers.report.analysis.run_summary import summarise
from horovod_flowers.runlog.reading.run import read_run
from tests.single.recorded_runs import write_run

Parts = tuple[int, int, int, int]
"""Milliseconds of a step: input, compute, communication, update."""


def points(folder: Path) -> list[Point]:
    return points_of([summarise(read_run(path)) for path in sorted(folder.iterdir())])


def write(folder: Path, one: Parts, two: Parts, runs: int = 6) -> None:
    for number in range(runs):
        for ranks, step in ((1, one), (2, two)):
            rows = [[step] * ranks for _ in range(5)]
            write_run(folder / f"{ranks}-{number}", ranks, rows)


def found(folder: Path) -> Findings:
    every = points(folder)
    series = series_of(every)
    losses = {point: lost for point in every if (lost := efficiency_losses_of(point, None)) is not None}
    doubts = {point: told for point in every if (told := doubts_of(point))}
    proposals = [proposal for each in series if (proposal := proposal_of(each, 0.75)) is not None]
    answer = findings_of(series, losses, doubts, proposals)
    assert answer is not None
    return answer


def test_efficiencies_of_pop_are_those_of_their_definitions(tmp_path: Path) -> None:
    """Rank 0 works 200 of 250 ms, rank 1 150: load balance 175/200, communication 200/250, scaling 400/350."""
    write_run(tmp_path / "one", 1, [[(0, 400, 0, 0)]] * 5)
    write_run(tmp_path / "two", 2, [[(0, 200, 50, 0), (0, 150, 100, 0)]] * 5)
    one, two = points(tmp_path)
    pop = pop_of(two)
    assert pop_of(one) is None
    assert pop is not None
    assert pop.load_balance == pytest.approx(175 / 200)
    assert pop.communication == pytest.approx(200 / 250)
    assert pop.parallel == pytest.approx(175 / 250)
    assert pop.computation_scaling == pytest.approx(400 / 350)
    assert two.efficiency is not None
    assert pop.global_efficiency == pytest.approx(two.efficiency.value)
    assert (pop.transfer, pop.serialisation) == (None, None)


@pytest.mark.parametrize(
    ("call_seconds", "transfer", "serialisation"),
    [(0.02, 230 / 250, 200 / 230), (0.0, 1.0, 200 / 250), (9.0, 200 / 250, 1.0)],
)
def test_communication_is_divided_by_the_cost_of_the_calls(
    tmp_path: Path, call_seconds: float, transfer: float, serialisation: float
) -> None:
    """Of 250 ms the busiest rank works 200; an ideal network takes the calls' time off, and no work."""
    write_run(tmp_path / "one", 1, [[(0, 400, 0, 0)]] * 5)
    write_run(tmp_path / "two", 2, [[(0, 200, 50, 0), (0, 150, 100, 0)]] * 5)
    pop = pop_of(points(tmp_path)[1], call_seconds)
    assert pop is not None
    assert pop.transfer == pytest.approx(transfer)
    assert pop.serialisation == pytest.approx(serialisation)


@pytest.mark.parametrize(
    ("two", "cause", "share", "advice"),
    [
        ((50, 200, 0, 0), "input", 0.2, "feed the ranks faster"),
        ((0, 200, 50, 0), "communication", 0.2, "try strategies that divide the large layers"),
        ((0, 250, 0, 0), "rest", 0.2, "run more ranks: throughput still grows at 2"),
        ((0, 200, 0, 0), None, 0.0, "run more ranks"),
    ],
)
def test_the_largest_loss_decides_what_comes_next(
    tmp_path: Path, two: Parts, cause: str | None, share: float, advice: str
) -> None:
    write(tmp_path, (0, 400, 0, 0), two)
    answer = found(tmp_path)
    assert answer.best.ranks == 2
    if cause is None:
        assert answer.largest_loss is None
    else:
        assert answer.largest_loss is not None
        assert answer.largest_loss[0] == cause
        assert answer.largest_loss[1] == pytest.approx(share)
    assert answer.advice.startswith(advice)


def test_without_an_interval_more_runs_come_first(tmp_path: Path) -> None:
    write(tmp_path, (0, 400, 0, 0), (50, 200, 0, 0), runs=1)
    assert found(tmp_path).advice.startswith("run every point at least six times")


def test_what_cannot_be_comes_before_all_else(tmp_path: Path) -> None:
    write(tmp_path, (0, 900, 0, 0), (50, 200, 0, 0))
    assert found(tmp_path).advice.startswith("look into what speaks against these figures")
