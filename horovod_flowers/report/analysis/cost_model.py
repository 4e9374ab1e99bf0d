"""What collective calls cost, from measured ones. Arithmetic only; scipy is loaded where something is fitted.

One call over N ranks, where n is the bytes of its larger side on a rank:

    allreduce                        T = 2 (N-1) a + 2 (N-1)/N n b + (N-1)/N n g     ring, Patarasuk and Yuan 2009
    reduce-scatter                   T =   (N-1) a +   (N-1)/N n b + (N-1)/N n g     ring or pairwise exchange
    allgather, alltoall              T =   (N-1) a +   (N-1)/N n b                   ring; pairwise exchange

as in Thakur, Rabenseifner and Gropp 2005, sections 3 and 4, with a message of m bytes taking a + m b (Hockney 1994):
a, seconds a message; b, seconds a byte; g, seconds a byte of adding up two arrays on one rank.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from horovod_flowers.runlog.records import Operation
from horovod_flowers.runtime.errors import UserError

FEWEST_SIZES = 3
# How often each operation sends its (N-1) messages of n/N bytes, and how often it adds up what arrives.
SENT: dict[Operation, int] = {"allreduce": 2, "reducescatter": 1, "allgather": 1, "alltoall": 1}
ADDED: dict[Operation, int] = {"allreduce": 1, "reducescatter": 1, "allgather": 0, "alltoall": 0}


@dataclass(frozen=True)
class LinearCost:
    """A cost by size alone: latency + bytes / bandwidth (Hockney 1994)."""

    latency_seconds: float
    bytes_per_second: float

    def seconds(self, size: float) -> float:
        """Predicted for a message of that many bytes."""
        return self.latency_seconds + size / self.bytes_per_second


@dataclass(frozen=True)
class CollectiveCost:
    """What one operation costs, by the formula of its algorithm."""

    operation: Operation
    latency_seconds: float
    """Of one message between two ranks: a."""
    seconds_per_byte: float
    """Of what a rank sends: b."""
    reduction_seconds_per_byte: float
    """Of what a rank adds up: g."""
    ranks: int
    """That took part in the calls that were measured."""

    def seconds(self, size: float, ranks: int | None = None) -> float:
        """Predicted for one call, `size` being n; over the ranks that were measured, or over others."""
        over = self.ranks if ranks is None else ranks
        return self.step_seconds(1, SENT[self.operation] * (over - 1) / over * size, over)

    def step_seconds(self, calls: float, bytes_sent: float, ranks: int | None = None) -> float:
        """Predicted for calls in which each rank sends `bytes_sent` together, as in `runlog.Traffic`.

        The bytes hold their factor (N-1)/N already: `ranks` other than those measured change the messages.
        """
        messages = calls * SENT[self.operation] * ((self.ranks if ranks is None else ranks) - 1)
        added = bytes_sent * ADDED[self.operation] / SENT[self.operation]
        return (
            messages * self.latency_seconds
            + bytes_sent * self.seconds_per_byte
            + added * self.reduction_seconds_per_byte
        )


def fit_linear_cost(sizes: Sequence[float], seconds: Sequence[float]) -> LinearCost:
    """Least squares of the relative error, so that small messages, which tell the latency, count as much as large ones.

    Neither part becomes negative. Raises UserError for fewer than three sizes.
    """
    x, y = np.asarray(sizes, np.float64), np.asarray(seconds, np.float64)
    latency, slope = _relative_least_squares(x, np.stack([np.ones_like(x), x], axis=1), np.zeros_like(x), y)
    return LinearCost(latency, 1 / slope if slope > 0 else float("inf"))


def fit_collective(
    operation: Operation,
    ranks: int,
    sizes: Sequence[float],
    seconds: Sequence[float],
    reduction_seconds_per_byte: float,
) -> CollectiveCost:
    """Latency and seconds a byte from measured calls: seconds[k] of one of sizes[k] bytes (n), over `ranks`.

    Least squares of the relative error, neither below zero. The reduction's cost is given, since bytes sent and bytes
    added up grow alike: calls alone cannot tell them apart. Raises UserError for fewer than three different sizes, or
    fewer than two ranks.
    """
    if ranks < 2:
        raise UserError(f"a cost model of {operation} needs calls over at least 2 ranks, not {ranks}")
    n, y = np.asarray(sizes, np.float64), np.asarray(seconds, np.float64)
    share = (ranks - 1) / ranks
    sent = SENT[operation]
    terms = np.stack([np.full_like(n, sent * (ranks - 1)), sent * share * n], axis=1)
    known = ADDED[operation] * share * n * reduction_seconds_per_byte
    latency, per_byte = _relative_least_squares(n, terms, known, y)
    return CollectiveCost(operation, latency, per_byte, reduction_seconds_per_byte, ranks)


def _relative_least_squares(
    sizes: np.ndarray, terms: np.ndarray, known: np.ndarray, seconds: np.ndarray
) -> tuple[float, float]:
    """Both x >= 0 with the least sum of ((terms x + known) / seconds - 1)^2; terms [calls, 2], the others [calls]."""
    different = len(np.unique(sizes))
    if different < FEWEST_SIZES:
        raise UserError(f"a cost model needs at least {FEWEST_SIZES} message sizes, not {different}")
    from scipy.optimize import nnls

    (first, second), _ = nnls(terms / seconds[:, None], 1 - known / seconds)
    return float(first), float(second)
