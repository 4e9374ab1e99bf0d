"""What has to be around a model's `fit` so that its run is recorded: a callback, and marks in its train_step."""

import contextlib
import functools
import inspect
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from horovod_flowers.model.flops.step_flops import StepFlops
from horovod_flowers.model.optimizer_class import Combining, Gradients, Update, combine_in_place, combining_of
from horovod_flowers.ranks.communicator import Ranks
from horovod_flowers.recording.model_flops import count_fit
from horovod_flowers.recording.recorder import RunRecorder
from horovod_flowers.recording.step_marks import STEP_MARKS
from horovod_flowers.runlog.environment import Parallelism


@functools.cache
def recorder_of_process() -> RunRecorder | None:
    """The recorder that a study asks this process for, one for all of its fits; None where no study does.

    Raises UserError where what the study has written is not there.
    """
    return RunRecorder.from_environment()


class RecordingCallback(keras.callbacks.Callback):
    """Records a fit. It has to be the last of the callbacks, and to be there on every rank."""

    def __init__(
        self,
        recorder: RunRecorder,
        ranks: Ranks,
        parallelism: Callable[[], Parallelism],
        *,
        global_batch: int | None = None,
    ) -> None:
        """`parallelism`: how the ranks divide the work, asked for as the fit begins; `global_batch`: samples of a step
        over all ranks, None where it is not known beforehand."""
        super().__init__()
        self._recorder, self._ranks, self._parallelism = recorder, ranks, parallelism
        self._global_batch = global_batch
        self._recorded = False
        self._validation_began: float | None = None
        self._validation_seconds: float | None = None

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        """Begin the run's records, or go on with them."""
        parallelism = self._parallelism()

        def count(rows: int) -> StepFlops:
            return count_fit(self.model, STEP_MARKS.shapes, rows)

        self._recorded = self._recorder.begin(self._ranks, self.model, parallelism, self._global_batch, count)
        STEP_MARKS.start(self._recorder if self._recorded else None)

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Start its clock."""
        if self._recorded:
            self._validation_seconds = None
            self._recorder.begin_epoch()
            STEP_MARKS.begin_epoch()

    def on_test_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        """Validation begins."""
        self._validation_began = time.monotonic()

    def on_test_end(self, logs: Mapping[str, Any] | None = None) -> None:
        """Validation has ended."""
        if self._validation_began is not None:
            self._validation_seconds = time.monotonic() - self._validation_began

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Record it."""
        if self._recorded:
            numbers = {name: float(value) for name, value in (logs or {}).items() if np.ndim(value) == 0}
            rate = numbers.pop("learning_rate", None)
            self._recorder.end_epoch(numbers, _learning_rate(self.model) or rate, self._validation_seconds)

    def on_train_end(self, logs: Mapping[str, Any] | None = None) -> None:
        """Leave the result."""
        STEP_MARKS.start(None)
        if self._recorded:
            self._recorder.finish(self.model.count_params(), _bytes_of(self.model.optimizer))


def recording_callback(
    ranks: Ranks, parallelism: Callable[[], Parallelism], *, global_batch: int | None = None
) -> RecordingCallback | None:
    """The callback to append to those of a fit, on every rank; None where no study asks for a record.

    Raises UserError where what the study has written is not there.
    """
    recorder = recorder_of_process()
    if recorder is None:
        return None
    return RecordingCallback(recorder, ranks, parallelism, global_batch=global_batch)


class MarkedUpdate(Combining):
    """Marks around the update of an optimizer that has nothing to combine: of one rank."""

    def apply(self, optimizer: Any, gradients: Gradients, variables: Sequence[Any], update: Update) -> None:
        """The update, between two marks."""
        update(STEP_MARKS.computed(gradients), variables)
        STEP_MARKS.updated(variables)


def marked_train_step(model: Any) -> Callable[[Any], Any]:
    """A model's train_step with marks around it, for models whose own class does not set them.

    Its samples are the rows of the batch that Keras hands it: x, (x, y) or (x, y, sample_weight).
    """
    train_step = model.train_step

    def marked(data: Any) -> Any:
        STEP_MARKS.batch_arrived(data)
        logs = train_step(data)
        STEP_MARKS.step_ended(logs, rows_of(data), model.trainable_variables)
        return logs

    return marked


