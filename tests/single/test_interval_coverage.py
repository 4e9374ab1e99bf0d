"""The report's intervals hold the truth as often as they say, and no peak is printed where there is none.

With as few studies as a test may take: `python -m benchmarks.interval_coverage` makes 150 of each law.
"""

from collections import defaultdict

import pytest
from scipy import stats

from benchmarks.interval_coverage import LEAST, RANK_COUNTS, intervals_of
from benchmarks.synthetic_studies import TRUTHS, study
from horovod_flowers.report.analysis.intervals import Estimate
from horovod_flowers.report.analysis.laws import Fit, fit
from horovod_flowers.report.analysis.points import points_of

SEEDS = 7
BY_CHANCE = 1e-3
WIDEST = 0.25
"""Of an interval over its figure: an interval of everything would hold the truth, too."""
WITHOUT_WIDTH = ("serial fraction", "contention", "coherency", "peak", "twice")
"""Figures near 0, or far from what was measured."""

Told = tuple[Estimate, float | None]


@pytest.fixture(scope="module")
def studies() -> dict[str, list[Told]]:
    """Every interval of all studies, by figure."""
    found: dict[str, list[Told]] = defaultdict(list)
    for truth in TRUTHS:
        for seed in range(SEEDS):
            for name, estimate, true in intervals_of(truth, RANK_COUNTS[seed % 2], seed):
                found[name].append((estimate, true))
    return found


FIGURES = (
    *("images/s", "step seconds", "speed-up", "efficiency", "serial fraction (Karp-Flatt)", "ratio of --compare"),
    *("Amdahl: serial fraction", "Gustafson: serial fraction", "USL: contention", "USL: coherency", "USL: peak"),
    *("Amdahl: images/s at twice the ranks", "Gustafson: images/s at twice the ranks"),
    "USL: images/s at twice the ranks",
)


@pytest.mark.slow
def test_every_figure_was_looked_at(studies: dict[str, list[Told]]) -> None:
    assert set(studies) == set(FIGURES)


@pytest.mark.slow
@pytest.mark.parametrize("figure", FIGURES)
def test_intervals_hold_the_truth(studies: dict[str, list[Told]], figure: str) -> None:
    """As often as at least 92 % of them would, but for one time in a thousand."""
    told = [(estimate, true) for estimate, true in studies[figure] if true is not None]
    held = sum(_holds(estimate, true) for estimate, true in told)
    assert held >= stats.binom.ppf(BY_CHANCE, len(told), LEAST), f"{held} of {len(told)}"
    if not any(word in figure for word in WITHOUT_WIDTH):
        assert all(estimate.high - estimate.low < WIDEST * estimate.value for estimate, _ in told)  # type: ignore[operator]


def _holds(estimate: Estimate, true: float) -> bool:
    assert estimate.low is not None
    assert estimate.high is not None
    return estimate.low <= true <= estimate.high


@pytest.mark.slow
def test_a_peak_is_printed_where_there_is_one_and_nowhere_else(studies: dict[str, list[Told]]) -> None:
    peaks = studies["USL: peak"]
    assert all(true is not None for _, true in peaks)
    assert len(peaks) >= 0.9 * SEEDS


@pytest.mark.slow
def test_a_true_law_is_hardly_ever_rejected() -> None:
    rejected = 0
    for truth in TRUTHS:
        for seed in range(SEEDS):
            found = fit(
                truth.law, {point.ranks: point.totals for point in points_of(study(truth, RANK_COUNTS[0], seed))}
            )
            assert isinstance(found, Fit)
            rejected += not found.quality.holds
    assert rejected <= 2  # of 28, of which 1 % are chance
