"""Runs of one kind together, their baseline, and from both speed-up and parallel efficiency. Arithmetic only."""

import fnmatch
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from horovod_flowers.config.choices import INDEPENDENT
from horovod_flowers.config.options import Effect
from horovod_flowers.config.script import is_script
from horovod_flowers.report.analysis.absent_runs import AbsentRun, absence_of
from horovod_flowers.report.analysis.baseline_doubts import chosen_by_hand, slow_baseline
from horovod_flowers.report.analysis.intervals import Estimate, estimate
from horovod_flowers.report.analysis.laws import karp_flatt
from horovod_flowers.report.analysis.run_factors import (
    Work,
    apart_key,
    differences,
    names_with,
    other_scaling,
    recipe_of,
    speed_key,
    strategy_of,
    unlike,
    values_of,
    without_horovod,
    work_apart,
    work_of,
)
from horovod_flowers.report.analysis.run_summary import RunSummary
from horovod_flowers.runtime.errors import UserError


@dataclass(frozen=True, eq=False)
class Point:
    """All runs of the same work, recipe, strategy and number of ranks, oversubscribed or not."""

    work: Work
    """What every compared run must have in common: see `work_of`."""
    strategy: str
    ranks: int
    runs: tuple[RunSummary, ...]
    baseline: "Point | None" = None
    """The runs that ratios are taken against, whatever the recipe: it does not change what a step costs."""
    refusal: str | None = None
    """Why there is no ratio though there is a baseline."""
    other_work: tuple[str, ...] = ()
    """Where there is none: what differs between this work and that of the runs that come nearest to it, in words."""
    unlike: tuple[str, ...] = ()
    """What differs among these runs, or between them and the baseline, though it may change the time of a step."""
    which: str = ""
    """What tells this point from others that look alike in a table."""
    remarks: tuple[str, ...] = ()
    """What speaks against the choice of its runs, or of its baseline, in sentences: see `doubts_of`."""

    @property
    def nearest(self) -> str:
        """What to say after 'its baseline is missing'; empty where no other work comes near."""
        return f" (the nearest did other work: {'; '.join(self.other_work)})" if self.other_work else ""

    @cached_property
    def totals(self) -> np.ndarray:
        """float64 [runs, 2]: images and elapsed seconds of each run's timed steps."""
        return np.array([[run.images, run.timed_seconds] for run in self.runs], np.float64)

    @cached_property
    def images_per_second(self) -> Estimate:
        """Total images over total seconds of the slowest rank: never an average of rates."""
        return estimate(_rate, self.totals, each=tuple((self.totals[:, 0] / self.totals[:, 1]).tolist()))

    @cached_property
    def mean_step_seconds(self) -> float:
        """Mean over all steps of all runs of the slowest rank's seconds."""
        return float(np.concatenate([run.slowest_seconds for run in self.runs]).mean())

    @cached_property
    def step_seconds(self) -> Estimate:
        """Median over runs of each run's median step of the slowest rank."""
        medians = np.array([[run.median_step_seconds] for run in self.runs])
        return estimate(lambda drawn: np.median(drawn[..., 0], axis=-1), medians, each=tuple(medians[:, 0].tolist()))

    @cached_property
    def speed_up(self) -> Estimate | None:
        """Throughput over the baseline's, in multiples of one of its ranks; None without a baseline.

        With the global batch held (strong scaling) this is T(1)/T(N), Amdahl 1967; with the batch a rank held (weak
        scaling) it is the scaled speed-up, Gustafson 1988. A baseline of B ranks counts as B.
        """
        if self.baseline is None:
            return None
        if self.baseline.runs == self.runs:  # the same runs on both sides, and so in every resample
            return Estimate(float(self.ranks))
        base = self.baseline.images_per_second.value / self.baseline.ranks
        each = tuple(rate / base for rate in self.images_per_second.each)
        return estimate(self._ratio, self.totals, self.baseline.totals, each=each)

    def _ratio(self, drawn: np.ndarray, base: np.ndarray) -> np.ndarray:
        assert self.baseline is not None
        return _rate(drawn) / _rate(base) * self.baseline.ranks

    @cached_property
    def efficiency(self) -> Estimate | None:
        """Speed-up a rank."""
        return None if self.speed_up is None else mapped(self.speed_up, lambda value: value / self.ranks)

    @cached_property
    def serial_fraction(self) -> Estimate | None:
        """Karp and Flatt's, for strong scaling against one rank; None elsewhere.

        It falls as the speed-up rises, so the ends of its interval are those of the speed-up's, exchanged.
        """
        if self.speed_up is None or self.ranks == 1 or self.scaling == "weak":
            return None
        if self.baseline is None or self.baseline.ranks > 1:
            return None
        found = mapped(self.speed_up, lambda value: float(karp_flatt(value, self.ranks)))
        return replace(found, low=found.high, high=found.low)

    @property
    def scaling(self) -> str:
        """strong or weak."""
        return str(dict(self.work)["scaling"])

    @property
    def batch(self) -> int:
        """Of all ranks together (strong), or of each (weak)."""
        work = dict(self.work)
        return int(work["global_batch"] if self.scaling == "strong" else work["per_rank_batch"])

    @property
    def without_communication(self) -> bool:
        """Whether nothing was communicated: no strategy to compare, but what the machine gives."""
        return self.ranks > 1 and self.runs[0].environment.strategy == INDEPENDENT

    @property
    def emulated(self) -> bool:
        """Whether its ranks slept instead of computing, or were on a virtual network: no measurement of a machine."""
        return self.runs[0].environment.emulated is not None

    @property
    def precision(self) -> str:
        """In which the passes are computed."""
        return str(dict(self.work)["precision"])

    @property
    def best_validation_accuracy(self) -> float | None:
        """Median over runs of each run's best epoch; None where the strategy trains no common model."""
        accuracies = [run.result.progress.best_validation_accuracy for run in self.runs]
        known = [accuracy for accuracy in accuracies if accuracy is not None]
        return float(np.median(known)) if known else None

    @property
    def oversubscribed(self) -> bool:
        """Whether ranks shared a core in any of the runs; of emulated ones their gauge tells whether that counts."""
        return not self.emulated and any(run.environment.oversubscribed for run in self.runs)

    @property
    def part_shares(self) -> dict[str, float]:
        """Shares of the ranks' time in a step, from sums over all runs; they add up to 1."""
        sums = {part: sum(run.part_seconds[part] for run in self.runs) for part in self.runs[0].part_seconds}
        total = sum(sums.values())
        return {part: seconds / total if total else 0.0 for part, seconds in sums.items()}


