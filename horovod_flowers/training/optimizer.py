"""Keras' optimizers with their update in one pass over memory.

Keras computes an update of Adam in some ten operations, each of which reads and writes arrays as large as the weights;
TensorFlow's fused kernels read and write each array once. Same formulas, same variables, same interface.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from horovod_flowers.config.optimizer import OptimizerConfig
from horovod_flowers.model.keras_internals import adam_moments, sgd_momentum


class FusedAdam(keras.optimizers.Adam):
    """Adam (Kingma and Ba 2015, algorithm 1, with epsilon as in the note before section 2.1)."""

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Update one variable and its two moments. `variable` is a tf.Variable."""
        if self.amsgrad or isinstance(gradient, tf.IndexedSlices):
            super().update_step(gradient, variable, learning_rate)
            return
        momentum, velocity = adam_moments(self, variable)
        dtype = variable.dtype
        steps = tf.cast(self.iterations.value + 1, dtype)
        beta_1, beta_2 = tf.constant(self.beta_1, dtype), tf.constant(self.beta_2, dtype)
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=momentum.value.handle,
            v=velocity.value.handle,
            beta1_power=tf.pow(beta_1, steps),
            beta2_power=tf.pow(beta_2, steps),
            lr=tf.cast(learning_rate, dtype),
            beta1=beta_1,
            beta2=beta_2,
            epsilon=tf.constant(self.epsilon, dtype),
            grad=tf.cast(gradient, dtype),
            use_locking=True,
        )


class FusedSGD(keras.optimizers.SGD):
    """SGD with momentum, Nesterov's too (Sutskever et al. 2013, section 2), in Keras' order of operations."""

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Update one variable and its momentum. `variable` is a tf.Variable."""
        if self.momentum == 0 or isinstance(gradient, tf.IndexedSlices):
            super().update_step(gradient, variable, learning_rate)
            return
        dtype = variable.dtype
        tf.raw_ops.ResourceApplyKerasMomentum(
            var=variable.handle,
            accum=sgd_momentum(self, variable).value.handle,
            lr=tf.cast(learning_rate, dtype),
            grad=tf.cast(gradient, dtype),
            momentum=tf.constant(self.momentum, dtype),
            use_locking=True,
            use_nesterov=self.nesterov,
        )


@dataclass(frozen=True)
class Clipping:
    """Gradients shortened to a norm, of all of them together or of each weight's, as Keras' optimizers define it.

    Theirs would take the norm of what one rank updates: parts of weights under some strategies.
    """

    norm: float
    together: bool
    """Whether one norm is that of all gradients (Pascanu et al. 2013, algorithm 1), or each weight has its own."""

    @staticmethod
    def of(config: OptimizerConfig) -> "Clipping | None":
        """What a run's options ask for."""
        if config.global_clipnorm is not None:
            return Clipping(config.global_clipnorm, together=True)
        return None if config.clipnorm is None else Clipping(config.clipnorm, together=False)

    def clip(self, gradients: Sequence[tf.Tensor], squared_norms: tf.Tensor) -> list[tf.Tensor]:
        """The gradients, or their parts, given the squared norm of each whole one."""
        squares = tf.reduce_sum(squared_norms) * tf.ones_like(squared_norms) if self.together else squared_norms
        scales = tf.unstack(self.norm / tf.maximum(tf.sqrt(squares), self.norm))
        return [gradient * tf.cast(scale, gradient.dtype) for gradient, scale in zip(gradients, scales, strict=True)]


def make_optimizer(config: OptimizerConfig) -> Any:
    """The optimizer of a run; its learning rate is set before every step."""
    decay = config.weight_decay or None
    if config.name == "adam":
        return FusedAdam(config.learning_rate, weight_decay=decay)
    return FusedSGD(config.learning_rate, momentum=config.momentum, weight_decay=decay)


def build_over(optimizer: Any, variables: Sequence[Any], shapes: Sequence[tuple[int, ...]]) -> None:
    """Build an optimizer over the variables that this rank updates; `shapes` are those of the whole weights.

    Weight decay is decoupled from the gradient (Loshchilov and Hutter 2019, algorithm 2, with the learning rate for its
    schedule multiplier) and leaves biases and the weights of normalisation alone.
    """
    undecayed = [variable for variable, shape in zip(variables, shapes, strict=True) if len(shape) < 2]
    if undecayed:
        optimizer.exclude_from_weight_decay(var_list=undecayed)
    optimizer.build(variables)
