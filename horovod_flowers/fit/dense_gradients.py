"""Whether a training step can take the gradients of large Dense layers from these layers, already those of all ranks.

It can where it hands them to its optimizer as they come. Where it reads a kernel beside the layer, changes a gradient
(clips it by the norms of a rank), leaves it out, or differentiates it again, ranks would go on with different weights.
The step is traced once, with the layers in question marked; nothing is computed and no variable changes.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from horovod_flowers.fit.agreed_steps import without_optionals
from horovod_flowers.fit.step import key_of
from horovod_flowers.model.optimizer_class import Combining, Gradients, Update, combine_in_place, remove_combining
from horovod_flowers.strategy.wide_dense import SecondDerivativeError, WideDense, differentiated_once

SUMS = frozenset({"AddN", "AddV2", "Add", "Identity"})
"""Operations by which a tape adds up the gradients of several calls."""


def why_not_in_step(model: Any, data: Any, layers: Sequence[Any]) -> Mapping[int, str]:
    """As `strategy.choice.WhyNotInStep`. data: of a batch, as train_step takes it.

    What the user's code raises is left to training.
    """
    marks: dict[int, list[Any]] = {id(layer): [] for layer in layers}
    nested: set[int] = set()
    handed: dict[str, Any] = {}
    optimizer, own = model.optimizer, getattr(type(model), "_own_class", type(model))

    def step() -> None:
        graph = tf.compat.v1.get_default_graph()
        with _marked(layers, marks, graph, nested):
            own.train_step(model, without_optionals(data))

    remove_combining(optimizer)
    combine_in_place(optimizer, lambda: _Handed(handed))
    try:
        tf.function(step, autograph=False).get_concrete_function()
    except SecondDerivativeError:
        return {id(layer): "differentiated twice" for layer in layers}
    except Exception:  # the user's code, which training will run
        return {id(layer): "the step could not be traced" for layer in layers}
    finally:
        gradients = dict(handed)
        handed.clear()  # Keras keeps the optimizer's class of this trial, and it what it can reach
        remove_combining(optimizer)
    reasons = {}
    for layer in layers:
        gradient = gradients.get(key_of(layer.kernel))
        if id(layer) in nested:
            reasons[id(layer)] = "called in a branch, a loop or a function of the step"
        elif gradient is None:
            reasons[id(layer)] = "not updated by the step"
        elif not _is_sum_of(gradient, marks[id(layer)]):
            reasons[id(layer)] = "the step changes its gradient, or reads its kernel elsewhere, too"
    return reasons


class _Handed(Combining):
    """Keeps what the step hands to its optimizer, in place of updating them."""

    def __init__(self, handed: dict[str, Any]) -> None:
        self._handed = handed

    def apply(self, optimizer: Any, gradients: Gradients, variables: Sequence[Any], update: Update) -> None:
        """Keep them."""
        self._handed |= {key_of(variable): each for each, variable in zip(gradients, variables, strict=True)}


class _Marks(NamedTuple):
    marks: list[Any]
    """Gradients of the kernel, one for each call."""
    graph: Any
    """Of the step."""
    nested: set[int]
    """Identities of layers that are called in other graphs than that."""


class _MarkedDense(WideDense):
    """A Dense layer whose kernel has a gradient that is known again."""

    _marked: _Marks

    def _product(self, inputs: tf.Tensor) -> tf.Tensor:
        marks, graph, nested = self._marked
        if tf.compat.v1.get_default_graph() is not graph:
            nested.add(id(self))
        weights = tf.stop_gradient(tf.convert_to_tensor(self.kernel.value))

        @tf.custom_gradient
        def product(inputs: tf.Tensor, kernel: tf.Tensor) -> Any:
            def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
                marks.append(tf.zeros_like(kernel))
                return differentiated_once(tf.matmul(upstream, weights, transpose_b=True)), marks[-1]

            return tf.matmul(inputs, weights), gradient

        return product(inputs, tf.convert_to_tensor(self.kernel.value))


@contextmanager
def _marked(layers: Sequence[Any], marks: dict[int, list[Any]], graph: Any, nested: set[int]) -> Iterator[None]:
    """While a step is traced. Without the regularizers of the kernels, which are the same on every rank."""
    regularizers = [layer.kernel.regularizer for layer in layers]
    for layer in layers:
        layer.__class__ = _MarkedDense
        vars(layer)["_marked"] = _Marks(marks[id(layer)], graph, nested)
        layer.kernel.regularizer = None
    try:
        yield
    finally:
        for layer, regularizer in zip(layers, regularizers, strict=True):
            layer.__class__ = keras.layers.Dense
            del vars(layer)["_marked"]
            layer.kernel.regularizer = regularizer


def _is_sum_of(gradient: Any, marks: Sequence[Any]) -> bool:
    """Whether a gradient is nothing but the sum of these tensors."""
    if any(gradient is mark for mark in marks):
        return True
    operation = gradient.op if tf.is_tensor(gradient) and hasattr(gradient, "op") else None
    if operation is None or operation.type not in SUMS:
        return False
    return all(_is_sum_of(each, marks) for each in operation.inputs)
