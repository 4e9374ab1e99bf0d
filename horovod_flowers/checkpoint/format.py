"""Checkpoints: weights, optimizer state and where training stood, in one safetensors file. No pickle.

Whole tensors, numbered in the model's and the optimizer's own order: a checkpoint does not tell which strategy wrote it
or on how many ranks. A CRC-32 over all of them and the progress tells damage, wherever in the file it is.

    last.safetensors                the newest
    earlier-STEPS.safetensors       those before it, as many as are kept
    best.safetensors                that of the epoch with the best validation accuracy
"""

import contextlib
import os
import re
import shutil
import stat
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from horovod_flowers.runlog.training_progress import TrainingProgress
from horovod_flowers.runtime.errors import UserError, first_line
from horovod_flowers.runtime.files import refusal_sentence, sync, whole_file, writing

SCHEMA = 3
UNCHECKED = ("1", "2")  # without checksum; 1 also without interrupted epochs
READABLE = (*UNCHECKED, "3")
WEIGHT, OPTIMIZER, AVERAGE, PER_RANK = "weight", "optimizer", "average", "apart"
"""What tensors' names begin with (model_state.ModelState gives them)."""

LAST, BEST = "last.safetensors", "best.safetensors"
_EARLIER = re.compile(r"earlier-(\d+)\.safetensors")


class DamagedError(UserError):
    """A checkpoint that is not as it was written."""


