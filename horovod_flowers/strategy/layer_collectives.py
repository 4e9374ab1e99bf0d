"""The collective calls of layers: the large Dense layers, and batch normalisation over all ranks."""

from typing import Any

import tensorflow as tf

from horovod_flowers.strategy.layout import EqualSlices


class Exchange:
    """Collective calls of layers, over one process set, in the format that products are computed in.

    Under bf16 both factors of a product are rounded to bfloat16 whatever happens. Rounding before sending halves the
    bytes and changes nothing; Horovod knows no bfloat16, so its 16 bits travel as uint16. Sums are sent in fp32.
    """

    def __init__(self, size: int, rank: int, bf16: bool, process_set: Any = None, prefix: str = "dense") -> None:
        """`prefix` begins the names of its calls, which no other Exchange of the process may use."""
        self.size, self.rank, self._bf16, self._prefix = size, rank, bf16, prefix
        # Without the scopes of Keras' layer names, which count the models that a process has built.
        self._options: dict[str, Any] = {"ignore_name_scope": True}
        if process_set is not None:
            self._options["process_set"] = process_set
        self._calls = 0
        self._calls_before_steps: int | None = None
        self.rows_vary = False
        """Whether ranks may have unequal numbers of rows in a step."""
        self.share: tf.Tensor | None = None
        """Of this rank in the step being traced: its rows * ranks / all rows, by which its loss counts in the mean over
        ranks; None: the loss is scaled already."""

    def by_share(self, gradients: tf.Tensor) -> tf.Tensor:
        """What the outputs' gradients of this rank are in the loss that counts."""
        share = self.share
        if share is None:
            return gradients
        return tf.where(share > 0, gradients * tf.cast(share, gradients.dtype), tf.zeros_like(gradients))

    def from_share(self, gradients: tf.Tensor) -> tf.Tensor:
        """The way back, to gradients of this rank's own loss."""
        share = self.share
        return gradients if share is None else tf.math.divide_no_nan(gradients, tf.cast(share, gradients.dtype))

    def most(self, rows: tf.Tensor, name: str) -> tf.Tensor:
        """The largest number of rows of a rank."""
        import horovod.tensorflow as hvd

        return hvd.allreduce(rows, op=hvd.Max, name=name, **self._options)

    @property
    def bytes_per_value(self) -> int:
        """Bytes of one activation on its way."""
        return 2 if self._bf16 else 4

    @property
    def dtype(self) -> tf.DType:
        """In which factors are kept and sent."""
        return tf.bfloat16 if self._bf16 else tf.float32

    def narrow(self, values: tf.Tensor) -> tf.Tensor:
        """To the format of factors."""
        return tf.cast(values, self.dtype)

    def gather(self, values: tf.Tensor, name: str) -> tf.Tensor:
        """[n, ...] of each rank -> [sum of n, ...] on all."""
        import horovod.tensorflow as hvd

        return self._narrowed(hvd.allgather(self._bits(values), name=name, **self._options))

    def sum(self, values: tf.Tensor, name: str) -> tf.Tensor:
        """fp32 [...] of each rank -> the sum over ranks, on all."""
        import horovod.tensorflow as hvd

        return hvd.allreduce(values, op=hvd.Sum, name=name, **self._options)

    def sum_scatter(self, values: tf.Tensor, name: str) -> tf.Tensor:
        """fp32 [size * n, ...] of each rank -> the sum over ranks of this rank's [n, ...]."""
        import horovod.tensorflow as hvd

        return hvd.reducescatter(values, op=hvd.Sum, name=name, **self._options)

    def columns_to_owners(self, values: tf.Tensor, rows: EqualSlices, name: str) -> tf.Tensor:
        """[n, inputs] of each rank -> [sum of n, own inputs]: this rank's columns of everybody's values."""
        images = tf.shape(values)[0]
        blocks = []
        for run in rows.runs:
            columns = tf.reshape(values[:, run.start : run.end], [images, run.count, run.size])
            blocks.append(tf.reshape(tf.transpose(columns, [1, 0, 2]), [-1]))
        received = self._all_to_all(tf.concat(blocks, 0), images * tf.constant(rows.sizes), name)
        return tf.reshape(received, [-1, rows[self.rank].size])

    def columns_to_images(self, values: tf.Tensor, rows: EqualSlices, name: str) -> tf.Tensor:
        """The way back: [size * n, own inputs] -> [n, inputs]."""
        images = tf.shape(values)[0] // self.size
        sent = tf.fill([self.size], images * rows[self.rank].size)
        received = self._all_to_all(tf.reshape(values, [-1]), sent, name)
        columns = []
        for run in rows.runs:
            block = tf.reshape(received[images * run.start : images * run.end], [run.count, images, run.size])
            columns.append(tf.reshape(tf.transpose(block, [1, 0, 2]), [images, run.count * run.size]))
        return tf.concat(columns, 1)

    def _all_to_all(self, flat: tf.Tensor, splits: tf.Tensor, name: str) -> tf.Tensor:
        import horovod.tensorflow as hvd

        received, _ = hvd.alltoall(self._bits(flat), splits=splits, name=name, **self._options)
        return self._narrowed(received)

    def _bits(self, values: tf.Tensor) -> tf.Tensor:
        return tf.bitcast(values, tf.uint16) if self._bf16 else values

    def _narrowed(self, bits: tf.Tensor) -> tf.Tensor:
        return tf.bitcast(bits, tf.bfloat16) if self._bf16 else bits

    def begin_step(self) -> None:
        """Name the calls of a step as those of every other: a rank may trace a step more often than another, for other
        numbers of rows."""
        if self._calls_before_steps is None:
            self._calls_before_steps = self._calls
        self._calls = self._calls_before_steps

    def call_name(self, what: str) -> str:
        """A name that no other call has, the same on every rank."""
        self._calls += 1
        return f"{self._prefix}.{self._calls}.{what}"
