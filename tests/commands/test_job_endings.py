"""Every way out of a launcher ends what it has started, or asks it to stop; nothing goes on without a parent."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from horovod_flowers.inference.export import load_apart
from horovod_flowers.launch.job import SECONDS_WITHOUT_RANKS
from horovod_flowers.launch.process_tree import SECONDS_TO_END
from tests.conftest import TIMEOUT_SECONDS, Workplace, clean_environment, start_command

SOON_SECONDS = SECONDS_TO_END + 60
RANK = """
import os, signal, time
from pathlib import Path
if os.environ.get("DEAF"):
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
Path(f"rank-{os.environ['OMPI_COMM_WORLD_RANK']}").write_text(str(os.getpid()))
while not Path("leave").exists() or os.environ["OMPI_COMM_WORLD_RANK"] != "0":
    time.sleep(0.05)
os._exit(1)
"""


def at_work_in(folder: Path) -> list[psutil.Process]:
    """Processes of that working folder, a launcher's guard aside, which goes last."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.cwd() == str(folder) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def wait_until_gone(folder: Path, seconds: float = SOON_SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while left := at_work_in(folder):
        assert time.monotonic() < deadline, [process.as_dict(["pid", "ppid", "cmdline", "status"]) for process in left]
        time.sleep(0.05)


