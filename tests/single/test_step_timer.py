"""Timestamps inside a graph tell how long something was waited for, in whatever order the program asks for them."""

import time

import numpy as np
import tensorflow as tf

from horovod_flowers.strategy.step_timer import StepTimer

SECONDS = 0.05


def slow(value: tf.Tensor) -> tf.Tensor:
    def sleep(number: np.ndarray) -> np.ndarray:
        time.sleep(SECONDS)
        return number

    return tf.numpy_function(sleep, [value], tf.float32, stateful=False)


def test_what_is_waited_for_is_counted() -> None:
    waits = StepTimer()

    @tf.function
    def step(value: tf.Tensor) -> tf.Tensor:
        waits.recording = True
        first = slow(value)
        waits.waited([value], [first])
        second = slow(first)
        waits.waited([first], [second])
        waits.waited([second], [second])
        return waits.collect(waits.after([second]))

    waited = int(step(tf.ones([1]))) / 1e9
    # What is waited for begins beside the timestamp that says so, a moment before it perhaps.
    assert 1.8 * SECONDS <= waited < 20 * SECONDS


def test_an_arrival_counts_by_how_much_it_is_later_than_everything_else() -> None:
    waits = StepTimer()

    @tf.function
    def step(value: tf.Tensor, late: bool) -> tf.Tensor:
        waits.recording = True
        waits.arrives([slow(value) if late else value])
        return waits.collect(waits.after([value if late else slow(value)]))

    assert int(step(tf.ones([1]), True)) / 1e9 >= 0.8 * SECONDS
    assert int(step(tf.ones([1]), False)) == 0