def rows_of(data: Any) -> tf.Tensor:
    """int64 scalar: rows of a batch, any structure of tensors with rows along the first axis."""
    return tf.shape(tf.nest.flatten(data)[0], out_type=tf.int64)[0]


def record_every_fit(ranks: Ranks, parallelism: Callable[[Any], Parallelism]) -> None:
    """Record what `keras.Model.fit` trains from here on, for scripts that call it as Keras has it (Horovod's way).

    `parallelism`: how the ranks divide the work of a model. Does nothing where no study asks for a record. The marks
    inside the optimizer are the wrapped optimizer's to set. Raises UserError as `recording_callback` does.
    """
    if recorder_of_process() is None or hasattr(keras.Model.fit, "records"):
        return
    original = keras.Model.fit
    signature = inspect.signature(original)

    @functools.wraps(original)
    def fit(self: Any, *arguments: Any, **named: Any) -> Any:
        bound = signature.bind(self, *arguments, **named)
        callback = recording_callback(ranks, lambda: parallelism(self))
        bound.arguments["callbacks"] = with_callback(bound.arguments.get("callbacks"), callback)
        with _marked(self):
            return original(*bound.args, **bound.kwargs)

    fit.records = True  # type: ignore[attr-defined]
    keras.Model.fit = fit


def record_fits_of(model: Any, ranks: Ranks, parallelism: Callable[[], Parallelism]) -> None:
    """Record what this model's own `fit` trains from here on, without other ranks: nothing is combined.

    Does nothing where no study asks for a record. Raises UserError as `recording_callback` does.
    """
    if recorder_of_process() is None:
        return
    original = model.fit
    signature = inspect.signature(original)

    @functools.wraps(original)
    def fit(*arguments: Any, **named: Any) -> Any:
        bound = signature.bind(*arguments, **named)
        callback = recording_callback(ranks, parallelism)
        bound.arguments["callbacks"] = with_callback(bound.arguments.get("callbacks"), callback)
        if combining_of(model.optimizer) is None:
            combine_in_place(model.optimizer, MarkedUpdate)
            model.train_function = None
        with _marked(model):
            return original(*bound.args, **bound.kwargs)

    model.fit = fit


_TRACED_WITH_MARKS: weakref.WeakSet[Any] = weakref.WeakSet()


@contextlib.contextmanager
def _marked(model: Any) -> Iterator[None]:
    """While a fit traces and runs this model's train_step, there are marks around it."""
    if "train_step" in vars(model):  # a fit within a fit
        yield
        return
    if model not in _TRACED_WITH_MARKS:  # train_on_batch may have built its graph before
        _TRACED_WITH_MARKS.add(model)
        model.train_function = None
    model.train_step = marked_train_step(model)
    try:
        yield
    finally:
        del model.train_step


_PRECISIONS = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16", "float64": "fp64"}


def precision_of(model: Any) -> str:
    """What the model computes in, by its dtype policy."""
    computed_in = str(model.dtype_policy.compute_dtype)
    return _PRECISIONS.get(computed_in, computed_in)


def with_callback(callbacks: Any, last: keras.callbacks.Callback | None) -> Any:
    """The callbacks as `fit` takes them, with one behind all others."""
    if last is None:
        return callbacks
    if isinstance(callbacks, keras.callbacks.CallbackList):
        callbacks.append(last)
        return callbacks
    given = [] if callbacks is None else callbacks if isinstance(callbacks, list | tuple) else [callbacks]
    return [*given, last]


def _learning_rate(model: Any) -> float | None:
    rate = getattr(getattr(model, "optimizer", None), "learning_rate", None)
    return None if rate is None else float(np.asarray(keras.ops.convert_to_numpy(rate)))


def _bytes_of(optimizer: Any) -> int:
    """Of the optimizer's state on this rank, without its counters."""
    variables = getattr(optimizer, "variables", [])
    return sum(int(np.prod(variable.shape)) * tf.as_dtype(variable.dtype).size for variable in variables)
