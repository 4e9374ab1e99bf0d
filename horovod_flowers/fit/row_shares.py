"""Which rows of a global batch belong to a rank, and what they count for."""

from typing import Any

import tensorflow as tf
from tensorflow.autograph.experimental import do_not_convert

from horovod_flowers.ranks.communicator import Ranks
from horovod_flowers.runtime.errors import UserError


def own_rows(rows: Any, rank: int, size: int) -> tuple[Any, Any]:
    """The first of a rank's consecutive rows of a global batch, and how many they are: 0 where there are too few.

    rows: of the global batch, an int or an int64 scalar tensor, as is what is returned. Numbers of rows differ by at
    most one between ranks.
    """
    first = rank * rows // size
    return first, (rank + 1) * rows // size - first


def rows_to_compute(rows: Any, rank: int, size: int) -> tuple[Any, Any, Any]:
    """First row, number of rows, and share of what a rank computes on: one row of share 0 where it has none of its own.

    The share is own rows * ranks / rows of the global batch: the mean over ranks of (mean over own rows * share) is the
    mean over all rows.
    """
    first, count = own_rows(rows, rank, size)
    share = tf.cast(count * size, tf.float32) / tf.cast(rows, tf.float32)
    return tf.minimum(first, tf.maximum(rows - 1, 0)), tf.maximum(count, tf.minimum(rows, 1)), share


def leaves_of(data: Any) -> list[Any]:
    """The tensors of a batch: dense, ragged, sparse; without what Keras passes for None (tf.experimental.Optional)."""
    return [leaf for leaf in tf.nest.flatten(data) if not isinstance(leaf, tf.experimental.Optional)]


def rows_in(data: Any) -> Any:
    """The number of rows of a batch, int64; fails (InvalidArgumentError) where its tensors have different numbers."""
    counts = [_rows(leaf) for leaf in leaves_of(data)]
    unequal = [tf.debugging.assert_equal(counts[0], each, UNEQUAL_ROWS) for each in counts[1:]]
    with tf.control_dependencies([check for check in unequal if check is not None]):
        return tf.identity(counts[0])


UNEQUAL_ROWS = "the tensors of a batch have different numbers of rows"


def _rows(leaf: Any) -> Any:
    if isinstance(leaf, tf.RaggedTensor):
        return tf.cast(leaf.nrows(), tf.int64)
    return leaf.dense_shape[0] if isinstance(leaf, tf.SparseTensor) else tf.shape(leaf, tf.int64)[0]


def part_of(data: Any, first: Any, count: Any) -> Any:
    """Consecutive rows of a batch, in the same structure. first, count: int64 scalar tensors."""

    def part(leaf: Any) -> Any:
        if isinstance(leaf, tf.experimental.Optional):
            return leaf
        if isinstance(leaf, tf.SparseTensor):
            others = leaf.dense_shape[1:]
            start = tf.concat([[first], tf.zeros_like(others)], 0)
            rows = tf.sparse.slice(leaf, start, tf.concat([[count], others], 0))
            rows.indices.set_shape([None, leaf.shape.rank])
            return tf.SparseTensor(rows.indices, rows.values, tf.ensure_shape(rows.dense_shape, [leaf.shape.rank]))
        return leaf[first : first + count]

    return tf.nest.map_structure(part, data)


def refuse_without_rows(spec: Any) -> None:
    """Raise UserError where a part of a dataset's elements has no rows. spec: its element_spec."""
    for leaf in tf.nest.flatten(spec):
        if not isinstance(leaf, tf.OptionalSpec) and leaf.shape.rank == 0:
            raise UserError(
                f"the dataset's elements hold a single number ({leaf.dtype.name}) where a batch has one for each row, "
                "so they cannot be divided among ranks: batch the dataset with the global batch (dataset.batch(...))"
            )


def shard(dataset: tf.data.Dataset, ranks: Ranks, with_share: bool = False) -> tf.data.Dataset:
    """As `ScriptRanks.shard`."""
    if not isinstance(dataset, tf.data.Dataset):
        raise UserError(f"shard takes a tf.data.Dataset of global batches, and was given a {type(dataset).__name__}")
    refuse_without_rows(dataset.element_spec)

    @do_not_convert
    def own(*element: Any) -> Any:
        data = element if len(element) > 1 else element[0]
        rows = rows_in(data)
        if with_share:
            first, count, share = rows_to_compute(rows, ranks.rank, ranks.size)
            return part_of(data, first, count), share
        even = tf.debugging.assert_equal(rows % ranks.size, tf.zeros([], tf.int64), UNEVEN_BATCH.format(ranks.size))
        with tf.control_dependencies([even] if even is not None else []):
            first, count = own_rows(tf.identity(rows), ranks.rank, ranks.size)
        return part_of(data, first, count)

    return dataset.map(own, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)


UNEVEN_BATCH = (
    "{0} ranks do not divide a batch evenly: batch with a multiple of {0} and drop_remainder=True, or take "
    "shard(..., with_share=True) and multiply the loss by the share that comes with each batch"
)
