"""Step files as columns: the same numbers as the records hold, and what is refused."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from horovod_flowers.runlog.json_lines import read_lines
from horovod_flowers.runlog.reading.run import PARTS, read_run
from horovod_flowers.runlog.records import Header, StepRecord
from horovod_flowers.runlog.run_folder import RunFolder
from horovod_flowers.runtime.errors import UserError
from tests.single.recorded_runs import write_run

STEPS = [[9, 9], [100, 300], [200, 100], [400, 100]]


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    """Two ranks, four steps."""
    return write_run(tmp_path / "r", 2, STEPS)


def edit(folder: RunFolder, rank: int, line: int, /, **fields: Any) -> None:
    """Change fields of a line of a rank's file, counted from 1."""
    lines = folder.steps(rank).read_text().splitlines()
    lines[line - 1] = json.dumps(json.loads(lines[line - 1]) | fields)
    folder.steps(rank).write_text("".join(f"{text}\n" for text in lines))


def refusal(folder: RunFolder) -> str:
    """The sentence that refuses the run."""
    with pytest.raises(UserError) as refused:
        read_run(folder.path)
    return str(refused.value)


def test_columns_hold_what_the_records_hold(folder: RunFolder) -> None:
    run = read_run(folder.path)
    by_rank = [list(read_lines(folder.steps(rank), Header | StepRecord)) for rank in range(2)]
    assert run.steps.tolist() == [1, 2, 3]
    for rank, (header, *records) in enumerate(by_rank):
        timed = records[1:]
        assert run.step_ns[:, rank].tolist() == [record.total_ns for record in timed]
        assert run.start_ns[:, rank].tolist() == [record.start_ns for record in timed]
        assert run.part_ns[:, rank].tolist() == [[getattr(r, f"{part}_ns") for part in PARTS] for r in timed]
        assert run.clock_offset_seconds[rank] == header.unix_seconds - header.monotonic_ns / 1e9
    assert {run.steps.dtype, run.step_ns.dtype, run.start_ns.dtype, run.part_ns.dtype} == {np.dtype(np.int64)}
    assert (run.step_ns.shape, run.part_ns.shape, run.clock_offset_seconds.shape) == ((3, 2), (3, 2, 4), (2,))


def test_a_step_that_is_warm_up_on_one_rank_is_no_timed_step(folder: RunFolder) -> None:
    edit(folder, 1, 4, warmup=True)
    run = read_run(folder.path)
    assert run.steps.tolist() == [1, 3]
    assert run.step_ns.tolist() == [[100_000_000, 300_000_000], [400_000_000, 100_000_000]]
    assert run.part_ns.sum(axis=2).tolist() == run.step_ns.tolist()
    assert run.images == 2 * 64


def test_the_last_header_relates_the_clocks(folder: RunFolder) -> None:
    file = folder.steps(1)
    header = json.loads(file.read_text().splitlines()[0]) | {"monotonic_ns": 4 * 10**9, "unix_seconds": 1000.5}
    with open(file, "a") as end:
        end.write(json.dumps(header) + "\n")
    assert read_run(folder.path).clock_offset_seconds[1] == 996.5


def test_a_file_longer_than_a_block_is_read_whole(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = read_run(folder.path)
    monkeypatch.setattr("horovod_flowers.runlog.reading.steps._BLOCK_BYTES", 300)  # a record has 230 bytes
    parts = read_run(folder.path)
    assert np.array_equal(parts.part_ns, whole.part_ns)
    monkeypatch.setattr("horovod_flowers.runlog.reading.steps._BLOCK_BYTES", 100)
    assert "rank-00000.jsonl has a line of more than 100 bytes" in refusal(folder)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"total_ns": 5}, "rank-00001.jsonl: step 1 has parts that do not add up to its total_ns"),
        ({"update_ns": 2 * 10**15}, "rank-00001.jsonl: step 1 takes above 1000000000000000 ns"),
        # In 64 bits the four parts would add up to the total again.
        (dict.fromkeys((f"{part}_ns" for part in PARTS), 2**62) | {"total_ns": 0}, "step 1 takes above"),
        ({"start_ns": 2**63 - 1}, "rank-00001.jsonl: step 1 starts after"),
        ({"images": 65}, "rank-00001.jsonl: step 1 has more images than a global batch, 64"),
        ({"images": 40}, "step 1 has 72 images over all ranks, more than a global batch: 64"),
        ({"epoch": 2}, "rank-00001.jsonl has a step of an earlier epoch after one of a later epoch"),
        ({"step": 2**62}, r"step records have gaps: \[4\] steps on the ranks, 4 in the result"),
        ({"total_ns": None}, "rank-00001.jsonl, line 3, is damaged"),
        ({"start_ns": -1}, "rank-00001.jsonl, line 3, is damaged"),
        ({"images": 1.5}, "rank-00001.jsonl, line 3, is damaged"),
        ({"warmup": 0}, "rank-00001.jsonl, line 3, is damaged"),
        ({"loss": float("nan")}, "rank-00001.jsonl, line 3, is damaged"),
        ({"start_ns": 10**40}, "rank-00001.jsonl, line 3, is damaged"),
        ({"loss": "<script>"}, "rank-00001.jsonl, line 3, is damaged"),
        ({"<script>": 1}, "rank-00001.jsonl, line 3, is damaged"),
    ],
)
def test_an_impossible_step_refuses_the_run(folder: RunFolder, fields: dict[str, Any], sentence: str) -> None:
    edit(folder, 1, 3, **fields)
    with pytest.raises(UserError, match=sentence):
        read_run(folder.path)


