"""Where a fit stands, and where it goes on from: what a backup keeps beside the weights."""

import contextlib
import json
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from horovod_flowers.fit.global_batches import BatchIterator, GlobalBatches
from horovod_flowers.fit.metrics import summed_over_ranks
from horovod_flowers.model.keras_internals import build_for, seed_states
from horovod_flowers.ranks.communicator import Ranks
from horovod_flowers.runtime.console import warn


class Place(keras.callbacks.Callback):
    """Of one fit. Before all other callbacks, so that they see where it stands."""

    def __init__(self, ranks: Ranks, steps_end: Callable[[], None] = lambda: None) -> None:
        """steps_end: brings the model to one state on all ranks in the middle of an epoch, for what is saved."""
        super().__init__()
        self.ranks, self.steps_end = ranks, steps_end
        self.training: GlobalBatches | None = None
        """The data, where their order is known."""
        self.epoch, self.steps = 0, 0
        """The epoch in work, from 0, and how many steps of it are done."""
        self.left_out = 0
        """First steps of the epoch in work that an earlier job has done, and whose data have not been passed over."""
        self._note: dict[str, Any] = {}
        """Of the backup that the fit goes on from."""

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Begin an epoch, or go on in the middle of it."""
        self.epoch, self.steps = epoch, self.left_out

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Steps are counted from 0."""
        self.steps = batch

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """With steps_per_execution the last of them is named."""
        self.steps = batch + 1

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """What is saved now goes on with the next epoch."""
        self.epoch, self.steps, self.left_out = epoch + 1, 0, 0

    def note(self) -> str:
        """What a backup keeps of this place. Every rank calls it."""
        known: dict[str, Any] = {"epoch": self.epoch, "steps": self.steps, "steps_per_epoch": self._steps_per_epoch()}
        known["batch_size"] = None if self.training is None else self.training.batch_size
        known["shuffle_seed"] = None if self.training is None else self.training.seed
        known["seeds"] = [np.asarray(state).tolist() for state in seed_states(self.model)]
        known["metrics"] = []
        if self.steps:
            with summed_over_ranks(self.model.metrics, self.ranks):
                known["metrics"] = [np.asarray(each).tolist() for each in self.model.metrics_variables]
        return json.dumps(known)

    def _steps_per_epoch(self) -> int | None:
        return None if self.training is None else self.training.steps or self.training.num_batches

    def go_on_from(self, note: str) -> None:
        """Begin where a backup was made, once the fit begins. Every rank calls it, with the same text."""
        self._note = json.loads(note)
        self.epoch, self.left_out = self._note["epoch"], self._note["steps"]
        changed = self._changed_since()
        if self.left_out and changed:
            self.left_out = 0
            if self.ranks.rank == 0:
                warn(
                    f"the backup was made after step {self._note['steps']} of epoch {self.epoch + 1}, and {changed}: "
                    "the epoch begins anew, with the weights of the backup"
                )
        if self.training is not None and self._note["shuffle_seed"] is not None:
            self.training.go_on(self.epoch, self._note["shuffle_seed"])

    def _changed_since(self) -> str | None:
        """What makes the first steps of the epoch other ones than those that the backup had done, in words."""
        told = {"steps_per_epoch": self._steps_per_epoch()}
        told["batch_size"] = None if self.training is None else self.training.batch_size
        words = {
            "steps_per_epoch": "epochs had {} steps and have {} now",
            "batch_size": "batches had {} rows and have {} now",
        }
        for name, now in told.items():
            then = self._note.get(name)
            if None not in (then, now) and then != now:
                return words[name].format(then, now)
        return None

    def restore_seeds(self) -> None:
        """Let this rank's layers go on with the random numbers of rank 0's at the backup."""
        states, seeds = seed_states(self.model), self._note.get("seeds", [])
        for state, seed in zip(states, seeds, strict=False) if len(states) == len(seeds) else ():
            state.assign(np.array(seed, np.asarray(state).dtype))

    def logs_before(self, data: Any) -> dict[str, Any]:
        """Have the epoch's metrics go on from what they were at the backup, and give their results; {} where they
        cannot. data: a batch as train_step takes it. Every rank calls it.
        """
        model, values = self.model, self._note["metrics"]
        with contextlib.suppress(Exception):  # the user's code, which may not be made for it
            build_for(model, data)
        variables = model.metrics_variables
        if [np.shape(value) for value in values] != [tuple(variable.shape) for variable in variables]:
            if self.ranks.rank == 0:
                warn(f"the logs of epoch {self.epoch + 1} leave out its first {self._note['steps']} steps")
            return {}
        if self.ranks.rank == 0:  # ranks add them up
            for variable, value in zip(variables, values, strict=True):
                variable.assign(np.array(value, np.asarray(variable).dtype))
        return dict(model.get_metrics_result())

    def pass_over(self) -> None:
        """Have the model's next steps read data, and compute nothing, up to where the backup was made."""
        if self.left_out:
            self.model.train_function = _PassesOver(self, self.model.train_function)

    def callback_list(self, callbacks: Sequence[Any], model: Any, **settings: Any) -> Any:
        """Callbacks for fit to take, that are told nothing of steps that are passed over.

        settings: epochs, steps and verbose of the fit.
        """
        if not self.left_out:
            return callbacks
        shown = settings["verbose"] != 0
        return _CallbacksOfTheRest(self, callbacks, add_history=True, add_progbar=shown, model=model, **settings)


class _PassesOver:
    """In place of a model's train_function."""

    def __init__(self, place: Place, compute: Any) -> None:
        self._place, self._compute = place, compute

    def __call__(self, iterator: Any) -> Any:
        model, place = self._place.model, self._place
        count = int(model.steps_per_execution)
        if place.left_out <= 0:  # the data ended before
            model.train_function = self._compute
            return self._compute(iterator)
        if isinstance(iterator, BatchIterator):
            data = iterator.take(count)[-1].data
        else:
            for _ in range(count):
                data = next(iterator)
        place.left_out -= count
        if place.left_out > 0:
            return {}
        model.train_function = self._compute
        return place.logs_before(data)  # the epoch's, where no step of it is left


class _CallbacksOfTheRest(keras.callbacks.CallbackList):
    """Those of a fit that goes on in the middle of an epoch."""

    def __init__(self, place: Place, callbacks: Any, **options: Any) -> None:
        self._place, self._passes = place, False
        super().__init__(callbacks, **options)

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Not of what is passed over."""
        self._passes = self._place.left_out > 0
        if not self._passes:
            super().on_train_batch_begin(batch, logs)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """As at its beginning."""
        if not self._passes:
            super().on_train_batch_end(batch, logs)
