"""ReLU behind max pooling instead of before it: the same numbers from a quarter of the work.

The larger of two numbers stays the larger one under a function that never falls, so relu(max(x)) = max(relu(x)), and
the gradient goes to the same place. Keras models say Conv2D(activation="relu") followed by MaxPooling2D; done in the
other order, ReLU and its gradient pass over the pooled activations only.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras

from horovod_flowers.model.keras_internals import (
    all_layers,
    follows_its_graph,
    keeps_call,
    layers_in,
    nodes_into,
    users_of,
)


class PoolingThenReLU(keras.layers.MaxPooling2D):
    """Max pooling, then ReLU."""

    def call(self, inputs: Any) -> Any:
        """[images, height, width, channels] -> the same, pooled."""
        return keras.ops.relu(super().call(inputs))


def move_relu_behind_pooling(model: Any) -> list[str]:
    """Change, in place, each convolution with ReLU whose output goes to a max pooling and nowhere else; their names."""
    pairs = _convolutions_before_pooling(model)
    for convolution, pooling in pairs:
        convolution.activation = keras.activations.linear
        pooling.__class__ = PoolingThenReLU
    return [convolution.name for convolution, _ in pairs]


@contextmanager
def relu_behind_pooling(model: Any) -> Iterator[None]:
    """The same while the model is called, and as it was again afterwards."""
    pairs = _convolutions_before_pooling(model)
    for convolution, pooling in pairs:
        convolution.activation = keras.activations.linear
        pooling.__class__ = PoolingThenReLU
    try:
        yield
    finally:
        for convolution, pooling in pairs:
            convolution.activation = keras.activations.relu
            pooling.__class__ = keras.layers.MaxPooling2D


def _convolutions_before_pooling(model: Any) -> list[tuple[Any, Any]]:
    """Of Sequential and functional models, nested ones too.

    Without those whose outputs may be looked at elsewhere: with an activity regularizer, or in a model or layer with a
    `call` of its own, of which nobody knows what it calls.
    """
    layers = all_layers(model)
    results = keras.tree.flatten([getattr(inner, "outputs", None) or [] for inner in layers])
    outputs = {id(tensor) for tensor in results}
    hidden = {id(inner) for layer in layers if not follows_its_graph(layer) for inner in layers_in(layer)}
    found = []
    for layer in layers:
        if type(layer) is not keras.layers.Conv2D or layer.activation is not keras.activations.relu:
            continue
        users = users_of(layer)
        if len(nodes_into(layer)) != 1 or len(users) != 1 or id(layer.output) in outputs:
            continue
        pooling = users[0]
        if type(pooling) is not keras.layers.MaxPooling2D or len(nodes_into(pooling)) != 1:
            continue
        if {id(layer), id(pooling)} & hidden or not (keeps_call(layer) and keeps_call(pooling)):
            continue
        if layer.activity_regularizer is None:
            found.append((layer, pooling))
    return found
