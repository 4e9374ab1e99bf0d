"""Ending a fit before its end without losing anything, as a time limit or pre-emption asks for: SIGUSR1, SIGTERM.

All ranks stop after the same step. The script's BackupAndRestore saves, at this step, and the process ends with status
75, which tells a job script to start the same again. Without one nothing could go on, and that is said instead.
"""

import functools
import inspect
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, NoReturn

import keras

from horovod_flowers.fit.backup import backup_class
from horovod_flowers.fit.place import Place
from horovod_flowers.model.keras_internals import begin_at_epoch
from horovod_flowers.ranks.communicator import Ranks
from horovod_flowers.ranks.stop_request import StopRequest
from horovod_flowers.runtime.errors import JobError, Stopped, UserError
from horovod_flowers.runtime.exit import error_boundary
from horovod_flowers.runtime.heartbeat import HEARTBEAT

WHAT_TO_DO = (
    "give fit keras.callbacks.BackupAndRestore(folder), which saves where the training stands, so that starting the "
    "same again goes on from there"
)


class TimeLimit:
    """Of one fit."""

    def __init__(self, request: StopRequest, place: Place, one_model: bool = True) -> None:
        """one_model: whether all ranks train one."""
        self.request, self.place, self._one_model = request, place, one_model
        self.backups: list[Any] = []
        """Of the user's callbacks, those that save where the training stands."""
        request.answer_for_script()

    @property
    def asked(self) -> bool:
        """Whether this rank was asked to stop."""
        return self.request.received is not None

    def take(self, callbacks: Sequence[Any], undo: ExitStack) -> None:
        """Have the backups among a fit's callbacks save, and go on, at a step. Every rank calls it.

        Raises UserError where ranks train models of their own, of which a backup would keep one.
        """
        for callback in callbacks:
            if isinstance(callback, keras.callbacks.BackupAndRestore):
                if not self._one_model:
                    raise UserError(
                        "strategy 'none' trains a model on each rank, and BackupAndRestore keeps that of rank 0 alone: "
                        "leave it out, or choose another strategy"
                    )
                undo.callback(setattr, callback, "__class__", type(callback))
                callback.__class__ = backup_class(type(callback), self.place)
                callback.look()
                self.backups.append(callback)

    def stop(self) -> NoReturn:
        """Save, and raise Stopped; JobError where nothing could go on. Every rank calls it."""
        place = self.place
        name = next(name for name in place.ranks.allgather(self.request.received) if name is not None)
        done = f"step {place.steps} of epoch {place.epoch + 1}" if place.steps else f"epoch {place.epoch}"
        if not self.backups:
            to_do = WHAT_TO_DO if self._one_model else "strategy 'none' keeps nothing of the models of several ranks"
            raise JobError(f"the job was asked to stop ({name}), and did after {done}, with nothing saved: {to_do}")
        HEARTBEAT.at("the backup after {} steps of epoch {}", place.steps, place.epoch + 1, long=True)
        for backup in self.backups:
            backup._save_model()
        place.ranks.barrier()  # launchers end a job whose first rank ends with a status: not while rank 0 writes
        raise Stopped(
            f"stopped by {name} after {done}; the backup in {self.backups[-1].backup_dir} is whole: starting the "
            "same again goes on from there"
        )


class StopOfOneRank(keras.callbacks.Callback):
    """Looks before each step. Not after it: Keras would no longer run callbacks beside the steps."""

    def __init__(self, limit: TimeLimit) -> None:
        super().__init__()
        self._limit, self._trained = limit, False

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Stop where there is something to save."""
        if self._limit.asked and self._trained:
            self._limit.stop()
        self._trained = True

    def on_test_begin(self, logs: Any = None) -> None:
        """As between two steps: a validation may take long."""
        if self._limit.asked and self._trained:
            self._limit.stop()


def stop_fits_of(model: Any, ranks: Ranks, request: StopRequest) -> None:
    """Have this model's own `fit` on one rank end when it is asked to, and go on at the step of its backup."""
    original = model.fit
    signature = inspect.signature(original)
    if not signature.parameters.keys() >= {"callbacks", "epochs", "steps_per_epoch", "verbose"}:
        return  # a fit of the user's own, with other arguments

    @functools.wraps(original)
    def fit(*arguments: Any, **named: Any) -> Any:
        bound = signature.bind(*arguments, **named)
        bound.apply_defaults()
        place = Place(ranks)
        limit = TimeLimit(request, place)
        given = bound.arguments["callbacks"]
        callbacks = (
            list(given.callbacks) if isinstance(given, keras.callbacks.CallbackList) else keras.tree.flatten(given)
        )
        callbacks = [each for each in callbacks if each is not None]
        with ExitStack() as undo:
            undo.callback(begin_at_epoch, model, None)  # else a later fit of the model would begin there, too
            limit.take(callbacks, undo)
            places = [place] if limit.backups else []
            steps = bound.arguments["steps_per_epoch"]
            bound.arguments["callbacks"] = place.callback_list(
                [*places, *callbacks, StopOfOneRank(limit)],
                model,
                epochs=bound.arguments["epochs"],
                steps=steps,
                verbose=bound.arguments["verbose"],
            )
            try:
                return original(*bound.args, **bound.kwargs)
            except Stopped as stop:
                with error_boundary("fit"):
                    raise stop

    model.fit = fit
