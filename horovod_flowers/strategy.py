"""What the ranks do with gradients. The only module besides start-up (ranks.py) that imports Horovod.

Built on Horovod's raw collectives: its DistributedOptimizer and DistributedGradientTape do not work under Keras 3
(horovod/horovod issue 4290).
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import horovod.tensorflow as hvd
import numpy as np
import tensorflow as tf


class Strategy(Protocol):
    """One way to divide the work of a step. Every rank calls every method in the same order."""

    trains_one_model: bool
    """Whether all ranks hold the same weights after every step, so that evaluating and saving them means something."""

    def share_state(self, variables: Sequence[Any]) -> None:
        """Give every rank the values of rank 0: weights and optimizer state, before the first step."""
        ...

    def combine(self, gradients: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """Turn the gradients of this rank's part into those of the global batch. Called inside tf.function.

        Each rank's loss is scaled so that the *mean* over ranks is the gradient of the global batch's mean loss.
        """
        ...

    def average_statistics(self, variables: Sequence[Any]) -> None:
        """Average what training moves without gradients (batch-normalisation statistics) over the ranks."""
        ...

    def total(self, values: np.ndarray) -> np.ndarray:
        """Element-wise sum over ranks of float64 or int64 values, on every rank."""
        ...


class Allreduce:
    """Data parallelism by ring-allreduce of each gradient (Sergeev and Del Balso 2018, arXiv 1802.05799).

    One allreduce a tensor, enqueued as soon as the backward pass yields it, so that the large Dense gradient travels
    while the convolutions are still being differentiated.
    """

    trains_one_model = True

    def share_state(self, variables: Sequence[Any]) -> None:
        """Broadcast rank 0's values."""
        for number, variable in enumerate(variables):
            value = tf.convert_to_tensor(variable.value)
            variable.assign(hvd.broadcast(value, root_rank=0, name=f"state.{number}"))

    def combine(self, gradients: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """Average over the ranks."""
        return [hvd.allreduce(g, op=hvd.Average, name=f"gradient.{number}") for number, g in enumerate(gradients)]

    def average_statistics(self, variables: Sequence[Any]) -> None:
        """Average floating-point variables; counters and seeds are left as they are."""
        for number, variable in enumerate(variables):
            value = tf.convert_to_tensor(variable.value)
            if value.dtype.is_floating:
                variable.assign(hvd.allreduce(value, op=hvd.Average, name=f"statistics.{number}"))

    def total(self, values: np.ndarray) -> np.ndarray:
        """Sum by allreduce."""
        return hvd.allreduce(tf.constant(values), op=hvd.Sum, name="total").numpy()


class Independent(Allreduce):
    """Ranks that train apart: the ceiling that a machine sets before any communication ('none').

    Sums for the log still cross ranks, once an epoch, outside the timed steps.
    """

    trains_one_model = False

    def combine(self, gradients: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """Leave them as they are."""
        return list(gradients)

    def average_statistics(self, variables: Sequence[Any]) -> None:
        """Nothing to share."""


class OneRank:
    """A single rank: nothing to combine, and no collective call in the way of an honest baseline."""

    trains_one_model = True

    def share_state(self, variables: Sequence[Any]) -> None:
        """Nothing to share."""

    def combine(self, gradients: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """Leave them as they are."""
        return list(gradients)

    def average_statistics(self, variables: Sequence[Any]) -> None:
        """Nothing to share."""

    def total(self, values: np.ndarray) -> np.ndarray:
        """The values themselves."""
        return values


STRATEGIES: dict[str, Callable[[], Strategy]] = {"allreduce": Allreduce, "none": Independent}


def make_strategy(name: str, size: int) -> Strategy:
    """The strategy of that name for `size` ranks."""
    return OneRank() if size == 1 else STRATEGIES[name]()
