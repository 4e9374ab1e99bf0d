"""What ranks keep in memory of a run, to go on from when one of them is lost."""

import copy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from horovod_flowers.config import RunConfig
from horovod_flowers.elastic.world import GlooWorld
from horovod_flowers.ranks import Ranks
from horovod_flowers.runlog import EpochRecord
from horovod_flowers.standing import Standing


@dataclass(frozen=True)
class Commit:
    """A run at the end of an update: the same on every rank."""

    config: RunConfig
    standing: Standing
    tensors: dict[str, np.ndarray]
    """As `ModelState.collect` names them."""
    epoch: EpochRecord | None
    """Of the last epoch done, where this job has done one."""

    @property
    def step(self) -> int:
        """The first step that is not in it."""
        return self.standing.steps


class HostsChanged(Exception):
    """horovodrun has found other hosts: the ranks meet again. Nothing is lost."""


class HostNews:
    """Whether horovodrun has said that there are other hosts; it says so to rank 0."""

    def __init__(self) -> None:
        """Register with horovodrun."""
        from horovod.common.elastic import notification_manager

        notification_manager.init()
        notification_manager.register_listener(self)
        self.told = False

    def on_hosts_updated(self, timestamp: int, result: Any) -> None:
        """Called by Horovod's thread."""
        self.told = True


class Commits:
    """The commit of this process, and when the next one is due."""

    def __init__(self, news: HostNews) -> None:
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
        self, config: RunConfig, standing: Standing, tensors: dict[str, np.ndarray], epoch: EpochRecord | None
    ) -> None:
        """Keep copies of the tensors, which training goes on to change."""
        kept = {name: np.array(value) for name, value in tensors.items()}
        going_on = replace(config, resume=False, resume_or_start=False, overwrite=False)
        self._epoch = epoch or self._epoch
        self.last = Commit(going_on, copy.copy(standing), kept, self._epoch)

    def check_hosts(self, ranks: Ranks) -> None:
        """Raise HostsChanged on all ranks if horovodrun has found other hosts. Every rank calls it, after a commit."""
        if ranks.largest(self._news.told):
            raise HostsChanged


def newest(world: GlooWorld, own: Commit | None, root: int) -> Commit:
    """The root's commit; its tensors on rank 0 alone, which shares them as those of a checkpoint.

    Every rank calls it. A commit is taken by all ranks or, where one was lost meanwhile, by some: they have the newest.
    """
    rank = world.Get_rank()
    told = world.bcast(None if own is None or rank != root else replace(own, tensors={}), root)
    tensors = own.tensors if own is not None and rank == root else {}
    if root != 0:  # a new process, or one that was late to commit, has become rank 0
        shapes = world.bcast({name: (value.shape, value.dtype.str) for name, value in tensors.items()}, root)
        for name, (shape, dtype) in shapes.items():
            value = np.ascontiguousarray(tensors[name]) if rank == root else np.empty(shape, dtype)
            flat = value.reshape(-1)
            world.Bcast(flat, root)
            tensors = {**tensors, name: flat.reshape(shape)}
    commit: Commit = replace(told, tensors=tensors if rank == 0 else {})
    return commit
