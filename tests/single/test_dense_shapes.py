"""What comes into the large Dense layers of a model, as far as the model tells."""

from typing import Any

import keras
from keras import layers

from horovod_flowers.strategy.communication_volume import DenseShape
from horovod_flowers.strategy.wide_dense import dense_layers, dense_shapes
from tests.parallel.model_zoo import functional, subclassed


def shapes(model: Any) -> list[list[DenseShape] | None]:
    """Of each Dense layer alone."""
    return [dense_shapes(model, [layer]) for layer in dense_layers(model)]


def test_vectors_sequences_and_nested_models_are_known_and_layers_used_twice_are_not() -> None:
    on_sequences, twice, inner, last = shapes(functional(16, 3))
    assert on_sequences == [DenseShape(48, 40, rows=16)]
    assert twice is None
    assert (inner, last) == ([DenseShape(640, 60)], [DenseShape(60, 3)])


def test_a_model_that_is_made_by_adding_layers_uses_each_once() -> None:
    model = keras.Sequential()
    for layer in (layers.Input((4, 4)), layers.Dense(7), layers.Flatten(), layers.Dense(3)):
        model.add(layer)
    assert shapes(model) == [[DenseShape(4, 7, rows=4)], [DenseShape(28, 3)]]


def test_what_only_the_models_own_code_knows_is_not_guessed() -> None:
    assert shapes(subclassed(16, 3)) == [None, None]
    inner = keras.Sequential([layers.Input((8,)), layers.Dense(8)])
    inputs = layers.Input((8,))
    shared = keras.Model(inputs, inner(inner(inputs)))
    assert shapes(shared) == [None]
    assert dense_shapes(shared, []) == []
    sequences = layers.Input((None, 8))
    assert shapes(keras.Model(sequences, layers.Dense(2)(sequences))) == [None]
