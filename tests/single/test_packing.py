"""Several tensors in one call: which of them, and that each comes back as it would by itself."""

import numpy as np
import pytest
import tensorflow as tf

from horovod_flowers.strategy.call_contents import calls_of
from horovod_flowers.strategy.layout import EqualSlices
from horovod_flowers.strategy.packing import gathered, packed, scattered


def test_calls_hold_neighbours_from_the_last_to_the_first() -> None:
    assert calls_of([5, 1, 2, 9, 3, 3], 8) == [[4, 5], [3], [0, 1, 2]]
    assert calls_of([8, 8], 8) == [[1], [0]]
    assert calls_of([20, 1, 20], 8) == [[2], [1], [0]]
    assert calls_of([5, 1], 0) == [[0], [1]]
    assert calls_of([], 8) == []


def test_packed_tensors_come_back_in_their_shapes() -> None:
    tensors = [tf.reshape(tf.range(6.0), [2, 3]), tf.constant(7.0), tf.constant([8.0, 9.0])]
    doubled = packed(tensors, lambda flat: 2 * flat)
    assert [value.numpy().tolist() for value in doubled] == [[[0, 2, 4], [6, 8, 10]], 14.0, [16, 18]]


@pytest.mark.parametrize("ranks", [2, 3, 4, 11])
def test_scattered_and_gathered_slices_are_those_of_each_tensor(ranks: int) -> None:
    random = np.random.default_rng(0)
    sizes = [7, 12, 5]
    slices = [EqualSlices(size, ranks) for size in sizes]
    of_rank = [[tf.constant(random.normal(size=size), tf.float32) for size in sizes] for _ in range(ranks)]
    sent: list[tf.Tensor] = []
    for rank in range(ranks):

        def keep(flat: tf.Tensor) -> tf.Tensor:
            sent.append(flat)
            return flat[: flat.shape[0] // ranks]

        scattered(of_rank[rank], slices, rank, keep)
    total = tf.add_n(sent)
    length = total.shape[0] // ranks
    parts = []
    for rank in range(ranks):
        received = total[rank * length : (rank + 1) * length]
        own = scattered(of_rank[rank], slices, rank, lambda flat, received=received: received)  # type: ignore[misc]
        for number, part in enumerate(own):
            place = slices[number][rank]
            whole = sum(tensors[number] for tensors in of_rank)
            np.testing.assert_allclose(part, whole[place.start : place.start + place.size], rtol=1e-6)
        parts.append(own)
    packets: list[tf.Tensor] = []
    for own in parts:
        gathered(own, slices, lambda flat: packets.append(flat) or tf.tile(flat, [ranks]))  # type: ignore[func-returns-value]
    for number, whole in enumerate(gathered(parts[0], slices, lambda flat: tf.concat(packets, 0))):
        expected = tf.concat([own[number] for own in parts], 0)
        assert np.array_equal(whole, expected)


@pytest.mark.parametrize("ranks", [4, 64])
def test_a_step_of_many_ranks_has_no_larger_graph(ranks: int) -> None:
    """Each operation costs every step something."""
    slices = [EqualSlices(10_000, ranks), EqualSlices(4_096, ranks)]

    @tf.function
    def step(first: tf.Tensor, second: tf.Tensor) -> list[tf.Tensor]:
        parts = scattered([first, second], slices, 1, lambda flat: flat[: flat.shape[0] // ranks])
        return gathered(parts, slices, lambda flat: tf.tile(flat, [ranks]))

    graph = step.get_concrete_function(tf.TensorSpec([10_000]), tf.TensorSpec([4_096])).graph
    assert len(graph.get_operations()) < 100
