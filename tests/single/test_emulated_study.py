"""Studies on virtual nodes: what a job file may ask for, which commands follow, and when a point counts."""

import os
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from horovod_flowers.config.emulated_network import EmulatedNetwork
from horovod_flowers.emulation.gauge import RankGauge
from horovod_flowers.emulation.launcher import emulation_options
from horovod_flowers.launch.launchers import FORWARDED
from horovod_flowers.ranks.communicator import Ranks
from horovod_flowers.ranks.single_process import SingleProcess
from horovod_flowers.runlog import collectives
from horovod_flowers.runlog.collectives import Collectives, MeasuredCalls, collectives_file, write_collectives
from horovod_flowers.runlog.emulation import CoreGauge, Emulation
from horovod_flowers.runlog.environment import gather_core_gauge
from horovod_flowers.runlog.holder import this_process
from horovod_flowers.runlog.step_profile import write_step_profile
from horovod_flowers.runtime.errors import UserError
from horovod_flowers.runtime.machine import STANDS_FOR_VARIABLE, process_numbers
from horovod_flowers.study.__main__ import StudyConfig, main, read_points
from horovod_flowers.study.point import CollectivesPoint, largest_message_mb
from horovod_flowers.study.profiles import missing_profiles
from tests.single.step_profiles import profile

Folder = Callable[..., Path]
NETWORK = EmulatedNetwork(nodes=4, mbit=200, shrink=4)


@pytest.fixture
def job_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folder:
    monkeypatch.chdir(tmp_path)

    def write(**fields: Any) -> Path:
        usual = {"name": "e", "ranks": [2, 4], "repetitions": 1, "network": {"nodes": 4, "mbit": 200, "shrink": 4}}
        path = tmp_path / "study.yaml"
        path.write_text(yaml.safe_dump(usual | fields), encoding="utf-8")
        return path

    return write


def points_of(path: Path, *options: str, **config: Any) -> list[Any]:
    return read_points(StudyConfig(files=(str(path),), emulate=True, **config), options)