def _rate(totals: np.ndarray) -> np.ndarray:
    return np.asarray(totals[..., 0].sum(-1) / totals[..., 1].sum(-1))


def mapped(found: Estimate, apply: Callable[[float], float]) -> Estimate:
    low, high = (None if end is None else apply(end) for end in (found.low, found.high))
    return Estimate(apply(found.value), low, high, tuple(apply(value) for value in found.each))


def points_of(
    runs: Iterable[RunSummary],
    baseline: str | None = None,
    allow_differences: bool = False,
    absent: Sequence[AbsentRun] = (),
) -> list[Point]:
    """Group runs into points and give each its baseline where there is one.

    By default that is the one-rank runs of the same work: on one rank every strategy does the same. `baseline` is a
    pattern of run names that chooses others (UserError where none fits, or they are of several numbers of ranks).
    Runs that differ in what may change their speed are not one point, nor is one of them the other's baseline, unless
    `allow_differences`: they are then marked. absent: runs that are not among these (absent_runs.py).
    """
    every = list(runs)
    groups: dict[tuple[object, ...], list[RunSummary]] = {}
    chosen: dict[tuple[Work, object], list[RunSummary]] = {}
    alone: dict[tuple[Work, object], list[RunSummary]] = {}
    for run in every:
        work = work_of(run)
        speed: object = None if allow_differences else speed_key(run)
        crowded = run.environment.oversubscribed and run.environment.emulated is None
        key = (work, strategy_of(run), run.ranks, crowded, recipe_of(run), speed, apart_key(run) if speed else None)
        groups.setdefault(key, []).append(run)
        if run.ranks == 1:
            alone.setdefault((work, speed), []).append(run)
        if run.ranks == 1 if baseline is None else fnmatch.fnmatchcase(run.name, baseline):
            chosen.setdefault((work, speed), []).append(run)
    if baseline is not None:
        _check_baseline(baseline, list(chosen.values()))
    bases = {
        key: Point(key[0], strategy_of(members[0]), members[0].ranks, tuple(members)) for key, members in chosen.items()
    }
    for (work, speed), point in list(bases.items()):
        if point.ranks == 1:  # with the same global and per-rank batch, it serves the other kind of scaling too
            bases.setdefault((other_scaling(work), speed), point)
    points = [
        _against(tuple(members), bases, None if allow_differences else key[-2]) for key, members in groups.items()
    ]
    names = [run.name for run in every]
    for number, (of_group, point) in enumerate(zip(groups, points, strict=True)):
        gap = absence_of(point.runs, names, absent)
        speed = None if allow_differences else of_group[-2]
        told = [*([gap] if gap else []), *_of_baseline(point, baseline, alone, speed)]
        points[number] = replace(point, remarks=tuple(told))
    return sorted(_told_apart(points), key=lambda point: (repr(point.work), point.ranks, point.strategy))


def _of_baseline(
    point: Point, pattern: str | None, alone: Mapping[tuple[Work, object], Sequence[RunSummary]], speed: object
) -> list[str]:
    """What speaks against a point's baseline. alone: all runs on one rank, by their work and what may change speed."""
    if point.baseline is None or point.baseline.runs == point.runs:
        return []
    works = (point.work, other_scaling(point.work))
    settings = {speed, without_horovod(speed) if isinstance(speed, tuple) else speed}
    of_work = {key: members for key, members in alone.items() if key[0] in works}
    same = [run for (_, setting), members in of_work.items() if setting in settings for run in members]
    told = [
        chosen_by_hand(pattern, point.runs, point.baseline.runs, same),
        slow_baseline(point.baseline.runs, list(of_work.values()), point.runs),
    ]
    return [sentence for sentence in told if sentence]


