"""The functions that Keras calls for each step of fit and evaluate: on batches that all ranks have."""

import weakref
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from horovod_flowers.fit.global_batches import BatchIterator


class AgreedSteps:
    """In place of Keras' train_function or test_function.

    A graph is traced once for batches of any number of rows, so that a short last batch costs no second one.
    """

    def __init__(
        self,
        model: Any,
        step: Callable[[Any], Any],
        as_keras: Callable[[Any], Any],
        fills: Callable[[bool], bool],
        after: Callable[[BatchIterator], None],
    ) -> None:
        """step: the model's train_step or test_step. as_keras: what Keras has made of it, for other data than
        GlobalBatches. fills: given whether a batch has fewer rows than there are ranks; whether steps have to provide
        for that. after: told that steps
        were computed."""
        self._model, self._step, self._as_keras = model, step, as_keras
        self._fills, self._after = fills, after
        self._traced: dict[Any, Callable[[Any], Any]] = {}
        self._last: tuple[weakref.ref[Any], bool, Callable[[Any], Any]] | None = None
        """Batches, which are the user's data and end with their call; whether it fills; the function for them."""

    def __call__(self, iterator: Any) -> Any:
        """Compute up to `steps_per_execution` steps; logs of the last. Raises StopIteration where the data end."""
        if not isinstance(iterator, BatchIterator):
            return self._as_keras(iterator)
        batches = iterator.take(int(self._model.steps_per_execution))
        rows = iterator.rows_of_batches[-len(batches) :]
        fills = self._fills(min(rows) < iterator.batches.ranks.size)
        if self._last is None or self._last[0]() is not iterator.batches or self._last[1] != fills:
            self._last = (weakref.ref(iterator.batches), fills, self._function(iterator.batches.batch_spec, fills))
        compute = self._last[2]
        for batch in batches:
            logs = compute(batch)
        self._after(iterator)
        return logs

    def _function(self, spec: Any, fills: bool) -> Callable[[Any], Any]:
        if self._model.run_eagerly:
            return lambda batch: self._step(without_optionals(batch))
        key = (fills, str(spec))
        if key not in self._traced:
            options = {"jit_compile": self._model.jit_compile, "autograph": False}
            leaves = tf.nest.flatten(spec)
            if any(isinstance(leaf, tf.OptionalSpec) for leaf in leaves):  # None to the model: no signature can say so
                function = tf.function(self._step, reduce_retracing=True, **options)
                self._traced[key] = lambda batch: function(without_optionals(batch))
            else:
                self._traced[key] = tf.function(self._step, input_signature=[spec], **options)
        return self._traced[key]


def without_optionals(batch: Any) -> Any:
    """A batch as a model takes it: None for what tf.data has as an Optional without a value."""
    return keras.tree.map_structure(lambda leaf: None if isinstance(leaf, tf.experimental.Optional) else leaf, batch)
