"""Where the values of a weight lie: whole on every rank, or in slices over a group of ranks.

Checkpoints hold whole weights in the model's own order. A layout turns what lies on the ranks into that and back, so
that a checkpoint of any strategy at any number of ranks is one of all.
"""

import math
from collections.abc import Iterator
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


@dataclass(frozen=True)
class EqualSlices:
    """The slices of `elements` divided over `parts`, as equally as possible, the first parts getting more.

    The same division as Horovod's reducescatter makes of a first dimension. It is worked out where it is asked for: of
    thousands of ranks, each would keep as many slices of every weight. No collections.abc.Sequence: TensorFlow takes
    those apart.
    """

    elements: int
    parts: int
    unit: int = 1
    """Values of an element: of rows of a kernel, its columns."""

    def __len__(self) -> int:
        return self.parts

    def __iter__(self) -> Iterator[Slice]:
        return (self[part] for part in range(self.parts))

    def __getitem__(self, part: int) -> Slice:
        if not -self.parts <= part < self.parts:
            raise IndexError(f"part {part} of {self.parts}")
        number, (share, longer) = part % self.parts, divmod(self.elements, self.parts)
        start = number * share + min(number, longer)
        return Slice(start * self.unit, (share + (number < longer)) * self.unit)

    @property
    def sizes(self) -> list[int]:
        """Of all slices."""
        return [size for run in self.runs for size in [run.size] * run.count]

    @property
    def largest(self) -> int:
        """The size of the first slice."""
        return self[0].size

    @property
    def runs(self) -> list["Run"]:
        """The slices as one or two runs of equal ones."""
        share, longer = divmod(self.elements, self.parts)
        first = Run(0, longer, (share + 1) * self.unit)
        second = Run(first.end, self.parts - longer, share * self.unit)
        return [run for run in (first, second) if run.count]


@dataclass(frozen=True)
class Run:
    """Neighbouring slices of one size."""

    start: int
    count: int
    size: int

    @property
    def end(self) -> int:
        """Where the next slice begins."""
        return self.start + self.count * self.size


@dataclass(frozen=True)
class Part:
    """What one rank holds of one weight."""

    shape: tuple[int, ...]
    """Of the whole weight."""
    slices: EqualSlices | None = None
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
        sizes = part.slices.sizes
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
                sizes = part.slices.sizes
                flat = None if whole is None else np.ascontiguousarray(whole, dtype).reshape(-1)
                self.members.scatter_slices(flat, sizes, own)
            self.copies.broadcast_array(own)
        return own
