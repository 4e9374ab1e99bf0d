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

from horovod_flowers.report.analysis.intervals import Estimate, limits, resampled

GAUSS_NEWTON_STEPS = 20

Law = Literal["Amdahl", "Gustafson", "USL"]

PARAMETERS: Mapping[Law, tuple[str, ...]] = {
    "Amdahl": ("serial_fraction",),
    "Gustafson": ("serial_fraction",),
    "USL": ("contention", "coherency"),
}
FEWEST_RANK_COUNTS: Mapping[Law, int] = {"Amdahl": 3, "Gustafson": 3, "USL": 4}
"""One more than the unknowns, throughput of one rank included: else the curve meets all points and shows nothing."""


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
    """Of the Universal Scalability Law."""
    rank_counts: tuple[int, ...]
    fewest_runs: int
    """Of any number of ranks."""
    resampled_parameters: np.ndarray | None = field(repr=False, default=None)
    """[resamples, 1 + parameters], for the band of an extrapolation: rate of one rank, then the parameters."""

    def rates(self, ranks: np.ndarray) -> np.ndarray:
        """Images a second, [counts], at these numbers of ranks."""
        values = [estimate.value for estimate in self.parameters.values()]
        return np.asarray(self.rate_of_one * _speed_up(self.law, ranks, values))

    def band(self, ranks: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
        """Low and high end of the 95 % interval of `rates`, [counts] each; None with too few runs."""
        drawn = self.resampled_parameters
        if drawn is None:
            return None
        values = [drawn[:, column, None] for column in range(1, drawn.shape[1])]
        return limits(drawn[:, :1] * _speed_up(self.law, ranks[None, :], values), self.fewest_runs)


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

    fewest = min(len(group) for group in groups)
    try:
        with np.errstate(all="ignore"):  # what becomes of it is looked at
            rate_of_one, *values = statistic(*groups).tolist()
            drawn = resampled(statistic, *groups)
    except np.linalg.LinAlgError:
        rate_of_one, values, drawn = float("nan"), [], None
    if not np.isfinite([rate_of_one, *values]).all():
        return f"{law} is not fitted: no curve of it comes near the measured throughput"
    if drawn is not None and not np.isfinite(drawn).all():
        drawn = None
    names = PARAMETERS[law]
    if drawn is None:
        parameters = {name: Estimate(value) for name, value in zip(names, values, strict=True)}
    else:
        low, high = limits(drawn, fewest)
        parameters = {
            name: Estimate(value, float(low[column]), float(high[column]))
            for column, (name, value) in enumerate(zip(names, values, strict=True), 1)
        }
    largest = _peak(values, drawn, fewest) if law == "USL" else None
    return Fit(law, rate_of_one, parameters, largest, counts, fewest, drawn)


def _solve(law: Law, ranks: np.ndarray, rates: np.ndarray) -> np.ndarray:
    """Rate of one rank and the law's parameters, [..., 1 + parameters], from rates [..., counts].

    Amdahl and the Universal Scalability Law are linear in N / rate, Gustafson's law in the rate.
    """
    if law == "Gustafson":
        target, columns = rates, [np.ones_like(ranks), ranks]
    elif law == "Amdahl":
        target, columns = ranks / rates, [np.ones_like(ranks), ranks - 1]
    else:
        target, columns = ranks / rates, [np.ones_like(ranks), ranks - 1, ranks * (ranks - 1)]
    relative = np.stack(columns, axis=-1) / target[..., None]  # [..., counts, unknowns]; the target becomes 1
    solved = _least_squares(relative, np.ones_like(target))
    if law == "USL":
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


def _peak(values: Sequence[float], drawn: np.ndarray | None, fewest: int) -> Estimate | None:
    found = peak(*values)
    if found is None:
        return None
    if drawn is None or not ((drawn[:, 2] > 0) & (drawn[:, 1] < 1)).all():
        return Estimate(found)  # some resampled studies have no peak: its place is not known
    low, high = limits(np.sqrt((1 - drawn[:, 1]) / drawn[:, 2]), fewest)
    return Estimate(found, float(low), float(high))
