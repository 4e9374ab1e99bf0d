"""The table that computing centres ask for: what each number of nodes gives, what it takes, and what it costs.

Of one series, measured points only: of ranks with cores of their own, and of no emulated run.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from horovod_flowers.report.analysis.allocation import (
    checkpoint_wait_seconds_of,
    cores_of,
    data_bytes_of,
    gpu_memory_per_rank_of,
    gpus_of,
    images_trained_by,
    median_of_known,
    memory_per_node_of,
    memory_per_rank_of,
    node_cores_of,
    nodes_of,
    ranks_per_node_of,
    wall_seconds_of,
)
from horovod_flowers.report.analysis.doubts import doubts_of
from horovod_flowers.report.analysis.intervals import Estimate
from horovod_flowers.report.analysis.points import Point, Series
from horovod_flowers.report.analysis.run_factors import differences, recipe_of
from horovod_flowers.report.analysis.run_summary import RunSummary

SECONDS_PER_HOUR = 3600


@dataclass(frozen=True)
class Hours:
    """What is charged for wall time, by each rule; None where it is not known."""

    core_hours: float | None
    """Of the cores that ranks computed on."""
    whole_node_core_hours: float | None
    """Of all cores of the nodes."""
    node_hours: float | None
    gpu_hours: float | None

    def times(self, runs: int) -> "Hours":
        """Of so many runs."""
        each = (self.core_hours, self.whole_node_core_hours, self.node_hours, self.gpu_hours)
        return Hours(*(None if hours is None else runs * hours for hours in each))


@dataclass(frozen=True, eq=False)
class ProposalRow:
    """One measured point. Times and volumes are medians over its runs, memory is the most of any."""

    point: Point
    """Its ratios are taken against the table's reference."""
    runs: tuple[RunSummary, ...]
    """Those that trained as the table's other rows did: the baseline's may have trained otherwise, too. Of these are
    times, volumes and hours."""
    is_reference: bool
    ideal: float | None
    """Its ranks, in multiples of the reference's."""
    speed_up: Estimate | None
    """Throughput over the reference's, by the timed steps."""
    efficiency: Estimate | None
    """Speed-up over the ideal one."""
    refusal: str | None
    """Why there is no ratio."""
    doubts: tuple[str, ...]

    @property
    def nodes(self) -> int | None:
        """None where the runs were on different numbers of nodes."""
        return nodes_of(self.point.runs)

    @property
    def ranks_per_node(self) -> tuple[int, ...]:
        """Each number that occurs."""
        return tuple(sorted({count for run in self.point.runs for count in ranks_per_node_of(run)}))

    @property
    def threads(self) -> tuple[int, ...]:
        """Of a rank."""
        return tuple(dict(self.point.work)["threads"])

    @cached_property
    def cores(self) -> int:
        """Physical cores that the ranks computed on."""
        return max(cores_of(run) for run in self.point.runs)

    @property
    def node_cores(self) -> int | None:
        """Physical cores of the nodes; None where older runs do not tell."""
        counts = [node_cores_of(run) for run in self.point.runs]
        known = [count for count in counts if count is not None]
        return max(known) if known and self.nodes is not None else None

    @property
    def gpus(self) -> int:
        """Of all ranks."""
        return max(gpus_of(run) for run in self.point.runs)

    @property
    def wall_seconds(self) -> float | None:
        """Of a run, from the start of its processes."""
        return median_of_known(self.runs, wall_seconds_of)

    @property
    def training_seconds(self) -> float | None:
        """Of a run's steps alone, warm-up included."""
        return median_of_known(self.runs, lambda run: run.result.progress.training_seconds)

    @property
    def input_wait_seconds(self) -> float | None:
        """Of a run's timed steps, the mean rank's waiting for batches."""
        return median_of_known(self.runs, lambda run: run.part_seconds["input_wait"])

    @property
    def memory_per_rank_bytes(self) -> int:
        """Largest resident memory."""
        return max(memory_per_rank_of(run) for run in self.point.runs)

    @cached_property
    def memory_per_node_bytes(self) -> int:
        """The same of all ranks of a node together."""
        return max(memory_per_node_of(run) for run in self.point.runs)

    @property
    def gpu_memory_per_rank_bytes(self) -> int | None:
        """Most that was allocated of a rank's GPU."""
        known = [found for run in self.point.runs if (found := gpu_memory_per_rank_of(run)) is not None]
        return max(known, default=None)

    @property
    def checkpoints(self) -> float | None:
        """That a run wrote."""
        return self._of_whole_runs("checkpoints")

    @property
    def checkpoint_bytes(self) -> float | None:
        """Of all of these."""
        return self._of_whole_runs("checkpoint_bytes")

    @property
    def checkpoint_write_seconds(self) -> float | None:
        """That writing these took, beside the training."""
        return self._of_whole_runs("checkpoint_write_seconds")

    @property
    def checkpoint_wait_seconds(self) -> float | None:
        """That the training waited for these."""
        return median_of_known(self.runs, checkpoint_wait_seconds_of)

    @property
    def data_bytes(self) -> float | None:
        """Of the prepared images on storage."""
        return median_of_known(self.runs, data_bytes_of)

    @property
    def hours(self) -> Hours:
        """Of one run, by its wall time."""

        def of(count: int | None) -> float | None:
            return None if count is None or self.wall_seconds is None else count * self.wall_seconds / SECONDS_PER_HOUR

        return Hours(of(self.cores), of(self.node_cores), of(self.nodes), of(self.gpus) if self.gpus else None)

    @property
    def images_trained(self) -> set[int]:
        """By its runs, each number once."""
        return {images_trained_by(run) for run in self.runs}

    def _of_whole_runs(self, name: str) -> float | None:
        """A figure of the resources of runs that one job did from beginning to end."""

        def of(run: RunSummary) -> float | None:
            resources = run.result.resources
            return None if resources is None or resources.steps_before else getattr(resources, name)

        return median_of_known(self.runs, of)

    def count_with(self, figure: Callable[[RunSummary], float | None]) -> int:
        """How many of its runs have a figure."""
        return sum(figure(run) is not None for run in self.runs)