@pytest.mark.parametrize(
    ("network", "sentence"),
    [
        ({"nodes": 0, "mbit": 10}, r"Expected `int` >= 1 - at `\$.network.nodes`: allowed in network are nodes"),
        ({"nodes": 4, "mbit": 0}, "Expected `float` > 0.0"),
        ({"nodes": 4, "mbit": -1}, "Expected `float` > 0.0"),
        ({"nodes": 4, "mbit": float("nan")}, "Expected `float` > 0.0"),
        ({"nodes": 4, "mbit": float("inf")}, "Expected `float` <= 1000000.0"),
        ({"nodes": 1000, "mbit": 10}, "Expected `int` <= 250"),
        ({"nodes": 4, "ranks_per_node": 0, "mbit": 10}, "Expected `int` >= 1"),
        ({"nodes": 4, "ranks_per_node": 1000, "mbit": 10}, "Expected `int` <= 64"),
        ({"nodes": 4, "mbit": 10, "shrink": 0.5}, "Expected `float` >= 1.0"),
        ({"nodes": 4}, "missing required field `mbit`"),
        ({"nodes": 4, "mbit": 10, "latency": 1}, "unknown field `latency`"),
        ({"nodes": 4, "mbit": 1, "shrink": 1000}, "a virtual link of 0.001 Mbit/s"),
        ("fast", "Expected `object | null`, got `str`"),
    ],
)
def test_a_network_that_cannot_be_is_refused(job_file: Folder, network: Any, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        points_of(job_file(network=network))


@pytest.mark.parametrize(
    ("mbit", "shrink", "given", "mtu"), [(50, 16, 0, 1280), (200, 4, 0, 6250), (1000, 1, 0, 9000), (50, 16, 9000, 9000)]
)
def test_packets_take_a_millisecond_of_a_virtual_link_at_most(mbit: float, shrink: float, given: int, mtu: int) -> None:
    network = EmulatedNetwork(nodes=2, mbit=mbit, shrink=shrink, mtu=given)
    assert network.mtu == mtu
    assert ("--mtu" in emulation_options(network)) == (given != 0)


def test_a_network_is_emulated_or_refused(job_file: Folder) -> None:
    with pytest.raises(UserError, match="has a network, which is emulated: add --emulate"):
        read_points(StudyConfig(files=(str(job_file()),)), [])
    with pytest.raises(UserError, match=r"emulate is given, and job file .* has no network: add one"):
        points_of(job_file(network=None))
    with pytest.raises(UserError, match="both network and command are given"):
        points_of(job_file(command=["python", "x.py"], global_batch=8))
    with pytest.raises(UserError, match="emulate and hosts are given"):
        StudyConfig(files=("x",), emulate=True, hosts="a:1")
    with pytest.raises(UserError, match="emulate and launcher is srun"):
        StudyConfig(files=("x",), emulate=True, launcher="srun")
    with pytest.raises(UserError, match="emulate and oversubscribe are given"):
        StudyConfig(files=("x",), emulate=True, oversubscribe=True)
    with pytest.raises(UserError, match="emulate is given, and job file .* has a command"):
        points_of(job_file(network=None, command=["python", "x.py"], global_batch=8))


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    return capsys.readouterr().err


def test_more_ranks_than_there_is_room_for_are_refused(job_file: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(capsys, str(job_file(ranks=[8])), "--emulate")
    assert "8 ranks do not fit on the network of 4 nodes with room for 1 each: raise nodes or ranks_per_node" in said
    job_file(ranks=[4, 8])
    main([str(job_file(ranks=[4, 8])), "--emulate", "--fit", "--dry-run"])
    printed = capsys.readouterr()
    assert "1 points left out, of more than the 4 ranks that fit" in printed.err
    assert "-np 4" in printed.out
    assert "-np 8" not in printed.out


def test_a_dry_run_prints_the_measured_step_and_each_job(
    job_file: Folder, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name in FORWARDED or name.startswith("FLOWERS_")]:
        if name != "PATH":
            monkeypatch.delenv(name)
    path = job_file(
        network={"nodes": 2, "ranks_per_node": 2, "mbit": 200, "shrink": 4},
        options={"global_batch": 16, "threads": 1},
        precisions=["fp32"],
        collectives=True,
    )
    main([str(path), "--emulate", "--dry-run"])
    profile, *jobs = (shlex.split(line) for line in capsys.readouterr().out.splitlines())
    assert profile[1:] == [
        *("-m", "horovod_flowers.step_profile", "--output", "runs/.step_profiles/e-fp32.json", "--rows", "8,4"),
        *("--precision", "fp32", "--threads", "1"),
    ]
    assert len(jobs) == 4
    for words in jobs:
        emulation, mpirun = words[: words.index("--")], words[words.index("--") + 1 :]
        assert emulation[1:] == [
            *("-m", "horovod_flowers.emulation", "--nodes", "2", "--ranks-per-node", "2"),
            *("--mbit", "200", "--shrink", "4"),
        ]
        assert Path(mpirun[0]).name == "mpirun"
        assert "flowers-n1:2,flowers-n2:2" in mpirun
        # Two ranks are on one node, which has no TCP between nodes to be told anything of.
        assert ("btl_tcp_flags" in mpirun) == (mpirun[2] == "4")
    trained = [words for words in jobs if "horovod_flowers.train" in words]
    assert all(words[-1] == "runs/.step_profiles/e-fp32.json" for words in trained)
    measured = [words for words in jobs if "horovod_flowers.microbenchmark" in words]
    assert all("none" in words[words.index("--bind") :] for words in measured)


def test_options_of_a_strategy_are_none_of_the_measured_step(job_file: Folder) -> None:
    """Which the strategy that one rank has would refuse."""
    points = points_of(job_file(strategies=["mesh"], options={"model_parallel_size": 2, "shard_layers": "dense"}))
    (missing,) = missing_profiles(points)
    assert not {"--model-parallel-size", "--shard-layers", "--strategy"} & set(missing.command())


def test_a_profile_of_ones_own_is_taken(job_file: Folder) -> None:
    points = points_of(job_file(options={"emulate": {"profile": "mine.json"}}))
    assert {point.config.emulate.profile for point in points} == {"mine.json"}
    (missing,) = missing_profiles(points)
    assert missing.file == Path("mine.json")
    assert missing.rows == (32,)


def test_a_study_of_more_ranks_keeps_what_was_measured(job_file: Folder, tmp_path: Path) -> None:
    """Points that ran before slept for these steps: measured anew they would be other work than those to come."""
    file = tmp_path / "runs/.step_profiles/e-fp32.json"
    file.parent.mkdir(parents=True)
    write_step_profile(file, profile())  # of 8 images
    points = points_of(job_file(precisions=["fp32"], options={"global_batch": 16}))
    (missing,) = missing_profiles(points)
    assert missing.rows == (4,)
    words = missing.command()
    assert words[3:7] == ["--output", "runs/.step_profiles/e-fp32.json", "--rows", "4"]
    assert "--extend" in words


@pytest.mark.parametrize(
    ("mbit", "shrink", "largest"), [(50, 1, 4), (200, 1, 17), (200, 4, 4), (10_000, 1, 64), (1, 1, 1)]
)
def test_messages_are_no_larger_than_a_slow_link_carries_in_a_second_or_two(
    mbit: float, shrink: float, largest: int
) -> None:
    assert largest_message_mb(EmulatedNetwork(nodes=2, mbit=mbit, shrink=shrink)) == largest
    assert largest_message_mb(None) == 64


def gauge(waited: float = 0.0, cpu: float = 0.1, elapsed: float = 10.0) -> CoreGauge:
    return CoreGauge(
        elapsed_seconds=[elapsed] * 2, waited_seconds=[0.0, waited], cpu_seconds=[cpu] * 2, cores=2, precedence=True
    )


@pytest.mark.parametrize(
    ("found", "problem"),
    [
        (gauge(), None),
        (gauge(waited=0.5, cpu=7.0), None),
        (gauge(waited=0.51), "waited for a core 5.1% of the time, and 5% are allowed"),
        (gauge(waited=2.0), "waited for a core 20.0% of the time"),
        (gauge(cpu=7.1), "kept 71.0% of the 2 cores busy, and 70% are allowed"),
        (gauge(elapsed=0.0), "nothing was timed"),
    ],
)
def test_the_gauge_judges(found: CoreGauge, problem: str | None) -> None:
    assert (found.problem is None) == (problem is None)
    assert problem is None or problem in str(found.problem)


@pytest.mark.parametrize(("quota", "cores"), [(None, 2), (4.0, 2), (1.5, 1), (0.5, 1)])
def test_a_quota_of_time_counts_as_fewer_cores(quota: float | None, cores: int) -> None:
    own = RankGauge(10.0, 0.0, 1.0, frozenset({0, 1}), quota, True)
    found = gather_core_gauge(Ranks(0, 1, 0, 1, "single", SingleProcess()), own)
    assert found is not None
    assert found.cores == cores


def record(network: EmulatedNetwork | None, found: CoreGauge | None) -> Collectives:
    return Collectives(
        schema=collectives.SCHEMA,
        world_size=2,
        hosts=["flowers-n1", "flowers-n2"],
        cpu_models=[None, None],
        threads=1,
        oversubscribed=False,
        yield_when_idle=True,
        horovod_settings={},
        versions={},
        started_utc="2026-01-01T00:00:00+00:00",
        command=[],
        measured=[MeasuredCalls(operation="allreduce", bytes=1024, seconds=[0.1])],
        reduction_bytes_per_second=1e9,
        timestamp_seconds=1e-6,
        emulated=None if network is None else Emulation(network=network),
        core_gauge=found,
    )


def test_collective_calls_count_on_their_own_network_and_with_cores(job_file: Folder) -> None:
    (point,) = (
        point for point in points_of(job_file(ranks=[2], collectives=True)) if isinstance(point, CollectivesPoint)
    )
    runs = Path("runs")
    file = collectives_file(runs, point.name)
    file.parent.mkdir(parents=True)
    write_collectives(file, record(NETWORK, gauge()))
    assert point.finished(runs)
    assert point.conclude(runs) is None
    write_collectives(file, record(NETWORK, gauge(waited=3.0)))
    assert not point.finished(runs)  # it is measured again
    assert "its times are no measurement: a rank waited" in str(point.conclude(runs))
    for other in (None, msgspec.structs.replace(NETWORK, mbit=100)):
        write_collectives(file, record(other, None))
        with pytest.raises(UserError, match=r"was made with network .* and the study says 4 virtual nodes, 200 Mbit"):
            point.finished(runs)


def test_an_emulated_job_holds_a_run_as_the_process_that_it_dies_with(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(STANDS_FOR_VARIABLE, f"{os.getppid()} 4711 {process_numbers()}")
    held = this_process("train")
    assert (held.pid, held.process_start, held.kernel) == (os.getppid(), 4711, process_numbers())
    monkeypatch.delenv(STANDS_FOR_VARIABLE)
    assert this_process("train").pid == os.getpid()
