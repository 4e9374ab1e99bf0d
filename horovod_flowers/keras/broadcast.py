"""The same weights and the same state of the optimizer on all ranks before the first batch."""

import os
from collections.abc import Iterable, Sequence
from typing import Any

import horovod.tensorflow as hvd
import keras
import tensorflow as tf

from horovod_flowers.keras.agreement import check_same_variables
from horovod_flowers.keras.argument_error import ArgumentError
from horovod_flowers.keras.backward_passes import Exchange
from horovod_flowers.keras.collectives import broadcast_variables, check_root
from horovod_flowers.keras.equal_batches import check_same_steps, check_short_epoch
from horovod_flowers.keras.gradient_reduction import variable_of
from horovod_flowers.model.keras_internals import all_layers, build_for, slots_of
from horovod_flowers.model.optimizer_class import combining_of


class BroadcastGlobalVariablesCallback(keras.callbacks.Callback):
    """Gives all ranks the root rank's weights and optimizer state when training begins, before its first batch.

    Where a model has no weights yet (no Input), it does so when the first batch has made them, before it is computed.
    The states of random seeds stay each rank's own.
    """

    def __init__(self, root_rank: int, device: str = "", local_variables: Any = None) -> None:
        """Every rank has one.

        root_rank: whose weights are taken.
        device: device of TensorFlow for the broadcast.
        local_variables: a variable or several that stay each rank's own, with the optimizer's state of them.
        Raises ArgumentError for what is no variable.
        """
        super().__init__()
        self.root_rank, self.device, self.broadcast_done = root_rank, device, False
        self._batches = 0
        self._local: list[Any] = []
        if local_variables is None:
            local_variables = []
        elif isinstance(local_variables, keras.Variable | tf.Variable) or not isinstance(local_variables, Iterable):
            local_variables = [local_variables]
        for variable in local_variables:
            self.register_local_var(variable)

    def register_local_var(self, var: Any) -> None:
        """Leave a variable each rank's own."""
        if not isinstance(var, keras.Variable | tf.Variable):
            raise ArgumentError(f"local_variables has {var!r} in it, which is no variable")
        self._local.append(var)

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Broadcasts, or has it done as soon as there are weights. Raises UserError where ranks are to train unequally
        many batches an epoch: all would wait for those that are missing."""
        check_root(self.root_rank)
        model = self.model
        if self._trains_with_others:
            check_same_steps(self.params.get("steps"))
        if self.broadcast_done:
            return
        if all(layer.built for layer in all_layers(model)):
            self._broadcast(model.optimizer)
            return
        own = model.train_function

        def build_before(iterator: Any) -> Any:
            """What fit calls for a batch, in place of the model's own function for the first one."""
            build_for(model, iterator.element_spec)
            self._broadcast(model.optimizer)
            model.train_function = own
            return own(iterator)

        model.train_function = build_before

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Raises ArgumentError where the first batch was trained in a way that is not that of Keras' fit."""
        self._batches = batch + 1
        if not self.broadcast_done:
            raise ArgumentError(
                f"the model {self.model.name!r} had no weights before its first batch, which could be broadcast: give "
                "it an Input layer, or call model.build(input_shape)"
            )

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Counts batches."""
        self._batches = 0

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Raises UserError where only this rank's data have ended before the epoch: the others would wait for ever."""
        steps = self.params.get("steps")
        if steps and self._batches < steps and self._trains_with_others and not self.model.stop_training:
            check_short_epoch(epoch, self._batches, steps)

    @property
    def _trains_with_others(self) -> bool:
        """Whether each batch takes part in calls of a fixed set of ranks."""
        elastic = os.environ.get("HOROVOD_ELASTIC") == "1"
        return hvd.size() > 1 and not elastic and isinstance(combining_of(self.model.optimizer), Exchange)

    def _broadcast(self, optimizer: Any) -> None:
        model = self.model
        if optimizer is not None and not optimizer.built:
            with keras.name_scope(optimizer.name, caller=optimizer):
                optimizer.build(list(model.trainable_variables))
        local = {variable_of(variable).ref() for variable in self._local}
        weights = [variable for variable in model.weights if variable_of(variable).ref() not in local]
        state = [] if optimizer is None else list(optimizer.variables)
        state += [variable for other in _others_of(model) for variable in other.variables]
        if local and optimizer is not None:
            own = {id(slot) for variable in self._local for slot in slots_of(optimizer, variable_of(variable))}
            state = [variable for variable in state if id(variable) not in own]
        _broadcast_checked([*weights, *state], self.root_rank, self.device)
        self.broadcast_done = True


def _others_of(model: Any) -> list[Any]:
    """Optimizers that a model of the user's has beside the compiled one, as far as they are built."""
    values = [
        each for value in vars(model).values() for each in (value if isinstance(value, list | tuple) else [value])
    ]
    found = [each for each in values if isinstance(each, keras.optimizers.Optimizer) and each.built]
    return [each for each in dict.fromkeys(found) if each is not model.optimizer]


def _broadcast_checked(variables: Sequence[Any], root_rank: int, device: str) -> None:
    if hvd.size() == 1:
        return
    check_same_variables(variables)
    with tf.device(device):
        broadcast_variables(variables, root_rank)
