"""Strategies that keep all weights on every rank: one rank, ranks that train apart, and allreduce."""

from collections.abc import Sequence
from typing import Any, Literal, Protocol

import tensorflow as tf

from horovod_flowers.strategy.layout import Groups, Part
from horovod_flowers.strategy.wide_dense import Exchange, FactorDense, Waits


class Strategy(Protocol):
    """One way to divide the work of a step. Every rank calls every method in the same order."""

    name: str
    trains_one_model: bool
    """Whether all ranks train one model, so that evaluating and saving it means something."""
    groups: Groups
    differentiated: list[Any]
    """tf.Variables with respect to which each rank differentiates its loss, in the model's order."""
    updated: list[Any]
    """Keras variables that this rank's optimizer updates, one for each that is trained, in the model's order."""
    parts: list[Part]
    """What each of `updated` is of the whole."""
    publishes: bool
    """Whether updated weights have to travel before the model can read them."""
    waits: Waits
    """Times in which this rank could do nothing but wait for others, inside the forward and backward pass."""
    combined_early: tuple[int, ...]
    """Positions of gradients that are those of the global batch already when the backward pass yields them."""
    notes: list[str]
    """What was done to which layers, for the log."""

    def adopt(self, model: Any) -> None:
        """Prepare a built model, in place, before its optimizer is built."""
        ...

    def combine(self, gradients: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """Turn the gradients of this rank's part into those of the global batch, one for each of `updated`.

        Each rank's loss is scaled so that the *mean* over ranks is the gradient of the global batch's mean loss.
        Called inside tf.function.
        """
        ...

    def publish(self) -> None:
        """Bring updated weights to where the model reads them. Every rank calls it, inside tf.function or not."""
        ...


class OneRank:
    """A single rank: nothing to combine, and no collective call in the way of an honest baseline."""

    name = "one rank"
    trains_one_model = True
    publishes = False
    combined_early: tuple[int, ...] = ()

    def __init__(self, groups: Groups) -> None:
        self.groups = groups
        self.waits = Waits()
        self.notes: list[str] = []

    def adopt(self, model: Any) -> None:
        """Take the model's weights as they are."""
        self.updated = list(model.trainable_variables)
        self.differentiated = [variable.value for variable in self.updated]
        self.parts = [Part(tuple(variable.shape)) for variable in self.updated]

    def combine(self, gradients: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """Leave them as they are."""
        return list(gradients)

    def publish(self) -> None:
        """Nothing to bring."""


class Independent(OneRank):
    """Ranks that train apart: the ceiling that a machine sets before any communication ('none').

    Horovod is not started: its background thread would take time from the cores.
    """

    name = "none"
    trains_one_model = False


class Allreduce(OneRank):
    """Data parallelism by ring-allreduce of each gradient (Sergeev and Del Balso 2018, arXiv 1802.05799).

    One allreduce a tensor, enqueued as soon as the backward pass yields it, so that the gradients of the last layers
    travel while the first ones are still being differentiated.
    """

    name = "allreduce"

    def __init__(
        self,
        groups: Groups,
        *,
        factored: Sequence[Any] = (),
        exchange: Exchange | None = None,
        compression: Literal["none", "fp16"] = "none",
    ) -> None:
        super().__init__(groups)
        self._factored, self._exchange, self._compression = factored, exchange, compression

    def adopt(self, model: Any) -> None:
        """Let the chosen Dense layers combine their own gradients by factors."""
        super().adopt(model)
        early = []
        for layer in self._factored:
            assert self._exchange is not None
            early.append(next(k for k, variable in enumerate(self.updated) if variable is layer.kernel))
            FactorDense.take_over(layer, self._exchange, self.waits)
            self.notes.append(f"gradient of {layer.name} by factors")
        self.combined_early = tuple(early)

    def combine(self, gradients: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """Average over the ranks, but for what the layers have combined themselves."""
        return [
            gradient if number in self.combined_early else self._average(gradient, number)
            for number, gradient in enumerate(gradients)
        ]

    def _average(self, gradient: tf.Tensor, number: int) -> tf.Tensor:
        import horovod.tensorflow as hvd

        sent = tf.cast(gradient, tf.float16) if self._compression == "fp16" else gradient
        average = hvd.allreduce(sent, op=hvd.Average, name=f"allreduce.gradient.{number}")
        return tf.cast(average, gradient.dtype)
