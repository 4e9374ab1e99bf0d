"""Intervals: closed forms, and that they hold what they promise."""

import numpy as np
import pytest

from horovod_flowers.report.analysis.intervals import Estimate, estimate, expanded_level


def mean(drawn: np.ndarray) -> np.ndarray:
    return np.asarray(drawn[..., 0].mean(-1))


def test_the_level_is_that_of_the_expanded_percentile_interval() -> None:
    # By printed tables: Student's t at 0.975 is 2.776 for 4 and 2.262 for 9 degrees of freedom; times sqrt(n/(n-1))
    # 3.104 and 2.384, beyond which the normal distribution has 0.00095 and 0.00856.
    for runs, tail in ((5, 0.00095), (10, 0.00856)):
        assert (1 - expanded_level(runs)) / 2 == pytest.approx(tail, abs=0.00002)
    assert expanded_level(100_000) == pytest.approx(0.95, abs=1e-4)


def test_an_interval_of_a_mean_is_students() -> None:
    """Of many normal values, the percentile bootstrap and Student's t agree."""
    values = np.random.default_rng(1).normal(10, 2, (200, 1))
    found = estimate(mean, values)
    half = 1.972 * values.std(ddof=1) / np.sqrt(200)  # t of 199 degrees of freedom
    assert found.value == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - half, abs=0.03)
    assert found.high == pytest.approx(values.mean() + half, abs=0.03)


def test_below_six_runs_there_is_none() -> None:
    values = np.arange(5.0)[:, None]
    assert estimate(mean, values, each=(0, 1, 2, 3, 4)) == Estimate(2.0, None, None, (0, 1, 2, 3, 4))
    assert not estimate(mean, values).has_interval
    assert estimate(mean, np.arange(6.0)[:, None]).has_interval


def test_the_group_with_fewest_runs_decides() -> None:
    many, few = np.ones((50, 1)), np.ones((5, 1))
    assert not estimate(lambda a, b: mean(a) / mean(b), many, few).has_interval


def test_the_same_runs_give_the_same_interval() -> None:
    values = np.random.default_rng(2).normal(1, 0.1, (7, 1))
    assert estimate(mean, values) == estimate(mean, values)


def test_six_runs_cover_the_true_ratio_in_95_of_100_studies() -> None:
    """Of two groups of six runs with noise of 5 %: images and seconds as the report has them, true ratio 1.6."""

    def ratio(one: np.ndarray, other: np.ndarray) -> np.ndarray:
        rates = [drawn[..., 0].sum(-1) / drawn[..., 1].sum(-1) for drawn in (one, other)]
        return np.asarray(rates[0] / rates[1])

    covered = 0
    for seed in range(100):
        noise = np.random.default_rng(seed)
        fast = np.stack([np.full(6, 1000.0), noise.normal(1000 / 160, 0.05 * 1000 / 160, 6)], axis=1)
        slow = np.stack([np.full(6, 1000.0), noise.normal(1000 / 100, 0.05 * 1000 / 100, 6)], axis=1)
        found = estimate(ratio, fast, slow)
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= 1.6 <= found.high
    assert covered >= 95
