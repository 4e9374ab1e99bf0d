"""Which tensors go into one collective call, the same ones in every step of every run. No TensorFlow here.

Horovod fuses what is ready at the same moment, which timing decides, and the order of a sum over three or more ranks
depends on the size of the call and on the place in it. Calls of fixed contents have the same sums in every run. They
are of some megabytes each, of the last layers first, so that these travel while earlier ones are still differentiated
(as the buckets of Li et al. 2020, arXiv 2006.15704, section 3.2.3).
"""

from collections.abc import Sequence

MOST_BYTES = 2 * 2**20
"""Of a call for several tensors; a larger one has a call of its own."""

SMALLEST_DIVIDED = 4096
"""Elements of a weight below which dividing it would cost more in calls than it saves in memory (16 KB in fp32)."""


def calls_of(elements: Sequence[int], most_elements: int) -> list[list[int]]:
    """Which of these tensors go into each call, by their positions: neighbours, from the last to the first.

    most_elements: of a call of several; 0 gives each tensor a call of its own, in their own order.
    """
    if not most_elements:
        return [[position] for position in range(len(elements))]
    calls: list[list[int]] = []
    room = 0
    for position in reversed(range(len(elements))):
        if not calls or elements[position] > room:
            calls.append([])
            room = most_elements
        calls[-1].insert(0, position)
        room -= elements[position]
    return calls
