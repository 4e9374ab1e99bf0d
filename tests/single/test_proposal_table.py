"""The table for allocation proposals: figures worked out by hand, what is missing, and each format read back."""

import csv
import json
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from horovod_flowers.config.command_line import to_yaml
from horovod_flowers.config.optimizer import OptimizerConfig
from horovod_flowers.config.run import RunConfig
from horovod_flowers.config.script import ScriptConfig
from horovod_flowers.report.__main__ import main
from horovod_flowers.report.analysis.allocation import cores_of
from horovod_flowers.report.analysis.points import points_of, series_of
from horovod_flowers.report.analysis.proposal_table import ProposalTable, proposal_table_of
from horovod_flowers.report.analysis.run_summary import RunSummary, summarise
from horovod_flowers.report.pages import latex
from horovod_flowers.report.pages.proposal_table import text_tables
from horovod_flowers.report.pages.proposal_values import plain_row
from horovod_flowers.report.pages.significant import digits_for, rounded_to, significant
from horovod_flowers.runlog.reading.run import read_run
from horovod_flowers.runlog.records import Environment, RankEnvironment
from horovod_flowers.runlog.resources import Resources
from horovod_flowers.runlog.run_folder import RunFolder
from tests.conftest import PROJECT, Ended
from tests.single.recorded_runs import write_run

GIB = 2**30
PDFLATEX = shutil.which("pdflatex")


def resources(wall_seconds: Sequence[float], **others: Any) -> Resources:
    found: dict[str, Any] = {
        "steps_before": 0, "gpu_peak_bytes": None, "checkpoints": 2, "checkpoint_bytes": 3 * GIB,
        "checkpoint_write_seconds": 5.0, "last_checkpoint_wait_seconds": 0.5, "data_bytes": 7 * GIB,
    }  # fmt: skip
    return Resources(wall_seconds=list(wall_seconds), **(found | others))


def write(folder: Path, ranks: int, step: int, nodes: int = 1, wall: float = 36.0, name: str = "", **more: Any) -> None:
    """A run of one warm-up step and one of so many milliseconds. A rank's peak is as many GiB as its number, from 1."""
    more.setdefault("resources", resources([wall - 1] * (ranks - 1) + [wall]))
    more.setdefault("node_cores", 8)
    peaks = [(rank + 1) * GIB for rank in range(ranks)]
    steps = [[9] * ranks, [step] * ranks]
    write_run(folder / (name or f"{ranks}-on-{nodes}"), ranks, steps, hosts=nodes, peak_memory_bytes=peaks, **more)


def over_nodes(folder: Path) -> None:
    """1 and 2 ranks on a node, 4 on two, 8 on four of 8 cores each."""
    for ranks, step, nodes, wall in ((1, 800, 1, 81.0), (2, 420, 1, 54.0), (4, 220, 2, 27.0), (8, 120, 4, 18.0)):
        write(folder, ranks, step, nodes, wall)


def read(folder: Path) -> list[RunSummary]:
    return [summarise(read_run(path)) for path in sorted(folder.iterdir())]


def tables_of(folder: Path, planned_runs: int | None = None, baseline: str | None = None) -> list[ProposalTable]:
    series = series_of(points_of(read(folder), baseline))
    made = [proposal_table_of(each, 0.75, planned_runs, baseline is not None) for each in series]
    return [table for table in made if table is not None]


def cells(table: ProposalTable, part: int) -> list[dict[str, str]]:
    text = text_tables(table)[part]
    return [dict(zip(text.columns, row, strict=True)) for row in text.rows]


def notes(table: ProposalTable) -> str:
    return "\n".join(note for text in text_tables(table) for note in text.notes)


