"""Model parallelism for large Dense layers, data parallelism for everything else (Krizhevsky 2014, arXiv 1404.5997).

Groups of ranks each keep one copy of the large Dense layers, divided by rows: within a group activations move, across
groups the gradients of each slice are averaged. One group of all ranks is strategy 'tensor', more are 'mesh'.
"""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from horovod_flowers.runlog import Traffic
from horovod_flowers.strategy.exchange import Exchange
from horovod_flowers.strategy.layout import Groups, Part, Slice, equal_slices
from horovod_flowers.strategy.replicated import OneRank
from horovod_flowers.strategy.traffic import DenseShape, traffic_per_step
from horovod_flowers.strategy.wide_dense import RowParallelDense, dense_shapes


class TensorParallel(OneRank):
    """Large Dense layers divided over the ranks of a group."""

    def __init__(
        self, name: str, groups: Groups, exchange: Exchange, layers: Sequence[Any], copies: int, copies_set: Any
    ) -> None:
        super().__init__(groups)
        self.name = name
        self._exchange, self._layers, self._copies, self._copies_set = exchange, layers, copies, copies_set
        self._divided: set[int] = set()
        self._shapes: list[DenseShape] | None = []

    def adopt(self, model: Any) -> None:
        """Divide the chosen layers."""
        self._shapes = dense_shapes(model, self._layers)
        trainable = list(model.trainable_variables)
        layers = {id(layer.kernel): layer for layer in self._layers}
        self.updated, self.parts = [], []
        for number, variable in enumerate(trainable):
            if (layer := layers.get(id(variable))) is None:
                self.updated.append(variable)
                self.parts.append(Part(tuple(variable.shape)))
                continue
            inputs, units = variable.shape
            rows = equal_slices(inputs, self._exchange.size)
            RowParallelDense.take_over_rows(layer, rows, self._exchange, self.waits)
            self._divided.add(number)
            self.updated.append(layer.kernel)
            self.parts.append(Part((inputs, units), tuple(Slice(r.start * units, r.size * units) for r in rows)))
            self.notes.append(f"{layer.name} divided over {self._exchange.size} ranks, {rows[0].size} inputs each")
        self.differentiated = [variable.value for variable in self.updated]
        self.combined_early = tuple(sorted(self._divided)) if self._copies == 1 else ()

    def traffic(self, images: int) -> list[Traffic] | None:
        """Activations and sums within a group, gradients of the slices across groups, all others over all ranks."""
        if self._shapes is None:
            return None
        return traffic_per_step(
            "mesh",
            ranks=self._exchange.size * self._copies,
            images=images,
            small=[part.elements for part in self.parts if part.slices is None],
            layers=self._shapes,
            factor_value_bytes=self._exchange.bytes_per_value,
            group=self._exchange.size,
        )

    def combine(self, gradients: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """Average over all ranks, and those of a slice over the ranks that hold it."""
        return [self._combined(number, gradient) for number, gradient in enumerate(gradients)]

    def _combined(self, number: int, gradient: tf.Tensor) -> tf.Tensor:
        import horovod.tensorflow as hvd

        if number not in self._divided:
            return hvd.allreduce(gradient, op=hvd.Average, name=f"tensor.gradient.{number}")
        if self._copies == 1:
            return gradient
        name = f"tensor.slice.{self._exchange.rank}.{number}"
        return hvd.allreduce(gradient, op=hvd.Average, name=name, process_set=self._copies_set)
