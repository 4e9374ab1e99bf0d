"""What an elastic job hears of its hosts, and the commit that its ranks agree to go on from."""

from dataclasses import replace
from typing import Any

import numpy as np

from horovod_flowers.ranks.communicator import Communicator
from horovod_flowers.training.elastic_commits import Commit


class HostNews:
    """Whether horovodrun has said that there are other hosts; it says so to rank 0."""

    def __init__(self) -> None:
        """Register with horovodrun."""
        from horovod.common.elastic import notification_manager

        notification_manager.init()
        notification_manager.register_listener(self)
        self.hosts_changed = False

    def on_hosts_updated(self, timestamp: int, result: Any) -> None:
        """Called by Horovod's thread."""
        self.hosts_changed = True


def newest(world: Communicator, own: Commit | None, root: int) -> Commit:
    """The root's commit; its tensors on rank 0 alone, which shares them as those of a checkpoint.

    Every rank calls it. A commit is taken by all ranks or, where one was lost meanwhile, by some: they have the newest.
    """
    rank = world.rank
    newest_commit: Commit = world.broadcast(None if own is None or rank != root else replace(own, tensors={}), root)
    tensors = own.tensors if own is not None and rank == root else {}
    if root != 0:  # a new process, or one that was late to commit, has become rank 0
        shapes = world.broadcast({name: (value.shape, value.dtype.str) for name, value in tensors.items()}, root)
        for name, (shape, dtype) in shapes.items():
            value = np.ascontiguousarray(tensors[name]) if rank == root else np.empty(shape, dtype)
            flat = value.reshape(-1)
            world.broadcast_array(flat, root)
            tensors = {**tensors, name: flat.reshape(shape)}
    return replace(newest_commit, tensors=tensors if rank == 0 else {})
