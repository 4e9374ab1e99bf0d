"""A PyDataset whose batches come in one order for all ranks."""

import random
from typing import Any

import keras
import numpy as np


class OrderedBatches(keras.utils.PyDataset):
    """Batches of another PyDataset, in an order of their own in each epoch, as Keras shuffles them: only that it is the
    same on every rank.

    It may be sent to other processes, as a PyDataset is with use_multiprocessing=True.
    """

    def __init__(self, batches: Any, seed: int) -> None:
        """batches: with a number of batches that is known; seed: the same on every rank."""
        super().__init__(batches.workers, batches.use_multiprocessing, batches.max_queue_size)
        self._batches, self._seed, self._passes = batches, seed, 0
        self._order: np.ndarray | None = None

    @property
    def num_batches(self) -> int:
        """Of one pass over the data."""
        return int(self._batches.num_batches)

    def go_on(self, epoch: int, seed: int) -> None:
        """Have the next order be that of this epoch, from 0, of a shuffle with this seed."""
        self._seed, self._passes = seed, epoch

    def begin_pass(self) -> None:
        """Put the batches in a new order; before the first is read, by whichever thread or process."""
        self._order = np.random.default_rng([self._seed, self._passes]).permutation(self.num_batches)
        self._passes += 1

    def __getitem__(self, index: int) -> Any:
        """A batch by its place in this pass; before the first one, by its own place."""
        return self._batches[index if self._order is None else int(self._order[index])]

    def on_epoch_begin(self) -> None:
        """Told on."""
        self._batches.on_epoch_begin()

    def on_epoch_end(self) -> None:
        """Told on."""
        self._batches.on_epoch_end()


class FirstBatch(keras.utils.PyDataset):
    """The first batch of another PyDataset alone, read by no worker."""

    def __init__(self, batches: Any) -> None:
        super().__init__()
        self._batches = batches

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> Any:
        return self._batches[0]


def has_epochs(batches: Any) -> bool:
    """Whether a PyDataset does anything at the beginning or the end of an epoch, such as change its order."""
    hooks = ("on_epoch_begin", "on_epoch_end")
    return any(getattr(type(batches), name) is not getattr(keras.utils.PyDataset, name) for name in hooks)


def draw_seed() -> int:
    """From Python's random numbers, as Keras draws its own; `keras.utils.set_random_seed` seeds them."""
    return random.randint(1, 10**9)
