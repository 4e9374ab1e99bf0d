"""Strategies that keep all weights on every rank: one rank, ranks that train independently, and allreduce."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, Literal

import tensorflow as tf

from horovod_flowers.runlog.records import CommunicationVolume
from horovod_flowers.strategy.batch_statistics import BatchStatistics
from horovod_flowers.strategy.call_contents import calls_of
from horovod_flowers.strategy.communication_volume import (
    FP32_BYTES,
    DenseShape,
    added_up,
    allreduce,
    volume_per_step,
)
from horovod_flowers.strategy.layer_collectives import Exchange
from horovod_flowers.strategy.layout import Groups, Part
from horovod_flowers.strategy.packing import packed
from horovod_flowers.strategy.step_timer import StepTimer
from horovod_flowers.strategy.wide_dense import FactorDense, dense_shapes


class OneRank:
    """A single rank: nothing to combine, and no collective call in the way of an honest baseline."""

    name = "one rank"
    trains_one_model = True
    gathers_weights = False
    combined_early: tuple[int, ...] = ()
    exchange: Exchange | None = None
    """Of the layers that are taken over."""

    def __init__(self, groups: Groups) -> None:
        self.groups = groups
        self.timer = StepTimer()
        self.notes: list[str] = []
        self.packs_bytes = 0
        """Of a call that combines several tensors; 0: each has its own, which Horovod may fuse with others."""
        self.statistics: BatchStatistics | None = None
        """Of the layers of batch normalisation that are synchronised over the ranks."""
        self.needs_norms = False
        self.left_out: frozenset[int] = frozenset()

    def attach(self, model: Any) -> None:
        """Take the model's weights as they are."""
        self.optimizer_variables = list(model.trainable_variables)
        self.model_variables = [variable.value for variable in self.optimizer_variables]
        self.parts = [Part(tuple(variable.shape)) for variable in self.optimizer_variables]

    def communication_volume(self, images: int) -> list[CommunicationVolume] | None:
        """Of gradients and weights, of batch statistics and of the norms of divided gradients."""
        of_weights = self._volume_of_weights(images)
        of_statistics = self.statistics.communication_volume() if self.statistics is not None else []
        if of_weights is None or of_statistics is None:
            return None
        divided = len(self._divided_parts()) if self.needs_norms else 0
        norms = [allreduce([divided], self.groups.world.size)] if divided else []
        return added_up([*of_weights, *of_statistics, *norms])

    def calling_the_model(self, share: tf.Tensor | None = None) -> AbstractContextManager[None]:
        """What a training step calls its model in. share: 0 where none of this rank's rows count; None: all do."""
        return nullcontext() if self.statistics is None else self.statistics.in_calls(share)

    def _volume_of_weights(self, images: int) -> list[CommunicationVolume] | None:
        """What each rank sends for gradients and updated weights in a step."""
        return []

    def squared_norms(self, gradients: Sequence[tf.Tensor]) -> tf.Tensor:
        """Those of the whole gradients, from combined ones: those of divided weights are added up over their parts."""
        own = tf.stack([tf.reduce_sum(tf.square(tf.cast(gradient, tf.float32))) for gradient in gradients])
        divided = self._divided_parts()
        if not divided:
            return own
        import horovod.tensorflow as hvd

        # Over all ranks, which hold each part as often as there are copies of the divided weights.
        copies = self.groups.world.size // self.groups.members.size
        sums = hvd.allreduce(tf.gather(own, divided), op=hvd.Sum, name="gradient.squared_norms") / copies
        return tf.tensor_scatter_nd_update(own, [[number] for number in divided], sums)

    def _divided_parts(self) -> list[int]:
        return [number for number, part in enumerate(self.parts) if part.slices is not None]

    def reduce_gradients(self, gradients: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """Leave them as they are."""
        return list(gradients)

    @property
    def shared_early(self) -> tuple[int, ...]:
        """Positions of gradients in which each rank's loss has counted by its share already (`Exchange.share`)."""
        return self.combined_early

    def gather_weights(self) -> None:
        """Nothing to bring."""

    def _calls(self, numbers: Sequence[int], value_bytes: int = FP32_BYTES) -> list[list[int]]:
        """The numbers of weights by the calls that combine their gradients."""
        elements = [self.parts[number].elements for number in numbers]
        found = calls_of(elements, self.packs_bytes // value_bytes)
        return [[numbers[position] for position in positions] for positions in found]

    def _elements(self, calls: Sequence[Sequence[int]]) -> list[int]:
        """Of each call."""
        return [sum(self.parts[number].elements for number in numbers) for numbers in calls]

    def _averages(
        self, gradients: Sequence[tf.Tensor], calls: Sequence[Sequence[int]], name: str, **options: Any
    ) -> dict[int, tf.Tensor]:
        """Gradients averaged over ranks, by their numbers."""
        import horovod.tensorflow as hvd

        averages: dict[int, tf.Tensor] = {}
        for numbers in calls:
            average = partial(hvd.allreduce, op=hvd.Average, name=f"{name}.{numbers[0]}", **options)
            averages |= zip(numbers, packed([gradients[number] for number in numbers], average), strict=True)
        return averages


class Independent(OneRank):
    """Ranks that train apart: what a step takes if nothing is lost to communication ('none').

    Horovod is not started: its background thread would take time from the cores.
    """

    name = "none"
    trains_one_model = False


class Allreduce(OneRank):
    """Data parallelism by ring-allreduce of each gradient (Sergeev and Del Balso 2018, arXiv 1802.05799).

    One allreduce a tensor, or some together (packing.py), enqueued as soon as the backward pass yields them, so that
    the gradients of the last layers travel while the first ones are still being differentiated.
    """

    name = "allreduce"
    exchange: Exchange

    def __init__(
        self,
        groups: Groups,
        exchange: Exchange,
        *,
        factored: Sequence[Any] = (),
        compression: Literal["none", "fp16"] = "none",
    ) -> None:
        super().__init__(groups)
        self._factored, self.exchange, self._compression = factored, exchange, compression
        self._shapes: list[DenseShape] | None = []

    def attach(self, model: Any) -> None:
        """Let the chosen Dense layers combine their own gradients by factors."""
        super().attach(model)
        self._shapes = dense_shapes(model, self._factored)
        early = []
        for layer in self._factored:
            early.append(next(k for k, variable in enumerate(self.optimizer_variables) if variable is layer.kernel))
            FactorDense.take_over(layer, self.exchange, self.timer)
            self.notes.append(f"gradient of {layer.name} by factors")
        self.combined_early = tuple(early)

    def _volume_of_weights(self, images: int) -> list[CommunicationVolume] | None:
        """Gradients, and factors of those that the layers combine."""
        if self._shapes is None:
            return None
        return volume_per_step(
            "allreduce",
            ranks=self.exchange.size,
            images=images,
            small=self._elements(self._gradient_calls()),
            layers=self._shapes,
            factor_value_bytes=self.exchange.bytes_per_value,
            factored=True,
            gradient_value_bytes=self._value_bytes,
        )

    def reduce_gradients(self, gradients: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """Average over the ranks, but for what the layers have combined themselves."""
        sent = [tf.cast(gradient, tf.float16) for gradient in gradients] if self._value_bytes == 2 else gradients
        averages = self._averages(sent, self._gradient_calls(), "allreduce.gradient")
        return [
            tf.cast(averages[number], gradient.dtype) if number in averages else gradient
            for number, gradient in enumerate(gradients)
        ]

    @property
    def _value_bytes(self) -> int:
        return 2 if self._compression == "fp16" else FP32_BYTES

    def _gradient_calls(self) -> list[list[int]]:
        left_out = {*self.combined_early, *self.left_out}
        numbers = [number for number in range(len(self.parts)) if number not in left_out]
        return self._calls(numbers, self._value_bytes)
