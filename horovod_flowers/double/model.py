"""A model's double: as many weights in the same order, and passes that sleep for as long as the model's take.

Large Dense layers are real ones, so that strategies take them over as they would the model's. What lies between them
are segments, which hold all other weights and sleep.
"""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from horovod_flowers.double.paced_graph import PacedGraph, Role
from horovod_flowers.double.shrunk import ShrunkDense, shrunk
from horovod_flowers.double.timeline import Timeline, timeline
from horovod_flowers.double.virtual_core import VirtualCore
from horovod_flowers.runlog.step_profile import ProfiledBatch, ProfiledDense, ProfiledWeight, StepProfile
from horovod_flowers.strategy.wide_dense import FactorDense, RowParallelDense, WideDense

VALUE = 0.01
"""Of every weight; nothing is learned."""
LEARNING_RATE = 1e-12


def _filled() -> Any:
    return keras.initializers.Constant(VALUE)


class KeptWhole(keras.constraints.Constraint):
    """Of weights that each rank has to have all of, as it has of the model's. Leaves them as they are."""

    def __call__(self, w: Any) -> Any:
        """The same."""
        return w


class Segment(keras.layers.Layer):
    """What lies between two large Dense layers: it sleeps, forward and backward, and holds weights."""

    def __init__(
        self,
        number: int,
        weights: Sequence[tuple[ProfiledWeight, int]],
        shape: tuple[int, ...],
        pace: PacedGraph,
        anchor: Callable[[], Any | None],
    ) -> None:
        """weights: with the elements that each has here; shape: of what comes out; anchor: of the first segment, a
        weight of the double, without which nobody would ask for its backward pass."""
        super().__init__(name=f"segment_{number}")
        self._number, self._shape, self._pace, self._anchor = number, shape, pace, anchor
        for weight, elements in weights:
            self.add_weight(
                shape=(elements,),
                initializer=_filled(),
                constraint=KeptWhole() if weight.whole is not None else None,
                name=weight.path.replace("/", "."),
            )

    def compute_output_spec(self, inputs: Any) -> Any:
        """[images, ...]."""
        return keras.KerasTensor((None, *self._shape[1:]), dtype="float32")

    def call(self, inputs: Any) -> Any:
        """Sleep for the forward pass; what comes out has nothing in it."""

        @tf.custom_gradient
        def passed(values: tf.Tensor, *anchor: tf.Tensor) -> Any:
            token = self._pace.forward(self._number, values)

            def gradient(upstream: tf.Tensor) -> Any:
                token = self._pace.backward(self._number, upstream)
                return tf.fill(tf.shape(values), token), *(tf.zeros_like(each) for each in anchor)

            return tf.fill(self._shape, token), gradient

        anchor = self._anchor() if self._number == 0 else None
        return passed(inputs, *([] if anchor is None else [tf.convert_to_tensor(anchor.value)]))


class ModelDouble:
    """The double of a measured model, for one batch."""

    def __init__(
        self, profile: StepProfile, batch: ProfiledBatch, layers: Sequence[ProfiledDense], shrink: float
    ) -> None:
        """layers: of the batch, those that strategies may take over, in the order of the forward pass."""
        self.core = VirtualCore()
        self.timeline: Timeline = timeline(batch, layers)
        self._pace = PacedGraph(self.core, self.timeline, self._role)
        self._kernels = [layer.kernel for layer in layers]
        self.updated_share = 1.0
        """Of all elements, those that this rank updates."""
        shapes = [ShrunkDense.of(profile.weights[layer.kernel], layer, batch.rows, shrink) for layer in layers]
        self.rows = shapes[0].rows if shapes else batch.rows
        """Of the inputs of large Dense layers, in place of the images of a rank."""
        self.inputs = [shape.inputs for shape in shapes]
        """Of each of its large Dense layers."""
        self.layers = [
            keras.layers.Dense(shape.units, use_bias=False, kernel_initializer=_filled(), name=layer.layer)
            for layer, shape in zip(layers, shapes, strict=True)
        ]
        self.weights: list[int] = []
        """The number of each of its weights among the model's."""
        outputs = [*(shape.input_shape for shape in shapes), (batch.rows, profile.classes)]
        values = images = keras.layers.Input((1, 1, 3))
        segments = []
        for number, own in enumerate(self._shared_out(len(profile.weights))):
            weights = [(profile.weights[each], shrunk(profile.weights[each].elements, shrink)) for each in own]
            segments.append(Segment(number, weights, outputs[number], self._pace, lambda: anchor))
            values = segments[-1](values)
            self.weights += own
            if number < len(self.layers):
                values = self.layers[number](values)
                self.weights.append(self._kernels[number])
        self.model = keras.Model(images, values, name="double")
        anchor = next((weight for segment in segments for weight in segment.trainable_variables), None)

    def _shared_out(self, weights: int) -> list[list[int]]:
        """The numbers of those weights that each segment holds: up to the next kernel."""
        left = [number for number in range(weights) if number not in self._kernels]
        found = []
        for kernel in self._kernels:
            found.append([number for number in left if number < kernel])
            left = [number for number in left if number > kernel]
        return [*found, left]

    def _role(self, number: int) -> Role:
        layer = self.layers[number]
        if isinstance(layer, RowParallelDense):
            return Role.SENDS_ACTIVATIONS
        return Role.COMBINES_GRADIENT if isinstance(layer, WideDense) else Role.PLAIN

    def paced(self, gradients: Sequence[tf.Tensor], values: Sequence[tf.Tensor]) -> tuple[list[tf.Tensor], tf.Tensor]:
        """Gradients of which each is there when it was computed, and a token of the end of the backward pass.

        gradients: what the double's backward pass gives; values: those of the weights, of the same shapes. Traced after
        the passes.
        """
        found, own = [], list[tf.Tensor]()
        for number, gradient, value in zip(self.weights, gradients, values, strict=True):
            token = self._pace.gradients.get(number)
            if number not in self._kernels:
                assert token is not None
                found.append(value * token)
                continue
            if token is None:
                layer = self.layers[self._kernels.index(number)]
                times = layer.ranks if isinstance(layer, FactorDense) else 1
                token = self._pace.kernel(number, gradient, times)
                own.append(token)
            found.append(gradient * token)
        return found, self._pace.end()

    @property
    def sends_activations(self) -> bool:
        """Whether a strategy has divided one of its layers."""
        return any(self._role(number) is Role.SENDS_ACTIVATIONS for number in range(len(self.layers)))

    @property
    def update_seconds(self) -> float:
        """What this rank's update takes."""
        return self.updated_share * self.timeline.update_seconds

    def slept_for_update(self, gradients: Sequence[tf.Tensor]) -> tf.Tensor:
        """The token of this rank's update, which begins when these gradients are there."""
        place = self.timeline.end.place + 1
        return self._pace.slept(gradients[:1], place, lambda: self.update_seconds, after_others=True)


class UpdateDouble(keras.optimizers.SGD):
    """An optimizer that sleeps, and touches what it would have updated."""

    def __init__(self, double: ModelDouble) -> None:
        super().__init__(0.0)
        self._double = double

    def apply(self, grads: Sequence[Any], trainable_variables: Any = None) -> None:
        """Sleep; called inside tf.function."""
        token = self._double.slept_for_update(grads)
        for gradient, variable in zip(grads, trainable_variables, strict=True):
            # What reads it then waits for the update.
            variable.value.assign_sub(gradient * (token * LEARNING_RATE))
        self.iterations.assign_add(tf.cast(token, self.iterations.dtype))
