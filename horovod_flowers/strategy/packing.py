"""Several tensors in one collective call: put together, and taken apart again. call_contents.py says which ones."""

from collections.abc import Callable, Iterable, Sequence

import tensorflow as tf

from horovod_flowers.strategy.layout import Slice


def packed(tensors: Sequence[tf.Tensor], call: Callable[[tf.Tensor], tf.Tensor]) -> list[tf.Tensor]:
    """What `call` makes of each of these tensors, of which it gets all in one: of the same shapes as they."""
    if len(tensors) == 1:
        return [call(tensors[0])]
    sizes = [tensor.shape.num_elements() for tensor in tensors]
    parts = tf.split(call(tf.concat([tf.reshape(tensor, [-1]) for tensor in tensors], 0)), sizes)
    return [tf.reshape(part, tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]


def scattered(
    tensors: Sequence[tf.Tensor],
    slices: Sequence[Sequence[Slice]],
    rank: int,
    call: Callable[[tf.Tensor], tf.Tensor],
) -> list[tf.Tensor]:
    """This rank's slice of the sum of each of these flat tensors, by one reduce-scatter.

    slices: of each tensor, for each rank; call: [ranks * n] -> [n], the sum over ranks of this rank's part.
    """
    length, pieces = _length(slices), list[tf.Tensor]()
    for other in range(len(slices[0])):
        own = [each[other] for each in slices]
        pieces += [tensor[part.start : part.start + part.size] for tensor, part in zip(tensors, own, strict=True)]
        pieces.append(tf.zeros([length - _total(own)], tensors[0].dtype))
    sizes = [each[rank].size for each in slices]
    return list(tf.split(call(tf.concat(pieces, 0)), [*sizes, length - sum(sizes)])[:-1])


def gathered(
    parts: Sequence[tf.Tensor],
    slices: Sequence[Sequence[Slice]],
    call: Callable[[tf.Tensor], tf.Tensor],
) -> list[tf.Tensor]:
    """The whole flat tensors of which this rank has `parts`, by one allgather. `call`: [n] -> [ranks * n]."""
    length, ranks = _length(slices), len(slices[0])
    own = tf.concat([tf.reshape(part, [-1]) for part in parts], 0)
    received = call(tf.pad(own, [[0, length - own.shape.num_elements()]]))
    pieces: list[list[tf.Tensor]] = [[] for _ in parts]
    for rank in range(ranks):
        place = rank * length
        for number, each in enumerate(slices):
            pieces[number].append(received[place : place + each[rank].size])
            place += each[rank].size
    return [tf.concat(of_one, 0) for of_one in pieces]


def _length(slices: Sequence[Sequence[Slice]]) -> int:
    """Elements of the longest rank's slices together: the others' are filled up, since all get equally many."""
    return max(_total(each[rank] for each in slices) for rank in range(len(slices[0])))


def _total(parts: Iterable[Slice]) -> int:
    return sum(part.size for part in parts)
