"""What a collective call costs by its size: time = latency + bytes / bandwidth (Hockney 1994). Arithmetic only."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls

from horovod_flowers.errors import UserError


@dataclass(frozen=True)
class LinearCost:
    """A fitted cost."""

    latency_seconds: float
    bytes_per_second: float

    def seconds(self, size: float) -> float:
        """Predicted for a message of that many bytes."""
        return self.latency_seconds + size / self.bytes_per_second


def fit_linear_cost(sizes: Sequence[float], seconds: Sequence[float]) -> LinearCost:
    """Least squares of the relative error, so that small messages, which tell the latency, count as much as large ones.

    Neither part becomes negative. Raises UserError for fewer than three sizes.
    """
    if len(sizes) < 3:
        raise UserError(f"a cost model needs at least 3 message sizes, not {len(sizes)}")
    x, y = np.asarray(sizes, np.float64), np.asarray(seconds, np.float64)
    (latency, slope), _ = nnls(np.stack([1 / y, x / y], axis=1), np.ones(len(x)))
    return LinearCost(float(latency), float(1 / slope) if slope > 0 else float("inf"))
