"""A Keras model that all ranks train together.

Its class becomes a subclass of its own, made at run time, with the same name: what it overrides begins with all ranks
and goes on in Keras' code, or the user's. Files name the class that the user chose.
"""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal, TypeAlias

import tensorflow as tf

from horovod_flowers.fit.agreement import seeds_that_differ
from horovod_flowers.fit.epochs import Epochs
from horovod_flowers.fit.fitting import evaluating, fitting, in_order, predicting
from horovod_flowers.fit.metrics import summed_over_ranks
from horovod_flowers.fit.options import Options
from horovod_flowers.fit.place import Place
from horovod_flowers.fit.refusals import check_asked, check_can_train
from horovod_flowers.fit.script import Script
from horovod_flowers.fit.state import State
from horovod_flowers.fit.step import RankBatch, put_back
from horovod_flowers.fit.time_limit import TimeLimit, stop_fits_of
from horovod_flowers.model import keras_internals
from horovod_flowers.model.fused_optimizers import fused_form
from horovod_flowers.model.optimizer_class import combine_in_place
from horovod_flowers.model.pooled_activation import relu_behind_pooling
from horovod_flowers.recording.of_fit import (
    MarkedUpdate,
    precision_of,
    record_fits_of,
    recording_callback,
    rows_of,
    with_callback,
)
from horovod_flowers.recording.step_marks import STEP_MARKS
from horovod_flowers.runlog.environment import Parallelism
from horovod_flowers.runtime.errors import UserError
from horovod_flowers.runtime.heartbeat import HEARTBEAT

StrategyChoice: TypeAlias = Literal["allreduce", "sharded", "tensor", "mesh", "auto", "none"]


def distribute(model: Any, ranks: Script, strategy: StrategyChoice = "allreduce", **options: Any) -> Any:
    """As `ScriptRanks.distribute`."""
    error = None
    try:
        check_asked(model, strategy)
        if _state_of(model) is not None:
            raise UserError(f"model {model.name} is distributed already: call distribute once, before fit")
        unknown = sorted(options.keys() - set(Options.__dataclass_fields__))
        if unknown:
            raise UserError(
                f"distribute takes no {', '.join(unknown)}: options are {', '.join(Options.__dataclass_fields__)}"
            )
        Options(**options).of_run(strategy)
        check_can_train(model, ranks.size)
        if names := Options(**options).names_of_equal_seeds:
            seeds_that_differ(model, names)
    except UserError as found:
        error = found
    ranks.answer(f"distribute(strategy={strategy!r})")
    ranks.plain.raise_on_all(error)
    vars(model)["_over_ranks"] = State(model, ranks, strategy, Options(**options))
    if ranks.size > 1:
        model.__class__ = _distributed_class(type(model))
        model.train_function = model.test_function = model.predict_function = None
    else:
        if (fused := fused_form(model.optimizer)) is not object:  # as on several ranks, which would look too fast else
            combine_in_place(model.optimizer, MarkedUpdate, fused)
        stop_fits_of(model, ranks.plain, ranks.stop_request)
        record_fits_of(model, ranks.plain, lambda: Parallelism("one rank", [], [], precision_of(model), []))
    return model


def _state_of(model: Any) -> State | None:
    return vars(model).get("_over_ranks")


