"""Strategies that keep all weights on every rank: one rank, ranks that train independently, and allreduce."""

from collections.abc import Sequence
from typing import Any, Literal

import tensorflow as tf

from horovod_flowers.runlog.records import CommunicationVolume
from horovod_flowers.strategy.communication_volume import FP32_BYTES, DenseShape, volume_per_step
from horovod_flowers.strategy.layout import Groups, Part
from horovod_flowers.strategy.step_timer import StepTimer
from horovod_flowers.strategy.wide_dense import FactorDense, dense_shapes
from horovod_flowers.strategy.wide_dense_collectives import Exchange


class OneRank:
    """A single rank: nothing to combine, and no collective call in the way of an honest baseline."""

    name = "one rank"
    trains_one_model = True
    gathers_weights = False
    combined_early: tuple[int, ...] = ()

    def __init__(self, groups: Groups) -> None:
        self.groups = groups
        self.timer = StepTimer()
        self.notes: list[str] = []

    def attach(self, model: Any) -> None:
        """Take the model's weights as they are."""
        self.optimizer_variables = list(model.trainable_variables)
        self.model_variables = [variable.value for variable in self.optimizer_variables]
        self.parts = [Part(tuple(variable.shape)) for variable in self.optimizer_variables]

    def communication_volume(self, images: int) -> list[CommunicationVolume] | None:
        """Nothing."""
        return []

    def reduce_gradients(self, gradients: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """Leave them as they are."""
        return list(gradients)

    def gather_weights(self) -> None:
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
        exchange: Exchange,
        *,
        factored: Sequence[Any] = (),
        compression: Literal["none", "fp16"] = "none",
    ) -> None:
        super().__init__(groups)
        self._factored, self._exchange, self._compression = factored, exchange, compression
        self._shapes: list[DenseShape] | None = []

    def attach(self, model: Any) -> None:
        """Let the chosen Dense layers combine their own gradients by factors."""
        super().attach(model)
        self._shapes = dense_shapes(model, self._factored)
        early = []
        for layer in self._factored:
            early.append(next(k for k, variable in enumerate(self.optimizer_variables) if variable is layer.kernel))
            FactorDense.take_over(layer, self._exchange, self.timer)
            self.notes.append(f"gradient of {layer.name} by factors")
        self.combined_early = tuple(early)

    def communication_volume(self, images: int) -> list[CommunicationVolume] | None:
        """Gradients, and factors of those that the layers combine."""
        if self._shapes is None:
            return None
        return volume_per_step(
            "allreduce",
            ranks=self._exchange.size,
            images=images,
            small=[part.elements for k, part in enumerate(self.parts) if k not in self.combined_early],
            layers=self._shapes,
            factor_value_bytes=self._exchange.bytes_per_value,
            factored=True,
            gradient_value_bytes=2 if self._compression == "fp16" else FP32_BYTES,
        )

    def reduce_gradients(self, gradients: Sequence[tf.Tensor]) -> list[tf.Tensor]:
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
