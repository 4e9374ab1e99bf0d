"""Commands that start ranks, from flags, FLOWERS_ variables and what schedulers say."""

import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from horovod_flowers.launch import launchers, open_mpi_tcp
from horovod_flowers.launch.job import Ending
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
from horovod_flowers.launch.ranks_job import abrupt_end
from horovod_flowers.mpi.intel_mpi import IntelMpi
from horovod_flowers.mpi.library import OtherMpi
from horovod_flowers.mpi.mpich import CrayMpich, Mpich
from horovod_flowers.mpi.open_mpi import OpenMpi, OpenMpiRun
from horovod_flowers.runtime.errors import UserError
from horovod_flowers.runtime.exit import EXIT_STOPPED, EXIT_USER_ERROR
from tests.conftest import run_command
from tests.single.words_of_mpis import LAUNCHERS as LAUNCHERS_OF_MPIS
from tests.single.words_of_mpis import program_that_says

HOSTS = Slots((("n1", 2), ("n2", 2), ("n3", 2)), "hosts")
OPEN_MPI, OPEN_MPI_5, MPICH, INTEL, PALS = LAUNCHERS_OF_MPIS


@pytest.fixture
def on_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Path]:
    """Puts programs on PATH, the first of all or the only ones, each of which says that it is of that MPI."""

    def put(alone: bool = False, otherwise: str = "exit 0", **programs: str) -> Path:
        folder = Path(tempfile.mkdtemp(dir=tmp_path)) / "bin"  # of its own: what a program is, is asked once
        for name, mpi in programs.items():
            program_that_says(LAUNCHERS_OF_MPIS.get(mpi, mpi), folder / name, otherwise)
        rest = "" if alone else f":{os.environ['PATH']}"
        monkeypatch.setenv("PATH", f"{folder}{rest}")
        if alone:
            monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))  # beside which there is nothing
        return folder

    return put


def spelled(program: str, ranks: int, slots: Slots = HOSTS, oversubscribe: bool = False, **environment: str) -> str:
    launcher = LAUNCHERS[program](slots, oversubscribe)
    words = launcher.command(ranks, ["x"], environment)
    return " ".join([Path(words[0]).name, *words[1:]])


def test_mpirun_takes_hosts_and_variables_along(on_path: Callable[..., Path]) -> None:
    on_path(mpirun=OPEN_MPI)
    assert spelled("mpirun", 4, PATH="/p", NCCL_DEBUG="INFO", HOME="/h", FLOWERS_TCP_SETTINGS="0") == (
        "mpirun -np 4 --bind-to none --map-by slot -H n1:2,n2:2,n3:2 -x FLOWERS_TCP_SETTINGS -x NCCL_DEBUG -x PATH x"
    )
    on_path(mpirun=MPICH, mpiexec=PALS)
    assert spelled("mpirun", 4, PATH="/p") == "mpirun -np 4 -bind-to none -hosts n1:2,n2:2,n3:2 x"
    pbs = Slots(HOSTS.nodes, "pbs")
    assert spelled("mpiexec", 4, pbs, PATH="/p") == "mpiexec -n 4 -ppn 2 --cpu-bind none x"
    assert spelled("mpirun", 4, pbs) == "mpirun -np 4 -bind-to none -hosts n1:2,n2:2,n3:2 x"


def test_mpirun_reads_slurm_itself(on_path: Callable[..., Path]) -> None:
    on_path(mpirun=OPEN_MPI, mpiexec=MPICH)
    slots = Slots(HOSTS.nodes, "slurm")
    told = spelled("mpirun", 4, slots, FLOWERS_TCP_SETTINGS="0")
    assert told == "mpirun -np 4 --bind-to none --map-by slot -x FLOWERS_TCP_SETTINGS x"
    assert "--oversubscribe" in spelled("mpirun", 7, slots, oversubscribe=True).split()
    assert spelled("mpiexec", 7, slots, oversubscribe=True, PATH="/p") == "mpiexec -np 7 -bind-to none x"


FULL_DUPLEX = "--mca btl_tcp_flags send"


