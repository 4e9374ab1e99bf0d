"""Slow ranks by name, percentiles, and timelines on one clock."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from horovod_flowers.report.analysis.points import points_of
from horovod_flowers.report.analysis.rank_times import bursts_of, chrome_trace, rank_times_of, spans, stragglers_of
from horovod_flowers.report.analysis.run_summary import RunSummary, summarise
from horovod_flowers.runlog.reading.run import read_run
from horovod_flowers.runlog.step_spread import Spread, bursts_in_words
from tests.single.recorded_runs import write_run

EVEN = (1, 80, 15, 4)


def summary(path: Path) -> RunSummary:
    return summarise(read_run(path))


def test_a_slow_rank_is_named_with_host_and_core(tmp_path: Path) -> None:
    # Rank 2 computes 10 ms longer and waits for nobody; the others wait for it.
    rows = [[EVEN, EVEN, (1, 90, 5, 4), EVEN]] * 10
    write_run(tmp_path / "r", 4, [[(0, 9, 0, 0)] * 4, *rows])
    (slow,) = stragglers_of(summary(tmp_path / "r"))
    assert (slow.rank, slow.host, slow.cores) == (2, "node", "2")
    assert slow.excess == pytest.approx(95 / 85 - 1)
    assert slow.last_share == 1


def test_waiting_is_not_slowness(tmp_path: Path) -> None:
    rows = [[(1, 80, 15, 4), (1, 80, 95, 4)]] * 4
    write_run(tmp_path / "r", 2, [[(0, 9, 0, 0)] * 2, *rows])
    assert stragglers_of(summary(tmp_path / "r")) == []


def test_many_slow_ranks_are_counted_and_the_slowest_listed(tmp_path: Path) -> None:
    row = [(1, 80 + (rank if rank >= 32 else 0), 40 - (rank if rank >= 32 else 0) // 2, 4) for rank in range(64)]
    write_run(tmp_path / "r", 64, [[(0, 9, 0, 0)] * 64, row, row])
    (point,) = points_of([summary(tmp_path / "r")])
    times = rank_times_of(point)
    assert times.straggler_count > len(times.stragglers) == 10
    assert [slow.rank for slow in times.stragglers] == list(range(63, 53, -1))


BURST = (1, 80, 15, 4)


def in_bursts(steps: int = 40) -> list[list[tuple[int, int, int, int]]]:
    """Rank 1 is slowed tenfold in every fourth step; rank 0 waits for it."""
    return [[(1, 80, 815, 4), (1, 880, 15, 4)] if step % 4 == 0 else [BURST, BURST] for step in range(steps)]


def test_a_rank_that_is_slowed_in_bursts_is_named(tmp_path: Path) -> None:
    """Its medians say nothing of it."""
    write_run(tmp_path / "r", 2, [[(0, 9, 0, 0)] * 2, *in_bursts()])
    (point,) = points_of([summary(tmp_path / "r")])
    assert stragglers_of(point.runs[0]) == []
    assert point.step_seconds.value == pytest.approx(0.100)
    assert point.mean_step_seconds == pytest.approx(0.300)
    assert bursts_of(point) == (
        "a step took 0.3 s in the mean and 0.1 s in the median: its median does not tell how fast these steps are; "
        "rank 1 on node is slowed in bursts: its own work took 0.285 s in the mean and 0.085 s in the median"
    )


def test_a_machine_that_is_slowed_in_bursts_is_told_apart_from_one_rank(tmp_path: Path) -> None:
    rows = [[(1, 880, 15, 4)] * 2 if step % 4 == 0 else [BURST] * 2 for step in range(40)]
    write_run(tmp_path / "r", 2, [[(0, 9, 0, 0)] * 2, *rows])
    (point,) = points_of([summary(tmp_path / "r")])
    assert str(bursts_of(point)).endswith("; some of them are slowed, all ranks alike")


def test_steps_that_vary_a_little_or_are_few_are_no_bursts(tmp_path: Path) -> None:
    write_run(tmp_path / "even", 2, [[9, 9], *([[100 + step % 10] * 2 for step in range(40)])])
    write_run(tmp_path / "few", 2, [[(0, 9, 0, 0)] * 2, *in_bursts(12)])
    for name in ("even", "few"):
        (point,) = points_of([summary(tmp_path / name)])
        assert bursts_of(point) is None
    whole = Spread.of([0.2] * 40)
    assert bursts_in_words(whole, {"rank 0": Spread(0.1, 0.1, 40), "rank 1": Spread(0.1, 0.05, 40)}) == (
        "rank 1 is slowed in bursts, which no median tells: its own work took 0.1 s in the mean and 0.05 s in the "
        "median of a step"
    )
    most_are_slow = Spread.of([0.1] * 10 + [0.4] * 30)
    assert str(bursts_in_words(most_are_slow, {})).endswith("most of them are slowed, and some are not")


def test_percentiles_are_of_the_slowest_rank(tmp_path: Path) -> None:
    rows = [[100 + step, 50] for step in range(101)]
    write_run(tmp_path / "r", 2, [[9, 9], *rows])
    (point,) = points_of([summary(tmp_path / "r")])
    assert rank_times_of(point).percentiles == pytest.approx({"p50": 0.150, "p95": 0.195, "p99": 0.199})


def test_cores_in_words() -> None:
    assert spans([0, 1, 2, 3, 8, 10, 11]) == "0-3,8,10-11"
    assert spans([5]) == "5"
    assert spans([]) == ""


def test_a_timeline_begins_and_ends_with_its_steps(tmp_path: Path) -> None:
    rows = [[(2, 80, 10, 8), (1, 70, 20, 9)]] * 5
    write_run(tmp_path / "r", 2, [[(0, 9, 0, 0)] * 2, *rows])
    line = summary(tmp_path / "r").timeline
    assert len(line.steps) == 3
    assert (np.diff(line.steps) == 1).all()
    assert line.start_seconds.min() == 0
    assert np.diff(line.start_seconds, axis=0) == pytest.approx(np.full((2, 2), 0.1))
    assert line.part_seconds[0, 0] == pytest.approx([0.002, 0.080, 0.010, 0.008])


def test_clocks_of_hosts_are_put_on_one_scale(tmp_path: Path) -> None:
    """Rank 1's host booted 500 s later, and its step began 30 ms after rank 0's by the time of day."""
    folder = write_run(tmp_path / "r", 2, [[9, 9], [100, 100]])
    for rank, (monotonic, unix, shift) in enumerate(((1000.0, 5000.0, 0.0), (500.0, 5000.0, -500.0 + 0.03))):
        lines = [json.loads(line) for line in folder.steps(rank).read_text().splitlines()]
        lines[0] |= {"monotonic_ns": round(monotonic * 1e9), "unix_seconds": unix}
        for line in lines[1:]:
            line["start_ns"] += round((1000 + shift) * 1e9)
        folder.steps(rank).write_text("".join(json.dumps(line) + "\n" for line in lines))
    starts = summary(tmp_path / "r").timeline.start_seconds
    assert starts[0] == pytest.approx([0, 0.03], abs=1e-6)


@pytest.mark.parametrize("unix", [5e9, 0.0])
def test_a_clock_that_is_wrong_spoils_no_timeline(tmp_path: Path, unix: float) -> None:
    folder = write_run(tmp_path / "r", 2, [[9, 9], [100, 100], [100, 100]])
    lines = [json.loads(line) for line in folder.steps(1).read_text().splitlines()]
    lines[0]["unix_seconds"] = unix
    folder.steps(1).write_text("".join(json.dumps(line) + "\n" for line in lines))
    run = summary(tmp_path / "r")
    assert run.timeline.start_seconds == pytest.approx(np.array([[0, 0], [0.1, 0.1]]))
    json.dumps(chrome_trace(run), allow_nan=False)


def test_the_chrome_trace_holds_every_part_once_without_overlap(tmp_path: Path) -> None:
    rows = [[(2, 80, 10, 8), (0, 70, 21, 9)]] * 4
    write_run(tmp_path / "r", 2, [[(0, 9, 0, 0)] * 2, *rows])
    run = summary(tmp_path / "r")
    trace = json.loads(json.dumps(chrome_trace(run)))
    names = [event["args"]["name"] for event in trace["traceEvents"] if event["ph"] == "M"]
    assert names == ["node", "rank 0 (cores 0)", "rank 1 (cores 1)"]
    pieces = [event for event in trace["traceEvents"] if event["ph"] == "X"]
    assert len(pieces) == 3 * 4 + 3 * 3  # a part of no time is no event
    for thread in (1, 2):
        own = sorted((event["ts"], event["dur"]) for event in pieces if event["tid"] == thread)
        assert sum(duration for _, duration in own) == pytest.approx(300_000)
        for (start, duration), (following, _) in itertools.pairwise(own):
            assert start + duration <= following + 0.01
