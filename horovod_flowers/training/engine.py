"""What a run computes with: model, optimizer, strategy, batches, one step, one evaluation. It logs nothing.

The trainer runs logged epochs with it; replay and the trial of strategies run steps that leave no trace.
"""

import contextlib
import itertools
import time
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import keras
import numpy as np
import tensorflow as tf

from horovod_flowers.checkpoint.model_state import ModelState
from horovod_flowers.config.choices import DIVIDING_WEIGHTS, INDEPENDENT, Precision
from horovod_flowers.config.run import RunConfig
from horovod_flowers.data.augment import Augmentation
from horovod_flowers.data.batches import Batch, Prefetcher, evaluation_batches, training_batches
from horovod_flowers.data.image_weights import image_weights
from horovod_flowers.data.order import Split, per_rank_batch, steps_per_epoch
from horovod_flowers.data.prepared import Prepared
from horovod_flowers.model.flops.step_flops import StepFlops, count_step
from horovod_flowers.model.freezing import freeze
from horovod_flowers.model.pooled_activation import move_relu_behind_pooling
from horovod_flowers.model.registry import build_whole
from horovod_flowers.ranks.communicator import Ranks
from horovod_flowers.recording.model_flops import flops_of_step
from horovod_flowers.runlog.model_flops import ModelFlops
from horovod_flowers.runlog.records import CommunicationVolume
from horovod_flowers.runtime.heartbeat import HEARTBEAT
from horovod_flowers.strategy.choice import make_strategy
from horovod_flowers.strategy.interface import Strategy
from horovod_flowers.strategy.weight_use import image_inputs
from horovod_flowers.training.dropout_seeds import DropoutSeeds
from horovod_flowers.training.initial_weights import start_from
from horovod_flowers.training.model_file import model_source, refuse_other_file
from horovod_flowers.training.optimizer import build_over
from horovod_flowers.training.penalties import Penalties
from horovod_flowers.training.recipe import Recipe, recipe_of
from horovod_flowers.training.step import Evaluation, EvaluationPass, TrainingStep, Update
from horovod_flowers.training.weight_average import WeightAverage

Step = TypeVar("Step", bound=TrainingStep)