def test_tcp_between_nodes_is_told_to_send_both_ways(on_path: Callable[..., Path]) -> None:
    on_path(mpirun=OPEN_MPI, mpiexec=MPICH)
    assert FULL_DUPLEX in spelled("mpirun", 4, FLOWERS_TCP_SETTINGS="1")
    assert FULL_DUPLEX not in spelled("mpirun", 2, FLOWERS_TCP_SETTINGS="1")  # on one node
    assert FULL_DUPLEX not in spelled("mpirun", 4, Slots((("here", 4),), "this machine"), FLOWERS_TCP_SETTINGS="1")
    assert FULL_DUPLEX not in spelled("mpirun", 4, FLOWERS_TCP_SETTINGS="1", OMPI_MCA_btl_tcp_flags="send,put")
    assert tcp_words(OpenMpiRun("mpirun", "4.1.8"), 2, {SWITCH: "1"}, ["--mca", "btl_tcp_flags", "put"]) == []
    with pytest.raises(UserError, match="FLOWERS_TCP_SETTINGS is 'yes': give auto, 0"):
        spelled("mpirun", 4, FLOWERS_TCP_SETTINGS="yes")
    assert FULL_DUPLEX not in spelled("mpiexec", 4, FLOWERS_TCP_SETTINGS="auto")
    with pytest.raises(UserError, match=r"FLOWERS_TCP_SETTINGS is 1, .* of Open MPI's, and mpiexec is MPICH's Hydra"):
        spelled("mpiexec", 4, FLOWERS_TCP_SETTINGS="1")


@pytest.mark.parametrize(("version", "told"), [("4.1.8", ["--mca", "btl_tcp_flags", "send"]), ("5.0.5", [])])
def test_only_the_version_that_was_measured_is_told(
    monkeypatch: pytest.MonkeyPatch, version: str, told: list[str]
) -> None:
    monkeypatch.setattr(open_mpi_tcp, "is_fast", lambda: False)
    assert tcp_words(OpenMpiRun("mpirun", version), 2, {}) == told


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


@pytest.mark.parametrize(
    ("mpi", "words"),
    [
        (OPEN_MPI, None),
        (OPEN_MPI_5, "horovodrun cannot start ranks of Open MPI 5.0.11, .* of Open MPI 4 and older; choose mpirun"),
        (MPICH, r"horovodrun cannot start ranks of MPICH's Hydra 5.0.2, .*\('HYDRA build details'\); choose mpirun"),
        (INTEL, None),
    ],
)
def test_horovodrun_is_refused_where_it_cannot_call_mpirun(
    on_path: Callable[..., Path], mpi: str, words: str | None
) -> None:
    on_path(mpirun=mpi)
    if words is None:
        assert choose_launcher("horovodrun", "n1:2", False, {}).name == "horovodrun"
        return
    with pytest.raises(UserError, match=words):
        choose_launcher("horovodrun", "n1:2", False, {})


