"""Writes checkpoints beside the training, which waits while the state is copied and no longer."""

import contextlib
import os
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from horovod_flowers.checkpoint.format import SavedProgress, save_checkpoint

NICENESS = 10
"""Of the thread that writes, above that of the process; on Linux a thread's own. It takes little of the core that it
shares with the training, unless that waits. 19 more would hardly get on where all cores compute."""
_HIGHEST_NICENESS = 19


@dataclass(frozen=True)
class Written:
    """What a process has written of checkpoints."""

    checkpoints: int = 0
    size_bytes: int = 0
    seconds: float = 0.0
    """Of the thread that writes."""


class CheckpointWriter:
    """Writes one checkpoint at a time, from memory that it keeps: memory that is new has to be mapped page by page,
    which takes ten times as long as the copy. Rank 0 has one."""

    def __init__(self, folder: Path, keep: int, tensors: Mapping[str, tuple[tuple[int, ...], np.dtype]]) -> None:
        """`tensors`: shape and type of each by name; `keep` as `save_checkpoint` takes it."""
        self._folder, self._keep = folder, keep
        self._pool = ThreadPoolExecutor(1, "checkpoint", initializer=_step_back)
        self._allocated = self._pool.submit(_allocate, tensors)
        self._written: Future[None] | None = None
        self._total = Written()

    @property
    def total(self) -> Written:
        """Of all checkpoints that are written."""
        return self._total

    def buffers(self) -> dict[str, np.ndarray]:
        """Where the next checkpoint's tensors belong. Waits until the one before is written; raises what went wrong."""
        self.finish()
        return self._allocated.result()

    def begin(self, tensors: Mapping[str, np.ndarray], progress: SavedProgress) -> None:
        """Write these tensors, which stay as they are until `buffers` is called again."""
        self._written = self._pool.submit(self._save, tensors, progress)

    def _save(self, tensors: Mapping[str, np.ndarray], progress: SavedProgress) -> None:
        started = time.monotonic()
        size = save_checkpoint(self._folder, tensors, progress, self._keep)
        seconds, total = time.monotonic() - started, self._total
        self._total = Written(total.checkpoints + 1, total.size_bytes + size, total.seconds + seconds)

    @property
    def busy(self) -> bool:
        """Whether one is being written. Raises what went wrong with one that no longer is."""
        if self._written is None or not self._written.done():
            return self._written is not None
        self._written.result()
        return False

    def finish(self) -> None:
        """Wait until everything is written; raises what went wrong."""
        if self._written is not None:
            self._written.result()


def _step_back() -> None:
    # Only ever upwards, which needs no privilege: a job may be niced already. Where it is refused all the same, the
    # checkpoint matters more than the time that it takes from the training.
    with contextlib.suppress(OSError):
        thread = threading.get_native_id()
        inherited = os.getpriority(os.PRIO_PROCESS, thread)
        os.setpriority(os.PRIO_PROCESS, thread, min(inherited + NICENESS, _HIGHEST_NICENESS))


def _allocate(tensors: Mapping[str, tuple[tuple[int, ...], np.dtype]]) -> dict[str, np.ndarray]:
    allocated = {name: np.empty(shape, kind) for name, (shape, kind) in tensors.items()}
    for value in allocated.values():
        value.fill(0)  # maps its pages
    return allocated
