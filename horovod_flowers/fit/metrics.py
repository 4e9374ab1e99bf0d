"""Metrics over all ranks: their states are added up, which gives what one rank gives that has seen all rows.

That holds for every metric whose update adds something to its state that does not depend on the state, as all of
keras.metrics do. A user's own is tried out in the first step, and refused where it does otherwise.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from horovod_flowers.model.keras_internals import mean_updates, metrics_compiled_with
from horovod_flowers.ranks.communicator import Ranks
from horovod_flowers.runtime.console import warn
from horovod_flowers.runtime.errors import UserError, cause

TOLERANCE = 1e-3
"""Relative, of what an update adds to a state in fp32."""
UNKNOWN, ADDITIVE, NOT_ADDITIVE = 0, 1, 2
MOST_OWN = 128
"""Metrics of classes of the user's own in a model."""
OTHER_START = 3.0
"""From which an update is tried out beside the first state."""


def is_of_keras(metric: Any) -> bool:
    """Whether a metric's class is Keras' own."""
    return type(metric).__module__.split(".")[0] == "keras"


@contextmanager
def summed_over_ranks(metrics: Sequence[Any], ranks: Ranks) -> Iterator[None]:
    """Metrics' states are those of all ranks in the block, and this rank's again after it. Outside of graphs.

    metrics: the same on every rank, which all call this at the same time.
    Raises UserError where a user's own metric keeps no state that could be added up.
    """
    states = _States(metrics)
    if ranks.size == 1 or not states.added.size:
        yield
        return
    with states.holding(ranks.allreduce_sum(states.added)):
        yield


class _States:
    """What metrics have added up on this rank since their start."""

    def __init__(self, metrics: Sequence[Any]) -> None:
        self._variables = _unique([variable for metric in metrics for variable in metric.variables])
        self._own = [np.array(variable) for variable in self._variables]
        self._starts = _start_values(metrics, self._variables)
        pairs = zip(self._own, self._starts, strict=True)
        flat = [(value - start).astype(np.float64).ravel() for value, start in pairs]
        self.added = np.concatenate([np.zeros(0), *flat])
        """float64 [values of all states]."""

    @contextmanager
    def holding(self, sums: np.ndarray) -> Iterator[None]:
        """The states are the starts and these sums in the block, and this rank's again after it."""
        parts = np.split(sums, np.cumsum([value.size for value in self._own])[:-1])
        everything = list(zip(self._variables, self._own, self._starts, strict=True))
        try:
            for (variable, value, start), total in zip(everything, parts, strict=False):  # no states: one empty part
                variable.assign((start + total.reshape(value.shape)).astype(value.dtype))
            yield
        finally:
            for variable, value, _ in everything:
                variable.assign(value)


def _unique(variables: Sequence[Any]) -> list[Any]:
    return list({id(variable): variable for variable in variables}.values())


def _start_values(metrics: Sequence[Any], variables: Sequence[Any]) -> list[Any]:
    """Of each variable, what it is before any update: 0 in Keras' metrics."""
    starts: dict[int, Any] = {}
    for metric in metrics:
        for each in own_metrics(metric):
            held = [np.array(variable) for variable in each.variables]
            each.reset_state()
            starts |= {id(variable): np.array(variable) for variable in each.variables}
            for variable, value in zip(each.variables, held, strict=True):
                variable.assign(value)
    return [starts.get(id(variable), np.zeros((), np.array(variable).dtype)) for variable in variables]


def own_metrics(metric: Any) -> list[Any]:
    """Of a metric and those in it, the ones whose class is not Keras' own."""
    if not is_of_keras(metric):
        return [metric]
    inner = getattr(metric, "metrics", None) or []
    return [each for part in inner for each in own_metrics(part)]


