"""A Keras optimizer whose updates begin with something else: gradients combined over ranks.

The optimizer gets another class, made at run time: a subclass of its own, with the same name. Every other thing about
it stays: clipping, averages, weight decay, schedules and accumulation act on the combined gradients, and models,
configurations and checkpoints name the class that the user chose, so they load with and without this package.

    class Mean(Combining):
        def apply(self, optimizer, gradients, variables, update):
            update([mean_over_ranks(gradient) for gradient in gradients], variables)

    combine_in_place(model.optimizer, Mean)

Loss scaling: the gradients that a LossScaleOptimizer is given are combined before it looks for infinite ones, so all
ranks find the same. Where one is put around an optimizer that combines (as `compile` does by itself for mixed_float16),
it takes over the combining.
"""

import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, TypeVar

import keras

from horovod_flowers.model import keras_internals
from horovod_flowers.runtime.errors import UserError

Gradients: TypeAlias = Sequence[Any]
"""One for each variable: a tf.Tensor, a tf.IndexedSlices, or None where the loss does not depend on it."""
Update: TypeAlias = Callable[[Gradients, Sequence[Any]], None]
"""The user's optimizer: gradients and as many variables, which it is built for at its first call."""

OptimizerT = TypeVar("OptimizerT", bound=keras.optimizers.Optimizer)


class Combining(ABC):
    """What an optimizer does around its update. One object for each optimizer; it may keep state."""

    @abstractmethod
    def apply(self, optimizer: Any, gradients: Gradients, variables: Sequence[Any], update: Update) -> None:
        """Combine gradients and call `update`, at most once. Called wherever `apply` or `apply_gradients` of the
        optimizer is, with what that was given, mostly inside of a tf.function.

        variables: as given, Keras variables or tf.Variables; those that the optimizer was built for where none were.
        Both the gradients and the variables that are handed on may be others than those given.
        """

    def all_finite(self, finite: Any) -> Any:
        """Whether all gradients are finite (scalar bool tensor), given whether this rank's combined ones are.

        Asked by a LossScaleOptimizer before each update. Ranks have to agree, else some of them skip an update.
        """
        return finite


def combine_in_place(optimizer: Any, make: Callable[[], Combining], methods: type = object) -> None:
    """Give this optimizer, built or not, a Combining; its variables stay.

    methods: a class with attributes of its own for the optimizer, and for one in it whose loss it scales.
    Raises UserError where it has one already, or is no optimizer of Keras 3.
    """
    check_can_combine(optimizer)
    vars(optimizer)["_given_make"] = make  # not tracked by Keras, as in _keep
    optimizer.__class__ = _combining_class(type(optimizer), _held_by(optimizer, make), methods)


def combining_copy(optimizer: OptimizerT, make: Callable[[], Combining], methods: type = object) -> OptimizerT:
    """A new optimizer with the same settings and state, and with a Combining. The given one stays as it is.

    methods: as of `combine_in_place`.
    Raises UserError where it has one already, or is no optimizer of Keras 3.
    """
    check_can_combine(optimizer)
    kind = _combining_class(type(optimizer), make, methods)
    copy: OptimizerT = keras_internals.copy_of_optimizer(optimizer, kind)
    return copy


def combining_of(optimizer: Any) -> Combining | None:
    """What the optimizer does around its updates; of a LossScaleOptimizer also if the optimizer in it does that."""
    if isinstance(optimizer, _CombiningOptimizer):
        return optimizer._combining
    inner = getattr(optimizer, "inner_optimizer", None)
    return None if inner is None else combining_of(inner)


def check_can_combine(optimizer: Any) -> None:
    """Refuse what is no optimizer of Keras 3, and an optimizer that combines gradients already (UserError)."""
    if not isinstance(optimizer, keras.optimizers.Optimizer):
        raise UserError(
            f"{type(optimizer).__module__}.{type(optimizer).__name__} is no optimizer of Keras 3: give one of "
            "keras.optimizers, or a subclass of keras.optimizers.Optimizer"
        )
    if combining_of(optimizer) is not None:
        raise UserError(
            f"this optimizer ({type(optimizer).__name__}) combines gradients over ranks already: wrap it once"
        )


