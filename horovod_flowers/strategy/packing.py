"""Several tensors in one collective call: put together, and taken apart again. call_contents.py says which ones."""

from collections.abc import Callable, Sequence

import tensorflow as tf

from horovod_flowers.strategy.layout import EqualSlices


def packed(tensors: Sequence[tf.Tensor], call: Callable[[tf.Tensor], tf.Tensor]) -> list[tf.Tensor]:
    """What `call` makes of each of these tensors, of which it gets all in one: of the same shapes as they."""
    if len(tensors) == 1:
        return [call(tensors[0])]
    sizes = [tensor.shape.num_elements() for tensor in tensors]
    parts = tf.split(call(tf.concat([tf.reshape(tensor, [-1]) for tensor in tensors], 0)), sizes)
    return [tf.reshape(part, tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]


def scattered(
    tensors: Sequence[tf.Tensor],
    slices: Sequence[EqualSlices],
    rank: int,
    call: Callable[[tf.Tensor], tf.Tensor],
) -> list[tf.Tensor]:
    """This rank's slice of the sum of each of these flat tensors, by one reduce-scatter.

    slices: of each tensor; call: [ranks * n] -> [n], the sum over ranks of this rank's part. The graph has as many
    operations at any number of ranks.
    """
    rows = tf.concat([_row_of_each_rank(tensor, each) for tensor, each in zip(tensors, slices, strict=True)], 1)
    own = tf.split(call(tf.reshape(rows, [-1])), [each.largest for each in slices])
    return [part[: each[rank].size] for part, each in zip(own, slices, strict=True)]


def gathered(
    parts: Sequence[tf.Tensor],
    slices: Sequence[EqualSlices],
    call: Callable[[tf.Tensor], tf.Tensor],
) -> list[tf.Tensor]:
    """The whole flat tensors of which this rank has `parts`, by one allgather. `call`: [n] -> [ranks * n]."""
    own = [
        tf.pad(flat, [[0, each.largest - flat.shape.num_elements()]])
        for flat, each in zip([tf.reshape(part, [-1]) for part in parts], slices, strict=True)
    ]
    received = tf.reshape(call(tf.concat(own, 0)), [len(slices[0]), sum(each.largest for each in slices)])
    columns = tf.split(received, [each.largest for each in slices], axis=1)
    return [_flat(rows, each) for rows, each in zip(columns, slices, strict=True)]


def _row_of_each_rank(tensor: tf.Tensor, slices: EqualSlices) -> tf.Tensor:
    """Its slices, one below the other, the shorter ones filled up: all ranks get equally many values."""
    blocks = []
    for run in slices.runs:
        rows = tf.reshape(tensor[run.start : run.end], [run.count, run.size])
        blocks.append(tf.pad(rows, [[0, 0], [0, slices.largest - run.size]]))
    return tf.concat(blocks, 0)


def _flat(rows: tf.Tensor, slices: EqualSlices) -> tf.Tensor:
    """The way back."""
    blocks, above = [], 0
    for run in slices.runs:
        blocks.append(tf.reshape(rows[above : above + run.count, : run.size], [-1]))
        above += run.count
    return tf.concat(blocks, 0)