def test_srun_takes_just_the_nodes_that_it_needs(on_path: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    on_path(srun="", otherwise='[ "$1" = --mpi=list ] && echo "types: none cray_shasta pmi2 pmix"')
    slots = Slots(HOSTS.nodes, "slurm")
    words = spelled("srun", 3, slots, SLURM_CPUS_PER_TASK="4").split()
    assert words[1:4] == ["--ntasks=3", "--nodes=2", "--ntasks-per-node=2"]
    assert {"--kill-on-bad-exit=1", "--cpu-bind=none", "--cpus-per-task=4"} < set(words)
    assert "--mpi=pmi2" in spelled("srun", 1, slots, FLOWERS_SRUN_MPI="pmi2")
    assert "--mpi" not in spelled("srun", 1, slots, FLOWERS_SRUN_MPI="")
    usual = {OpenMpi: "pmix", Mpich: "pmi2", CrayMpich: "cray_shasta", IntelMpi: "pmi2"}
    for library, kind in usual.items():
        monkeypatch.setattr(launchers, "installed_library", lambda library=library: library("1"))
        assert f"--mpi={kind}" in spelled("srun", 1, slots)
    assert LAUNCHERS["srun"](slots, False).variables()["I_MPI_PIN"] == "0"
    monkeypatch.setattr(launchers, "installed_library", lambda: OtherMpi(""))
    assert "--mpi" not in spelled("srun", 1, slots)


def test_ibrun_places_ranks_itself(on_path: Callable[..., Path]) -> None:
    on_path(ibrun="")
    launcher = LAUNCHERS["ibrun"](Slots(HOSTS.nodes, "slurm"), False)
    assert launcher.command(3, ["x"], {}) == ["ibrun", "-n", "3", "-o", "0", "x"]
    assert launcher.variables()["I_MPI_PIN"] == "0"


def test_what_is_there_is_taken(on_path: Callable[..., Path]) -> None:
    environment = {"SLURM_JOB_NODELIST": "n1", "FLOWERS_HOSTS": ""}
    on_path(alone=True, scontrol="", otherwise="echo n1")
    with pytest.raises(UserError, match="there is no mpirun on PATH"):
        choose_launcher("auto", None, False, environment).command(1, ["x"])
    on_path(alone=True, scontrol="", srun="", otherwise="echo n1")
    assert choose_launcher("auto", None, False, environment).name == "srun"
    assert choose_launcher("auto", "n1", False, {}).name == "mpirun"
    on_path(alone=True, scontrol="", srun="", mpiexec=PALS, otherwise="echo n1")
    assert choose_launcher("auto", None, False, environment).name == "mpiexec"
    on_path(alone=True, scontrol="", mpiexec=PALS, mpirun=OPEN_MPI, otherwise="echo n1")
    assert choose_launcher("auto", None, False, environment).name == "mpirun"


def test_a_launcher_of_another_mpi_is_refused(on_path: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    on_path(mpirun=MPICH, mpiexec=OPEN_MPI)
    monkeypatch.setattr(launchers, "installed_library", lambda python: OpenMpi("4.1.8"))
    mpirun, mpiexec = (LAUNCHERS[name](HOSTS, False) for name in ("mpirun", "mpiexec"))
    for command in (["python", "x.py"], ["env", "A=1", "python3", "x.py"], [sys.executable, "-m", "x"]):
        mpiexec.check(2, command)
        with pytest.raises(
            UserError, match=r"mpirun is of MPICH's Hydra 5.0.2, and .*python.* finds Open MPI v4.1.8: "
        ):
            mpirun.check(2, command)
    mpirun.check(2, ["hostname"])  # of which it is not known
    monkeypatch.setattr(launchers, "installed_library", lambda python: None)
    mpirun.check(2, ["python", "x.py"])


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
    (tmp_path / "nodes").write_text("a\nb\n")  # as where jobs ask for whole nodes
    environment["FLOWERS_TASKS_PER_NODE"] = "4"
    assert find_slots(None, environment) == Slots((("a", 4), ("b", 4)), "pbs")
    options = choose_launcher("auto", "f:1", False, {"FLOWERS_LAUNCHER_OPTIONS": "--mca a 'b c'"}).options
    assert options == ("--mca", "a", "b c")


@pytest.mark.parametrize(
    ("name", "hosts", "environment", "sentence"),
    [
        ("auto", None, {"FLOWERS_LAUNCHER": "aprun"}, "FLOWERS_LAUNCHER is 'aprun': allowed is one of mpirun"),
        ("mpirun", "n1:x", {}, "hosts names 'n1:x': give NODE:RANKS"),
        ("srun", None, {}, "srun needs a Slurm allocation"),
        ("mpirun", None, {"PBS_NODEFILE": "/no/file"}, "PBS_NODEFILE cannot be read"),
        (
            "mpirun",
            None,
            {"PBS_NODEFILE": "/dev/null", "FLOWERS_TASKS_PER_NODE": "0"},
            "FLOWERS_TASKS_PER_NODE is '0': give the number of ranks",
        ),
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
    with pytest.raises(UserError, match="one of mpirun, mpiexec, horovodrun, srun, ibrun, further, further-in-slurm$"):
        choose_launcher("aprun", None, False, {})


def test_the_option_lists_the_launchers_that_there_are(tmp_path: Path) -> None:
    ended = run_command(["python", "-m", "horovod_flowers.launcher", "--launcher", "aprun", "--", "x"], tmp_path)
    assert ended.status == 2
    assert (
        "launcher is 'aprun': allowed is one of 'auto', 'mpirun', 'mpiexec', 'horovodrun', 'srun', 'ibrun'"
        in ended.stderr
    )


def test_the_command_ends_with_the_status_of_what_it_started(tmp_path: Path) -> None:
    start = ["python", "-m", "horovod_flowers.launcher", "--ranks", "2", "--oversubscribe"]
    ended = run_command([*start, "--", "sh", "-c", "exit 7"], tmp_path)
    assert ended.status == 7
    ended = run_command([*start, "--dry-run", "--", "echo", "a b"], tmp_path)
    assert ended.stdout == "mpirun -np 2 --bind-to none --map-by slot --oversubscribe echo 'a b'\n"
    ended = run_command(start, tmp_path)
    assert (ended.status, "no command is given" in ended.stderr) == (2, True)


NEVER_RAN = "mpirun ended with status 0, but none of its ranks ran: look at what it says above"


@pytest.mark.parametrize("where", [(), ("--hosts", "n1:2")])
def test_a_job_whose_ranks_never_ran_has_failed(tmp_path: Path, where: tuple[str, ...]) -> None:
    """A launcher that takes its options for a request for help, or starts nothing, and ends with status 0."""
    program_that_says(LAUNCHERS_OF_MPIS[OPEN_MPI], tmp_path / "mpirun", "echo usage")
    words = ["python", "-m", "horovod_flowers.launcher", "--ranks", "2", "--oversubscribe", *where, "--", "true"]
    ended = run_command(words, tmp_path, variables={"PATH": f"{tmp_path}:{os.environ['PATH']}"})
    assert ended.status == 1
    assert NEVER_RAN in ended.stderr
    assert [file.name for file in tmp_path.iterdir() if file.name.startswith(".")] == []


def test_ranks_are_counted(tmp_path: Path) -> None:
    words = ["python", "-m", "horovod_flowers.launcher", "--ranks", "2", "--oversubscribe", "--", "true"]
    assert run_command(words, tmp_path).status == 0
    ended = run_command(words, tmp_path, variables={"FLOWERS_LAUNCHER_OPTIONS": "-np 1"})
    assert ended.status == 1
    assert "mpirun ended with status 0, but 1 of 2 ranks ran" in ended.stderr


RANK = """
import os, subprocess, sys
from horovod_flowers.runtime.errors import Stopped, UserError
from horovod_flowers.runtime.exit import error_boundary
with error_boundary("horovod_flowers.rank"):
    if len(sys.argv) > 1:
        raise UserError("not the rank itself")
    rank = int(os.environ["OMPI_COMM_WORLD_RANK"])
    subprocess.run([sys.executable, "rank.py", "started by a rank"])
"""
RUNS_TWO_RANKS = """until [ "$1" = sh ]; do shift; done
for rank in 0 1; do OMPI_COMM_WORLD_RANK=$rank "$@" & done
wait
"""


@pytest.mark.parametrize(
    ("launcher_status", "ends", "status"),
    [
        (0, "raise Stopped('asked to')", EXIT_STOPPED),
        (0, "raise UserError('wrong') if rank else Stopped('asked to')", EXIT_USER_ERROR),
        (0, "raise SystemExit(3)", 3),
        (137, "raise UserError('wrong')", EXIT_USER_ERROR),
        (137, "pass", 137),
    ],
)
def test_what_ranks_say_of_their_end_counts(tmp_path: Path, launcher_status: int, ends: str, status: int) -> None:
    """Where the launcher loses their status, or kills what is left after a mistake."""
    program_that_says(LAUNCHERS_OF_MPIS[OPEN_MPI], tmp_path / "mpirun", f"{RUNS_TWO_RANKS}exit {launcher_status}")
    (tmp_path / "rank.py").write_text(f"{RANK}    {ends}\n")
    words = ["python", "-m", "horovod_flowers.launcher", "--ranks", "2", "--oversubscribe", "--", "python", "rank.py"]
    ended = run_command(words, tmp_path, variables={"PATH": f"{tmp_path}:{os.environ['PATH']}"})
    assert ended.status == status, ended.output
    assert ("a rank was killed" in ended.output) == (status == 137)


@pytest.mark.parametrize(("status", "own", "told"), [(14, True, True), (14, False, False), (1, True, False)])
def test_a_status_that_no_command_here_gives_is_of_a_rank_that_was_ended(status: int, own: bool, told: bool) -> None:
    """srun's, of ranks of Open MPI 5 that heard of a killed one before srun did."""
    ending = Ending(status, timed_out=False, asked_to_stop=None, ranks_seen=2)
    sentence = abrupt_end(LAUNCHERS["srun"](HOSTS, False), ending, own)
    assert (
        sentence is not None and "a rank was ended by a signal" in sentence and "srun's status 14" in sentence
    ) == told
