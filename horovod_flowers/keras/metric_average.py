"""Metrics of an epoch over all ranks, as one rank would compute them of all samples.

A metric of Keras adds up what it needs (sums and counts, a confusion matrix) and computes its value of that. What all
ranks have added up, added up over the ranks, gives the value of all samples: also where ranks have unequally many, or
where the value is no mean. What has no such state is averaged, weighted by the samples of each rank.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import horovod.tensorflow as hvd
import keras
import numpy as np

from horovod_flowers.model.keras_internals import metrics_of
from horovod_flowers.runtime.console import warn
from horovod_flowers.runtime.errors import UserError

TRAINING, VALIDATION = "", "val_"
"""As the names of their metrics begin."""


@dataclass(frozen=True)
class Phase:
    """What a rank's metrics have added up in the training or in the validation of an epoch."""

    states: list[np.ndarray]
    """Of the metrics that add up."""
    samples: float


class MetricAverageCallback(keras.callbacks.Callback):
    """Replaces the metrics in an epoch's logs by those of all ranks, for the callbacks that come after it."""

    def __init__(self, device: str = "") -> None:
        """Every rank has one, before callbacks that decide by metrics.

        device: of Horovod's interface; the sums are made on the CPU, wherever the model is.
        """
        super().__init__()
        self._phases: dict[str, Phase] = {}
        self._batches = 0
        self._warned = False

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """A new count."""
        self._phases, self._batches = {}, 0

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Counts batches, for models that do not count samples."""
        self._batches += 1

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        """The validation of an epoch begins, and takes the metrics for itself."""
        self._phases[TRAINING] = self._phase()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Replaces the metrics. Raises UserError on all ranks where they have other metrics than each other."""
        if not logs or hvd.size() == 1:
            return
        last = VALIDATION if TRAINING in self._phases else TRAINING
        phases = self._phases | {last: self._phase()}
        numbers = {name: float(value) for name, value in logs.items() if _is_number(value)}
        before = [(variable, np.array(variable)) for variable in self._added_up()]
        # A train_step may log another number by the name of a metric.
        from_states = {
            name
            for prefix, phase in phases.items()
            for name, value in self._results(prefix, [phase.states]).items()
            if name in logs and np.allclose(logs[name], value, rtol=1e-4, equal_nan=True)
        }
        gathered = hvd.allgather_object((numbers, phases, from_states), name="horovod_flowers.keras.metrics")
        for rank, (others, of_phases, _) in enumerate(gathered):
            if (others.keys(), of_phases.keys()) != (numbers.keys(), phases.keys()):
                differing = ", ".join(sorted(others.keys() ^ numbers.keys())) or "validation"
                raise UserError(
                    f"rank {rank} has other metrics than rank {hvd.rank()} at the end of epoch {epoch + 1} "
                    f"({differing}): give the same metrics and validation data to all ranks"
                )
        for prefix in phases:
            ranks = [of_phases[prefix] for _, of_phases, _ in gathered]
            for name in self._names(prefix, numbers):
                logs[name] = _weighted([others[name] for others, _, _ in gathered], [each.samples for each in ranks])
            for name, value in self._results(prefix, [each.states for each in ranks]).items():
                if all(name in names for _, _, names in gathered):
                    logs[name] = value
        for variable, state in before:
            variable.assign(state)

    def _names(self, prefix: str, numbers: Mapping[str, float]) -> list[str]:
        """Of the numbers of a phase."""
        return [name for name in numbers if name.startswith(VALIDATION) == (prefix == VALIDATION)]

    def _added_up(self) -> list[Any]:
        """The variables of the metrics that add up, in the model's order."""
        metrics = [] if self.model is None else metrics_of(self.model)
        return [variable for metric in metrics if _adds_up(metric) for variable in metric.variables]

    def _phase(self) -> Phase:
        metrics = [] if self.model is None else metrics_of(self.model)
        trackers = [metric for metric in metrics if type(metric) is keras.metrics.Mean]
        counts = [float(metric.count) for metric in trackers if metric.name == "loss"]
        samples = counts[0] if counts and counts[0] > 0 else float(self._batches)
        return Phase([np.array(variable) for variable in self._added_up()], samples)

    def _results(self, prefix: str, states: Sequence[Sequence[np.ndarray]]) -> dict[str, Any]:
        """By their names in the logs, the metrics' values of sums of states, without those that do not add up."""
        if self.model is None:
            return {}
        for variable, *values in zip(self._added_up(), *states, strict=True):
            total = np.sum(np.stack(values).astype(np.float64), axis=0)
            variable.assign(total.astype(values[0].dtype))
        others = [metric.name for metric in metrics_of(self.model) if not _adds_up(metric)]
        if others and not self._warned:
            self._warned = True
            if hvd.rank() == 0:
                warn(
                    f"the metric {others[0]} is averaged over ranks, weighted by their samples, since its class does "
                    "not tell that its state can be added up: derive it from one of keras.metrics, such as Mean"
                )
        return {
            f"{prefix}{name}": float(value) if np.ndim(value) == 0 else np.array(value)
            for name, value in self.model.get_metrics_result().items()
            if not any(name == other or name.endswith(f"_{other}") for other in others)
        }


def _is_number(value: Any) -> bool:
    return np.ndim(value) == 0 and np.issubdtype(np.asarray(value).dtype, np.number)


def _adds_up(metric: Any) -> bool:
    """Whether it is one of Keras' own kinds, all of which add up over samples, or derived from one."""
    bases = type(metric).__mro__[: type(metric).__mro__.index(keras.Metric)]
    return any(base.__module__.split(".")[0] == "keras" for base in bases)


def _weighted(values: Sequence[float], weights: Sequence[float]) -> float:
    total = sum(weights)
    if total == 0:
        return float(np.mean(values))
    pairs = [(value, weight) for value, weight in zip(values, weights, strict=True) if weight]
    return float(sum(value * weight for value, weight in pairs) / total)
