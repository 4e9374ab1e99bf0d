"""Laws of scaling against closed forms and published values, and their fits against studies with known parameters."""

import numpy as np
import pytest

from horovod_flowers.report.analysis.laws import (
    Fit,
    Law,
    amdahl,
    fit,
    gustafson,
    karp_flatt,
    peak,
    preferred,
    universal,
)

IMAGES = 3000.0


def runs_of(rates: dict[int, float], repetitions: int = 1, noise: float = 0.0, seed: int = 0) -> dict[int, np.ndarray]:
    """Runs [repetitions, 2] of images and seconds, by number of ranks."""
    draw = np.random.default_rng(seed)
    return {
        ranks: np.stack([np.full(repetitions, IMAGES), IMAGES / rate * draw.normal(1, noise, repetitions)], axis=1)
        for ranks, rate in rates.items()
    }


def fitted(law: Law, runs: dict[int, np.ndarray]) -> Fit:
    found = fit(law, runs)
    assert isinstance(found, Fit)
    return found


@pytest.mark.parametrize(
    ("speed_ups", "fractions"),
    [
        # Quinn 2003, 'Parallel Programming in C with MPI and OpenMP', section 7.5: a serial fraction of 0.1, and
        # overhead that grows with the processors.
        ((1.82, 2.50, 3.08, 3.57, 4.00, 4.38, 4.71), (0.1,) * 7),
        ((1.87, 2.61, 3.23, 3.73, 4.14, 4.46, 4.71), (0.070, 0.075, 0.080, 0.085, 0.090, 0.095, 0.100)),
    ],
)
def test_karp_flatt_of_published_speed_ups(speed_ups: tuple[float, ...], fractions: tuple[float, ...]) -> None:
    found = [karp_flatt(speed_up, ranks) for ranks, speed_up in enumerate(speed_ups, 2)]
    assert found == pytest.approx(fractions, abs=0.002)


def test_karp_flatt_undoes_amdahl() -> None:
    for ranks in (2, 3, 64, 4096):
        assert karp_flatt(float(amdahl(ranks, 0.037)), ranks) == pytest.approx(0.037)


def test_gustafsons_own_example() -> None:
    """Gustafson 1988, figures 2: 1,024 processors, serial fractions of 0 to 4 %, fixed and scaled."""
    fractions = (0.00, 0.01, 0.02, 0.03, 0.04)
    assert [round(float(amdahl(1024, s))) for s in fractions] == [1024, 91, 48, 32, 24]
    assert [int(gustafson(1024, s)) for s in fractions] == [1024, 1013, 1003, 993, 983]
    # 'speedup factors of 1021, 1020 and 1016' for the three applications, of whose serial fractions the paper says 0.4
    # to 0.8 %: 1,016 belongs to the largest of them.
    assert int(gustafson(1024, 0.008)) in (1015, 1016)


SPEC_SDM91 = {1: 64.9, 18: 995.9, 36: 1652.4, 72: 1853.2, 108: 1828.9, 144: 1775.0, 216: 1702.2}
"""Throughput of a SPARCcenter 2000 (SPEC SDM 91), the example of Gunther 2007, chapter 5, and of the R package usl."""


def test_the_universal_scalability_law_of_a_published_data_set() -> None:
    """As the R package usl prints them: a = 0.0277285, b = 0.0001044, throughput of one 89.995, peak at 96.5."""
    assert peak(0.0277285, 0.0001044) == pytest.approx(96.5, abs=0.1)
    found = fitted("USL", runs_of(SPEC_SDM91))
    assert found.parameters["contention"].value == pytest.approx(0.0277285, abs=1e-5)
    assert found.parameters["coherency"].value == pytest.approx(0.0001044, abs=1e-7)
    assert found.rate_of_one == pytest.approx(89.995, abs=0.01)
    assert found.peak_ranks is not None
    assert found.peak_ranks.value == pytest.approx(96.5, abs=0.1)


@pytest.mark.parametrize("ranks", [(1, 2, 4), (1, 2, 4, 8, 16), (2, 4, 8)])
def test_exact_data_give_exact_parameters(ranks: tuple[int, ...]) -> None:
    strong = fitted("Amdahl", runs_of({n: 150 * float(amdahl(n, 0.05)) for n in ranks}))
    assert strong.parameters["serial_fraction"].value == pytest.approx(0.05)
    assert strong.rate_of_one == pytest.approx(150)
    weak = fitted("Gustafson", runs_of({n: 150 * float(gustafson(n, 0.05)) for n in ranks}))
    assert weak.parameters["serial_fraction"].value == pytest.approx(0.05)
    assert weak.rate_of_one == pytest.approx(150)
    assert weak.rates(np.array([64.0])) == pytest.approx(150 * gustafson(64, 0.05))


