"""One training step and one evaluation pass, timed from inside.

The whole step is one graph, so that gradients travel while others are still being computed; timestamps in the graph
tell its parts from each other without a profiler.
"""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tensorflow as tf

from horovod_flowers.config.choices import Precision
from horovod_flowers.data.batches import Batch
from horovod_flowers.model.loss import CrossEntropy, ImageLoss
from horovod_flowers.model.metrics import CompiledMetrics
from horovod_flowers.ranks.communicator import Ranks
from horovod_flowers.runlog.records import StepRecord
from horovod_flowers.runtime.heartbeat import HEARTBEAT
from horovod_flowers.strategy.interface import Strategy
from horovod_flowers.training.optimizer import Clipping
from horovod_flowers.training.penalties import Penalties
from horovod_flowers.training.weight_average import WeightAverage

FP16_LOSS_SCALE = 1024.0
"""Keeps small gradients above fp16's smallest number (Micikevicius et al. 2018, section 3.2). Fixed, a power of two."""


@dataclass(frozen=True)
class StepOutcome:
    """What one rank saw and when, in monotonic nanoseconds."""

    loss_sum: float
    """Sum of the losses of this rank's images, before the update."""
    correct: int
    waited_ns: int
    """Time in the forward and backward pass in which nothing was left to do but wait for other ranks."""
    gradients_ns: int
    """When the last gradient was computed."""
    combined_ns: int
    """When the last gradient had come back from the other ranks: later than `gradients_ns` by the communication that
    the backward pass did not hide."""
    updated_ns: int
    """When this rank's weights were updated. (On a GPU the update is queued and its time falls into the next step.)"""
    end_ns: int
    """When the model held all updated weights: later than `updated_ns` where those of other ranks had to come."""

    def record(self, epoch: int, step: int, images: int, warmup: bool, start_ns: int, batch_ns: int) -> StepRecord:
        """This for the run log; `start_ns`: when the step before ended, `batch_ns`: when the batch was there."""
        waited_ns = min(self.waited_ns, self.gradients_ns - batch_ns)
        return StepRecord(
            epoch=epoch,
            step=step,
            warmup=warmup,
            images=images,
            loss=self.loss_sum / images if images else None,
            start_ns=start_ns,
            input_wait_ns=batch_ns - start_ns,
            compute_ns=self.gradients_ns - batch_ns - waited_ns,
            communication_ns=waited_ns + self.combined_ns - self.gradients_ns + self.end_ns - self.updated_ns,
            update_ns=self.updated_ns - self.combined_ns,
            total_ns=self.end_ns - start_ns,
        )


@dataclass(frozen=True)
class Update:
    """What one update of the weights is made of: one step, or several whose gradients are added up."""

    images: int
    """Over all ranks and steps of the update."""
    steps: int = 1
    last: bool = True
    """Whether this step ends it."""


