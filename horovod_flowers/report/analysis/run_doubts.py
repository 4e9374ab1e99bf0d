"""What speaks against taking a point's runs together, or at their word: how they were made, not how long they took."""

from collections.abc import Iterator, Sequence

import numpy as np

from horovod_flowers.report.analysis.run_summary import RunSummary

UNEQUAL_STEPS = 1.1
"""Most over fewest timed steps of a point's runs from which on it is told; of point and baseline SHORT_BASELINE."""
SHORT_BASELINE = 2.0
WARMING_UP = 2.0
"""First timed step over the median one from which on warm-up is among the timed steps."""
MHZ_APART = 1.1
"""Highest over lowest clock of runs from which on it is told."""
FEWEST_STEPS = 5


def of_runs(runs: Sequence[RunSummary]) -> Iterator[str]:
    """Of the runs of one point."""
    steps = [len(run.slowest_seconds) for run in runs]
    if max(steps) > UNEQUAL_STEPS * min(steps):
        yield (
            f"its runs have {min(steps)} to {max(steps)} timed steps: the long ones decide the totals, and short ones "
            "are more of a start"
        )
    yield from _warm_up(runs)
    resumed = [run for run in runs if run.starts > 1]
    if resumed:
        names = ", ".join(f"{run.name} ({run.starts - 1} times)" for run in resumed)
        yield f"runs were stopped and resumed, so that their steps are of several jobs: {names}"
    yield from _unlike_nodes(runs)
    clocks = [min(known) for run in runs if (known := [host.mhz for host in run.environment.hosts if host.mhz])]
    if clocks and max(clocks) > MHZ_APART * min(clocks):
        yield (
            f"the clocks of its runs' CPUs were {min(clocks):.0f} to {max(clocks):.0f} MHz as they began: frequency "
            "scaling, power or temperature limits are not the same for all"
        )


def _warm_up(runs: Sequence[RunSummary]) -> Iterator[str]:
    if any(run.config.get("warmup_steps") == 0 for run in runs):
        yield (
            "its timed steps begin with a run's first one (warmup_steps is 0), in which graphs are built and caches "
            "filled"
        )
        return
    firsts = [
        float(run.slowest_seconds[0] / np.median(run.slowest_seconds))
        for run in runs
        if len(run.slowest_seconds) >= FEWEST_STEPS and np.median(run.slowest_seconds) > 0
    ]
    if firsts and sum(first > WARMING_UP for first in firsts) > len(runs) / 2:
        yield (
            f"the first timed step takes {np.median(firsts):.1f} times the median one: warm-up is among the timed "
            "steps (more --warmup-steps)"
        )


def _unlike_nodes(runs: Sequence[RunSummary]) -> Iterator[str]:
    hosts = [host for run in runs for host in run.environment.hosts]
    for what, values in (
        ("processors", {host.cpu_model or "unknown" for host in hosts}),
        ("numbers of cores", {str(host.logical_cpus) for host in hosts}),
        ("GPUs", {rank.gpu for run in runs for rank in run.environment.ranks if rank.gpu}),
    ):
        if len(values) > 1:
            yield f"its ranks ran on unlike nodes, and all wait for the slowest: {what} {' and '.join(sorted(values))}"
    for run in runs:
        counts = {host.ranks for host in run.environment.hosts}
        if len(counts) > 1:
            yield (
                f"its nodes have unequal numbers of ranks ({min(counts)} to {max(counts)}): those on full nodes share "
                "more"
            )
            return


def of_both(runs: Sequence[RunSummary], baseline: Sequence[RunSummary], strong: bool) -> Iterator[str]:
    """Of a point's runs beside those of its baseline."""
    steps, base = (float(np.median([len(run.slowest_seconds) for run in each])) for each in (runs, baseline))
    if strong and max(steps, base) > SHORT_BASELINE * min(steps, base):
        yield f"its runs have {steps:.0f} timed steps and its baseline's {base:.0f}: a short run is more of a start"
    images, base_images = (float(np.median([_epoch_images(run) for run in each])) for each in (runs, baseline))
    if strong and base_images > 0 and images > 1.5 * base_images:
        yield (
            f"an epoch of {runs[0].ranks} ranks has {images / base_images:.2f} times the images of its baseline's: if "
            "every rank reads all of the data, this is throughput per rank, and no training ends sooner"
        )


def _epoch_images(run: RunSummary) -> int:
    return max((epoch.images for epoch in run.epochs), default=0)
