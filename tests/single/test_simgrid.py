"""SimGrid against the formulas, message by message; and where it has to differ from them.

Agreement means something since both are written apart: `algorithms.py` counts bytes a round, `simgrid/rounds.py` says
who sends to whom, and SMPI's own ring, recursive doubling and pairwise exchange are none of ours.
"""

import os
import re
import shutil
import subprocess
from pathlib import Path

import psutil
import pytest

from horovod_flowers.runlog.records import Operation
from horovod_flowers.runtime.errors import UserError
from horovod_flowers.scaling_model.algorithms import ROUNDS, Algorithm, MessageCost
from horovod_flowers.scaling_model.call_model import CallModel
from horovod_flowers.scaling_model.network import Link, Network
from horovod_flowers.scaling_model.open_mpi import AlgorithmChoice
from horovod_flowers.scaling_model.schedule import Coordination, schedule
from horovod_flowers.scaling_model.simgrid.engine import SimulatedCalls, simulated_step
from horovod_flowers.scaling_model.simgrid.replay import replayed_seconds
from horovod_flowers.scaling_model.simgrid.rounds import AtOnce, rounds_of
from horovod_flowers.scaling_model.simgrid.topology import Dragonfly, FatTree, Star, Topology, topology_named
from horovod_flowers.scaling_model.step_tasks import Call, RankGroup, Task

PROJECT = Path(__file__).resolve().parents[2]
NETWORK = Network(Link(2e-6, 12.5e9))
ADDED = 1e-10
PAIRS = sorted(ROUNDS)
HALVES: tuple[tuple[Operation, Algorithm, int], ...] = (
    ("allreduce", "ring", 2),
    ("allreduce", "rabenseifner", 2),
    ("reducescatter", "ring", 1),
    ("reducescatter", "recursive halving", 1),
    ("allgather", "ring", 1),
    ("allgather", "bruck", 1),
    ("allgather", "neighbor exchange", 1),
    ("allgather", "linear", 1),
    ("alltoall", "pairwise", 1),
    ("alltoall", "linear", 1),
)
"""Algorithms that send the least possible, and how often (P-1)/P of the bytes."""


@pytest.fixture(scope="module")
def simgrid() -> None:
    """Installed, by root on Debian or Ubuntu; else these tests are skipped."""
    if shutil.which("smpirun"):
        return
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        pytest.skip("SimGrid's smpirun is not on PATH, and cannot be installed with apt-get by this user")
    installing = [str(PROJECT / "tools" / "simgrid.sh")]
    ended = subprocess.run(installing, capture_output=True, text=True, timeout=600, check=False)
    assert ended.returncode == 0, ended.stderr[-3000:]


def model_of(operation: Operation, algorithm: Algorithm, network: Network = NETWORK, added: float = ADDED) -> CallModel:
    return CallModel.of(network, AlgorithmChoice({operation: algorithm}), added)


def by_formula(call: Call, algorithm: Algorithm, network: Network = NETWORK, added: float = ADDED) -> float:
    return model_of(call.operation, algorithm, network, added).seconds(call)


def by_simgrid(
    call: Call,
    algorithm: Algorithm,
    ranks: int,
    network: Network = NETWORK,
    topology: Topology | None = None,
    most: int = 16_000,
) -> float:
    model = model_of(call.operation, algorithm, network)
    (seconds,) = SimulatedCalls(model, topology or Star(), most).call_seconds([call], ranks)
    return seconds


@pytest.mark.parametrize("ranks", [2, 3, 4, 7, 12, 16])
@pytest.mark.parametrize(("operation", "algorithm"), PAIRS)
def test_every_message_is_received(operation: Operation, algorithm: Algorithm, ranks: int) -> None:
    for part in rounds_of(operation, algorithm, 1e6, ranks, most_rounds=100):
        if isinstance(part, AtOnce):
            continue
        sent = {(rank, to) for rank in range(ranks) if (to := part.sends_to(rank)) is not None}
        heard = {(of, rank) for rank in range(ranks) if (of := part.hears_from(rank)) is not None}
        assert sent == heard
        assert sent
        assert all(a != b and 0 <= b < ranks for a, b in sent)


