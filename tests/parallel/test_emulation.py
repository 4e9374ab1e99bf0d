"""Virtual nodes: each looks like one, its link carries what was asked for, and nothing stays of them."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from horovod_flowers.config.emulated_network import EmulatedNetwork, emulated_network
from horovod_flowers.emulation import waiting, world
from horovod_flowers.emulation.launcher import on_virtual_nodes
from horovod_flowers.runtime.errors import UserError
from horovod_flowers.study.__main__ import StudyConfig, read_points
from horovod_flowers.study.point import CollectivesPoint
from tests.conftest import Ended, run_command, start_command

PROGRAM = Path(__file__).with_name("virtual_nodes.py")
TIMEOUT_SECONDS = 240


@pytest.fixture(scope="module", autouse=True)
def _needs_namespaces() -> None:
    try:
        world.check_programs()
        world.check_namespaces()
    except UserError as error:
        pytest.skip(str(error))


def on_nodes(network: EmulatedNetwork, ranks: int, *words: str | Path) -> list[str]:
    """The command that runs ranks on virtual nodes."""
    return on_virtual_nodes(network).command(ranks, [str(word) for word in words])


def emulated(network: EmulatedNetwork, ranks: int, folder: Path) -> list[dict[str, Any]]:
    """What the ranks saw, in their order."""
    answers = folder / f"answers-{ranks}.json"
    ended = run_command(on_nodes(network, ranks, sys.executable, PROGRAM, answers), folder, TIMEOUT_SECONDS)
    assert ended.status == 0, ended.output
    found: list[dict[str, Any]] = json.loads(answers.read_text(encoding="utf-8"))
    return found


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return emulated(EmulatedNetwork(nodes=4, mbit=40), 4, tmp_path_factory.mktemp("four"))


@pytest.mark.quick
def test_each_rank_is_on_a_node_of_its_own(four: list[dict[str, Any]]) -> None:
    assert [rank["host"] for rank in four] == [f"flowers-n{number}" for number in (1, 2, 3, 4)]
    assert all(rank["node"] == [0, 1] and rank["told"] == [0, 1] for rank in four)
    assert all(rank["mbit"] == 40 for rank in four)


def test_a_link_carries_what_was_asked_for(four: list[dict[str, Any]]) -> None:
    # 1 MB at 40 Mbit/s is 0.2 s, with its headers 1 % more; late on a machine that does other things, never early.
    for rank in four:
        assert rank["message_seconds"] > 0.19
    # Each of four ranks sends and receives 2 * 3/4 of 1.2 MB at least: 0.36 s.
    assert four[0]["allreduce_seconds"] > 0.34


def test_a_rank_that_waits_leaves_the_cores_to_others(four: list[dict[str, Any]]) -> None:
    # Spinning takes the 2 s that it waits, or its share of the cores in them.
    assert max(rank["idle_cpu_seconds"] for rank in four[1:]) < 0.4


def test_the_gauge_counts(four: list[dict[str, Any]]) -> None:
    for rank in four:
        assert rank["elapsed"] > 2.0
        assert 0 < rank["cpu"] < rank["elapsed"]
        assert rank["waited"] >= 0


def test_ranks_of_one_node_share_it(tmp_path: Path) -> None:
    ranks = emulated(EmulatedNetwork(nodes=2, ranks_per_node=2, mbit=40), 3, tmp_path)
    assert [rank["host"] for rank in ranks] == ["flowers-n1", "flowers-n1", "flowers-n2"]
    assert [rank["node"] for rank in ranks] == [[0, 2], [1, 2], [0, 1]]
    assert [rank["told"] for rank in ranks] == [[0, 2], [1, 2], [0, 1]]


def descendants(process: int) -> list[psutil.Process]:
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(process).children(recursive=True)
    return []


def wait_for(condition: Any, seconds: float = 60) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def links() -> str:
    environment = world.with_folders_of_root(os.environ)
    return subprocess.run(["ip", "-o", "link"], check=True, capture_output=True, text=True, env=environment).stdout


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    found = []
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


@contextlib.contextmanager
def sleeping_job(folder: Path) -> Iterator[tuple["subprocess.Popen[bytes]", list[psutil.Process]]]:
    """Ranks on three nodes that sleep, and all processes of their job."""
    words = on_nodes(EmulatedNetwork(nodes=3, mbit=100), 3, sys.executable, "-c", "import time; time.sleep(300)")
    with open(folder / "output", "wb") as output:
        job = start_command(words, folder, output)
    try:
        assert wait_for(lambda: sum("time.sleep" in " ".join(_words(each)) for each in descendants(job.pid)) >= 3)
        yield job, descendants(job.pid)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(job.pid, signal.SIGKILL)
        job.wait()


def _words(process: psutil.Process) -> list[str]:
    with contextlib.suppress(psutil.Error):
        words = process.cmdline()
        return words[:3] if words[1:2] == ["-c"] else []
    return []


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_nothing_stays_of_a_job_that_is_killed(tmp_path: Path, number: signal.Signals) -> None:
    before = links()
    with sleeping_job(tmp_path) as (job, processes):
        assert len(processes) > 3 + 3  # the ranks, their nodes, and what starts them
        # Ctrl-C comes to all of a terminal's group, the others to one process.
        if number == signal.SIGINT:
            os.killpg(job.pid, number)
        else:
            os.kill(job.pid, number)
        assert wait_for(lambda: not alive(processes), 30), [process.cmdline() for process in alive(processes)]
        assert job.wait(timeout=30) != 0
    assert links() == before


def test_nothing_stays_of_a_study_that_is_killed(tmp_path: Path) -> None:
    job_file = tmp_path / "killed.yaml"
    job_file.write_text(
        "{name: killed, ranks: [2], repetitions: 1, collectives: true, network: {nodes: 2, mbit: 100}}\n", "utf-8"
    )
    points = read_points(StudyConfig(files=(str(job_file),), emulate=True), [])
    number = next(number for number, point in enumerate(points) if isinstance(point, CollectivesPoint))
    words = [sys.executable, "-m", "horovod_flowers.study", str(job_file), "--emulate", "--point", str(number)]
    before = links()
    with open(tmp_path / "output", "wb") as output:
        study = start_command(words, tmp_path, output)
    try:
        assert wait_for(lambda: sum(_is_rank(each) for each in descendants(study.pid)) == 2)
        processes = descendants(study.pid)
        os.kill(study.pid, signal.SIGKILL)
        assert wait_for(lambda: not alive(processes), 30), [process.cmdline() for process in alive(processes)]
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(study.pid, signal.SIGKILL)
        study.wait()
    assert links() == before


def _is_rank(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return process.cmdline()[1:3] == ["-m", "horovod_flowers.microbenchmark"]
    return False


def test_two_at_a_time_do_not_meet(tmp_path: Path) -> None:
    with sleeping_job(tmp_path):
        ranks = emulated(EmulatedNetwork(nodes=2, mbit=100, mtu=1280), 2, tmp_path)
    assert [rank["host"] for rank in ranks] == ["flowers-n1", "flowers-n2"]


def run_emulation(folder: Path, *words: str, variables: dict[str, str] | None = None) -> Ended:
    return run_command([sys.executable, "-m", "horovod_flowers.emulation", *words], folder, 60, variables)


def test_an_mpirun_of_ones_own_finds_the_nodes(tmp_path: Path) -> None:
    mpirun = [str(Path(sys.executable).with_name("mpirun")), "-np", "2", "-H", "flowers-n1,flowers-n2", "hostname"]
    ended = run_emulation(tmp_path, "--nodes", "2", "--mbit", "10", "--", *mpirun)
    assert ended.status == 0, ended.output
    assert sorted(ended.stdout.split()) == ["flowers-n1", "flowers-n2"]


@pytest.mark.parametrize(
    ("words", "status"), [(["true"], 0), (["sh", "-c", "exit 7"], 7), (["sh", "-c", "kill -9 $$"], 137)]
)
def test_a_command_has_its_own_status(tmp_path: Path, words: list[str], status: int) -> None:
    assert run_emulation(tmp_path, "--nodes", "2", "--mbit", "10", "--", *words).status == status


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--nodes", "0", "--", "true"], "nodes is 0: give a number from 1 to 250"),
        (["--nodes", "251", "--", "true"], "nodes is 251: give a number from 1 to 250"),
        (["--mbit", "0", "--", "true"], "mbit is 0.0: give a positive number"),
        (["--mbit", "-5", "--", "true"], "mbit is -5.0: give a positive number"),
        (["--shrink", "0.5", "--", "true"], "shrink is 0.5: give a number from 1 to"),
        (["--mbit", "1", "--shrink", "1000", "--", "true"], "a virtual link of 0.001 Mbit/s"),
        (["--nodes", "2"], "no command is given"),
        (["--", "/nowhere/program"], "/nowhere/program cannot be started"),
    ],
)
def test_a_mistake_is_told_in_a_sentence(tmp_path: Path, words: list[str], sentence: str) -> None:
    ended = run_emulation(tmp_path, *words)
    assert ended.status == 2
    assert sentence in ended.stderr
    assert "Traceback" not in ended.output


def folder_of_programs(folder: Path, *names: str) -> str:
    """A PATH on which only some programs are."""
    path = world.with_folders_of_root(os.environ)["PATH"]
    folder.mkdir()
    for name in names:
        found = shutil.which(name, path=path)
        assert found is not None
        (folder / name).symlink_to(found)
    return str(folder)


def test_what_is_missing_on_the_machine_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world, "FOLDERS_OF_ROOT", ())
    path = folder_of_programs(tmp_path / "programs", "ip", "unshare", "nsenter", "mount")
    with pytest.raises(UserError, match="there is no tc on this machine, .* install iproute2"):
        world.check_programs({"PATH": path})
    with pytest.raises(UserError, match=r"there is no C compiler \(cc, gcc, clang\) on PATH"):
        waiting.waiting_library({"PATH": path, "XDG_CACHE_HOME": str(tmp_path / "cache")})
    assert not (tmp_path / "cache").exists()


def test_a_user_who_may_not_is_told_what_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "unshare"
    program.write_text("#!/bin/sh\necho 'unshare: unshare failed: Operation not permitted' >&2\nexit 1\n", "utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(UserError, match=r"may not make a virtual network here \(unshare: .* Operation not permitted\)"):
        world.check_namespaces()


def test_the_library_is_built_whole_or_not_at_all(tmp_path: Path) -> None:
    compiler = tmp_path / "programs" / "cc"
    compiler.parent.mkdir()
    compiler.write_text("#!/bin/sh\necho 'out of order' >&2\nexit 1\n", encoding="utf-8")
    compiler.chmod(0o755)
    cache = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    with pytest.raises(UserError, match=r"cannot build waiting.c \(out of order\)"):
        waiting.waiting_library({"PATH": f"{compiler.parent}:{os.environ['PATH']}", **cache})
    assert list((tmp_path / "cache" / "horovod_flowers").iterdir()) == []
    built = waiting.waiting_library({"PATH": os.environ["PATH"], **cache})
    before = built.stat()
    assert waiting.waiting_library({"PATH": "/nowhere", **cache}) == built  # no compiler is needed any more
    assert built.stat().st_mtime_ns == before.st_mtime_ns


def test_a_network_is_read_back_as_it_was_given() -> None:
    network = EmulatedNetwork(nodes=8, ranks_per_node=2, mbit=200, shrink=4)
    assert network.ranks == 16
    assert network.virtual_mbit == 50
    assert emulated_network({}) is None
    with pytest.raises(UserError, match="FLOWERS_EMULATED_NETWORK is 'slow'"):
        emulated_network({"FLOWERS_EMULATED_NETWORK": "slow"})


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can run a part as another user")
def test_root_is_not_needed(tmp_path: Path) -> None:
    """As nobody, whom the homes of others are closed to: what this Python needs of one is mounted into an open one."""
    home = Path(sys.base_prefix).parents[-2]
    is_closed = any(not folder.stat().st_mode & 0o001 for folder in Path(sys.base_prefix).parents)
    tmp_path.chmod(0o777)
    for folder in tmp_path.parents[:3]:
        with contextlib.suppress(PermissionError):
            folder.chmod(folder.stat().st_mode | 0o011)
    library, stage = tmp_path / "nobody", tmp_path / "python"
    library.mkdir()
    library.chmod(0o777)
    words = on_nodes(EmulatedNetwork(nodes=2, mbit=100), 2, "hostname")
    opened = (
        f'mkdir -p {stage} && mount --bind "{sys.base_prefix}" {stage} && mount -t tmpfs -o mode=755 home {home} && '
        f'mkdir -p "{sys.base_prefix}" && mount --bind {stage} "{sys.base_prefix}" && '
    )
    opened = opened if is_closed else ""
    nobody = f'exec setpriv --reuid=65534 --regid=65534 --clear-groups env HOME={library} "$@"'
    ended = run_command(["unshare", "--mount", "sh", "-c", f"{opened}{nobody}", "sh", *words], tmp_path, 60)
    if "allowed" in ended.output or "may not make a virtual network" in ended.output:
        pytest.skip(f"others than root have no user namespaces here: {ended.stderr}")
    assert ended.status == 0, ended.output
    assert sorted(ended.stdout.split()) == ["flowers-n1", "flowers-n2"]
