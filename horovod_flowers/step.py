"""One training step and one evaluation pass, timed from inside.

The whole step is one graph, so that gradients travel while others are still being computed; timestamps in the graph
tell its parts from each other without a profiler.
"""

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from horovod_flowers.data.batches import Batch
from horovod_flowers.strategy import Strategy


@dataclass(frozen=True)
class StepOutcome:
    """What one rank saw and when, in monotonic nanoseconds."""

    loss_sum: float
    """Sum of the losses of this rank's images, before the update."""
    correct: int
    gradients_ns: int
    """When the last gradient was computed."""
    combined_ns: int
    """When the last gradient had come back from the other ranks: later than `gradients_ns` by the communication that
    the backward pass did not hide."""
    end_ns: int
    """When the weights were updated. (On a GPU the update is queued and its time falls into the next step.)"""


class TrainingStep:
    """A compiled training step of one rank."""

    def __init__(self, model: Any, optimizer: Any, strategy: Strategy, size: int) -> None:
        self._model, self._optimizer, self._strategy, self._size = model, optimizer, strategy, size
        self._graph = tf.function(self._build)

    def __call__(self, batch: Batch, learning_rate: float) -> StepOutcome:
        """Train on this rank's part of a global batch."""
        self._optimizer.learning_rate.assign(learning_rate)
        scale = np.float32(self._size / batch.global_images)
        loss_sum, correct, gradients_ns, combined_ns = self._graph(batch.images, batch.labels, batch.weights, scale)
        loss_sum, correct = float(loss_sum), int(correct)  # waits for the device
        return StepOutcome(loss_sum, correct, int(gradients_ns), int(combined_ns), time.monotonic_ns())

    def _build(self, images: tf.Tensor, labels: tf.Tensor, weights: tf.Tensor, scale: tf.Tensor) -> tuple[Any, ...]:
        loss_sum, correct, gradients = self.local_gradients(images, labels, weights, scale)
        gradients_ns = _monotonic_ns_after(gradients)
        combined = self._strategy.combine(gradients)
        combined_ns = _monotonic_ns_after(combined)
        # The update waits for the timestamp: else its first part would be booked as computation or communication.
        with tf.control_dependencies([combined_ns]):
            self._optimizer.apply(combined, self._model.trainable_variables)
        return loss_sum, correct, gradients_ns, combined_ns

    def local_gradients(
        self, images: tf.Tensor, labels: tf.Tensor, weights: tf.Tensor, scale: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, list[tf.Tensor]]:
        """Loss sum, hits and gradients of this rank's part; one gradient a trainable variable.

        `scale` is ranks / images of the global batch, which makes the mean over ranks of these gradients the gradient
        of the global batch's mean loss, also where the last batch leaves some ranks with fewer images.
        """
        with tf.GradientTape() as tape:
            logits = tf.cast(self._model(tf.cast(images, tf.float32), training=True), tf.float32)
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
            loss_sum = tf.reduce_sum(weights * losses)
            # Each rank adds the model's own penalties in full: they survive the mean over ranks unchanged.
            loss = tf.add_n([loss_sum * scale, *self._model.losses])
        sources = [variable.value for variable in self._model.trainable_variables]
        gradients = tape.gradient(loss, sources, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        # An embedding's gradients are sparse slices: dense ones can be averaged by any strategy.
        return loss_sum, _correct(logits, labels, weights), [tf.convert_to_tensor(gradient) for gradient in gradients]


def _monotonic_ns_after(tensors: list[tf.Tensor]) -> tf.Tensor:
    with tf.control_dependencies(tensors):
        return tf.numpy_function(lambda: np.int64(time.monotonic_ns()), [], tf.int64)


def _correct(logits: tf.Tensor, labels: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
    hits = tf.equal(tf.argmax(logits, axis=-1, output_type=labels.dtype), labels)
    return tf.reduce_sum(weights * tf.cast(hits, weights.dtype))


@dataclass(frozen=True)
class Evaluation:
    """Sums over the validation images of all ranks."""

    loss_sum: float
    correct: int
    images: int

    @property
    def loss(self) -> float:
        """Mean loss an image."""
        return self.loss_sum / self.images

    @property
    def accuracy(self) -> float:
        """Share of images whose largest logit is the right class."""
        return self.correct / self.images


class EvaluationPass:
    """A compiled evaluation of one model; counts are added up over ranks, so every image weighs the same."""

    def __init__(self, model: Any, strategy: Strategy) -> None:
        self._model, self._strategy = model, strategy
        self._graph = tf.function(self._build)

    def _build(self, images: tf.Tensor, labels: tf.Tensor, weights: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        logits = tf.cast(self._model(tf.cast(images, tf.float32), training=False), tf.float32)
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
        return tf.reduce_sum(weights * losses), _correct(logits, labels, weights)

    def __call__(self, batches: Iterable[Batch]) -> Evaluation:
        """Evaluate this rank's batches and add up over ranks. Ranks may have different numbers of batches."""
        sums = np.zeros(3, np.float64)
        for batch in batches:
            loss_sum, correct = self._graph(batch.images, batch.labels, batch.weights)
            sums += [float(loss_sum), float(correct), batch.rank_images]
        loss_sum, correct, images = self._strategy.total(sums)
        return Evaluation(float(loss_sum), round(correct), round(images))