def test_one_full_node_is_the_reference_and_hours_are_by_each_rule(tmp_path: Path) -> None:
    over_nodes(tmp_path)
    (table,) = tables_of(tmp_path, planned_runs=250)
    assert [(row.nodes, row.point.ranks, row.is_reference) for row in table.rows] == [
        (1, 2, True), (2, 4, False), (4, 8, False)
    ]  # fmt: skip
    two, four, eight = table.rows
    assert table.reference is two
    assert table.part_of_node == (1,)  # a part of the node that the others are compared with
    found = [row.speed_up for row in table.rows]
    assert [None if each is None else each.value for each in found] == pytest.approx([1, 420 / 220, 420 / 120])
    efficiencies = [row.efficiency for row in table.rows]
    assert [None if each is None else each.value for each in efficiencies] == pytest.approx([1, 21 / 22, 3.5 / 4])
    assert [row.ideal for row in table.rows] == [1, 2, 4]
    assert eight.wall_seconds == 18
    assert eight.training_seconds == pytest.approx(0.129)
    # 8 ranks of one thread on 4 nodes of 8 cores, 18 s.
    hours = eight.hours
    assert (hours.core_hours, hours.whole_node_core_hours) == pytest.approx((8 * 18 / 3600, 32 * 18 / 3600))
    assert hours.node_hours == pytest.approx(4 * 18 / 3600)
    assert hours.gpu_hours is None
    assert hours.times(250).node_hours == pytest.approx(5)
    assert (eight.memory_per_rank_bytes, eight.memory_per_node_bytes) == (8 * GIB, 15 * GIB)  # of ranks 6 and 7
    assert four.memory_per_node_bytes == 7 * GIB
    assert cells(table, 0)[2] == {
        "nodes": "4", "ranks": "8", "ranks per node": "2", "threads per rank": "1", "cores": "8", "runs": "1",
        "wall time, s": "18.0", "training, s": "0.129", "ideal": "4", "speed-up": "3.50", "efficiency": "0.88",
    }  # fmt: skip
    assert cells(table, 1)[2] == {
        "nodes": "4", "ranks": "8", "memory per rank, GiB": "8.00", "memory per node, GiB": "15.0",
        "checkpoints": "2", "their size, GiB": "3.00", "writing them, s": "5.00", "waiting for them, s": "0.500",
        "data set, GiB": "7.00", "waiting for batches, s": "0.00",
    }  # fmt: skip
    assert cells(table, 2)[2] == {
        "nodes": "4", "ranks": "8", "cores": "8", "cores of the nodes": "32", "wall time, s": "18.0",
        "core-h": "0.0400", "core-h, whole nodes": "0.160", "node-h": "0.0200",
        "core-h of 250 runs": "10.00", "core-h, whole nodes of 250 runs": "40.00", "node-h of 250 runs": "5.000",
    }  # fmt: skip
    said = notes(table)
    assert "Reference (speed-up 1): 2 ranks on 1 node, 1 run; the report's other figures are against 1 rank\n" in said
    assert "Not in this table, since on a part of the reference's nodes: 1 rank" in said


def test_several_ranks_on_one_machine_are_one_node(tmp_path: Path) -> None:
    write(tmp_path, 1, 400, wall=90, node_cores=2)
    write(tmp_path, 2, 250, wall=60, node_cores=2)
    (table,) = tables_of(tmp_path)
    assert [(row.nodes, row.point.ranks, row.ideal) for row in table.rows] == [(1, 1, 1), (1, 2, 2)]
    assert table.rows[1].hours.node_hours == pytest.approx(60 / 3600)
    assert "Measured on 1 node only: nothing is said of more nodes" in notes(table)
    assert "Reference (speed-up 1): 1 rank on 1 node, 1 run\n" in notes(table)
    assert list(cells(table, 2)[1]) == [
        "nodes", "ranks", "cores", "cores of the nodes", "wall time, s", "core-h", "core-h, whole nodes",
        "node-h",
    ]  # fmt: skip


def test_whole_nodes_are_told_once_where_ranks_take_them_all(tmp_path: Path) -> None:
    write(tmp_path, 1, 400, node_cores=1)
    write(tmp_path, 2, 250, node_cores=1, nodes=2)
    (table,) = tables_of(tmp_path)
    assert "core-h, whole nodes" not in cells(table, 2)[0]
    assert "a site that charges whole nodes charges the same" in notes(table)


def test_the_smallest_number_of_nodes_that_fits_is_named(tmp_path: Path) -> None:
    write(tmp_path, 4, 220, 2)
    write(tmp_path, 8, 120, 4)
    (table,) = tables_of(tmp_path)  # nothing was run on one node
    assert table.reference is not None
    assert (table.reference.nodes, table.rows[1].ideal) == (2, 2)
    assert "Reference (speed-up 1): 4 ranks on 2 nodes, 1 run, the fewest nodes that were run\n" in notes(table)
    (table,) = tables_of(tmp_path, baseline="4-*")
    assert table.rows[1].speed_up is not None
    assert table.rows[1].speed_up.value == pytest.approx(220 / 120)
    assert "4 ranks on 2 nodes, 1 run, as --baseline says\n" in notes(table)


