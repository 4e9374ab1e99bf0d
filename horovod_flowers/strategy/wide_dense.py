"""Large Dense layers whose product or gradient is worked out by several ranks.

A Dense layer with kernel W [inputs, units] computes out = a W for activations a [images, inputs]; its gradient is
dW = a^T g for output gradients g [images, units]. Both a and g are small where W is large, which gives three ways:

- FactorDense keeps W on every rank and gathers a and g of all ranks instead of reducing dW: sufficient factors (Xie et
  al. 2016, arXiv 1511.08486; chosen by bytes as in Zhang et al. 2017, arXiv 1706.03292, section 3.2).
- GatheredDense keeps a read-only copy of W on every rank, and the rows of W that a rank updates; dW of these rows comes
  from the factors, and only W itself is gathered after the update.
- RowParallelDense keeps a rank's rows of W only. The columns of a that belong to them come by alltoall, partial sums
  are added by reduce-scatter (Krizhevsky 2014, arXiv 1404.5997, section 3; rows as in Shoeybi et al. 2019,
  arXiv 1909.08053, section 3).

Layers are taken over in place (the class of a built keras.layers.Dense changes), so that any model that contains one
works: Sequential, functional or subclassed.
"""

import math
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import keras
import numpy as np
import tensorflow as tf

from horovod_flowers.model.keras_internals import all_layers, nodes_in_use, nodes_into, replace_kernel, swap_kernel
from horovod_flowers.runtime.errors import UserError
from horovod_flowers.strategy.communication_volume import DenseShape
from horovod_flowers.strategy.layer_collectives import Exchange
from horovod_flowers.strategy.layout import EqualSlices, Slice
from horovod_flowers.strategy.step_timer import StepTimer

GatherInputs: TypeAlias = Callable[[tf.Tensor, str], tf.Tensor]
"""This rank's inputs, and a name for the call -> the inputs that its part of the gradient needs."""


class WideDense(keras.layers.Dense):
    """A Dense layer taken over; subclasses say how the product and its gradient are worked out."""

    _exchange: Exchange
    _timer: StepTimer

    @classmethod
    def take_over(cls, layer: Any, exchange: Exchange, timer: StepTimer) -> None:
        """Turn a built keras.layers.Dense into one of this class."""
        layer.__class__ = cls
        layer._exchange, layer._timer = exchange, timer

    @property
    def ranks(self) -> int:
        """Over which the product or its gradient is worked out."""
        return self._exchange.size

    def call(self, inputs: Any, training: Any = None) -> Any:
        """[..., inputs] -> [..., units], as keras.layers.Dense computes it."""
        flat = tf.reshape(inputs, [-1, inputs.shape[-1]])
        outputs = tf.reshape(self._product(flat), tf.concat([tf.shape(inputs)[:-1], [self.units]], 0))
        outputs = tf.ensure_shape(outputs, [*inputs.shape[:-1], self.units])
        if self.bias is not None:
            outputs = outputs + self.bias
        return outputs if self.activation is None else self.activation(outputs)

    @abstractmethod
    def _product(self, inputs: tf.Tensor) -> tf.Tensor:
        """[images, inputs] -> [images, units], with its gradient."""

    def _product_by_factors(self, inputs: tf.Tensor, weights: tf.Tensor, gather_inputs: GatherInputs) -> tf.Tensor:
        """The product with whole weights; the gradient of what this rank updates of them from gathered factors."""
        exchange, timer = self._exchange, self._timer
        names = {what: exchange.call_name(what) for what in ("inputs", "gradients")}

        @tf.custom_gradient
        def product(inputs: tf.Tensor, optimizer_variables: tf.Tensor) -> Any:
            a = exchange.narrow(inputs)

            def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
                own_g, g = exchange.narrow(upstream), exchange.narrow(exchange.by_share(upstream))
                all_g, all_a = exchange.gather(g, names["gradients"]), gather_inputs(a, names["inputs"])
                timer.arrives([all_a, all_g])
                d_inputs = tf.matmul(own_g, weights, transpose_b=True)
                with tf.control_dependencies([d_inputs]):  # the layers before this one wait for it
                    d_updated = _outer(all_a, all_g, exchange.size)
                return differentiated_once(tf.cast(d_inputs, tf.float32)), d_updated

            return tf.cast(tf.matmul(a, weights), tf.float32), gradient

        return product(inputs, tf.convert_to_tensor(self.kernel.value))

    def keep_rows(self, rows: Slice) -> None:
        """Keep these rows of the kernel only."""
        replace_kernel(self, np.asarray(self.kernel)[rows.start : rows.start + rows.size])