@pytest.mark.parametrize("most_rounds", [2, 5, 1000])
@pytest.mark.parametrize(("operation", "algorithm", "times"), HALVES)
def test_no_algorithm_of_least_bytes_sends_more(
    operation: Operation, algorithm: Algorithm, times: int, most_rounds: int
) -> None:
    """Merged or not: (P-1)/P of the bytes out of every rank, or twice that, and latencies of all messages."""
    ranks, size = 16, 1.6e6
    parts = rounds_of(operation, algorithm, size, ranks, most_rounds)
    sent = sum(part.bytes * (ranks - 1 if isinstance(part, AtOnce) else part.times) for part in parts)
    assert sent == pytest.approx(times * 15 / 16 * size)


def test_an_algorithm_that_is_not_written_out_is_refused() -> None:
    with pytest.raises(UserError, match="alltoall by bruck cannot be simulated; its algorithms: linear, pairwise"):
        rounds_of("alltoall", "bruck", 1e6, 4, 10)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ring", "topology 'ring' is none of these: star, fat-tree:"),
        ("star:4", "is none of these"),
        ("fat-tree:16", "is none of these"),
        ("fat-tree:16:x", "in whole numbers"),
        ("fat-tree:16:0", "needs nodes and uplinks at each leaf, not 16:0"),
        ("fat-tree:4:8", "has at most as many uplinks, not 8"),
        ("fat-tree:1000000:16", "a fat tree with 1,000,000 places for nodes is too large to simulate: at most 65,536"),
        ("dragonfly:100:100:100", "a dragonfly with 1,000,000 places for nodes is too large"),
        ("dragonfly:4:2:1", "needs at least as many routers in each, not 2"),
        ("dragonfly:0:2:1", "each at least 1, not 0:2:1:1"),
        ("", "is none of these"),
    ],
)
def test_what_is_no_topology_is_refused(text: str, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        topology_named(text)


def test_a_dragonfly_has_no_more_nodes_than_it_has() -> None:
    network = Network(Link(1e-6, 1e9), Link(1e-7, 1e10), ranks_per_node=2)
    call = Call("allreduce", 1e6, RankGroup(18))
    with pytest.raises(UserError, match="9 nodes do not fit into a dragonfly, 2 groups of 2 routers with 2 nodes each"):
        by_simgrid(call, "ring", 18, network, topology_named("dragonfly:2:2:2"))


@pytest.mark.slow
@pytest.mark.usefixtures("simgrid")
@pytest.mark.parametrize(("ranks", "size"), [(4, 105e6), (6, 6e3), (64, 105e6)])
@pytest.mark.parametrize(("operation", "algorithm"), PAIRS)
def test_formula_and_simgrid_agree_where_nothing_blocks(
    operation: Operation, algorithm: Algorithm, ranks: int, size: float
) -> None:
    call = Call(operation, size, RankGroup(ranks))
    assert by_simgrid(call, algorithm, ranks) == pytest.approx(by_formula(call, algorithm), rel=1e-3)


@pytest.mark.slow
@pytest.mark.usefixtures("simgrid")
@pytest.mark.parametrize(("operation", "algorithm"), [("allreduce", "rabenseifner"), ("allgather", "ring")])
def test_they_agree_over_a_thousand_ranks(operation: Operation, algorithm: Algorithm) -> None:
    """Rounds of a ring are merged to 16."""
    call = Call(operation, 105e6, RankGroup(1024))
    assert by_simgrid(call, algorithm, 1024) == pytest.approx(by_formula(call, algorithm), rel=1e-3)


@pytest.mark.slow
@pytest.mark.usefixtures("simgrid")
@pytest.mark.parametrize("group", [RankGroup(4, 4), RankGroup(8)])
@pytest.mark.parametrize(("operation", "algorithm"), PAIRS)
def test_they_agree_on_groups_of_ranks_and_several_ranks_a_node(
    operation: Operation, algorithm: Algorithm, group: RankGroup
) -> None:
    """The groups of a mesh call together: those that lie across nodes share the nodes' links."""
    network = Network(Link(2e-6, 12.5e9), Link(5e-7, 25e9), ranks_per_node=4)
    call = Call(operation, 16e6, group)
    simulated = by_simgrid(call, algorithm, 16, network)
    assert simulated == pytest.approx(by_formula(call, algorithm, network), rel=0.01)


@pytest.mark.slow
@pytest.mark.usefixtures("simgrid")
@pytest.mark.parametrize(
    ("operation", "algorithm"), [("allreduce", "ring"), ("allgather", "ring"), ("alltoall", "pairwise")]
)
def test_they_agree_where_ranks_of_a_node_are_farther_from_each_other(
    operation: Operation, algorithm: Algorithm
) -> None:
    """As a busy node measures them, beside a given network. The formula takes the slower kind of link in each round."""
    network = Network(Link(2e-6, 12.5e9), Link(5e-5, 6e9), ranks_per_node=2)
    call = Call(operation, 16e6, RankGroup(16))
    simulated = by_simgrid(call, algorithm, 16, network)
    assert simulated == pytest.approx(by_formula(call, algorithm, network), rel=0.05)


@pytest.mark.slow
@pytest.mark.usefixtures("simgrid")
@pytest.mark.parametrize(("operation", "algorithm"), PAIRS)
def test_they_agree_on_a_network_whose_messages_cost_by_size_and_partner(
    operation: Operation, algorithm: Algorithm
) -> None:
    """As calibration fits them; with what a call costs beside its messages."""
    choice = AlgorithmChoice({operation: algorithm})
    cost = MessageCost(2e-6, (4e-9, 2e-9, 1e-9), (5e-9, 4e-9, 3e-9), (9e-9, 7e-9, 6e-9), (3e-9, 3e-9, 2e-9))
    model = CallModel(cost, cost, 1, ADDED, choice, {operation: 5e-5})
    for size, ranks in ((2e6, 2), (2e6, 8)):
        call = Call(operation, size, RankGroup(ranks))
        (simulated,) = SimulatedCalls(model).call_seconds([call], ranks)
        assert simulated == pytest.approx(model.seconds(call), rel=1e-3)


NATIVE = (
    ("allreduce", "ring", "allreduce", "lr", "{rank} allreduce {size} 0"),
    ("allreduce", "recursive doubling", "allreduce", "rdb", "{rank} allreduce {size} 0"),
    ("allreduce", "rabenseifner", "allreduce", "rab_rdb", "{rank} allreduce {size} 0"),
    ("allgather", "ring", "allgather", "ring", "{rank} allgather {part} {part} 6 6"),
    ("alltoall", "pairwise", "alltoall", "pair", "{rank} alltoall {part} {part} 6 6"),
)


@pytest.mark.slow
@pytest.mark.usefixtures("simgrid")
@pytest.mark.parametrize(("operation", "algorithm", "setting", "name", "line"), NATIVE)
def test_our_messages_take_as_long_as_smpis_own(
    operation: Operation, algorithm: Algorithm, setting: str, name: str, line: str, tmp_path: Path
) -> None:
    """SMPI's algorithms are those of Open MPI, MPICH and StarMPI, replayed as one call of 16 ranks."""
    ranks, size, latency = 16, 16_000_000, 2e-6
    lines = [line.format(rank=rank, size=size, part=size // ranks) for rank in range(ranks)]
    begin, end = ([f"{rank} {word}" for rank in range(ranks)] for word in ("init", "finalize"))
    (tmp_path / "trace").write_text("\n".join([*begin, *lines, *end]) + "\n")
    (tmp_path / "traces").write_text(f"{tmp_path / 'trace'}\n")
    (tmp_path / "hosts").write_text("".join(f"n{rank}\n" for rank in range(ranks)))
    (tmp_path / "platform.xml").write_text(
        '<?xml version="1.0"?><!DOCTYPE platform SYSTEM "https://simgrid.org/simgrid.dtd"><platform version="4.1">'
        f'<cluster id="c" prefix="n" suffix="" radical="0-{ranks - 1}" speed="1Gf" bw="12.5GBps" '
        f'lat="{latency / 2}s" sharing_policy="SPLITDUPLEX"/></platform>'
    )
    files = (tmp_path / "platform.xml", tmp_path / "traces", tmp_path / "hosts")
    theirs = replayed_seconds(*files, ranks, settings=(f"smpi/{setting}:{name}",))
    model = model_of(operation, algorithm, Network(Link(latency, 12.5e9)), added=0)
    (ours,) = SimulatedCalls(model).call_seconds([Call(operation, size, RankGroup(ranks))], ranks)
    assert ours == pytest.approx(theirs, rel=0.01)


@pytest.mark.slow
@pytest.mark.usefixtures("simgrid")
@pytest.mark.parametrize(
    ("topology", "slowdown"),
    [
        (FatTree(16, 16), 1.0),  # non-blocking
        (FatTree(16, 4), (4 + 2 * 4) / 6),  # of six exchanges two leave the leaf: 16 messages on 4 uplinks
        # Two nodes a router, and one link between routers: three of the exchanges within the group share it by two.
        # Between two groups of 16 nodes: 16 messages on one link, or on four.
        (Dragonfly(4, 8, 2), (1 + 3 * 2 + 2 * 16) / 6),
        (Dragonfly(4, 8, 2, 4), (1 + 3 * 2 + 2 * 4) / 6),
    ],
)
def test_a_network_that_blocks_takes_longer_than_the_formula(topology: Topology, slowdown: float) -> None:
    """Recursive doubling over 64 ranks, whose bytes decide: by how much is told by counting messages on links."""
    call = Call("allreduce", 105e6, RankGroup(64))
    found = by_simgrid(call, "recursive doubling", 64, topology=topology)
    wire = by_formula(call, "recursive doubling", added=0)
    adding = by_formula(call, "recursive doubling") - wire
    assert found == pytest.approx(slowdown * wire + adding, rel=0.01)


@pytest.mark.slow
@pytest.mark.usefixtures("simgrid")
def test_merged_rounds_hardly_change_what_an_oversubscribed_tree_takes() -> None:
    """64 ranks: 63 shifts one by one, and in 16 rounds."""
    call, tree = Call("alltoall", 105e6, RankGroup(64)), FatTree(16, 4)
    every, merged = (by_simgrid(call, "pairwise", 64, topology=tree, most=most) for most in (10**6, 1))
    assert every > 2.5 * by_formula(call, "pairwise")
    assert merged == pytest.approx(every, rel=0.05)


def hidden_step(ranks: int) -> list[Task]:
    """Two gradients of a backward pass, of which the first is hidden; a call that computing waits for; the update."""
    everyone = RankGroup(ranks)
    return [
        Task("forward", seconds=2e-3),
        Task("activations", (0,), call=Call("alltoall", 4e6, RankGroup(ranks // 2))),
        Task("dense", (1,), seconds=1e-3),
        Task("first gradient", (2,), call=Call("allreduce", 30e6, everyone)),
        Task("backward", seconds=6e-3),
        Task("second gradient", (4,), call=Call("allreduce", 60e6, everyone)),
        Task("slices", (5,), call=Call("allgather", 8e6, RankGroup(2, ranks // 2))),
        Task("update", (3, 5, 6), seconds=1e-3, part="update"),
    ]


@pytest.mark.slow
@pytest.mark.usefixtures("simgrid")
@pytest.mark.parametrize("coordination", [Coordination(0.0), Coordination(1e-3, 2e-4)])
@pytest.mark.parametrize("ranks", [4, 32])
def test_a_whole_step_overlaps_as_the_schedule_says(ranks: int, coordination: Coordination) -> None:
    choice = AlgorithmChoice({"allreduce": "ring", "alltoall": "pairwise", "allgather": "ring"})
    tasks = hidden_step(ranks)
    seconds = [by_formula(t.call, choice.algorithm(t.call.operation, 1, 1)) if t.call else 0.0 for t in tasks]
    planned = schedule(tasks, seconds, coordination)
    assert planned.all_hidden < planned.seconds < planned.nothing_hidden
    model = CallModel.of(NETWORK, choice, ADDED)
    assert simulated_step(planned, ranks, model, Star()) == pytest.approx(planned.seconds, rel=1e-3)
    tree = FatTree(2, 1)
    on_tree = [
        by_simgrid(t.call, choice.pinned[t.call.operation], ranks, topology=tree) if t.call else 0 for t in tasks
    ]
    blocked = schedule(tasks, on_tree, coordination)
    assert blocked.seconds > planned.seconds
    assert simulated_step(blocked, ranks, model, tree) == pytest.approx(blocked.seconds, rel=1e-3)


def test_without_simgrid_one_sentence_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"smpirun, which is not on PATH: install it with tools/simgrid.sh, or take"):
        by_simgrid(Call("allreduce", 1e6, RankGroup(4)), "ring", 4)


def test_a_simulation_that_fails_or_takes_too_long_ends_in_a_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What it had started is gone."""
    program = tmp_path / "smpirun"
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    for text, message in (
        ("echo no such platform; exit 3", r"smpirun failed \(exit status 3\): no such platform"),
        ("exit 0", "it said nothing"),
        (f"sleep 1000 & echo $! >{tmp_path}/pid; wait", "has not finished 4 actors in 1 s: simulate fewer ranks"),
    ):
        program.write_text(f"#!/bin/sh\n{text}\n")
        program.chmod(0o755)
        with pytest.raises(UserError, match=message):
            replayed_seconds(tmp_path, tmp_path / "traces", tmp_path, 4, seconds_allowed=1)
    left = int((tmp_path / "pid").read_text())
    assert not psutil.pid_exists(left) or psutil.Process(left).status() == psutil.STATUS_ZOMBIE
