"""What a run held of a machine: nodes, cores, GPUs, and the wall time that a computing centre counts."""

import statistics
from collections.abc import Callable, Iterable

from horovod_flowers.report.analysis.run_summary import RunSummary
from horovod_flowers.runlog.records import RankEnvironment


def cores_of(run: RunSummary) -> int:
    """Physical cores that a run's ranks computed on: ranks x threads, at most the cores that they could run on.

    On each node. Hyperthreads of a core count once, and so does a core that several ranks could run on.
    """
    total = 0
    by_host: dict[str, list[RankEnvironment]] = {}
    for rank in run.environment.ranks:
        by_host.setdefault(rank.host, []).append(rank)
    for ranks in by_host.values():
        listed, cores = sum(len(rank.cores) for rank in ranks), sum(rank.physical_cores for rank in ranks)
        cpus = len({cpu for rank in ranks for cpu in rank.cores})
        there = max(1, round(cpus * cores / listed)) if listed else cores
        total += min(sum(min(rank.threads, rank.physical_cores) for rank in ranks), there)
    return total


def node_cores_of(run: RunSummary) -> int | None:
    """Physical cores of the run's nodes, used or not; None in older records."""
    cores = [host.physical_cores for host in run.environment.hosts]
    known = [count for count in cores if count is not None]
    return sum(known) if len(known) == len(cores) else None


def gpus_of(run: RunSummary) -> int:
    """Ranks that had a GPU: each has one of its own."""
    return sum(rank.gpu is not None for rank in run.environment.ranks)


def nodes_of(runs: Iterable[RunSummary]) -> int | None:
    """On how many nodes these runs were; None where that differs among them."""
    counts = {len(run.environment.hosts) for run in runs}
    return counts.pop() if len(counts) == 1 else None


def ranks_per_node_of(run: RunSummary) -> tuple[int, ...]:
    """The numbers of ranks that its nodes had, each once, ascending."""
    return tuple(sorted({host.ranks for host in run.environment.hosts}))


def wall_seconds_of(run: RunSummary) -> float | None:
    """From the start of its processes to their last record, of the slowest rank; None where that is not recorded, or
    only of the last of several jobs."""
    resources = run.result.resources
    if resources is None or resources.wall_seconds is None or resources.steps_before:
        return None
    return max(resources.wall_seconds)


def memory_per_rank_of(run: RunSummary) -> int:
    """Largest resident bytes of any rank."""
    return max(run.result.peak_memory_bytes)


def memory_per_node_of(run: RunSummary) -> int:
    """Largest resident bytes of all ranks of a node together, on the node where that is most. Ranks may not have
    reached their peaks at once, and pages that they share count for each: it is enough, and may be too much."""
    by_host: dict[str, int] = {}
    for rank, peak in zip(run.environment.ranks, run.result.peak_memory_bytes, strict=True):
        by_host[rank.host] = by_host.get(rank.host, 0) + peak
    return max(by_host.values())


def gpu_memory_per_rank_of(run: RunSummary) -> int | None:
    """Most bytes that any rank had allocated of its GPU's memory; None where that is not recorded."""
    resources = run.result.resources
    return None if resources is None or resources.gpu_peak_bytes is None else max(resources.gpu_peak_bytes)


def checkpoint_wait_seconds_of(run: RunSummary) -> float | None:
    """That the training waited for its checkpoints, the last one included; None where that is not all recorded."""
    resources = run.result.resources
    if resources is None or resources.last_checkpoint_wait_seconds is None or resources.steps_before:
        return None
    epochs = [epoch.checkpoint_seconds or 0.0 for epoch in run.epochs]
    return sum(epochs) + resources.last_checkpoint_wait_seconds


def data_bytes_of(run: RunSummary) -> int | None:
    """Of the prepared images on storage; None where that is not recorded."""
    return None if run.result.resources is None else run.result.resources.data_bytes


def images_trained_by(run: RunSummary) -> int:
    """In all of its epochs, by all ranks."""
    return sum(epoch.images for epoch in run.epochs)


def median_of_known(runs: Iterable[RunSummary], figure: Callable[[RunSummary], float | None]) -> float | None:
    """Median of a figure over the runs that have it; None where none has."""
    known = [value for run in runs if (value := figure(run)) is not None]
    return statistics.median(known) if known else None
