"""Weights and optimizer state divided over ranks while steps are computed, and whole again outside of them.

The model and its optimizer stay what they are, objects of their own. While steps are computed, layers that are divided
hold their rows only, and a second optimizer of the same settings keeps the state of the parts and updates them; both
count their steps and take their learning rate in the same place. Between steps the model gets its whole weights back,
so that callbacks, evaluation, prediction and files see an ordinary one. The optimizer's whole state is brought to rank
0 where a file is written, and at the end of `fit`.
"""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from horovod_flowers.fit.step import SharedStep
from horovod_flowers.model import keras_internals
from horovod_flowers.model.fused_optimizers import fused_form
from horovod_flowers.model.optimizer_class import Combining, Gradients, Update, remove_combining
from horovod_flowers.recording.step_marks import STEP_MARKS
from horovod_flowers.runtime.errors import UserError
from horovod_flowers.strategy.allreduce import OneRank
from horovod_flowers.strategy.layout import Part
from horovod_flowers.training.optimizer import Clipping

BY_ELEMENT = ("SGD", "Adam", "AdamW", "RMSprop", "Nadam", "Adagrad", "Adadelta", "Adamax", "Ftrl", "Lion")
"""Keras' optimizers whose update of an element looks at no other element of the weight: it may be divided."""


def check_can_divide(optimizer: Any, strategy: str) -> None:
    """Refuse an optimizer whose update looks at whole weights (UserError)."""
    own = next(kind for kind in type(optimizer).__mro__ if kind.__module__.partition(".")[0] != "horovod_flowers")
    own = getattr(type(optimizer), "_own_class", own)
    if any(own is getattr(keras.optimizers, name) for name in BY_ELEMENT):
        return
    raise UserError(
        f"optimizer {own.__name__} may look at whole weights, which strategy {strategy!r} divides over ranks: use one "
        f"of {', '.join(BY_ELEMENT)}, or strategy 'allreduce'"
    )


