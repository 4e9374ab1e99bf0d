"""From what the ranks saw and measured to problems, each with its remedy: rules only, no MPI and no TensorFlow."""

import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from horovod_flowers.mpi.library import MpiLibrary
from horovod_flowers.mpi.open_mpi import OpenMpi
from horovod_flowers.preflight.link import Link
from horovod_flowers.preflight.rank_facts import RankFacts

LEAST_MEMORY_BYTES = 1.5 * 2**30
"""What a rank of the flower CNN takes at its peak (32 images a rank; docs/strategies.md)."""
MOST_CLOCK_SECONDS = 2.0
FRACTION_OF_OTHERS = 1 / 3
"""A link that carries less than this share of what the median one does is slow."""
TAKES_TURNS = 1.6
"""Times a message, that an exchange of two takes: from here on it is rather one after the other than both at once."""
NAMED = 4


@dataclass(frozen=True)
class Finding:
    """Something that is wrong, or worth knowing."""

    text: str
    remedy: str | None
    """What to try; None for what is only worth knowing."""


@dataclass(frozen=True)
class Limits:
    """What is still accepted."""

    oversubscribe: bool = False
    least_bytes_per_second: float = 0.0
    most_latency_seconds: float = float("inf")


def find(
    ranks: Sequence[RankFacts],
    link: Link | None,
    features: Sequence[str],
    limits: Limits,
    library: MpiLibrary | None = None,
) -> list[Finding]:
    """All findings, problems first, with remedies in the words of the ranks' MPI; None: those of Open MPI."""
    library = library or OpenMpi("")
    found = [
        *_unlike(ranks),
        *_shared_cores(ranks, limits, library),
        *_threads(ranks),
        *_narrow(ranks, library),
        *_quota(ranks),
        *_memory(ranks),
        *_folders(ranks),
        *_clocks(ranks),
        *_gpus(ranks, features),
        *_link(ranks, link, limits, library),
    ]
    return sorted(found, key=lambda finding: finding.remedy is None)


def _unlike(ranks: Sequence[RankFacts]) -> Iterator[Finding]:
    first = ranks[0]
    same = "activate the same environment on every node (slurm/site.sh), on a file system that all of them see"
    for name in sorted({name for rank in ranks for name in rank.versions}):
        by_value: dict[str, list[str]] = {}
        for rank in ranks:
            by_value.setdefault(rank.versions.get(name, "missing"), []).append(rank.host)
        if len(by_value) > 1:
            shown = "; ".join(f"{value} on {_names(hosts)}" for value, hosts in by_value.items())
            yield Finding(f"{name} differs: {shown}", same)
    others = [rank.host for rank in ranks if rank.sources != first.sources]
    if others:
        yield Finding(f"the code of horovod_flowers on {_names(others)} is not that on {first.host}", same)
    pythons = {rank.python for rank in ranks}
    if len(pythons) > 1:
        yield Finding(f"ranks run different Pythons: {', '.join(sorted(pythons))}", same)
    unlike = [rank.host for rank in ranks if rank.cpu_features != first.cpu_features]
    if unlike:
        yield Finding(
            f"{_names(unlike)} and {first.host} have CPUs of different kinds: the slower ones set the pace", None
        )


def _shared_cores(ranks: Sequence[RankFacts], limits: Limits, library: MpiLibrary) -> Iterator[Finding]:
    for machine in dict.fromkeys(rank.machine for rank in ranks):
        on_machine = [rank for rank in ranks if rank.machine == machine]
        sharing = [rank for rank in on_machine if rank.cores.oversubscribed]
        if not sharing:
            continue
        hosts = list(dict.fromkeys(rank.host for rank in on_machine))
        where = hosts[0] if len(hosts) == 1 else f"{_names(hosts)}, which are one machine,"
        text = (
            f"oversubscribed: ranks {_numbers(sharing)} on {where} share cores; their times are not a measure of speed"
        )
        cpus = len({cpu for rank in on_machine for cpu in rank.bound_to})
        bound = any(set(rank.bound_to) != set(on_machine[0].bound_to) for rank in on_machine) or cpus < len(on_machine)
        remedy = f"start fewer ranks there, or ask for more cores (these have {cpus} CPUs)"
        if bound and cpus < len(on_machine):
            remedy += f"; if the node has more, the launcher binds ranks: {library.unbound_advice}"
        elif bound:
            remedy = f"leave binding to the ranks: {library.unbound_advice}"
        yield Finding(text, None if limits.oversubscribe else f"{remedy}; or say --oversubscribe where it is meant")


