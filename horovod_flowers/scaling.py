"""From timed runs to speed-up and parallel efficiency: arithmetic only."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from horovod_flowers.recorded_run import RecordedRun


@dataclass(frozen=True)
class Point:
    """All runs of the same work, recipe, strategy and number of ranks, oversubscribed or not."""

    work: tuple[tuple[str, Any], ...]
    """What every compared run must have in common: see `work_of`."""
    strategy: str
    ranks: int
    runs: tuple[RecordedRun, ...]
    baseline: "Point | None" = None
    """All one-rank runs of the same work, whatever the recipe: it does not change what a step costs."""

    @property
    def images_per_second(self) -> float:
        """Total images over total seconds of the slowest rank: never an average of rates."""
        return sum(run.images for run in self.runs) / sum(run.timed_seconds for run in self.runs)

    @property
    def median_step_seconds(self) -> float:
        """Median over runs of each run's median step."""
        return float(np.median([run.median_step_seconds for run in self.runs]))

    @property
    def speed_up(self) -> float | None:
        """Throughput over the one-rank baseline's; None without a baseline.

        With the global batch held (strong scaling) this is T(1)/T(N), Amdahl 1967; with the batch a rank held (weak
        scaling) it is the scaled speed-up, Gustafson 1988.
        """
        return None if self.baseline is None else self.images_per_second / self.baseline.images_per_second

    @property
    def efficiency(self) -> float | None:
        """Speed-up a rank."""
        return None if self.speed_up is None else self.speed_up / self.ranks

    @property
    def best_validation_accuracy(self) -> float | None:
        """Median over runs of each run's best epoch; None where the strategy trains no common model."""
        accuracies = [run.result.best_validation_accuracy for run in self.runs]
        known = [accuracy for accuracy in accuracies if accuracy is not None]
        return float(np.median(known)) if known else None

    @property
    def oversubscribed(self) -> bool:
        """Whether ranks shared a core in any of the runs."""
        return any(run.environment.oversubscribed for run in self.runs)

    @property
    def part_shares(self) -> dict[str, float]:
        """Mean over runs of the shares of a step's time."""
        shares = [run.part_shares for run in self.runs]
        return {part: float(np.mean([share[part] for share in shares])) for part in shares[0]}


def work_of(run: RecordedRun) -> tuple[tuple[str, Any], ...]:
    """What must be equal for two runs to be compared; the number of ranks and the strategy are what may differ."""
    config, environment = run.config, run.environment
    strong = config["global_batch"] is not None
    batch = environment.global_batch if strong else environment.global_batch // environment.world_size
    return (
        ("scaling", "strong" if strong else "weak"),
        ("global_batch" if strong else "per_rank_batch", batch),
        ("model", config["model"]["name"]),
        ("data", run.result.data_digest),
        ("augment", config["data"]["augment"]),
        ("optimizer", config["optimizer"]["name"]),
        ("precision", environment.precision),
        ("accumulate", config["accumulate"]),
        ("threads", tuple(sorted({rank.threads for rank in environment.ranks}))),
        ("cpu_model", tuple(sorted({host.cpu_model or "" for host in environment.hosts}))),
    )


def strategy_of(run: RecordedRun) -> str:
    """How the ranks divided the work, with whatever options change its times."""
    if run.ranks == 1:
        return "one rank"
    words = [run.environment.strategy]
    if run.environment.strategy == "mesh":
        words.append(f"of {run.config['model_parallel_size'] or 'nodes'}")
    if run.config["compression"] != "none":
        words.append(run.config["compression"])
    if run.config["dense_gradients"] != "auto":
        words.append(run.config["dense_gradients"])
    return " ".join(words)


def recipe_of(run: RecordedRun) -> str:
    """What changes the accuracy but not the time of a step: runs that differ in it do not share a row."""
    config = run.config
    return repr([config["epochs"], config["steps"], config["data"]["augment"], sorted(config["optimizer"].items())])


def points_of(runs: Iterable[RecordedRun]) -> list[Point]:
    """Group runs into points and give each its one-rank baseline where there is one.

    On one rank every strategy does the same, so a one-rank run of any strategy is the baseline of all.
    """
    groups: dict[tuple[Any, ...], list[RecordedRun]] = {}
    alone_runs: dict[tuple[tuple[str, Any], ...], list[RecordedRun]] = {}
    for run in runs:
        work, strategy = work_of(run), strategy_of(run)
        key = (work, strategy, run.ranks, run.environment.oversubscribed, recipe_of(run))
        groups.setdefault(key, []).append(run)
        if run.ranks == 1:
            alone_runs.setdefault(work, []).append(run)
    alone = {work: Point(work, "one rank", 1, tuple(members)) for work, members in alone_runs.items()}
    # One rank has the same global and per-rank batch: a strong-scaling run serves as weak scaling's baseline too.
    for work, point in list(alone.items()):
        alone.setdefault(_other_scaling(work), point)
    points = [
        Point(work, strategy, ranks, tuple(members), alone.get(work))
        for (work, strategy, ranks, _, _), members in groups.items()
    ]
    return sorted(points, key=lambda point: (repr(point.work), point.ranks, point.strategy))


def _other_scaling(work: Sequence[tuple[str, Any]]) -> tuple[tuple[str, Any], ...]:
    (_, scaling), (_, batch), *rest = work
    other = ("weak", "per_rank_batch") if scaling == "strong" else ("strong", "global_batch")
    return (("scaling", other[0]), (other[1], batch), *rest)