def test_without_a_reference_there_is_no_ratio_and_why(tmp_path: Path) -> None:
    write(tmp_path, 2, 250)
    write(tmp_path, 4, 150)
    (table,) = tables_of(tmp_path)
    assert table.reference is None
    assert [(row["ideal"], row["speed-up"], row["efficiency"]) for row in cells(table, 0)] == [("–", "–", "–")] * 2
    assert [row["wall time, s"] for row in cells(table, 0)] == ["36.0", "36.0"]  # what was measured stays
    assert "No reference, and so no speed-up: run the work on one rank, or on one node, or name" in notes(table)


def test_no_ratio_over_another_processor(tmp_path: Path) -> None:
    write(tmp_path, 2, 420)
    write(tmp_path, 4, 220, 2)
    write(tmp_path, 8, 120, 4, cpu_model="Another CPU")
    series = series_of(points_of(read(tmp_path)))
    assert len(series) == 1
    table = proposal_table_of(series[0], 0.75)
    assert table is not None
    assert [row.speed_up is None for row in table.rows] == [False, False, True]
    assert "No speed-up of 8 ranks: they differ in more than the ranks (CPU: Another CPU against Test CPU)" in notes(
        table
    )


def test_weak_scaling_has_a_table_of_its_own(tmp_path: Path) -> None:
    config = RunConfig(per_rank_batch=32, threads=1)
    for ranks, step, nodes in ((1, 400, 1), (2, 450, 2)):
        write(tmp_path, ranks, step, nodes, config=config, images_per_step=32 * ranks)
    write(tmp_path, 1, 800, name="strong1")
    write(tmp_path, 2, 420, name="strong2")
    strong, weak = sorted(tables_of(tmp_path), key=lambda table: table.rows[1].point.scaling)
    assert (strong.rows[1].point.scaling, weak.rows[1].point.scaling) == ("strong", "weak")
    assert weak.rows[1].efficiency is not None
    assert weak.rows[1].efficiency.value == pytest.approx(400 / 450)
    assert text_tables(weak)[0].caption == (
        "Weak scaling of training flower_cnn (allreduce, batch 32 per rank, fp32) on Test CPU: scaling"
    )
    assert "Weak scaling: the batch per rank is held, and as many epochs take fewer steps on more ranks" in notes(weak)
    assert "Weak scaling" not in notes(strong)


def test_one_rank_of_strong_scaling_serves_weak_scaling_too(tmp_path: Path) -> None:
    write(tmp_path, 1, 400, config=RunConfig(global_batch=32, threads=1), images_per_step=32)
    config = RunConfig(per_rank_batch=32, threads=1)
    write(tmp_path, 2, 500, config=config, images_per_step=64)
    (table,) = tables_of(tmp_path)
    rows = [plain_row(table, row) for row in table.rows]
    assert [(row["scaling"], row["batch"], row["is_reference"]) for row in rows] == [
        ("weak", 32, True), ("weak", 32, False)
    ]  # fmt: skip
    assert rows[1]["efficiency"] == pytest.approx(0.8)


def test_what_earlier_versions_and_resumed_runs_lack_stays_blank(tmp_path: Path) -> None:
    write(tmp_path, 1, 400, resources=None, node_cores=None)
    write(tmp_path, 2, 250, resources=resources([20, 21], steps_before=7))
    (table,) = tables_of(tmp_path, planned_runs=3)
    for row in cells(table, 2):
        assert [row["wall time, s"], row["core-h"], row["node-h"], row["node-h of 3 runs"]] == ["–"] * 4
    assert [row["cores of the nodes"] for row in cells(table, 2)] == ["–", "8"]
    assert [row["their size, MiB"] for row in cells(table, 1)] == ["–", "–"]
    assert [row["data set, GiB"] for row in cells(table, 1)] == ["–", "7.00"]
    assert [row["training, s"] for row in cells(table, 0)] == ["0.409", "0.259"]
    said = notes(table)
    earlier = "an earlier version, which did not record it, made the runs"
    resumed = "the runs were resumed, and what their earlier jobs took is not recorded"
    assert f"Not known: wall time, and so hours (1 rank): {earlier}\n" in said
    assert f"Not known: wall time, and so hours (2 ranks): {resumed}\n" in said
    assert f"Not known: checkpoints (2 ranks): {resumed}\n" in said
    assert f"Not known: size of the data set (1 rank): {earlier}\n" in said
    assert "Not known: size of the data set (2 ranks)" not in said
    assert f"Not known: cores of whole nodes (1 rank): {earlier}" in said