@dataclass(frozen=True, eq=False)
class ProposalTable:
    """Of one series."""

    series: Series
    reference: ProposalRow | None
    """What ratios are taken against: the runs that --baseline names, one node, or the fewest nodes that were run; with
    a single number of nodes, the baseline. None where there are no such runs."""
    rows: tuple[ProposalRow, ...]
    """By nodes and ranks."""
    part_of_node: tuple[int, ...]
    """Numbers of ranks that were run on a part of the reference's nodes, and are in no row."""
    oversubscribed: tuple[int, ...]
    """Numbers of ranks that shared cores, and are in no row."""
    threshold: float
    """Efficiency that a site wants."""
    planned_runs: int | None
    baseline_named: bool

    @property
    def has_gpus(self) -> bool:
        """Whether any rank had one."""
        return any(row.gpus for row in self.rows)


def proposal_table_of(
    series: Series,
    threshold: float,
    planned_runs: int | None = None,
    baseline_named: bool = False,
    allow_differences: bool = False,
) -> ProposalTable | None:
    """The table of a series; None of one that is emulated, does not communicate, or has no point that is a measure of
    speed.

    baseline_named: the user chose the baseline, which is the reference then; allow_differences: ratios of runs that
    differ in what may change their speed are taken, too.
    """
    if series.emulated or series.without_communication or not series.rated:
        return None
    base = series.baseline
    base = None if base is None or base.oversubscribed else base
    members = [*([] if base is None else [base]), *series.rated]
    reference = base if baseline_named else _reference(members, base)
    part = [] if reference is None else [point.ranks for point in members if point.ranks < reference.ranks]
    recipe = recipe_of(series.rated[0].runs[0])
    rows = [
        _row(point, reference, recipe, allow_differences)
        for point in members
        if reference is None or point.ranks >= reference.ranks
    ]
    rows.sort(key=lambda row: (row.nodes or 0, row.point.ranks, not row.is_reference))
    return ProposalTable(
        series=series,
        reference=next((row for row in rows if row.is_reference), None),
        rows=tuple(rows),
        part_of_node=tuple(sorted(set(part))),
        oversubscribed=tuple(sorted({point.ranks for point in series.points if point.oversubscribed})),
        threshold=threshold,
        planned_runs=planned_runs,
        baseline_named=baseline_named,
    )


def _reference(members: Sequence[Point], base: Point | None) -> Point | None:
    """The fullest of the fewest nodes, with as many ranks on each as the most nodes have, if that was run."""
    nodes = {point: count for point in members if (count := nodes_of(point.runs)) is not None}
    if len(set(nodes.values())) < 2:
        return base
    fewest = [point for point in nodes if nodes[point] == min(nodes.values())]
    most = max(nodes, key=lambda point: (nodes[point], point.ranks))
    placed = ranks_per_node_of(most.runs[0])
    return max(fewest, key=lambda point: (ranks_per_node_of(point.runs[0]) == placed, point.ranks, len(point.runs)))


def _row(point: Point, reference: Point | None, recipe: str, allow_differences: bool) -> ProposalRow:
    runs = tuple(run for run in point.runs if recipe_of(run) == recipe)
    against, refusal = _against(point, reference, allow_differences)
    ideal, speed_up, efficiency = None, None, None
    if reference is not None and against.speed_up is not None:
        ideal = point.ranks / reference.ranks
        speed_up, efficiency = _divided(against.speed_up, reference.ranks), against.efficiency
    is_reference = reference is not None and point.runs == reference.runs
    doubts = tuple(doubts_of(against, of_baseline=False))
    return ProposalRow(against, runs, is_reference, ideal, speed_up, efficiency, refusal, doubts)


def _against(point: Point, reference: Point | None, allow_differences: bool) -> tuple[Point, str | None]:
    """The point with the reference for its baseline, and why it has none."""
    if reference is None:
        return replace(point, baseline=None), point.refusal or "there are no runs to take ratios against"
    if point.runs == reference.runs or (point.baseline is not None and point.baseline.runs == reference.runs):
        return replace(point, baseline=reference), None
    apart = differences(point.runs, reference.runs)
    if apart and not allow_differences:
        return replace(point, baseline=None), f"they differ in more than the ranks ({'; '.join(apart)})"
    return replace(point, baseline=reference, unlike=tuple(dict.fromkeys((*point.unlike, *apart)))), None


def _divided(found: Estimate, by: int) -> Estimate:
    low, high = (None if end is None else end / by for end in (found.low, found.high))
    return Estimate(found.value / by, low, high, tuple(value / by for value in found.each))
