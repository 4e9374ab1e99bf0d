"""Model parallelism for large Dense layers, data parallelism for everything else (Krizhevsky 2014, arXiv 1404.5997).

Groups of ranks each keep one copy of the large Dense layers, divided by rows: within a group activations move, across
groups the gradients of each slice are averaged. One group of all ranks is strategy 'tensor', more are 'mesh'.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import tensorflow as tf

from horovod_flowers.runlog.records import CommunicationVolume
from horovod_flowers.strategy.allreduce import OneRank
from horovod_flowers.strategy.communication_volume import DenseShape, volume_per_step
from horovod_flowers.strategy.layer_collectives import Exchange
from horovod_flowers.strategy.layout import EqualSlices, Groups, Part
from horovod_flowers.strategy.wide_dense import RowParallelDense, dense_shapes


class TensorParallel(OneRank):
    """Large Dense layers divided over the ranks of a group."""

    exchange: Exchange

    def __init__(
        self, name: str, groups: Groups, exchange: Exchange, layers: Sequence[Any], copies: int, copies_set: Any
    ) -> None:
        super().__init__(groups)
        self.name = name
        self.exchange, self._layers, self._copies, self._copies_set = exchange, layers, copies, copies_set
        self._divided: set[int] = set()
        self._shapes: list[DenseShape] | None = []

    def attach(self, model: Any) -> None:
        """Divide the chosen layers."""
        self._shapes = dense_shapes(model, self._layers)
        trainable = list(model.trainable_variables)
        layers = {id(layer.kernel): layer for layer in self._layers}
        self.optimizer_variables, self.parts = [], []
        for number, variable in enumerate(trainable):
            if (layer := layers.get(id(variable))) is None:
                self.optimizer_variables.append(variable)
                self.parts.append(Part(tuple(variable.shape)))
                continue
            inputs, units = variable.shape
            rows = EqualSlices(inputs, self.exchange.size)
            RowParallelDense.take_over_rows(layer, rows, self.exchange, self.timer)
            self._divided.add(number)
            self.optimizer_variables.append(layer.kernel)
            self.parts.append(Part((inputs, units), replace(rows, unit=units)))
            self.notes.append(f"{layer.name} divided over {self.exchange.size} ranks, {rows[0].size} inputs each")
        self.model_variables = [variable.value for variable in self.optimizer_variables]
        self.combined_early = tuple(sorted(self._divided)) if self._copies == 1 else ()

    @property
    def shared_early(self) -> tuple[int, ...]:
        """Those of the divided layers."""
        return tuple(sorted(self._divided))

    def _volume_of_weights(self, images: int) -> list[CommunicationVolume] | None:
        """Activations and sums within a group, gradients of the slices across groups, all others over all ranks."""
        if self._shapes is None:
            return None
        return volume_per_step(
            "mesh",
            ranks=self.exchange.size * self._copies,
            images=images,
            small=self._elements(self._whole_calls()),
            layers=self._shapes,
            factor_value_bytes=self.exchange.bytes_per_value,
            group=self.exchange.size,
        )

    def reduce_gradients(self, gradients: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """Average over all ranks, and those of a slice over the ranks that hold it."""
        averages = self._averages(gradients, self._whole_calls(), "tensor.gradient")
        if self._copies > 1:
            name, slices = f"tensor.slice.{self.exchange.rank}", [[number] for number in sorted(self._divided)]
            averages |= self._averages(gradients, slices, name, process_set=self._copies_set)
        return [averages.get(number, gradient) for number, gradient in enumerate(gradients)]

    def _whole_calls(self) -> list[list[int]]:
        left_out = self._divided | self.left_out
        return self._calls([number for number in range(len(self.parts)) if number not in left_out])
