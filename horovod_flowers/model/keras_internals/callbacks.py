"""Where callbacks save, and what they override."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras.src.saving import saving_lib
from keras.src.utils.python_utils import is_default


def has_hook(callback: Any, name: str) -> bool:
    """Whether a callback does anything in one of its methods, such as 'on_train_batch_end'."""
    return not is_default(getattr(callback, name))


def saving_class(own: Any, save: Callable[[Any, Callable[[], None]], None]) -> type:
    """A subclass of a ModelCheckpoint or BackupAndRestore, with its name, of which every saving asks this function:
    with the callback, and what it would do."""

    def save_model(self: Any, *arguments: Any, **options: Any) -> None:
        save(self, lambda: own._save_model(self, *arguments, **options))

    return type(own.__name__, (own,), {"__module__": own.__module__, "_save_model": save_model})


def backup_paths(callback: Any) -> tuple[str, str, str, str]:
    """Of a BackupAndRestore: its weights, what it knows of the training, and the two before them."""
    return (
        callback._weights_path,
        callback._training_metadata_path,
        callback._prev_weights_path,
        callback._prev_training_metadata_path,
    )


def is_whole(path: str) -> bool:
    """Whether a .weights.h5 file can be opened: one that was cut off cannot."""
    try:
        with saving_lib.h5py.File(path, "r"):
            return True
    except OSError:
        return False


def saves_as_keras(own: Any) -> bool:
    """Whether a class of BackupAndRestore writes its files as Keras' own does."""
    return bool(own._save_model is keras.callbacks.BackupAndRestore._save_model)


def begin_at_epoch(model: Any, epoch: int | None) -> None:
    """Have the fit that has begun start at this epoch, from 0, as BackupAndRestore does; None: as it was called."""
    model._initial_epoch = epoch


_NOTE = "horovod_flowers"


def add_note(path: str, text: str) -> None:
    """Write a text into a .weights.h5 file, where Keras does not look."""
    with saving_lib.h5py.File(path, "a") as file:
        file.create_dataset(_NOTE, data=np.frombuffer(text.encode(), np.uint8))


def note_in(path: str) -> str | None:
    """The text that was written into a .weights.h5 file; None where there is none. Raises OSError where the file is
    damaged."""
    with saving_lib.h5py.File(path, "r") as file:
        return bytes(file[_NOTE][()]).decode() if _NOTE in file else None
