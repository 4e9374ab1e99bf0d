"""What the ranks measure together: Horovod's allreduce, and the way from each node to the next."""

import os
import statistics
import time
from dataclasses import dataclass

import numpy as np

from horovod_flowers.collectives.timing import time_calls
from horovod_flowers.ranks.communicator import Ranks

SMALL_BYTES, MEDIUM_BYTES, LARGE_BYTES = 1024, 2**20, 2**24
# A medium message that takes longer than this tells enough: a large one would take long.
SLOW_SECONDS = 0.02
CALLS = 15
PING_BYTES, PINGS = 2**20, 3


@dataclass(frozen=True)
class Neighbours:
    """The way between two nodes, measured by one rank of each with nobody else on it but other pairs."""

    first: str
    second: str
    latency_seconds: float
    """Half of a small message's way there and back."""
    bytes_per_second: float
    """Of a message of a megabyte."""
    both_ways: float = 1.0
    """Seconds in which each sends the other such a message at the same time, over those of one message alone: 1 where
    the link carries both directions at a time, 2 where they take turns."""


@dataclass(frozen=True)
class Link:
    """What communication costs in this job."""

    latency_seconds: float
    """Of an allreduce of 1 KiB by Horovod, of the slowest rank in the best call."""
    bytes_per_second: float
    """Bytes of a large allreduce over its seconds, of the slowest rank in the best call."""
    neighbours: tuple[Neighbours, ...]
    """Each node and the next one, in rank order."""


def measure_link(ranks: Ranks) -> Link | None:
    """Measure; None for one rank. Horovod has started. Every rank calls it, and gets the same."""
    if ranks.size == 1:
        return None
    latency = _best(SMALL_BYTES, ranks)
    size = MEDIUM_BYTES
    seconds = _best(size, ranks)
    if seconds < SLOW_SECONDS:
        size = LARGE_BYTES
        seconds = _best(size, ranks)
    return Link(latency, size / seconds, _neighbours(ranks))


def _best(size: int, ranks: Ranks) -> float:
    """Seconds of the fastest call: what else goes on there delays some calls, and is no property of the link."""
    return min(time_calls("allreduce", size, ranks, CALLS))


def _neighbours(ranks: Ranks) -> tuple[Neighbours, ...]:
    hosts = ranks.communicator.allgather(os.uname().nodename)
    leaders = [hosts.index(host) for host in dict.fromkeys(hosts)]
    found = []
    for parity in (0, 1):  # first each even node with the next, then each odd one: no node talks to two at once
        ranks.barrier()
        for place in range(parity, len(leaders) - 1, 2):
            pair = leaders[place], leaders[place + 1]
            if ranks.rank in pair:
                latency, seconds = (_ping(ranks, pair, size) for size in (1, PING_BYTES))
                both_ways = _exchange(ranks, pair, PING_BYTES) / seconds
                if ranks.rank == pair[0]:
                    found.append(Neighbours(hosts[pair[0]], hosts[pair[1]], latency, PING_BYTES / seconds, both_ways))
    gathered = ranks.communicator.allgather(found)
    return tuple(neighbours for of_rank in gathered for neighbours in of_rank)


def _exchange(ranks: Ranks, pair: tuple[int, int], size: int) -> float:
    """Median of the seconds in which each of the two has sent its message and has the other's: they take turns only in
    some exchanges, by which of the two was first."""
    sent, received, seconds = np.zeros(size, np.uint8), np.zeros(size, np.uint8), []
    other = pair[1] if ranks.rank == pair[0] else pair[0]
    for _ in range(PINGS + 1):
        started = time.monotonic()
        ranks.communicator.exchange_arrays(sent, received, other)
        seconds.append(time.monotonic() - started)
    return statistics.median(seconds[1:])


def _ping(ranks: Ranks, pair: tuple[int, int], size: int) -> float:
    """Half of the fewest seconds there and back."""
    world, buffer, seconds = ranks.communicator, np.zeros(size, np.uint8), []
    for _ in range(PINGS + 1):
        started = time.monotonic()
        if ranks.rank == pair[0]:
            world.send_array(buffer, to=pair[1])
            world.receive_array(buffer, source=pair[1])
        else:
            world.receive_array(buffer, source=pair[0])
            world.send_array(buffer, to=pair[0])
        seconds.append(time.monotonic() - started)
    return min(seconds[1:]) / 2
