"""Measures what a training step takes on one rank, and when each gradient of it is there.

Timestamps in the step's graph tell it; each costs something, so that steps with all of them take turns with steps that
have their own few only. What the former show is scaled to what the latter take.
"""

import itertools
import math
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import tensorflow as tf

from horovod_flowers.collectives.timing import timestamp_seconds
from horovod_flowers.config.choices import INDEPENDENT, Precision
from horovod_flowers.config.options import Effect, flat_options, names_of
from horovod_flowers.config.run import RunConfig
from horovod_flowers.data.augment import Augmentation
from horovod_flowers.data.batches import Batch, Prefetcher, training_batches
from horovod_flowers.data.noise import noise_images
from horovod_flowers.model.keras_internals import all_layers
from horovod_flowers.ranks.communicator import Ranks
from horovod_flowers.runlog import step_profile as record
from horovod_flowers.runlog.environment import gpu_model, versions
from horovod_flowers.runlog.step_profile import ProfiledBatch, ProfiledDense, ProfiledWeight, StepProfile
from horovod_flowers.runtime.console import Steps
from horovod_flowers.runtime.machine import cpu_model, own_command, utc_now
from horovod_flowers.strategy.weight_use import WeightUse, image_inputs
from horovod_flowers.strategy.wide_dense import dense_layers
from horovod_flowers.training.engine import TrainingEngine
from horovod_flowers.training.step import StepOutcome, TrainingStep, Update

INPUT, OUTPUT, OUTPUT_GRADIENT, INPUT_GRADIENT = "input", "output", "output gradient", "input gradient"
"""Of a Dense layer: what is stamped."""
WARMUP_STEPS = 3
"""Of each kind, before those that count: they build graphs and fill caches."""
NOISE_BATCHES = 4
"""Of the largest kind."""
LEARNING_RATE = 1e-9
"""That leaves the weights where they are: noise teaches nothing, and would let some models diverge."""


@dataclass
class DenseCalls:
    """The calls of one Dense layer in the step that is being traced."""

    layer: Any
    rows_per_image: int = 1
    calls: int = 0
    place: int = 0
    """Grows from one to the next in the forward pass."""


class StampedStep(TrainingStep):
    """A training step with a timestamp for each gradient, and for what goes into Dense layers and comes out of them."""

    def __init__(self, *args: Any, **parts: Any) -> None:
        super().__init__(*args, **parts)
        self.dense: list[DenseCalls] = []
        """Those to look at; set before the first step."""
        self.stamps: dict[Any, int] = {}
        """Of the last step, in monotonic nanoseconds: of 'begin', 'loss', the numbers of gradients, and (number of a
        Dense layer, what)."""
        self._stamped: list[tf.Tensor] = []

    def __call__(self, batch: Batch, learning_rate: float, update: Update) -> StepOutcome:
        """Train on a batch, and note when what was there."""
        self.stamps = {"begin": time.monotonic_ns()}
        return super().__call__(batch, learning_rate, update)

    def local_gradients(
        self, images: tf.Tensor, labels: tf.Tensor, weights: tf.Tensor, shares: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, list[tf.Tensor]]:
        """As without timestamps."""
        self._stamped = []
        with self._watched():
            loss_sum, correct, gradients = super().local_gradients(images, labels, weights, shares)
        self._stamp("loss", loss_sum)
        for number, gradient in enumerate(gradients):
            self._stamp(number, gradient)
        # A value that depends on them: TensorFlow drops what others merely have to wait for.
        all_there = tf.reduce_min(tf.stack(self._stamped)) > 0
        return tf.where(all_there, loss_sum, np.nan), correct, gradients

    def _stamp(self, name: Any, tensor: tf.Tensor) -> tf.Tensor:
        def note() -> None:
            self.stamps[name] = time.monotonic_ns()

        stamp = self._strategy.timer.after([tensor], note)
        self._stamped.append(stamp)
        return stamp

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """While the model is called and differentiated."""
        for number, calls in enumerate(self.dense):
            calls.calls = 0
            vars(calls.layer)["call"] = self._watching(number, calls, calls.layer.call)
        try:
            yield
        finally:
            for calls in self.dense:
                del vars(calls.layer)["call"]

    def _watching(self, number: int, calls: DenseCalls, call: Callable[..., Any]) -> Callable[..., Any]:
        def watched(inputs: Any, *args: Any, **options: Any) -> Any:
            calls.calls, calls.place = calls.calls + 1, len(self._stamped)
            positions = [size for size in inputs.shape[1:-1] if size is not None]
            calls.rows_per_image = math.prod(positions)
            inputs = self._watch(inputs, (number, INPUT), (number, INPUT_GRADIENT))
            return self._watch(call(inputs, *args, **options), (number, OUTPUT), (number, OUTPUT_GRADIENT))

        return watched

    def _watch(self, tensor: tf.Tensor, forward: Any, backward: Any) -> tf.Tensor:
        """The same tensor, behind its timestamp, and so its gradient: what is next has to wait for these."""

        @tf.custom_gradient
        def same(values: tf.Tensor) -> Any:
            def gradient(upstream: tf.Tensor) -> tf.Tensor:
                with tf.control_dependencies([self._stamp(backward, upstream)]):
                    return tf.identity(upstream)

            with tf.control_dependencies([self._stamp(forward, values)]):
                return tf.identity(values), gradient

        return same(tensor)


