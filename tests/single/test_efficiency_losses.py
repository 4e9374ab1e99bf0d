"""The waterfall: each lost percent goes to what made it, and all of them add up."""

from pathlib import Path

import pytest

from horovod_flowers.config.run import RunConfig
from horovod_flowers.report.analysis.efficiency_losses import (
    CAUSES,
    EfficiencyLosses,
    efficiency_losses_of,
    without_communication_of,
)
from horovod_flowers.report.analysis.points import Point, points_of
from horovod_flowers.report.analysis.run_summary import summarise
from horovod_flowers.runlog.reading.run import read_run
from tests.single.recorded_runs import write_run

WARM_UP = (0, 9, 0, 0)
ALONE = (2, 360, 0, 40)
"""Milliseconds of one rank: input wait, compute, communication, update; 402 in all, so that ideal on two is 201."""


def losses(folder: Path, ranks: int = 2) -> EfficiencyLosses:
    points = read(folder)
    (point,) = (point for point in points if point.ranks == ranks and point.strategy == "allreduce")
    found = efficiency_losses_of(point, without_communication_of(point, points))
    assert found is not None
    return found


def read(folder: Path) -> list[Point]:
    return points_of(summarise(read_run(path)) for path in sorted(folder.iterdir()))


def write_pair(folder: Path, one: tuple[int, int, int, int], other: tuple[int, int, int, int]) -> None:
    write_run(folder / "alone", 1, [[WARM_UP], [ALONE], [ALONE]])
    write_run(folder / "two", 2, [[WARM_UP, WARM_UP], [one, other], [one, other]])


def test_ideal_scaling_loses_nothing(tmp_path: Path) -> None:
    write_pair(tmp_path, (1, 180, 0, 20), (1, 180, 0, 20))
    found = losses(tmp_path)
    assert found.efficiency == pytest.approx(1)
    assert [found.shares[cause] for cause in CAUSES if cause != "contention"] == pytest.approx([0] * 5)


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        # Beyond (1, 180, 0, 20): 49 ms of input, of communication, of update (so that a step takes 250), ...
        (((50, 180, 0, 20),) * 2, {"input": 49 / 250}),
        (((1, 180, 49, 20),) * 2, {"communication": 49 / 250}),
        (((1, 180, 0, 69),) * 2, {"update": 49 / 250}),
        (((1, 229, 0, 20),) * 2, {"rest": 49 / 250}),
        # One rank computes 40 ms longer and the other waits for it: half of the ranks' time is the wait, and half of
        # it computing that is not in the ideal. Of 49 ms in communication, 9 are not waiting.
        (((1, 180, 49, 20), (1, 220, 9, 20)), {"imbalance": 20 / 250, "communication": 9 / 250, "rest": 20 / 250}),
        # A divided update is a gain.
        (((1, 180, 59, 10),) * 2, {"communication": 59 / 250, "update": -10 / 250}),
    ],
)
def test_each_loss_goes_to_its_cause(
    tmp_path: Path, steps: tuple[tuple[int, int, int, int], ...], expected: dict[str, float]
) -> None:
    write_pair(tmp_path, *steps)
    found = losses(tmp_path)
    assert found.efficiency == pytest.approx(201 / 250)
    for cause in CAUSES:
        share = found.shares[cause]
        if cause == "contention":
            assert share is None  # nobody ran strategy none: it cannot be told from the rest
        else:
            assert share == pytest.approx(expected.get(cause, 0), abs=1e-9), cause
    assert found.total == pytest.approx(1)


def test_contention_is_what_ranks_lose_that_do_not_communicate(tmp_path: Path) -> None:
    write_pair(tmp_path, (1, 219, 10, 20), (1, 219, 10, 20))
    config = RunConfig(global_batch=64, threads=1, strategy="none")
    step = (1, 209, 0, 20)
    write_run(tmp_path / "none", 2, [[WARM_UP] * 2, [step] * 2], config=config, accuracy=None)
    found = losses(tmp_path)
    assert found.shares["contention"] == pytest.approx(29 / 250)
    assert found.shares["rest"] == pytest.approx(10 / 250)
    assert found.total == pytest.approx(1)


def test_ranks_out_of_step_lose_their_skew_to_the_rest(tmp_path: Path) -> None:
    """Rank 0 takes 250 ms in one step and rank 1 in the other, and neither waits: 10 ms are lost at the epoch's end."""
    write_run(tmp_path / "alone", 1, [[WARM_UP], [ALONE], [ALONE]])
    slow, quick, longer = (1, 229, 0, 20), (1, 180, 0, 20), (1, 239, 0, 20)
    write_run(tmp_path / "two", 2, [[WARM_UP] * 2, [slow, quick], [quick, longer]])
    found = losses(tmp_path)
    # Elapsed: rank 1's 461 ms for two steps; both ranks' mean is 456.
    assert found.efficiency == pytest.approx(402 / 461)
    assert found.shares["rest"] == pytest.approx((229 + 180 + 180 + 239) / 2 / 461 - 360 / 461 + 5 / 461)
    assert found.total == pytest.approx(1)


def test_the_sum_is_one_whatever_the_records_say(tmp_path: Path) -> None:
    write_run(tmp_path / "alone", 1, [[WARM_UP], [(3, 350, 0, 41)], [(9, 370, 0, 30)]])
    rows = [[(7, 100 + 13 * step, 5 * rank, 9 + rank) for rank in range(4)] for step in range(5)]
    write_run(tmp_path / "four", 4, [[WARM_UP] * 4, *rows])
    found = losses(tmp_path, 4)
    assert found.total == pytest.approx(1)
    points = read(tmp_path)
    assert points[-1].efficiency is not None
    assert found.efficiency == pytest.approx(points[-1].efficiency.value)


def test_weak_scaling_divides_the_same_way(tmp_path: Path) -> None:
    weak = RunConfig(per_rank_batch=32, threads=1)
    write_run(tmp_path / "alone", 1, [[WARM_UP], [ALONE]], config=weak, images_per_step=32)
    step = (2, 360, 98, 40)
    write_run(tmp_path / "two", 2, [[WARM_UP] * 2, [step] * 2], config=weak, images_per_step=64)
    found = losses(tmp_path)
    assert found.efficiency == pytest.approx(402 / 500)
    assert found.shares["communication"] == pytest.approx(98 / 500)


def test_a_point_without_baseline_has_no_losses(tmp_path: Path) -> None:
    write_run(tmp_path / "two", 2, [[1, 1], [250, 250]])
    (point,) = read(tmp_path)
    assert efficiency_losses_of(point, None) is None
