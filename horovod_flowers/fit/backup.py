"""keras.callbacks.BackupAndRestore on ranks: rank 0 writes and reads for all, and a fit goes on at the backup's step.

The weights file holds, beside what Keras reads, the place of the training (place.py), so that both are of one moment
whenever the job is killed; Keras' own file beside it is for Keras.
"""

import json
import os
import shutil
from pathlib import Path
from typing import Any

from horovod_flowers.fit.place import Place
from horovod_flowers.model.keras_internals import (
    add_note,
    backup_paths,
    begin_at_epoch,
    is_whole,
    note_in,
    saves_as_keras,
    saving_class,
)
from horovod_flowers.runtime.errors import UserError, cause
from horovod_flowers.runtime.files import whole_file, write_whole

Found = tuple[bool, int | None, str | None]
"""Whether there are weights to go on from, the epoch by Keras' file, and the place in the weights file."""


def backup_class(own: type, place: Place) -> type:
    """A subclass of a user's BackupAndRestore, for one fit."""
    ranks = place.ranks

    def save(self: Any, as_keras: Any) -> None:
        place.steps_end()
        self._current_epoch = place.epoch
        note = place.note()
        if ranks.rank:
            self.model.save_weights(backup_paths(self)[0], overwrite=True)  # takes part, and writes nothing
        elif "://" in str(self.backup_dir) or not saves_as_keras(own):
            as_keras()
        else:
            _write(self, note, {"epoch": place.epoch, "batch": max(place.steps - 1, 0)})

    saving = saving_class(own, save)

    class Restoring(saving):  # type: ignore[misc, valid-type]
        _found: Found = (False, None, None)

        def look(self) -> None:
            """Look for a backup; what rank 0 finds is what all ranks begin with. Every rank calls it."""
            found, error = None, None
            if ranks.rank == 0:
                try:
                    found = _backup_found(self)
                except (OSError, ValueError, KeyError) as failure:
                    error = UserError(f"the backup in {self.backup_dir} cannot be read: {cause(failure)}")
            ranks.raise_on_all(error)
            self._found = ranks.broadcast(found)
            if self._found[2] is not None:
                place.go_on_from(self._found[2])

        def on_train_begin(self, logs: Any = None) -> None:
            """Go on from it."""
            weights, epoch, note = self._found
            if weights:
                optimizer = self.model.optimizer
                if optimizer is not None and not optimizer.built:
                    optimizer.build(self.model.trainable_variables)
                place.restore_seeds()
                self.model.load_weights(backup_paths(self)[0])  # rank 0 reads, and all have them
            epoch = epoch if note is None else place.epoch
            if epoch is not None:
                begin_at_epoch(self.model, epoch)
            place.pass_over()

        def on_train_end(self, logs: Any = None) -> None:
            """Rank 0 deletes the backup."""
            if ranks.rank == 0:
                super().on_train_end(logs)

    Restoring.__name__, Restoring.__qualname__ = own.__name__, own.__qualname__
    return Restoring


def _write(callback: Any, note: str, known: dict[str, int]) -> None:
    """The files of a backup on rank 0: the earlier one is there until the new one is whole."""
    weights, knowledge, before, knowledge_before = backup_paths(callback)
    os.makedirs(callback.backup_dir, exist_ok=True)
    if callback.double_checkpoint:
        for path, copy in ((weights, before), (knowledge, knowledge_before)):
            if os.path.exists(path):
                shutil.copy(path, copy)
    with whole_file(Path(weights)) as temporary:
        written = temporary.with_name(f"{temporary.name}.weights.h5")  # Keras takes no other name
        try:
            callback.model.save_weights(written)
            add_note(str(written), note)
            written.replace(temporary)
        finally:
            written.unlink(missing_ok=True)
    write_whole(Path(knowledge), json.dumps(known))


def _backup_found(callback: Any) -> Found:
    """Puts the files before in place of damaged ones."""
    weights, knowledge, before, knowledge_before = backup_paths(callback)
    if os.path.exists(weights) and not is_whole(weights):
        if not os.path.exists(before):
            raise OSError(f"{weights} is damaged")
        shutil.copy(before, weights)
        if os.path.exists(knowledge_before):
            shutil.copy(knowledge_before, knowledge)
        elif os.path.exists(knowledge):
            os.remove(knowledge)
    epoch = None
    if os.path.exists(knowledge):
        with open(knowledge, encoding="utf-8") as file:
            epoch = int(json.load(file)["epoch"])
    if not os.path.exists(weights):
        return False, epoch, None
    return True, epoch, note_in(weights)