class _DistributedModel:
    """Before the user's class in the order of classes. Docstrings are Keras'."""

    _over_ranks: State
    name: str
    metrics: Any
    optimizer: Any
    trainable_variables: Any
    train_function: Any
    test_function: Any

    def fit(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        epochs: int = 1,
        verbose: Any = "auto",
        callbacks: Any = None,
        validation_split: float = 0.0,
        validation_data: Any = None,
        shuffle: Any = True,
        class_weight: Any = None,
        sample_weight: Any = None,
        initial_epoch: int = 0,
        steps_per_epoch: int | None = None,
        validation_steps: int | None = None,
        validation_batch_size: int | None = None,
        validation_freq: Any = 1,
    ) -> Any:
        given = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        state = self._over_ranks
        place = Place(state.plain, state.steps_end)
        limit = TimeLimit(state.ranks.stop_request, place, state.one_model)
        first = [Epochs(state)]
        with state.calling("fit"), fitting(given, first, state.plain, limit) as (arguments, training, testing):
            state.begin_call(training, testing)
            recording = recording_callback(state.plain, state.parallelism, global_batch=training.batch_size)
            callbacks = with_callback(arguments["callbacks"], recording)
            settings = {"epochs": epochs, "steps": steps_per_epoch or training.num_batches}
            arguments["callbacks"] = place.callback_list(callbacks, self, verbose=arguments["verbose"], **settings)
            try:
                history = super().fit(**arguments)  # type: ignore[misc]
            finally:
                keras_internals.begin_at_epoch(self, None)  # else a later fit would begin there, too
            state.end_fit()
            return history

    def evaluate(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        verbose: Any = "auto",
        sample_weight: Any = None,
        steps: int | None = None,
        callbacks: Any = None,
        return_dict: bool = False,
        **kwargs: Any,
    ) -> Any:
        state = self._over_ranks
        if kwargs.get("_use_cached_eval_dataset"):  # within fit
            state.steps_end()
            HEARTBEAT.at("validation", long=True)
            return super().evaluate(  # type: ignore[misc]
                x, y, batch_size, verbose, sample_weight, steps, callbacks, return_dict, **kwargs
            )
        given = {
            "x": x,
            "y": y,
            "batch_size": batch_size,
            "verbose": verbose,
            "sample_weight": sample_weight,
            "steps": steps,
            "callbacks": callbacks,
            "return_dict": return_dict,
        }
        with state.calling("evaluate"), evaluating(given | kwargs, [], state.plain) as (arguments, testing):
            state.begin_call(testing)
            return super().evaluate(**arguments)  # type: ignore[misc]

    def predict(
        self,
        x: Any,
        batch_size: int | None = None,
        verbose: Any = "auto",
        steps: int | None = None,
        callbacks: Any = None,
    ) -> Any:
        state = self._over_ranks
        given = {"x": x, "batch_size": batch_size, "verbose": verbose, "steps": steps, "callbacks": callbacks}
        with state.calling("predict"), predicting(given, [], state.plain) as (arguments, batches):
            state.begin_prediction(batches)
            return in_order(super().predict(**arguments), batches)  # type: ignore[misc]

    def make_train_function(self, force: bool = False) -> None:
        if self.train_function is None or force:
            super().make_train_function(force)  # type: ignore[misc]
            self.train_function = self._over_ranks.agreed_steps(self.train_step, self.train_function)

    def make_test_function(self, force: bool = False) -> None:
        if self.test_function is None or force:
            super().make_test_function(force)  # type: ignore[misc]
            self.test_function = self._over_ranks.agreed_steps(self.test_step, self.test_function)

    def get_metrics_result(self) -> Any:
        state = self._over_ranks
        if not tf.executing_eagerly() or state.in_step or not state.within_a_call:
            return super().get_metrics_result()  # type: ignore[misc]
        with summed_over_ranks(self.metrics, state.plain):
            return super().get_metrics_result()  # type: ignore[misc]

    def _get_metrics_result_or_logs(self, logs: Any) -> Any:
        found = super()._get_metrics_result_or_logs(logs)  # type: ignore[misc]
        return self._over_ranks.logs_of_step(found) if found is logs and isinstance(logs, dict) else found

    def train_step(self, data: Any) -> Any:
        state = self._over_ranks
        if not isinstance(data, RankBatch):
            raise UserError("train_on_batch trains on one rank's rows: call fit, or write a loop with ranks.shard")
        step = state.step
        assert step is not None
        STEP_MARKS.batch_arrived(data.data)
        kept = _kept(self) if state.may_fill else []
        with state.stepping(data.share), step.training(data.share), put_back(data.share, kept):
            logs = super().train_step(data.data)  # type: ignore[misc]
        if step.updates != 1:
            raise UserError(
                f"train_step of model {self.name} applied its optimizer {step.updates} times; it has to be applied "
                "once, by optimizer.apply_gradients or optimizer.apply, where the gradients of all ranks are combined"
            )
        rows = tf.where(data.share > 0, rows_of(data.data), 0)
        STEP_MARKS.step_ended(logs, rows, self.trainable_variables)
        return logs

    def test_step(self, data: Any) -> Any:
        state = self._over_ranks
        if not isinstance(data, RankBatch):
            raise UserError("test_on_batch counts in the metrics of one rank's rows: call evaluate")
        assert state.step is not None
        kept = _kept(self) if state.may_fill else []
        with state.stepping(data.share), state.step.counting(data.share), put_back(data.share, kept):
            return super().test_step(data.data)  # type: ignore[misc]

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        state = vars(self).get("_over_ranks")
        if state is None or not state.in_training or tf.executing_eagerly():
            return super().__call__(*arguments, **options)  # type: ignore[misc]
        with relu_behind_pooling(self):  # in the graph of a step; whoever looks at the layers sees them as they are
            return super().__call__(*arguments, **options)  # type: ignore[misc]

    @property
    def losses(self) -> list[Any]:
        found = super().losses  # type: ignore[misc]
        state = vars(self).get("_over_ranks")
        if state is None or state.step is None:
            return found
        return state.step.penalties.scaled(found, state.step.reductions)

    def save(self, *arguments: Any, **options: Any) -> None:
        with _writing(self, "save"):
            if self._over_ranks.ranks.is_root:
                super().save(*arguments, **options)  # type: ignore[misc]

    def save_weights(self, *arguments: Any, **options: Any) -> None:
        with _writing(self, "save_weights"):
            if self._over_ranks.ranks.is_root:
                super().save_weights(*arguments, **options)  # type: ignore[misc]

    def export(self, *arguments: Any, **options: Any) -> None:
        with _writing(self, "export"):
            if self._over_ranks.ranks.is_root:
                super().export(*arguments, **options)  # type: ignore[misc]

    def load_weights(self, *arguments: Any, **options: Any) -> None:
        state = self._over_ranks
        within = state.within_a_call
        division = state.division
        if division is not None:
            division.bring_whole()
            division.holds_state = False
            if within and not self.optimizer.built:
                self.optimizer.build(self.trainable_variables)
        if state.ranks.is_root or not within:  # other nodes need not see the file
            with warnings.catch_warnings():
                if division is not None and not state.ranks.is_root:  # rank 0 hands out the optimizer's state
                    warnings.filterwarnings("ignore", "Skipping variable loading for optimizer")
                super().load_weights(*arguments, **options)  # type: ignore[misc]
        if within:
            state.begin_alike()


@contextmanager
def _writing(model: Any, call: str) -> Iterator[None]:
    """Around what rank 0 writes: with weights that are divided all ranks have to be there."""
    state: State = model._over_ranks
    if state.division is None:
        yield
        return
    with state.calling(call):
        state.bring_state()
        yield


def _kept(model: Any) -> list[Any]:
    """What a step whose row only fills up leaves as it was: what moves without gradients by the rows of a batch,
    metrics included."""
    variables = [*model.non_trainable_variables, *model.metrics_variables]
    moved_alike = {id(variable) for variable in model._over_ranks.moved_alike}
    return [each for key, each in {id(each): each for each in variables}.items() if key not in moved_alike]


_CLASSES: dict[type, type] = {}


def _distributed_class(own: type) -> type:
    if own not in _CLASSES:
        names: Mapping[str, Any] = {
            "__module__": own.__module__,
            "__qualname__": own.__qualname__,
            "__doc__": own.__doc__,
            "_own_class": own,
        }
        kind = type(own)(own.__name__, (_DistributedModel, own), dict(names))
        keras_internals.written_as(kind, own)
        _CLASSES[own] = kind
    return _CLASSES[own]