class TrainingEngine:
    """Model, optimizer and strategy of one rank, and the steps that they compute."""

    step_kind: type[TrainingStep] = TrainingStep

    def __init__(
        self,
        config: RunConfig,
        ranks: Ranks,
        prepared: Prepared,
        images: Split,
        strategy: str,
        precision: Precision,
        counts_flops: bool = False,
    ) -> None:
        """Build everything. `strategy` is the one that was chosen, where the configuration says 'auto'.
        `counts_flops`: whether rank 0 counts what a step takes, which traces the model once more.

        Raises UserError where the model cannot be built, or the strategy finds nothing to divide in it.
        """
        self.config, self.ranks, self.prepared, self.images = config, ranks, prepared, images
        self.precision = precision
        self._image_weights = image_weights(prepared, images.training, config.data)
        HEARTBEAT.at("building the model", long=True)
        keras.backend.clear_session()  # names of layers count from the first model that a process builds
        keras.utils.set_random_seed(config.seed)
        recipe = self._build(strategy)
        self.model_flops = self._count_flops(recipe) if counts_flops and ranks.rank == 0 else None
        undecayed = _among_trained(self.model, recipe.undecayed)
        size = 1 if strategy == INDEPENDENT else ranks.size
        penalties = Penalties(self.model, size, ranks.broadcast, prepared.image_size)
        self.strategy = self._strategy_called(strategy)
        self.strategy.notes += penalties.notes
        self.state = ModelState(self.model, self.strategy)
        self.optimizer = recipe.optimizer
        shapes = [part.shape for part in self.strategy.parts]
        build_over(self.optimizer, self.strategy.optimizer_variables, shapes, undecayed)
        self.state.add_optimizer(self.optimizer)
        self.global_batch = config.global_batch_for(ranks.size)
        whole_epoch = steps_per_epoch(len(images.training), self.global_batch)
        self.steps_per_epoch = min(config.steps or whole_epoch, whole_epoch)
        update_batch = self.global_batch * config.accumulate
        self.schedule = recipe.learning_rate(update_batch, self.steps_per_epoch, config.epochs)
        self.learning_rate_factor = 1.0
        """Of the schedule's, as the validation loss has it (--optimizer.plateau-epochs)."""
        self.average = None
        if recipe.average is not None:
            self.average = WeightAverage(self.strategy, [], 0.0, recipe.average)
            self.state.add_average(self.average.variables)
        elif config.average_decay:
            decay = config.average_decay ** (update_batch / config.optimizer.base_batch)
            self.average = WeightAverage(self.strategy, self.state.statistics, decay)
            self.state.add_average(self.average.variables)
        self._step_parts: dict[str, Any] = {
            "average": self.average,
            "clipping": recipe.clipping,
            "penalties": penalties,
            "loss": recipe.loss,
            "metrics": recipe.metrics,
        }
        self.step = self.new_step(self.step_kind)
        self.metrics = recipe.metrics
        self.evaluate = EvaluationPass(self.model, ranks, recipe.loss.evaluated(), recipe.metrics)
        self._dropout = DropoutSeeds(self.model)

    def _build(self, strategy: str) -> Recipe:
        """Make the model, and what it is trained by. `strategy`: its name. Raises UserError."""
        config, ranks, prepared = self.config, self.ranks, self.prepared
        classes = len(prepared.class_names)
        built = build_whole(model_source(config), prepared.image_size, classes, config.model.options)
        self.model, self.notes, self.compiled = built.model, list(built.notes), built.compiled is not None
        refuse_other_file(config.model.name, ranks)
        begins = not config.resume or config.replay_step is not None
        if config.model.weights is not None and ranks.rank == 0 and begins:  # the others get them from it
            self.notes += start_from(self.model, Path(config.model.weights), prepared.class_names)
        if config.model.freeze is not None:
            self.notes += freeze(self.model, config.model.freeze)
        divides = ranks.size > 1 and strategy in DIVIDING_WEIGHTS
        recipe = recipe_of(config, built, classes, self._image_weights is not None, divides)
        self.notes += recipe.notes
        self.parameters = self.model.count_params()
        move_relu_behind_pooling(self.model)
        return recipe

    def _count_flops(self, recipe: Recipe) -> ModelFlops:
        """Of the model as it is before a strategy divides it."""

        def loss(images: tf.Tensor, labels: tf.Tensor) -> list[tf.Tensor]:
            logits = tf.cast(self.model(images, training=True), tf.float32)
            return [recipe.loss.of_images(labels, logits), *self.model.losses]

        def count(rows: int) -> StepFlops:
            batch = [image_inputs(self.prepared.image_size, rows), tf.TensorSpec((rows,), tf.int32)]
            return count_step(self.model, loss, batch, rows)

        return flops_of_step(count, self.config.global_batch_for(self.ranks.size), self.ranks.size)

    def _strategy_called(self, name: str) -> Strategy:
        """The strategy of that name, ready for the model. Raises UserError where it finds nothing to divide in it."""
        return make_strategy(name, self.config, self.ranks, self.precision, self.model, self.prepared.image_size)

    def new_step(self, kind: type[Step]) -> Step:
        """A training step of this model, strategy and optimizer."""
        return kind(self.model, self.optimizer, self.strategy, self.ranks.size, self.precision, **self._step_parts)

    def communication_volume(self) -> list[CommunicationVolume] | None:
        """What each rank sends in a step with one update, by formula; None where that is not known."""
        return self.strategy.communication_volume(per_rank_batch(self.global_batch, self.ranks.size))

    def share(self, stored: Mapping[str, np.ndarray] | None) -> None:
        """Give every rank the same state: what rank 0 has `stored`, else the weights that the model was built with.

        Every rank calls it before the first step; all but rank 0 with None.
        """
        self.state.share(stored)
        if self.average is not None and not self.ranks.broadcast(stored is not None):
            self.average.begin()
        self._dropout.offset(self.ranks.rank)

    def held_as_on_rank_0(self) -> dict[str, np.ndarray]:
        """What this rank holds, by name, the seeds of its dropout layers as rank 0 has them."""
        self._dropout.offset(0)
        held = {name: np.array(value) for name, value in self.state.held_here().items()}
        self._dropout.offset(self.ranks.rank)
        return held

    def batches(self, epoch: int, first_step: int = 0) -> Iterator[Batch]:
        """This rank's batches of an epoch, from a step of it on."""
        return training_batches(
            self.prepared,
            self.images.training,
            global_batch=self.global_batch,
            rank=self.ranks.rank,
            size=self.ranks.size,
            seed=self.config.seed,
            epoch=epoch,
            augmentation=Augmentation.of(self.config.data),
            first_step=first_step,
            image_weights=self._image_weights,
        )

    def learning_rate(self, step: int) -> float:
        """Of a step of the run, counted from 0."""
        return self.schedule.at(step) * self.learning_rate_factor

    def update_of(self, step: int) -> Update:
        """The update that a step of an epoch belongs to; an epoch's last one may have fewer steps."""
        first = step // self.config.accumulate * self.config.accumulate
        end = min(first + self.config.accumulate, self.steps_per_epoch)
        images = min(end * self.global_batch, len(self.images.training)) - first * self.global_batch
        return Update(images, end - first, last=step == end - 1)

    def time_steps(self, updates: int) -> list[float]:
        """Seconds per step of the slowest rank, in each of some updates of the weights. Every rank calls it."""
        seconds, accumulate = [], self.config.accumulate
        batches = itertools.cycle(self.batches(1))
        for _ in range(updates):
            own = list(itertools.islice(batches, accumulate))
            images = sum(batch.global_images for batch in own)
            self.ranks.barrier()
            self.ranks.allreduce_sum(np.zeros(1))  # aligns the ranks more finely than the patient barrier
            started = time.monotonic()
            for number, batch in enumerate(own, 1):
                self.step(batch, self.schedule.at(0), Update(images, accumulate, last=number == accumulate))
            seconds.append(self.ranks.allreduce_max(time.monotonic() - started) / accumulate)
        return seconds

    def validate(self) -> Evaluation:
        """Evaluate every validation image exactly once over the ranks. Every rank calls it."""
        batches = evaluation_batches(
            self.prepared,
            self.images.validation,
            batch=per_rank_batch(self.global_batch, self.ranks.size),
            rank=self.ranks.rank,
            size=self.ranks.size,
        )
        with self._averaged_weights(), Prefetcher(batches) as ready:
            return self.evaluate(ready)

    def _averaged_weights(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext() if self.average is None else self.average.in_place_of_weights()

    def average_statistics(self) -> None:
        """Average over the ranks, at the end of an epoch, what training moves without gradients, such as
        batch-normalisation statistics. Every rank calls it."""
        for variable in [*self.state.statistics, *(self.average.statistics if self.average else ())]:
            value = np.array(variable)  # unlike np.ascontiguousarray it leaves a scalar a scalar
            variable.assign((self.ranks.allreduce_sum(value) / self.ranks.size).astype(value.dtype))


def _among_trained(model: Any, undecayed: Collection[int] | None) -> list[int] | None:
    """The places among the trained weights of some of a model's weights, given by their numbers among all."""
    if undecayed is None:
        return None
    numbers = {id(variable): number for number, variable in enumerate(model.variables)}
    return [place for place, each in enumerate(model.trainable_variables) if numbers[id(each)] in undecayed]
