"""Checkpoints: weights, optimizer state and where training stood, in one safetensors file. No pickle.

Whole tensors, numbered in the model's and the optimizer's own order: a checkpoint does not tell which strategy wrote it
or on how many ranks.
"""

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from horovod_flowers.errors import UserError
from horovod_flowers.files import whole_file

SCHEMA = 2
READABLE = ("1", "2")  # 1 has no interrupted epochs
WEIGHT, OPTIMIZER, AVERAGE = "weight", "optimizer", "average"
"""What tensors' names begin with (model_state.ModelState gives them)."""


@dataclass(frozen=True)
class PartialEpoch:
    """The steps that an interrupted epoch has done: sums over all ranks."""

    steps: int
    images: int
    loss_sum: float
    correct: int
    training_seconds: float


@dataclass(frozen=True)
class Progress:
    """Where training stood when the checkpoint was written."""

    epochs_done: int
    steps_done: int
    training_seconds: float
    model: str
    class_names: tuple[str, ...]
    data_digest: str
    validation_accuracy: float | None
    best_validation_accuracy: float | None
    best_epoch: int | None
    partial: PartialEpoch | None = None
    """Of the epoch after `epochs_done`, where the checkpoint was written in the middle of it."""


def save(folder: Path, tensors: Mapping[str, np.ndarray], progress: Progress) -> None:
    """Write `last.safetensors`, and `best.safetensors` too where this epoch is the best so far; each whole or not.

    tensors: whole ones by name, as `ModelState.collect` gives them.
    """
    metadata = {"format": "horovod_flowers", "schema": str(SCHEMA), "progress": json.dumps(asdict(progress))}
    folder.mkdir(exist_ok=True)
    contiguous = {name: np.ascontiguousarray(value).reshape(value.shape) for name, value in tensors.items()}
    with whole_file(folder / "last.safetensors") as temporary:
        save_file(contiguous, temporary, metadata=metadata)
        if progress.best_epoch == progress.epochs_done and progress.partial is None:
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


def load(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> tuple[dict[str, np.ndarray], Progress]:
    """Read the tensors of these names and shapes, as `ModelState.shapes` gives them.

    Raises UserError where the file is missing, damaged, or of another model or optimizer.
    """
    with _opened(path) as (file, progress):
        stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dictionary)
    _refuse_mismatch(path, progress, shapes, stored)
    return {name: stored[name] for name in shapes}, progress


def load_averaged(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """The weights of these names to predict with: their running averages where the run kept them.

    Raises UserError as `load` does.
    """
    weights, _ = load(path, shapes)
    with _opened(path) as (file, _):
        for name in file.keys():  # noqa: SIM118 (not a dictionary)
            kind, _, number = name.partition(".")
            if kind == AVERAGE and weights[f"{WEIGHT}.{number}"].shape == file.get_tensor(name).shape:
                weights[f"{WEIGHT}.{number}"] = file.get_tensor(name)
    return weights


def read_progress(path: Path) -> Progress:
    """Where training stood, without the tensors. Raises UserError where the file is missing or damaged."""
    with _opened(path) as (_, progress):
        return progress


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, Progress]]:
    try:
        if path.exists() and not path.is_file():
            raise OSError("it is not a file")  # a named pipe would never end
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != "horovod_flowers" or metadata.get("schema") not in READABLE:
                raise UserError(f"{path} is not a checkpoint of this version of horovod_flowers")
            values = json.loads(metadata["progress"])
            partial = values.get("partial")
            converted = {
                "class_names": tuple(values["class_names"]),
                "partial": PartialEpoch(**partial) if partial else None,
            }
            yield file, Progress(**{**values, **converted})
    except FileNotFoundError as error:
        raise UserError(f"there is no checkpoint {path}: start the run without --resume") from error
    except (SafetensorError, OSError) as error:
        raise UserError(f"checkpoint {path} is damaged ({error}): use the other checkpoint beside it") from error


def _refuse_mismatch(
    path: Path, progress: Progress, shapes: Mapping[str, tuple[int, ...]], stored: Mapping[str, np.ndarray]
) -> None:
    for kind, what in ((WEIGHT, "model"), (OPTIMIZER, "optimizer"), (AVERAGE, "weight average")):
        wanted = {name: tuple(shape) for name, shape in shapes.items() if name.startswith(kind)}
        found = {name: value.shape for name, value in stored.items() if name.startswith(kind)}
        if wanted and wanted != found:  # a reader that has no optimizer takes the weights alone
            raise UserError(
                f"checkpoint {path} is of another {what} (model {progress.model}, {len(progress.class_names)} classes, "
                f"{len(found)} {kind} tensors; this run has {len(wanted)}, or other shapes): resume with the options "
                "of the run that wrote it"
            )