def test_medians_are_of_the_runs_that_have_a_figure_and_that_is_said(tmp_path: Path) -> None:
    write(tmp_path, 1, 400)
    for number, wall in enumerate((30.0, 50.0, 40.0)):
        write(tmp_path, 2, 250, wall=wall, name=f"two{number}")
    write(tmp_path, 2, 250, name="two3", resources=None)
    (table,) = tables_of(tmp_path)
    assert table.rows[1].wall_seconds == 40
    assert "Not known: wall time, and so hours (2 ranks in 1 of 4 runs): an earlier version" in notes(table)


def test_what_a_script_does_not_tell_stays_blank(tmp_path: Path) -> None:
    for ranks, step in ((1, 400), (2, 250)):
        own = Resources(wall_seconds=[36.0] * ranks, steps_before=0, gpu_peak_bytes=None)
        write(tmp_path, ranks, step, name=f"script-{ranks}", resources=own)
        folder = RunFolder(tmp_path / f"script-{ranks}")
        config = ScriptConfig(command="python train.py", name=f"script-{ranks}", global_batch=64, threads=1)
        folder.config.write_text(to_yaml(config))
        result = json.loads(folder.result.read_text())
        result |= {"data_digest": None, "training_images": None, "validation_images": None}
        folder.result.write_text(json.dumps(result))
    (table,) = tables_of(tmp_path)
    assert text_tables(table)[0].caption.startswith("Strong scaling of training a model of 10 parameters (allreduce, ")
    assert [row["node-h"] for row in cells(table, 2)] == ["0.0100", "0.0100"]
    row = cells(table, 1)[1]
    assert [row[name] for name in ("checkpoints", "their size, MiB", "data set, MiB")] == ["–", "–", "–"]
    assert "Not known: checkpoints (1 rank, 2 ranks): a script does not tell it\n" in notes(table)
    assert "Not known: size of the data set (1 rank, 2 ranks): a script does not tell it" in notes(table)


def test_nothing_written_is_0_and_not_missing(tmp_path: Path) -> None:
    none = {"checkpoints": 0, "checkpoint_bytes": 0, "checkpoint_write_seconds": 0.0, "last_checkpoint_wait_seconds": 0}
    for ranks, step in ((1, 400), (2, 250)):
        write(tmp_path, ranks, step, resources=resources([9.0] * ranks, **none))
    (table,) = tables_of(tmp_path)
    row = cells(table, 1)[1]
    assert (row["checkpoints"], row["their size, MiB"], row["waiting for them, s"]) == ("0", "0", "0.00")


def test_gpus_have_columns_where_there_are_any(tmp_path: Path) -> None:
    write(tmp_path, 1, 400, gpu="Test GPU", resources=resources([36.0], gpu_peak_bytes=[4 * GIB]))
    taken = resources([17.0, 18.0], gpu_peak_bytes=[2 * GIB, 3 * GIB])
    write(tmp_path, 2, 250, gpu="Test GPU", resources=taken)
    (table,) = tables_of(tmp_path, planned_runs=100)
    assert (cells(table, 0)[1]["GPUs"], cells(table, 1)[1]["GPU memory per rank, GiB"]) == ("2", "3.00")
    assert (cells(table, 2)[1]["GPU-h"], cells(table, 2)[1]["GPU-h of 100 runs"]) == ("0.0100", "1.000")
    assert "on Test CPU and Test GPU" in text_tables(table)[0].caption


