"""A running average of the weights, which predicts better than the weights of the last step.

Exponential: after step t it holds d * average + (1 - d) * weights (Polyak and Juditsky 1992 average all steps alike;
the exponential form is that of Tarvainen and Valpola 2017, section 2). Larger batches take fewer steps: at k times the
base batch the decay is d**k, which averages over as many images (Busbridge et al. 2023, definition 1.2).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from horovod_flowers.strategy.interface import Strategy

RAMP = 10
"""The first steps weigh more: the decay of step t is at most (1 + t) / (RAMP + t), lest the average stays for long near
the random weights that it begins with (TensorFlow's ExponentialMovingAverage, `num_updates`)."""


@dataclass(frozen=True)
class KerasAverage:
    """The average that an optimizer of Keras' keeps (`use_ema`): what is in place of the weights when training ends."""

    momentum: float
    """Share of it that an update leaves (`ema_momentum`)."""
    overwrites_every: int | None
    """Updates after which it takes the place of the weights in training, too (`ema_overwrite_frequency`)."""


class WeightAverage:
    """Averages of the weights that this rank updates, and of the statistics of batch normalisation."""

    def __init__(
        self, strategy: Strategy, statistics: Sequence[Any], decay: float, as_keras: "KerasAverage | None" = None
    ) -> None:
        """`decay`: share of the average that an update leaves, in (0, 1); `as_keras`: instead, and of no statistics."""
        self._strategy, self._decay, self._as_keras = strategy, decay, as_keras
        self._averaged = [*strategy.optimizer_variables, *statistics]
        self.variables = [keras.Variable(tf.zeros_like(each.value), trainable=False) for each in self._averaged]
        """One for each of the strategy's `optimizer_variables`, then of `statistics`, of the same shapes."""
        self.statistics = self.variables[len(strategy.optimizer_variables) :]

    def begin(self) -> None:
        """Take the weights as they are for the average."""
        for average, variable in zip(self.variables, self._averaged, strict=True):
            average.assign(variable.value)

    def update(self, updates_done: tf.Tensor) -> None:
        """Take in the weights after an update. Called inside tf.function; `updates_done` counts from 1."""
        count = tf.cast(updates_done, tf.float32)
        decay = tf.minimum(self._decay, (1 + count) / (RAMP + count))
        if self._as_keras is not None:  # whose average begins as the weights after the first update
            decay = tf.where(count > 1, tf.constant(self._as_keras.momentum), 0.0)
        for average, variable in zip(self.variables, self._averaged, strict=True):
            average.value.assign_add((1 - decay) * (tf.convert_to_tensor(variable.value) - average.value))
        if self._as_keras is not None and self._as_keras.overwrites_every:
            now = tf.equal(updates_done % self._as_keras.overwrites_every, 0)
            for average, variable in zip(self.variables, self._averaged, strict=True):
                variable.value.assign(tf.where(now, average.value, tf.convert_to_tensor(variable.value)))

    @contextmanager
    def in_place_of_weights(self) -> Iterator[None]:
        """Have the model hold the averages for a while. Every rank enters and leaves."""
        weights = [np.asarray(variable) for variable in self._averaged]
        self._assign([np.asarray(average) for average in self.variables])
        try:
            yield
        finally:
            self._assign(weights)

    def _assign(self, values: Sequence[Any]) -> None:
        for variable, value in zip(self._averaged, values, strict=True):
            variable.assign(value)
        self._strategy.gather_weights()
