"""Checkpoints: weights, optimizer state and where training stood, in one safetensors file. No pickle.

Tensors are numbered in the model's and the optimizer's own order, which does not depend on the number of ranks.
"""

import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from horovod_flowers.errors import UserError
from horovod_flowers.files import whole_file

SCHEMA = 1


@dataclass(frozen=True)
class Progress:
    """Where training stood when the checkpoint was written."""

    epochs_done: int
    steps_done: int
    training_seconds: float
    model: str
    class_names: tuple[str, ...]
    data_digest: str
    validation_accuracy: float
    best_validation_accuracy: float
    best_epoch: int


def save(folder: Path, model: Any, optimizer: Any, progress: Progress) -> None:
    """Write `last.safetensors`, and `best.safetensors` too where this epoch is the best so far; each whole or not."""
    tensors = {f"{kind}.{number:04d}": np.asarray(value) for kind, number, value in _variables(model, optimizer)}
    metadata = {"format": "horovod_flowers", "schema": str(SCHEMA), "progress": json.dumps(asdict(progress))}
    folder.mkdir(exist_ok=True)
    with whole_file(folder / "last.safetensors") as temporary:
        save_file(tensors, temporary, metadata=metadata)
        if progress.best_epoch == progress.epochs_done:
            # First, so that a crash in between never leaves a last checkpoint that speaks of a best one not there.
            with whole_file(folder / "best.safetensors") as second:
                _same_contents(temporary, second)


def _same_contents(file: Path, second: Path) -> None:
    """Give a file a second name, or a copy where the file system has no hard links."""
    second.unlink()
    try:
        os.link(file, second)
    except OSError:
        shutil.copyfile(file, second)


def load(path: Path, model: Any, optimizer: Any | None) -> Progress:
    """Restore weights, and optimizer state unless `optimizer` is None.

    Raises UserError where the file is missing, damaged, or of another model or optimizer; then nothing is changed.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != "horovod_flowers" or metadata.get("schema") != str(SCHEMA):
                raise UserError(f"{path} is not a checkpoint of this version of horovod_flowers")
            stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dictionary)
    except FileNotFoundError as error:
        raise UserError(f"there is no checkpoint {path}: start the run without --resume") from error
    except (SafetensorError, OSError) as error:
        raise UserError(f"checkpoint {path} is damaged ({error}): use the other checkpoint beside it") from error
    values = json.loads(metadata["progress"])
    progress = Progress(**{**values, "class_names": tuple(values["class_names"])})
    variables = {f"{kind}.{number:04d}": value for kind, number, value in _variables(model, optimizer)}
    if optimizer is None:
        stored = {name: value for name, value in stored.items() if name.startswith("weight.")}
    _refuse_mismatch(path, progress, variables, stored)
    for name, variable in variables.items():
        variable.assign(stored[name])
    return progress


def _variables(model: Any, optimizer: Any | None) -> list[tuple[str, int, Any]]:
    kinds = [("weight", model.variables)] + ([("optimizer", optimizer.variables)] if optimizer is not None else [])
    return [(kind, number, variable) for kind, variables in kinds for number, variable in enumerate(variables)]


def _refuse_mismatch(path: Path, progress: Progress, variables: dict[str, Any], stored: dict[str, Any]) -> None:
    for kind, what in (("weight", "model"), ("optimizer", "optimizer")):
        wanted = {name: tuple(variable.shape) for name, variable in variables.items() if name.startswith(kind)}
        found = {name: value.shape for name, value in stored.items() if name.startswith(kind)}
        if wanted != found:
            raise UserError(
                f"checkpoint {path} is of another {what} (model {progress.model}, {len(progress.class_names)} classes, "
                f"{len(found)} {kind} tensors; this run has {len(wanted)}, or other shapes): resume with the options "
                "of the run that wrote it"
            )