@dataclass
class _Times:
    """Of the steps with one batch, in nanoseconds from the begin of each."""

    ends: list[int] = field(default_factory=list)
    gradients: list[int] = field(default_factory=list)
    stamped_gradients: list[int] = field(default_factory=list)
    """The same of steps with all timestamps."""
    stamps: list[dict[Any, int]] = field(default_factory=list)

    def median(self, name: Any) -> float:
        """Seconds from the begin of a step until that was there, without what the other timestamps cost."""
        scale = statistics.median(self.gradients) / statistics.median(self.stamped_gradients)
        return scale * statistics.median(stamps[name] for stamps in self.stamps) / 1e9


def measure(
    config: RunConfig,
    ranks: Ranks,
    class_names: tuple[str, ...],
    rows: Sequence[int],
    timed_steps: int,
    threads: int,
    precision: Precision,
) -> StepProfile:
    """Measure steps with each of these per-rank batches on this one rank, on images of noise.

    Raises UserError where the model cannot be built or trained.
    """
    started = utc_now()
    images = noise_images(class_names, config.data.image_size, NOISE_BATCHES * max(rows))
    engine = TrainingEngine(config, ranks, *images, INDEPENDENT, precision)
    engine.share(None)
    model = engine.model
    use = WeightUse(model, image_inputs(config.data.image_size, max(rows)), dense_layers(model))
    stamped = engine.new_step(StampedStep)
    stamped.dense = [DenseCalls(layer) for layer in dense_layers(model) if use.why_not_taken_over(layer) is None]
    with Steps("measuring", 2 * len(rows) * (WARMUP_STEPS + timed_steps), "steps", muted=False) as bar:
        times = [_steps(engine, stamped, each, timed_steps, bar.advance) for each in rows]
    kernels = {id(variable): number for number, variable in enumerate(model.trainable_variables)}
    # One that is called twice has no one time.
    dense = {kernels[id(calls.layer.kernel)]: number for number, calls in enumerate(stamped.dense) if calls.calls == 1}
    options = flat_options(asdict(config))
    gpus = tf.config.get_visible_devices("GPU")
    return StepProfile(
        schema=record.SCHEMA,
        model=config.model.name,
        options={name: options[name] for name in names_of(RunConfig, Effect.WORK) if not name.startswith("emulate.")},
        classes=len(class_names),
        precision=precision,
        threads=threads,
        clips_by_norm=engine.strategy.needs_norms,
        synchronised=[layer.name for layer in all_layers(model) if getattr(layer, "synchronized", False) is True],
        weights=[_weight(variable, number in dense, use) for number, variable in enumerate(model.trainable_variables)],
        non_trainable_elements=sum(math.prod(variable.shape) for variable in model.non_trainable_variables),
        batches=[
            _batch(
                each, found, len(kernels), {kernel: (number, stamped.dense[number]) for kernel, number in dense.items()}
            )
            for each, found in zip(rows, times, strict=True)
        ],
        timestamp_seconds=timestamp_seconds(),
        host=os.uname().nodename,
        cpu_model=cpu_model(),
        gpu=gpu_model(gpus[0]) if gpus else None,
        versions=versions(),
        started_utc=started,
        command=own_command(),
    )