def test_ranks_that_shared_cores_are_in_no_row(tmp_path: Path) -> None:
    write(tmp_path, 1, 400)
    write(tmp_path, 2, 250)
    write(tmp_path, 4, 100, oversubscribed=True)
    (table,) = tables_of(tmp_path)
    assert [row.point.ranks for row in table.rows] == [1, 2]
    assert "Not in this table, since ranks shared cores, no measure of speed: 4 ranks" in notes(table)


def test_ranks_that_do_not_communicate_make_no_table(tmp_path: Path) -> None:
    write(tmp_path, 1, 400)
    write(tmp_path, 2, 250, config=RunConfig(global_batch=64, threads=1, strategy="none"))
    assert tables_of(tmp_path) == []


def test_times_are_of_the_runs_that_trained_alike(tmp_path: Path) -> None:
    """A baseline of another recipe gives the cost of a step, but no wall time of this training."""
    config = RunConfig(global_batch=64, threads=1, optimizer=OptimizerConfig(learning_rate=0.5))
    write(tmp_path, 1, 400, config=config)
    write(tmp_path, 2, 250)
    (table,) = tables_of(tmp_path)
    assert table.rows[1].speed_up is not None
    assert [row["wall time, s"] for row in cells(table, 0)] == ["–", "36.0"]
    assert "No times of 1 rank: none of these runs trained by the recipe of the others" in notes(table)


def test_doubts_and_unequal_trainings_are_told(tmp_path: Path) -> None:
    write(tmp_path, 1, 400)
    write_run(tmp_path / "two", 2, [[9, 9], [150, 150], [150, 150]], resources=resources([9.0, 9.0]))
    (table,) = tables_of(tmp_path)
    assert "Doubtful: 2 ranks: a parallel efficiency of 1.33 is above the ideal" in notes(table)
    assert "These runs trained on 128 to 192 images in all: their wall times are not of equal trainings" in notes(table)


def rank_on(host: str, cores: Sequence[int], physical: int, threads: int) -> RankEnvironment:
    return RankEnvironment(
        rank=0, local_rank=0, local_size=1, host=host, cores=list(cores), physical_cores=physical, threads=threads,
        oversubscribed=False, gpu=None,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("ranks", "cores"),
    [
        ([("a", [0, 1], 2, 2), ("a", [2, 3], 2, 2)], 4),
        ([("a", range(8), 8, 2), ("a", range(8), 8, 2)], 4),  # not bound: ranks x threads
        ([("a", range(8), 8, 8), ("a", range(8), 8, 8)], 8),  # not bound: no core twice
        ([("a", range(16), 8, 16)], 8),  # a thread on each hyperthread
        ([("a", range(16), 8, 8), ("a", range(16), 8, 8)], 8),
        ([("a", [0], 1, 1), ("b", [0], 1, 1)], 2),  # cores of two nodes have the same numbers
        ([("a", [0], 1, 1), ("a", [0], 1, 1)], 1),
    ],
)
def test_a_core_counts_once_whoever_may_run_on_it(
    tmp_path: Path, ranks: list[tuple[str, Sequence[int], int, int]], cores: int
) -> None:
    write(tmp_path, 1, 400)
    (run,) = read(tmp_path)
    environment = msgspec.structs.replace(run.environment, ranks=[rank_on(*each) for each in ranks])
    assert isinstance(environment, Environment)
    object.__setattr__(run, "environment", environment)
    assert cores_of(run) == cores


def calculated(value: float, digits: int) -> Decimal:
    """Rounded half up from the ten digits that a calculator shows."""
    shown = Decimal(f"{value:.9e}")
    return shown.quantize(Decimal(1).scaleb(shown.adjusted() - digits + 1), ROUND_HALF_UP)


@settings(deadline=None, max_examples=200)
@example(wall=1.0, cores=1, nodes=65, planned=1638)  # 29.575: half-way
@given(
    wall=st.floats(1, 1e6), cores=st.integers(1, 100_000), nodes=st.integers(1, 1000), planned=st.integers(1, 10_000)
)
def test_what_a_reader_works_out_by_hand_is_what_is_shown(wall: float, cores: int, nodes: int, planned: int) -> None:
    for count in (cores, nodes):
        hours = count * wall / 3600
        digits = digits_for(hours, [(planned, 4)])
        shown_hours = float(significant(hours, digits))
        assert float(calculated(shown_hours * planned, 4)) == rounded_to(hours * planned, 4)
        shown_wall = float(significant(wall, digits_for(wall, [(count / 3600, digits)])))
        assert float(calculated(shown_wall * count / 3600, digits)) == rounded_to(hours, digits)


