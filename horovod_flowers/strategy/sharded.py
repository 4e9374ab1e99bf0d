"""Data parallelism with the update divided over ranks (ZeRO stages 1 and 2, Rajbhandari et al. 2020, arXiv 1910.02054,
section 5): each rank reduces, keeps state for and updates its part of the weights, and gathers the others' parts."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from horovod_flowers.runlog.records import CommunicationVolume
from horovod_flowers.strategy.allreduce import OneRank
from horovod_flowers.strategy.call_contents import SMALLEST_DIVIDED
from horovod_flowers.strategy.communication_volume import DenseShape, volume_per_step
from horovod_flowers.strategy.layer_collectives import Exchange
from horovod_flowers.strategy.layout import EqualSlices, Groups, Part
from horovod_flowers.strategy.packing import gathered, scattered
from horovod_flowers.strategy.wide_dense import GatheredDense, dense_shapes

NAMED_WEIGHTS = 4
"""Of those that stay whole, in the log."""


class Sharded(OneRank):
    """Reduce-scatter of gradients, update of this rank's part, allgather of weights."""

    name = "sharded"
    gathers_weights = True
    exchange: Exchange

    def __init__(
        self,
        groups: Groups,
        exchange: Exchange,
        why_whole: Callable[[Any], str | None],
        factored: Sequence[Any] = (),
        smallest_divided: float = SMALLEST_DIVIDED,
    ) -> None:
        """`why_whole` tells of a weight why it has to stay whole, or None; see WeightUse."""
        super().__init__(groups)
        self.exchange, self._factored, self._why_whole = exchange, factored, why_whole
        self._smallest_divided = smallest_divided
        self._full: list[Any] = []  # the model's own variable for each of `updated`
        self._gathered: list[Any] = []
        self._shapes: list[DenseShape] | None = []

    def attach(self, model: Any) -> None:
        """Make a variable of this rank's part of every weight that is not small and need not be whole."""
        self._shapes = dense_shapes(model, self._factored)
        trainable = list(model.trainable_variables)
        layers = {id(layer.kernel): layer for layer in self._factored}
        self.optimizer_variables, self.model_variables, self.parts, early = [], [], [], []
        whole = []
        for number, variable in enumerate(trainable):
            small = variable.value.shape.num_elements() < self._smallest_divided
            reason = None if small else self._why_whole(variable)
            if id(variable) in layers:
                early.append(number)
                self._adopt_dense(layers[id(variable)])
            elif not small and reason is None:
                self._adopt_flat(variable)
            else:
                whole += [f"{variable.path} ({reason})"] if reason is not None else []
                self._full.append(None)
                self.optimizer_variables.append(variable)
                self.model_variables.append(variable.value)
                self.parts.append(Part(tuple(variable.shape)))
        del self._why_whole  # and the graph that it looks at
        self.combined_early = tuple(early)
        divided = sum(part.elements for part in self.parts if part.slices)
        self.notes.append(f"{divided:,} weights divided over {self.exchange.size} ranks")
        if whole:
            more = f" and {len(whole) - NAMED_WEIGHTS} more" if len(whole) > NAMED_WEIGHTS else ""
            self.notes.append(f"whole on every rank: {', '.join(whole[:NAMED_WEIGHTS])}{more}")

    def _adopt_dense(self, layer: Any) -> None:
        inputs, units = layer.kernel.shape
        rows = EqualSlices(inputs, self.exchange.size)
        GatheredDense.take_over_rows(layer, rows, self.exchange, self.timer)
        self._gathered.append(layer)
        self._full.append(None)
        self.optimizer_variables.append(layer.kernel)
        self.model_variables.append(layer.kernel.value)
        self.parts.append(Part((inputs, units), replace(rows, unit=units)))
        self.notes.append(f"gradient of {layer.name} by factors")

    def _adopt_flat(self, variable: Any) -> None:
        shape = tuple(variable.shape)
        slices = EqualSlices(int(np.prod(shape)), self.exchange.size)
        own = slices[self.exchange.rank]
        values = np.asarray(variable).reshape(-1)[own.start : own.start + own.size]
        self._full.append(variable)
        self.optimizer_variables.append(keras.Variable(values, name=f"{variable.name}_part"))
        self.model_variables.append(variable.value)
        self.parts.append(Part(shape, slices))

    def _volume_of_weights(self, images: int) -> list[CommunicationVolume] | None:
        """Gradients to those who update their weights, or their factors, and the weights back."""
        if self._shapes is None:
            return None
        return volume_per_step(
            "sharded",
            ranks=self.exchange.size,
            images=images,
            small=self._elements(self._whole_calls()),
            divided=self._elements(self._divided_calls()),
            layers=self._shapes,
            factor_value_bytes=self.exchange.bytes_per_value,
            factored=True,
        )

    def reduce_gradients(self, gradients: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """Average over the ranks: this rank's part of the large ones, all of the small ones."""
        import horovod.tensorflow as hvd

        combined = self._averages(gradients, self._whole_calls(), "sharded.gradient")
        for numbers in self._divided_calls(self.left_out):
            scatter = partial(hvd.reducescatter, op=hvd.Average, name=f"sharded.gradient.{numbers[0]}")
            flat = [tf.reshape(gradients[number], [-1]) for number in numbers]
            parts = (
                [scatter(flat[0])]
                if len(flat) == 1
                else scattered(flat, self._slices(numbers), self.exchange.rank, scatter)
            )
            for number, part in zip(numbers, parts, strict=True):
                combined[number] = tf.ensure_shape(part, self.optimizer_variables[number].shape)
        return [combined.get(number, gradient) for number, gradient in enumerate(gradients)]

    def gather_weights(self) -> None:
        """Gather every divided weight into the model's own variable."""
        import horovod.tensorflow as hvd

        for layer in self._gathered:
            layer.gather_kernel()
        for numbers in self._divided_calls():
            gather = partial(hvd.allgather, name=f"sharded.weight.{numbers[0]}")
            parts = [tf.convert_to_tensor(self.optimizer_variables[number].value) for number in numbers]
            whole = [gather(parts[0])] if len(parts) == 1 else gathered(parts, self._slices(numbers), gather)
            for number, values in zip(numbers, whole, strict=True):
                full = self._full[number]
                full.value.assign(tf.reshape(values, full.shape))

    def _whole_calls(self) -> list[list[int]]:
        """Those of the gradients that all ranks need."""
        whole = [number for number, part in enumerate(self.parts) if part.slices is None]
        return self._calls([number for number in whole if number not in self.left_out])

    def _divided_calls(self, left_out: frozenset[int] = frozenset()) -> list[list[int]]:
        """Those of the weights that are divided, but for the layers that combine their own."""
        divided = [number for number, full in enumerate(self._full) if full is not None]
        return self._calls([number for number in divided if number not in left_out])

    def _slices(self, numbers: Sequence[int]) -> list[EqualSlices]:
        return [slices for number in numbers if (slices := self.parts[number].slices) is not None]
