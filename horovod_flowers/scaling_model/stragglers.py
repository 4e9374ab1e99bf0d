"""Waiting for the slowest: a step that ends together lasts as long as the longest of the ranks' own work.

The expected largest of N independent values, from the values of measured steps (order statistics: David and Nagaraja
2003, 'Order Statistics', sections 2.1 and 4.5).
"""

from collections.abc import Sequence

import numpy as np


def expected_largest(values: Sequence[float], draws: int) -> float:
    """Of `draws` values of the distribution that these are from.

    With n sorted values x, each as likely: sum of x_i ((i/n)^N - ((i-1)/n)^N), which never passes the largest seen. For
    more draws than values the tail is continued as a normal one, from Blom's approximation of its order statistics,
    mean + s z((N - 0.375) / (N + 0.25)), where that is more.
    """
    ordered = np.sort(np.asarray(values, np.float64))
    count = len(ordered)
    if count == 0:
        return 0.0
    steps = (np.arange(count + 1) / count) ** draws
    seen = float(ordered @ np.diff(steps))
    if draws <= count or count < 3:
        return seen
    from scipy.special import ndtri

    spread = float(ordered.std(ddof=1))
    return max(seen, float(ordered.mean()) + spread * float(ndtri((draws - 0.375) / (draws + 0.25))))


def straggler_seconds(step_seconds: Sequence[float], ranks: int) -> float:
    """How much longer than its median a step takes that waits for the slowest of so many ranks."""
    if ranks < 2 or not len(step_seconds):
        return 0.0
    return max(0.0, expected_largest(step_seconds, ranks) - float(np.median(step_seconds)))
