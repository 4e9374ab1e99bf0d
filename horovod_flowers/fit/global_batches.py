"""What fit, evaluate and predict take in place of a user's data: this rank's part of every global batch.

Keras reads any data through an adapter. GlobalBatches is one around the adapter that Keras makes of what the user gave.
Ranks agree before every step, in one small call, that each of them has a batch: none waits for another whose data have
ended or failed.
"""

import time
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tensorflow.autograph.experimental import do_not_convert

from horovod_flowers.fit.array_rows import ArrayRows
from horovod_flowers.fit.ordered_batches import FirstBatch, OrderedBatches, draw_seed, has_epochs
from horovod_flowers.fit.row_shares import part_of, refuse_without_rows, rows_in, rows_to_compute
from horovod_flowers.fit.same_data import (
    are_equal,
    checksums,
    fingerprint,
    part_names,
    parts_of_arrays,
    parts_of_batch,
    refuse_other_data,
)
from horovod_flowers.fit.step import RankBatch
from horovod_flowers.model.keras_internals import DataAdapter, arrays_in, data_adapter, read_on_demand, tensors_of
from horovod_flowers.ranks.communicator import Ranks
from horovod_flowers.runtime.console import say
from horovod_flowers.runtime.errors import AgreedError, UserError, cause, reason


