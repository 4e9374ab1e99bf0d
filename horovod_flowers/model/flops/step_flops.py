"""Floating-point operations of a model's training step, from its graph. Nothing is computed and no variable changes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from horovod_flowers.model.flops.function_graph import traced
from horovod_flowers.model.flops.walk import Walk
from horovod_flowers.model.keras_internals import all_layers, forget_losses, is_rematerialised

MOST_WORDS = 200
"""Letters of an error that are told."""


@dataclass(frozen=True)
class StepFlops:
    """Of one step on some images, over all ranks: matrix products and convolutions, a multiply-add as two."""

    images: int
    forward: float | None
    """None, with `backward`, where something was not counted."""
    backward: float | None
    not_counted: tuple[str, ...] = ()
    """What it was, in words."""


def not_counted(images: int, why: str) -> StepFlops:
    """There is no number."""
    return StepFlops(images, None, None, (why,))


def count_step(model: Any, loss: Callable[..., Any], batch: Sequence[Any], images: int) -> StepFlops:
    """Count the forward and backward pass of a built model.

    loss: calls the model in training, and returns the tensors that its loss is made of. batch: what it is given, each a
    structure of tf.TensorSpec with every size known. images: how many these are.
    """
    forget_losses(model)
    try:
        # As the training step does it: not converted.
        concrete = tf.function(loss, autograph=False).get_concrete_function(*batch)
        graph = traced(concrete)
    except Exception as error:  # the user's code
        told = " ".join(str(error).split())[:MOST_WORDS]
        return not_counted(images, f"its graph, which could not be traced ({type(error).__name__}: {told})")
    finally:
        forget_losses(model)
    handles = {id(variable.value.handle) for variable in model.trainable_variables}
    trained = {inner.op.name for outer, inner in concrete.graph.captures if id(outer) in handles}
    recomputes = any(is_rematerialised(layer) for layer in all_layers(model))
    counted = Walk(graph, recomputes).count(tuple(name in trained for name in graph.main.arguments))
    if counted.left:
        return StepFlops(images, None, None, tuple(sorted(counted.left)))
    return StepFlops(images, counted.forward, counted.backward)
