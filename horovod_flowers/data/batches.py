"""The batches that one rank feeds to its model, read ahead by a thread."""

import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from horovod_flowers.data.augment import DRAWS, Augmentation
from horovod_flowers.data.order import augmentation_draws, epoch_order, per_rank_batch, rank_slice, steps_per_epoch
from horovod_flowers.data.prepared import Prepared

PREFETCHED_BATCHES = 2

Item = TypeVar("Item")


@dataclass(frozen=True)
class Batch:
    """One rank's part of a global batch. Shapes never change: the last batch is filled up with images of no weight."""

    images: np.ndarray
    """uint8 [per-rank batch, size, size, 3]."""
    labels: np.ndarray
    """int32 [per-rank batch]."""
    weights: np.ndarray
    """float32 [per-rank batch]: how much an image counts in the loss, 1 unless weights are asked for; 0 where it only
    fills the batch up."""
    global_images: int
    """Images that count in the step, over all ranks."""
    indices: np.ndarray
    """int64 [per-rank batch]: which of the prepared images they are."""

    @property
    def rank_images(self) -> int:
        """Images that count in this rank's part."""
        return int(np.count_nonzero(self.weights))


def training_batches(
    prepared: Prepared,
    training: np.ndarray,
    *,
    global_batch: int,
    rank: int,
    size: int,
    seed: int,
    epoch: int,
    augmentation: Augmentation | None,
    first_step: int = 0,
    image_weights: np.ndarray | None = None,
) -> Iterator[Batch]:
    """One epoch's batches of one rank: a full permutation of the training indices, every image exactly once.

    `first_step` leaves out the steps before it, where an interrupted epoch goes on. `image_weights`: float32 [prepared
    images], above 0: how much each counts in the loss; all alike without them.
    """
    images, steps = len(training), steps_per_epoch(len(training), global_batch)
    # Filled up with the epoch's first images rather than blanks, which would enter batch-normalisation statistics.
    order = np.resize(epoch_order(images, seed, epoch), steps * global_batch)
    draws = augmentation_draws(images, seed, epoch, DRAWS) if augmentation else None
    room = per_rank_batch(global_batch, size)
    for step in range(first_step, steps):
        place = rank_slice(step, global_batch, rank, size)
        # Where the ranks do not divide the batch, filled up as the last batch is.
        part = np.resize(order[place] if place.stop > place.start else order[:1], room)
        yield _assemble(
            prepared,
            training[part],
            counted=max(0, min(images, place.stop) - place.start),
            global_images=min(global_batch, images - step * global_batch),
            augmentation=augmentation,
            draws=None if draws is None else draws[part],
            image_weights=image_weights,
        )


def evaluation_batches(prepared: Prepared, indices: np.ndarray, *, batch: int, rank: int, size: int) -> Iterator[Batch]:
    """This rank's share of `indices`, every size-th image from its rank on: over all ranks each image exactly once.

    Every rank gets equally many batches, the last ones filled up with images of weight 0: ranks that hold parts of one
    layer compute together.
    """
    own = indices[rank::size]
    most = -(-len(indices) // size)
    for start in range(0, most, batch):
        part = own[start : start + batch]
        filled = np.resize(part if len(part) else indices[:1], batch)
        yield _assemble(prepared, filled, counted=len(part), global_images=0)


def _assemble(
    prepared: Prepared,
    indices: np.ndarray,
    *,
    counted: int,
    global_images: int,
    augmentation: Augmentation | None = None,
    draws: np.ndarray | None = None,
    image_weights: np.ndarray | None = None,
) -> Batch:
    size = augmentation.size if augmentation else prepared.image_size
    images = np.empty((len(indices), size, size, 3), np.uint8)
    for place, index in enumerate(indices):
        image = prepared.image(index)
        images[place] = image if augmentation is None or draws is None else augmentation(image, draws[place])
    weights = (np.arange(len(indices)) < counted).astype(np.float32)
    if image_weights is not None:
        weights *= image_weights[indices]
    return Batch(images, prepared.labels[indices], weights, global_images, indices)


class Prefetcher(Generic[Item]):
    """Runs an iterator of batches in a thread, a few batches ahead; errors of the thread are raised to the reader."""

    def __init__(self, batches: Iterator[Item]) -> None:
        self._queue: queue.Queue[Item | BaseException | None] = queue.Queue(PREFETCHED_BATCHES)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._fill, args=(batches,), name="prefetch", daemon=True)
        self._thread.start()

    def _fill(self, batches: Iterator[Item]) -> None:
        try:
            for batch in batches:
                if not self._put(batch):
                    return
            self._put(None)
        except BaseException as error:
            self._put(error)

    def _put(self, item: Item | BaseException | None) -> bool:
        while not self._closed.is_set():
            try:
                self._queue.put(item, timeout=0.1)
            except queue.Full:
                continue
            return True
        return False

    def __iter__(self) -> Iterator[Item]:
        while True:
            item = self._queue.get()
            if item is None:
                return
            if isinstance(item, BaseException):
                raise item
            yield item

    def __enter__(self) -> "Prefetcher[Item]":
        return self

    def __exit__(self, *unused: object) -> None:
        self._closed.set()
        self._thread.join()
