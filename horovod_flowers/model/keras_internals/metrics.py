"""The metrics that a model is compiled with."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import keras
from keras.src import tree


@contextmanager
def mean_updates(weight_of: Callable[[Any, Any, Any], Any]) -> Iterator[None]:
    """Have every update of a keras.metrics.Mean, or a metric made of one, ask this function, for a while, for the
    weight of its values: with the metric, the values and the weight given (or None)."""
    before = keras.metrics.Mean.update_state

    def update(self: Any, values: Any, sample_weight: Any = None) -> Any:
        return before(self, values, sample_weight=weight_of(self, values, sample_weight))

    keras.metrics.Mean.update_state = update
    try:
        yield
    finally:
        keras.metrics.Mean.update_state = before


def metrics_compiled_with(model: Any) -> list[Any]:
    """The metrics and functions that `compile` was given, weighted ones too, before anything is made of them."""
    compiled = model._compile_metrics
    if compiled is None:
        return []
    return [each for given in (compiled._user_metrics, compiled._user_weighted_metrics) for each in tree.flatten(given)]


def compiled_metrics(model: Any, labels: Any, outputs: Any) -> list[tuple[str, Any, bool]]:
    """The name of each metric that a model was compiled with, the metric, and whether it weighs images."""
    found = model._compile_metrics
    if found is None:
        return []
    if not found.built:
        found.build(labels, outputs)
    plain = [(metric, False) for listed in found._flat_metrics if listed for metric in listed.metrics]
    weighted = [(metric, True) for listed in found._flat_weighted_metrics if listed for metric in listed.metrics]
    return [(metric.name, metric, weighs) for metric, weighs in (*plain, *weighted)]


def metrics_of(model: Any) -> list[Any]:
    """The metrics of a compiled model, its losses first; those in Keras' container one by one."""
    return [each for metric in model.metrics for each in (getattr(metric, "metrics", None) or [metric])]
