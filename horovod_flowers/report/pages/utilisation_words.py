"""Model FLOPs utilisation in words, the same in the terminal and the pages."""

from collections.abc import Iterator

from horovod_flowers.report.analysis.intervals import Estimate
from horovod_flowers.report.analysis.utilisation import Utilisation
from horovod_flowers.report.content import Content
from horovod_flowers.report.pages.wording import MISSING, row_words

_PREFIXES = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def operations(value: float | None, unit: str = "FLOP") -> str:
    """'31.6 GFLOP', three digits."""
    if value is None:
        return MISSING
    size, prefix = next(((size, prefix) for size, prefix in _PREFIXES if value >= size), (1.0, ""))
    return f"{value / size:.3g} {prefix}{unit}"


def share_words(found: Utilisation | None, to: str = " to ") -> str:
    """'31.2 % (30.1 to 32.0)'."""
    return MISSING if found is None or found.share is None else _percents(found.share, to)


def _percents(found: Estimate, to: str) -> str:
    text = f"{found.value * 100:.1f} %"
    if found.low is None or found.high is None:
        return text
    return f"{text} ({found.low * 100:.1f}{to}{found.high * 100:.1f})"


def utilisation_row(found: Utilisation) -> dict[str, str]:
    """The cells of a point, by their columns."""
    achieved = None if found.achieved is None else found.achieved.value / found.units
    unit = f"FLOP/s per {found.unit}"
    rate, speed_up = found.bound_images_per_second, found.bound_speed_up
    return {
        "operations": operations(found.flops_per_image),
        "achieved": operations(achieved, unit),
        "peak": operations(None if found.peak is None else found.peak / found.units, unit),
        "share": share_words(found),
        "bound": MISSING if rate is None else f"{rate:.1f}",
        "bound_speed_up": MISSING if speed_up is None else f"{speed_up:.2f}",
    }


def reasons(content: Content) -> list[tuple[str, list[str]]]:
    """Why points have no share of the peak, each reason with the points that it is true of."""
    found: dict[str, list[str]] = {}
    for point, utilisation in content.utilisations.items():
        if utilisation.missing is not None:
            found.setdefault(utilisation.missing, []).append(row_words(point))
    return list(found.items())


def reason_lines(content: Content) -> Iterator[str]:
    """The same in sentences; all points are not listed one by one."""
    for reason, names in reasons(content):
        every = len(names) == len(content.points)
        yield f"no percent of peak{'' if every else ' for ' + '; '.join(dict.fromkeys(names))}: {reason}"