def _check_baseline(pattern: str, chosen: Sequence[Sequence[RunSummary]]) -> None:
    if not chosen:
        raise UserError(
            f"baseline {pattern!r} matches no run: give the name of one, or a pattern such as 'strong-2ranks-*'"
        )
    for members in chosen:
        kinds = sorted({(run.ranks, strategy_of(run)) for run in members})
        if len(kinds) > 1:
            listed = ", ".join(f"{ranks} ranks {strategy}" for ranks, strategy in kinds)
            raise UserError(f"baseline {pattern!r} matches runs of several kinds ({listed}): give a narrower pattern")


def _against(runs: tuple[RunSummary, ...], bases: Mapping[tuple[Work, object], Point], speed: object) -> Point:
    point = Point(work_of(runs[0]), strategy_of(runs[0]), runs[0].ranks, runs, unlike=tuple(unlike(runs)))
    baseline = bases.get((point.work, speed))
    if baseline is None and isinstance(speed, tuple):
        alone = bases.get((point.work, without_horovod(speed)))
        baseline = alone if alone is not None and alone.ranks == 1 else None
    if baseline is not None:
        apart = () if baseline.runs == runs else differences(runs, baseline.runs)
        return replace(point, baseline=baseline, unlike=tuple(dict.fromkeys((*point.unlike, *apart))))
    for (work, _), other in bases.items():
        if work == point.work:
            apart = differences(runs, other.runs)
            return replace(point, refusal=f"they differ in more than the ranks ({'; '.join(apart)})")
    every = [_other_work(point, work, other) for (work, _), other in bases.items()]
    return replace(point, other_work=min(every, key=len, default=()))


def _other_work(point: Point, work: Work, other: Point) -> tuple[str, ...]:
    """What differs in the work of another point, in words."""
    apart = work_apart(point.work, work)
    batches = (
        point.runs[0].environment.global_batch * other.ranks == other.runs[0].environment.global_batch * point.ranks
    )
    if point.scaling == dict(work)["scaling"] == "strong" and batches and len(apart) == 1:
        return (f"{apart[0]}, the same batch on each rank, which is weak scaling and not strong: --per-rank-batch",)
    return apart


def _told_apart(points: Sequence[Point]) -> list[Point]:
    """The points, those that would look alike in a table with what tells them apart."""
    alike: dict[tuple[object, ...], list[Point]] = {}
    for point in points:
        shown = (point.scaling, point.batch, point.precision, dict(point.work)["threads"], point.strategy, point.ranks)
        alike.setdefault(shown, []).append(point)
    told = []
    for members in alike.values():
        kinds = {is_script(point.runs[0].config) for point in members}
        for of_script in kinds:
            of_kind = [point for point in members if is_script(point.runs[0].config) is of_script]
            whose = "of a script" if of_script else "of train"
            for point, words in zip(of_kind, _apart(of_kind), strict=True):
                told.append(replace(point, which=", ".join([whose, *words] if len(kinds) > 1 else words)))
    return told


def _apart(alike: Sequence[Point]) -> list[list[str]]:
    """For each of these points what tells it from the others, in words."""
    untold = {"hosts", *names_with(Effect.REPETITION)}
    every = [values_of(point.runs) for point in alike]
    varied = [
        name
        for name in dict.fromkeys(name for values in every for name in values)
        if len({tuple(sorted(values.get(name, ()))) for values in every}) > 1 and name not in untold
    ]
    return [
        [f"{name} {'/'.join(sorted(values.get(name, {'not set'})))}" for name in varied if name != "oversubscribed"]
        for values in every
    ]


@dataclass(frozen=True)
class Series:
    """Points of the same work and strategy on more and more ranks, with the baseline's."""

    strategy: str
    points: tuple[Point, ...]
    """In the order of their ranks, without the baseline."""
    baseline: Point | None

    @property
    def label(self) -> str:
        """Such as 'allreduce, strong scaling, bf16'."""
        point = self.points[0]
        return f"{self.strategy}, {point.scaling} scaling, {point.precision}"

    @property
    def without_communication(self) -> bool:
        """Whether nothing was communicated."""
        return self.points[0].without_communication

    @property
    def emulated(self) -> bool:
        """Whether its points are: none is compared with others."""
        return self.points[0].emulated

    @property
    def rated(self) -> list[Point]:
        """The points that are a measure of speed: ranks with cores of their own."""
        return [point for point in self.points if not point.oversubscribed]


def series_of(points: Sequence[Point]) -> list[Series]:
    """Series of more ranks than the baseline's, those of several recipes or speed factors apart."""
    found: dict[tuple[object, ...], list[Point]] = {}
    for point in points:
        if point.ranks > (point.baseline.ranks if point.baseline else 1):
            base = None if point.baseline is None else id(point.baseline)
            found.setdefault((point.work, point.strategy, recipe_of(point.runs[0]), base), []).append(point)
    return [Series(members[0].strategy, tuple(members), members[0].baseline) for members in found.values()]
