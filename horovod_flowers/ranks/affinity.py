"""Which cores each rank of a node gets, and how many threads: affinity masks read and divided, nothing changed.

TensorFlow takes all cores in every rank unless told otherwise, and mpirun's default binding puts all threads of a rank
on one core; both are set right from the masks of the ranks on one node. Two hyperthreads of one core are one core here:
they share the units that do a network's arithmetic.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Cores:
    """The cores of one rank."""

    cpus: tuple[int, ...]
    """Logical CPUs that this rank may run on."""
    physical: int
    """How many cores that is, hyperthreads of one core counted once."""
    oversubscribed: bool
    """Whether another rank of the node runs on one of these cores too."""


def share_out(
    masks: Sequence[frozenset[int]], core_of: Mapping[int, tuple[int, ...]], most: int | None = None
) -> list[Cores]:
    """Divide a node's cores over its ranks, given each rank's affinity mask in the order of local ranks.

    Ranks with the same mask divide its cores among themselves, equally many and next to each other (what does not
    divide stays idle: ranks of unequal speed would wait for the slowest); ranks that the launcher bound apart keep what
    they have. Where a mask holds fewer cores than ranks, ranks take turns on single cores (oversubscribed).

    `core_of` tells the core of each logical CPU; `most` limits the cores of a rank.
    """
    parts = []
    for local_rank, mask in enumerate(masks):
        place = sum(other == mask for other in masks[:local_rank])
        sharing = sum(other == mask for other in masks)
        cores = sorted({core_of[cpu] for cpu in mask})
        share = max(1, len(cores) // sharing)
        start = place * share % len(cores)
        parts.append((mask, cores[start : start + min(share, most or share)]))
    return [
        Cores(
            cpus=tuple(sorted(cpu for cpu in mask if core_of[cpu] in own)),
            physical=len(own),
            oversubscribed=any(set(own) & set(other) for k, (_, other) in enumerate(parts) if k != local_rank),
        )
        for local_rank, (mask, own) in enumerate(parts)
    ]


def unbound(masks: Sequence[frozenset[int]], core_of: Mapping[int, tuple[int, ...]], local_rank: int) -> Cores:
    """The mask of a rank that is left as the launcher bound it; shared where it has fewer cores than ranks."""
    own = masks[local_rank]
    sharing = sum(bool(mask & own) for mask in masks)
    physical = len({core_of[cpu] for cpu in own})
    return Cores(tuple(sorted(own)), physical, sharing > physical)


def should_yield_when_idle(mask: int, online: int, ranks: int, most: int | None = None) -> bool:
    """Whether Open MPI should give up the core while it waits: yes without a spare core for its spinning thread.

    Horovod's background thread waits all the time; on one core per rank, its spinning takes that core from the
    mathematics. Decided before MPI starts, from what one rank can see: the logical CPUs of its affinity `mask`, those
    `online` on the node, the `ranks` on it, and the most cores that a rank is to take. A mask smaller than the node is
    taken for the rank's own, a full one for shared.
    """
    own = mask if mask < online else mask // ranks
    return min(own, most or own) < 2


def spans(cpus: Sequence[int]) -> str:
    """0-3,8 for 0, 1, 2, 3 and 8."""
    spans: list[list[int]] = []
    for cpu in cpus:
        if spans and cpu == spans[-1][1] + 1:
            spans[-1][1] = cpu
        else:
            spans.append([cpu, cpu])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in spans)
