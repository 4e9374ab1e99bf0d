"""The benchmark as the README has it, of a few of its contenders."""

import json
import re
from pathlib import Path

import pytest

from tests.commands.conftest import Drawn
from tests.conftest import run_command


def test_the_bench_measures_strategies_and_communication(tmp_path: Path, drawn: Drawn) -> None:
    drawn.lend(tmp_path / "data")
    options = ["--ranks", "1,2", "--strategies", "none,tensor", "--precisions", "fp32", "--repetitions", "1"]
    options += ["--steps", "2", "--warmup-steps", "1", "--peers", "one core"]
    ended = run_command(["python", "-m", "horovod_flowers.bench", *options], tmp_path, timeout=900)
    assert ended.status == 0, ended.output
    assert re.search(r"2 ranks: tensor fp32 / none fp32: \d+\.\d\d\n", ended.stdout)
    assert re.search(r"1 rank: one rank fp32 / Keras fit, one core: \d+\.\d\d\n", ended.stdout)
    assert re.search(r"alltoall over 2 ranks: \d+\.\d\d ms \+ bytes / \d+\.\d\d GB/s", ended.stdout)
    document = json.loads((tmp_path / "bench" / "bench.json").read_text())
    assert {(row["contender"], row["ranks"]) for row in document["timings"]} == {
        ("one rank fp32", 1),
        ("none fp32", 2),
        ("tensor fp32", 2),
        ("Keras fit, one core", 1),
    }
    assert document["failed"] == []
    for row in (row for row in document["timings"] if "fit" not in row["contender"]):
        parts = sum(row[f"{part}_seconds"] for part in ("input_wait", "compute", "communication", "update"))
        assert parts == pytest.approx(row["median_step_seconds"], rel=0.5)
    assert not list((tmp_path / "runs").glob("*"))  # a bench adds nothing to them
