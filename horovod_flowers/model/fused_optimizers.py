"""Two of Keras' optimizers with their update in one pass over memory.

Keras computes an update of Adam in some ten operations, each of which reads and writes arrays as large as the weights;
TensorFlow's fused kernels read and write each array once. Same formulas, same variables, same interface.
"""

from typing import Any

import keras
import tensorflow as tf

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
        steps = tf.cast(keras.ops.convert_to_tensor(self.iterations) + 1, dtype)  # of updates: gradients may add up
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


_FUSED: dict[type, type] = {
    keras.optimizers.Adam: FusedAdam,
    keras.optimizers.AdamW: FusedAdam,
    keras.optimizers.SGD: FusedSGD,
}


def fused_form(optimizer: Any) -> type:
    """The class whose update is that of this optimizer, fused: to stand before its own; object where there is none.

    Of Keras' own classes alone: a subclass may update in another way.
    """
    return _FUSED.get(type(optimizer), object)