def _threads(ranks: Sequence[RankFacts]) -> Iterator[Finding]:
    crowded = [rank for rank in ranks if rank.threads > rank.cores.physical]
    if crowded:
        worst = min(crowded, key=lambda rank: rank.cores.physical)
        yield Finding(
            f"more threads than cores: rank {worst.rank} on {worst.host} has {_count(worst.cores.physical, 'core')} "
            f"and starts {worst.threads} threads",
            f"give --threads {worst.cores.physical}, or 0 for as many as there are, or start fewer ranks per node",
        )


def _narrow(ranks: Sequence[RankFacts], library: MpiLibrary) -> Iterator[Finding]:
    """Ranks whose launcher, or MPI, bound each to less than it could have: nothing is shared, and cores may idle."""
    holders = Counter((rank.machine, rank.bound_to) for rank in ranks)
    single = [
        rank
        for rank in ranks
        if rank.cores.physical == 1 and not rank.cores.oversubscribed and holders[rank.machine, rank.bound_to] == 1
    ]
    if len(ranks) > 1 and len(single) == len(ranks) and len({rank.machine for rank in ranks}) < len(ranks):
        who = "the launcher"
        if all(rank.pinned_by_mpi for rank in ranks):
            who = f"{library.name} by itself, as it does unless told otherwise ({library.unbound_advice}),"
        yield Finding(f"{who} bound each rank to one core: where nodes have more, they stay idle", None)


def _quota(ranks: Sequence[RankFacts]) -> Iterator[Finding]:
    for machine in dict.fromkeys(rank.machine for rank in ranks):
        on_machine = [rank for rank in ranks if rank.machine == machine]
        cores = len({cpu for rank in on_machine for cpu in rank.cores.cpus})
        quotas = [rank.cpu_quota for rank in on_machine if rank.cpu_quota is not None]
        if quotas and min(quotas) + 0.01 < cores:
            yield Finding(
                f"{on_machine[0].host} may use {min(quotas):g} cores' worth of time, and its ranks take {cores} CPUs",
                "raise the container's CPU limit, or start fewer ranks or threads",
            )


def _memory(ranks: Sequence[RankFacts]) -> Iterator[Finding]:
    for machine in dict.fromkeys(rank.machine for rank in ranks):
        on_machine = [rank for rank in ranks if rank.machine == machine]
        left = min(rank.memory_bytes for rank in on_machine)
        if left < LEAST_MEMORY_BYTES * len(on_machine):
            yield Finding(
                f"{on_machine[0].host} has {left / 2**30:.1f} GiB of memory left for "
                f"{_count(len(on_machine), 'rank')}, and each needs about {LEAST_MEMORY_BYTES / 2**30:g}",
                "start fewer ranks per node, or ask for more memory (sbatch --mem)",
            )


def _folders(ranks: Sequence[RankFacts]) -> Iterator[Finding]:
    if all(rank.digest is None and rank.data is None for rank in ranks):
        yield Finding("the flowers are not drawn yet: the first run draws them", None)
    for text in dict.fromkeys(rank.data for rank in ranks if rank.data is not None):
        hosts = [rank.host for rank in ranks if rank.data == text]
        what, _, remedy = text.partition(": ")
        yield Finding(f"{_names(hosts)}: {what}", remedy or "run python -m horovod_flowers.prepare first")
    for text in dict.fromkeys(text for rank in ranks for text in rank.scarce):
        hosts = [rank.host for rank in ranks if text in rank.scarce]
        yield Finding(
            f"{_names(hosts)}: {text}",
            "remove what earlier jobs have left there, or set TMPDIR to a folder of the node's own with more; /dev/shm "
            "is the node's or container's shared memory (docker run --shm-size)",
        )
    hosts = [rank.host for rank in ranks if rank.runs_dir is not None]
    if hosts:
        reason = next(rank.runs_dir for rank in ranks if rank.runs_dir is not None)
        yield Finding(f"{_names(hosts)}: {reason}", "choose a --runs-dir on a file system that all nodes see")


