"""Callbacks on several ranks: the same logs, so the same decisions; a stop that all ranks agree on; files from rank 0.

A user's callbacks run on every rank between two of ours. The first makes the logs of a batch those of all ranks, where
somebody looks at them; the last agrees, after all others, on stopping. Those of Keras that only write files run on
rank 0; those that save the model run on all ranks, since all have to take part, and rank 0 writes.
"""

import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import keras
import numpy as np

from horovod_flowers.fit.global_batches import GlobalBatches
from horovod_flowers.fit.metrics import logs_over_ranks
from horovod_flowers.fit.time_limit import TimeLimit
from horovod_flowers.model.keras_internals import has_hook, saving_class
from horovod_flowers.ranks.communicator import Ranks
from horovod_flowers.runtime.errors import AgreedError

WRITING_ONLY = (keras.callbacks.CSVLogger, keras.callbacks.RemoteMonitor, keras.callbacks.ProgbarLogger)
"""Of rank 0 alone. Exactly these: a subclass of a user's may decide something, too."""

SAVING = (keras.callbacks.ModelCheckpoint, keras.callbacks.BackupAndRestore)
"""In which every rank has to take part."""


class GlobalLogs(keras.callbacks.Callback):
    """Before all others: makes a batch's logs those of all ranks."""

    def __init__(self, ranks: Ranks, training: GlobalBatches | None, testing: GlobalBatches | None) -> None:
        super().__init__()
        self._ranks, self._training, self._testing = ranks, training, testing

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """In place, for the callbacks after this one."""
        self._share_out(self._training, logs)

    def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
        """In place, for the callbacks after this one."""
        self._share_out(self._testing, logs)

    def _share_out(self, batches: GlobalBatches | None, logs: Any) -> None:
        if batches is not None and batches.current is not None and isinstance(logs, dict):
            logs.update(logs_over_ranks(self.model, logs, float(batches.current.last_share), self._ranks))