class GlobalBatches(DataAdapter):
    """This rank's part of the global batches of one call of fit, evaluate or predict; Keras' DataAdapter.

    Iterated over, it gives `BatchIterator`s, one for each pass over the data.
    """

    def __init__(
        self,
        x: Any,
        y: Any = None,
        sample_weight: Any = None,
        *,
        ranks: Ranks,
        batch_size: int | None = None,
        steps: int | None = None,
        shuffle: bool | str = False,
        class_weight: dict[int, float] | None = None,
        with_share: bool = True,
    ) -> None:
        """Every rank makes it at the same time: ranks look whether they were given the same data.

        x, y, sample_weight, class_weight, shuffle: as Keras takes them. batch_size: rows of a global batch, of arrays.
        steps: of an epoch, where it is not all of the data. with_share: batches are RankBatch, else data alone.
        Raises UserError where the data cannot be divided, or are not the same on all ranks, or arguments do not go
        together.
        """
        self.ranks, self.steps, self._with_share = ranks, steps, with_share
        self._ordered: OrderedBatches | None = None
        self._arrays: ArrayRows | None = None
        self._first: RankBatch | None = None
        self.seed = seed = ranks.broadcast(draw_seed()) if shuffle else 0
        """Of the orders in which the data come, where they are shuffled here."""
        given, is_py_dataset = x, isinstance(x, keras.utils.PyDataset)
        if is_py_dataset:
            self._refuse_lost_track(x)
            if shuffle and x.num_batches is not None:
                x, shuffle = OrderedBatches(x, seed), False
                self._ordered = x
        try:
            self._inner = data_adapter(x, y, sample_weight, batch_size, steps, shuffle, class_weight)
        except (TypeError, ValueError) as error:
            raise UserError(f"Keras cannot read the data: {reason(error)}") from error
        if arrays_in(self._inner):
            self._dataset = self._of_arrays(shuffle, seed)
        else:
            self._dataset = self._divided(self._inner, ahead=not (is_py_dataset and steps and has_epochs(given)))
        self.current: BatchIterator | None = None
        """The pass over the data that batches are read from."""
        self.changing = False
        """Whether ranks draw random changes of the same samples, so that nothing can be told by comparing them."""
        self._begun: BatchIterator | None = None
        if is_py_dataset:
            first = data_adapter(FirstBatch(x), class_weight=class_weight)
            self._first = RankBatch(*next(iter(self._divided(first, ahead=False)))[:2])

    def _of_arrays(self, shuffle: bool | str, seed: int) -> tf.data.Dataset:
        """As `_divided`."""
        inputs, rows, batch = arrays_in(self._inner) or (None, 0, 0)
        if rows == 0:
            raise UserError("the arrays have no rows: nothing can be computed of them")
        tensors = tensors_of(inputs)
        if self.ranks.size > 1:
            refuse_other_data(parts_of_arrays(tensors, rows), self.ranks, "the arrays")
        self._arrays = ArrayRows(tensors, rows, batch, shuffle, seed, self.ranks)
        return self._arrays.dataset()

    def _divided(self, adapter: DataAdapter, ahead: bool) -> tf.data.Dataset:
        """Elements (data, share, rows of the global batch, checksums).

        ahead: read before they are asked for. Not of a PyDataset that its user changes in the middle of a pass, at the
        end of an epoch: how far it is read by then would differ between ranks.
        """
        given = adapter.get_tf_dataset() if ahead else read_on_demand(adapter)
        refuse_without_rows(given.element_spec)
        rank, size = self.ranks.rank, self.ranks.size

        @do_not_convert
        def own(index: Any, data: Any) -> tuple[Any, Any, Any, Any]:
            rows = rows_in(data)
            first, count, share = rows_to_compute(rows, rank, size)
            seen = tf.zeros([0, 2], tf.int64)
            if size > 1:
                seen = checksums(index, data)
            return part_of(data, first, count), share, rows, seen

        # `enumerate` before `map`, so that elements that are tuples stay one argument.
        if not ahead:
            options = tf.data.Options()
            options.experimental_optimization.apply_default_optimizations = False  # they read ahead
            options.autotune.enabled = False
            return given.enumerate().map(own).with_options(options)
        return given.enumerate().map(own, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)

    def _refuse_lost_track(self, batches: Any) -> None:
        workers = batches.workers > 1 or (batches.workers > 0 and batches.use_multiprocessing)
        if self.steps is not None and workers and self.ranks.size > 1:
            raise UserError(
                f"a PyDataset with workers={batches.workers}, use_multiprocessing={batches.use_multiprocessing} and a "
                f"number of steps ({self.steps}): which batches its workers have read ahead at the end of an epoch "
                "differs between ranks; leave out the number of steps, or read with workers=1"
            )

    @property
    def first(self) -> RankBatch:
        """A batch of this rank, before any step; it is not lost. Every rank asks for it. Raises UserError where there
        is none."""
        if self._first is None and self._arrays is not None:
            self._first = RankBatch(*self._arrays.first())
        if self._first is None:
            self._begun = BatchIterator(self)
            self._begun.look_ahead(stop=False)
            element = self._begun.held
            if element is None:
                raise UserError("the data have no batch: nothing can be computed of them")
            self._first = RankBatch(*element[:2])
        return self._first

    @property
    def rows(self) -> int:
        """That this rank has of the first batch."""
        leaf = tf.nest.flatten(self.first.data)[0]
        return int(leaf.nrows() if isinstance(leaf, tf.RaggedTensor) else leaf.shape[0])

    @property
    def may_fill(self) -> bool:
        """Whether some global batch is known to have fewer rows than there are ranks."""
        return self._arrays is not None and self._arrays.least_rows < self.ranks.size

    @property
    def batch_spec(self) -> Any:
        """What a batch looks like, in tf.TypeSpecs; any number of rows."""
        return self._as_batch(self._dataset.element_spec)

    def _as_batch(self, element: Any) -> Any:
        return RankBatch(element[0], element[1]) if self._with_share else element[0]

    def batch_of(self, element: Any) -> Any:
        """What a step takes."""
        return self._as_batch(element)

    def get_tf_dataset(self) -> "GlobalBatches":
        """Itself: what Keras iterates over. Not a tf.data.Dataset, of which nobody sees an end before it comes."""
        return self

    def __iter__(self) -> "BatchIterator":
        begun, self._begun = self._begun, None
        return begun or BatchIterator(self)

    def go_on(self, epoch: int, seed: int) -> None:
        """Have the orders of a shuffle with this seed begin with that of this epoch, from 0; before the first pass."""
        self.seed = seed
        if self.steps is None:  # else a pass is no epoch
            for order in (self._arrays, self._ordered):
                if order is not None:
                    order.go_on(epoch, seed)

    def begin_pass(self, iterator: "BatchIterator") -> Iterator[Any]:
        """The elements of one pass over the data."""
        if self._ordered is not None and self.steps is not None:
            self._ordered.begin_pass()
        self.current = iterator
        return iter(self._dataset)

    def close(self) -> None:
        """Stop reading, at the end of the call. What was read ahead is lost."""
        for iterator in (self.current, self._begun):
            if iterator is not None:
                iterator.close()

    def on_epoch_begin(self) -> None:
        """Told to the user's data."""
        if self._ordered is not None and self.steps is None:
            self._ordered.begin_pass()  # here: workers start to read before the first batch is asked for
        self._inner.on_epoch_begin()

    def on_epoch_end(self) -> None:
        """Told to the user's data."""
        self._inner.on_epoch_end()

    @property
    def num_batches(self) -> int | None:
        """Global batches of a pass; None where it is not known, or has no end."""
        return self._inner.num_batches

    @property
    def batch_size(self) -> int | None:
        """Rows of a global batch, where it is known."""
        return self._inner.batch_size

    @property
    def has_partial_batch(self) -> bool | None:
        """Whether the last global batch is shorter, where it is known."""
        return self._inner.has_partial_batch

    @property
    def partial_batch_size(self) -> int | None:
        """Rows of the last global batch, where it is known."""
        return self._inner.partial_batch_size