def _clocks(ranks: Sequence[RankFacts]) -> Iterator[Finding]:
    worst = max(ranks, key=lambda rank: abs(rank.clock_offset_seconds))
    if abs(worst.clock_offset_seconds) > MOST_CLOCK_SECONDS:
        direction = "ahead of" if worst.clock_offset_seconds > 0 else "behind"
        yield Finding(
            f"the clock of {worst.host} is {abs(worst.clock_offset_seconds):.1f} s {direction} that of {ranks[0].host}",
            "synchronise the nodes' clocks (chronyd): logs and file times cannot be compared",
        )


def _gpus(ranks: Sequence[RankFacts], features: Sequence[str]) -> Iterator[Finding]:
    if any(rank.gpus for rank in ranks) and "nccl" not in features and len(ranks) > 1:
        yield Finding(
            "there are GPUs, but Horovod was built without NCCL: gradients would go through the CPUs",
            "build Horovod with HOROVOD_GPU_OPERATIONS=NCCL (environment.yml says how)",
        )


def _link(ranks: Sequence[RankFacts], link: Link | None, limits: Limits, library: MpiLibrary) -> Iterator[Finding]:
    if link is None:
        return
    check = f"look at the interface above; choose a faster one {library.interface_advice}, in slurm/site.sh"
    rates = [neighbours.bytes_per_second for neighbours in link.neighbours]
    if len(rates) > 2:
        usual = statistics.median(rates)
        for neighbours in link.neighbours:
            if neighbours.bytes_per_second < FRACTION_OF_OTHERS * usual:
                yield Finding(
                    f"slow link: {neighbours.first} to {neighbours.second} carries "
                    f"{neighbours.bytes_per_second / 1e9:.3g} GB/s, the median one {usual / 1e9:.3g}",
                    f"leave out the node that both slow links share (sbatch --exclude), or {check}",
                )
    yield from _turns(ranks, link, library)
    if any(rank.cores.oversubscribed for rank in ranks):
        return  # ranks that take turns on a core measure the turns
    if link.bytes_per_second < limits.least_bytes_per_second:
        yield Finding(
            f"slow link: allreduce moves {link.bytes_per_second / 1e9:.3g} GB/s, below the "
            f"{limits.least_bytes_per_second / 1e9:.3g} asked for",
            f"{check}; --least-bandwidth sets what is accepted",
        )
    if link.latency_seconds > limits.most_latency_seconds:
        yield Finding(
            f"slow link: a small allreduce takes {link.latency_seconds * 1e3:.3g} ms, more than the "
            f"{limits.most_latency_seconds * 1e3:.3g} accepted",
            f"{check}; --most-latency-ms sets what is accepted",
        )


def _turns(ranks: Sequence[RankFacts], link: Link, library: MpiLibrary) -> Iterator[Finding]:
    """Both directions of a link in turn, as Open MPI 4 uses TCP where it is not told otherwise (open_mpi_tcp.py)."""
    remedy = ""
    if isinstance(library, OpenMpi):
        remedy = (
            "; FLOWERS_TCP_SETTINGS=1 (with srun: OMPI_MCA_btl_tcp_flags=send) has Open MPI 4 send both ways at a time"
        )
    if not link.neighbours or not any(name.startswith("TCP") for rank in ranks for name in rank.interfaces):
        return
    slowdown = statistics.median(neighbours.both_ways for neighbours in link.neighbours)
    if slowdown > TAKES_TURNS:
        yield Finding(
            f"two nodes that send to each other over TCP take turns: an exchange takes {slowdown:.1f} times as long as "
            f"a message{remedy}",
            None,
        )


def _names(hosts: Sequence[str]) -> str:
    unique = list(dict.fromkeys(hosts))
    more = f" and {len(unique) - NAMED} more" if len(unique) > NAMED else ""
    return ", ".join(unique[:NAMED]) + more


def _numbers(ranks: Sequence[RankFacts]) -> str:
    more = f" and {len(ranks) - NAMED} more" if len(ranks) > NAMED else ""
    return ", ".join(str(rank.rank) for rank in ranks[:NAMED]) + more


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
