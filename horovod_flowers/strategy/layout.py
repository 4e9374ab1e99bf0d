"""Where the values of a weight lie: whole on every rank, or in slices over a group of ranks.

Checkpoints hold whole weights in the model's own order. A layout turns what lies on the ranks into that and back, so
that a checkpoint of any strategy at any number of ranks is one of all.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from horovod_flowers.ranks.communicator import Communicator, Ranks
from horovod_flowers.ranks.single_process import SingleProcess
from horovod_flowers.runtime.heartbeat import HEARTBEAT


@dataclass(frozen=True)
class Slice:
    """Consecutive elements of a flattened weight."""

    start: int
    size: int


def equal_slices(elements: int, parts: int) -> list[Slice]:
    """Divide `elements` over `parts`, as equally as possible, the first parts getting more.

    The same division as Horovod's reducescatter makes of a first dimension.
    """
    share, more = divmod(elements, parts)
    sizes = [share + (part < more) for part in range(parts)]
    return [Slice(sum(sizes[:part]), size) for part, size in enumerate(sizes)]


@dataclass(frozen=True)
class Part:
    """What one rank holds of one weight."""

    shape: tuple[int, ...]
    """Of the whole weight."""
    slices: tuple[Slice, ...] | None = None
    """Of each member of the rank's group, which together are the whole weight; None where every rank holds all."""

    @property
    def elements(self) -> int:
        """Of the whole weight."""
        return math.prod(self.shape)


ONE_RANK = SingleProcess()


@dataclass(frozen=True)
class Groups:
    """Communicators of a layout, by default of a single rank."""

    world: Communicator = ONE_RANK
    members: Communicator = ONE_RANK
    """The ranks that hold one copy of a divided weight, in the order of its slices."""
    copies: Communicator = ONE_RANK
    """The ranks that hold the same slice, one a group."""

    @staticmethod
    def of(ranks: Ranks, size: int) -> "Groups":
        """Communicators of groups of `size` consecutive ranks, and across them. Every rank calls it."""
        world = ranks.communicator
        if size == ranks.size:  # one group: nobody else holds the same slice
            return Groups(world, members=world)
        return Groups(world, world.split(ranks.rank // size), world.split(ranks.rank % size))

    @property
    def at_root(self) -> bool:
        """Whether this is world rank 0."""
        return self.world.rank == 0

    def collect(self, part: Part, value: np.ndarray, whole: np.ndarray | None) -> None:
        """Fill `whole`, which world rank 0 alone has, with the whole weight. Every rank calls it."""
        if part.slices is None:
            if whole is not None:
                np.copyto(whole, value)
            return
        if self.copies.rank != 0:  # only the group of world rank 0
            return
        sizes = [item.size for item in part.slices]
        flat = None if whole is None else whole.reshape(-1)
        with HEARTBEAT.waiting():
            self.members.gather_slices(np.ascontiguousarray(value).reshape(-1), sizes, flat)

    def hand_out(self, part: Part, whole: np.ndarray | None, dtype: Any) -> np.ndarray:
        """This rank's share of a whole weight that world rank 0 has. Every rank calls it."""
        if part.slices is None:
            value = np.empty(part.shape, dtype) if whole is None else np.ascontiguousarray(whole, dtype)
            value = value.reshape(-1)  # contiguous, of at least one dimension
            with HEARTBEAT.waiting():
                self.world.broadcast_array(value)
            return value.reshape(part.shape)
        own = np.empty(part.slices[self.members.rank].size, dtype)
        with HEARTBEAT.waiting():
            if self.copies.rank == 0:
                sizes = [item.size for item in part.slices]
                flat = None if whole is None else np.ascontiguousarray(whole, dtype).reshape(-1)
                self.members.scatter_slices(flat, sizes, own)
            self.copies.broadcast_array(own)
        return own
