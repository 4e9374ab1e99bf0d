"""The engine of an emulated run: a model's double in place of the model, and steps that sleep."""

import time
from dataclasses import replace

import tensorflow as tf

from horovod_flowers.config.run import RunConfig
from horovod_flowers.data.batches import Batch
from horovod_flowers.data.order import Split
from horovod_flowers.data.prepared import Prepared
from horovod_flowers.double.model import ModelDouble, UpdateDouble
from horovod_flowers.model.loss import CrossEntropy
from horovod_flowers.ranks.communicator import Ranks
from horovod_flowers.runlog.records import CommunicationVolume
from horovod_flowers.strategy.choice import strategy_for
from horovod_flowers.strategy.interface import Strategy
from horovod_flowers.strategy.layout import Part
from horovod_flowers.strategy.weight_use import image_inputs
from horovod_flowers.training.emulation import Emulation, check_room, for_double
from horovod_flowers.training.engine import TrainingEngine
from horovod_flowers.training.learning_rate import schedule
from horovod_flowers.training.optimizer import Clipping
from horovod_flowers.training.recipe import Recipe
from horovod_flowers.training.step import StepOutcome, TrainingStep, Update

NEVER_CLIPPED = 1e30


class EmulatedStep(TrainingStep):
    """A training step whose gradients and update take as long as they were measured to take."""

    double: ModelDouble

    def __call__(self, batch: Batch, learning_rate: float, update: Update) -> StepOutcome:
        """Sleep, and communicate."""
        core, begin_ns = self.double.core, time.monotonic_ns()
        core.begin()
        outcome = super().__call__(batch, learning_rate, update)
        if not self.double.sends_activations:
            return outcome
        # The gradient of a divided kernel is worked out beside the exchange of activations. The strategy takes it for
        # there as soon as the double has it, which is at once: what is no computing in the passes is waiting.
        computed_ns = round((core.busy_seconds - self.double.update_seconds) * 1e9)
        return replace(outcome, waited_ns=max(0, outcome.gradients_ns - begin_ns - computed_ns))

    def local_gradients(
        self, images: tf.Tensor, labels: tf.Tensor, weights: tf.Tensor, shares: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, list[tf.Tensor]]:
        """The double's, each there when the model's was computed."""
        loss_sum, correct, gradients = super().local_gradients(images, labels, weights, shares)
        values = [tf.convert_to_tensor(variable) for variable in self._strategy.model_variables]
        paced, end = self.double.paced(gradients, values)
        return loss_sum * end, correct, paced


class EmulatedEngine(TrainingEngine):
    """An engine that computes nothing."""

    step_kind = EmulatedStep
    step: EmulatedStep

    def __init__(
        self, config: RunConfig, ranks: Ranks, prepared: Prepared, images: Split, strategy: str, emulation: Emulation
    ) -> None:
        """As of any engine, of what `emulation` says. Raises UserError where the strategy finds nothing to divide."""
        self._emulation = emulation
        super().__init__(config, ranks, prepared, images, strategy, emulation.precision)
        self.step.double = self._double
        self._double.updated_share = _share(self.strategy)
        if emulation.shrink > 1 and self.strategy.notes:
            self.strategy.notes.append(f"counted in what is 1/{emulation.shrink:g} of the model")

    def _build(self, strategy: str) -> Recipe:
        emulation, size = self._emulation, self.ranks.size
        layers = emulation.layers(self.config, strategy, size)
        double = ModelDouble(emulation.profile, emulation.batch, layers, emulation.shrink)
        check_room(emulation, layers, double.inputs, size)
        self._double = double
        self.model, self.compiled = double.model, False
        self.parameters = emulation.profile.elements + emulation.profile.non_trainable_elements
        self.notes = []
        optimizer = self.config.optimizer
        return Recipe(
            CrossEntropy(),
            UpdateDouble(double),
            lambda images, steps_per_epoch, epochs: schedule(optimizer, images, steps_per_epoch, epochs),
            Clipping(NEVER_CLIPPED, together=True) if emulation.profile.clips_by_norm else None,
        )

    def _strategy_called(self, name: str) -> Strategy:
        shape = image_inputs(self.prepared.image_size, self._emulation.batch.rows)
        return strategy_for(
            name,
            for_double(self.config),
            self.ranks,
            self.precision,
            self.model,
            shape,
            self._double.rows,
            self._emulation.shrink,
        )

    def communication_volume(self) -> list[CommunicationVolume] | None:
        """That of the model, of which the double sends a part."""
        found = self.strategy.communication_volume(self._double.rows)
        if found is None:
            return None
        return [
            CommunicationVolume(
                operation=entry.operation,
                ranks=entry.ranks,
                calls=entry.calls,
                bytes_sent=entry.bytes_sent * self._emulation.shrink,
            )
            for entry in found
        ]


def _share(strategy: Strategy) -> float:
    """Of all elements, those that this rank updates."""
    rank = strategy.groups.members.rank

    def own(part: Part) -> int:
        return part.elements if part.slices is None else part.slices[rank].size

    return sum(map(own, strategy.parts)) / sum(part.elements for part in strategy.parts)