class BatchIterator:
    """One pass over the data: batches, each of which all ranks have when one of them gets it."""

    def __init__(self, batches: GlobalBatches) -> None:
        self.batches, self._ranks = batches, batches.ranks
        self._elements: Iterator[Any] | None = None
        self.held: Any = None
        """An element that was read and not given out yet."""
        self._ended = False
        self.rows_of_batches: list[int] = []
        """Of the global batches that were given out, in order."""
        self.last_share: Any = None
        """Of this rank, of the batch that was given out last."""
        self.read_seconds = 0.0
        """That the last batch was waited for."""

    def __iter__(self) -> "BatchIterator":
        return self

    def close(self) -> None:
        """Give up what reads: threads of tf.data, or the user's generator."""
        self._elements, self.held, self._ended = None, None, True

    def __next__(self) -> Any:
        """The next batch. Raises StopIteration on all ranks where the data have ended."""
        if self.held is None and not self._ended:
            self.look_ahead(stop=False)
        if self.held is None:
            raise StopIteration
        element, self.held = self.held, None
        self.rows_of_batches.append(int(element[2]))
        self.last_share = element[1]
        return self.batches.batch_of(element)

    def take(self, most: int) -> list[Any]:
        """The next batches, at most so many. Raises StopIteration where there are none."""
        taken = [next(self)]
        while len(taken) < most:
            try:
                taken.append(next(self))
            except StopIteration:
                break
        return taken

    def look_ahead(self, stop: bool, read: bool = True, asked: bool = False) -> tuple[bool, bool]:
        """Read the next batch and agree on it; whether any rank wants to stop, and whether any was asked to.

        stop, asked: whether this rank does, and was; read: False where no batch follows, so that nothing is read in
        vain.
        Raises AgreedError, on every rank, where some ranks' data have ended and others' have not, or cannot be read.
        """
        read = read and self.held is None and not self._ended
        failure, ended = None, False
        if read:
            begin = time.perf_counter()
            try:
                if self._elements is None:
                    self._elements = self.batches.begin_pass(self)
                self.held = next(self._elements)
            except StopIteration:
                ended = True
            except Exception as error:  # of the user's data, whatever it is: all ranks have to know
                failure = error
            self.read_seconds = time.perf_counter() - begin
        if self._ranks.size == 1:
            if failure is not None:
                raise failure
            self._ended = self._ended or ended
            return stop, asked
        mark = 0 if not read or ended or failure is not None else self._fingerprint()
        told = [ended, failure is not None, stop, asked, mark, mark * mark]
        counts = [int(each) for each in self._ranks.allreduce_sum(np.array(told, np.int64))]
        if counts[1]:
            self._raise(failure, counts[1])
        if 0 < counts[0] < self._ranks.size:
            self._refuse_unequal_ends(ended)
        if 0 < counts[2] < self._ranks.size:
            self._say_who_stops(stop)
        self._ended = self._ended or ended
        if read and not ended and not are_equal(self._ranks.size, *counts[4:]):
            self._look_at_difference()
        return bool(counts[2]), bool(counts[3])

    def _fingerprint(self) -> int:
        """Of the batch that is held, as this rank has read it."""
        return fingerprint(part_names(self.held[0]), self.held[3].numpy(), labels_alone=self.batches.changing)

    def _look_at_difference(self) -> None:
        """Ranks have read other batches: raise AgreedError, but where they draw random changes of the same samples."""
        number = len(self.rows_of_batches)
        what = "the first batch" if number == 0 else f"batch {number + 1} of the data"
        parts = parts_of_batch(self.held[0], self.held[3].numpy())
        if self.batches.changing:
            parts = [part for part in parts if part.name[:1] != "x"]
        self.batches.changing = refuse_other_data(parts, self._ranks, what, changing=True) or self.batches.changing

    def _raise(self, failure: Exception | None, failed: int) -> None:
        if failure is not None and failed == self._ranks.size:
            raise failure
        number = len(self.rows_of_batches)
        told = None if failure is None else UserError(f"batch {number} of the data cannot be read: {cause(failure)}")
        self._ranks.raise_on_all(told)

    def _say_who_stops(self, stop: bool) -> None:
        stopping = [str(rank) for rank, stops in enumerate(self._ranks.allgather(stop)) if stops]
        if self._ranks.rank == 0:
            say(f"all ranks stop here: a callback of rank {', '.join(stopping)} says so, such as of a loss that is NaN")

    def _refuse_unequal_ends(self, ended: bool) -> None:
        ends = self._ranks.allgather(ended)
        ranks = ", ".join(str(rank) for rank, over in enumerate(ends) if over)
        raise AgreedError(
            f"the data of rank {ranks} ended after {len(self.rows_of_batches)} batches, and those of the other ranks "
            "go on: every rank needs the same global batches; give the number of steps that all ranks have "
            "(steps_per_epoch), or the same data"
        )
