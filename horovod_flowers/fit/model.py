"""A Keras model that all ranks train together.

Its class becomes a subclass of its own, made at run time, with the same name: what it overrides begins with all ranks
and goes on in Keras' code, or the user's. Files name the class that the user chose.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import keras
import tensorflow as tf

from horovod_flowers.config.choices import DIVIDING
from horovod_flowers.config.run import RunConfig
from horovod_flowers.fit.agreed_steps import AgreedSteps
from horovod_flowers.fit.agreement import average_where_different, begin_alike, check_same_model, check_same_weights
from horovod_flowers.fit.division import Division, OverDividedRanks, check_can_divide
from horovod_flowers.fit.fitting import evaluating, fitting, in_order, predicting
from horovod_flowers.fit.global_batches import BatchIterator, GlobalBatches
from horovod_flowers.fit.metrics import MetricsOverRanks, logs_over_ranks, summed_over_ranks
from horovod_flowers.fit.penalties import SharedPenalties
from horovod_flowers.fit.reductions import Reductions, kinds_of_losses
from horovod_flowers.fit.refusals import check_asked, check_can_train
from horovod_flowers.fit.step import OverRanks, RankBatch, SharedStep, put_back
from horovod_flowers.model import keras_internals
from horovod_flowers.model.optimizer_class import combine_in_place, remove_combining
from horovod_flowers.ranks.communicator import Ranks
from horovod_flowers.runtime.errors import UserError
from horovod_flowers.runtime.exit import error_boundary
from horovod_flowers.runtime.heartbeat import HEARTBEAT
from horovod_flowers.strategy.choice import strategy_for
from horovod_flowers.strategy.wide_dense import all_dense_layers

if TYPE_CHECKING:
    from horovod_flowers.fit.start import ScriptRanks

StrategyChoice: TypeAlias = Literal["allreduce", "sharded", "tensor", "mesh", "auto", "none"]


@dataclass(frozen=True)
class Options:
    """Further arguments of `distribute`."""

    shard_above: int = RunConfig().shard_above
    """Dense layers of at least so many weights count as large (tensor, mesh)."""
    shard_layers: str | None = None
    """Names of the Dense layers that tensor and mesh divide, with commas between them; None: all large ones."""
    model_parallel_size: int | None = None
    """Ranks that share one copy of the divided layers (mesh), a divisor of all; None: those of a node."""
    compression: Literal["none", "fp16"] = "none"
    """Number format in which gradients travel (allreduce)."""


def distribute(model: Any, ranks: "ScriptRanks", strategy: StrategyChoice = "allreduce", **options: Any) -> Any:
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
        check_can_train(model, ranks.size)
    except UserError as found:
        error = found
    ranks.answer(f"distribute(strategy={strategy!r})")
    ranks.plain.raise_on_all(error)
    vars(model)["_over_ranks"] = _State(model, ranks, strategy, Options(**options))
    if ranks.size > 1:
        model.__class__ = _distributed_class(type(model))
        model.train_function = model.test_function = model.predict_function = None
    return model


def _state_of(model: Any) -> "_State | None":
    return vars(model).get("_over_ranks")


class _State:
    """What a distributed model knows of its ranks."""

    def __init__(self, model: Any, ranks: "ScriptRanks", strategy: str, options: Options) -> None:
        self.model, self.ranks, self.name, self.options = model, ranks, strategy, options
        self.step: SharedStep | None = None
        self.division: Division | None = None
        self.may_fill = False
        self.in_step = False
        self.metrics = MetricsOverRanks(model, ranks.plain)
        self._pass: BatchIterator | None = None
        """Over the data, of the last step."""
        self._calls = 0
        self._prepared: list[Any] = []
        self._moved = False
        """Whether weights have moved without gradients since they were averaged."""

    @property
    def plain(self) -> Ranks:
        """All ranks, by MPI."""
        return self.ranks.plain

    @property
    def within_a_call(self) -> bool:
        """Whether this is in the middle of a call that all ranks make, such as fit."""
        return self._calls > 0

    @property
    def one_model(self) -> bool:
        """Whether all ranks train one model."""
        return self.name != "none"

    @contextmanager
    def calling(self, call: str) -> Iterator[None]:
        """A call of the model that all ranks make: an error in it ends the job, since others may wait for this rank.

        A UserError is raised in the script: every rank finds the same mistake, and where none catches it the job ends
        with its sentence.
        """
        self.ranks.answer(f"{call} of model {self.model.name}")
        self._calls += 1
        HEARTBEAT.at(f"{call} of model {self.model.name}", long=True)
        mistake: UserError | None = None
        try:
            with error_boundary(call):
                try:
                    yield
                except UserError as error:
                    mistake = error
        finally:
            self._calls -= 1
            if not self._calls:
                from horovod_flowers.fit.start import SCRIPT

                HEARTBEAT.leave(SCRIPT)
        if mistake is not None:
            raise mistake

    def begin_call(self, batches: GlobalBatches, testing: GlobalBatches | None = None) -> None:
        """Have all ranks begin a call of fit, evaluate or predict alike. Every rank calls it."""
        self.may_fill = self.may_fill or batches.may_fill or (testing is not None and testing.may_fill)
        self.prepare(batches)

    def begin_prediction(self, batches: GlobalBatches) -> None:
        """As `begin_call`, of a model that need not be trained, and of data that may have no targets."""
        self._on_all(lambda: _build(self.model, batches.first))
        if not self._is_prepared():
            check_same_model(self.model, self.plain)
        self.begin_alike()

    @contextmanager
    def stepping(self, share: Any) -> Iterator[None]:
        """While a step is traced, or computed eagerly: metrics are this rank's."""
        before, self.in_step = self.in_step, True
        try:
            with self.metrics.in_step(share):
                yield
        finally:
            self.in_step = before

    def agreed_steps(self, step: Any, as_keras: Any) -> Any:
        """What Keras calls for its steps, given a method of the model and what Keras has made of it."""
        return AgreedSteps(self.model, step, as_keras, self._fills, self._computed)

    def _fills(self, fills: bool) -> bool:
        self.may_fill = self.may_fill or fills
        return self.may_fill

    def _computed(self, iterator: BatchIterator) -> None:
        """Steps were computed of these batches."""
        self._pass = iterator
        self.metrics.refuse_what_cannot_be_added_up()

    def logs_of_step(self, logs: Any) -> Any:
        """Logs of the last step that are no results of metrics, over all ranks."""
        if self._pass is None:
            return logs
        return logs_over_ranks(self.model, logs, float(self._pass.last_share), self.plain)

    def prepare(self, batches: GlobalBatches) -> None:
        """Have all ranks begin this call alike. Every rank calls it, with its first batch of it."""
        ranks = self.plain
        self._on_all(lambda: _build(self.model, batches.first))
        if not self._is_prepared():
            if self.division is not None:
                self.division.end()
                self.division = None
            self._on_all(lambda: check_can_train(self.model, ranks.size))
            check_same_model(self.model, ranks)
            self._on_all(lambda: self._take_over(batches))
            self._prepared = [self.model.optimizer, *self.model.trainable_variables]
        self.begin_alike()

    def _is_prepared(self) -> bool:
        now = [self.model.optimizer, *self.model.trainable_variables]
        return len(now) == len(self._prepared) and all(
            own is other for own, other in zip(now, self._prepared, strict=True)
        )

    def begin_alike(self) -> None:
        """Give all ranks what rank 0 has. Every rank calls it."""
        if not self.one_model:
            return
        division = self.division
        begin_alike(self.model, self.plain, with_state=division is None)
        if division is not None and not division.holds_state:
            division.hand_out_state()
            division.holds_state = True

    def _take_over(self, batches: GlobalBatches) -> None:
        """Strategy, losses, penalties and optimizer of a built model."""
        model, size = self.model, self.ranks.size if self.one_model else 1
        ranks = self.plain if self.name == "none" else self.ranks.with_horovod(self.options.model_parallel_size)
        config = RunConfig(
            shard_above=self.options.shard_above,
            shard_layers=self.options.shard_layers,
            compression=self.options.compression,
            dense_gradients="reduced",
        )
        x, y, _ = keras.utils.unpack_x_y_sample_weight(batches.first.data)
        rows = int(batches.rows)
        specs = keras.tree.map_structure(lambda each: tf.TensorSpec((rows, *each.shape[1:]), each.dtype), x)
        if self.name == "auto":
            raise UserError("strategy 'auto' is not there yet for fit: use allreduce, sharded, tensor or mesh")
        if self.name in ("sharded", *DIVIDING):
            check_can_divide(model.optimizer, self.name)
        strategy = strategy_for(self.name, config, ranks, "fp32", model, specs, rows)
        self._find_kinds(x, y, size)
        trained = list(model.trainable_variables)
        dense = [(layer, layer.kernel) for layer in all_dense_layers(model)]
        remove_combining(model.optimizer)
        strategy.attach(model)
        step = self.step = SharedStep(size, strategy, trained, *self._kinds)
        if any(part.slices is not None for part in strategy.parts):
            division = self.division = Division(model, strategy, dense, trained)
            division.make_optimizer()
            division.bring_whole()
            combine_in_place(model.optimizer, lambda: OverDividedRanks(step, division))
        else:
            combine_in_place(model.optimizer, lambda: OverRanks(step))
        model.train_function = model.test_function = None

    def _find_kinds(self, x: Any, y: Any, size: int) -> None:
        """What losses and penalties are to rows of a batch; rank 0's findings count."""
        model, agree = self.model, self.plain.broadcast
        self.step = None  # of an earlier optimizer: not while penalties are tried out
        penalties, reductions = SharedPenalties(model, x, size, agree), Reductions(size)
        self._kinds = (reductions, penalties)
        if y is None or size == 1 or _computes_own_loss(model):
            return
        outputs = model(x, training=False) if model._call_has_training_arg else model(x)
        model.compute_loss(x, y, outputs, None)  # builds the losses
        kinds = agree(kinds_of_losses(model, y, outputs, size))
        losses = keras_internals.losses_of_outputs(model)
        reductions.kinds = {id(loss): kind for (_, loss), kind in zip(losses, kinds, strict=True)}

    def _on_all(self, do: Any) -> None:
        """Raise on all ranks what one raises."""
        error = None
        try:
            do()
        except UserError as found:
            error = found
        self.plain.raise_on_all(error)

    def steps_end(self) -> None:
        """After an epoch's steps: what moves without gradients is averaged. Every rank calls it."""
        if self.division is not None:
            self.division.bring_whole()
        if self._moved and self.one_model:
            average_where_different(self.model, self.plain)
            check_same_weights(self.model, self.plain)
        self._moved = False

    def step_begins(self) -> None:
        """Before a training step. Every rank calls it."""
        if self.division is not None:
            self.division.divide()
        self._moved = True

    def bring_state(self) -> None:
        """Bring what rank 0 writes to files there. Every rank calls it where weights are divided."""
        if self.division is not None:
            self.division.bring_whole()
            self.division.collect_state()


