"""What may be said of the figures: before and after, a paragraph for a proposal, comparisons, and checks for CI."""

import fnmatch
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from horovod_flowers.config.options import Effect
from horovod_flowers.report.analysis.allocation import cores_of
from horovod_flowers.report.analysis.doubts import doubts_of
from horovod_flowers.report.analysis.intervals import FEWEST_RUNS, Estimate, estimate
from horovod_flowers.report.analysis.points import Point, Series
from horovod_flowers.report.analysis.run_factors import names_with, recipe_of, values_of
from horovod_flowers.report.analysis.run_summary import RunSummary
from horovod_flowers.runtime.errors import UserError

# Factors that follow from others, or are what a comparison of two numbers of ranks is about.
_FOLLOWS = (
    *(
        "ranks",
        "strategy",
        "hosts",
        "nodes",
        "ranks per node",
        "batch per rank",
        "MPI yields when idle",
        "oversubscribed",
    ),
    *names_with(Effect.STRATEGY),
)


@dataclass(frozen=True)
class Side:
    """One row of before and after."""

    ranks: int
    strategy: str
    cores: int
    training_seconds: float
    """Whole training, steps only: median over runs."""
    images_per_second: float
    accuracy: float | None
    runs: int


@dataclass(frozen=True)
class BeforeAfter:
    """One process against N ranks that did the same work, or why the two are not set side by side."""

    before: Side | None
    after: Side | None
    speed_up: Estimate | None
    refusal: str | None
    oversubscribed: bool
    unlike: tuple[str, ...]


def before_and_after(series: Sequence[Series]) -> BeforeAfter | None:
    """One rank against the fastest point of any series of strong scaling; None without a series of a common model."""
    candidates = [
        point
        for members in series
        for point in members.points
        if not (point.without_communication or point.emulated)
        and point.speed_up is not None
        and point.baseline
        and point.baseline.ranks == 1
    ]
    if not candidates:
        return None
    strong = [point for point in candidates if point.scaling == "strong"] or candidates
    rated = [point for point in strong if not point.oversubscribed] or strong
    after = max(rated, key=lambda point: point.speed_up.value if point.speed_up else 0.0)
    assert after.baseline is not None
    # The baseline of a ratio may be of several recipes, as a step costs the same in all; a whole training does not.
    recipe = recipe_of(after.runs[0])
    alone = [run for run in after.baseline.runs if recipe_of(run) == recipe]
    differing = _work_apart(alone or after.baseline.runs, after.runs)
    if differing:
        reason = f"one process and {after.ranks} ranks ({after.strategy}) did not do the same work: {differing}"
        return BeforeAfter(None, None, None, reason, after.oversubscribed, after.unlike)
    return BeforeAfter(
        _side(alone, "one process"), _side(after.runs, after.strategy), after.speed_up, None, after.oversubscribed,
        after.unlike,
    )  # fmt: skip


def _work_apart(before: Sequence[RunSummary], after: Sequence[RunSummary]) -> str:
    one, other = values_of(before), values_of(after)
    one["images trained"] = {str(sum(epoch.images for epoch in run.epochs)) for run in before}
    other["images trained"] = {str(sum(epoch.images for epoch in run.epochs)) for run in after}
    return "; ".join(
        f"{name} {' and '.join(sorted(one.get(name, ())))} against {' and '.join(sorted(other.get(name, ())))}"
        for name in one
        if name not in _FOLLOWS and one.get(name) != other.get(name)
    )


def _side(runs: Sequence[RunSummary], strategy: str) -> Side:
    accuracies = [run.result.progress.best_validation_accuracy for run in runs]
    known = [accuracy for accuracy in accuracies if accuracy is not None]
    return Side(
        ranks=runs[0].ranks,
        strategy=strategy,
        cores=cores_of(runs[0]),
        training_seconds=float(np.median([run.result.progress.training_seconds for run in runs])),
        images_per_second=sum(run.images for run in runs) / sum(run.timed_seconds for run in runs),
        accuracy=float(np.median(known)) if known else None,
        runs=len(runs),
    )


@dataclass(frozen=True)
class Proposal:
    """For one series: how far it may be scaled under a site's rule, and what that costs."""

    series: Series
    point: Point | None
    """The largest number of ranks up to which every measured efficiency, by the low end of its interval where there is
    one, is at least the threshold."""
    threshold: float
    core_hours: float | None
    """Of one training's steps: cores computed on, times the training's seconds (median over runs)."""
    beyond: Point | None
    """The next measured point, which falls below, or may."""
    doubts: tuple[str, ...]
    """What speaks against the figures of `point` (doubts.py)."""