def wait_for(*paths: Path, seconds: float = TIMEOUT_SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not all(path.exists() and path.stat().st_size for path in paths):
        assert time.monotonic() < deadline, paths
        time.sleep(0.02)


@contextlib.contextmanager
def started(folder: Path, words: list[str | Path], **variables: str) -> Iterator["subprocess.Popen[bytes]"]:
    """A command as in a terminal of its own; whatever is left in its folder is killed."""
    with open(folder / "output", "w") as output:
        process = start_command(words, folder, output, variables)
    try:
        yield process
    finally:
        for left in at_work_in(folder):
            with contextlib.suppress(psutil.Error):
                left.kill()
        process.wait()


def launcher(*options: str) -> list[str | Path]:
    start = [sys.executable, "-m", "horovod_flowers.launcher", "--ranks", "2", "--oversubscribe", *options]
    return [*start, "--", sys.executable, "-c", RANK]


@pytest.mark.parametrize(
    ("number", "status", "program"),
    [
        (signal.SIGHUP, 128 + signal.SIGUSR1, "mpirun"),  # passed on: these ranks do not know what it asks
        (signal.SIGQUIT, 128 + signal.SIGQUIT, "mpirun"),
        (signal.SIGKILL, -signal.SIGKILL, "mpirun"),
        (signal.SIGKILL, -signal.SIGKILL, "horovodrun"),
    ],
)
def test_no_rank_outlives_its_launcher(tmp_path: Path, number: int, status: int, program: str) -> None:
    with started(tmp_path, launcher("--launcher", program)) as process:
        wait_for(tmp_path / "rank-0", tmp_path / "rank-1")
        process.send_signal(number)
        assert process.wait(SOON_SECONDS) == status, (tmp_path / "output").read_text()
        wait_until_gone(tmp_path)


def test_a_rank_that_is_stopped_or_deaf_does_not_either(tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    with started(tmp_path, launcher(), DEAF="1", TMPDIR=str(tmp_path / "t")) as process:
        wait_for(tmp_path / "rank-0", tmp_path / "rank-1")
        os.kill(int((tmp_path / "rank-1").read_text()), signal.SIGSTOP)
        process.kill()
        wait_until_gone(tmp_path)
    assert list((tmp_path / "t").glob("ompi.*/pid.*")) == []  # 8 MiB a job, which nobody else removes


def test_a_signal_that_was_to_be_ignored_stays_ignored(tmp_path: Path) -> None:
    """As nohup has it: the job goes on when the terminal is closed."""
    with started(tmp_path, ["nohup", *launcher()]) as process:
        wait_for(tmp_path / "rank-0", tmp_path / "rank-1")
        process.send_signal(signal.SIGHUP)
        time.sleep(2)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(SOON_SECONDS) == 130
        wait_until_gone(tmp_path)


def test_mpirun_does_not_wait_for_ever_for_a_node_that_is_frozen(tmp_path: Path) -> None:
    """The daemon and the rank of a second node are stopped, its kernel answers; then the rank of the first one leaves.

    The second node is this one under another name, behind a remote shell that stays here.
    """
    agent = tmp_path / "agent"
    agent.write_text('#!/bin/sh\nshift\nexec sh -c "$*"\n')
    agent.chmod(0o755)
    hosts = ("--hosts", f"{os.uname().nodename}:1,elsewhere:1")
    words = [*launcher(*hosts), "horovod_flowers.as_one_of_its_commands"]
    options = f"--mca plm_rsh_agent '{agent}' --mca plm_rsh_no_tree_spawn 1"
    with started(tmp_path, words, FLOWERS_LAUNCHER_OPTIONS=options) as process:
        wait_for(tmp_path / "rank-0", tmp_path / "rank-1")
        rank = psutil.Process(int((tmp_path / "rank-1").read_text()))
        daemon = rank.parent()
        assert daemon is not None
        assert daemon.name() == "orted"
        for frozen in (daemon, rank):
            frozen.suspend()
        time.sleep(2)  # a rank that lives for less is not seen
        (tmp_path / "leave").touch()
        assert process.wait(SECONDS_WITHOUT_RANKS + SOON_SECONDS) == 1
        output = (tmp_path / "output").read_text()
        assert "mpirun still waited, as for a node that is frozen: it was killed" in output
        for frozen in (daemon, rank):
            frozen.kill()


def test_a_study_waits_for_what_another_has_left_behind(workplace: Workplace) -> None:
    """A job whose study was killed, with its guard: nobody ends it. The study that is started again does not run beside
    it, and runs the point once it is gone."""
    folder = workplace.folder
    data = {"image_size": 32, "synthetic_images": 120, "prepared_dir": str(workplace.prepared)}
    options = {"global_batch": 16, "threads": 1, "epochs": 100_000, "data": data}
    options |= {"model": {"name": "tests.parallel.slow_model:slow"}}
    (folder / "s.yaml").write_text(json.dumps({"name": "s", "ranks": [1], "repetitions": 1, "options": options}))
    study: list[str | Path] = [sys.executable, "-m", "horovod_flowers.study", "s.yaml", "--no-preflight"]
    point = "s-1ranks-alone-auto-seed0-run1"
    with started(folder, study) as first:
        wait_for(folder / "runs" / point / "steps" / "rank-00000.jsonl")
        children = psutil.Process(first.pid).children()
        (guard,) = (child for child in children if "horovod_flowers.launch.guard" in child.cmdline())
        (job,) = (child for child in children if child != guard)
        guard.kill()
        os.kill(job.pid, signal.SIGSTOP)  # nor does it answer its parent's death
        first.kill()
        first.wait()
        with open(folder / "second", "w") as output:
            second = subprocess.Popen(study, cwd=folder, env=clean_environment(), stdout=output, stderr=output)
        try:
            deadline = time.monotonic() + TIMEOUT_SECONDS
            while "waits for " not in (folder / "second").read_text():
                assert time.monotonic() < deadline, (folder / "second").read_text()
                assert second.poll() is None, (folder / "second").read_text()
                time.sleep(0.1)
            said = (folder / "second").read_text()
            assert f"waits for {point}, which has been running since " in said
            assert f"by process {first.pid} on " in said
            assert ": started" not in said
            job.kill()
            log = folder / "runs" / ".study" / f"{point}.log"
            while ": started" not in (folder / "second").read_text() or "affinity" not in log.read_text():
                assert time.monotonic() < deadline, (folder / "second").read_text() + log.read_text()
                assert second.poll() is None, (folder / "second").read_text() + log.read_text()
                time.sleep(0.1)
            second.send_signal(signal.SIGHUP)  # asks the point to stop with a checkpoint
            assert second.wait(120) == 75, (folder / "second").read_text()
            assert (folder / "runs" / point / "checkpoints" / "last.safetensors").exists()
        finally:
            second.kill()
            second.wait()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_prepare_leaves_no_process_behind(tmp_path: Path, number: int) -> None:
    words: list[str | Path] = [sys.executable, "-m", "horovod_flowers.prepare", "--processes", "2"]
    with started(tmp_path, [*words, "--data.synthetic-images", "100000", "--data.prepared-dir", "p"]) as process:
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while not list(tmp_path.glob("p/objects/.*/shard-0000[01].npy")):  # both processes are at work by then
            assert time.monotonic() < deadline, (tmp_path / "output").read_text()
            time.sleep(0.05)
        assert len(psutil.Process(process.pid).children(recursive=True)) >= 2
        process.send_signal(number)
        process.wait(SOON_SECONDS)
        wait_until_gone(tmp_path, 10)


def test_the_process_in_which_an_export_is_tried_ends_with_its_parent(tmp_path: Path) -> None:
    script = Path(load_apart.__file__)
    parent = (
        "import os, subprocess, sys, time\n"
        f"subprocess.Popen([sys.executable, {str(script)!r}, str(os.getpid()), 'no-export', '.'])\n"
        "print('begun', flush=True)\n"
        "time.sleep(1000)\n"
    )
    with started(tmp_path, [sys.executable, "-c", parent]) as process:
        wait_for(tmp_path / "output")
        process.kill()
        wait_until_gone(tmp_path, 10)
    assert not (tmp_path / "error.txt").exists()  # as it would say in the end
