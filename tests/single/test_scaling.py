"""From records to speed-up and efficiency: the arithmetic, and what is refused."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from horovod_flowers.config.data import DataConfig
from horovod_flowers.config.run import RunConfig
from horovod_flowers.report.analysis.intervals import Estimate
from horovod_flowers.report.analysis.points import points_of
from horovod_flowers.report.analysis.run_summary import RunSummary, summarise
from horovod_flowers.runlog.json_lines import read_lines
from horovod_flowers.runlog.reading.run import read_run
from horovod_flowers.runlog.records import SCHEMA, Header, StepRecord
from horovod_flowers.runtime.errors import UserError
from tests.single.recorded_runs import write_run


def summary(path: Path) -> RunSummary:
    return summarise(read_run(path))


def value(found: Estimate | None) -> float | None:
    return None if found is None else found.value


WEAK = RunConfig(per_rank_batch=32, threads=1)


def test_an_epoch_takes_as_long_as_its_slowest_rank(tmp_path: Path) -> None:
    write_run(tmp_path / "r", 2, [[9000, 9000], [100, 300], [200, 100], [400, 100]])
    run = read_run(tmp_path / "r")
    # The warm-up step is left out. Rank 0 took 0.7 s, rank 1 0.5 s: the sum of the slower steps, 0.9 s, never passed.
    assert run.timed_seconds == pytest.approx(0.7)
    assert run.median_step_seconds == pytest.approx(0.3)
    assert run.images == 3 * 64


def test_runs_of_another_recipe_or_oversubscribed_have_a_row_of_their_own(tmp_path: Path) -> None:
    write_run(tmp_path / "one", 1, [[1], [400]])
    write_run(tmp_path / "two", 2, [[1, 1], [200, 200]])
    write_run(tmp_path / "long", 2, [[1, 1], [250, 250]], config=RunConfig(global_batch=64, threads=1, epochs=9))
    write_run(tmp_path / "crowded", 2, [[1, 1], [400, 400]], oversubscribed=True)
    points = points_of(summary(path) for path in sorted(tmp_path.iterdir()))
    rows = {point.runs[0].name: (len(point.runs), value(point.speed_up), point.oversubscribed) for point in points}
    assert rows == {
        "one": (1, 1.0, False),
        "two": (1, pytest.approx(2.0), False),
        "long": (1, pytest.approx(1.6), False),
        "crowded": (1, pytest.approx(1.0), True),
    }


def test_totals_are_divided_not_rates_averaged(tmp_path: Path) -> None:
    write_run(tmp_path / "a", 1, [[1], [100]])
    write_run(tmp_path / "b", 1, [[1], [300]])
    (point,) = points_of([summary(tmp_path / "a"), summary(tmp_path / "b")])
    assert point.images_per_second.value == pytest.approx(128 / 0.4)  # the mean of the rates would be 426.7


def test_strong_scaling_speed_up_and_efficiency(tmp_path: Path) -> None:
    write_run(tmp_path / "one", 1, [[1], [400], [400]])
    write_run(tmp_path / "four", 4, [[1, 1, 1, 1], [90, 125, 100, 80], [90, 125, 90, 90]])
    one, four = points_of([summary(tmp_path / "one"), summary(tmp_path / "four")])
    assert (value(one.speed_up), value(one.efficiency)) == (1.0, 1.0)
    assert value(four.speed_up) == pytest.approx(3.2)
    assert value(four.efficiency) == pytest.approx(0.8)


def test_weak_scaling_counts_the_images_that_more_ranks_do(tmp_path: Path) -> None:
    write_run(tmp_path / "one", 1, [[1], [400]], config=WEAK, images_per_step=32)
    write_run(tmp_path / "two", 2, [[1, 1], [500, 400]], config=WEAK, images_per_step=64)
    _, two = points_of([summary(tmp_path / "one"), summary(tmp_path / "two")])
    assert value(two.speed_up) == pytest.approx(1.6)
    assert value(two.efficiency) == pytest.approx(0.8)


def test_one_rank_of_strong_scaling_serves_weak_scaling_too(tmp_path: Path) -> None:
    write_run(tmp_path / "one", 1, [[1], [400]], images_per_step=32)
    write_run(tmp_path / "two", 2, [[1, 1], [400, 400]], config=WEAK, images_per_step=64)
    points = points_of([summary(tmp_path / "one"), summary(tmp_path / "two")])
    assert [value(point.speed_up) for point in points if point.ranks == 2] == [pytest.approx(2.0)]


STRONG = RunConfig(global_batch=64, threads=1)


@pytest.mark.parametrize(
    ("difference", "told"),
    [
        ({"cpu_model": "Other CPU"}, "CPU Other CPU"),
        ({"digest": "e" * 32}, f"data hash {'e' * 32}"),
        ({"gpu": "NVIDIA A100"}, "GPU NVIDIA A100"),
        ({"cpu_features": ["amx_tile"]}, "CPU features amx_tile"),
        ({"hosts": 2}, "nodes 2, ranks per node 1"),
        ({"yield_when_idle": False}, "MPI yields when idle no"),
        ({"commit": "abc"}, "commit abc"),
        ({"horovod_settings": {"HOROVOD_CYCLE_TIME": "5"}}, "HOROVOD_CYCLE_TIME 5"),
        ({"config": replace(STRONG, warmup_steps=1)}, "warmup_steps 1"),
        ({"config": replace(STRONG, average_decay=0.9)}, "average_decay 0.9"),
        ({"config": replace(STRONG, shard_above=10)}, "allreduce above 10"),
        ({"config": replace(STRONG, data=DataConfig(augment=True, crop_size=64))}, "data.crop_size 64"),
    ],
)
def test_runs_that_differ_in_anything_that_may_matter_have_rows_of_their_own(
    tmp_path: Path, difference: dict[str, Any], told: str
) -> None:
    """And the rows say in what."""
    for number in range(3):
        write_run(tmp_path / f"a{number}", 2, [[1, 1], [100, 100]])
        write_run(tmp_path / f"b{number}", 2, [[1, 1], [200, 200]], **difference)
    points = points_of([summary(path) for path in sorted(tmp_path.iterdir())])
    assert [len(point.runs) for point in points] == [3, 3]
    slower = max(points, key=lambda point: point.step_seconds.value)
    assert told in slower.which or told in slower.strategy


@pytest.mark.parametrize("name", ["hosts", "seed", "checkpoint", "stall_seconds"])
def test_what_cannot_matter_does_not_part_runs(tmp_path: Path, name: str) -> None:
    others: dict[str, Any] = {"seed": 5, "checkpoint": False, "stall_seconds": 77}
    config = replace(STRONG, **{name: others[name]}) if name in others else STRONG
    write_run(tmp_path / "a", 2, [[1, 1], [100, 100]])
    write_run(tmp_path / "b", 2, [[1, 1], [200, 200]], config=config)
    (point,) = points_of([summary(path) for path in sorted(tmp_path.iterdir())])
    assert len(point.runs) == 2


def test_a_baseline_on_another_processor_is_named(tmp_path: Path) -> None:
    write_run(tmp_path / "one", 1, [[1], [400]], cpu_model="Other CPU")
    write_run(tmp_path / "two", 2, [[1, 1], [200, 200]])
    of_both = [summary(tmp_path / "one"), summary(tmp_path / "two")]
    (_, two) = points_of(of_both)
    assert two.refusal == "they differ in more than the ranks (CPU: Test CPU against Other CPU)"
    (_, marked) = points_of(of_both, allow_differences=True)
    assert value(marked.speed_up) == pytest.approx(2.0)
    assert marked.unlike == ("CPU: Test CPU against Other CPU",)


@pytest.mark.parametrize(
    "difference",
    [
        {"images_per_step": 32},
        {"digest": "e" * 32},
        {"cpu_model": "Other CPU"},
        {"config": RunConfig(global_batch=64, threads=1, model=RunConfig().model.__class__(name="a.b:c"))},
    ],
)
def test_unlike_work_is_no_baseline(tmp_path: Path, difference: dict[str, object]) -> None:
    write_run(tmp_path / "one", 1, [[1], [400]], **difference)  # type: ignore[arg-type]
    write_run(tmp_path / "two", 2, [[1, 1], [200, 200]])
    points = points_of([summary(tmp_path / "one"), summary(tmp_path / "two")])
    assert [value(point.speed_up) for point in points if point.ranks == 2] == [None]


def test_shares_of_a_step_add_up_to_one(tmp_path: Path) -> None:
    write_run(tmp_path / "r", 2, [[1, 1], [100, 300], [200, 100]])
    shares = read_run(tmp_path / "r").part_shares
    assert sum(shares.values()) == pytest.approx(1)
    assert shares["communication"] == pytest.approx(0.1)


def test_runs_with_gaps_are_refused(tmp_path: Path) -> None:
    steps = [[1, 1], [100, 100], [100, 100]]
    missing_rank = write_run(tmp_path / "missing-rank", 2, steps)
    missing_rank.steps(1).unlink()
    with pytest.raises(UserError, match="step records of 1 of 2 ranks"):
        read_run(missing_rank.path)
    truncated = write_run(tmp_path / "truncated", 2, steps)
    truncated.steps(1).write_bytes(truncated.steps(1).read_bytes()[:-20])
    with pytest.raises(UserError, match="step records have gaps"):
        read_run(truncated.path)
    damaged = write_run(tmp_path / "damaged", 2, steps)
    damaged.steps(0).write_bytes(damaged.steps(0).read_bytes().replace(b'"total_ns":1', b'"total_ns":"x"', 1))
    with pytest.raises(UserError, match=r"rank-00000.jsonl, line 2, is damaged"):
        read_run(damaged.path)
    unfinished = write_run(tmp_path / "unfinished", 2, steps)
    unfinished.result.unlink()
    with pytest.raises(UserError, match="^unfinished$"):
        read_run(unfinished.path)
    newer = write_run(tmp_path / "newer", 2, steps)
    newer.result.write_text(newer.result.read_text().replace(f'"schema": {SCHEMA}', '"schema": 99'))
    with pytest.raises(UserError, match="run-log schema 99, this version reads"):
        read_run(newer.path)


def test_all_warm_up_is_refused(tmp_path: Path) -> None:
    write_run(tmp_path / "r", 1, [[1]])
    with pytest.raises(UserError, match="all of its 1 steps are warm-up"):
        read_run(tmp_path / "r")


def test_a_repeated_step_counts_as_the_resumed_run_did_it(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "r", 1, [[1], [100], [100]])
    *before, last = folder.steps(0).read_bytes().splitlines(keepends=True)
    again = last.replace(b'_ns":90000000', b'_ns":690000000').replace(b'"total_ns":100000000', b'"total_ns":700000000')
    assert len(again) == len(last) + 1
    folder.steps(0).write_bytes(b"".join([*before, last, before[0], again]))
    assert read_run(folder.path).timed_seconds == pytest.approx(0.8)
    records = list(read_lines(folder.steps(0), Header | StepRecord))
    assert len(records) == 6


def test_a_run_continued_with_other_ranks_is_refused(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "r", 2, [[1, 1], [100, 100]])
    file = folder.steps(0)
    file.write_bytes(file.read_bytes().replace(b'"size":2', b'"size":4', 1))
    with pytest.raises(UserError, match="continued with 2 ranks after 4"):
        read_run(folder.path)
