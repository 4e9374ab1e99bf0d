"""Commands that start ranks, from flags, FLOWERS_ variables and what schedulers say."""

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from horovod_flowers.launch import open_mpi_tcp
from horovod_flowers.launch.launchers import (
    LAUNCHERS,
    SLURM,
    Horovodrun,
    Launcher,
    Mpirun,
    Slots,
    choose_launcher,
    find_slots,
)
from horovod_flowers.launch.open_mpi_tcp import SWITCH, tcp_words
from horovod_flowers.runtime.errors import UserError
from tests.conftest import run_command

HOSTS = Slots((("n1", 2), ("n2", 2), ("n3", 2)), "hosts")


def spelled(program: str, ranks: int, slots: Slots = HOSTS, oversubscribe: bool = False, **environment: str) -> str:
    launcher = LAUNCHERS[program](slots, oversubscribe)
    words = launcher.command(ranks, ["x"], environment)
    return " ".join([Path(words[0]).name, *words[1:]])


def test_mpirun_takes_hosts_and_variables_along() -> None:
    assert spelled("mpirun", 4, PATH="/p", NCCL_DEBUG="INFO", HOME="/h", FLOWERS_TCP_SETTINGS="0") == (
        "mpirun -np 4 --bind-to none --map-by slot -H n1:2,n2:2,n3:2 -x FLOWERS_TCP_SETTINGS -x NCCL_DEBUG -x PATH x"
    )


def test_mpirun_reads_slurm_itself() -> None:
    slots = Slots(HOSTS.nodes, "slurm")
    told = spelled("mpirun", 4, slots, FLOWERS_TCP_SETTINGS="0")
    assert told == "mpirun -np 4 --bind-to none --map-by slot -x FLOWERS_TCP_SETTINGS x"
    assert "--oversubscribe" in spelled("mpirun", 7, slots, oversubscribe=True).split()


FULL_DUPLEX = "--mca btl_tcp_flags send"


def test_tcp_between_nodes_is_told_to_send_both_ways() -> None:
    assert FULL_DUPLEX in spelled("mpirun", 4, FLOWERS_TCP_SETTINGS="1")
    assert FULL_DUPLEX not in spelled("mpirun", 2, FLOWERS_TCP_SETTINGS="1")  # on one node
    assert FULL_DUPLEX not in spelled("mpirun", 4, Slots((("here", 4),), "this machine"), FLOWERS_TCP_SETTINGS="1")
    assert FULL_DUPLEX not in spelled("mpirun", 4, FLOWERS_TCP_SETTINGS="1", OMPI_MCA_btl_tcp_flags="send,put")
    assert tcp_words("mpirun", 2, {SWITCH: "1"}, ["--mca", "btl_tcp_flags", "put"]) == []
    with pytest.raises(UserError, match="FLOWERS_TCP_SETTINGS is 'yes': give auto, 0"):
        spelled("mpirun", 4, FLOWERS_TCP_SETTINGS="yes")


@pytest.mark.parametrize(("version", "told"), [("4.1.8", ["--mca", "btl_tcp_flags", "send"]), ("5.0.5", [])])
def test_only_the_version_that_was_measured_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, told: list[str]
) -> None:
    monkeypatch.setattr(open_mpi_tcp, "is_fast", lambda: False)
    program = tmp_path / "mpirun"
    program.write_text(f"#!/bin/sh\necho 'mpirun (Open MPI) {version}'\n", encoding="utf-8")
    program.chmod(0o755)
    assert tcp_words(str(program), 2, {}) == told


def test_what_is_faster_than_tcp_is_left_alone(tmp_path: Path) -> None:
    infiniband, interfaces = tmp_path / "infiniband", tmp_path / "net"
    for name, speed in {"lo": "", "eth0": "1000\n", "veth1": "-1\n"}.items():
        (interfaces / name).mkdir(parents=True)
        (interfaces / name / "speed").write_text(speed, encoding="ascii")
    assert not open_mpi_tcp.is_fast(infiniband, interfaces)
    (interfaces / "eth0" / "speed").write_text("25000\n", encoding="ascii")
    assert open_mpi_tcp.is_fast(infiniband, interfaces)
    (interfaces / "eth0" / "speed").write_text("10000\n", encoding="ascii")
    assert not open_mpi_tcp.is_fast(infiniband, interfaces)
    infiniband.mkdir()
    assert not open_mpi_tcp.is_fast(infiniband, interfaces)
    (infiniband / "mlx5_0").mkdir()
    assert open_mpi_tcp.is_fast(infiniband, interfaces)


def test_horovodrun_gets_the_nodes_that_the_ranks_fill() -> None:
    assert spelled("horovodrun", 3) == "horovodrun -np 3 -H n1:2,n2:1 x"
    assert spelled("horovodrun", 8, oversubscribe=True) == "horovodrun -np 8 -H n1:3,n2:3,n3:2 x"
    assert spelled("horovodrun", 2, Slots((("here", 2),), "this machine")) == "horovodrun -np 2 x"


