"""When a run writes checkpoints, and which of them it goes on from."""

import time

import numpy as np

from horovod_flowers import checkpoint
from horovod_flowers.checkpoint_writer import CheckpointWriter
from horovod_flowers.config import RunConfig
from horovod_flowers.data.prepared import Prepared
from horovod_flowers.errors import UserError
from horovod_flowers.model_state import ModelState
from horovod_flowers.position import POSITION
from horovod_flowers.progress import say, warn
from horovod_flowers.ranks import Ranks
from horovod_flowers.runlog import RunFolder
from horovod_flowers.standing import Standing


class Checkpointing:
    """The checkpoints of one run. Every rank has one; rank 0 reads and writes."""

    def __init__(self, config: RunConfig, ranks: Ranks, prepared: Prepared, state: ModelState) -> None:
        self._config, self._ranks, self._prepared, self._state = config, ranks, prepared, state
        self._writer: CheckpointWriter | None = None
        self._copied: tuple[dict[str, np.ndarray], checkpoint.Progress] | None = None
        self._steps_saved = 0

    def restore(self, folder: RunFolder) -> tuple[dict[str, np.ndarray] | None, Standing]:
        """The newest checkpoint that is sound, and where it stands. Rank 0 calls it; changes no file.

        To replay a step, the newest that is not after it, or None. Raises UserError where there is none, it does not
        fit, or nothing is left to do.
        """
        step = self._config.replay_step
        if step is not None and not checkpoint.candidates(folder.checkpoints, step):
            say("no checkpoint is before this step: beginning with the run's first step")
            return None, Standing()
        tensors, saved, path, damaged = checkpoint.load_newest(folder.checkpoints, self._state.shapes, step)
        for sentence in damaged:
            warn(f"{sentence}: the one before it is used, {path.name}")
        # One that died between its last checkpoint and its result has that left to write.
        if saved.epochs_done >= self._config.epochs and step is None and folder.result.exists():
            raise UserError(
                f"run {folder.path} has trained {saved.epochs_done} epochs already: give --epochs above that to go on"
            )
        if (saved.class_names, saved.data_digest) != (self._prepared.class_names, self._prepared.digest):
            raise UserError(
                f"run {folder.path} was trained on other images (classes {', '.join(saved.class_names)}): give it the "
                "same photos, or start another run"
            )
        say(f"resuming after epoch {saved.epochs_done}, step {saved.steps}")
        return tensors, Standing.of(saved)

    def open(self, folder: RunFolder, standing: Standing) -> None:
        """Make ready to write into a run that stands there. Every rank calls it before it saves; again is no harm."""
        self._steps_saved = standing.steps
        if self._ranks.rank == 0 and self._writer is None:
            checkpoint.forget_later(folder.checkpoints, standing.steps)
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

    def save(self, standing: Standing) -> float:
        """`copy` and `begin`: seconds that this rank waited. Every rank calls it."""
        seconds = self.copy(standing)
        self.begin()
        return seconds

    def copy(self, standing: Standing) -> float:
        """Take what a checkpoint is to hold: seconds that this rank waited for it. Every rank calls it.

        Raises what went wrong with the one before.
        """
        POSITION.at("the checkpoint after step {}", standing.steps - 1, long=True)
        started = time.monotonic()
        tensors = self._state.collect(self._writer.buffers() if self._writer else None)
        apart = self._state.collect_apart() if standing.partial else {}
        if self._writer and tensors is not None and apart is not None:
            for name, values in apart.items():
                np.copyto(tensors[name.removeprefix(f"{checkpoint.APART}.")], values.mean(axis=0))
            progress = standing.progress(self._config.model.name, self._prepared.class_names, self._prepared.digest)
            self._copied = (tensors | apart, progress)
        self._steps_saved = standing.steps
        return time.monotonic() - started

    def begin(self) -> None:
        """Write what `copy` has taken."""
        if self._writer and self._copied:
            self._writer.begin(*self._copied)
            self._copied = None

    def finish(self) -> None:
        """Wait until all are written. Raises what went wrong."""
        POSITION.at("writing the last checkpoint", long=True)
        if self._writer:
            self._writer.finish()
