"""Costs of collective calls against their closed forms, and what a calibration finds in made-up and measured calls."""

import math

import numpy as np
import pytest

from horovod_flowers.runlog.collectives import Collectives, MeasuredCalls
from horovod_flowers.runlog.records import Operation
from horovod_flowers.runtime.errors import UserError
from horovod_flowers.scaling_model.algorithms import ROUNDS, Algorithm, MessageCost, seconds_of, terms_of
from horovod_flowers.scaling_model.calibration import OPERATIONS, calibrate
from horovod_flowers.scaling_model.call_model import CallModel
from horovod_flowers.scaling_model.linear_cost import fit_linear_cost
from horovod_flowers.scaling_model.network import NAMED, Link, Network, parse_network
from horovod_flowers.scaling_model.open_mpi import AlgorithmChoice, choice_from_settings
from horovod_flowers.scaling_model.step_tasks import Call, RankGroup

A, B, G = 40e-6, 1 / 3e9, 1 / 8e9
NETWORK = Network(Link(A, 1 / B))


def cost(operation: Operation, algorithm: Algorithm, size: float, ranks: int) -> float:
    """Between nodes of one rank each."""
    return seconds_of(terms_of(Call(operation, size, RankGroup(ranks)), algorithm, 1), NETWORK, G)


@pytest.mark.parametrize("ranks", [2, 4, 16, 1024])
def test_powers_of_two_cost_what_thakur_rabenseifner_and_gropp_write(ranks: int) -> None:
    n, share, log = 5e6, (ranks - 1) / ranks * 5e6, math.log2(ranks)
    closed: dict[tuple[Operation, Algorithm], float] = {
        ("allreduce", "ring"): 2 * (ranks - 1) * A + 2 * share * B + share * G,
        ("allreduce", "recursive doubling"): log * (A + n * B + n * G),
        ("allreduce", "rabenseifner"): 2 * log * A + 2 * share * B + share * G,
        ("allreduce", "reduce and broadcast"): log * (A + n * B + n * G) + log * (A + n * B),
        ("reducescatter", "ring"): (ranks - 1) * A + share * B + share * G,
        ("reducescatter", "recursive halving"): log * A + share * B + share * G,
        ("allgather", "ring"): (ranks - 1) * A + share * B,
        ("allgather", "bruck"): log * A + share * B,
        ("allgather", "neighbor exchange"): ranks / 2 * A + share * B,
        ("alltoall", "pairwise"): (ranks - 1) * A + share * B,
        ("alltoall", "linear"): A + share * B,
    }
    for (operation, algorithm), expected in closed.items():
        assert cost(operation, algorithm, n, ranks) == pytest.approx(expected), (operation, algorithm)


def test_ranks_beyond_a_power_of_two_are_folded_into_it() -> None:
    """Six ranks: two hand their values to neighbours first; the other four do the rest."""
    n = 5e6
    assert cost("allreduce", "recursive doubling", n, 6) == pytest.approx(
        cost("allreduce", "recursive doubling", n, 4) + 2 * A + 2 * n * B + n * G
    )
    assert cost("allreduce", "rabenseifner", n, 6) == pytest.approx(
        cost("allreduce", "rabenseifner", n, 4) + 3 * A + 2 * n * B + n / 2 * G
    )
    assert cost("allgather", "bruck", n, 6) == pytest.approx(3 * A + 5 / 6 * n * B)
    assert cost("allreduce", "ring", n, 6) == pytest.approx(10 * A + 10 / 6 * n * B + 5 / 6 * n * G)


def test_every_algorithm_moves_at_least_what_has_to_arrive() -> None:
    """A rank receives (N-1)/N of the larger side, twice that where sums come back."""
    for (operation, algorithm), rounds in ROUNDS.items():
        for ranks in (2, 3, 5, 8, 12):
            sent = sum(part.times * part.bytes * part.peers for part in rounds(float(ranks), ranks))
            assert sent >= (2 if operation == "allreduce" else 1) * (ranks - 1) - 1e-9, (algorithm, ranks)