class Division:
    """Of one model with its optimizer."""

    def __init__(
        self,
        model: Any,
        strategy: OneRank,
        dense: Sequence[tuple[Any, Any]],
        trained: Sequence[Any],
        step: SharedStep,
    ) -> None:
        """Of a model that the strategy is attached to; `dense`: its Dense layers with the kernels that they had before,
        `trained`: the weights that it had."""
        self._model, self._strategy, self._trained, self._step = model, strategy, list(trained), step
        self._layers = [(layer, whole, type(layer)) for layer, whole in dense if layer.kernel is not whole]
        self._rows = {id(layer): layer.kernel for layer, _, _ in self._layers}
        self._names = {id(layer): strategy.exchange.call_name("whole_kernel") for layer, _, _ in self._layers}  # type: ignore[union-attr]
        for rows in [*self._rows.values(), *(layer.kernel for layer in step.layers)]:
            if rows.regularizer is not None:
                exchange = strategy.exchange
                assert exchange is not None
                rows.regularizer = _OverParts(rows.regularizer, exchange, exchange.call_name("penalty"))
        self.divided = True
        self._optimizer: Any = None
        self._slots: list[tuple[Any, Part]] = []
        self._of = model.optimizer
        self._places: list[int] = []
        self.holds_state = False
        """Whether the optimizer of the parts has state that the model's own optimizer has not."""

    def make_optimizer(self) -> None:
        """The optimizer of the parts, of the model's own one's settings, without state."""
        own, strategy = self._of, self._strategy
        remove_combining(own)
        fused = fused_form(own)
        bases = (_ClipsParts, type(own)) if fused is object else (_ClipsParts, fused, type(own))
        kind = type("OfParts", bases, {"_division": self})
        optimizer = keras_internals.copy_of_unbuilt(own, kind)
        keras_internals.share_counters(optimizer, own)
        keras_internals.exclude_alike(optimizer, strategy.optimizer_variables, own, self._trained)
        part_of = {
            id(variable): part for variable, part in zip(strategy.optimizer_variables, strategy.parts, strict=True)
        }
        add = optimizer.add_variable_from_reference
        slots = self._slots

        def recording(reference_variable: Any, *arguments: Any, **options: Any) -> Any:
            variable = add(reference_variable, *arguments, **options)
            slots.append((variable, part_of[id(reference_variable)]))
            return variable

        vars(optimizer)["add_variable_from_reference"] = recording
        optimizer.build(strategy.optimizer_variables)
        del vars(optimizer)["add_variable_from_reference"]
        self._optimizer = optimizer
        vars(own)["finalize_variable_values"] = self._finalize

    def update(self, gradients: Gradients, places: Sequence[int]) -> None:
        """Update the weights at these places, by combined gradients, and bring them to where the model reads them."""
        self._places = [place for place, gradient in zip(places, gradients, strict=True) if gradient is not None]
        self._optimizer.apply(list(gradients), [self._strategy.optimizer_variables[place] for place in places])
        STEP_MARKS.updated(self._strategy.optimizer_variables)
        if self._strategy.gathers_weights:
            self._strategy.gather_weights()
            STEP_MARKS.gathered(self._trained)

    def clipped(self, gradients: Sequence[tf.Tensor], clipping: Clipping) -> list[tf.Tensor]:
        """Combined gradients of parts, shortened by the norms of the whole ones."""
        strategy, places = self._strategy, self._places
        given = dict(zip(places, gradients, strict=True))
        everything = [
            given.get(place, tf.zeros(variable.shape, variable.dtype))
            for place, variable in enumerate(strategy.optimizer_variables)
        ]
        # As Keras' optimizers do with rows that come several times: the norm is that of the rows one by one, and what
        # is shortened by the norm of all gradients is added up before it is squared.
        values = [each.values if isinstance(each, tf.IndexedSlices) else each for each in everything]
        shortened = clipping.clip(values, strategy.squared_norms(values))
        for place, each in enumerate(everything):
            if isinstance(each, tf.IndexedSlices):
                rows = tf.IndexedSlices(shortened[place], each.indices, each.dense_shape)
                shortened[place] = tf.convert_to_tensor(rows) if clipping.together else rows
        return [shortened[place] for place in places]

    def divide(self) -> None:
        """Let layers hold their rows of the weights that the model has. Every rank calls it."""
        if self.divided:
            return
        for layer, whole, kind in self._layers:
            rows = self._rows[id(layer)]
            part = self._part_of(rows)
            rows.assign(self._own(part, np.asarray(whole)).reshape(rows.shape))
            keras_internals.swap_kernel(layer, rows)
            layer.__class__ = kind
        for variable, full, part in zip(
            self._strategy.optimizer_variables, self._trained, self._strategy.parts, strict=True
        ):
            if part.slices is not None and id(variable) not in {id(rows) for rows in self._rows.values()}:
                variable.assign(self._own(part, np.asarray(full)).reshape(variable.shape))
        self.divided = True

    def bring_whole(self) -> None:
        """Give the model its whole weights back. Every rank calls it."""
        if not self.divided:
            return
        exchange = self._strategy.exchange
        for layer, whole, _ in self._layers:
            assert exchange is not None
            rows = tf.convert_to_tensor(self._rows[id(layer)].value)
            whole.assign(exchange.gather(rows, self._names[id(layer)]))
            keras_internals.swap_kernel(layer, whole)
            layer.__class__ = keras.layers.Dense
        self.divided = False

    def _part_of(self, variable: Any) -> Part:
        place = next(k for k, each in enumerate(self._strategy.optimizer_variables) if each is variable)
        return self._strategy.parts[place]

    def _own(self, part: Part, whole: np.ndarray) -> np.ndarray:
        """This rank's slice of a whole weight, flat."""
        assert part.slices is not None
        own = part.slices[self._strategy.groups.members.rank]
        return whole.reshape(-1)[own.start : own.start + own.size]

    def collect_state(self) -> None:
        """Bring the optimizer's whole state to rank 0, into the model's own optimizer. Every rank calls it."""
        if not self.holds_state:
            return
        groups, own = self._strategy.groups, self._of
        if groups.at_root and not own.built:
            own.build(self._trained)
        wholes = iter(_slots_of(own)) if groups.at_root else iter(())
        for variable, part in self._slots:
            value = np.asarray(variable)
            whole = np.empty(part.shape, value.dtype) if groups.at_root else None
            groups.collect(part, value, whole)
            if whole is not None:
                next(wholes).assign(whole)
        own_others, others = self._others(own), self._others(self._optimizer)
        for target, source in zip(own_others, others, strict=True) if groups.at_root else ():
            target.assign(source)

    def hand_out_state(self) -> None:
        """Give every rank its parts of the state that rank 0's own optimizer of the model has. Every rank calls it."""
        groups, own = self._strategy.groups, self._of
        if not groups.world.broadcast(own.built):
            return
        wholes = iter(_slots_of(own)) if groups.at_root else iter(())
        for variable, part in self._slots:
            whole = np.asarray(next(wholes)) if groups.at_root else None
            variable.assign(groups.hand_out(part, whole, np.dtype(variable.dtype)).reshape(variable.shape))
        values = groups.world.broadcast([np.asarray(each) for each in self._others(own)] if groups.at_root else None)
        for variable, value in zip(self._others(self._optimizer), values, strict=True):
            variable.assign(value)

    def _others(self, optimizer: Any) -> list[Any]:
        """Variables of an optimizer that belong to no weight, but for those that are shared."""
        shared = {id(variable) for variable in self._of.variables if variable is self._of._iterations}
        slots = {id(variable) for variable in _slots_of(optimizer)}
        learning_rate = self._of._learning_rate
        return [
            variable
            for variable in optimizer.variables
            if id(variable) not in slots and id(variable) not in shared and variable is not learning_rate
        ]

    def _finalize(self, variables: Any) -> None:
        """At the end of fit: the averages of the weights in their place, where the optimizer keeps some."""
        if self._of.use_ema:
            self.divide()
            self._optimizer.finalize_variable_values(self._strategy.optimizer_variables)
            with self._step.taken_over():
                self._strategy.gather_weights()
            self.bring_whole()

    def end(self) -> None:
        """Leave the model and its optimizer as they were before, with whole weights. Every rank calls it."""
        self.bring_whole()
        vars(self._of).pop("finalize_variable_values", None)


