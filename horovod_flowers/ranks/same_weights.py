"""Whether ranks that should hold the same weights do: checksums of the bits, compared over ranks.

Ranks that have added up the same numbers in the same order hold the same, bit by bit.
"""

import os
import zlib
from collections import Counter
from dataclasses import replace
from typing import Protocol

import numpy as np

from horovod_flowers.ranks.communicator import Communicator, Ranks
from horovod_flowers.runtime.errors import JobError

MOST_NAMED = 8
"""Ranks in a message."""


def checksum(values: np.ndarray, before: int = 0) -> int:
    """CRC-32 of the bits of an array in C order, after what was summed up before."""
    return zlib.crc32(values.reshape(-1).view(np.uint8).data, before)


class Copies(Protocol):
    """Where parts of weights are held, as `strategy.layout.Groups` has it."""

    @property
    def copies(self) -> Communicator:
        """The ranks that hold the same parts."""
        ...

    @property
    def members(self) -> Communicator:
        """The ranks that hold a copy of the weights together."""
        ...


def refuse_drift(ranks: Ranks, told: str, whole: int, part: int = 0, groups: Copies | None = None) -> None:
    """Raise a JobError on every rank where one holds other weights than most. Every rank calls it.

    whole: checksum of what all ranks hold alike; part: of what the copies in `groups` do. told: when it was seen and
    what to look for, the end of the sentence that begins with which ranks no longer match.
    """
    parts_differ = groups is not None and not all(replace(ranks, communicator=groups.copies).same_on_all([part]))
    if all(ranks.same_on_all([whole])) and not ranks.allreduce_max(parts_differ):
        return
    place = 0 if groups is None else groups.members.rank
    gathered = ranks.allgather((whole, place, part, os.uname().nodename))  # now their names are wanted
    usual = Counter(sums[0] for sums in gathered).most_common(1)[0][0]
    usual_part = {
        place: Counter(sums[2] for sums in gathered if sums[1] == place).most_common(1)[0][0]
        for place in {sums[1] for sums in gathered}
    }
    drifted = [
        f"rank {rank} on {host}"
        for rank, (mine, of, slices, host) in enumerate(gathered)
        if mine != usual or slices != usual_part[of]
    ]
    who = ", ".join(drifted[:MOST_NAMED]) + (" and others" if drifted[MOST_NAMED:] else "")
    differ = f"{who} no longer match those of the other ranks"
    if 2 * len(drifted) >= ranks.size:  # which of them are right is not to be seen
        differ = f"rank 0 on {gathered[0][3]} and {who} no longer match"
    raise JobError(f"the weights of {differ} {told}")