def test_the_documented_example_is_made_as_documented(tmp_path: Path) -> None:
    over_nodes(tmp_path)
    (table,) = tables_of(tmp_path, planned_runs=250)
    documented = (PROJECT / "docs" / "report.md").read_text()
    for text in (text_tables(table)[0], text_tables(table)[2]):
        lines = [f"| {' | '.join(line)} |\n" for line in (text.columns, *text.rows)]
        lines.insert(1, f"|{'--:|' * len(text.columns)}\n")
        assert "".join(lines) in documented
    assert "\n".join(f"- {note}" for note in text_tables(table)[0].notes) in documented


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0.00"), (9.999, "10.0"), (0.000123456, "0.000123"), (123456.7, "123457"), (1.0, "1.00")]
)
def test_three_digits_without_exponent(value: float, text: str) -> None:
    assert significant(value) == text


def test_speed_up_has_the_digits_that_give_the_efficiency(tmp_path: Path) -> None:
    """0.745 beside a threshold of 0.75: neither is rounded up to it."""
    write(tmp_path, 1, 1000)
    write(tmp_path, 4, 335)
    (table,) = tables_of(tmp_path)
    row = cells(table, 0)[1]
    assert row["efficiency"] == "0.746"  # 1000 / 335 / 4 = 0.7463
    assert round(float(row["speed-up"]) / float(row["ideal"]), 3) == 0.746


HOSTILE = r"evil \input{x} $a_b^c$ 50% #1 & {z} ~ <tag> | -- ?` 'q' ''w'' 中文 ü `t` \\ [2pt]"


def report(folder: Path, output: Path, *words: str) -> None:
    main(["--runs-dir", str(folder), "--output", str(output), "--format", "proposal,json", *words])


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tmp_path = tmp_path_factory.mktemp("written")
    over_nodes(tmp_path / "runs")
    for number in range(6):
        write(tmp_path / "runs", 2, 300 + number, 1, 44.5, name=f"tensor{number}", cpu_model=HOSTILE,
              config=RunConfig(global_batch=64, threads=1, strategy="tensor"))  # fmt: skip
        write(tmp_path / "runs", 1, 500 + number, 1, 99.5, name=f"alone{number}", cpu_model=HOSTILE)
    report(tmp_path / "runs", tmp_path / "report", "--planned-runs", "12")
    return tmp_path / "report"


