"""When something of a step was there: marks in the graph of a `fit`, which tell the recorder what each step took.

A mark is a call back into Python from the step's graph, some tens of microseconds. Marks are traced into a graph only
while a recorder is there, so that a script that no study has started carries none.
"""

import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf

from horovod_flowers.recording.recorder import RunRecorder, StepTimes

Part = Literal["compute", "communication", "update"]


class StepMarks:
    """The marks of this process: one training is recorded at a time.

    In the order of a step: `batch_arrived`, then as often as an optimizer is applied `computed`, `combined`, `updated`
    and (where weights of other ranks have to come) `gathered`, then `step_ended`. Time before a mark belongs to the
    part that the mark ends; what no mark ends counts as computation.
    """

    def __init__(self) -> None:
        self._recorder: RunRecorder | None = None
        self._warmup_left = 0
        self._traced = False
        self._previous_ns = 0
        self._arrived: deque[int] = deque()
        self._parts: list[tuple[Part, int]] = []
        self._waited_ns = 0

    @property
    def on(self) -> bool:
        """Whether steps are recorded: marks are traced into graphs then."""
        return self._recorder is not None

    def start(self, recorder: RunRecorder | None) -> None:
        """A fit begins whose steps go to `recorder`; None: they go nowhere."""
        self._recorder = recorder
        self._warmup_left = 0 if recorder is None else recorder.config.warmup_steps
        self._forget()

    def begin_epoch(self) -> None:
        """Its first step begins now: what was before, such as validation, is no part of it."""
        self._forget()
        self._previous_ns = time.monotonic_ns()

    def _forget(self) -> None:
        self._arrived.clear()
        self._parts.clear()
        self._waited_ns = 0

    def batch_arrived(self, batch: Any) -> None:
        """A batch, any structure of tensors, is there. Called in the step's graph, or eagerly; as all that follow."""
        if self.on:
            self._traced = self._traced or not tf.executing_eagerly()  # the step after this waits for its graph
            self._mark(tf.nest.flatten(batch), self._batch_is_there)

    def computed(self, gradients: Sequence[Any], waited_ns: Any = None) -> None:
        """All of these gradients are there. `waited_ns`: an int64 scalar, the nanoseconds among them in which the
        passes waited for other ranks (`StepTimer.collect`)."""
        if self.on:
            self._mark(_tensors(gradients), self._part_ended("compute"), waited_ns)

    def combined(self, gradients: Sequence[Any]) -> Sequence[Any]:
        """The gradients have come back from the other ranks. Returns them, to be used from here on: the update then
        waits for the mark."""
        if not self.on:
            return gradients
        mark = self._mark(_tensors(gradients), self._part_ended("communication"))
        with tf.control_dependencies([mark]):
            return [gradient if gradient is None else _same(gradient) for gradient in gradients]

    def updated(self, variables: Sequence[Any]) -> None:
        """The optimizer has updated these variables, of Keras or TensorFlow."""
        if self.on:
            self._mark(_values(variables), self._part_ended("update"))

    def gathered(self, variables: Sequence[Any]) -> None:
        """The model holds the weights that other ranks have updated, too."""
        if self.on:
            self._mark(_values(variables), self._part_ended("communication"))

    def step_ended(self, results: Any, images: Any, variables: Sequence[Any] = (), loss: Any = None) -> None:
        """The step is over once `results`, any structure of tensors, are there, and these variables of Keras updated.

        `images`: an integer scalar, this rank's samples in the step; `loss`: a scalar, their mean loss where it is
        known.
        """
        if not self.on:
            return
        count = tf.cast(tf.reshape(images, []), tf.int64)
        mean = tf.constant(np.nan, tf.float32) if loss is None else tf.cast(tf.reshape(loss, []), tf.float32)
        tensors = [tf.convert_to_tensor(tensor) for tensor in tf.nest.flatten(results) if tensor is not None]
        with tf.control_dependencies([*tensors, *_values(variables)]):
            tf.numpy_function(self._step_is_over, [count, mean], tf.int64)

    def _mark(self, tensors: Sequence[Any], tell: Callable[[int, int], None], waited_ns: Any = None) -> tf.Tensor:
        def now(waited: np.ndarray) -> np.int64:
            time_ns = time.monotonic_ns()
            tell(time_ns, int(waited))
            return np.int64(time_ns)

        with tf.control_dependencies([tensor for tensor in tensors if tf.is_tensor(tensor)]):
            waited = tf.zeros([], tf.int64) if waited_ns is None else tf.identity(waited_ns)
            return tf.numpy_function(now, [waited], tf.int64)

    def _batch_is_there(self, time_ns: int, _: int) -> None:
        if self.on:
            self._arrived.append(time_ns)

    def _part_ended(self, part: Part) -> Callable[[int, int], None]:
        def tell(time_ns: int, waited_ns: int) -> None:
            if self.on:
                self._parts.append((part, time_ns))
                self._waited_ns += waited_ns

        return tell

    def _step_is_over(self, images: np.ndarray, loss: np.ndarray) -> np.int64:
        end_ns, recorder = time.monotonic_ns(), self._recorder
        if recorder is None or not self._arrived:
            return np.int64(end_ns)
        start_ns = self._previous_ns
        batch_ns = min(max(self._arrived.popleft(), start_ns), end_ns)
        spent = {"compute": 0, "communication": 0, "update": 0}
        last_ns = batch_ns
        for part, time_ns in self._parts:
            spent[part] += max(0, time_ns - last_ns)
            last_ns = max(last_ns, time_ns)
        waited_ns = min(self._waited_ns, spent["compute"])
        times = StepTimes(start_ns, batch_ns, spent["communication"] + waited_ns, spent["update"], end_ns)
        warmup = self._warmup_left > 0 or self._traced
        self._warmup_left -= self._warmup_left > 0
        self._traced = False
        self._parts.clear()
        self._waited_ns = 0
        self._previous_ns = end_ns
        recorder.step(times, int(images), None if np.isnan(loss) else float(loss), warmup)
        return np.int64(end_ns)


def _tensors(gradients: Sequence[Any]) -> list[Any]:
    """The tensors that gradients consist of: those of sparse ones are their values."""
    return [getattr(gradient, "values", gradient) for gradient in gradients if gradient is not None]


def _values(variables: Sequence[Any]) -> list[tf.Tensor]:
    """Of variables of Keras or TensorFlow."""
    return [tf.convert_to_tensor(each.value if isinstance(each, keras.Variable) else each) for each in variables]


def _same(gradient: Any) -> Any:
    if isinstance(gradient, tf.IndexedSlices):
        return tf.IndexedSlices(tf.identity(gradient.values), gradient.indices, gradient.dense_shape)
    return tf.identity(gradient)


STEP_MARKS = StepMarks()
"""Of this process."""