def _computes_own_loss(model: Any) -> bool:
    """Whether the user's class computes the loss itself."""
    names = ("train_step", "compute_loss", "_compute_loss")
    own = next(kind for kind in type(model).__mro__ if not issubclass(kind, _DistributedModel))
    return any(getattr(own, name) is not getattr(keras.Model, name) for name in names)


def _build(model: Any, first: RankBatch) -> None:
    if model.built:
        return
    x, _, _ = keras.utils.unpack_x_y_sample_weight(first.data)
    try:
        model(x, training=False) if model._call_has_training_arg else model(x)
    except NotImplementedError as error:
        raise UserError(
            f"model {model.name} has no call of its own, so that its weights cannot be made before training: write one, "
            "or build the layers in it before distribute"
        ) from error


class _Epochs(keras.callbacks.Callback):
    """Before all other callbacks: what all ranks do at the end of an epoch, and where this one stands."""

    def __init__(self, state: _State) -> None:
        super().__init__()
        self._state, self._first, self._epoch = state, True, 0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._epoch = epoch + 1
        HEARTBEAT.at("the beginning of epoch {}", self._epoch)

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self._state.step_begins()
        HEARTBEAT.at("epoch {}, step {}", self._epoch, batch, long=self._first)
        HEARTBEAT.wait_begins()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self._first = False
        HEARTBEAT.at("callbacks after epoch {}, step {}", self._epoch, batch)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self._state.steps_end()
        HEARTBEAT.at("callbacks after epoch {}", self._epoch, long=True)


