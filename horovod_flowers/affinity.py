"""Which cores each rank of a node gets, and how many threads: arithmetic on affinity masks, no side effect.

TensorFlow takes all cores in every rank unless told otherwise, and mpirun's default binding puts all threads of a rank
on one core; both are set right from the masks of the ranks on one node.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Cores:
    """The cores of one rank."""

    cores: tuple[int, ...]
    """Logical CPUs that this rank runs on."""
    oversubscribed: bool
    """Whether another rank of the node runs on one of them too."""


def share_out(masks: Sequence[frozenset[int]]) -> list[Cores]:
    """Divide a node's cores over its ranks, given each rank's affinity mask in the order of local ranks.

    Ranks with the same mask divide it among themselves, in contiguous parts; ranks that the launcher bound apart keep
    what they have. Where a mask holds fewer cores than ranks, ranks take turns on single cores (oversubscribed).
    """
    parts: list[tuple[int, ...]] = []
    for local_rank, mask in enumerate(masks):
        place = sum(other == mask for other in masks[:local_rank])
        sharing = sum(other == mask for other in masks)
        cores = sorted(mask)
        if sharing <= len(cores):
            parts.append(tuple(cores[place * len(cores) // sharing : (place + 1) * len(cores) // sharing]))
        else:
            parts.append((cores[place % len(cores)],))
    return [
        Cores(part, any(set(part) & set(other) for k, other in enumerate(parts) if k != local_rank))
        for local_rank, part in enumerate(parts)
    ]


def unbound(masks: Sequence[frozenset[int]], local_rank: int) -> Cores:
    """The mask of a rank that is left as the launcher bound it; shared where it has fewer cores than ranks."""
    own = masks[local_rank]
    sharing = sum(bool(mask & own) for mask in masks)
    return Cores(tuple(sorted(own)), sharing > len(own))


def should_yield_when_idle(cores: int, ranks: int) -> bool:
    """Whether Open MPI should give up the core while it waits: yes without a spare core for its spinning thread.

    `cores` is the number of cores that the `ranks` ranks of a node may use. Horovod's background thread waits all the
    time; on one core a rank, its spinning takes that core from the mathematics.
    """
    return cores < 2 * ranks