def _slots_of(optimizer: Any) -> list[Any]:
    """The variables that a built optimizer keeps for weights, in the order in which it made them."""
    counters = keras_internals.counters_of(optimizer)
    return [variable for variable in optimizer.variables if id(variable) not in counters]


class OverDividedRanks(Combining):
    """Around the updates of a distributed model's optimizer: the one of the parts updates in its place."""

    def __init__(self, step: SharedStep, division: Division) -> None:
        self._step, self._division = step, division

    def apply(self, optimizer: Any, gradients: Gradients, variables: Sequence[Any], update: Update) -> None:
        """Combine the gradients, and update this rank's parts with them."""
        places = [self._step.place_of(variable) for variable in variables]
        self._division.update(self._step.combined(gradients, places), places)


class _ClipsParts:
    """Before the class of an optimizer of parts."""

    _division: Division
    clipnorm: float | None
    global_clipnorm: float | None

    def _clip_gradients(self, grads: Any) -> Any:
        norm = self.clipnorm or self.global_clipnorm
        if norm and norm > 0:
            return self._division.clipped(grads, Clipping(norm, together=not self.clipnorm))
        return super()._clip_gradients(grads)  # type: ignore[misc]


class _OverParts(keras.regularizers.Regularizer):
    """A regularizer of a divided kernel: its value is that of the whole one, its gradient that of this rank's rows."""

    def __init__(self, regularizer: Any, exchange: Any, name: str) -> None:
        self._regularizer, self._exchange, self._name = regularizer, exchange, name

    def __call__(self, rows: Any) -> Any:
        own = self._regularizer(rows)
        return own + tf.stop_gradient(self._exchange.sum(own, self._name) - own)
