"""When a run writes checkpoints, and which of them it goes on from."""

import os
import time
from pathlib import Path

import numpy as np

from horovod_flowers.checkpoint.format import PER_RANK, SavedProgress, checkpoint_files, forget_later, load_newest
from horovod_flowers.checkpoint.model_state import ModelState
from horovod_flowers.checkpoint.writer import CheckpointWriter, Written
from horovod_flowers.config.run import RunConfig
from horovod_flowers.data.opening import TrainedOn, refuse_other_images
from horovod_flowers.data.prepared import Prepared
from horovod_flowers.ranks.communicator import Ranks
from horovod_flowers.runlog.run_folder import RunFolder
from horovod_flowers.runlog.training_progress import BEGINNING, TrainingProgress
from horovod_flowers.runtime.console import say, warn
from horovod_flowers.runtime.errors import GoneError, UserError
from horovod_flowers.runtime.heartbeat import HEARTBEAT


class CheckpointManager:
    """The checkpoints of one run. Every rank has one; rank 0 reads and writes."""

    def __init__(self, config: RunConfig, ranks: Ranks, prepared: Prepared, state: ModelState) -> None:
        self._config, self._ranks, self._prepared, self._state = config, ranks, prepared, state
        self._writer: CheckpointWriter | None = None
        self._copied: tuple[dict[str, np.ndarray], SavedProgress] | None = None
        self._steps_saved = 0
        self._folder: tuple[Path, tuple[int, int]] | None = None
        """That this process writes into, and what tells it from another of the same name; on rank 0."""

    def restore(self, folder: RunFolder) -> tuple[dict[str, np.ndarray] | None, TrainingProgress]:
        """The newest checkpoint that is sound, and where it stands. Rank 0 calls it; changes no file.

        To replay a step, the newest that is not after it, or None. Raises UserError where there is none, it does not
        fit, or nothing is left to do.
        """
        step = self._config.replay_step
        if step is not None and not checkpoint_files(folder.checkpoints, step):
            say("there is no checkpoint before this step: starting from the first step of the run")
            return None, BEGINNING
        found = load_newest(folder.checkpoints, self._state.shapes, step)
        saved = found.progress
        for sentence in found.newer_damaged:
            warn(f"{sentence}: falling back to the previous one, {found.path.name}")
        # One that died between its last checkpoint and its result has that left to write.
        if saved.epochs_done >= self._config.epochs and step is None and folder.result.exists():
            raise UserError(
                f"run {folder.path} has trained {saved.epochs_done} epochs already: give --epochs above that to go on"
            )
        trained_on = TrainedOn(folder.path, saved.class_names, saved.data_digest)
        refuse_other_images(trained_on, self._prepared.class_names, self._prepared.digest)
        say(f"resuming after epoch {saved.epochs_done}, step {saved.steps}")
        return found.tensors, saved.reached()

    def open(self, folder: RunFolder, progress: TrainingProgress) -> None:
        """Make ready to write into a run that stands there. Every rank calls it before it saves; again is no harm."""
        self._steps_saved = progress.steps
        if self._ranks.rank == 0 and self._writer is None:
            self._folder = folder.path, _identity(folder.path)
            forget_later(folder.checkpoints, progress.steps)
            self._writer = CheckpointWriter(folder.checkpoints, self._config.keep_checkpoints, self._state.layout)

    def due(self, steps_done: int) -> bool:
        """Whether one is to be written after so many steps of the run, in the middle of an epoch. Every rank calls it.

        One that comes due while the one before is still being written is put off: training does not wait. Raises what
        went wrong with the one before, on the rank that writes.
        """
        busy = self._writer is not None and self._writer.busy
        every = self._config.checkpoint_steps
        if every is None or steps_done - self._steps_saved < every:
            return False
        return not self._ranks.broadcast(busy)

    def save(self, progress: TrainingProgress) -> float:
        """`copy` and `begin`: seconds that this rank waited. Every rank calls it."""
        seconds = self.copy(progress)
        self.begin()
        return seconds

    def copy(self, progress: TrainingProgress) -> float:
        """Take what a checkpoint is to hold: seconds that this rank waited for it. Every rank calls it.

        Raises what went wrong with the one before.
        """
        HEARTBEAT.at("the checkpoint after step {}", progress.steps - 1, long=True)
        started = time.monotonic()
        tensors = self._state.collect(self._writer.buffers() if self._writer else None)
        apart = self._state.collect_per_rank() if progress.partial else {}
        if self._writer and tensors is not None and apart is not None:
            for name, values in apart.items():
                np.copyto(tensors[name.removeprefix(f"{PER_RANK}.")], values.mean(axis=0))
            saved = SavedProgress.of(
                progress,
                model=self._config.model.name,
                class_names=self._prepared.class_names,
                data_digest=self._prepared.digest,
            )
            self._copied = (tensors | apart, saved)
        self._steps_saved = progress.steps
        return time.monotonic() - started

    def check_folder(self) -> None:
        """Raise GoneError where the folder of that name is no longer the one that this run began in, on rank 0: another
        run has replaced it, and would get this one's checkpoints and result."""
        if self._folder is None:
            return
        path, identity = self._folder
        try:
            same = _identity(path) == identity
        except FileNotFoundError:
            return  # told by what is written next
        if not same:
            raise GoneError(
                f"{path} was replaced by another run while this one trained, which ends: start it under another name"
            )

    def begin(self) -> None:
        """Write what `copy` has taken."""
        if self._writer and self._copied:
            self.check_folder()
            self._writer.begin(*self._copied)
            self._copied = None

    @property
    def written(self) -> Written:
        """What this process has written, on rank 0; nothing elsewhere."""
        return self._writer.total if self._writer else Written()

    def finish(self) -> None:
        """Wait until all are written. Raises what went wrong."""
        HEARTBEAT.at("writing the last checkpoint", long=True)
        if self._writer:
            self._writer.finish()


def _identity(folder: Path) -> tuple[int, int]:
    status = os.stat(folder)
    return status.st_dev, status.st_ino