class SavedProgress(TrainingProgress, frozen=True, kw_only=True, forbid_unknown_fields=False):
    """Where training stood when the checkpoint was written, and of which model and images it is."""

    model: str
    class_names: tuple[str, ...]
    data_digest: str

    @staticmethod
    def of(
        progress: TrainingProgress, *, model: str, class_names: tuple[str, ...], data_digest: str
    ) -> "SavedProgress":
        """What a checkpoint says of a run."""
        reached = {name: getattr(progress, name) for name in TrainingProgress.__struct_fields__}
        return SavedProgress(**reached, model=model, class_names=class_names, data_digest=data_digest)

    def reached(self) -> TrainingProgress:
        """How far the run was."""
        return TrainingProgress(**{name: getattr(self, name) for name in TrainingProgress.__struct_fields__})


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was read, and checked."""

    path: Path
    tensors: dict[str, np.ndarray]
    progress: SavedProgress
    newer_damaged: tuple[str, ...] = ()
    """What is wrong with each that is newer."""


def save_checkpoint(folder: Path, tensors: Mapping[str, np.ndarray], progress: SavedProgress, keep: int = 1) -> int:
    """Write `last.safetensors`, and `best.safetensors` too where this epoch is the best so far; each whole or not.

    Returns the bytes that were written; where the best one is the same file under a second name, these count once.

    tensors: whole ones by name, as `ModelState.collect` gives them. keep: how many of the last ones there are then.
    """
    contiguous = {name: np.ascontiguousarray(value).reshape(value.shape) for name, value in tensors.items()}
    metadata = {"format": "horovod_flowers", "schema": str(SCHEMA), "progress": msgspec.json.encode(progress).decode()}
    metadata["crc32"] = _checksum(contiguous, metadata["progress"])
    last = folder / LAST
    with writing(last):
        folder.mkdir(exist_ok=True)
    with whole_file(last) as temporary:
        save_file(contiguous, temporary, metadata=metadata)
        sync(temporary)  # before anything that is there moves
        size = written = temporary.stat().st_size
        if progress.best_epoch == progress.epochs_done and progress.partial is None:
            # First, so that a crash in between never leaves a last checkpoint that speaks of a best one not there.
            with whole_file(folder / BEST) as second:
                if not _same_contents(temporary, second):
                    written += size
        if keep > 1:
            _set_aside(last, progress)
    for path in _earlier(folder)[keep - 1 :]:
        path.unlink(missing_ok=True)
    return written


def _set_aside(last: Path, newer: SavedProgress) -> None:
    """Keep what is the last checkpoint under another name, unless it is damaged or no older than the `newer` one."""
    try:
        steps = read_progress(last).steps
    except UserError:
        return
    if steps >= newer.steps:  # of what has been trained again since
        return
    earlier = last.with_name(f"earlier-{steps:08d}.safetensors")
    earlier.unlink(missing_ok=True)
    try:
        os.link(last, earlier)
    except OSError:  # no hard links here: for a moment there is no last one, and readers take this
        last.rename(earlier)


def _earlier(folder: Path) -> list[Path]:
    """The checkpoints before the last one, newest first."""
    found = ((_EARLIER.fullmatch(path.name), path) for path in folder.glob("earlier-*"))
    return [path for _, path in sorted(((int(name[1]), path) for name, path in found if name), reverse=True)]


def forget_later(folder: Path, steps: int) -> None:
    """Delete earlier checkpoints of more than so many steps, which a run that starts anew from there will repeat."""
    for path in _earlier(folder):
        name = _EARLIER.fullmatch(path.name)
        if name and int(name[1]) > steps:
            path.unlink()


def _checksum(tensors: Mapping[str, np.ndarray], progress: str) -> str:
    """CRC-32 over the names, types, shapes and values of contiguous tensors, and the progress.

    Against accidents, not against people, who could make any checksum anew; a quarter of SHA-256's time.
    """
    crc = zlib.crc32(progress.encode())
    for name in sorted(tensors):
        value = tensors[name]
        crc = zlib.crc32(f"{name} {value.dtype.str} {value.shape}".encode(), crc)
        crc = zlib.crc32(value.reshape(-1).view(np.uint8).data, crc)
    return f"{crc:08x}"


def _same_contents(file: Path, second: Path) -> bool:
    """Give a file a second name, or a copy where the file system has no hard links: whether it is the same file."""
    second.unlink()
    try:
        os.link(file, second)
    except OSError:
        shutil.copyfile(file, second)
        return False
    return True


def load_checkpoint(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> Checkpoint:
    """Read the tensors of these names and shapes, as `ModelState.shapes` gives them, and what is held per rank.

    Raises DamagedError; UserError where the file is missing, or of another model or optimizer.
    """
    stored, progress = _read(path)
    _refuse_mismatch(path, progress, shapes, stored)
    wanted = {name: value for name, value in stored.items() if name in shapes or name.startswith(PER_RANK)}
    return Checkpoint(path, wanted, progress)


def load_newest(folder: Path, shapes: Mapping[str, tuple[int, ...]], most_steps: int | None = None) -> Checkpoint:
    """`load_checkpoint` of the newest that is not damaged.

    most_steps: none of a run that had done more.

    Raises UserError where there is none, or it does not fit.
    """
    damaged: list[str] = []
    for path in checkpoint_files(folder, most_steps):
        try:
            return replace(load_checkpoint(path, shapes), newer_damaged=tuple(damaged))
        except DamagedError as error:
            damaged.append(str(error))
    if damaged:
        raise UserError(f"no checkpoint in {folder} can be read: {'; '.join(damaged)}: start another run")
    raise UserError(f"there is no checkpoint in {folder}: start the run without --resume")


def checkpoint_files(folder: Path, most_steps: int | None = None) -> list[Path]:
    """The checkpoints that are there, the newest first, of at most so many steps; one that does not tell counts."""

    def fits(path: Path) -> bool:
        try:
            return most_steps is None or read_progress(path).steps <= most_steps
        except DamagedError:
            return True

    last, best = folder / LAST, folder / BEST
    return [path for path in (last, *_earlier(folder), best) if path.exists() and fits(path)]


def load_averaged(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """The weights of these names to predict with: their running averages where the run kept them.

    Raises UserError as `load_checkpoint` does.
    """
    stored, progress = _read(path)
    _refuse_mismatch(path, progress, shapes, stored)
    averaged = _with_averages(stored)
    return {name: averaged[name] for name in shapes}


def stored_weights(path: Path) -> tuple[dict[str, np.ndarray], SavedProgress]:
    """The weights that a checkpoint holds, whatever model they are of, averaged ones as `load_averaged` takes them.

    Raises DamagedError; UserError where the file is missing.
    """
    stored, progress = _read(path)
    return {name: value for name, value in _with_averages(stored).items() if name.startswith(WEIGHT)}, progress


def _with_averages(stored: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """All tensors; in the place of a weight its running average, where there is one."""
    weights = dict(stored)
    for name, value in stored.items():
        kind, _, number = name.partition(".")
        weight = weights.get(f"{WEIGHT}.{number}")
        if kind == AVERAGE and weight is not None and weight.shape == value.shape:
            weights[f"{WEIGHT}.{number}"] = value
    return weights


def read_progress(path: Path) -> SavedProgress:
    """Where training stood, without a look at tensors or their checksum. Raises as `load_checkpoint` does."""
    with _opened(path) as (_, metadata):
        return _progress(path, metadata)


def _read(path: Path) -> tuple[dict[str, np.ndarray], SavedProgress]:
    """All tensors, checked. Raises as `load_checkpoint` does."""
    with _opened(path) as (file, metadata):
        progress = _progress(path, metadata)
        stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dictionary)
    unchecked = "crc32" not in metadata and metadata["schema"] in UNCHECKED
    if not unchecked and _checksum(stored, metadata["progress"]) != metadata.get("crc32"):
        raise DamagedError(f"checkpoint {path} is damaged (its checksum does not match)")
    return stored, progress


def _progress(path: Path, metadata: Mapping[str, str]) -> SavedProgress:
    if metadata.get("format") != "horovod_flowers" or metadata.get("schema") not in READABLE:
        raise DamagedError(f"{path} is not a checkpoint of this version of horovod_flowers")
    try:
        return msgspec.json.decode(metadata.get("progress", ""), type=SavedProgress)
    except msgspec.MsgspecError as error:
        raise DamagedError(f"checkpoint {path} is damaged ({error})") from error


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, dict[str, str]]]:
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise DamagedError(f"checkpoint {path} is not a file")  # a named pipe would never end
        with open(path, "rb"):  # safetensors says of a file that it may not read that it is not there
            pass
        with safe_open(path, framework="numpy") as file:
            yield file, file.metadata() or {}
    except FileNotFoundError as error:
        raise UserError(f"there is no checkpoint {path}: start the run without --resume") from error
    except PermissionError as error:
        raise UserError(refusal_sentence(path, error)) from error
    except (SafetensorError, OSError, TypeError, ValueError) as error:  # the last two: of a type that numpy has not
        raise DamagedError(f"checkpoint {path} is damaged ({first_line(error)})") from error


def _refuse_mismatch(
    path: Path, progress: SavedProgress, shapes: Mapping[str, tuple[int, ...]], stored: Mapping[str, np.ndarray]
) -> None:
    for kind, what in ((WEIGHT, "model"), (OPTIMIZER, "optimizer"), (AVERAGE, "weight average")):
        wanted = {name: tuple(shape) for name, shape in shapes.items() if name.startswith(kind)}
        found = {name: value.shape for name, value in stored.items() if name.startswith(kind)}
        if wanted and wanted != found:  # a reader that has no optimizer takes the weights alone
            raise UserError(
                f"checkpoint {path} belongs to another {what} (model {progress.model}, {len(progress.class_names)} "
                f"classes, {len(found)} {kind} tensors; this run has {len(wanted)}, or other shapes): resume with "
                "the options of the run that wrote it"
            )
