"""Laws of scaling: their formulas, and least-squares fits to measured runs with the uncertainty of each parameter.

Amdahl's and Gustafson's laws are fitted by relative errors, as noise of run times is in proportion to them; the
Universal Scalability Law by the errors of throughput itself, as its author and the R package usl do. Thousands of
resampled studies are fitted at once. No parameter is forced to be positive: a negative serial fraction says that
scaling was better than linear, which a floor at zero would hide.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from horovod_flowers.report.analysis.intervals import Estimate, Resampled, resampled

GAUSS_NEWTON_STEPS = 20

Law = Literal["Amdahl", "Gustafson", "USL"]

PARAMETERS: Mapping[Law, tuple[str, ...]] = {
    "Amdahl": ("serial_fraction",),
    "Gustafson": ("serial_fraction",),
    "USL": ("contention", "coherency"),
}
FEWEST_RANK_COUNTS: Mapping[Law, int] = {"Amdahl": 3, "Gustafson": 3, "USL": 4}
"""One more than the unknowns, throughput of one rank included: else the curve meets all points and shows nothing."""
WIDEST_PEAK = 2.0
"""High over low end of the interval of a peak that is still told."""
REJECTED_BELOW = 0.01
"""Probability of a fit's residuals by chance below which the law is taken not to hold."""
CLEARLY_BETTER = 2.0
"""Of AICc: below, two laws have as much support (Burnham and Anderson 2002, section 2.6)."""


def karp_flatt(speed_up: np.ndarray | float, ranks: int) -> np.ndarray | float:
    """Experimentally determined serial fraction (Karp and Flatt 1990, equation 2); ranks > 1."""
    return (1 / speed_up - 1 / ranks) / (1 - 1 / ranks)


def amdahl(ranks: np.ndarray | float, serial_fraction: np.ndarray | float) -> np.ndarray | float:
    """Speed-up with the work held: 1 / (s + (1-s)/N) (Amdahl 1967)."""
    return 1 / (serial_fraction + (1 - serial_fraction) / ranks)


def gustafson(ranks: np.ndarray | float, serial_fraction: np.ndarray | float) -> np.ndarray | float:
    """Scaled speed-up, with the work a rank held: N + (1-N) s (Gustafson 1988)."""
    return ranks + (1 - ranks) * serial_fraction


def universal(
    ranks: np.ndarray | float, contention: np.ndarray | float, coherency: np.ndarray | float
) -> np.ndarray | float:
    """Universal Scalability Law: N / (1 + a (N-1) + b N (N-1)) (Gunther 2007, chapter 4)."""
    return ranks / (1 + contention * (ranks - 1) + coherency * ranks * (ranks - 1))


def peak(contention: float, coherency: float) -> float | None:
    """Ranks at which the Universal Scalability Law is largest, sqrt((1-a)/b) (Gunther 2007); None where it is not."""
    return float(np.sqrt((1 - contention) / coherency)) if coherency > 0 and contention < 1 else None


