"""What --model.weights names: a file of weights, a run, its checkpoint, or an export."""

from pathlib import Path
from typing import Any

from horovod_flowers.checkpoint.format import BEST, LAST, WEIGHT, read_progress, stored_weights
from horovod_flowers.model.weights import WEIGHT_FILES, assign, load_weights, misfit
from horovod_flowers.runlog.run_folder import RunFolder
from horovod_flowers.runtime.errors import UserError

CHECKPOINT = ".safetensors"
EXPORTED = "model.keras"
"""In the folder of an export."""
_ALLOWED = "a .weights.h5, .h5 or .keras file, a run (runs/NAME), one of its checkpoints (.safetensors) or an export"


def find_weights(path: Path) -> Path:
    """The file behind what --model.weights names: of a run its best checkpoint, or its last one where it has no best.

    Raises UserError where there is none, or it is of another kind.
    """
    if path.is_dir():
        checkpoints = RunFolder(path).checkpoints
        for found in (checkpoints / BEST, checkpoints / LAST, path / EXPORTED):
            if found.is_file():
                return found
        raise UserError(
            f"model.weights is {path}, which is neither a run with a checkpoint nor an export: give {_ALLOWED}"
        )
    if path.suffix not in (*WEIGHT_FILES, CHECKPOINT):
        raise UserError(f"model.weights is {path}: allowed is {_ALLOWED}")
    if not path.is_file():
        raise UserError(f"there is no file of weights {path}: give --model.weights {_ALLOWED}")
    return path


def check_weights(path: Path) -> None:
    """Refuse what cannot be weights before TensorFlow starts (UserError)."""
    found = find_weights(path)
    if found.suffix == CHECKPOINT:
        read_progress(found)


def start_from(model: Any, path: Path, class_names: tuple[str, ...]) -> list[str]:
    """Give a built model the weights that --model.weights names; notes on what they are and what they leave out.

    Of a checkpoint, the running averages where its run kept them. Raises UserError where they are of another model.
    """
    found = find_weights(path)
    if found.suffix != CHECKPOINT:
        return [f"weights from {found}", *load_weights(model, len(class_names), found)]
    weights, progress = stored_weights(found)
    values = [value for name, value in sorted(weights.items()) if name.startswith(WEIGHT)]
    wrong = misfit(model, len(class_names), values)
    if wrong is not None:
        raise UserError(
            f"{found} holds weights of model {progress.model}, which are not those of this model ({wrong}): give a "
            "checkpoint of the same model"
        )
    notes = [f"weights from {found}, after epoch {progress.epochs_done} of its run", *assign(model, values)]
    if len(notes) == 1 and progress.class_names != class_names:
        notes.append(f"its last layer was trained for the classes {', '.join(progress.class_names)}")
    return notes
