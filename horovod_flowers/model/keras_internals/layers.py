"""What a model's layers and graph hold beyond their public interface."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
from keras.src.backend.tensorflow import nn
from keras.src.models.functional import Functional

from horovod_flowers.model.keras_internals.optimizers import written_as


def all_layers(model: Any) -> list[Any]:
    """A model and every layer in it, those of nested models too, in the model's order."""
    return list(model._flatten_layers())


def made_to_be_trained(model: Any) -> set[int]:
    """Identities of the weights that layers were given to be trained, those that are frozen too, unlike statistics."""
    return {id(variable) for layer in all_layers(model) for variable in layer._trainable_variables}


def nodes_into(layer: Any) -> list[Any]:
    """The calls of a layer in functional models, `input_tensors` each; empty in a subclassed one."""
    return list(layer._inbound_nodes)


def users_of(layer: Any) -> list[Any]:
    """The layers and operations that take the layer's output in a functional model, one for each call."""
    return [node.operation for node in layer._outbound_nodes]


def last_layer(model: Any) -> Any | None:
    """The layer whose output, used nowhere else, is the only one of a functional or Sequential model; of a nested
    model that ends it, its last layer. None where there is no such layer, as in a subclassed model."""
    outputs = getattr(model, "outputs", None) or []
    if len(outputs) != 1:
        return None
    layer = outputs[0]._keras_history.operation
    used = [node for node in layer._outbound_nodes if id(node) in nodes_in_use(model)]
    if used or len([node for node in layer._inbound_nodes if id(node) in nodes_in_use(model)]) != 1:
        return None
    return last_layer(layer) if isinstance(layer, keras.Model) else layer


def nodes_in_use(model: Any) -> set[int]:
    """Identities of the calls that the model's graphs consist of.

    Sequential.add builds the model anew each time: what it built before left nodes behind, which are in no graph.
    """
    graphs = [getattr(layer, "_functional", layer) for layer in all_layers(model)]
    depths = [nodes for graph in graphs for nodes in getattr(graph, "_nodes_by_depth", {}).values()]
    return {id(node) for nodes in depths for node in nodes}


def keeps_call(layer: Any) -> bool:
    """Whether a layer's `call` is that of its class, not one that was set on this layer alone."""
    return "call" not in vars(layer)


def is_rematerialised(layer: Any) -> bool:
    """Whether the backward pass computes the layer again instead of keeping its activations (keras.RematScope)."""
    return layer._remat_mode is not None


def follows_its_graph(layer: Any) -> bool:
    """Whether calling a layer runs the layers of its graph and nothing else: Sequential and functional models do, and
    layers that have no others in them."""
    as_declared = (keras.Sequential.call, Functional.call)
    return not layer._layers or (type(layer).call in as_declared and keeps_call(layer))


def layers_in(layer: Any) -> list[Any]:
    """Every layer inside another, at any depth, without it."""
    return list(layer._flatten_layers(include_self=False))


def has_own_moments(layer: Any) -> bool:
    """Whether a layer takes its batch statistics otherwise than keras.layers.BatchNormalization does."""
    as_keras = (keras.layers.BatchNormalization.call, keras.layers.BatchNormalization._moments)
    kind = type(layer)
    return (getattr(kind, "call", None), getattr(kind, "_moments", None)) != as_keras or not keeps_call(layer)


_WITH_MOMENTS: dict[type, type] = {}
"""One class for each kind of layer: Keras' registry keeps classes for ever, so they must not know a model."""


def replace_moments(layer: Any, moments: Callable[[Any, Any, Sequence[int]], tuple[Any, Any]]) -> None:
    """Have a batch normalisation take its statistics from a function of inputs, mask (or None) and the axes to reduce:
    mean and variance of each channel."""
    before = type(layer)
    if before not in _WITH_MOMENTS:

        def own(self: Any, inputs: Any, mask: Any) -> tuple[Any, Any]:
            return vars(self)["_moments_from"](inputs, mask, self._reduction_axes)

        names = {"__module__": before.__module__, "__qualname__": before.__qualname__}
        kind = type(before.__name__, (before,), {"_moments": own, "_with_own_moments": before, **names})
        written_as(kind, before)
        _WITH_MOMENTS[before] = kind
    vars(layer)["_moments_from"] = moments  # past Keras, which tracks what is set as an attribute
    layer.__class__ = _WITH_MOMENTS[before]


def restore_moments(layer: Any) -> None:
    """Let a batch normalisation take its statistics itself again."""
    layer.__class__ = getattr(type(layer), "_with_own_moments", type(layer))
    vars(layer).pop("_moments_from", None)


@contextmanager
def synchronized_moments(moments: Callable[[Any, Any, bool], tuple[Any, Any]]) -> Iterator[None]:
    """Have keras.ops.moments(x, axes, keepdims, synchronized=True) ask this function for a while, of x in fp32. What
    Keras has there knows of tf.distribute only."""
    before = nn._compute_moments_sync
    nn._compute_moments_sync = moments
    try:
        yield
    finally:
        nn._compute_moments_sync = before


def replace_kernel(layer: Any, values: np.ndarray) -> Any:
    """Give a built Dense layer another kernel in place of its own, of any shape, with the same regularizer; the one
    that it had."""
    kernel = keras.Variable(values, name="kernel")
    kernel.regularizer = layer.kernel_regularizer
    return swap_kernel(layer, kernel)


def swap_kernel(layer: Any, kernel: Any) -> Any:
    """Give a built Dense layer this Keras variable for its kernel, in the same place among its weights; the one that it
    had."""
    before = layer._kernel
    layer._tracker.replace_tracked_value("trainable_variables", before, kernel)
    layer._kernel = kernel
    return before


def seed_states(model: Any) -> list[Any]:
    """The states of the seed generators of a model's layers, [seed, count] each, in the model's order."""
    return [state for state, _ in seed_owners(model)]


def seed_owners(model: Any) -> list[tuple[Any, list[Any]]]:
    """The same, each with the layers that draw by it, the model itself among them."""
    found: dict[int, tuple[Any, list[Any]]] = {}
    for layer in all_layers(model):
        for generator in layer._seed_generators:
            found.setdefault(id(generator.state), (generator.state, []))[1].append(layer)
    return list(found.values())


def forget_losses(model: Any) -> None:
    """Drop what earlier calls of a model have added to its loss.

    Before each `stateless_call` that returns losses: it clears them layer by layer, by the identities of tensors of the
    call before, which new ones may have taken over, and so loses some.
    """
    model._clear_losses()


def build_for(model: Any, spec: Any) -> None:
    """Make the weights of a compiled model, and the state of its optimizer, for batches of this structure of
    tf.TensorSpec: (x,), (x, y) or (x, y, sample_weight)."""
    shaped = keras.tree.map_structure(lambda each: keras.KerasTensor(tuple(each.shape), each.dtype.name), spec)
    model._symbolic_build(data_batch=shaped)
