"""What a distributed model knows of its ranks, and what they do before and after its steps."""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from horovod_flowers.config.choices import DIVIDING
from horovod_flowers.fit.agreed_steps import AgreedSteps
from horovod_flowers.fit.agreement import (
    average_where_different,
    begin_alike,
    broadcast_values,
    check_same_model,
    check_same_weights,
    end_alike,
)
from horovod_flowers.fit.dense_gradients import why_not_in_step
from horovod_flowers.fit.division import Division, OverDividedRanks, check_can_divide
from horovod_flowers.fit.global_batches import BatchIterator, GlobalBatches
from horovod_flowers.fit.metrics import MetricsOverRanks, logs_over_ranks
from horovod_flowers.fit.options import Options, as_arguments
from horovod_flowers.fit.own_step import check_own_step
from horovod_flowers.fit.penalties import SharedPenalties, places_moved_alike
from horovod_flowers.fit.reductions import Kind, Reductions, kinds_of_losses
from horovod_flowers.fit.refusals import check_can_train
from horovod_flowers.fit.script import SCRIPT, Script
from horovod_flowers.fit.step import OverRanks, RankBatch, SharedStep
from horovod_flowers.model import keras_internals
from horovod_flowers.model.fused_optimizers import fused_form
from horovod_flowers.model.keras_internals import all_layers
from horovod_flowers.model.optimizer_class import combine_in_place, remove_combining
from horovod_flowers.ranks.communicator import Ranks
from horovod_flowers.recording.of_fit import precision_of
from horovod_flowers.runlog.environment import Parallelism
from horovod_flowers.runlog.records import Trial
from horovod_flowers.runtime.errors import AgreedError, UserError
from horovod_flowers.runtime.exit import error_boundary
from horovod_flowers.runtime.heartbeat import HEARTBEAT
from horovod_flowers.strategy.allreduce import OneRank
from horovod_flowers.strategy.choice import strategy_for
from horovod_flowers.strategy.trial import TIMED_STEPS, WARMUP_STEPS, candidates, fastest
from horovod_flowers.strategy.wide_dense import FactorDense, GatheredDense, TakenOver, all_dense_layers


