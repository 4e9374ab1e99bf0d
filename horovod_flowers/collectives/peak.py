"""Times large matrix products on all ranks at once: what cores, or a GPU, compute at most. Every rank calls it."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from horovod_flowers.collectives.timing import slowest_seconds
from horovod_flowers.ranks.communicator import Ranks
from horovod_flowers.runlog.machine_peak import TimedProducts

PRODUCTS = 8
"""Of one timing, each of the one before and the same factor: what a call costs is shared among them."""
SMALLEST, LARGEST = 512, 16_384
"""Rows and columns: larger ones come near the peak until caches and memory are what counts."""
LONG_ENOUGH_SECONDS = 0.25
"""Of a timing, from which on no larger product is tried."""


def time_products(precision: str, ranks: Ranks, repetitions: int) -> Iterator[TimedProducts]:
    """Products of larger and larger matrices, each on every rank. `precision`: that is switched on."""
    size = SMALLEST
    while size <= LARGEST:
        seconds = slowest_seconds(_products(size), ranks, repetitions)
        yield TimedProducts(precision=precision, size=size, products=PRODUCTS, seconds=seconds)
        if min(seconds) >= LONG_ENOUGH_SECONDS:
            return
        size *= 2


def _products(size: int) -> Callable[[], Any]:
    """A call that computes PRODUCTS of them, in the precision that is switched on, and waits for the last."""
    import tensorflow as tf

    numbers = np.random.default_rng(0).standard_normal((2, size, size), np.float32)
    left, right = tf.constant(numbers[0]), tf.constant(numbers[1] / np.sqrt(size, dtype=np.float32))  # stays finite

    @tf.function(autograph=False)
    def chain(left: tf.Tensor, right: tf.Tensor) -> tf.Tensor:
        for _ in range(PRODUCTS):
            left = tf.matmul(left, right)
        return left[0, 0]

    return lambda: chain(left, right).numpy()
