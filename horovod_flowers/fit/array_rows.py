"""Arrays, of which each rank reads its own rows of every global batch, in one order for all."""

import math
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.autograph.experimental import do_not_convert

from horovod_flowers.fit.row_shares import rows_to_compute
from horovod_flowers.model.keras_internals import rows_at
from horovod_flowers.ranks.communicator import Ranks


class ArrayRows:
    """The rows of one rank, batch by batch.

    tensors: a structure of arrays, as `keras_internals.tensors_of` gives it; batch: rows of a global batch; shuffle:
    True for another order of all rows in each epoch, 'batch' for one within each batch, as in Keras; seed: the same on
    every rank.
    """

    def __init__(self, tensors: Any, rows: int, batch: int, shuffle: bool | str, seed: int, ranks: Ranks) -> None:
        self._whole = tf.data.Dataset.from_tensors(tensors).repeat()
        self._rows, self._batch, self._ranks = rows, batch, ranks
        self._shuffle, self._seed = shuffle, seed
        self._epochs_begun = 0

    @property
    def least_rows(self) -> int:
        """Of a global batch, the last one included."""
        return min(self._batch, (self._rows - 1) % self._batch + 1)

    def first(self) -> tuple[Any, Any]:
        """Data and share of the first batch of the arrays as they are, whatever order they are trained in."""
        rows = tf.constant(min(self._rows, self._batch), tf.int64)
        first, count, share = rows_to_compute(rows, self._ranks.rank, self._ranks.size)
        return rows_at(next(iter(self._whole)), tf.range(first, first + count)), share

    def go_on(self, epoch: int, seed: int) -> None:
        """Have the next order be that of this epoch, from 0, of a shuffle with this seed."""
        self._seed, self._epochs_begun = seed, epoch

    def dataset(self) -> tf.data.Dataset:
        """Elements (data, share, rows of the global batch, no checksums), in a new order each time it is iterated over.

        Nothing in its functions branches on a tensor, and AutoGraph takes longer than all else of their tracing.
        """
        rows, size = tf.constant(self._rows, tf.int64), self._ranks.size

        @do_not_convert
        def order(_: Any) -> Any:
            if not self._shuffle:
                return tf.range(self._rows, dtype=tf.int64)
            return tf.ensure_shape(tf.numpy_function(self._next_order, [], tf.int64), [self._rows])

        @do_not_convert
        def batches(order: Any) -> tf.data.Dataset:
            def own(step: Any) -> tuple[Any, Any, Any]:
                begin = step * self._batch
                in_batch = tf.minimum(rows - begin, self._batch)
                first, count, share = rows_to_compute(in_batch, self._ranks.rank, size)
                return order[begin + first : begin + first + count], share, in_batch

            return tf.data.Dataset.range(math.ceil(self._rows / self._batch)).map(own)

        @do_not_convert
        def read(index: tuple[Any, Any, Any], tensors: Any) -> tuple[Any, Any, Any, Any]:
            own, share, in_batch = index
            return rows_at(tensors, own), share, in_batch, tf.zeros([0, 2], tf.int64)

        dataset = tf.data.Dataset.zip((tf.data.Dataset.range(1).map(order).flat_map(batches), self._whole))
        dataset = dataset.map(read, num_parallel_calls=tf.data.AUTOTUNE)
        options = tf.data.Options()
        options.experimental_optimization.apply_default_optimizations = False  # as Keras: they would copy the arrays
        return dataset.with_options(options).prefetch(tf.data.AUTOTUNE)

    def _next_order(self) -> np.ndarray:
        """Of the rows, in the epoch that begins."""
        generator = np.random.default_rng([self._seed, self._epochs_begun])
        self._epochs_begun += 1
        if self._shuffle != "batch":
            return generator.permutation(self._rows)
        begins = range(0, self._rows, self._batch)
        orders = [begin + generator.permutation(min(self._batch, self._rows - begin)) for begin in begins]
        return np.concatenate(orders)