class State:
    """What a distributed model knows of its ranks."""

    def __init__(self, model: Any, ranks: Script, strategy: str, options: Options) -> None:
        self.model, self.ranks, self.name, self.options = model, ranks, strategy, options
        self.step: SharedStep | None = None
        self.division: Division | None = None
        self.strategy: OneRank | None = None
        self.trials: list[Trial] = []
        """Of strategies, where 'auto' has chosen this one."""
        self._rows = 0
        self._reasons: dict[int, str | None] = {}
        """Why a step of this model cannot take gradients of all ranks from a Dense layer, by the layer's identity."""
        self.moved_alike: list[Any] = []
        """What training moves without gradients whatever the rows of a batch are, such as seeds."""
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
    def in_training(self) -> bool:
        """Whether a training step is traced, or computed eagerly."""
        return self.step is not None and self.step.share is not None

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
        mistake: UserError | None = None
        self.ranks.answer(call)  # without its name, which may count models that some ranks have made
        self._calls += 1
        HEARTBEAT.at(f"{call} of model {self.model.name}", long=True)
        try:
            with error_boundary(call):
                try:
                    yield
                except UserError as error:
                    mistake = error
                except SystemExit:
                    self.ranks.left = call
                    raise
            if mistake is not None:
                if self.division is not None and isinstance(mistake, AgreedError):
                    self.division.bring_whole()
                raise mistake
        finally:
            self._calls -= 1
            if not self._calls:
                self._pass = None
                HEARTBEAT.leave(SCRIPT)

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
            self._leave()
            self._on_all(lambda: check_can_train(self.model, ranks.size))
            check_same_model(self.model, ranks)
            if self.one_model:  # before any rank keeps parts of its own
                broadcast_values(self.model.weights, ranks)
            try:
                self._take_over(batches)
            except UserError as error:  # of the model and the options, which are the same everywhere
                raise AgreedError(as_arguments(str(error))) from error
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
        equal = self.options.names_of_equal_seeds
        begin_alike(self.model, self.plain, with_state=division is None, equal_seeds=equal)
        if division is not None and not division.holds_state:
            division.hand_out_state()
            division.holds_state = True

    def _take_over(self, batches: GlobalBatches) -> None:
        """Strategy, losses, penalties and optimizer of a built model, the same on every rank. Every rank calls it."""
        self._rows = int(self.plain.allreduce_max(batches.rows))  # ranks have to choose alike by it
        self._reasons = {}
        kinds = self._find_kinds(batches.first.data, self.ranks.size if self.one_model else 1)
        moved_alike = self.moved_alike
        chosen = self.name
        if self.name == "auto":
            self.trials = self._try_out(batches.first, kinds)
            chosen = fastest(self.trials)
        self.moved_alike = moved_alike
        self._adopt(chosen, batches.first, kinds)

    def _adopt(self, name: str, first: RankBatch, kinds: tuple[Reductions, SharedPenalties]) -> None:
        """Have a strategy divide the work. Raises UserError where it cannot."""
        model, size = self.model, self.ranks.size if self.one_model else 1
        ranks = self.plain if name == "none" else self.ranks.with_horovod(self.options.model_parallel_size)
        config = self.options.of_run(self.name)
        x, _, _ = keras.utils.unpack_x_y_sample_weight(first.data)
        specs = keras.tree.map_structure(lambda each: tf.TensorSpec((self._rows, *each.shape[1:]), each.dtype), x)
        if name in ("sharded", *DIVIDING):
            check_can_divide(model.optimizer, name)
        why_not = partial(self._why_not_in_step, first)
        strategy = self.strategy = strategy_for(
            name, config, ranks, "fp32", model, specs, self._rows, why_not_in_step=why_not
        )
        trained = list(model.trainable_variables)
        dense = [(layer, layer.kernel) for layer in all_dense_layers(model)]
        remove_combining(model.optimizer)
        strategy.attach(model)
        if strategy.statistics is not None:  # of all ranks' rows
            of_all = [each for layer in strategy.statistics.layers for each in layer.non_trainable_variables]
            self.moved_alike = [*self.moved_alike, *of_all]
        layers = [TakenOver(layer, whole) for layer, whole in dense if isinstance(layer, FactorDense | GatheredDense)]
        step = self.step = SharedStep(size, strategy, trained, layers, *kinds)
        if any(part.slices is not None for part in strategy.parts):
            division = self.division = Division(model, strategy, dense, trained, step)
            division.make_optimizer()
            division.bring_whole()
            combine_in_place(model.optimizer, lambda: OverDividedRanks(step, division))
        else:
            combine_in_place(model.optimizer, lambda: OverRanks(step), fused_form(model.optimizer))
        model.train_function = model.test_function = None

    def _why_not_in_step(self, first: RankBatch, layers: Sequence[Any]) -> Mapping[int, str]:
        """As `strategy.choice.WhyNotInStep`, the same on every rank. Every rank calls it."""
        unknown = [layer for layer in layers if id(layer) not in self._reasons]
        if unknown:
            own = why_not_in_step(self.model, first.data, unknown)
            everybodys = self.plain.allgather([own.get(id(layer)) for layer in unknown])
            for layer, reasons in zip(unknown, zip(*everybodys, strict=True), strict=True):
                self._reasons[id(layer)] = next((each for each in reasons if each is not None), None)
        found = {id(layer): self._reasons[id(layer)] for layer in layers}
        return {key: reason for key, reason in found.items() if reason is not None}

    def _leave(self) -> None:
        """Take the work back from a strategy. Every rank calls it."""
        if self.division is not None:
            self.division.end()
            self.division = None
        self.step = None

    def _try_out(self, first: RankBatch, kinds: tuple[Reductions, SharedPenalties]) -> list[Trial]:
        """Time some steps of each strategy that fits, on the first batch; they leave no trace in the model."""
        model, optimizer = self.model, self.model.optimizer
        held = [(variable, np.array(variable)) for variable in model.variables]
        ranks = self.ranks.with_horovod(self.options.model_parallel_size)
        moved_alike, trials, refusal = self.moved_alike, [], None
        for name in candidates(ranks.size, ranks.model_parallel_size):
            HEARTBEAT.at(f"the trial of strategy {name}", long=True)
            model.optimizer = keras_internals.copy_of_unbuilt(optimizer)
            self.moved_alike = moved_alike
            try:
                self._adopt(name, first, kinds)
                seconds = self._time_steps(first, WARMUP_STEPS + TIMED_STEPS)[WARMUP_STEPS:]
                median = statistics.median(seconds)
                trials.append(Trial(strategy=name, steps=TIMED_STEPS, median_step_seconds=median))
            except UserError as error:  # the same on every rank: there is nothing to divide
                refusal = error
            finally:
                self._leave()
                model.optimizer = optimizer
                for variable, value in held:
                    variable.assign(value)
        if not trials and refusal is not None:
            raise refusal
        return trials

    def _time_steps(self, first: RankBatch, steps: int) -> list[float]:
        """Seconds of the slowest rank, in each of some steps. Every rank calls it."""
        if self.division is not None:
            self.division.divide()
        compute = self.model.train_step
        if not self.model.run_eagerly:
            compute = tf.function(compute, autograph=False)
        seconds = []
        for _ in range(steps):
            self.plain.allreduce_sum(np.zeros(1))  # the ranks begin together
            started = time.monotonic()
            for each in tf.nest.flatten(compute(first)):
                np.asarray(each)  # waits for it
            seconds.append(self.plain.allreduce_max(time.monotonic() - started))
        return seconds

    def _find_kinds(self, data: Any, size: int) -> tuple[Reductions, SharedPenalties]:
        """What losses and penalties are to rows of a batch; rank 0's findings count. Every rank calls it."""
        model, reductions = self.model, Reductions(size)
        x, y, _ = keras.utils.unpack_x_y_sample_weight(data)
        self.step = None  # of an earlier optimizer: not while penalties are tried out
        if size == 1:
            return reductions, SharedPenalties()

        def of_losses() -> list[Kind]:
            if computes_own_loss(model):
                check_own_step(model, data)
                return []
            if y is None:
                return []
            held = [(variable, np.array(variable)) for variable in model.non_trainable_variables]
            outputs = _called(model, x)
            for variable, value in held:  # layers may draw random numbers outside of training, too
                variable.assign(value)
            model.compute_loss(x, y, outputs, None)  # builds the losses
            return kinds_of_losses(model, y, outputs, size)

        # Ranks have other rows, and may find something else: each looks before all are told.
        own = self._on_all(lambda: (SharedPenalties.of(model, x), places_moved_alike(model, x), of_losses()))
        penalties, places, kinds = self.plain.broadcast(own)
        self.moved_alike = [model.non_trainable_variables[place] for place in places]
        losses = keras_internals.losses_of_outputs(model)
        reductions.kinds = {id(loss): kind for (_, loss), kind in zip(losses, kinds, strict=False)}
        return reductions, penalties

    def _on_all(self, do: Callable[[], Any]) -> Any:
        """What a call gives; a UserError of any rank is raised on all. It makes no collective call."""
        found, error = None, None
        try:
            found = do()
        except UserError as raised:
            error = raised
        self.plain.raise_on_all(error)
        return found

    def parallelism(self) -> Parallelism:
        """How the work of a step is divided, for the run log."""
        strategy = self.strategy
        assert strategy is not None
        notes = [*strategy.notes, *(self.step.penalties.notes if self.step is not None else ())]
        sparse = any(isinstance(layer, keras.layers.Embedding) and layer.trainable for layer in all_layers(self.model))
        volume = None if sparse and strategy.groups.world.size > 1 else strategy.communication_volume(self._rows)
        return Parallelism(strategy.name, notes, self.trials, precision_of(self.model), volume)

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

    def end_fit(self) -> None:
        """After a fit: all ranks have the same whole weights, and rank 0 what it writes. Every rank calls it."""
        self.bring_state()
        if self.one_model:
            end_alike(self.model, self.plain)

    def bring_state(self) -> None:
        """Bring what rank 0 writes to files there. Every rank calls it where weights are divided."""
        if self.division is not None:
            self.division.bring_whole()
            self.division.collect_state()


def computes_own_loss(model: Any) -> bool:
    """Whether the user's class computes the loss itself."""
    names = ("train_step", "compute_loss", "_compute_loss")
    own = getattr(type(model), "_own_class", type(model))
    return any(getattr(own, name) is not getattr(keras.Model, name) for name in names)


def _called(model: Any, x: Any) -> Any:
    """A model's outputs as in evaluation."""
    return model(x, training=False) if model._call_has_training_arg else model(x)


def _build(model: Any, first: RankBatch) -> None:
    if model.built:
        return
    x, _, _ = keras.utils.unpack_x_y_sample_weight(first.data)
    specs = keras.tree.map_structure(lambda rows: tf.TensorSpec((None, *rows.shape[1:]), rows.dtype), x)
    try:  # traced as Keras does, for batches of any number of rows
        tf.function(lambda rows: _called(model, rows), autograph=False).get_concrete_function(specs)
    except NotImplementedError as error:
        raise UserError(
            f"model {model.name} has no call of its own, so that its weights cannot be made before training: write "
            "one, or build the layers in it before distribute"
        ) from error
