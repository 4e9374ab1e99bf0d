"""How often the report's intervals hold the truth: studies of known scaling, reported on as recorded ones are.

python -m benchmarks.interval_coverage --seeds 150

Laws: Amdahl's, Gustafson's, and the Universal Scalability Law with and without a peak; 3 % noise, six runs of each
number of ranks. A law's parameters are looked at where it is the true one, or holds it (Amdahl's is the Universal
Scalability Law without coherency). An interval of 95 % should hold the truth in 92 to 99 % of many studies. Prints the
tables of docs/report.md.
"""

import argparse
import os
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np

from benchmarks.synthetic_studies import TRUTHS, Truth, study
from horovod_flowers.report.analysis.claims import compare
from horovod_flowers.report.analysis.doubts import doubts_of
from horovod_flowers.report.analysis.intervals import Estimate
from horovod_flowers.report.analysis.laws import Fit
from horovod_flowers.report.analysis.points import points_of, series_of
from horovod_flowers.report.content import fits_of

RANK_COUNTS = ((1, 2, 4, 8, 16), (1, 2, 4, 8, 16, 32, 64))
LEAST = 0.92
"""Coverage that is wanted of 95 % intervals, at least."""

UNTRUE = {
    "USL: peak": "peaks printed where there is none",
    "USL: images/s at twice the ranks": "USL extrapolated though its coherency is 0",
}
Tally = dict[str, list[int]]
"""By figure: how many intervals held the truth, and how many there were."""


def intervals_of(truth: Truth, rank_counts: Sequence[int], seed: int) -> Iterator[tuple[str, Estimate, float | None]]:
    """Every interval that the report prints of a synthetic study: figure, estimate, truth (None: nothing is true)."""
    runs = study(truth, rank_counts, seed)
    points = points_of(runs)
    for point in points:
        yield "images/s", point.images_per_second, truth.images_per_second(point.ranks)
        yield "step seconds", point.step_seconds, truth.step_seconds(point.ranks)
        if point.ranks > 1:
            assert point.speed_up is not None
            assert point.efficiency is not None
            yield "speed-up", point.speed_up, truth.speed_up(point.ranks)
            yield "efficiency", point.efficiency, truth.speed_up(point.ranks) / point.ranks
            if point.serial_fraction is not None:
                yield "serial fraction (Karp-Flatt)", point.serial_fraction, truth.serial_fraction(point.ranks)
    most = max(rank_counts)
    compared = compare(runs, ["*-1ranks-*", f"*-{most}ranks-*"], allow_differences=True)
    yield "ratio of --compare", compared.ratio, truth.images_per_second(most) / truth.images_per_second(1)
    for series in series_of(points):
        for fit in fits_of(series).fits:
            yield from _of_law(fit, truth, most)


def _of_law(fit: Fit, truth: Truth, most: int) -> Iterator[tuple[str, Estimate, float | None]]:
    if fit.law == truth.law or (fit.law == "USL" and truth.law == "Amdahl"):
        first = truth.contention
        yield f"{fit.law}: {next(iter(fit.parameters)).replace('_', ' ')}", next(iter(fit.parameters.values())), first
        if fit.law == "USL":
            yield "USL: coherency", fit.parameters["coherency"], truth.coherency
        band = fit.band(np.array([2.0 * most]))
        if band is not None and fit.not_extrapolated is None:
            low, high = (float(end[0]) for end in band)
            value = float(fit.rates(np.array([2.0 * most]))[0])
            yield (
                f"{fit.law}: images/s at twice the ranks",
                Estimate(value, low, high),
                truth.images_per_second(2 * most),
            )
    if fit.law == "USL" and fit.determined_peak is not None:
        yield "USL: peak", fit.determined_peak, truth.peak_ranks


def tally(truth: Truth, rank_counts: Sequence[int], seeds: Sequence[int]) -> tuple[Tally, Tally]:
    """Coverage by figure over these seeds, and how often a figure was printed of which nothing is true."""
    found: Tally = defaultdict(lambda: [0, 0])
    untrue: Tally = {name: [0, len(seeds)] for name in UNTRUE}
    for seed in seeds:
        for name, estimate, true in intervals_of(truth, rank_counts, seed):
            if true is None:
                untrue[name][0] += 1
            elif estimate.low is not None and estimate.high is not None:
                found[name][0] += estimate.low <= true <= estimate.high
                found[name][1] += 1
    return dict(found), untrue


def doubted(truth: Truth, rank_counts: Sequence[int], seeds: Sequence[int]) -> int:
    """Of how many honest studies anything is said that speaks against them."""
    return sum(any(doubts_of(point) for point in points_of(study(truth, rank_counts, seed))) for seed in seeds)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--seeds", type=int, default=150, help="studies of each law and each set of ranks")
    parser.add_argument("--first", type=int, default=0, help="seed of the first study")
    parser.add_argument(
        "--doubts", action="store_true", help="count the studies of 1 to 16 ranks that are doubted instead"
    )
    options = parser.parse_args()
    os.nice(5)
    seeds = range(options.first, options.first + options.seeds)
    if options.doubts:
        for truth in TRUTHS:
            print(f"{truth.name}: {doubted(truth, RANK_COUNTS[0], seeds)} of {len(seeds)}", flush=True)
        return
    columns = [(truth, counts) for truth in TRUTHS for counts in RANK_COUNTS]
    tallies = []
    for truth, counts in columns:
        tallies.append(tally(truth, counts, seeds))
        print(f"done: {truth.name}, 1 to {counts[-1]} ranks", file=sys.stderr)
    heads = [f"{truth.name}, 1 to {counts[-1]}" for truth, counts in columns]
    print(table(heads, tallies, len(seeds)))


def table(heads: Sequence[str], tallies: Sequence[tuple[Tally, Tally]], studies: int) -> str:
    """Markdown: coverage by figure (rows) and law, the intervals in brackets, and over all laws."""
    lines = [f"| {studies} studies each | {' | '.join(heads)} | all |", "|---|" + "--:|" * (len(heads) + 1)]
    for name in dict.fromkeys(name for found, _ in tallies for name in found):
        counts = [found.get(name, [0, 0]) for found, _ in tallies]
        counts.append([sum(each) for each in zip(*counts, strict=True)])
        cells = [f"{held / of:.3f} ({of})" if of else "" for held, of in counts]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    for name, words in UNTRUE.items():
        printed = [untrue[name][0] for _, untrue in tallies]
        lines.append(f"| {words} | {' | '.join(map(str, printed))} | {sum(printed)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