def logs_over_ranks(model: Any, logs: dict[str, Any], share: float, ranks: Ranks) -> dict[str, Any]:
    """The logs that a step has given, over all ranks. Every rank calls it, with the same names.

    What is the result of a metric is that of all ranks' states. Anything else, such as a number that a train_step of
    the user's returns, is the mean over ranks by their share of the batch: that of the global batch, where it is a mean
    over rows. A value may be a dictionary, as the result of compiled metrics is.
    """
    own, states = _results(model.metrics), _States(model.metrics)
    values = _numbers(logs)
    others = [
        share > 0 and not (path[-1] in own and np.allclose(value, own[path[-1]], rtol=1e-5, equal_nan=True))
        for path, value in values.items()
    ]
    weighted = [np.where(share > 0, value * share / ranks.size, 0.0) for value in values.values()]
    flat = np.concatenate([np.array(others, np.float64), *(value.ravel() for value in weighted)])
    # One call for all: after each step every rank waits for the slowest here.
    of_states, sums = np.split(ranks.allreduce_sum(np.concatenate([states.added, flat])), [states.added.size])
    with states.holding(of_states):
        everywhere = _results(model.metrics)
    means = np.split(sums[len(others) :], np.cumsum([value.size for value in weighted])[:-1])
    found: dict[str, Any] = {}
    for (path, value), other, mean in zip(values.items(), sums, means, strict=False):
        result = mean.reshape(value.shape) if other else np.asarray(everywhere[path[-1]])
        place = found
        for name in path[:-1]:
            place = place.setdefault(name, {})
        place[path[-1]] = float(result) if result.ndim == 0 else result
    return found


def _numbers(logs: dict[str, Any], path: tuple[str, ...] = ()) -> dict[tuple[str, ...], np.ndarray]:
    """What logs hold, dictionaries within them too, by the names that lead there."""
    found: dict[tuple[str, ...], np.ndarray] = {}
    for name, value in logs.items():
        if isinstance(value, dict):
            found |= _numbers(value, (*path, name))
        else:
            found[(*path, name)] = np.asarray(value, np.float64)
    return found


def _results(metrics: Sequence[Any]) -> dict[str, Any]:
    """By name, as `logs` has them."""
    found: dict[str, Any] = {}
    for metric in metrics:
        result = metric.result()
        found |= result if isinstance(result, dict) else {metric.name: result}
    return {name: np.asarray(value) for name, value in found.items()}