def test_exact_data_give_exact_universal_parameters() -> None:
    found = fitted("USL", runs_of({n: 90 * float(universal(n, 0.03, 0.0001)) for n in (1, 2, 8, 32, 64)}))
    assert found.parameters["contention"].value == pytest.approx(0.03)
    assert found.parameters["coherency"].value == pytest.approx(0.0001)
    assert found.peak_ranks is not None
    assert found.peak_ranks.value == pytest.approx(np.sqrt(0.97 / 0.0001))


def test_scaling_better_than_linear_is_shown_as_it_is() -> None:
    found = fitted("Amdahl", runs_of({1: 100, 2: 210, 4: 450}))
    assert found.parameters["serial_fraction"].value < 0


def test_no_peak_where_throughput_only_grows() -> None:
    assert peak(0.03, 0) is None
    assert (
        fitted("USL", runs_of({n: 90 * float(universal(n, 0.03, -0.0005)) for n in (1, 2, 8, 32)})).peak_ranks is None
    )


def test_no_measurements_however_odd_end_a_fit_in_an_error() -> None:
    """Throughput anywhere between 1e-6 and 1e6 images a second: a curve of finite parameters, or a sentence."""
    draw = np.random.default_rng(3)
    fitted_at_all = 0
    for _ in range(300):
        rates = dict(zip((1, 2, 4, 8), np.exp(draw.uniform(-14, 14, 4)).tolist(), strict=True))
        for law in ("Amdahl", "Gustafson", "USL"):
            found = fit(law, runs_of(rates))
            if isinstance(found, Fit):
                fitted_at_all += 1
                assert np.isfinite([found.rate_of_one, *(value.value for value in found.parameters.values())]).all()
            else:
                assert "no curve of it comes near" in found
    assert fitted_at_all > 600


@pytest.mark.parametrize(("law", "needs"), [("Amdahl", 3), ("Gustafson", 3), ("USL", 4)])
def test_too_few_numbers_of_ranks_are_refused(law: Law, needs: int) -> None:
    rates = {2**k: 100.0 * 2**k * 0.9**k for k in range(needs)}
    assert isinstance(fit(law, runs_of(rates)), Fit)
    rates.popitem()
    assert fit(law, runs_of(rates)) == (
        f"{law} is not fitted: it needs {needs} different numbers of ranks that do not share cores, and there are "
        f"{needs - 1}"
    )


def test_the_band_of_an_extrapolation_holds_its_curve_and_widens() -> None:
    found = fitted("Amdahl", runs_of({n: 150 * float(amdahl(n, 0.06)) for n in (1, 2, 4, 8)}, 6, 0.03))
    ranks = np.array([1.0, 8.0, 64.0])
    band = found.band(ranks)
    assert band is not None
    low, high = band
    middle = found.rates(ranks)
    assert (low < middle).all()
    assert (middle < high).all()
    assert (np.diff((high - low) / middle) > 0).all()


def test_no_interval_below_six_runs() -> None:
    found = fitted("Amdahl", runs_of({n: 150 * float(amdahl(n, 0.06)) for n in (1, 2, 4)}, 5, 0.03))
    assert not found.parameters["serial_fraction"].has_interval
    assert found.band(np.array([8.0])) is None


K80 = {1: 52.4, 8: 378.0, 16: 751.0, 32: 1388.0, 64: 2744.0}
"""Images a second of ResNet-50 on K80s, a published table: the best coherency of it is below 0."""


def test_a_law_with_a_pole_is_not_extrapolated_and_has_no_peak() -> None:
    found = fitted("USL", runs_of(K80))
    assert found.parameters["coherency"].value < 0
    assert found.determined_peak is None
    assert found.not_extrapolated == "its coherency is not above 0, and would pass the ideal on more ranks"
    assert fitted("Amdahl", runs_of(K80)).not_extrapolated is None


def test_a_law_that_the_runs_reject_is_told_as_one() -> None:
    """Throughput with a peak at 14 ranks is no Amdahl's; Gustafson's line is no peak."""
    runs = runs_of({n: 150 * float(universal(n, 0.05, 0.005)) for n in (1, 2, 4, 8, 16)}, 6, 0.03)
    amdahls, universals = fitted("Amdahl", runs), fitted("USL", runs)
    assert amdahls.quality.lack_of_fit is not None
    assert amdahls.quality.lack_of_fit < 1e-6
    assert "the runs reject it (lack of fit, p = " in str(amdahls.not_extrapolated)
    assert universals.not_extrapolated is None
    assert amdahls.quality.residual > 3 * universals.quality.residual
    told = preferred([amdahls, universals])
    assert told is not None
    assert told[0] is universals


def test_a_single_slow_run_makes_no_peak() -> None:
    rates = {n: 150 * float(amdahl(n, 0.05)) for n in (1, 2, 4, 8)}
    runs = runs_of(rates, 6, 0.03)
    runs[4][0, 1] *= 3  # one run of six at 4 ranks takes three times as long
    assert fitted("USL", runs).determined_peak is None
