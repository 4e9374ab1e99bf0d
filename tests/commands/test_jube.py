"""examples/jube_scaling.xml, by JUBE itself: Debian's, as the package index has none."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

from horovod_flowers.config.run import RunConfig
from tests.conftest import PROJECT
from tests.debian import program
from tests.single.recorded_runs import write_run


def test_the_jube_benchmark_of_the_examples_runs(tmp_path: Path) -> None:
    """A row a number of ranks: figures where ranks had cores of their own, empty cells elsewhere."""
    jube = program(["jube"], ["jube"], tmp_path / "log")
    if jube is None:
        pytest.skip("no JUBE on this machine, and no right to install it")
    runs = tmp_path / "runs"
    runs.mkdir()
    config = RunConfig(global_batch=64, threads=1, warmup_steps=1)
    for ranks, milliseconds in ((1, 400), (2, 250), (4, 300)):
        write_run(runs / f"run-{ranks}", ranks, [[1] * ranks, [milliseconds] * ranks], config=config,
                  oversubscribed=ranks == 4)  # fmt: skip
    environment = os.environ | {"FLOWERS_RUNS": str(runs)}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    benchmark = PROJECT / "examples" / "jube_scaling.xml"
    words = [jube, "run", str(benchmark), "--outpath", str(tmp_path / "bench"), "--result"]
    ended = subprocess.run(
        [*words, "--tag", "recorded"], env=environment, cwd=tmp_path, check=False, capture_output=True, text=True,
        timeout=300,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout + ended.stderr
    (table,) = (tmp_path / "bench").rglob("scaling.dat")
    with open(table, newline="", encoding="utf-8") as file:
        rows = {row["ranks"]: row for row in csv.DictReader(file)}
    assert rows.keys() == {"1", "2", "4", "8"}
    figures = ("speed_up", "efficiency", "images_per_second[images/s]", "median_step_seconds[s]", "doubts")
    assert [float(rows["1"][name]) for name in figures] == pytest.approx([1, 1, 160, 0.4, 0])
    assert [float(rows["2"][name]) for name in figures] == pytest.approx([1.6, 0.8, 256, 0.25, 0])
    for other in ("4", "8"):
        assert [rows[other][name] for name in figures] == [""] * 5