class MetricsOverRanks:
    """The metrics of a model in the steps of one rank."""

    def __init__(self, model: Any, ranks: Ranks) -> None:
        """Outside of graphs, since it makes a variable."""
        self._model, self._ranks = model, ranks
        self._verdicts = tf.Variable(tf.fill([MOST_OWN], UNKNOWN), trainable=False)
        self._tried: list[Any] = []
        """Metrics of the user's own, in the order of the verdicts."""
        self._said: set[str] = set()
        self._settled = 0

    def _own(self) -> list[Any]:
        given = [each for each in metrics_compiled_with(self._model) if isinstance(each, keras.metrics.Metric)]
        found = [own for metric in [*self._model.metrics, *given] for own in own_metrics(metric)]
        return _unique(found)

    @contextmanager
    def in_step(self, share: Any) -> Iterator[None]:
        """While the step of a model is traced, or runs eagerly. share: float32 scalar, of this rank's rows.

        A mean of one number for a batch, such as a loss, counts it by the share: over ranks that is a mean of the
        global batches' numbers, as one rank has it.
        """
        if self._ranks.size == 1:
            yield
            return

        def weight_of(metric: Any, values: Any, sample_weight: Any) -> Any:
            if tf.convert_to_tensor(values).shape.rank != 0 or sample_weight is not None:
                return sample_weight
            if isinstance(metric, keras.metrics.MeanMetricWrapper):
                self._say_once(metric.name)
            return share

        with mean_updates(weight_of), ExitStack() as trials:
            for metric in self._own():
                trials.enter_context(self._trial(metric))
            yield

    def _say_once(self, name: str) -> None:
        if self._ranks.rank == 0 and name not in self._said:
            warn(
                f"metric '{name}' gives one number for a batch instead of one for each row: it is taken for the mean "
                "over its rows; where it is something else, use a metric with a state, such as those of keras.metrics"
            )
        self._said.add(name)

    @contextmanager
    def _trial(self, metric: Any) -> Iterator[None]:
        """Have the first update of a user's own metric tried out from two states."""
        places = [place for place, tried in enumerate(self._tried) if tried is metric]
        if places and places[0] < self._settled:
            yield
            return
        place = places[0] if places else len(self._tried)
        if not places:
            if place == MOST_OWN:
                raise UserError(f"a model has more than {MOST_OWN} metrics of classes of its own")
            self._tried.append(metric)
        update = metric.update_state

        def tried(*args: Any, **kwargs: Any) -> Any:
            metric.update_state = update
            result = update(*args, **kwargs)
            self._try_out(metric, place, lambda: update(*args, **kwargs))
            metric.update_state = tried
            return result

        metric.update_state = tried
        try:
            yield
        finally:
            del metric.update_state

    def _try_out(self, metric: Any, place: int, update: Callable[[], Any]) -> None:
        """Note whether an update adds the same to a state whatever the state is, the first time that it runs."""
        variables = list(metric.variables)

        def once() -> Any:
            after = [tf.identity(variable.value) for variable in variables]
            additive = tf.constant(len(variables) > 0)
            added = [_added(variables, start, update) for start in (0.0, OTHER_START)]
            for one, other in zip(*added, strict=True):
                difference = tf.reduce_max(tf.abs(one - other)) if one.shape.num_elements() != 0 else 0.0
                additive &= difference <= TOLERANCE * (1.0 + tf.reduce_max(tf.abs(one)))
            for variable, value in zip(variables, after, strict=True):  # one that writes around Keras' variables
                additive &= tf.reduce_all(tf.equal(variable.value, value))
                variable.assign(value)
            self._verdicts.scatter_nd_update([[place]], [tf.where(additive, ADDITIVE, NOT_ADDITIVE)])
            return tf.constant(0)

        try:
            tf.cond(self._verdicts[place] == UNKNOWN, once, lambda: tf.constant(0))
        except Exception as error:  # the user's code
            raise UserError(
                f"metric {metric.name} ({type(metric).__name__}) cannot be tried out, so that nobody knows whether its "
                f"states may be added up over ranks ({cause(error)}): assign to the Keras variables themselves "
                "(self.total.assign_add(...))"
            ) from error

    def refuse_what_cannot_be_added_up(self) -> None:
        """After a step: raise UserError on every rank where a metric of the user's cannot be added up over ranks."""
        if self._settled == len(self._tried):
            return
        fresh = zip(self._tried, self._verdicts.numpy(), strict=False)
        found = [f"{each.name} ({type(each).__name__})" for each, verdict in fresh if verdict == NOT_ADDITIVE]
        self._settled = len(self._tried)
        error = None
        if found:
            error = UserError(
                f"metric {', '.join(found)} cannot be added up over ranks: what an update adds to its state depends on "
                "the state, or is kept elsewhere than in Keras' variables; keep sums and counts (add_variable, "
                "assign_add), and compute the result of them in result()"
            )
        self._ranks.raise_on_all(error)


def _added(variables: list[Any], start: float, update: Callable[[], Any]) -> list[Any]:
    """What an update adds to states that all are `start`; fp32."""
    starts = [tf.cast(tf.fill(tf.shape(variable.value), start), variable.value.dtype) for variable in variables]
    with keras.StatelessScope(list(zip(variables, starts, strict=True))) as scope:
        update()
    ends = [scope.get_current_value(variable) for variable in variables]
    return [tf.cast(end, tf.float32) - tf.cast(begin, tf.float32) for end, begin in zip(ends, starts, strict=True)]