@tf.custom_gradient
def differentiated_once(gradients: tf.Tensor) -> Any:
    """Gradients of a layer's inputs. Differentiated again, they would give those of this rank's rows for its kernel's.

    Raises SecondDerivativeError where that is asked for.
    """

    def gradient(*_: tf.Tensor) -> tf.Tensor:
        raise SecondDerivativeError(
            "the gradient of a gradient is asked for, through a Dense layer whose own gradient travels as factors: use "
            "dense_gradients='reduced'"
        )

    return tf.identity(gradients), gradient


class SecondDerivativeError(UserError):
    """A step differentiates what it has differentiated before."""


class FactorDense(WideDense):
    """The whole kernel on every rank; its gradient, already that of the global batch, from gathered factors."""

    def _product(self, inputs: tf.Tensor) -> tf.Tensor:
        weights = self._exchange.narrow(tf.convert_to_tensor(self.kernel.value))
        return self._product_by_factors(inputs, weights, self._exchange.gather)


class GatheredDense(WideDense):
    """This rank's rows of the kernel to update, and all rows, which are only read: the variable that the kernel was, or
    a copy of it in the format of factors."""

    _rows: EqualSlices
    _copy: tf.Variable
    _gathering: str

    @classmethod
    def take_over_rows(cls, layer: Any, rows: EqualSlices, exchange: Exchange, timer: StepTimer) -> None:
        """Take over a built keras.layers.Dense of which rank r is to update rows[r]."""
        cls.take_over(layer, exchange, timer)
        layer._rows, layer._gathering = rows, exchange.call_name("kernel")
        whole = layer.kernel.value
        if whole.dtype != exchange.dtype:
            whole = tf.Variable(exchange.narrow(whole), trainable=False, name=f"{layer.name}_copy")
        layer._copy = whole
        layer.keep_rows(rows[exchange.rank])

    def gather_kernel(self) -> None:
        """Bring the updated rows of all ranks into this rank's copy."""
        exchange = self._exchange
        rows = exchange.narrow(tf.convert_to_tensor(self.kernel.value))
        self._copy.assign(exchange.gather(rows, self._gathering))

    def _product(self, inputs: tf.Tensor) -> tf.Tensor:
        def own_inputs(a: tf.Tensor, name: str) -> tf.Tensor:
            return self._exchange.columns_to_owners(a, self._rows, name)

        return self._product_by_factors(inputs, tf.convert_to_tensor(self._copy), own_inputs)


class TakenOver:
    """A layer that is taken over while a step is computed, and a keras.layers.Dense with its own kernel else."""

    def __init__(self, layer: Any, whole: Any) -> None:
        """Give it back. layer: taken over, and before with the kernel `whole`."""
        self._layer, self._whole, self._kind, self.kernel = layer, whole, type(layer), layer.kernel
        names = [name for kind in (WideDense, self._kind) for name in kind.__annotations__]
        self._kept = {name: vars(layer)[name] for name in names}
        self._give_back()

    def _give_back(self) -> None:
        self._layer.__class__ = keras.layers.Dense
        for name in self._kept:
            del vars(self._layer)[name]
        if self.kernel is not self._whole:
            swap_kernel(self._layer, self._whole)

    @contextmanager
    def again(self) -> Iterator[None]:
        """Taken over for a while."""
        if self.kernel is not self._whole:
            swap_kernel(self._layer, self.kernel)
        vars(self._layer).update(self._kept)
        self._layer.__class__ = self._kind
        try:
            yield
        finally:
            self._give_back()


