"""A cost by size alone, fitted to measured calls: latency + bytes / bandwidth (Hockney 1994)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from horovod_flowers.runtime.errors import UserError

FEWEST_SIZES = 3


@dataclass(frozen=True)
class LinearCost:
    """Latency and bandwidth."""

    latency_seconds: float
    bytes_per_second: float

    def seconds(self, size: float) -> float:
        """Predicted for a message of that many bytes."""
        return self.latency_seconds + size / self.bytes_per_second


def fit_linear_cost(sizes: Sequence[float], seconds: Sequence[float]) -> LinearCost:
    """Least squares of the relative error, so that small messages, which tell the latency, count as much as large ones.

    Neither part becomes negative. Raises UserError for fewer than three sizes.
    """
    x, y = np.asarray(sizes, np.float64), np.asarray(seconds, np.float64)
    different = len(np.unique(x))
    if different < FEWEST_SIZES:
        raise UserError(f"a cost model needs at least {FEWEST_SIZES} message sizes, not {different}")
    from scipy.optimize import nnls

    terms = np.stack([np.ones_like(x), x], axis=1)
    (latency, slope), _ = nnls(terms / y[:, None], np.ones_like(y))
    return LinearCost(float(latency), 1 / float(slope) if slope > 0 else float("inf"))