def test_every_format_has_the_same_figures(written: Path) -> None:
    with open(written / "proposal.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 5
    eight = next(row for row in rows if row["ranks"] == "8")
    assert float(eight["planned_whole_node_core_hours"]) == pytest.approx(12 * 32 * 18 / 3600)
    assert (eight["gpu_hours"], eight["is_reference"], eight["memory_per_node_bytes"]) == ("", "False", str(15 * GIB))
    tables = json.loads((written / "scaling.json").read_text())["proposal_tables"]
    plain = [row for table in tables for row in table["rows"]]
    assert [str(row["wall_seconds"]) for row in plain] == [row["wall_seconds"] for row in rows]
    assert [row["efficiency_low"] is not None for row in plain].count(True) == 1  # of six runs each
    pages = [(written / name).read_text() for name in ("proposal.md", "proposal.tex")]
    for page in pages:
        for figure in ("0.160", "1.920", "0.2400"):  # whole nodes' core-hours of 8 ranks, of 12 runs; node-hours
            assert figure in page
    assert "evil \\\\input\\{x\\}" in pages[0]
    assert "evil \\input{x} $a" not in pages[1]
    table_lines = [line for line in pages[0].splitlines() if line.startswith("|")]
    widths = [len(re.findall(r"(?<!\\)\|", line)) for line in table_lines]
    separators = [number for number, line in enumerate(table_lines) if set(line) <= set("|-:")]
    assert len(separators) == 6
    for start in separators:  # heading, separator and rows have as many cells
        assert widths[start - 1] == widths[start] == widths[start + 1]


def wrapped(fragment: str) -> str:
    head = "\\documentclass{article}\n\\usepackage[T1]{fontenc}\n\\usepackage{booktabs}\n\\begin{document}\n"
    return f"{head}{fragment}\n\\end{{document}}\n"


def assert_balanced(text: str) -> None:
    """Braces, environments and cells of LaTeX's tables fit together, and nothing special is left bare."""
    text = re.sub(r"(?m)(?<!\\)%.*$", "", text)
    bare = re.sub(r"\\[a-zA-Z]+|\\.|\$\\times\$", lambda found: " " if found[0][1] not in "{}" else "", text)
    depth = 0
    for letter in bare:
        depth += {"{": 1, "}": -1}.get(letter, 0)
        assert depth >= 0
    assert depth == 0
    assert not set(bare) & set("#$^~_\\")
    opened: list[str] = []
    for kind, name in re.findall(r"\\(begin|end)\{(\w+)\}", text):
        if kind == "begin":
            opened.append(name)
        else:
            assert opened.pop() == name
    assert not opened
    for columns, body in re.findall(r"\\begin\{tabular\}\{@\{\}(r+)@\{\}\}(.*?)\\end\{tabular\}", text, re.DOTALL):
        cut = re.sub(r"\\shortstack\[r\]\{.*?\}(?= &| \\\\)", "x", body)
        rows = [line for line in re.split(r"\\\\\n", cut) if "&" in line]
        assert len(rows) >= 2
        for line in rows:
            assert len(re.findall(r"(?<!\\)&", line)) + 1 == len(columns), line


def test_latex_is_sound_whatever_names_hold(written: Path) -> None:
    """Its braces, environments and cells, counted."""
    page = (written / "proposal.tex").read_text()
    assert page.count("\\begin{table}") == 6
    assert_balanced(page)


@pytest.mark.skipif(PDFLATEX is None, reason="no pdflatex here: proposal.tex was parsed, not compiled")
def test_latex_compiles_and_its_tables_fit_on_a_page(written: Path, tmp_path: Path) -> None:
    (tmp_path / "all.tex").write_text(wrapped((written / "proposal.tex").read_text()))
    words = [str(PDFLATEX), "-draftmode", "-interaction=nonstopmode", "-halt-on-error", "all.tex"]
    ended = subprocess.run(
        words, cwd=tmp_path, capture_output=True, text=True, errors="replace", timeout=120, check=False
    )
    assert ended.returncode == 0, ended.stdout[-2000:]
    assert "Overfull \\hbox" not in ended.stdout


@given(st.text(max_size=40))
def test_any_text_can_stand_in_latex(text: str) -> None:
    for made in (latex.escaped(text), latex.cell(text), latex.heading(text)):
        assert_balanced(made)
        assert "\n" not in made


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["0"], "planned_runs is 0: give a whole number from 1 to 1000000"),
        (["-3"], "planned_runs is -3: give a whole number from 1 to 1000000"),
        (["10000000"], "planned_runs is 10000000: give a whole number from 1 to 1000000"),
        (["2.5"], "2.5"),
        (["many"], "many"),
        (["5", "--format", "csv"], "planned_runs is of a table that format csv does not have: add one of html, md"),
    ],
)
def test_planned_runs_that_cannot_be_are_refused(
    refused_here: Callable[..., Ended], words: list[str], sentence: str
) -> None:
    ended = refused_here("report.__main__", "--planned-runs", *words)
    assert ended.status == 2
    assert sentence in ended.stderr
    assert "Traceback" not in ended.stderr
    assert len(ended.stderr.strip().splitlines()) <= 3


def test_planned_runs_without_a_table_are_refused_and_a_report_without_one_says_so(
    refused_here: Callable[..., Ended], tmp_path: Path
) -> None:
    write(tmp_path / "runs", 1, 400)
    where = ["--runs-dir", str(tmp_path / "runs"), "--output", str(tmp_path / "report")]
    ended = refused_here("report.__main__", *where, "--planned-runs", "5")
    assert ended.status == 2
    assert "planned_runs is of a table for proposals, and these runs make none" in ended.stderr
    main([*where, "--format", "proposal"])
    for name in ("proposal.md", "proposal.tex"):
        assert "No table can be made for a proposal: it takes runs on several" in (
            (tmp_path / "report" / name).read_text().replace("{}", "")
        )
    assert len((tmp_path / "report/proposal.csv").read_text().splitlines()) == 1