def test_the_ranks_of_a_node_share_its_link() -> None:
    """16 ranks, 4 a node: halves of Rabenseifner's exchange stay inside, a ring crosses once a node."""
    inside, outside = Link(1e-6, 100e9), Link(A, 1 / B)
    network, n = Network(outside, inside, 4), 4e6
    rabenseifner = seconds_of(terms_of(Call("allreduce", n, RankGroup(16)), "rabenseifner", 4), network, 0.0)
    crossing = 2 * (n / 8 + n / 16) * 4  # distances 4 and 8, there and back, by all four ranks of a node
    staying = 2 * (n / 2 + n / 4)
    assert rabenseifner == pytest.approx(4 * A + crossing * B + 4 * 1e-6 + staying / 100e9)
    ring = seconds_of(terms_of(Call("allreduce", n, RankGroup(16)), "ring", 4), network, 0.0)
    assert ring == pytest.approx(30 * A + 30 * n / 16 * B)
    copies = seconds_of(terms_of(Call("allreduce", n, RankGroup(4, 4)), "ring", 4), network, 0.0)
    assert copies == pytest.approx(6 * A + 6 * n / 4 * 4 * B)  # four rings share the link
    group = seconds_of(terms_of(Call("alltoall", n, RankGroup(4)), "pairwise", 4), network, 0.0)
    assert group == pytest.approx(3 * 1e-6 + 0.75 * n / 100e9)


def test_open_mpi_takes_algorithms_by_size_and_ranks() -> None:
    choice = AlgorithmChoice()
    assert choice.algorithm("allreduce", 4096, 16) == "rabenseifner"
    assert choice.algorithm("allreduce", 4095, 16) == "recursive doubling"
    assert choice.algorithm("allreduce", 1e8, 1024) == "rabenseifner"
    assert choice.algorithm("allreduce", 65535, 2) == "ring"
    assert choice.algorithm("allgather", 2**20 * 8, 8) == "bruck"
    assert choice.algorithm("allgather", 2**20 * 16, 16) == "ring"
    assert choice.algorithm("allgather", 2**20 * 4, 4) == "neighbor exchange"
    assert choice.algorithm("reducescatter", 2**20, 8) == "ring"
    assert choice.algorithm("reducescatter", 2**20, 256) == "butterfly"
    assert (choice.algorithm("alltoall", 1, 3), choice.algorithm("alltoall", 1, 4)) == ("pairwise", "linear")


def test_a_pinned_algorithm_is_taken_and_told() -> None:
    choice = choice_from_settings({"coll_tuned_use_dynamic_rules": "1", "coll_tuned_allreduce_algorithm": "4"})
    assert choice.algorithm("allreduce", 1e9, 64) == "ring"
    assert choice.algorithm("alltoall", 1e9, 64) == "pairwise"
    assert choice.words == "pinned (allreduce ring), all others by the fixed decisions of Open MPI 4.1"
    assert choice_from_settings({"coll_tuned_allreduce_algorithm": "4"}).pinned == {}  # Open MPI ignores it, too
    with pytest.raises(UserError, match="coll_tuned_dynamic_rules_filename is r.conf"):
        choice_from_settings({"coll_tuned_use_dynamic_rules": "1", "coll_tuned_dynamic_rules_filename": "r.conf"})
    for number in ("1", "9"):  # 1: linear, which no algorithm of the model is
        with pytest.raises(UserError, match=f"algorithm is {number}, which the scaling model does not know"):
            choice_from_settings({"coll_tuned_use_dynamic_rules": "1", "coll_tuned_allreduce_algorithm": number})


@pytest.mark.parametrize(
    ("text", "latency", "rate"),
    [("100Gbit,2us", 2e-6, 12.5e9), ("50 Mbit/s, 1ms", 1e-3, 6.25e6), ("0.2tbit,500ns", 5e-7, 25e9)],
)
def test_a_network_is_read(text: str, latency: float, rate: float) -> None:
    link = parse_network(text).between_nodes
    assert link.latency_seconds == pytest.approx(latency)
    assert link.bytes_per_second == pytest.approx(rate)


def test_networks_that_are_none_are_refused_in_a_sentence() -> None:
    for text in (
        "",
        "fast",
        "100Gbit",
        "100Gbit,2",
        "2us,100Gbit",
        "-1Gbit,2us",
        "0Gbit,2us",
        "1Gbit,2us,3",
        "nan,1us",
    ):
        with pytest.raises(UserError, match="network is .*: give rate and latency such as 100Gbit,2us"):
            parse_network(text)
    for text in ("9" * 400 + "Gbit,2us", "0.1kbit,2us", "1Gbit,100s"):
        with pytest.raises(UserError, match="which no link is: give a rate from 1kbit"):
            parse_network(text)
    assert all(parse_network(name).between_nodes.bytes_per_second > 0 for name in NAMED)


