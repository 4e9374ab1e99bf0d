"""One run, reduced to what the report's figures need: a study's records need not lie in memory together."""

from dataclasses import dataclass, fields

import numpy as np

from horovod_flowers.runlog.reading.run import PARTS, DescribedRun, RecordedRun

TIMELINE_STEPS = 3
WORK_QUANTILES = 101
MOST_APART_SECONDS = 100_000.0
"""Between the first and the last beginning of a step in a timeline, by clocks that can be believed."""
STRAGGLER_SHARE = 0.05
"""A rank is called slow where its own work takes this much longer than the median rank's."""


@dataclass(frozen=True)
class Timeline:
    """A few consecutive steps of all ranks, on one clock."""

    steps: np.ndarray
    """int64 [steps]: their numbers."""
    start_seconds: np.ndarray
    """float64 [steps, ranks]: since the earliest start shown."""
    part_seconds: np.ndarray
    """float64 [steps, ranks, 4]: the PARTS; a part is the sum of its pieces, drawn as one."""


@dataclass(frozen=True, eq=False)
class RunSummary(DescribedRun):
    """What is kept of a run. Sums and medians are over its timed steps, warm-up left out."""

    images: int
    """Training images over all ranks."""
    timed_seconds: float
    """Elapsed: each epoch by its slowest rank, added up."""
    slowest_seconds: np.ndarray
    """float64 [steps]: of each step's slowest rank."""
    fastest_seconds: np.ndarray
    """float64 [steps]."""
    part_seconds: dict[str, float]
    """Sums over the steps of the mean over ranks, by PARTS."""
    imbalance_seconds: float
    """Sum over the steps of the mean over ranks of the time that is waiting for slower ranks: see `_imbalance`."""
    rank_step_seconds: np.ndarray
    """float64 [ranks]: median of each rank's steps."""
    rank_work_seconds: np.ndarray
    """float64 [ranks]: median of each rank's own work, that is its steps without communication."""
    rank_work_mean_seconds: np.ndarray
    """float64 [ranks]: the same in the mean."""
    work_quantile_seconds: np.ndarray
    """float64 [WORK_QUANTILES]: of single ranks' own work in single steps, from the least to the most."""
    rank_last_share: np.ndarray
    """float64 [ranks]: share of the steps in which this rank's own work ended last."""
    timeline: Timeline
    starts: int = 1
    """How often it was started: once, and again each time that it was resumed."""

    @property
    def median_step_seconds(self) -> float:
        """Median over the steps of the slowest rank's seconds."""
        return float(np.median(self.slowest_seconds))

    @property
    def mean_step_seconds(self) -> float:
        """Mean over the steps of the slowest rank's seconds."""
        return float(self.slowest_seconds.mean())

    @property
    def part_shares(self) -> dict[str, float]:
        """Share of the ranks' time that each part of a step took; the shares add up to 1."""
        total = sum(self.part_seconds.values())
        return {part: seconds / total if total else 0.0 for part, seconds in self.part_seconds.items()}


def summarise(run: RecordedRun) -> RunSummary:
    """Reduce a run's records, [steps, ranks] arrays, to its figures."""
    parts = {part: float(run.part_ns[:, :, number].mean(axis=1).sum()) / 1e9 for number, part in enumerate(PARTS)}
    communication = run.part_ns[:, :, PARTS.index("communication")]
    work = run.step_ns - communication
    return RunSummary(
        **{item.name: getattr(run, item.name) for item in fields(DescribedRun)},
        images=run.images,
        timed_seconds=run.timed_seconds,
        slowest_seconds=run.step_ns.max(axis=1) / 1e9,
        fastest_seconds=run.step_ns.min(axis=1) / 1e9,
        part_seconds=parts,
        imbalance_seconds=_imbalance(work, communication),
        rank_step_seconds=np.median(run.step_ns, axis=0) / 1e9,
        rank_work_seconds=np.median(work, axis=0) / 1e9,
        rank_work_mean_seconds=work.mean(axis=0) / 1e9,
        work_quantile_seconds=np.quantile(work, np.linspace(0, 1, WORK_QUANTILES)) / 1e9,
        rank_last_share=np.bincount(work.argmax(axis=1), minlength=run.ranks) / len(work),
        timeline=_timeline(run),
        starts=run.starts,
    )


def _imbalance(work: np.ndarray, communication: np.ndarray) -> float:
    """Seconds of communication that are waiting for slower ranks, from nanoseconds [steps, ranks].

    In a step that ends together, a rank waits as long as the slowest one's own work is longer than its own; of the
    communication that it shows, at most that is imbalance, and the rest is moving bytes.
    """
    waiting = work.max(axis=1, keepdims=True) - work
    return float(np.minimum(waiting, communication).mean(axis=1).sum()) / 1e9


def _timeline(run: RecordedRun) -> Timeline:
    """The steps around the one of median length, which are neither the quickest nor the odd ones out."""
    slowest = run.step_ns.max(axis=1)
    middle = int(np.argsort(slowest, kind="stable")[len(slowest) // 2])
    first = max(0, min(middle - TIMELINE_STEPS // 2, len(slowest) - TIMELINE_STEPS))
    shown = slice(first, first + TIMELINE_STEPS)
    # Monotonic clocks of different hosts start at different times: each header relates one to the time of day. The
    # difference is taken first, as seconds since 1970 with nanoseconds do not fit into a float.
    offsets = run.clock_offset_seconds - run.clock_offset_seconds.min()
    starts = (run.start_ns[shown] - run.start_ns[shown].min()) / 1e9 + offsets
    starts -= starts.min()
    if not starts.max() < MOST_APART_SECONDS:  # some clock is wrong: each rank from its own first step on
        starts = (run.start_ns[shown] - run.start_ns[shown][:1]) / 1e9
    return Timeline(run.steps[shown], starts, run.part_ns[shown] / 1e9)


def step_percentiles(runs: list[RunSummary]) -> dict[str, float]:
    """Median, 95th and 99th percentile of the slowest rank's step seconds, over all steps of these runs."""
    seconds = np.concatenate([run.slowest_seconds for run in runs])
    return dict(zip(("p50", "p95", "p99"), np.percentile(seconds, (50, 95, 99)).tolist(), strict=True))
