"""Single runs are always there: their table, their steps, and whether the machine drifted while they were made."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from horovod_flowers.report.__main__ import main, read_runs
from horovod_flowers.report.analysis.drift import Drift, drift_of, likeness
from horovod_flowers.report.analysis.points import points_of, series_of
from horovod_flowers.report.analysis.provenance import provenance_of
from horovod_flowers.report.analysis.rank_times import shown_in_detail
from horovod_flowers.report.pages.narrow_tables import with_column_names
from horovod_flowers.report.pages.single_runs import timed_steps_words
from horovod_flowers.report.pages.wording import listed
from tests.single.recorded_runs import write_run


def write(folder: Path, step_ms: Sequence[int], ranks: Sequence[int] = (1,), hours: bool = True) -> None:
    """Runs of one point for each number of ranks in turn, an hour apart, with these milliseconds a step."""
    for number, milliseconds in enumerate(step_ms):
        size, hour = ranks[number % len(ranks)], number if hours else 0
        write_run(
            folder / f"run{number:03}",
            size,
            [[milliseconds // size] * size] * 4,
            started_utc=f"2026-01-{1 + hour // 24:02}T{hour % 24:02}:00:00+00:00",
        )


def drift(folder: Path) -> Drift:
    found = drift_of(points_of(read_runs([folder])[0]))
    assert found is not None
    return found


def test_a_drift_over_all_rows_is_told(tmp_path: Path) -> None:
    """Each row for itself has too few runs to tell."""
    write(tmp_path, [400 + 4 * number for number in range(15)], ranks=(1, 2, 4))
    found = drift(tmp_path)
    assert [start.seconds for start in found.starts] == [3600.0 * number for number in range(15)]
    assert found.change == pytest.approx(-0.09, abs=0.02)
    assert " % slower than the first" in found.sentence
    for row in range(3):
        assert np.median([start.relative for start in found.starts[row::3]]) == pytest.approx(1)


def test_a_machine_that_was_slow_for_a_while_is_told(tmp_path: Path) -> None:
    """As slow at the end as at the beginning: no trend."""
    noise = np.random.default_rng(1).integers(-8, 9, 36)
    write(tmp_path, [800 + int(more) + (120 if 12 <= number < 24 else 0) for number, more in enumerate(noise)])
    found = drift(tmp_path)
    assert found.change is None
    assert found.span is not None
    assert found.span[1] / found.span[0] == pytest.approx(920 / 800, rel=0.02)
    assert found.sentence.startswith("the machine's speed changed while the runs were made")


def test_chance_is_no_drift(tmp_path: Path) -> None:
    generator = np.random.default_rng(7)
    write(tmp_path, [int(800 * factor) for factor in generator.normal(1, 0.05, 36)])
    assert not drift(tmp_path).seen
    # The probability is one: its share below a level is the level.
    found = np.array([likeness(generator.normal(1, 0.05, 42).tolist()) for _ in range(2000)])
    assert (found < 0.05).mean() == pytest.approx(0.05, abs=0.02)


def test_runs_that_say_nothing_of_their_starts_have_no_picture(tmp_path: Path) -> None:
    write(tmp_path, [400, 410, 420, 430], hours=False)
    assert drift_of(points_of(read_runs([tmp_path])[0])) is None


def test_every_run_is_in_the_table_and_in_the_pictures(tmp_path: Path) -> None:
    write(tmp_path / "runs", [400, 410, 420, 430, 440, 450], ranks=(1, 2))
    options = ["--format", "html,md,pictures"]
    main(["--runs-dir", str(tmp_path / "runs"), "--output", str(tmp_path / "report"), *options])
    page = (tmp_path / "report" / "index.html").read_text()
    assert len(re.findall(r'<td class="name" data-label="run">run\d{3}</td>', page)) == 6
    assert (
        '<td data-label="started (UTC)">2026-01-01 03:00:00</td><td class="n" data-label="timed steps">3</td>' in page
    )
    assert '<td class="n" data-label="timed steps per run">3</td>' in page
    assert page.count("<source media=") == page.count("<picture>") > 4
    assert '<img src="data:image/svg+xml' in page
    text = (tmp_path / "report" / "report.md").read_text()
    assert "| run003 | allreduce, strong, batch 64, fp32 | 2 | 2026-01-01 03:00:00 | 3 | 0.645 | 0.215 |" in text
    assert (tmp_path / "report" / "pictures" / "drift.png").stat().st_size > 5_000


def test_steps_are_told_where_runs_have_unequal_numbers(tmp_path: Path) -> None:
    for number, steps in enumerate((3, 5)):
        write_run(tmp_path / f"{number}", 1, [[100]] * steps)
    (point,) = points_of(read_runs([tmp_path])[0])
    assert timed_steps_words(point) == "2 to 4"


def test_what_is_drawn_in_detail_is_a_measure_of_speed(tmp_path: Path) -> None:
    for ranks in (1, 2, 4):
        write_run(tmp_path / f"{ranks}", ranks, [[100] * ranks] * 3, oversubscribed=ranks == 4)
    assert [point.ranks for point in shown_in_detail(series_of(points_of(read_runs([tmp_path])[0])))] == [2]
    (tmp_path / "1").rename(tmp_path / "alone")
    only = tmp_path / "only"
    only.mkdir()
    (tmp_path / "4").rename(only / "4")
    assert [point.ranks for point in shown_in_detail(series_of(points_of(read_runs([only])[0])))] == [4]


def test_each_node_is_told_once_with_its_ranks(tmp_path: Path) -> None:
    write_run(tmp_path / "one", 1, [[100]] * 3)
    write_run(tmp_path / "four", 4, [[100] * 4] * 3, hosts=2)
    varied = provenance_of(read_runs([tmp_path])[0]).varied
    assert varied["hosts"] == ["node (1 or 2 ranks)", "node1 (2 ranks)"]
    assert listed(["a, b", "c"]) == "a, b; c"


def test_cells_know_their_columns() -> None:
    table = (
        '<table><thead><tr><th>a</th><th class="n">b &amp; c</th><th>d</th></tr></thead><tbody>'
        '<tr><td>1</td><td class="n">2</td><td>3</td></tr><tr><td>1</td><td colspan="2">why</td></tr></tbody></table>'
    )
    assert with_column_names(table).partition("<tbody>")[2] == (
        '<tr><td data-label="a">1</td><td class="n" data-label="b &amp; c">2</td><td data-label="d">3</td></tr>'
        '<tr><td data-label="a">1</td><td colspan="2">why</td></tr></tbody></table>'
    )
