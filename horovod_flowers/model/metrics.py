"""The metrics that a compiled model brings, measured over the images of all ranks.

Keras' metrics keep sums: of values, of hits, of a confusion matrix. Those of all ranks added up are what one rank would
have, and what the metric makes of them is exact; an average of the ranks' results would not be. That a metric's states
add up is tried out before training, whoever wrote it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from horovod_flowers.config.losses import Labels
from horovod_flowers.model.loss import labels_as
from horovod_flowers.model.outputs import Ending, as_given
from horovod_flowers.runtime.errors import UserError, reason

TOLERANCE = 1e-4
"""Relative, of sums in fp32."""


class CompiledMetrics:
    """Metrics of one rank, and what they come to over all."""

    def __init__(self, metrics: Sequence[tuple[str, Any, bool]], ending: Ending, labels: Labels, classes: int) -> None:
        """metrics: each with its name, and whether it weighs images as the loss does; ending: what the model gives, and
        labels: how the loss takes them, which is what metrics are given.

        Raises UserError where the states of one do not add up.
        """
        self._ending, self._labels, self._classes = ending, labels, classes
        self._metrics: dict[str, tuple[Any, bool]] = {}
        for name, metric, weighs in metrics:
            free, number = f"weighted_{name}" if weighs and name in self._metrics else name, 1
            while free in self._metrics:
                free, number = f"{name}_{number}", number + 1
            self._metrics[free] = metric, weighs
            self._check(free, metric)
        self.reset()
        self._empty = self.states()

    @property
    def names(self) -> list[str]:
        """In the order in which they were given to `compile`."""
        return list(self._metrics)

    def update(self, labels: Any, logits: Any, weights: Any) -> None:
        """Take in a batch: int labels [batch], fp32 logits [batch, classes]; weights fp32 [batch], 0 of an image that
        does not count. Called inside tf.function."""
        import tensorflow as tf

        if not self._metrics:
            return
        counts = weights > 0
        outputs = as_given(self._ending, tf.stop_gradient(logits))
        truth = labels_as(self._labels, self._ending, labels, self._classes)
        truth, outputs, weights = (tf.boolean_mask(each, counts) for each in (truth, outputs, weights))

        def taken_in() -> tf.Tensor:
            for metric, weighs in self._metrics.values():
                metric.update_state(truth, outputs, weights if weighs else None)
            return tf.constant(True)

        # Of no image at all some metrics would take the mean.
        tf.cond(tf.reduce_any(counts), taken_in, lambda: tf.constant(False))

    def reset(self) -> None:
        """Forget all batches."""
        for metric, _ in self._metrics.values():
            metric.reset_state()

    def states(self) -> np.ndarray:
        """float64 [values]: all that this rank has added up."""
        values = [np.asarray(variable).reshape(-1) for variable in self._variables()]
        return np.concatenate(values).astype(np.float64) if values else np.zeros(0)

    def sums(self, states: np.ndarray) -> np.ndarray:
        """What of these states is added up over ranks, and over the parts of an epoch: what batches have added."""
        return states - self._empty

    def results(self, sums: np.ndarray) -> dict[str, float | None]:
        """What the metrics make of the sums of all ranks; None of a number that is not finite. Forgets all batches."""
        total, place = self._empty + sums, 0
        for variable in self._variables():
            count = int(np.prod(variable.shape))
            values = total[place : place + count].reshape(variable.shape)
            variable.assign(values.astype(np.dtype(variable.dtype)))
            place += count
        found: dict[str, float | None] = {}
        for name, (metric, _) in self._metrics.items():
            found |= _flat(name, metric.result())
        self.reset()
        return found

    def _variables(self) -> list[Any]:
        return [variable for metric, _ in self._metrics.values() for variable in metric.variables]

    def _check(self, name: str, metric: Any) -> None:
        """Raise UserError where the states after two batches are not the sum of those after each."""
        random = np.random.default_rng(0)
        batches = []
        for _ in range(2):
            labels = random.integers(0, self._classes, 6).astype(np.int32)
            outputs = as_given(self._ending, random.normal(size=(6, self._classes)).astype(np.float32))
            batches.append((labels_as(self._labels, self._ending, labels, self._classes), outputs))

        def after(*taken: tuple[Any, Any]) -> list[np.ndarray]:
            metric.reset_state()
            for truth, outputs in taken:
                metric.update_state(truth, outputs)
            return [np.asarray(variable).astype(np.float64) for variable in metric.variables]

        refusal = f"metric {name} of the compiled model"
        try:
            after(batches[0])  # some make their variables only then
            empty, one, other, both = after(), after(batches[0]), after(batches[1]), after(*batches)
            wanted = _flat(name, metric.result())
            added = [
                np.allclose(together - start, first + second - 2 * start, rtol=TOLERANCE, atol=1e-5)
                for start, first, second, together in zip(empty, one, other, both, strict=True)
            ]
            metric.reset_state()
            for variable, value in zip(metric.variables, both, strict=True):
                variable.assign(value.astype(np.dtype(variable.dtype)))
            of_states = _flat(name, metric.result())
            metric.reset_state()
        except Exception as error:  # the user's code, or a metric that is not for such labels
            raise UserError(
                f"{refusal} cannot measure the outputs of this model ({reason(error)}): leave it out of compile"
            ) from error
        if not added or not all(added) or wanted != of_states:
            raise UserError(
                f"{refusal} keeps more than sums over images, which cannot be added up over ranks: keep sums in "
                "variables (add_variable) and divide in result(), or leave it out of compile"
            )


def _flat(name: str, result: Any) -> dict[str, float | None]:
    """One number, several, or a dictionary of them by name."""
    from keras import ops

    if isinstance(result, Mapping):
        found: dict[str, float | None] = {}
        for key, value in result.items():
            found |= _flat(f"{name}_{key}", value)
        return found
    values = np.asarray(ops.convert_to_numpy(result), np.float64).reshape(-1)
    names = [name] if len(values) == 1 else [f"{name}_{number}" for number in range(len(values))]
    return {each: float(value) if np.isfinite(value) else None for each, value in zip(names, values, strict=True)}
