"""Cost models of collective calls against their closed forms."""

import numpy as np
import pytest

from horovod_flowers.report.analysis.cost_model import CollectiveCost, fit_collective, fit_linear_cost
from horovod_flowers.runlog.records import Operation
from horovod_flowers.runtime.errors import UserError
from horovod_flowers.strategy.communication_volume import allreduce, exchange

A, B, G = 40e-6, 1 / 3e9, 1 / 8e9
SIZES = [1024 * 4**k for k in range(9)]


def closed_form(operation: str, ranks: int, size: float) -> float:
    """As Thakur, Rabenseifner and Gropp write it."""
    share = (ranks - 1) / ranks * size
    return {
        "allreduce": 2 * (ranks - 1) * A + 2 * share * B + share * G,
        "reducescatter": (ranks - 1) * A + share * B + share * G,
        "allgather": (ranks - 1) * A + share * B,
        "alltoall": (ranks - 1) * A + share * B,
    }[operation]


OPERATIONS: tuple[Operation, ...] = ("allreduce", "reducescatter", "allgather", "alltoall")


@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_what_made_the_times_is_found_and_carried_to_other_ranks(operation: Operation, ranks: int) -> None:
    cost = fit_collective(operation, ranks, SIZES, [closed_form(operation, ranks, size) for size in SIZES], G)
    assert (cost.latency_seconds, cost.seconds_per_byte) == pytest.approx((A, B))
    for others in (None, 2, 8, 64):
        assert cost.seconds(5e6, others) == pytest.approx(closed_form(operation, others or ranks, 5e6))


@pytest.mark.parametrize("operation", OPERATIONS)
def test_noise_of_a_tenth_moves_both_parts_by_less(operation: Operation) -> None:
    """Fifteen calls of each size."""
    random = np.random.default_rng(0)
    sizes = np.repeat(SIZES, 15)
    exact = np.array([closed_form(operation, 4, size) for size in sizes])
    seconds = (exact * random.normal(1, 0.1, len(sizes))).tolist()
    cost = fit_collective(operation, 4, sizes.tolist(), seconds, G)
    assert cost.latency_seconds == pytest.approx(A, rel=0.05)
    assert cost.seconds_per_byte == pytest.approx(B, rel=0.1)


def test_neither_part_becomes_negative() -> None:
    """Calls that took less than their reduction alone, and calls that get faster with size."""
    for seconds in ([size * G / 10 for size in SIZES], [1 / size for size in SIZES]):
        cost = fit_collective("allreduce", 2, SIZES, seconds, G)
        assert cost.latency_seconds >= 0
        assert cost.seconds_per_byte >= 0


@pytest.mark.parametrize("ranks", [2, 4, 16])
def test_a_step_is_the_sum_of_its_calls(ranks: int) -> None:
    """From what a run's record says of its traffic: four tensors, one call each."""
    tensors = [1000, 20_000, 3, 400_000]
    for operation in OPERATIONS:
        entry = allreduce(tensors, ranks) if operation == "allreduce" else exchange(operation, tensors, ranks)
        cost = CollectiveCost(operation, A, B, G, ranks=2)
        expected = sum(closed_form(operation, ranks, 4 * elements) for elements in tensors)
        assert cost.step_seconds(entry.calls, entry.bytes_sent, entry.ranks) == pytest.approx(expected)


def test_too_little_for_a_model_is_refused() -> None:
    with pytest.raises(UserError, match="at least 3 message sizes, not 2"):
        fit_collective("alltoall", 2, [1024, 4096, 4096], [1, 2, 2], G)
    with pytest.raises(UserError, match="at least 2 ranks, not 1"):
        fit_collective("alltoall", 1, SIZES, SIZES, G)


def test_a_cost_by_size_alone_is_latency_and_bandwidth() -> None:
    fit = fit_linear_cost(SIZES, [0.001 + size / 2e9 for size in SIZES])
    assert fit.latency_seconds == pytest.approx(0.001)
    assert fit.bytes_per_second == pytest.approx(2e9)
    assert fit.seconds(2_000_000) == pytest.approx(0.002)
    with pytest.raises(UserError, match="at least 3 message sizes, not 2"):
        fit_linear_cost(SIZES[:2], [1, 2])