class _DistributedModel:
    """Before the user's class in the order of classes. Docstrings are Keras'."""

    _over_ranks: _State
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
        with state.calling("fit"), fitting(given, [_Epochs(state)], state.plain) as (arguments, training, testing):
            state.begin_call(training, testing)
            history = super().fit(**arguments)  # type: ignore[misc]
            state.bring_state()
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
        kept = _kept(self) if state.may_fill else []
        with state.stepping(data.share), step.training(data.share), put_back(data.share, kept):
            logs = super().train_step(data.data)  # type: ignore[misc]
        if step.updates != 1:
            raise UserError(
                f"train_step of model {self.name} applied its optimizer {step.updates} times; it has to be applied once, "
                "by optimizer.apply_gradients or optimizer.apply, so that the gradients of all ranks are combined there"
            )
        return logs

    def test_step(self, data: Any) -> Any:
        state = self._over_ranks
        if not isinstance(data, RankBatch):
            return super().test_step(data)  # type: ignore[misc]
        assert state.step is not None
        kept = _kept(self) if state.may_fill else []
        with state.stepping(data.share), state.step.counting(data.share), put_back(data.share, kept):
            return super().test_step(data.data)  # type: ignore[misc]

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
            super().load_weights(*arguments, **options)  # type: ignore[misc]
        if within:
            state.begin_alike()


@contextmanager
def _writing(model: Any, call: str) -> Iterator[None]:
    """Around what rank 0 writes: with weights that are divided all ranks have to be there."""
    state: _State = model._over_ranks
    if state.division is None:
        yield
        return
    with state.calling(call):
        state.bring_state()
        yield


def _kept(model: Any) -> list[Any]:
    """What a step whose row only fills up leaves as it was: all that moves without gradients, metrics included."""
    variables = [*model.non_trainable_variables, *model.metrics_variables]
    return list({id(variable): variable for variable in variables}.values())


_CLASSES: dict[type, type] = {}


def _distributed_class(own: type) -> type:
    if own not in _CLASSES:
        names: Mapping[str, Any] = {
            "__module__": own.__module__,
            "__qualname__": own.__qualname__,
            "__doc__": own.__doc__,
        }
        kind = type(own)(own.__name__, (_DistributedModel, own), dict(names))
        keras_internals.written_as(kind, own)
        _CLASSES[own] = kind
    return _CLASSES[own]