class TrainingStep:
    """A compiled training step of one rank."""

    def __init__(
        self,
        model: Any,
        optimizer: Any,
        strategy: Strategy,
        size: int,
        precision: Precision,
        *,
        label_smoothing: float = 0.0,
        average: WeightAverage | None = None,
        clipping: Clipping | None = None,
        penalties: Penalties | None = None,
        loss: ImageLoss | None = None,
        metrics: CompiledMetrics | None = None,
    ) -> None:
        """`penalties` are the model's, taken over before the strategy; else here, which serves where no layer adds any.
        `loss`: cross-entropy with `label_smoothing` without one. `metrics`: take in every image that is trained on.

        Raises UserError where several ranks cannot apply one of them.
        """
        self._model, self._optimizer, self._strategy, self._size = model, optimizer, strategy, size
        self._loss, self._metrics = loss or CrossEntropy(label_smoothing), metrics
        self._average, self._clipping = average, clipping
        strategy.needs_norms = clipping is not None and not clipping.by_value
        self._penalties = penalties or Penalties(model, size if strategy.trains_one_model else 1)
        self._loss_scale = FP16_LOSS_SCALE if precision == "fp16" else 1.0
        self._sums: list[tf.Variable] = []
        # Nothing in them branches on a tensor. AutoGraph, which would look for that and converts neither Keras nor what
        # Keras calls, takes longer than all else of the tracing: at each start, on every rank.
        self._updating = tf.function(self._build_updating, autograph=False)
        self._adding = tf.function(self._build_adding, autograph=False)

    def __call__(self, batch: Batch, learning_rate: float, update: Update) -> StepOutcome:
        """Train on this rank's part of a global batch."""
        self._optimizer.learning_rate.assign(learning_rate)
        if update.steps > 1 and not self._sums:
            self._sums = [tf.Variable(tf.zeros_like(variable)) for variable in self._strategy.model_variables]
        graph = self._updating if update.last else self._adding
        shares = np.array([self._size / update.images, 1 / update.steps], np.float32)
        loss_sum, correct, *times = graph(batch.images, batch.labels, batch.weights, shares)
        loss_sum, correct = float(loss_sum), int(correct)  # waits for the device
        waited_ns, gradients_ns, combined_ns, updated_ns = (int(value) for value in times)
        end_ns = time.monotonic_ns()
        return StepOutcome(loss_sum, correct, waited_ns, gradients_ns, combined_ns, updated_ns or end_ns, end_ns)

    def _build_updating(self, images: tf.Tensor, labels: tf.Tensor, weights: tf.Tensor, shares: tf.Tensor) -> Any:
        strategy, timer = self._strategy, self._strategy.timer
        loss_sum, correct, gradients, waited_ns, gradients_ns = self._passes(images, labels, weights, shares)
        if self._sums:
            gradients = [total + gradient for total, gradient in zip(self._sums, gradients, strict=True)]
        combined = strategy.reduce_gradients(gradients)
        if self._clipping is not None and self._clipping.by_value:
            combined = self._clipping.cut_off(combined)
        elif self._clipping is not None:
            combined = self._clipping.clip(combined, strategy.squared_norms(combined))
        combined_ns = timer.after([gradients_ns, *combined], HEARTBEAT.wait_ends)
        # The update waits for the timestamp: else its first part would be booked as computation or communication.
        with tf.control_dependencies([combined_ns]):
            self._optimizer.apply(combined, strategy.optimizer_variables)
            if self._average is not None:
                self._average.update(self._optimizer.iterations.value)
            for total in self._sums:
                total.assign(tf.zeros_like(total))
        updated_ns = tf.zeros([], tf.int64)  # the update is the last thing
        if strategy.gathers_weights:
            updated = [tf.convert_to_tensor(variable.value) for variable in strategy.optimizer_variables]
            updated_ns = timer.after(updated, HEARTBEAT.wait_begins)
            strategy.gather_weights()
        return loss_sum, correct, waited_ns, gradients_ns, combined_ns, updated_ns

    def _build_adding(self, images: tf.Tensor, labels: tf.Tensor, weights: tf.Tensor, shares: tf.Tensor) -> Any:
        loss_sum, correct, gradients, waited_ns, gradients_ns = self._passes(images, labels, weights, shares)
        for total, gradient in zip(self._sums, gradients, strict=True):
            total.assign_add(gradient)
        return loss_sum, correct, waited_ns, gradients_ns, gradients_ns, tf.zeros([], tf.int64)

    def _passes(self, images: tf.Tensor, labels: tf.Tensor, weights: tf.Tensor, shares: tf.Tensor) -> Any:
        """The forward and backward pass, timed."""
        timer, early = self._strategy.timer, self._strategy.combined_early
        timer.recording = True
        loss_sum, correct, gradients = self.local_gradients(images, labels, weights, shares)
        timer.recording = False
        others = [gradient for number, gradient in enumerate(gradients) if number not in early]
        # Where nothing arrives late TensorFlow drops the first of the two, which are the same then.
        waited_ns = timer.collect(timer.after([loss_sum, *others], HEARTBEAT.wait_begins))
        return loss_sum, correct, gradients, waited_ns, timer.after([loss_sum, *gradients], HEARTBEAT.wait_begins)

    def image_losses(self, batch: Batch) -> np.ndarray:
        """float32 [per-rank batch]: the loss of each image as a training step sees it. Every rank calls it."""

        def losses(images: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
            return self._loss.of_images(labels, self._logits(images))

        return tf.function(losses, autograph=False)(batch.images, batch.labels).numpy()

    def local_gradients(
        self, images: tf.Tensor, labels: tf.Tensor, weights: tf.Tensor, shares: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, list[tf.Tensor]]:
        """Loss sum, hits and gradients of this rank's part; one gradient a differentiated variable.

        `shares` are ranks / images of the update, which makes the mean over ranks of these gradients (added up over
        the update's steps) the gradient of its mean loss, also where the last batch leaves some ranks with fewer
        images; and 1 / steps of the update.
        """
        with tf.GradientTape() as tape, self._penalties.counting(weights, shares):
            logits = self._logits(images)
            losses = self._loss.of_images(labels, logits)
            loss_sum = tf.reduce_sum(weights * losses)
            # Of a sum over images the mean over ranks is that of all of them after times their number.
            share = tf.constant(float(self._size)) if self._loss.added_up else shares[0]
            loss = tf.add_n([loss_sum * share, *self._penalties.of_step(shares)]) * self._loss_scale
        if self._metrics is not None:
            self._metrics.update(labels, logits, weights)
        gradients = tape.gradient(
            loss, self._strategy.model_variables, unconnected_gradients=tf.UnconnectedGradients.ZERO
        )
        # An embedding's gradients are sparse slices: dense ones can be combined by any strategy.
        dense = [tf.convert_to_tensor(gradient) for gradient in gradients]
        if self._loss_scale != 1:
            dense = [gradient / self._loss_scale for gradient in dense]
        return loss_sum, _correct(logits, labels, weights), dense

    def _logits(self, images: tf.Tensor) -> tf.Tensor:
        """fp32 [per-rank batch, classes]."""
        with self._strategy.calling_the_model():
            return tf.cast(self._model(tf.cast(images, tf.float32), training=True), tf.float32)


def _correct(logits: tf.Tensor, labels: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
    hits = tf.equal(tf.argmax(logits, axis=-1, output_type=labels.dtype), labels)
    # Every image that counts is one, however much it counts in the loss.
    return tf.reduce_sum(tf.sign(weights) * tf.cast(hits, weights.dtype))


@dataclass(frozen=True)
class Evaluation:
    """Sums over the validation images of all ranks."""

    loss_sum: float
    correct: int
    images: int
    metrics: dict[str, float | None] = field(default_factory=dict)
    """What a compiled model measures, over all of them."""

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

    def __init__(
        self, model: Any, ranks: Ranks, loss: ImageLoss | None = None, metrics: CompiledMetrics | None = None
    ) -> None:
        """`loss`: cross-entropy without one. `metrics`: those of the training step, which each pass begins anew."""
        self._model, self._ranks, self._metrics = model, ranks, metrics
        self._loss = loss or CrossEntropy()
        self._graph = tf.function(self._build, autograph=False)

    def _build(self, images: tf.Tensor, labels: tf.Tensor, weights: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        logits = tf.cast(self._model(tf.cast(images, tf.float32), training=False), tf.float32)
        losses = self._loss.of_images(labels, logits)
        if self._metrics is not None:
            self._metrics.update(labels, logits, weights)
        return tf.reduce_sum(weights * losses), _correct(logits, labels, weights)

    def __call__(self, batches: Iterable[Batch]) -> Evaluation:
        """Evaluate this rank's batches and add up over ranks, which must have equally many."""
        sums = np.zeros(3, np.float64)
        if self._metrics is not None:
            self._metrics.reset()
        for number, batch in enumerate(batches):
            HEARTBEAT.at("validation, batch {}", number, long=number == 0)
            loss_sum, correct = self._graph(batch.images, batch.labels, batch.weights)
            sums += [float(loss_sum), float(correct), batch.rank_images]
        loss_sum, correct, images = self._ranks.allreduce_sum(sums)
        return Evaluation(float(loss_sum), round(correct), round(images), results_over(self._ranks, self._metrics))


def sums_over(ranks: Ranks, metrics: CompiledMetrics | None, before: Sequence[float] = ()) -> tuple[float, ...]:
    """What the metrics of all ranks have added up since they were reset, and `before` it. Every rank calls it."""
    if metrics is None:
        return ()
    sums = ranks.allreduce_sum(metrics.sums(metrics.states()))
    return tuple((sums + np.asarray(before) if before else sums).tolist())


def results_over(
    ranks: Ranks, metrics: CompiledMetrics | None, before: Sequence[float] = ()
) -> dict[str, float | None]:
    """What they come to, the same on every rank; they begin anew. Every rank calls it."""
    return metrics.results(np.asarray(sums_over(ranks, metrics, before))) if metrics is not None else {}