def _weight(variable: Any, dense: bool, use: WeightUse) -> ProfiledWeight:
    shape = [int(size) for size in variable.shape]
    return ProfiledWeight(
        path=variable.path, shape=shape, elements=math.prod(shape), dense=dense, whole=use.why_whole(variable)
    )


def _steps(
    engine: TrainingEngine, stamped: StampedStep, rows: int, timed_steps: int, done: Callable[[], None]
) -> _Times:
    """Steps with that batch, those with all timestamps in turn with those without."""
    times, update = _Times(), Update(images=rows)
    with Prefetcher(_batches(engine, rows)) as ready:
        batches = iter(ready)
        for number in range(WARMUP_STEPS + timed_steps):
            begin_ns, plain = time.monotonic_ns(), engine.step(next(batches), LEARNING_RATE, update)
            done()
            outcome = stamped(next(batches), LEARNING_RATE, update)
            done()
            if number >= WARMUP_STEPS:
                times.ends.append(plain.end_ns - begin_ns)
                times.gradients.append(plain.gradients_ns - begin_ns)
                begin_ns = stamped.stamps["begin"]
                times.stamped_gradients.append(outcome.gradients_ns - begin_ns)
                times.stamps.append({name: at_ns - begin_ns for name, at_ns in stamped.stamps.items()})
    return times


def _batches(engine: TrainingEngine, rows: int) -> Iterator[Batch]:
    """Without end, read and augmented as those of a run."""
    for epoch in itertools.count(1):
        yield from training_batches(
            engine.prepared,
            engine.images.training,
            global_batch=rows,
            rank=0,
            size=1,
            seed=engine.config.seed,
            epoch=epoch,
            augmentation=Augmentation.of(engine.config.data),
        )


def _batch(rows: int, times: _Times, weights: int, dense: Mapping[int, tuple[int, DenseCalls]]) -> ProfiledBatch:
    """What came of the steps with one batch. dense: by the kernel's number, that of its stamps, and its calls.

    A timestamp may be late, since TensorFlow takes what is ready in any order: what cannot be later than something else
    is not.
    """
    last = statistics.median(times.gradients) / 1e9
    ready = [min(last, times.median(number)) for number in range(weights)]
    upstream = [times.median((number, OUTPUT_GRADIENT)) for number, _ in dense.values()]
    forward = min(times.median("loss"), *ready, *upstream)
    found = []
    for kernel, (number, calls) in sorted(dense.items(), key=lambda item: item[1][1].place):
        output = min(forward, times.median((number, OUTPUT)))
        there = (number, INPUT_GRADIENT) in times.stamps[0]
        gradient = min(last, ready[kernel], times.median((number, OUTPUT_GRADIENT)))
        found.append(
            ProfiledDense(
                kernel=kernel,
                layer=calls.layer.name,
                rows_per_image=calls.rows_per_image,
                input_ready_seconds=min(output, times.median((number, INPUT))),
                output_ready_seconds=output,
                output_gradient_ready_seconds=gradient,
                input_gradient_ready_seconds=max(gradient, times.median((number, INPUT_GRADIENT))) if there else None,
            )
        )
    return ProfiledBatch(
        rows=rows,
        step_seconds=[end / 1e9 for end in times.ends],
        forward_seconds=forward,
        gradient_ready_seconds=ready,
        gradients_seconds=last,
        update_seconds=max(0.0, statistics.median(times.ends) / 1e9 - last),
        dense=found,
    )