def test_srun_takes_just_the_nodes_that_it_needs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "srun").write_text("#!/bin/sh\n")
    (tmp_path / "srun").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    slots = Slots(HOSTS.nodes, "slurm")
    words = spelled("srun", 3, slots, SLURM_CPUS_PER_TASK="4").split()
    assert words[1:4] == ["--ntasks=3", "--nodes=2", "--ntasks-per-node=2"]
    assert {"--mpi=pmix", "--kill-on-bad-exit=1", "--cpu-bind=none", "--cpus-per-task=4"} < set(words)
    assert "--mpi=pmi2" in spelled("srun", 1, slots, FLOWERS_SRUN_MPI="pmi2")


def test_ranks_beyond_the_room_are_refused_unless_asked_for() -> None:
    launcher = Mpirun(HOSTS, False)
    launcher.check(6)
    with pytest.raises(UserError, match=r"7 ranks do not fit on n1:2,n2:2,n3:2 \(hosts\), which has room for 6"):
        launcher.check(7)
    Mpirun(HOSTS, True).check(7)


def test_flags_come_before_variables_before_the_scheduler(tmp_path: Path) -> None:
    (tmp_path / "nodes").write_text("a\na\nb\nb\n")
    environment = {"FLOWERS_HOSTS": "v:3", "FLOWERS_LAUNCHER": "horovodrun", "PBS_NODEFILE": str(tmp_path / "nodes")}
    assert choose_launcher("auto", None, False, environment) == Horovodrun(Slots((("v", 3),), "hosts"), False)
    chosen = choose_launcher("mpirun", "f:1,g", True, environment)
    assert chosen == Mpirun(Slots((("f", 1), ("g", 1)), "hosts"), True)
    assert find_slots(None, environment) == Slots((("a", 2), ("b", 2)), "pbs")
    options = choose_launcher("auto", "f:1", False, {"FLOWERS_LAUNCHER_OPTIONS": "--mca a 'b c'"}).options
    assert options == ("--mca", "a", "b c")


@pytest.mark.parametrize(
    ("name", "hosts", "environment", "sentence"),
    [
        ("auto", None, {"FLOWERS_LAUNCHER": "mpiexec"}, "FLOWERS_LAUNCHER is 'mpiexec': allowed is one of mpirun"),
        ("mpirun", "n1:x", {}, "hosts names 'n1:x': give NODE:RANKS"),
        ("srun", None, {}, "srun needs a Slurm allocation"),
        ("mpirun", None, {"PBS_NODEFILE": "/no/file"}, "PBS_NODEFILE cannot be read"),
    ],
)
def test_mistakes(name: str, hosts: str | None, environment: dict[str, str], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        choose_launcher(name, hosts, False, environment)


def test_a_further_launcher_is_one_class(monkeypatch: pytest.MonkeyPatch) -> None:
    class Further(Launcher):
        name = "further"

        def start_words(self, ranks: int, environment: Mapping[str, str]) -> list[str]:
            return ["further", "-n", str(ranks)]

    class InSlurm(Further):
        name = "further-in-slurm"
        needs_allocation_of = SLURM

    for kind in (Further, InSlurm):
        monkeypatch.setitem(LAUNCHERS, kind.name, kind)
    environment = {"FLOWERS_LAUNCHER": "further", "FLOWERS_LAUNCHER_OPTIONS": "-q"}
    launcher = choose_launcher("auto", "n1:2", False, environment)
    assert launcher.command(2, ["x"], environment) == ["further", "-n", "2", "-q", "x"]
    with pytest.raises(
        UserError, match=r"^further-in-slurm needs a Slurm allocation: call it in a job \(sbatch, salloc"
    ):
        choose_launcher("further-in-slurm", "n1:2", False, {})
    with pytest.raises(UserError, match="one of mpirun, horovodrun, srun, further, further-in-slurm$"):
        choose_launcher("aprun", None, False, {})


def test_the_option_lists_the_launchers_that_there_are(tmp_path: Path) -> None:
    ended = run_command(["python", "-m", "horovod_flowers.launcher", "--launcher", "aprun", "--", "x"], tmp_path)
    assert ended.status == 2
    assert "launcher is 'aprun': allowed is one of 'auto', 'mpirun', 'horovodrun', 'srun'" in ended.stderr


def test_the_command_ends_with_the_status_of_what_it_started(tmp_path: Path) -> None:
    start = ["python", "-m", "horovod_flowers.launcher", "--ranks", "2", "--oversubscribe"]
    ended = run_command([*start, "--", "sh", "-c", "exit 7"], tmp_path)
    assert ended.status == 7
    ended = run_command([*start, "--dry-run", "--", "echo", "a b"], tmp_path)
    assert ended.stdout == "mpirun -np 2 --bind-to none --map-by slot --oversubscribe echo 'a b'\n"
    ended = run_command(start, tmp_path)
    assert (ended.status, "no command is given" in ended.stderr) == (2, True)