class RowParallelDense(WideDense):
    """This rank's rows of the kernel only; activations and partial sums move instead of weights and gradients."""

    _rows: EqualSlices

    @classmethod
    def take_over_rows(cls, layer: Any, rows: EqualSlices, exchange: Exchange, timer: StepTimer) -> None:
        """Take over a built keras.layers.Dense of which member r of the group keeps rows[r]."""
        cls.take_over(layer, exchange, timer)
        layer._rows = rows
        layer.keep_rows(rows[exchange.rank])

    def _product(self, inputs: tf.Tensor) -> tf.Tensor:
        exchange, timer, rows = self._exchange, self._timer, self._rows
        whats = ("inputs", "sums", "gradients", "input_gradients", "rows")
        names = {what: exchange.call_name(what) for what in whats}

        @tf.custom_gradient
        def product(inputs: tf.Tensor, own_rows: tf.Tensor) -> Any:
            a, w = exchange.narrow(inputs), exchange.narrow(own_rows)
            own_a = exchange.columns_to_owners(a, rows, names["inputs"])
            timer.waited([a, w], [own_a])
            partial = tf.cast(tf.matmul(own_a, w), tf.float32)
            outputs = exchange.sum_scatter(partial, names["sums"])
            timer.waited([partial], [outputs])

            def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
                g = exchange.narrow(exchange.by_share(upstream))
                all_g = exchange.gather(g, names["gradients"])
                timer.waited([g], [all_g])
                d_own_a = tf.matmul(all_g, w, transpose_b=True)
                d_inputs = exchange.columns_to_images(d_own_a, rows, names["input_gradients"])
                with tf.control_dependencies([d_own_a]):  # while that travels
                    d_rows = _outer(own_a, all_g, exchange.size)
                timer.waited([d_own_a, d_rows], [d_inputs])
                return exchange.from_share(tf.cast(d_inputs, tf.float32)), d_rows

            return outputs, gradient

        own_rows = tf.convert_to_tensor(self.kernel.value)
        if not exchange.rows_vary:
            return product(inputs, own_rows)
        count = tf.shape(inputs)[0]
        padding = exchange.most(count, names["rows"]) - count
        return product(tf.pad(inputs, [[0, padding], [0, 0]]), own_rows)[:count]


def _outer(a: tf.Tensor, g: tf.Tensor, ranks: int) -> tf.Tensor:
    """fp32 a^T g / ranks. The ranks' losses are scaled so that their mean counts; the factors hold their sum."""
    scaled = tf.cast(tf.cast(g, tf.float32) / ranks, g.dtype)
    return tf.cast(tf.matmul(a, scaled, transpose_a=True), tf.float32)


ELEMENTWISE_REGULARIZERS = (keras.regularizers.L1, keras.regularizers.L2, keras.regularizers.L1L2)


def all_dense_layers(model: Any) -> list[Any]:
    """The built and trained keras.layers.Dense of a model, in its order, nested models included.

    Left out: subclasses, since their product may be another.
    """
    found: list[Any] = []
    for layer in all_layers(model):
        if type(layer) is keras.layers.Dense and layer.built and layer.trainable:
            found += [layer] if all(layer is not other for other in found) else []
    return found


def dense_layers(model: Any) -> list[Any]:
    """Those that can be taken over as far as they tell themselves; `WeightUse` knows what else their kernels are in."""
    return [layer for layer in all_dense_layers(model) if why_not_plain(layer) is None]


def why_not_plain(layer: Any) -> str | None:
    """What a keras.layers.Dense has that keeps it from being taken over, in a few words.

    Constraints and regularizers that look at more than one weight at a time, adapters (LoRA) and quantization, and
    reduced-precision policies of the user's.
    """
    if layer.lora_enabled:
        return "adapted by LoRA"
    if layer.quantization_mode is not None:
        return f"quantized to {layer.quantization_mode}"
    if layer.compute_dtype != "float32":
        return f"computes in {layer.compute_dtype}"
    if layer.kernel_constraint is not None:
        return f"constraint {type(layer.kernel_constraint).__name__}"
    regularizer = layer.kernel_regularizer
    if regularizer is not None and type(regularizer) not in ELEMENTWISE_REGULARIZERS:
        return f"regularizer {type(regularizer).__name__}"
    return None


def dense_shapes(model: Any, layers: Sequence[Any]) -> list[DenseShape] | None:
    """What decides the bytes of each of these Dense layers of a model.

    None where one is used more than once (or a model inside the model is), in a subclassed model, or on sequences of
    any length: only the model's own code knows then how many rows it gets.
    """
    in_use = nodes_in_use(model)

    def uses(layer: Any) -> list[Any]:
        return [node for node in nodes_into(layer) if id(node) in in_use]

    shared = any(len(uses(layer)) > 1 for layer in all_layers(model) if hasattr(layer, "layers"))
    shapes = []
    for layer in layers:
        used = uses(layer)
        if shared or len(used) != 1 or None in (positions := used[0].input_tensors[0].shape[1:-1]):
            return None
        inputs, units = layer.kernel.shape
        shapes.append(DenseShape(inputs, units, math.prod(positions)))
    return shapes
