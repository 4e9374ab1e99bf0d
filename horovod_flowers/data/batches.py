"""The batches that one rank feeds to its model, read ahead by a thread."""

import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from horovod_flowers.data.augment import DRAWS, augment
from horovod_flowers.data.order import augmentation_draws, epoch_order, rank_slice, steps_per_epoch
from horovod_flowers.data.prepared import Prepared

PREFETCHED_BATCHES = 2


@dataclass(frozen=True)
class Batch:
    """One rank's part of a global batch. Shapes never change: missing images are blank and weigh nothing."""

    images: np.ndarray
    """uint8 [per-rank batch, size, size, 3]."""
    labels: np.ndarray
    """int32 [per-rank batch]."""
    weights: np.ndarray
    """float32 [per-rank batch]: 1 for an image, 0 for a blank."""
    global_images: int
    """Images (not blanks) of the step over all ranks."""

    @property
    def rank_images(self) -> int:
        """Images (not blanks) in this rank's part."""
        return int(self.weights.sum())


def training_batches(
    prepared: Prepared,
    training: np.ndarray,
    *,
    global_batch: int,
    rank: int,
    size: int,
    seed: int,
    epoch: int,
    augmented: bool,
) -> Iterator[Batch]:
    """One epoch's batches of one rank: a full permutation of the training indices, every image exactly once."""
    images = len(training)
    order = epoch_order(images, seed, epoch)
    draws = augmentation_draws(images, seed, epoch, DRAWS) if augmented else None
    for step in range(steps_per_epoch(images, global_batch)):
        part = order[rank_slice(step, global_batch, rank, size)]
        yield _assemble(
            prepared,
            training[part],
            per_rank=global_batch // size,
            global_images=min(global_batch, images - step * global_batch),
            draws=None if draws is None else draws[part],
        )


def evaluation_batches(prepared: Prepared, indices: np.ndarray, *, batch: int, rank: int, size: int) -> Iterator[Batch]:
    """This rank's share of `indices`, every size-th image from its rank on: over all ranks each image exactly once."""
    own = indices[rank::size]
    for start in range(0, len(own), batch):
        yield _assemble(prepared, own[start : start + batch], per_rank=batch, global_images=0, draws=None)


def _assemble(
    prepared: Prepared, indices: np.ndarray, *, per_rank: int, global_images: int, draws: np.ndarray | None
) -> Batch:
    size = prepared.image_size
    images = np.zeros((per_rank, size, size, 3), np.uint8)
    labels, weights = np.zeros(per_rank, np.int32), np.zeros(per_rank, np.float32)
    for place, index in enumerate(indices):
        image = prepared.image(index)
        images[place] = image if draws is None else augment(image, draws[place])
    labels[: len(indices)] = prepared.labels[indices]
    weights[: len(indices)] = 1
    return Batch(images, labels, weights, global_images)


class Prefetcher:
    """Runs an iterator of batches in a thread, a few batches ahead; errors of the thread are raised to the reader."""

    def __init__(self, batches: Iterator[Batch]) -> None:
        self._queue: queue.Queue[Batch | BaseException | None] = queue.Queue(PREFETCHED_BATCHES)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._fill, args=(batches,), name="prefetch", daemon=True)
        self._thread.start()

    def _fill(self, batches: Iterator[Batch]) -> None:
        try:
            for batch in batches:
                if not self._put(batch):
                    return
            self._put(None)
        except BaseException as error:
            self._put(error)

    def _put(self, item: Batch | BaseException | None) -> bool:
        while not self._closed.is_set():
            try:
                self._queue.put(item, timeout=0.1)
            except queue.Full:
                continue
            return True
        return False

    def __iter__(self) -> Iterator[Batch]:
        while True:
            item = self._queue.get()
            if item is None:
                return
            if isinstance(item, BaseException):
                raise item
            yield item

    def __enter__(self) -> "Prefetcher":
        return self

    def __exit__(self, *unused: object) -> None:
        self._closed.set()
        self._thread.join()
