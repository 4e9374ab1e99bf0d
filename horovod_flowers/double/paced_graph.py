"""Sleeping inside of a step's graph: a token, a number that is 1, is there once something has been computed.

What depends on a token is computed from it. TensorFlow would drop what others merely have to wait for.
"""

from collections.abc import Callable, Sequence
from enum import Enum

import numpy as np
import tensorflow as tf

from horovod_flowers.double.timeline import Computation, GradientOf, Timeline
from horovod_flowers.double.virtual_core import VirtualCore


class Role(Enum):
    """What a strategy has made of a Dense layer."""

    PLAIN = "it computes by itself"
    COMBINES_GRADIENT = "the gradient of its kernel is worked out of what other ranks have sent"
    SENDS_ACTIVATIONS = "so are its outputs and the gradient of its inputs"


class PacedGraph:
    """The forward and backward pass of one step, as it is being traced."""

    def __init__(self, core: VirtualCore, timeline: Timeline, role: Callable[[int], Role]) -> None:
        """role: that of each of the timeline's layers, asked while a step is traced."""
        self._core, self._timeline, self._role = core, timeline, role
        self._chain: tf.Tensor = tf.constant(1.0)
        self.gradients: dict[int, tf.Tensor] = {}
        """Tokens of the gradients that the backward pass has reached, by the numbers of their weights."""

    def computed(self, after: Sequence[tf.Tensor], part: Computation, after_others: bool = False) -> tf.Tensor:
        """The token of a part that begins once these tensors are there: fp32 scalar."""
        return self.slept(after, part.place, lambda: part.seconds, after_others)

    def slept(
        self, after: Sequence[tf.Tensor], place: int, seconds: Callable[[], float], after_others: bool
    ) -> tf.Tensor:
        """The same, of as many seconds as the function says when it begins."""

        def compute(*_: np.ndarray) -> np.float32:
            self._core.compute(place, seconds(), after_others)
            return np.float32(1)

        # Not stateful: TensorFlow would have each wait for the one before it in the program.
        first_values = [tf.reshape(tensor, [-1])[:1] for tensor in after]
        return tf.ensure_shape(tf.numpy_function(compute, first_values, tf.float32, stateful=False), [])

    def forward(self, segment: int, inputs: tf.Tensor) -> tf.Tensor:
        """The token of what lies before a layer, or behind the last one. inputs: outputs of the layer before, or the
        images."""
        others = segment > 0 and self._role(segment - 1) is Role.SENDS_ACTIVATIONS
        return self.computed([inputs], self._timeline.forward[segment], others)

    def backward(self, segment: int, upstream: tf.Tensor) -> tf.Tensor:
        """The token of the gradient of what `forward` was given. upstream: of what came of it."""
        layers = len(self._timeline.backward)
        after, others = [upstream], False
        if segment < layers:
            after, others = [upstream, self._chain], self._role(segment) is Role.SENDS_ACTIVATIONS
        else:
            self.gradients = {}
        if segment == 0:
            self._follow(self._timeline.rest, after, others)
            return tf.ones([])
        around = self._timeline.backward[layers - segment]
        after, others = self._follow(around.before, after, others)
        token = self.computed(after, around.upstream, others)
        sends = self._role(segment - 1) is Role.SENDS_ACTIVATIONS
        if sends and around.inputs is not None:
            # Before the gradient of the outputs leaves instead of after it has come: one after the other either way.
            token = self.computed([token], around.inputs)
        (self._chain,), _ = self._follow(around.beside, [token], False)
        if not sends and around.inputs is not None:
            self._chain = self.computed([self._chain], around.inputs)
        return token

    def _follow(
        self, gradients: Sequence[GradientOf], after: list[tf.Tensor], others: bool
    ) -> tuple[list[tf.Tensor], bool]:
        """These gradients one after the other, but for kernels whose layers work them out with other ranks: what comes
        next has to wait for, and whether that is something of other ranks."""
        kernels = list(self._timeline.kernels)
        for each in gradients:
            if each.weight in kernels and self._role(kernels.index(each.weight)) is not Role.PLAIN:
                continue
            token = self.gradients[each.weight] = self.computed(after, each.computation, others)
            after, others = [token], False
        if len(after) == 1:
            self._chain = after[0]
        return after, others

    def end(self) -> tf.Tensor:
        """The token of the end of the backward pass, once it has been traced."""
        return self.computed([self._chain, *self.gradients.values()], self._timeline.end)

    def kernel(self, weight: int, gradient: tf.Tensor, times: int) -> tf.Tensor:
        """The token of a kernel's gradient that a layer works out of what has come from other ranks.

        gradient: the double's; times: how many times as many rows it is worked out of as on one rank.
        """
        part = self._timeline.kernels[weight]
        return self.slept([gradient], part.place, lambda: times * part.seconds, after_others=True)
