"""What one rank sees of itself and its node."""

import hashlib
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil

from horovod_flowers.ranks.affinity import Cores
from horovod_flowers.ranks.communicator import Ranks
from horovod_flowers.ranks.mpi_start import pinned_by_mpi
from horovod_flowers.runlog.environment import CPU_FEATURES, versions
from horovod_flowers.runtime.machine import control_groups, cpu_flags, cpu_quota, machine_id
from horovod_flowers.runtime.temporary_space import scarce_space

CLOCK_EXCHANGES = 5
NOT_LOOKED_AT = "not looked at"
"""As the digest of images that nobody has asked for."""


@dataclass(frozen=True)
class RankFacts:
    """One rank's view."""

    rank: int
    local_rank: int
    host: str
    machine: str
    """The Linux kernel that it runs under: 'nodes' may be one machine."""
    bound_to: tuple[int, ...]
    """Logical CPUs that the launcher left it."""
    cores: Cores
    """Those that it takes of them."""
    threads: int
    """TensorFlow threads that it would start."""
    memory_bytes: int
    """Still available to all ranks of the node together."""
    cpu_quota: float | None
    """Cores' worth of time that the container may use; None without a limit."""
    cpu_features: tuple[str, ...]
    gpus: int
    versions: dict[str, str]
    sources: str
    """Of a node's first rank, else empty (`of_nodes` fills it in): digest of this package's files."""
    python: str
    clock_offset_seconds: float
    """Likewise: its time of day minus that of rank 0."""
    digest: str | None = None
    """Of the prepared images; None where there are none, or the drawn ones are not there yet; else NOT_LOOKED_AT."""
    data: str | None = None
    """What is wrong with the prepared images as this node sees them; None for nothing."""
    runs_dir: str | None = None
    """What is wrong with the folder of the runs as this node sees it."""
    scarce: tuple[str, ...] = ()
    """What its node has little room in."""
    interfaces: tuple[str, ...] = ()
    """What it reaches other nodes through."""
    pinned_by_mpi: bool = False
    """Whether MPI left it fewer CPUs than the launcher had, as it started."""


def gather_facts(ranks: Ranks, bound_to: frozenset[int], cores: Cores, threads: int) -> dict[str, Any]:
    """The fields of this rank's RankFacts that need no TensorFlow. Every rank calls it: the clocks are compared."""
    library = ranks.communicator.mpi_library
    return {
        "rank": ranks.rank,
        "local_rank": ranks.local_rank,
        "host": os.uname().nodename,
        "machine": machine_id(),
        "bound_to": tuple(sorted(bound_to)),
        "cores": cores,
        "threads": threads,
        "memory_bytes": available_memory_bytes(),
        "cpu_quota": cpu_quota(),
        "scarce": scarce_space(ranks.local_size),
        "cpu_features": tuple(feature for feature in CPU_FEATURES if feature in cpu_flags()),
        "versions": versions() | ({} if library is None else {"the MPI library": library}),
        "pinned_by_mpi": pinned_by_mpi(),
        "sources": digest_of_sources() if ranks.local_rank == 0 else "",
        "python": os.path.realpath(f"/proc/{os.getpid()}/exe"),
        "clock_offset_seconds": clock_offset_seconds(ranks),
    }


def available_memory_bytes() -> int:
    """What the node has left, or the job's limit where that is less."""
    left = [psutil.virtual_memory().available]
    for folder in control_groups():
        try:
            limit, used = ((folder / f"memory.{name}").read_text().strip() for name in ("max", "current"))
        except OSError:
            continue
        if limit != "max":
            left.append(max(0, int(limit) - int(used)))
    return min(left)


def digest_of_sources() -> str:
    """Of every Python file of this package: nodes with another copy of the code are found by it."""
    root, digest = Path(__file__).resolve().parents[1], hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(f"{path.relative_to(root)}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def clock_offset_seconds(ranks: Ranks) -> float:
    """This node's time of day minus that of rank 0's: the exchange with the shortest way there and back counts.

    Rank 0 answers the first rank of one node after the other; 0 for all other ranks. (Cristian, Probabilistic clock
    synchronization, 1989.)
    """
    world = ranks.communicator
    places = ranks.gather(ranks.local_rank)
    if places is not None:
        for other in (rank for rank, local_rank in enumerate(places) if rank and local_rank == 0):
            for _ in range(CLOCK_EXCHANGES):
                world.receive(source=other)
                world.send(time.time(), to=other)
        return 0.0
    if ranks.local_rank:
        return 0.0
    exchanges = []
    for _ in range(CLOCK_EXCHANGES):
        before, started = time.time(), time.monotonic()
        world.send(None, to=0)
        time_of_rank_0 = world.receive(source=0)
        way = time.monotonic() - started
        exchanges.append((way, before + way / 2 - time_of_rank_0))
    return min(exchanges)[1]


def of_nodes(facts: Sequence[RankFacts]) -> list[RankFacts]:
    """The same, where each rank has what only the first of its node looked at: its files and its clock."""
    first = {rank.host: rank for rank in reversed(facts) if rank.local_rank == 0}
    return [
        replace(
            rank,
            sources=first[rank.host].sources,
            clock_offset_seconds=first[rank.host].clock_offset_seconds,
        )
        if rank.host in first
        else rank
        for rank in facts
    ]


def interfaces_used() -> tuple[str, ...]:
    """What carries this process' traffic, from its open sockets and devices, once ranks have talked.

    Empty where it reached nobody outside its node.
    """
    devices = set()
    for descriptor in Path("/proc/self/fd").iterdir():
        try:
            target = os.readlink(descriptor)
        except OSError:
            continue
        if target.startswith("/dev/infiniband/"):
            devices |= {f"InfiniBand {path.name}" for path in Path("/sys/class/infiniband").glob("*")}
    name_of = {address.address: name for name, found in psutil.net_if_addrs().items() for address in found}
    speeds = psutil.net_if_stats()
    for connection in psutil.Process().net_connections("tcp"):
        name = name_of.get(connection.laddr.ip) if connection.status == psutil.CONN_ESTABLISHED else None
        if name is not None:
            speed = speeds[name].speed if name in speeds else 0
            devices.add(f"TCP {name}" + (f" {speed / 1000:g} Gbit/s" if speed else ""))
    outside = {device for device in devices if device != "TCP lo"}
    return tuple(sorted(outside or devices))