@dataclass(frozen=True)
class Fit:
    """A law fitted to one series of points."""

    law: Law
    rate_of_one: float
    """Fitted images a second of one rank."""
    parameters: dict[str, Estimate]
    peak_ranks: Estimate | None
    """Of the Universal Scalability Law, as the parameters alone have it: see `determined_peak`."""
    rank_counts: tuple[int, ...]
    quality: "Quality"
    resampled_parameters: Resampled | None = field(repr=False, default=None)
    """[many, 1 + parameters], for the band of an extrapolation: rate of one rank, then the parameters."""

    @property
    def determined_peak(self) -> Estimate | None:
        """The peak, where its interval is finite and narrow enough to say anything; None where it is not known."""
        found = self.peak_ranks
        if found is None or found.low is None or found.high is None or not self.quality.holds:
            return None
        narrow = np.isfinite(found.high) and found.low > 0 and found.high <= WIDEST_PEAK * found.low
        return found if narrow else None

    @property
    def not_extrapolated(self) -> str | None:
        """Why the law says nothing of more ranks than were measured, in a clause; None where it may be asked."""
        if not self.quality.holds:
            return f"the runs reject it (lack of fit, p = {self.quality.lack_of_fit:.2g})"
        for name, value in self.parameters.items():
            if name == "contention":
                continue  # a serial part below 0 is seen in the other laws, and bends this one's start alone
            end = value.value if value.low is None else value.low
            if end <= 0:
                what = "is not" if value.value <= 0 else "has an interval that is not all"
                return f"its {name.replace('_', ' ')} {what} above 0, and would pass the ideal on more ranks"
        return None

    def rates(self, ranks: np.ndarray) -> np.ndarray:
        """Images a second, [counts], at these numbers of ranks."""
        values = [estimate.value for estimate in self.parameters.values()]
        return np.asarray(self.rate_of_one * _speed_up(self.law, ranks, values))

    def band(self, ranks: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
        """Low and high end of the 95 % interval of `rates`, [counts] each; None with too few runs."""
        if self.resampled_parameters is None:
            return None

        def rates(found: np.ndarray) -> np.ndarray:
            values = [found[:, column, None] for column in range(1, found.shape[1])]
            return found[:, :1] * _speed_up(self.law, ranks[None, :], values)

        return self.resampled_parameters.mapped(rates).limits()


@dataclass(frozen=True)
class Quality:
    """How well a law meets the runs that it was fitted to."""

    residual: float
    """Root mean square, over numbers of ranks, of fitted over measured throughput, less one."""
    information: float | None
    """AICc of the runs' logarithms of throughput (Hurvich and Tsai 1989): least for the law that the data prefer. None
    with too few runs for as many unknowns."""
    lack_of_fit: float | None
    """Probability of residuals as large as these by the runs' own scatter alone, if the law held (F test of lack of
    fit, Draper and Smith 1998, section 2.1). None where no number of ranks was run twice."""

    @property
    def holds(self) -> bool:
        """Whether the runs do not reject the law."""
        return self.lack_of_fit is None or self.lack_of_fit >= REJECTED_BELOW

    @staticmethod
    def of(groups: Sequence[np.ndarray], told: np.ndarray, likeliest: np.ndarray, unknowns: int) -> "Quality":
        """groups: runs by number of ranks, each [runs, 2], images and seconds. told, likeliest: images a second,
        [counts], by the law as it is fitted, and with the least relative errors."""
        rates = np.array([group[:, 0].sum() / group[:, 1].sum() for group in groups])
        with np.errstate(all="ignore"):
            residual = float(np.sqrt(np.mean((told / rates - 1) ** 2)))
            of_runs = [np.log(group[:, 0] / group[:, 1]) for group in groups]
            apart = [each - np.log(value) for each, value in zip(of_runs, likeliest, strict=True)]
        squares = float(sum((each**2).sum() for each in apart))
        count, free = sum(map(len, of_runs)), unknowns + 1  # the scatter is unknown, too
        information = None
        if count > free + 1 and np.isfinite(squares) and squares > 0:
            information = count * float(np.log(squares / count)) + 2 * free + 2 * free * (free + 1) / (count - free - 1)
        return Quality(residual, information, _lack_of_fit(of_runs, squares, unknowns))


def _lack_of_fit(of_runs: Sequence[np.ndarray], squares: float, unknowns: int) -> float | None:
    pure = float(sum(((each - each.mean()) ** 2).sum() for each in of_runs))
    repeated, more = sum(map(len, of_runs)) - len(of_runs), len(of_runs) - unknowns
    if repeated < 1 or more < 1 or pure <= 0 or not np.isfinite(squares):
        return None
    from scipy import special  # takes half a second, which --help and small studies need not

    ratio = max(0.0, squares - pure) / more / (pure / repeated)
    return float(special.fdtrc(more, repeated, ratio))


def preferred(fits: Sequence[Fit]) -> tuple[Fit, float] | None:
    """The law that the data prefer, and by how much of AICc; None where none is better by CLEARLY_BETTER."""
    known = sorted(
        (found.quality.information, number)
        for number, found in enumerate(fits)
        if found.quality.information is not None
    )
    if len(known) < 2 or known[1][0] - known[0][0] < CLEARLY_BETTER:
        return None
    return fits[known[0][1]], known[1][0] - known[0][0]


def _speed_up(law: Law, ranks: np.ndarray, values: Sequence[float] | Sequence[np.ndarray]) -> np.ndarray:
    formula = {"Amdahl": amdahl, "Gustafson": gustafson, "USL": universal}[law]
    return np.asarray(formula(ranks, *values))  # type: ignore[operator]


def fit(law: Law, runs: Mapping[int, np.ndarray]) -> Fit | str:
    """Fit a law to runs by number of ranks, each [runs, 2]: images and seconds. A sentence where that is refused."""
    counts = tuple(sorted(runs))
    if len(counts) < FEWEST_RANK_COUNTS[law]:
        return (
            f"{law} is not fitted: it needs {FEWEST_RANK_COUNTS[law]} different numbers of ranks that do not share "
            f"cores, and there {'is' if len(counts) == 1 else 'are'} {len(counts)}"
        )
    groups = [runs[count] for count in counts]
    ranks = np.array(counts, np.float64)

    def statistic(*drawn: np.ndarray) -> np.ndarray:
        rates = np.stack([group[..., 0].sum(-1) / group[..., 1].sum(-1) for group in drawn], axis=-1)
        return _solve(law, ranks, rates)

    try:
        with np.errstate(all="ignore"):  # what becomes of it is looked at
            rate_of_one, *values = statistic(*groups).tolist()
            drawn = resampled(statistic, *groups)
    except np.linalg.LinAlgError:
        rate_of_one, values, drawn = float("nan"), [], None
    if not np.isfinite([rate_of_one, *values]).all():
        return f"{law} is not fitted: no curve of it comes near the measured throughput"
    if drawn is not None and not drawn.finite:
        drawn = None
    names = PARAMETERS[law]
    if drawn is None:
        parameters = {name: Estimate(value) for name, value in zip(names, values, strict=True)}
    else:
        low, high = drawn.limits()
        parameters = {
            name: Estimate(value, float(low[column]), float(high[column]))
            for column, (name, value) in enumerate(zip(names, values, strict=True), 1)
        }
    largest = _peak(values, drawn) if law == "USL" else None
    with np.errstate(all="ignore"):
        rates = np.stack([group[:, 0].sum() / group[:, 1].sum() for group in groups])
        told = rate_of_one * _speed_up(law, ranks, values)
        # Judged by relative errors, which the scatter of runs is in proportion to, whatever the law is fitted by.
        first, *rest = _solve(law, ranks, rates, relative=True).tolist()
        likeliest = first * _speed_up(law, ranks, rest)
    quality = Quality.of(groups, told, likeliest, 1 + len(values))
    return Fit(law, rate_of_one, parameters, largest, counts, quality, drawn)


def _solve(law: Law, ranks: np.ndarray, rates: np.ndarray, relative: bool = False) -> np.ndarray:
    """Rate of one rank and the law's parameters, [..., 1 + parameters], from rates [..., counts].

    Amdahl and the Universal Scalability Law are linear in N / rate, Gustafson's law in the rate. relative: the last one
    by relative errors, too.
    """
    if law == "Gustafson":
        target, columns = rates, [np.ones_like(ranks), ranks]
    elif law == "Amdahl":
        target, columns = ranks / rates, [np.ones_like(ranks), ranks - 1]
    else:
        target, columns = ranks / rates, [np.ones_like(ranks), ranks - 1, ranks * (ranks - 1)]
    weighted = np.stack(columns, axis=-1) / target[..., None]  # [..., counts, unknowns]; the target becomes 1
    solved = _least_squares(weighted, np.ones_like(target))
    if law == "USL" and not relative:
        solved = _absolute(ranks, rates, np.stack(np.broadcast_arrays(*columns), axis=-1), solved)
    first, rest = solved[..., :1], solved[..., 1:]
    if law == "Gustafson":  # rate = X s + X (1-s) N
        one = first + rest
        return np.concatenate([one, first / one], axis=-1)
    # N / rate = (1 + s (N-1)) / X, for the Universal Scalability Law with another term
    return np.concatenate([1 / first, rest / first], axis=-1)


def _least_squares(matrix: np.ndarray, target: np.ndarray) -> np.ndarray:
    """x [..., unknowns] with the least |matrix x - target|; matrix [..., equations, unknowns]."""
    transposed = matrix.swapaxes(-1, -2)
    return np.asarray(np.linalg.solve(transposed @ matrix, transposed @ target[..., None])[..., 0])


def _absolute(ranks: np.ndarray, rates: np.ndarray, columns: np.ndarray, start: np.ndarray) -> np.ndarray:
    """The x of N / rate = columns x with the least squared errors of the rates themselves, by Gauss and Newton."""
    found = start
    modelled = ranks / (found[..., None, :] * columns).sum(-1)
    for _ in range(GAUSS_NEWTON_STEPS):
        slope = -(modelled**2 / ranks)[..., None] * columns
        tried = found + _least_squares(slope, rates - modelled)
        there = ranks / (tried[..., None, :] * columns).sum(-1)
        # A step may lead astray, past a pole of the law: it counts only where it fits better.
        better = (((rates - there) ** 2).sum(-1) < ((rates - modelled) ** 2).sum(-1))[..., None]
        found, modelled = np.where(better, tried, found), np.where(better, there, modelled)
    return found


def _peak(values: Sequence[float], drawn: Resampled | None) -> Estimate | None:
    found = peak(*values)
    if found is None:
        return None
    if drawn is None or not ((drawn.drawn[:, 2] > 0) & (drawn.drawn[:, 1] < 1)).all():
        return Estimate(found)  # some resampled studies have no peak: its place is not known
    with np.errstate(all="ignore"):  # without one run there may be none
        low, high = drawn.mapped(lambda each: np.sqrt((1 - each[:, 1]) / each[:, 2])).limits()
    return Estimate(found, float(low), float(high))