class Agreement(keras.callbacks.Callback):
    """After all others: what one rank has decided, all do."""

    def __init__(self, ranks: Ranks, limit: TimeLimit | None, **batches: GlobalBatches | None) -> None:
        """limit: of a fit. batches: those of 'training', 'testing' and 'predicting'."""
        super().__init__()
        self._ranks, self._limit, self._batches = ranks, limit, batches

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Raises AgreedError where the learning rates of ranks differ."""
        rate = getattr(self.model.optimizer, "learning_rate", None)
        rates = self._ranks.allgather(None if rate is None else float(np.asarray(rate)))
        for rank, other in enumerate(rates):
            if other != rates[0]:
                raise AgreedError(
                    f"the learning rate of epoch {epoch + 1} is {other:g} on rank {rank} and {rates[0]:g} on rank 0: "
                    "compute it from what all ranks know (the epoch, the logs), not from random numbers or the rank"
                )

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Stop on all ranks where one does."""
        self.model.stop_training = bool(self._ranks.allreduce_sum(np.array([bool(self.model.stop_training)], np.int64)))

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Stop on all ranks where one does; go on only with a batch on every rank."""
        if self._agree("training", batch, "stop_training") and self._limit is not None:
            self._limit.stop()

    def on_test_begin(self, logs: Any = None) -> None:
        """A validation may take long: stop before it where the job was asked to."""
        if self._limit is not None and self._ranks.allreduce_max(int(self._limit.asked)):
            self._limit.stop()

    def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
        """As in training."""
        self._agree("testing", batch, "stop_evaluating")

    def on_predict_batch_end(self, batch: int, logs: Any = None) -> None:
        """As in training."""
        self._agree("predicting", batch, "stop_predicting")

    def _agree(self, call: str, batch: int, flag: str) -> bool:
        """Whether the job was asked to stop, and goes on otherwise."""
        batches = self._batches.get(call)
        if batches is None or batches.current is None:
            return False
        steps = batches.steps or batches.num_batches
        more = steps is None or batch + 1 < steps
        asked = self._limit is not None and self._limit.asked
        stop, asked = batches.current.look_ahead(bool(getattr(self.model, flag)), read=more, asked=asked)
        setattr(self.model, flag, stop)
        return asked and not stop


@contextmanager
def over_ranks(
    given: Any, ranks: Ranks, limit: TimeLimit | None = None, **batches: GlobalBatches | None
) -> Iterator[list[Any]]:
    """The callbacks of one call, for every rank to run; the user's objects are as before after it.

    given: as `fit`, `evaluate` and `predict` take them. limit: of a fit. batches: of 'training', 'testing',
    'predicting'. Every rank calls it. Raises AgreedError where some ranks have callbacks that save the model and others
    have not.
    """
    callbacks = list(given.callbacks) if isinstance(given, keras.callbacks.CallbackList) else keras.tree.flatten(given)
    callbacks = [callback for callback in callbacks if callback is not None]
    ours: list[Any] = []
    if ranks.size == 1:
        yield callbacks
        return
    seen = ranks.allgather((any(map(_looks_at_batches, callbacks)), _kinds(callbacks, SAVING)))
    for rank, (_, saving) in enumerate(seen):
        if saving != seen[0][1]:
            raise AgreedError(
                f"rank {rank} has the callbacks [{', '.join(saving)}] that save the model, and rank 0 "
                f"[{', '.join(seen[0][1])}]: give every rank the same callbacks; rank 0 alone writes files"
            )
    if any(looks for looks, _ in seen):
        ours = [GlobalLogs(ranks, batches.get("training"), batches.get("testing"))]
    with ExitStack() as undo:
        if ranks.rank:
            if keras.config.is_interactive_logging_enabled():
                keras.config.disable_interactive_logging()  # what callbacks print: once
                undo.callback(keras.config.enable_interactive_logging)
            undo.enter_context(warnings.catch_warnings())
            warnings.filterwarnings("ignore", module="keras")  # rank 0 warns for all
            callbacks = [each for each in callbacks if not _only_writes(each)]
        for callback in callbacks:
            _take_over(callback, ranks, undo)
        if limit is not None:
            limit.place.training = batches.get("training")
            limit.take(callbacks, undo)
            ours = [limit.place, *ours]
        yield [*ours, *callbacks, Agreement(ranks, limit, **batches)]


def _kinds(callbacks: Sequence[Any], of: tuple[type, ...]) -> list[str]:
    return [type(callback).__name__ for callback in callbacks if isinstance(callback, of)]


def _looks_at_batches(callback: Any) -> bool:
    """Whether a callback may decide something by the logs of a batch."""
    if isinstance(callback, keras.callbacks.ModelCheckpoint):
        return callback.save_freq != "epoch"
    if isinstance(callback, keras.callbacks.TensorBoard):
        return callback.update_freq != "epoch"
    if type(callback).__module__.startswith("keras."):
        return isinstance(callback, keras.callbacks.LambdaCallback) and _has_batch_hook(callback)
    return _has_batch_hook(callback)


def _has_batch_hook(callback: Any) -> bool:
    return any(has_hook(callback, name) for name in ("on_batch_end", "on_train_batch_end", "on_test_batch_end"))


def _only_writes(callback: Any) -> bool:
    if type(callback) is keras.callbacks.TensorBoard:
        return not callback.embeddings_freq and not callback.histogram_freq
    return type(callback) in WRITING_ONLY


def _take_over(callback: Any, ranks: Ranks, undo: ExitStack) -> None:
    """Have a callback that writes files do so on rank 0 alone."""
    if isinstance(callback, keras.callbacks.ModelCheckpoint):
        _change_class(callback, _checkpoint_class(type(callback), ranks), undo)
    elif ranks.rank and isinstance(callback, keras.callbacks.CSVLogger):
        _change(callback, "filename", os.devnull, undo)
    elif ranks.rank and isinstance(callback, keras.callbacks.TensorBoard):
        folder = tempfile.mkdtemp(prefix="tensorboard-of-another-rank-")
        undo.callback(shutil.rmtree, folder, ignore_errors=True)
        _change(callback, "log_dir", folder, undo)


def _change(callback: Any, name: str, value: Any, undo: ExitStack) -> None:
    undo.callback(setattr, callback, name, getattr(callback, name))
    setattr(callback, name, value)


def _change_class(callback: Any, kind: type, undo: ExitStack) -> None:
    undo.callback(setattr, callback, "__class__", type(callback))
    callback.__class__ = kind


def _checkpoint_class(own: type, ranks: Ranks) -> type:
    def save(self: Any, as_keras: Any) -> None:
        """All ranks save, at the same time: rank 0 makes the folder, and writes."""
        if ranks.rank == 0:
            as_keras()
            return
        path = self.filepath
        self.filepath = os.path.basename(path)  # of no folder that would have to be made
        try:
            as_keras()
        finally:
            self.filepath = path

    return saving_class(own, save)