def remove_combining(optimizer: Any) -> None:
    """Give an optimizer the class back that it had before; one without a Combining stays as it is."""
    if isinstance(optimizer, _CombiningOptimizer):
        for name in ("_kept_combining", "_handed_over", "_given_make"):
            vars(optimizer).pop(name, None)
        remove_combining(getattr(optimizer, "inner_optimizer", None))
        optimizer.__class__ = optimizer._own_class


class _CombiningOptimizer:
    """Before the user's class in the order of classes."""

    _make: Callable[[], Combining]
    _methods: type
    _own_class: type
    _handed_over = False
    """Whether the LossScaleOptimizer around it combines gradients in its place."""

    @property
    def _combining(self) -> Combining:
        found = vars(self).get("_kept_combining")
        if found is None:
            found = type(self)._make()
            _keep(self, found)
        return found

    def apply(self, grads: Gradients, trainable_variables: Sequence[Any] | None = None) -> None:
        update = super().apply  # type: ignore[misc]  # of the user's optimizer
        gradients = list(grads)
        variables = trainable_variables
        if variables is None:
            variables = keras_internals.variables_built_for(self)
        if self._handed_over or not gradients or not variables:
            update(gradients, trainable_variables)
            return
        self._combining.apply(self, gradients, list(variables), update)


class _CombiningLossScaleOptimizer(_CombiningOptimizer):
    def check_finite(self, grads: Gradients) -> Any:
        """Of all ranks."""
        return self._combining.all_finite(super().check_finite(grads))  # type: ignore[misc]


class _CombiningMuon(_CombiningOptimizer):
    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Of a Keras variable: Keras 3.12 gives Muon a tf.Variable, and fails at the path that it lacks."""
        known = keras_internals.variable_built_for(self, variable)
        super().update_step(gradient, known, learning_rate)  # type: ignore[misc]


_KINDS = {keras.optimizers.LossScaleOptimizer: _CombiningLossScaleOptimizer, keras.optimizers.Muon: _CombiningMuon}


def _keep(optimizer: Any, combining: Combining) -> None:
    """Not tracked by Keras: it is no part of a checkpoint."""
    vars(optimizer)["_kept_combining"] = combining
    inner = getattr(optimizer, "inner_optimizer", None)
    if inner is not None:  # the outer one combines, and both have the same methods
        if not isinstance(inner, _CombiningOptimizer):
            inner.__class__ = _combining_class(type(inner), type(optimizer)._make, type(optimizer)._methods)
        vars(inner)["_handed_over"] = True
        _keep(inner, combining)


def _held_by(optimizer: Any, make: Callable[[], Combining]) -> Callable[[], Combining]:
    """`make`, for the optimizer's class: Keras' registry keeps the class for ever, and it must not keep a model."""
    holder, name = weakref.ref(make), type(optimizer).__name__

    def call() -> Combining:
        held = holder()
        if held is None:
            raise UserError(f"the model is gone for which this optimizer ({name}) combined gradients: make a new one")
        return held()

    return call


def _combining_class(own: type, make: Callable[[], Combining], methods: type) -> type:
    first = next((found for kind, found in _KINDS.items() if issubclass(own, kind)), _CombiningOptimizer)
    attributes = {
        "__module__": own.__module__,
        "__qualname__": own.__qualname__,
        "__doc__": own.__doc__,
        "_make": staticmethod(make),
        "_methods": methods,
        "_own_class": own,
    }
    bases = (first, own) if methods is object else (methods, first, own)
    combining = type(own)(own.__name__, bases, attributes)
    keras_internals.written_as(combining, own)
    _combine_before_loss_scaling()
    return combining


def _combine_before_loss_scaling() -> None:
    """Let a LossScaleOptimizer take over the combining of the optimizer in it: only ranks whose own gradients are
    finite would come to combine them there, and the others would be waited for."""
    kind: Any = keras.optimizers.LossScaleOptimizer
    own = kind.apply
    if hasattr(own, "combines_before"):
        return

    def apply(self: Any, grads: Gradients, trainable_variables: Sequence[Any] | None = None) -> None:
        inner = self.inner_optimizer
        if isinstance(self, _CombiningOptimizer) or not isinstance(inner, _CombiningOptimizer):
            own(self, grads, trainable_variables)
            return
        self.__class__ = _combining_class(type(self), type(inner)._make, type(inner)._methods)
        _keep(self, inner._combining)
        self.apply(grads, trainable_variables)

    apply.combines_before = True  # type: ignore[attr-defined]
    kind.apply = apply
