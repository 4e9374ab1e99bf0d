"""Batch normalisation over all ranks: the moments, their gradients, and who may have them."""

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from horovod_flowers.runtime.errors import UserError
from horovod_flowers.strategy.batch_statistics import BatchStatistics, global_moments
from horovod_flowers.strategy.step_timer import StepTimer

SHAPE = (6, 5, 3)


class Alike:
    """The collective calls of ranks that all have the same images, whose losses are scaled already."""

    def __init__(self, size: int) -> None:
        self.size = size

    def by_share(self, gradients: tf.Tensor) -> tf.Tensor:
        return gradients

    from_share = by_share

    def call_name(self, what: str) -> str:
        return what

    def gather(self, values: tf.Tensor, name: str) -> tf.Tensor:
        return tf.repeat(values, self.size, 0)

    def sum(self, values: tf.Tensor, name: str) -> tf.Tensor:
        return values * self.size


def moments_and_gradient(size: int, mask: bool, offset: float) -> list[np.ndarray]:
    """Of one rank's images: by `global_moments`, or for size 0 by Keras' own layer."""
    random = np.random.default_rng(0)
    images = tf.constant((random.normal(size=SHAPE) + offset).astype(np.float32))
    counted = tf.constant(random.uniform(size=SHAPE[:-1]) < 0.6) if mask else None
    weighted = tf.constant(random.normal(size=(2, SHAPE[-1])).astype(np.float32))
    with tf.GradientTape() as tape:
        tape.watch(images)
        if size:
            weights = None
            if counted is not None:
                weights = tf.broadcast_to(tf.cast(counted, tf.float32)[..., tf.newaxis], SHAPE)
            found = global_moments(images, weights, [0, 1], Alike(size), StepTimer())  # type: ignore[arg-type]
        else:
            layer = layers.BatchNormalization()
            layer.build(SHAPE)
            found = layer._moments(images, counted)
        loss = tf.reduce_sum(weighted * tf.stack(found))
    return [np.array(found[0]), np.array(found[1]), np.array(tape.gradient(loss, images))]


@pytest.mark.parametrize("mask", [False, True])
@pytest.mark.parametrize("size", [1, 3])
def test_ranks_that_have_the_same_images_have_the_moments_of_one(size: int, mask: bool) -> None:
    """And the gradients: the mean over ranks of losses that are the same is one of them."""
    for found, expected in zip(moments_and_gradient(size, mask, 0), moments_and_gradient(0, mask, 0), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_a_variance_far_from_zero_does_not_cancel() -> None:
    """Of values near 1,000 fp32 knows their squares to 0.06 only."""
    far, near = moments_and_gradient(3, False, 1000)[1], moments_and_gradient(3, False, 0)[1]
    np.testing.assert_allclose(far, near, rtol=1e-3)


def test_only_layers_that_ask_for_it_are_taken_over_and_what_takes_its_own_moments_is_refused() -> None:
    class Own(layers.BatchNormalization):
        def _moments(self, inputs: Any, mask: Any) -> Any:
            return super()._moments(inputs, mask)

    class Named(layers.BatchNormalization):
        """Nothing of its own."""

    def model(*kinds: Any) -> Any:
        return keras.Sequential([layers.Input((4, 3)), *(kind(synchronized=True) for kind in kinds)])

    asked = model(layers.BatchNormalization, Named)
    asked.add(layers.BatchNormalization())
    statistics = BatchStatistics(asked, 2, 0, StepTimer())
    plain = (layers.BatchNormalization, Named)
    assert [type(layer) in plain for layer in asked.layers] == [False, False, True]
    assert [type(layer).__name__ for layer in asked.layers] == ["BatchNormalization", "Named", "BatchNormalization"]
    first = type(asked.layers[0])
    assert keras.saving.get_registered_name(first) == keras.saving.get_registered_name(layers.BatchNormalization)
    assert statistics.notes == ["batch statistics of 2 layer(s) over 2 ranks"]
    volume = statistics.communication_volume() or []
    assert [(entry.operation, entry.calls, entry.bytes_sent) for entry in volume] == [
        ("allgather", 1, 3 * 3 * 4),
        ("allreduce", 1, 2 * 3 * 4),
    ] * 2
    assert BatchStatistics(model(), 2, 0, StepTimer()).notes == []
    with pytest.raises(UserError, match=r"layer own\w* \(Own\) asks for synchronized=True, and only"):
        BatchStatistics(model(Own), 2, 0, StepTimer())
