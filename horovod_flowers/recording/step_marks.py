"""When something of a step was there: marks in the graph of a `fit`, which tell the recorder what each step took.

A mark in a graph is a reading of TensorFlow's clock, kept in a variable, since it may lie in a branch; one call into
Python at the end of a step takes them all. Marks are traced only while a recorder is there, so that a script that no
study has started carries none.
"""

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf

from horovod_flowers.recording.model_flops import BatchShapes
from horovod_flowers.recording.recorder import RunRecorder, StepTimes

Part = Literal["compute", "communication", "update"]

MOST_MARKS = 64
"""In a step; what comes after them counts as computation."""


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
        self._marks: list[_Mark] = []
        """Of the step that is being traced, or computed eagerly; the first one is of its batch."""
        self._readings: list[tuple[tf.Variable, tf.Variable]] = []
        """For marks in graphs, in the order of a step: seconds of TensorFlow's clock, and nanoseconds waited."""
        self.shapes = BatchShapes()
        """Of the batches of all fits of one recorder."""
        self._shapes_for: RunRecorder | None = None

    @property
    def on(self) -> bool:
        """Whether steps are recorded: marks are traced into graphs then."""
        return self._recorder is not None

    def start(self, recorder: RunRecorder | None) -> None:
        """A fit begins whose steps go to `recorder`; None: they go nowhere."""
        self._recorder = recorder
        if recorder is not None and recorder is not self._shapes_for:
            self.shapes, self._shapes_for = BatchShapes(), recorder
        self._warmup_left = 0 if recorder is None else recorder.config.warmup_steps
        if recorder is not None and not self._readings:  # a tf.function could make none when it is traced again
            with tf.device("CPU:0"):
                self._readings = [(_zero(), _zero()) for _ in range(MOST_MARKS)]

    def begin_epoch(self) -> None:
        """Its first step begins now: what was before, such as validation, is no part of it."""
        self._previous_ns = time.monotonic_ns()

    def batch_arrived(self, batch: Any) -> None:
        """A batch, any structure of tensors, is there. Called in the step's graph, or eagerly; as all that follow."""
        if self.on:
            self._traced = self._traced or not tf.executing_eagerly()  # the step after this waits for its graph
            self._marks = []
            self.shapes.see(batch)
            self._mark("compute", tf.nest.flatten(batch))

    def computed(self, gradients: Sequence[Any], waited_ns: Any = None) -> Sequence[Any]:
        """All of these gradients are there.

        `waited_ns`: an int64 scalar, the nanoseconds among them in which the passes waited for other ranks
        (`StepTimer.collect`). Returns them, for an update that follows at once: it waits for the mark. What is sent to
        other ranks should not: take those that were given.
        """
        return self._marked("compute", gradients, waited_ns)

    def combined(self, gradients: Sequence[Any]) -> Sequence[Any]:
        """The gradients have come back from the other ranks. Returns them, to be used from here on: the update then
        waits for the mark."""
        return self._marked("communication", gradients)

    def updated(self, variables: Sequence[Any]) -> None:
        """The optimizer has updated these variables, of Keras or TensorFlow."""
        if self.on:
            self._mark("update", _values(variables))

    def gathered(self, variables: Sequence[Any]) -> None:
        """The model holds the weights that other ranks have updated, too."""
        if self.on:
            self._mark("communication", _values(variables))

    def step_ended(self, results: Any, images: Any, variables: Sequence[Any] = (), loss: Any = None) -> None:
        """The step is over once `results`, any structure of tensors, are there, and these variables of Keras updated.

        `images`: an integer scalar, this rank's samples in the step; `loss`: a scalar, their mean loss where it is
        known.
        """
        if not self.on or not self._marks:
            return
        count = tf.cast(tf.reshape(images, []), tf.int64)
        mean = tf.constant(np.nan, tf.float32) if loss is None else tf.cast(tf.reshape(loss, []), tf.float32)
        tensors = [tf.convert_to_tensor(tensor) for tensor in tf.nest.flatten(results) if tensor is not None]
        marks, self._marks = self._marks, []
        if tf.executing_eagerly():
            self._step_is_over(marks, [(mark.time_ns, mark.waited_ns) for mark in marks], int(count), float(mean))
            return
        over = partial(self._graphs_step_is_over, marks)
        with tf.control_dependencies([*tensors, *_values(variables)]):
            taken = [reading.read_value() for pair in self._readings[: len(marks)] for reading in pair]
            readings = tf.stack(taken)
            tf.numpy_function(over, [readings, count, mean], tf.int64)

    def _marked(self, part: Part, gradients: Sequence[Any], waited_ns: Any = None) -> Sequence[Any]:
        """The gradients, which wait for the mark of when they were there."""
        if not self.on:
            return gradients
        with self._mark(part, _tensors(gradients), waited_ns):
            return [gradient if gradient is None else _same(gradient) for gradient in gradients]

    def _mark(self, part: Part, tensors: Sequence[Any], waited_ns: Any = None) -> AbstractContextManager[Any]:
        """A mark for when these tensors were there; what is made in the context waits for it."""
        place, mark = len(self._marks), _Mark(part, waited_ns is not None)
        if place == MOST_MARKS:
            return nullcontext()
        self._marks.append(mark)
        if tf.executing_eagerly():
            mark.time_ns = time.monotonic_ns()
            mark.waited_ns = 0 if waited_ns is None else int(waited_ns)
            return nullcontext()
        seconds, waited = self._readings[place]
        with tf.control_dependencies([tensor for tensor in tensors if tf.is_tensor(tensor)]), tf.device("CPU:0"):
            taken = [seconds.assign(tf.timestamp(), read_value=False)]
            if waited_ns is not None:
                taken.append(waited.assign(tf.cast(waited_ns, tf.float64), read_value=False))
        return tf.control_dependencies(taken)

    def _graphs_step_is_over(
        self, marks: "Sequence[_Mark]", readings: np.ndarray, images: np.ndarray, loss: np.ndarray
    ) -> np.int64:
        # TensorFlow's clock is the time of day; both are read at once here.
        offset_ns = time.monotonic_ns() - time.time_ns()
        taken = [(round(seconds * 1e9) + offset_ns, int(waited)) for seconds, waited in readings.reshape(-1, 2)]
        self._step_is_over(marks, taken, int(images), float(loss))
        return np.int64(0)

    def _step_is_over(
        self, marks: "Sequence[_Mark]", taken: Sequence[tuple[int, int]], images: int, loss: float
    ) -> None:
        """`taken`: for each mark its time, and how long was waited before it, in nanoseconds."""
        end_ns, recorder = time.monotonic_ns(), self._recorder
        if recorder is None:
            return
        start_ns = self._previous_ns
        (arrived_ns, _), *others = taken
        last_ns = batch_ns = min(max(arrived_ns, start_ns), end_ns)
        spent, waited_ns = {"compute": 0, "communication": 0, "update": 0}, 0
        for mark, (time_ns, waited) in zip(marks[1:], others, strict=True):
            if time_ns >= arrived_ns:  # else it is of an earlier step: in a branch that this one has not taken
                now_ns = min(max(time_ns, last_ns), end_ns)
                spent[mark.part] += now_ns - last_ns
                waited_ns += waited if mark.waits else 0
                last_ns = now_ns
        waited_ns = min(waited_ns, spent["compute"])
        times = StepTimes(start_ns, batch_ns, spent["communication"] + waited_ns, spent["update"], end_ns)
        warmup = self._warmup_left > 0 or self._traced
        self._warmup_left -= self._warmup_left > 0
        self._traced = False
        self._previous_ns = end_ns
        recorder.step(times, images, None if np.isnan(loss) else loss, warmup)


@dataclass
class _Mark:
    """One mark of a step; its time is known here where the step is computed eagerly."""

    part: Part
    waits: bool
    """Whether it tells how long was waited."""
    time_ns: int = 0
    waited_ns: int = 0


def _zero() -> tf.Variable:
    return tf.Variable(0.0, trainable=False, dtype=tf.float64)


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
