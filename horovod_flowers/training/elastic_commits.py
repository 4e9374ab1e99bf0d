"""What ranks keep in memory of an elastic run, to go on from when one of them is lost."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from horovod_flowers.config.run import RunConfig
from horovod_flowers.ranks.communicator import Ranks
from horovod_flowers.runlog.records import EpochRecord
from horovod_flowers.runlog.training_progress import TrainingProgress


@dataclass(frozen=True)
class Commit:
    """A run at the end of an update: the same on every rank."""

    config: RunConfig
    progress: TrainingProgress
    tensors: dict[str, np.ndarray]
    """As `ModelState.collect` names them."""
    epoch: EpochRecord | None
    """Of the last epoch done, where this job has done one."""

    @property
    def step(self) -> int:
        """The first step that is not in it."""
        return self.progress.steps


class HostsChanged(Exception):
    """horovodrun has found other hosts: the ranks meet again. Nothing is lost."""


class News(Protocol):
    """Whether the launcher has told this rank that there are other hosts."""

    hosts_changed: bool


class Commits:
    """The commit of this process, and when the next one is due."""

    def __init__(self, news: News) -> None:
        self._news = news
        self._updates = 0
        self._epoch: EpochRecord | None = None
        self.last: Commit | None = None

    def begin(self, commit: Commit, rank: int) -> None:
        """Go on from the newest commit, with other ranks than before; rank 0 has its tensors."""
        self._updates, self._epoch = 0, commit.epoch
        if rank == 0:
            self.last = commit

    def due(self, every: int) -> bool:
        """Count an update; whether it is one that a commit follows. The same on every rank."""
        self._updates += 1
        return self._updates % every == 0

    def take(
        self,
        config: RunConfig,
        progress: TrainingProgress,
        tensors: dict[str, np.ndarray],
        epoch: EpochRecord | None,
    ) -> None:
        """Keep the tensors, copies that training does not change."""
        self._epoch = epoch or self._epoch
        self.last = Commit(config.without_start_options(), progress, tensors, self._epoch)

    def check_hosts(self, ranks: Ranks) -> None:
        """Raise HostsChanged on all ranks if horovodrun has found other hosts. Every rank calls it, after a commit."""
        if ranks.allreduce_max(self._news.hosts_changed):
            raise HostsChanged
