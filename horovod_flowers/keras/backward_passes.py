"""What a distributed optimizer does around its update: it adds up the gradients of several backward passes, combines
them over ranks, and leaves those of local weights alone."""

from collections.abc import Iterable, Sequence
from typing import Any

import horovod.tensorflow as hvd
import keras
import tensorflow as tf

from horovod_flowers.keras.gradient_reduction import Reduction, dense, variable_of
from horovod_flowers.model.optimizer_class import Combining, Gradients, Update
from horovod_flowers.recording.step_marks import STEP_MARKS


class Exchange(Combining):
    """Of one optimizer."""

    def __init__(
        self,
        reduction: Reduction,
        passes: int,
        average_passes: bool,
        scale_local_gradients: bool,
        local_layers: Sequence[Any],
    ) -> None:
        self.reduction, self.passes, self.average_passes = reduction, passes, average_passes
        self.scale_local_gradients, self.local_layers = scale_local_gradients, list(local_layers)
        self.counts_updates = False
        """Whether the optimizer is in an update, which takes the number of updates for that of its passes."""
        self._local: set[Any] = set()
        self._sums: dict[Any, tf.Variable] = {}
        self._passed: tf.Variable | None = None

    def register_local(self, variables: Iterable[Any]) -> None:
        """Leave the gradients of these variables to this rank."""
        self._local |= {variable_of(variable).ref() for variable in variables}

    def apply(self, optimizer: Any, gradients: Gradients, variables: Sequence[Any], update: Update) -> None:
        """Update the weights with combined gradients, in the last pass of each `passes`."""
        if self.passes > 1 and not optimizer.built:  # not in a branch
            with keras.name_scope(optimizer.name, caller=optimizer):
                optimizer.build(list(variables))
        if self.passes == 1:
            self._update(gradients, variables, update)
            return
        sums = self._added_up(gradients, variables)
        passed = self._count_pass()

        def last_pass() -> tf.Tensor:
            self._update_counted(optimizer, sums, variables, update)
            for variable in self._sums.values():
                variable.assign(tf.zeros_like(variable))  # whatever was in it: infinity times zero is none
            passed.assign(0)
            return tf.constant(True)

        def other_pass() -> tf.Tensor:
            optimizer.iterations.assign_add(1)  # as Horovod: schedules count passes
            return tf.constant(False)

        tf.cond(tf.equal(passed, self.passes), last_pass, other_pass)

    def all_finite(self, finite: Any) -> Any:
        """Of all ranks where some gradients are not combined; else every rank finds the same anyway."""
        if not self.has_local or not self.reduction.combines:
            return finite
        process_set = self.reduction.options.process_set
        name = f"{self.reduction.options.name}.{process_set.process_set_id}.finite"
        return hvd.allreduce(tf.cast(finite, tf.int32), op=hvd.Min, name=name, process_set=process_set) > 0

    @property
    def has_local(self) -> bool:
        """Whether there are local weights."""
        return bool(self._local or self.local_layers)

    def _update(self, gradients: Gradients, variables: Sequence[Any], update: Update) -> None:
        STEP_MARKS.computed(gradients)
        for layer in self.local_layers:  # whose weights may not have been there before
            self.register_local(layer.trainable_weights)
        local = [variable_of(variable).ref() in self._local for variable in variables]
        pairs = list(zip(gradients, variables, strict=True))
        if self.reduction.combines:
            STEP_MARKS.computed(gradients)
        shared = [pair for pair, is_local in zip(pairs, local, strict=True) if not is_local]
        combined = iter(self.reduction([gradient for gradient, _ in shared], [variable for _, variable in shared]))
        results = [
            self._scaled_local(gradient) if is_local else next(combined)
            for gradient, is_local in zip(gradients, local, strict=True)
        ]
        if self.passes > 1 and self.average_passes:
            results = [_divided(gradient, self.passes) for gradient in results]
        marked = STEP_MARKS.combined if self.reduction.combines else STEP_MARKS.computed
        update(marked(results), variables)
        STEP_MARKS.updated([variable_of(variable) for variable in variables])

    def _scaled_local(self, gradient: Any) -> Any:
        """Divided by the number of ranks, as if its loss were part of their mean."""
        return _divided(gradient, self.reduction.size()) if self.scale_local_gradients else gradient

    def _update_counted(self, optimizer: Any, sums: Gradients, variables: Sequence[Any], update: Update) -> None:
        """Passes that belong to one update count as one in it. An update that loss scaling leaves out counts none."""
        counter = optimizer.iterations
        before = tf.identity(variable_of(counter))
        self.counts_updates = True
        try:
            self._update(sums, variables, update)
        finally:
            self.counts_updates = False
        if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
            after = tf.identity(variable_of(counter))
            counter.assign(tf.where(tf.equal(after, before), before - (self.passes - 1), after))

    def _added_up(self, gradients: Gradients, variables: Sequence[Any]) -> list[Any]:
        sums: list[Any] = []
        for gradient, variable in zip(gradients, variables, strict=True):
            reference = variable_of(variable).ref()
            if gradient is not None:
                if reference not in self._sums:
                    with tf.init_scope():
                        zeros = tf.zeros(variable_of(variable).shape, gradient.dtype)
                        self._sums[reference] = tf.Variable(zeros, trainable=False, name="gradient_sum")
                self._sums[reference].assign_add(dense(gradient))
            found = self._sums.get(reference)
            sums.append(None if found is None else found.read_value())
        return sums

    def _count_pass(self) -> tf.Variable:
        if self._passed is None:
            with tf.init_scope():
                self._passed = tf.Variable(0, trainable=False, name="backward_passes")
        self._passed.assign_add(1)
        return self._passed


def _divided(gradient: Any, number: Any) -> Any:
    if gradient is None:
        return None
    if isinstance(gradient, tf.IndexedSlices):
        values = gradient.values / tf.cast(number, gradient.values.dtype)
        return tf.IndexedSlices(values, gradient.indices, gradient.dense_shape)
    return gradient / tf.cast(number, gradient.dtype)