def proposal_of(series: Series, threshold: float) -> Proposal | None:
    """The proposal of a series; None where it has no ratio, or no point that is a measure of speed, or is emulated."""
    if series.emulated:
        return None
    rated = [point for point in series.rated if point.efficiency is not None]
    if not rated:
        return None
    reached, beyond = None, None
    for point in rated:
        assert point.efficiency is not None
        if surely(point.efficiency) < threshold:
            beyond = point
            break
        reached = point
    hours = None
    if reached is not None:
        hours = (
            cores_of(reached.runs[0])
            * float(np.median([run.result.progress.training_seconds for run in reached.runs]))
            / 3600
        )
    return Proposal(series, reached, threshold, hours, beyond, tuple(doubts_of(reached or rated[0])))


def surely(found: Estimate) -> float:
    """What a figure is at least, as far as its runs tell: the low end of its interval, where there is one."""
    return found.value if found.low is None else found.low


@dataclass(frozen=True)
class Comparison:
    """Two groups of runs side by side."""

    names: tuple[str, str]
    runs: tuple[int, int]
    rates: tuple[Estimate, Estimate]
    """Images a second."""
    ratio: Estimate
    """Of the second's rate over the first's."""
    factors: tuple[str, ...]
    """What differs between the two."""
    apart: bool | None
    """Whether the two intervals do not overlap; None where there are none."""
    oversubscribed: bool
    emulated: bool = False
    """Whether all of these runs are."""


def compare(runs: Sequence[RunSummary], patterns: Sequence[str], allow_differences: bool) -> Comparison:
    """Compare the runs of two name patterns. Raises UserError where they differ in more than one factor."""
    groups = []
    for pattern in patterns:
        members = [run for run in runs if fnmatch.fnmatchcase(run.name, pattern)]
        if not members:
            raise UserError(
                f"compare {pattern!r} matches no run: give names, or patterns such as 'strong-2ranks-tensor-*'"
            )
        groups.append(members)
    one, other = groups
    emulated = {run.environment.emulated is not None for members in groups for run in members}
    if len(emulated) > 1:
        raise UserError(
            f"some runs of {patterns[0]} and {patterns[1]} are emulated and some are not: an emulated run measures no "
            "machine, so that the two are never compared; give narrower patterns"
        )
    factors = compared_factors(one, other)
    if len(factors) > 1 and not allow_differences:
        raise UserError(
            f"the runs of {patterns[0]} and {patterns[1]} differ in {len(factors)} factors ({'; '.join(factors)}): a "
            "difference between them could not be attributed to any one of these; compare others, or add "
            "--allow-differences"
        )
    first, second = (np.array([[run.images, run.timed_seconds] for run in members], np.float64) for members in groups)

    def rate(totals: np.ndarray) -> np.ndarray:
        return np.asarray(totals[..., 0].sum(-1) / totals[..., 1].sum(-1))

    rates = (
        estimate(rate, first, each=tuple((first[:, 0] / first[:, 1]).tolist())),
        estimate(rate, second, each=tuple((second[:, 0] / second[:, 1]).tolist())),
    )
    ratio = estimate(lambda a, b: rate(b) / rate(a), first, second)
    apart = _apart(*rates)
    crowded = any(run.environment.oversubscribed for members in groups for run in members)
    return Comparison(
        (patterns[0], patterns[1]), (len(one), len(other)), rates, ratio, tuple(factors), apart,
        crowded and not any(emulated), any(emulated),
    )  # fmt: skip


def _apart(one: Estimate, other: Estimate) -> bool | None:
    if one.low is None or one.high is None or other.low is None or other.high is None:
        return None
    return one.high < other.low or other.high < one.low


def compared_factors(one: Sequence[RunSummary], other: Sequence[RunSummary]) -> list[str]:
    """What differs between two groups of runs, in words; a factor that follows from another is not counted."""
    first, second = values_of(one), values_of(other)
    differing = [name for name in sorted(first.keys() | second.keys()) if first.get(name) != second.get(name)]
    follows = {"hosts", "MPI yields when idle", "oversubscribed", "version of horovod-flowers"}
    follows |= {"global batch"} if "ranks" in differing and "batch per rank" not in differing else set()
    follows |= {"batch per rank"} if "ranks" in differing and "global batch" not in differing else set()
    follows |= {"batch per rank"} if "global batch" in differing and "ranks" not in differing else set()
    follows |= {"nodes", "ranks per node"} if "ranks" in differing else set()
    follows |= {"ranks per node"} if "nodes" in differing else set()
    # One rank has no strategy to differ in, and options of one strategy come with it.
    alone = {1} in ({run.ranks for run in one}, {run.ranks for run in other})
    follows |= {"strategy"} if alone and "ranks" in differing else set()
    return [
        f"{name}: {' and '.join(sorted(first.get(name, {'not recorded'})))} against "
        f"{' and '.join(sorted(second.get(name, {'not recorded'})))}"
        for name in differing
        if name not in follows
    ]


