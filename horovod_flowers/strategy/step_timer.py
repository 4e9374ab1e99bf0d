"""When something of a step was there, and how long a rank waited for others: timestamps inside its graph."""

import time
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from horovod_flowers.runtime.heartbeat import HEARTBEAT


class StepTimer:
    """Times at which a rank waits for others inside its forward and backward pass, collected while a step is traced."""

    def __init__(self) -> None:
        self._intervals: list[tuple[tf.Tensor, tf.Tensor]] = []
        self._arrivals: list[tf.Tensor] = []
        self.recording = False

    def after(self, tensors: Sequence[tf.Tensor], tell: Callable[[], None] | None = None) -> tf.Tensor:
        """When these were there, in monotonic nanoseconds: an int64 scalar of the graph. `tell` is called then."""

        def now(_: np.ndarray) -> np.int64:
            if tell is not None:
                tell()
            return np.int64(time.monotonic_ns())

        with tf.control_dependencies(list(tensors)):
            # Not stateful: TensorFlow would have one timestamp wait for the other in the order of the program. An input
            # from the step itself keeps its optimizer from taking the time for a constant.
            something = tf.cast(tf.reshape(tensors[0], [-1])[:1], tf.float32)
            return tf.numpy_function(now, [something], tf.int64, stateful=False)

    def waited(self, ready: Sequence[tf.Tensor], arrived: Sequence[tf.Tensor]) -> None:
        """From the moment that all of `ready` were computed (nothing else was left to do) until all `arrived`."""
        if self.recording:
            begins, ends = self.after(ready, HEARTBEAT.wait_begins), self.after(arrived, HEARTBEAT.wait_ends)
            self._intervals.append((begins, ends))

    def arrives(self, tensors: Sequence[tf.Tensor]) -> None:
        """Data that the backward pass needs at its end: a wait only where everything else is done before."""
        if self.recording:
            self._arrivals.append(self.after(tensors))

    def collect(self, others_ns: tf.Tensor) -> tf.Tensor:
        """Sum of the waits of the step being traced, in nanoseconds, given when all other gradients were computed."""
        none = tf.zeros([], tf.int64)
        waited = tf.reduce_sum(tf.stack([none, *(tf.maximum(end - start, 0) for start, end in self._intervals)]))
        late = tf.reduce_max(tf.stack([none, *(arrived - others_ns for arrived in self._arrivals)]))
        self._intervals, self._arrivals = [], []
        return waited + late
