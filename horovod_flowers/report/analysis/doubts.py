"""What speaks against taking a point's figures at their word, in sentences: results that cannot be, or hardly.

None of these is a proof; each says what was seen, and what is likely to be behind it.
"""

import math
from collections.abc import Iterator, Sequence

import numpy as np

from horovod_flowers.report.analysis.intervals import Estimate
from horovod_flowers.report.analysis.points import Point
from horovod_flowers.report.analysis.rank_times import bursts_of
from horovod_flowers.report.analysis.run_doubts import of_both, of_runs

BEYOND_IDEAL = 0.02
"""By how much an efficiency without an interval passes 1 before it is told."""
OUTLYING_SCORE = 3.5
"""Modified z-score of an outlier (Iglewicz and Hoaglin 1993); it is told if it is also off by OUTLYING_SHARE."""
OUTLYING_SHARE = 0.12
FEWEST_FOR_OUTLIERS = 4
TREND_SHARE = 0.05
"""Of a step's median seconds, by which the last third of the steps, or of the runs, has to differ from the first."""
TREND_PROBABILITY = 1e-3
"""Of a rank correlation as large by chance (Kendall's tau), below which a trend is told."""
FEWEST_FOR_A_TREND = 12
FEWEST_RUNS_FOR_A_TREND = 6
WIDEST_INTERVAL = 0.5
"""Width of an interval over the figure, from which on it is told to be wide."""


def doubts_of(point: Point, of_baseline: bool = True) -> list[str]:
    """Everything that is seen of a point, and of its baseline if `of_baseline`; empty where nothing is."""
    found = [*point.remarks, *_of_ratio(point), *_of_runs(point, "")]
    if point.unlike:
        found.append(
            f"runs are taken together, or compared, that differ in what may change their speed "
            f"(--allow-differences): {'; '.join(point.unlike)}"
        )
    if of_baseline and point.baseline is not None and point.baseline.runs != point.runs:
        found += [*_of_runs(point.baseline, "its baseline: ")]
    return list(dict.fromkeys(found))


def _of_ratio(point: Point) -> Iterator[str]:
    efficiency, speed_up = point.efficiency, point.speed_up
    if efficiency is None or speed_up is None or point.baseline is None or point.baseline.runs == point.runs:
        return
    beyond = efficiency.low if efficiency.low is not None else efficiency.value - BEYOND_IDEAL
    if beyond > 1:
        yield (
            f"a parallel efficiency of {efficiency.value:.2f} is above the ideal: the baseline may have been warming "
            "up or disturbed (run it again, beside these), or caches and memory of several ranks hold what those of "
            "one do not"
        )
    width = _relative_width(speed_up)
    if width is not None and width > WIDEST_INTERVAL:
        yield (
            f"the interval of its speed-up, {speed_up.low:.2f} to {speed_up.high:.2f}, is wide: more runs, on a quiet "
            "machine, are needed"
        )
    if speed_up.low is not None and speed_up.low <= point.baseline.ranks < speed_up.value:
        yield (
            f"the interval of its speed-up reaches down to {speed_up.low:.2f}: the runs do not show that "
            f"{point.ranks} ranks are faster than {point.baseline.ranks}"
        )
    by_medians = point.baseline.step_seconds.value / point.step_seconds.value * _images_ratio(point)
    if abs(math.log(by_medians / speed_up.value)) > math.log(1.1):
        yield (
            f"total times give a speed-up of {speed_up.value:.2f}, median steps {by_medians:.2f}: a part of the steps "
            "takes much longer than the others"
        )

    yield from of_both(point.runs, point.baseline.runs, strong=point.scaling == "strong")


def _images_ratio(point: Point) -> float:
    """Images of a step, over those of the baseline's."""
    assert point.baseline is not None
    of_step = [
        each.totals[:, 0].sum() / sum(len(run.slowest_seconds) for run in each.runs) for each in (point, point.baseline)
    ]
    return float(of_step[0] / of_step[1] * point.baseline.ranks)


def _relative_width(found: Estimate) -> float | None:
    return None if found.low is None or found.high is None else (found.high - found.low) / found.value


def _of_runs(point: Point, whose: str) -> Iterator[str]:
    burst = bursts_of(point)
    if burst is not None:
        yield f"{whose}{burst}"
    rates = point.totals[:, 0] / point.totals[:, 1]
    yield from (f"{whose}{sentence}" for sentence in of_runs(point.runs))
    yield from (f"{whose}{sentence}" for sentence in _outliers(point, rates))
    trend = _trend_of_steps(point)
    if trend is not None:
        yield f"{whose}{trend}"
    starts = [run.environment.started_utc for run in point.runs]
    if len(rates) >= FEWEST_RUNS_FOR_A_TREND and len(set(starts)) == len(starts):
        order = np.argsort(starts, kind="stable")
        change = _trend(rates[order])
        if change is not None:
            yield (
                f"{whose}runs got {_faster(change)} by {abs(change):.0%} from the first to the last that was started: "
                "the machine drifts (temperature, neighbours); run points in random order, and again"
            )


def _outliers(point: Point, rates: np.ndarray) -> Iterator[str]:
    if len(rates) < FEWEST_FOR_OUTLIERS:
        return
    logs = np.log(rates)
    apart = logs - np.median(logs)
    scatter = float(np.median(np.abs(apart))) / 0.6745
    for run, off in zip(point.runs, apart, strict=True):
        if abs(off) > math.log(1 + OUTLYING_SHARE) and abs(off) > OUTLYING_SCORE * scatter:
            yield (
                f"run {run.name} is an outlier, {math.exp(abs(off)):.2f} times as {'fast' if off > 0 else 'slow'} as "
                "the median run: find out why, or run it again; it is in all figures"
            )


def _trend_of_steps(point: Point) -> str | None:
    """The same in every run, and enough of it: else it is the noise of one."""
    changes = [_trend(1 / run.slowest_seconds) if run.slowest_seconds.all() else None for run in point.runs]
    known = [change for change in changes if change is not None]
    if not known or len(known) < len(changes) / 2 or len({change > 0 for change in known}) > 1:
        return None
    change = float(np.median(known))
    why = (
        "it was warming up (more --warmup-steps)" if change > 0 else "the machine slowed down (temperature, neighbours)"
    )
    return f"steps got {_faster(change)} by {abs(change):.0%} from the first third of a run to the last: {why}"


def _faster(change: float) -> str:
    return "faster" if change > 0 else "slower"


def change_in_order(speeds: Sequence[float]) -> float | None:
    """Change of these speeds from their first third to their last, where it is a trend: large enough, and no chance."""
    return _trend(np.array(speeds, np.float64))


def _trend(speeds: np.ndarray) -> float | None:
    """Change from the first third to the last, where it is one: large enough, and no chance."""
    if len(speeds) < FEWEST_RUNS_FOR_A_TREND:
        return None
    third = max(1, len(speeds) // 3)
    change = float(np.median(speeds[-third:]) / np.median(speeds[:third]) - 1)
    if abs(change) < TREND_SHARE:
        return None
    from scipy import stats  # takes half a second, which --help and small studies need not

    # Of six runs no order is rarer than 1 in 360, and the next one is 1 in 60: too frequent for every point of a study.
    wanted = TREND_PROBABILITY if len(speeds) >= FEWEST_FOR_A_TREND else 0.01
    return change if stats.kendalltau(np.arange(len(speeds)), speeds).pvalue < wanted else None
