"""What a process says of itself at its end: wall time, memory, and the cores of its node."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from horovod_flowers.runlog.process_resources import (
    ProcessResources,
    gpu_peak_bytes_of,
    peak_memory_bytes,
    process_resources,
    wall_seconds_of,
)
from horovod_flowers.runtime.machine import physical_cores

MIB = 2**20


def test_wall_time_runs_from_the_start_of_the_process() -> None:
    """Not from the first look at a clock: what is imported before counts."""
    words = "import time; time.sleep(0.5); from horovod_flowers.runlog.process_resources import process_resources as r"
    started = time.monotonic()
    ended = subprocess.run(
        [sys.executable, "-c", f"{words}; print(r().wall_seconds)"],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    around = time.monotonic() - started
    assert 0.5 < float(ended.stdout) <= around + 2 / os.sysconf("SC_CLK_TCK")


def test_peak_memory_is_not_what_was_before_exec() -> None:
    """ru_maxrss of a child is at least what its parent had resident when it forked; VmHWM is the program's own."""
    held = bytearray(300 * MIB)
    held[::4096] = b"x" * len(held[::4096])
    words = "from horovod_flowers.runlog.process_resources import peak_memory_bytes as peak; print(peak())"
    reading, writing = os.pipe()
    if (pid := os.fork()) == 0:  # subprocess may vfork, which copies nothing
        os.dup2(writing, 1)
        os.execv(sys.executable, [sys.executable, "-c", words])
    os.close(writing)
    with os.fdopen(reading) as told:
        peak = int(told.read())
    os.waitpid(pid, 0)
    assert 5 * MIB < peak < 200 * MIB
    assert process_resources().peak_memory_bytes > 300 * MIB


def test_peak_memory_is_read_from_linux(tmp_path: Path) -> None:
    status = tmp_path / "status"
    status.write_text("Name:\tpython\nVmPeak:\t 999999 kB\nVmHWM:\t  123456 kB\n")
    assert peak_memory_bytes(status) == 123456 * 1024
    assert peak_memory_bytes(tmp_path / "missing") > 5 * MIB  # getrusage's


def test_cores_of_a_node_count_hyperthreads_once(tmp_path: Path) -> None:
    for cpu, (socket, core) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1), (0, 0), (0, 1), (1, 0), (1, 1)]):
        topology = tmp_path / f"cpu{cpu}/topology"
        topology.mkdir(parents=True)
        (topology / "physical_package_id").write_text(f"{socket}\n")
        (topology / "core_id").write_text(f"{core}\n")
    (tmp_path / "online").write_text("0-7\n")
    assert physical_cores(tmp_path) == 4
    (tmp_path / "online").write_text("0-2,5\n")  # of cores (0, 0), (0, 1), (1, 0) and (0, 1)
    assert physical_cores(tmp_path) == 3
    (tmp_path / "online").write_text("?\n")
    assert physical_cores(tmp_path) == os.cpu_count()


def test_what_one_rank_cannot_tell_is_missing_of_all() -> None:
    ranks = [ProcessResources(1, 2.0, None), ProcessResources(3, 4.0, 5)]
    assert wall_seconds_of(ranks) == [2.0, 4.0]
    assert gpu_peak_bytes_of(ranks) is None
    assert wall_seconds_of([*ranks, ProcessResources(1, None, 1)]) is None
    assert gpu_peak_bytes_of(ranks[1:]) == [5]


@pytest.mark.parametrize("gone", ["physical_package_id", "core_id"])
def test_a_cpu_of_unknown_place_counts_as_a_core(tmp_path: Path, gone: str) -> None:
    topology = tmp_path / "cpu0/topology"
    topology.mkdir(parents=True)
    (topology / "physical_package_id").write_text("0\n")
    (topology / "core_id").write_text("0\n")
    (topology / gone).unlink()
    (tmp_path / "online").write_text("0-1\n")
    assert physical_cores(tmp_path) == 2
