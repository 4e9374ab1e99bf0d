"""Training that goes on when ranks come and go: Horovod's elastic interface, for models of Keras 3.

Under `horovodrun --host-discovery-script`; in a job of a fixed size `run` and the callbacks work, and ranks stay.
"""

import functools
from collections.abc import Callable
from typing import Any

import horovod.tensorflow as hvd
import keras
import numpy as np
from horovod.common.elastic import ObjectState, run_fn
from horovod.common.exceptions import HorovodInternalError

from horovod_flowers.keras.argument_error import ArgumentError
from horovod_flowers.keras.collectives import broadcast_object, broadcast_variables
from horovod_flowers.keras.startup import init, shutdown
from horovod_flowers.model.keras_internals import all_layers
from horovod_flowers.ranks.gloo import is_lost

__all__ = ["CommitStateCallback", "KerasState", "UpdateBatchStateCallback", "UpdateEpochStateCallback", "run"]


def run(func: Callable[..., Any]) -> Callable[..., Any]:
    """A function that begins anew, with the last committed state, whenever ranks have come or gone.

    func: takes the state first, then any arguments. It is called once all ranks have the state of rank 0.
    """

    @functools.wraps(func)
    def with_ranks_that_may_be_lost(state: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return func(state, *args, **kwargs)
        except Exception as error:
            if not isinstance(error, HorovodInternalError) and is_lost(error):
                raise HorovodInternalError(error) from error
            raise

    wrapped: Callable[..., Any] = run_fn(with_ranks_that_may_be_lost, _start_again)
    return wrapped


def _start_again() -> None:
    shutdown()
    init()


class KerasState(ObjectState):
    """A model, its optimizer and other values, which all ranks share, commit in memory and go back to."""

    def __init__(self, model: Any, optimizer: Any = None, **kwargs: Any) -> None:
        """Values beside the model (`batch=0, epoch=0`) become attributes.

        model: built. optimizer: the model's own where it is None; it is built where it is not.
        Raises ArgumentError for a model without weights.
        """
        if not all(layer.built for layer in all_layers(model)):
            raise ArgumentError(
                f"the model {model.name!r} has no weights yet: give it an Input layer, or call model.build(input_shape)"
            )
        self.model = model
        self.optimizer = model.optimizer if optimizer is None else optimizer
        if self.optimizer is not None and not self.optimizer.built:
            # A rank that comes later has to have the same variables as one that has trained.
            with keras.name_scope(self.optimizer.name, caller=self.optimizer):
                self.optimizer.build(list(model.trainable_variables))
        self._committed: list[np.ndarray] = []
        self._keep_variables()
        super().__init__(bcast_object=broadcast_object, get_rank=hvd.rank, **kwargs)

    def save(self) -> None:
        """Commit the model, the optimizer and the values in this rank's memory."""
        self._keep_variables()
        super().save()

    def restore(self) -> None:
        """Go back to what was committed last."""
        for variable, value in zip(self._variables, self._committed, strict=True):
            variable.assign(value)
        super().restore()

    def sync(self) -> None:
        """Take over the state of rank 0, and commit it. Every rank calls it."""
        broadcast_variables(self._variables, root_rank=0)
        self._keep_variables()
        super().save()  # what the attributes are now, not what they were at the last commit
        super().sync()

    @property
    def _variables(self) -> list[Any]:
        state = [] if self.optimizer is None else list(self.optimizer.variables)
        return [*self.model.weights, *state]

    def _keep_variables(self) -> None:
        self._committed = [np.array(variable) for variable in self._variables]


class CommitStateCallback(keras.callbacks.Callback):
    """Commits the state every so many batches, and at the end of each epoch. The last of the callbacks."""

    def __init__(self, state: Any, batches_per_commit: int = 1) -> None:
        """Every rank has one. Raises ArgumentError for less than one batch."""
        super().__init__()
        if not isinstance(batches_per_commit, int) or batches_per_commit < 1:
            raise ArgumentError(f"batches_per_commit is {batches_per_commit!r}, and has to be a whole number from 1")
        self.state, self.batches_per_commit = state, batches_per_commit
        self.batches_remaining = batches_per_commit

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Ranks that have just come count with the others."""
        self.batches_remaining = self.batches_per_commit

    def on_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Commits, if it is time."""
        self.batches_remaining -= 1
        if self.batches_remaining == 0:
            self.state.commit()
            self.batches_remaining = self.batches_per_commit

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Commits."""
        self.state.commit()


class _EndOfEpoch:
    """In place of True in `model.stop_training`: it ends the epoch, not the training."""


class UpdateBatchStateCallback(keras.callbacks.Callback):
    """Keeps the number of batches done of this epoch in `state.batch`.

    An epoch that was under way when ranks came or went is gone on with: so many batches less.
    """

    def __init__(self, state: Any) -> None:
        """Every rank has one, before the CommitStateCallback."""
        super().__init__()
        self.state = state
        self._before = 0

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """How many batches of this epoch were done before."""
        self._before = self.state.batch

    def on_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """One batch more; ends the epoch with the last of it."""
        self.state.batch = self._before + batch + 1
        steps = self.params.get("steps")
        if self._before and steps and self.state.batch >= steps and not self.model.stop_training:
            self.model.stop_training = _EndOfEpoch()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """The next epoch begins with its first batch."""
        self.state.batch = 0
        if isinstance(self.model.stop_training, _EndOfEpoch):
            self.model.stop_training = False


class UpdateEpochStateCallback(keras.callbacks.Callback):
    """Keeps the number of epochs done in `state.epoch`, over all calls of `fit`."""

    def __init__(self, state: Any) -> None:
        """Every rank has one, before the CommitStateCallback."""
        super().__init__()
        self.state = state
        self.initial_epoch = state.epoch

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Keras counts from 0 in each call of fit."""
        self.initial_epoch = self.state.epoch

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """One epoch more."""
        self.state.epoch = self.initial_epoch + epoch + 1