def test_ranks_agree_on_the_epoch_of_a_step(folder: RunFolder) -> None:
    edit(folder, 1, 5, epoch=2)
    assert "rank-00001.jsonl has its steps in other epochs than rank 0" in refusal(folder)


def test_a_run_that_took_no_time_has_no_rate(tmp_path: Path) -> None:
    assert "took no time" in refusal(write_run(tmp_path / "r", 1, [[1], [0], [0]]))


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"rank": 0}, "rank-00001.jsonl holds the records of rank 0"),
        ({"size": 3}, "continued with 2 ranks after 3"),
        ({"schema": 1}, "rank-00001.jsonl has run-log schema 1, this version reads 2"),
        ({"unix_seconds": 1e308}, "rank-00001.jsonl has a header with an impossible clock"),
        ({"monotonic_ns": 2**63 - 1}, "rank-00001.jsonl has a header with an impossible clock"),
        ({"kind": "trailer"}, "rank-00001.jsonl, line 1, is damaged"),
    ],
)
def test_a_header_belongs_to_its_file(folder: RunFolder, fields: dict[str, Any], sentence: str) -> None:
    edit(folder, 1, 1, **fields)
    assert sentence in refusal(folder)


def test_a_copied_file_of_another_rank_is_refused(folder: RunFolder) -> None:
    folder.steps(1).write_bytes(folder.steps(0).read_bytes())
    assert "rank-00001.jsonl holds the records of rank 0" in refusal(folder)


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda text: b"", "rank-00001.jsonl holds no records"),
        (lambda text: text[:20], "rank-00001.jsonl holds no records"),
        (lambda text: text.split(b"\n", 1)[1], "rank-00001.jsonl does not begin with a header"),
        (lambda text: text.replace(b"\n", b"\n\n", 1), "rank-00001.jsonl, line 2, is damaged"),
        (lambda text: text.replace(b"\n", b"", 1), "rank-00001.jsonl, line 1, is damaged"),
        (lambda text: text.replace(b"\n", b"\nnull\n", 1), "rank-00001.jsonl, line 2, is damaged"),
        (lambda text: text + b"[" * 100_000 + b"\n", "rank-00001.jsonl, line 6, is damaged"),
        (lambda text: text + b"\x00" * 1000 + b"\n", "rank-00001.jsonl, line 6, is damaged"),
        (lambda text: text[:-10], "step records have gaps: [3, 4] steps on the ranks, 4 in the result"),
        (lambda text: text.replace(b'"host":"node"', b'"host":"\xff"'), "rank-00001.jsonl, line 1, is damaged"),
    ],
)
def test_a_damaged_file_is_told_by_its_line(folder: RunFolder, damage: Callable[[bytes], bytes], sentence: str) -> None:
    folder.steps(1).write_bytes(damage(folder.steps(1).read_bytes()))
    assert sentence in refusal(folder)


@pytest.mark.parametrize("block_bytes", [4 * 2**20, 300])
def test_steps_that_two_jobs_wrote_at_once_are_told_from_repeated_ones(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch, block_bytes: int
) -> None:
    """A resumed run begins with a header; of two jobs in one run, the first goes on behind the second one's header."""
    monkeypatch.setattr("horovod_flowers.runlog.reading.steps._BLOCK_BYTES", block_bytes)
    whole = read_run(folder.path)
    header, *steps = folder.steps(1).read_bytes().splitlines(keepends=True)
    folder.steps(1).write_bytes(b"".join([header, *steps[:3], header, *steps[1:]]))
    assert np.array_equal(read_run(folder.path).step_ns, whole.step_ns)
    folder.steps(1).write_bytes(b"".join([header, *steps[:2], header, steps[1], steps[2], steps[2], *steps[3:]]))
    assert "rank-00001.jsonl has step 2 twice, and 1 steps in all" in refusal(folder)
    assert "two jobs wrote into the run at once" in refusal(folder)


def test_a_sparse_file_of_a_terabyte_is_not_read_to_its_end(folder: RunFolder) -> None:
    with open(folder.steps(1), "ab") as file:
        file.truncate(2**40)
    assert "rank-00001.jsonl has a line of more than" in refusal(folder)


def test_the_files_are_those_of_the_ranks(folder: RunFolder) -> None:
    folder.steps(1).rename(folder.steps(7))
    assert "rank-00007.jsonl is of none of the 2 ranks" in refusal(folder)
    folder.steps(7).rename(folder.steps(1))
    folder.steps(2).write_bytes(b"")
    assert refusal(folder) == "step records of 3 of 2 ranks"


def test_reading_keeps_no_object_a_record(tmp_path: Path) -> None:
    """Two ranks, 30,000 steps: 48 bytes a rank and step stay, and a block of records at a time comes and goes."""
    import tracemalloc

    folder = write_run(tmp_path / "r", 2, [[9, 9]] * 2)
    for rank in range(2):
        header, first, second = folder.steps(rank).read_bytes().splitlines(keepends=True)
        more = b"".join(
            second.replace(b'"step":1,', b'"step":%d,' % step).replace(
                b'"start_ns":9000000,', b'"start_ns":%d,' % (step * 9_000_000)
            )
            for step in range(1, 30_000)
        )
        folder.steps(rank).write_bytes(header + first + more)
    for file in (folder.result, folder.epochs):
        text = file.read_text().replace('"steps_done": 2', '"steps_done": 30000')
        file.write_text(re.sub(r'("training_seconds": ?)0.018', r"\g<1>270.0", text))
    tracemalloc.start()
    try:
        run = read_run(folder.path)
        kept, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert run.step_ns.shape == (29_999, 2)
    assert kept < 6e6
    assert peak < 60e6