SIZES = [1024 * 4**k for k in range(9)]
TRUE = CallModel(
    between_nodes=MessageCost(30e-6, (2e-9,) * 3, (4e-9,) * 3, (3e-9,) * 3, (4e-9,) * 3),
    in_node=MessageCost(1e-6, (1e-10,) * 3, (1e-10,) * 3, (1e-10,) * 3, (1e-10,) * 3),
    added_seconds_per_byte=1e-10,
    call_seconds_more={"allreduce": 0.0, "reducescatter": 1e-4, "allgather": 2e-4, "alltoall": 5e-4},
    coordination_seconds=1e-4,
    coordination_seconds_per_doubling=1e-4,
)
"""One whose pairs take turns."""


def record(ranks: int, noise: float = 0.0, sizes: list[int] = SIZES) -> Collectives:
    """Calls as TRUE has them."""
    random = np.random.default_rng(ranks)
    measured = []
    for operation in OPERATIONS:
        for size in sizes:
            exact = TRUE.alone(Call(operation, size, RankGroup(ranks)), ranks)
            seconds = (exact * np.exp(noise * random.standard_normal(15))).tolist()
            measured.append(MeasuredCalls(operation=operation, bytes=size, seconds=seconds))
    return Collectives(
        schema=1, world_size=ranks, hosts=[f"n{rank}" for rank in range(ranks)], cpu_models=[None] * ranks, threads=1,
        oversubscribed=False, yield_when_idle=True, horovod_settings={}, versions={}, started_utc="", command=[],
        measured=measured, reduction_bytes_per_second=1e10, timestamp_seconds=0.0,
    )  # fmt: skip


@pytest.mark.parametrize("noise", [0.0, 0.2])
def test_calls_over_two_and_four_ranks_tell_of_8_and_16(noise: float) -> None:
    """Within 3 %, and with noise of a fifth in each call within 10."""
    found = calibrate([record(2, noise), record(4, noise)])
    assert found.ranks == (2, 4)
    assert found.relative_error < (0.1 if noise else 0.02)
    for ranks in (8, 16):
        for operation in OPERATIONS:
            for size in (2**22, 2**24, 2**27):
                call = Call(operation, size, RankGroup(ranks))
                expected = TRUE.alone(call, ranks)
                assert found.model.alone(call, ranks) == pytest.approx(expected, rel=0.1 if noise else 0.03), call
    assert found.lacks == []


def test_calls_over_two_ranks_alone_give_an_interval() -> None:
    found = calibrate([record(2)])
    for operation in OPERATIONS:
        call = Call(operation, 2**24, RankGroup(16))
        assert found.low.alone(call, 16) <= TRUE.alone(call, 16) <= found.high.alone(call, 16)
    assert found.lacks[0].startswith("calls were measured over 2 ranks only")


def test_no_part_becomes_negative() -> None:
    """Calls that get faster with size."""
    measured = [MeasuredCalls(operation="allreduce", bytes=size, seconds=[1 / size]) for size in SIZES]
    odd = record(2)
    found = calibrate(
        [type(odd)(**{name: getattr(odd, name) for name in odd.__struct_fields__} | {"measured": measured})]
    )
    assert found.model.between_nodes.latency_seconds >= 0
    assert min(found.model.between_nodes.paired) >= 0


def test_too_little_for_a_model_is_refused() -> None:
    with pytest.raises(UserError, match="at least 3 message sizes of each operation"):
        calibrate([record(2, sizes=SIZES[:2])])
    with pytest.raises(UserError, match="no collective calls were measured"):
        calibrate([])


def test_a_cost_by_size_alone_is_latency_and_bandwidth() -> None:
    fit = fit_linear_cost(SIZES, [0.001 + size / 2e9 for size in SIZES])
    assert fit.latency_seconds == pytest.approx(0.001)
    assert fit.bytes_per_second == pytest.approx(2e9)
    assert fit.seconds(2_000_000) == pytest.approx(0.002)
    with pytest.raises(UserError, match="at least 3 message sizes, not 2"):
        fit_linear_cost(SIZES[:2], [1, 2])
