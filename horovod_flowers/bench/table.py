"""The bench's results in words: medians with intervals, ratios within repetitions, what collective calls cost."""

import statistics
from collections.abc import Sequence

import numpy as np
from rich import box
from rich.table import Table
from scipy import stats

from horovod_flowers.bench.contenders import Measurement
from horovod_flowers.runlog.collectives import Collectives
from horovod_flowers.runtime.console import Terminal, say
from horovod_flowers.scaling_model.linear_cost import fit_linear_cost

TABLE_WIDTH = 120  # in a log
FEWEST_FOR_INTERVAL = 6
STEP_TIMESTAMPS = 11
"""Of a step of strategy tensor, which takes the most: two for each of its four waits, and three at its ends."""


def interval(values: Sequence[float]) -> tuple[float, float] | None:
    """95 % interval of the median by bootstrap (percentile method, Efron 1979); None below six values."""
    if len(values) < FEWEST_FOR_INTERVAL:
        return None
    found = stats.bootstrap((np.asarray(values),), np.median, method="percentile", n_resamples=9999, rng=0)
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def ratios(one: Measurement, other: Measurement) -> list[float]:
    """Throughput of one over the other, each within a repetition that both finished."""
    common = sorted(one.by_repetition.keys() & other.by_repetition.keys())
    first, second = one.by_repetition, other.by_repetition
    return [first[k].images_per_second / second[k].images_per_second for k in common]


def described(values: Sequence[float], digits: int) -> str:
    """Median, and its interval where there is one."""
    if not values:
        return "–"
    text, limits = f"{statistics.median(values):.{digits}f}", interval(values)
    return text if limits is None else f"{text} ({limits[0]:.{digits}f}–{limits[1]:.{digits}f})"


def _console() -> Terminal:
    return Terminal() if Terminal().is_terminal else Terminal(width=TABLE_WIDTH)


def print_table(measurements: Sequence[Measurement]) -> None:
    """Every contender, those of the same number of ranks together, the fastest first."""
    done = [measurement for measurement in measurements if measurement.by_repetition]
    enough = all(len(m.by_repetition) >= FEWEST_FOR_INTERVAL for m in done)
    caption = "medians over runs, 95 % bootstrap interval" if enough else "medians over runs; interval not available"
    if any(measurement.oversubscribed for measurement in done):
        caption += "; * oversubscribed: ranks shared a core, not a measure of speed"
    title = "Each contender alone on its cores, one core per rank"
    table = Table(title=title, caption=caption, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    parts = ("input s", "compute s", "comm. s", "update s")
    for name in ("ranks", "contender", "runs", "images/s", "step s", *parts):
        table.add_column(name, justify="left" if name == "contender" else "right")
    for measurement in sorted(done, key=lambda m: (m.ranks, -statistics.median(m.rates))):
        timings = list(measurement.by_repetition.values())
        step = statistics.median(timing.median_step_seconds for timing in timings)
        told = [timing.parts for timing in timings if timing.parts is not None]
        shares = [f"{statistics.median(part[name] for part in told):.3f}" for name in told[0]] if told else ["–"] * 4
        mark = "*" if measurement.oversubscribed else ""
        rate = described(measurement.rates, 1)
        cells = [str(len(timings)), rate, f"{step:.3f}", *shares]
        table.add_row(f"{measurement.ranks}{mark}", measurement.contender, *cells)
    _console().print(table)


def print_ratios(measurements: Sequence[Measurement]) -> None:
    """Our strategies against 'none' at the same precision, and our fastest against each peer."""
    done = [measurement for measurement in measurements if measurement.by_repetition]
    ours = [measurement for measurement in done if not measurement.peer]
    for alone in (m for m in ours if m.contender.startswith("none ")):
        words = alone.contender.split()[1:]
        for other in ours:
            same = other.ranks == alone.ranks and other.contender.split()[1:2] == words
            if same and other is not alone:
                ratio = described(ratios(other, alone), 2)
                say(f"{other.ranks} ranks: {other.contender} / {alone.contender}: {ratio}")
    for peer in (measurement for measurement in done if measurement.peer):
        # A process that does the work of all ranks is compared with all ranks.
        size = max(m.ranks for m in ours) if "all cores" in peer.contender else peer.ranks
        rivals = [measurement for measurement in ours if measurement.ranks == size]
        if rivals:
            best = max(rivals, key=lambda m: statistics.median(m.rates))
            ranks = "1 rank" if size == 1 else f"{size} ranks"
            say(f"{ranks}: {best.contender} / {peer.contender}: {described(ratios(best, peer), 2)}")


def print_costs(costs: Collectives) -> None:
    """Latency and bandwidth of each operation, of adding up, and what the timestamps of a step cost."""
    mark = " (oversubscribed: not a measure of speed)" if costs.oversubscribed else ""
    for operation in dict.fromkeys(row.operation for row in costs.measured):
        rows = [row for row in costs.measured if row.operation == operation]
        fit = fit_linear_cost([row.bytes for row in rows], [statistics.median(row.seconds) for row in rows])
        say(
            f"{operation} over {costs.world_size} ranks: {fit.latency_seconds * 1e3:.2f} ms + bytes / "
            f"{fit.bytes_per_second / 1e9:.2f} GB/s{mark}"
        )
    say(f"adding up two arrays on every rank: bytes / {costs.reduction_bytes_per_second / 1e9:.2f} GB/s{mark}")
    microseconds = costs.timestamp_seconds * 1e6
    total = f"the {STEP_TIMESTAMPS} of strategy tensor {microseconds * STEP_TIMESTAMPS / 1e3:.2f} ms"
    say(f"a timestamp inside a step costs {microseconds:.0f} µs; {total}")
