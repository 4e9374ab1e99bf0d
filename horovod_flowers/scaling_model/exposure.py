"""Communication fitted to whole steps, where no calls were measured: what steps on a few ranks did not hide.

    exposed(N) = x_0 (p-1)/p n + x_1 (m-1)/m n + x_2 log2 N

with n the bytes of a step's calls, p the ranks of a node, and m the nodes: a ring within nodes, a ring over them, and
what grows with the ranks whatever is sent. As many of the unknowns are fitted, from the left, as there are numbers of
ranks; none becomes negative.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from horovod_flowers.runlog.records import CommunicationVolume


@dataclass(frozen=True)
class StepVolume:
    """What a step sends, over so many ranks of so many nodes."""

    ranks: int
    ranks_per_node: int
    size: float
    """The larger sides of all calls together, an allreduce's twice: n of the formula."""

    @staticmethod
    def of(volume: Sequence[CommunicationVolume], ranks: int, ranks_per_node: int) -> "StepVolume":
        """From what each rank sends."""
        size = sum(entry.bytes_sent * entry.ranks / (entry.ranks - 1) for entry in volume if entry.ranks > 1)
        return StepVolume(ranks, ranks_per_node, size)

    @property
    def terms(self) -> tuple[float, float, float]:
        """That the unknowns are multiplied with."""
        inside = min(self.ranks, self.ranks_per_node)
        nodes = max(1.0, self.ranks / self.ranks_per_node)
        return self.size * (inside - 1) / inside, self.size * (nodes - 1) / nodes, math.log2(self.ranks)


@dataclass(frozen=True)
class ExposedByVolume:
    """The fitted unknowns."""

    values: tuple[float, float, float]

    @staticmethod
    def fitted(volumes: Sequence[StepVolume], exposed_seconds: Sequence[float]) -> "ExposedByVolume":
        """From steps on different numbers of ranks, one at least."""
        from scipy.optimize import nnls

        matrix = np.array([volume.terms for volume in volumes], np.float64)
        used = [column for column in range(3) if matrix[:, column].any()][: len(volumes)]
        scale = matrix[:, used].max(axis=0)
        found, _ = nnls(matrix[:, used] / scale, np.asarray(exposed_seconds, np.float64))
        values = [0.0, 0.0, 0.0]
        for column, value, size in zip(used, found, scale, strict=True):
            values[column] = float(value / size)
        return ExposedByVolume((values[0], values[1], values[2]))

    def seconds(self, volume: StepVolume) -> float:
        """Exposed in a step of this volume."""
        return sum(value * term for value, term in zip(self.values, volume.terms, strict=True))
