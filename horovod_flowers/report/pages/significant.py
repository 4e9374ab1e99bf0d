"""Digits of figures that follow from each other: what a reader works out by hand from one gives the other as shown."""

import math
from collections.abc import Iterable
from decimal import ROUND_HALF_UP, Decimal

FEWEST_DIGITS = 3
MOST_DIGITS = 12
CALCULATOR_DIGITS = 10


def significant(value: float, digits: int = FEWEST_DIGITS) -> str:
    """So many significant digits, never fewer than the whole number, without an exponent."""
    if value == 0 or not math.isfinite(value):
        return f"{value:.{digits - 1}f}"
    rounded = rounded_to(value, digits)  # 9.999 with three digits is 10.0
    return f"{value:.{max(0, digits - 1 - math.floor(math.log10(abs(rounded))))}f}"


def rounded_to(value: float, digits: int) -> float:
    """The value with so many significant digits, rounded half up from those that a reader's calculator shows: what
    lies half-way goes one way, whether the last bit of a product is below it or above.
    """
    if not math.isfinite(value):
        return value
    shown = Decimal(f"{value:.{CALCULATOR_DIGITS - 1}e}")
    return float(shown.quantize(Decimal(1).scaleb(shown.adjusted() - digits + 1), ROUND_HALF_UP))


def digits_for(value: float, results: Iterable[tuple[float, int]]) -> int:
    """The fewest significant digits with which a value, times each factor, still gives the same result.

    results: the factor of each, and how many of the result's significant digits have to be the same.
    """
    kept = list(results)
    for digits in range(FEWEST_DIGITS, MOST_DIGITS):
        shown = float(significant(value, digits))
        if all(rounded_to(shown * factor, same) == rounded_to(value * factor, same) for factor, same in kept):
            return digits
    return MOST_DIGITS


def decimals_in(text: str) -> int:
    """How many digits are behind its point."""
    return len(text.partition(".")[2])