@dataclass(frozen=True)
class Check:
    """A condition for CI."""

    text: str
    figure: str
    """min-efficiency, min-speed-up or max-step-seconds."""
    limit: float
    ranks: int
    strategy: str | None


@dataclass(frozen=True)
class Verdict:
    """What became of a check."""

    check: Check
    passed: bool
    reason: str
    strict: bool


FIGURES = ("min-efficiency", "min-speed-up", "max-step-seconds")
APART = "its ranks train apart, without communication, and no common model: no training ends sooner"


def parse_check(text: str) -> Check:
    """Read min-efficiency=0.8@4 or min-efficiency=0.8@4:tensor. Raises UserError."""
    found = re.fullmatch(r"([a-z-]+)=([0-9]+(?:\.[0-9]*)?|\.[0-9]+)@([1-9][0-9]{0,8})(?::(.+))?", text.strip())
    if found is None or found[1] not in FIGURES:
        raise UserError(
            f"check is {text!r}: give {', '.join(FIGURES)} with a limit and a number of ranks, such as "
            "min-efficiency=0.8@4, or min-efficiency=0.8@4:tensor for one strategy"
        )
    return Check(text.strip(), found[1], float(found[2]), int(found[3]), found[4])


def judge(check: Check, points: Sequence[Point], strict: bool) -> Verdict:
    """Whether every point of the check's ranks keeps its limit; one that cannot be judged fails. Emulated ones are
    not judged.

    Where there is an interval, its worse end has to keep the limit. strict: there has to be one, and nothing that
    speaks against the figures.
    """
    chosen = [
        point
        for point in points
        if point.ranks == check.ranks
        and not point.emulated
        and (point.strategy == check.strategy if check.strategy else not point.without_communication)
    ]
    if not chosen:
        emulated = any(point.ranks == check.ranks and point.emulated for point in points)
        but = ", but for emulated ones, which measure no machine" if emulated else ""
        return Verdict(check, False, f"there is no run of {check.ranks} ranks{_of(check.strategy)}{but}", strict)
    told = []
    passed = True
    for point in chosen:
        label = f"{point.strategy}, {point.scaling} scaling"
        found = {
            "min-efficiency": point.efficiency, "min-speed-up": point.speed_up, "max-step-seconds": point.step_seconds,
        }[check.figure]  # fmt: skip
        if found is None:
            kept, words = (
                False,
                f"{label}: there is no ratio ({point.refusal or f'its baseline is missing{point.nearest}'})",
            )
        elif point.oversubscribed:
            kept, words = False, f"{label}: {found.value:.3g}, oversubscribed: not a measure of speed"
        else:
            apart = [APART] if point.without_communication else []
            kept, words = _kept(check, found, [*apart, *doubts_of(point)], strict)
            words = f"{label}: {words}"
        passed = passed and kept
        told.append(words)
    return Verdict(check, passed, "; ".join(told), strict)


def _kept(check: Check, found: Estimate, doubts: Sequence[str], strict: bool) -> tuple[bool, str]:
    """Whether a figure keeps a limit, and what is said of it."""
    at_most = check.figure.startswith("max")
    worst = (found.value if found.high is None else found.high) if at_most else surely(found)
    kept = worst <= check.limit if at_most else worst >= check.limit
    words = [f"{found.value:.3g}{_interval(found)}"]
    if not kept and (found.value <= check.limit if at_most else found.value >= check.limit):
        words.append("the interval reaches past the limit: more runs are needed")
    if not found.has_interval:
        words.append(f"no interval, which takes {FEWEST_RUNS} runs of each side")
    words += [f"doubtful: {sentence}" for sentence in doubts]
    return kept and not (strict and len(words) > 1), ", ".join(words)


def _of(strategy: str | None) -> str:
    return f" with strategy {strategy}" if strategy else ""


def _interval(found: Estimate) -> str:
    return f" ({found.low:.3g} to {found.high:.3g})" if found.low is not None else ""
