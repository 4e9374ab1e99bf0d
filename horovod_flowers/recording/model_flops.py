"""What a training step takes in floating-point operations, for a run's record: counted once, on rank 0."""

import inspect
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from horovod_flowers.model.flops.step_flops import StepFlops, count_step, not_counted
from horovod_flowers.runlog.model_flops import ModelFlops
from horovod_flowers.runtime.heartbeat import HEARTBEAT

VARYING = "batches whose shapes differ, or are not known before they are there"


def flops_of_step(count: Callable[[int], StepFlops], images: int, ranks: int) -> ModelFlops:
    """Of a step on so many images over all ranks; of a rank's part of them where the model takes no other batch."""
    HEARTBEAT.at("counting the model's floating-point operations", long=True)
    for rows in dict.fromkeys((images, -(-images // ranks))):
        found = count(rows)
        if found.forward is not None:
            break
    return ModelFlops(
        images=found.images, forward=found.forward, backward=found.backward, not_counted=list(found.not_counted)
    )


class BatchShapes:
    """What the batches of a fit look like, as its steps are traced."""

    def __init__(self) -> None:
        self._first: Any = None
        self._vary = False

    def see(self, batch: Any) -> None:
        """One more trace, or step, on a batch as Keras hands it to train_step."""
        shapes = keras.tree.map_structure(_of_row, batch)
        if self._first is None:
            self._first = shapes
        try:
            keras.tree.assert_same_structure(self._first, shapes)
            same = keras.tree.flatten(self._first) == keras.tree.flatten(shapes)
        except (ValueError, TypeError):
            same = False
        self._vary = self._vary or not same

    def of_rows(self, rows: int) -> Any:
        """A batch of so many, a structure of tf.TensorSpec; None where rows differ."""
        every = keras.tree.flatten(self._first)
        if self._first is None or self._vary or any(not each.known for each in every):
            return None
        return keras.tree.map_structure(lambda each: each.of(rows), self._first)


class _Row:
    """Of one tensor of a batch: the shape of a row, and the type of its numbers."""

    def __init__(self, tensor: Any) -> None:
        dense = isinstance(tensor, tf.Tensor | tf.Variable)
        shape = tensor.shape if dense else None
        self._there = tensor is not None
        self.known = not self._there or (shape is not None and shape.rank is not None and None not in shape[1:])
        self._shape = tuple(shape) if self.known and shape is not None else None
        self._dtype = tensor.dtype if dense else None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Row) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    @property
    def _key(self) -> tuple[Any, ...]:
        return self._there, self._shape and self._shape[1:], self._dtype

    def of(self, rows: int) -> tf.TensorSpec | None:
        """The same of a batch of so many rows."""
        if not self._there:
            return None
        shape = self._shape or ()
        return tf.TensorSpec((rows, *shape[1:]) if shape else (), self._dtype)


def _of_row(tensor: Any) -> _Row:
    return _Row(tensor)


def count_fit(model: Any, shapes: BatchShapes, rows: int) -> StepFlops:
    """Of a step of a model's own `fit`, its loss included."""
    if getattr(type(model), "_own_class", type(model)).train_step is not keras.Model.train_step:
        return not_counted(rows, "a train_step of the model's own, which may call it any number of times")
    batch = shapes.of_rows(rows)
    if batch is None:
        return not_counted(rows, VARYING)

    def loss(data: Any) -> Any:
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        training = {"training": True} if "training" in inspect.signature(model.call).parameters else {}
        predicted = model(x, **training)
        training = training if "training" in inspect.signature(model.compute_loss).parameters else {}
        return [model.compute_loss(x=x, y=y, y_pred=predicted, sample_weight=sample_weight, **training)]

    return count_step(model, loss, [batch], rows)
