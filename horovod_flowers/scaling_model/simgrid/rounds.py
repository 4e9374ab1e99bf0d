"""Each algorithm of a collective operation as messages between ranks, as Open MPI and MPICH have them.

Written apart from the formulas (algorithms.py), so that each checks the other: there a round is a number of bytes, here
it is who sends to whom. Thakur, Rabenseifner and Gropp 2005 (doi 10.1177/1094342005051521), sections 3 and 4; Patarasuk
and Yuan 2009 for the ring; Bruck et al. 1997; Chen et al. 2005 for neighbour exchange.

Where the ranks are no power of two, recursive doubling and halving fold 2 r of them (r = P - 2^floor(log2 P)) into r
first, and tell the others the result at the end.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from horovod_flowers.runlog.records import Operation
from horovod_flowers.runtime.errors import UserError
from horovod_flowers.scaling_model.algorithms import Algorithm, LinkTerms, by_size

Partner = Callable[[int], "int | None"]
AT_ONCE = 64
"""Ranks up to which messages of all to all are simulated at once: beyond, so many flows take minutes."""


@dataclass(frozen=True)
class Round:
    """Messages between the ranks of a group, by their places in it: to one rank, from one."""

    bytes: float
    """Of one message."""
    sends_to: Partner
    hears_from: Partner
    added: bool = False
    """Whether what arrives is added up."""
    times: int = 1
    """Equal rounds that it stands for: their messages become one of all their bytes."""
    latencies: int = 1
    """Of how many messages: as many as rounds, but where these overlap."""


@dataclass(frozen=True)
class AtOnce:
    """Messages of `bytes` from each of the senders to each of the receivers of a group, all at the same time."""

    bytes: float
    to_root: bool = False
    """From all others to the first rank; else between all."""


def link_terms(part: Round | AtOnce, ranks: int) -> LinkTerms:
    """What one of its messages, of `Round.times`, pays on a link (algorithms.py): by its size and who sends to whom."""
    sent = by_size(part.bytes, 1 if isinstance(part, AtOnce) else part.times)
    latencies = 1 if isinstance(part, AtOnce) else part.latencies
    if ranks == 2:
        return LinkTerms(latencies, paired=sent)
    if isinstance(part, AtOnce) or part.latencies != part.times:
        return LinkTerms(latencies, concurrent=sent)
    exchanged = any(
        part.sends_to(rank) is not None and part.sends_to(rank) == part.hears_from(rank)
        for rank in range(min(ranks, 4))
    )
    return LinkTerms(latencies, exchanged=sent) if exchanged else LinkTerms(latencies, one_way=sent)


Rounds = Iterator[Round | AtOnce]


def rounds_of(
    operation: Operation, algorithm: Algorithm, size: float, ranks: int, most_rounds: int
) -> list[Round | AtOnce]:
    """Rounds of one call of `size` bytes, its larger side on a rank, over `ranks`.

    most_rounds: of equal ones; more of them are merged.
    Raises UserError for an operation without that algorithm.
    """
    known = _WRITTEN_OUT.get((operation, algorithm))
    if known is None:
        listed = ", ".join(name for of, name in _WRITTEN_OUT if of == operation) or "none"
        raise UserError(f"{operation} by {algorithm} cannot be simulated; its algorithms: {listed}")
    if ranks < 2 or size <= 0:
        return []
    return list(known(size, ranks, max(1, most_rounds)))


def _blocks(count: int, most: int) -> Iterator[tuple[int, int]]:
    """`count` equal rounds in at most `most` blocks whose lengths differ by one at most: (first, length)."""
    blocks = min(count, most)
    for number in range(blocks):
        first = number * count // blocks
        yield first, (number + 1) * count // blocks - first


def _ring(block: float, ranks: int, most: int, added: bool) -> Rounds:
    """P-1 times a block to the right, one from the left."""
    for _, length in _blocks(ranks - 1, most):
        to, of = _shift(ranks, 1)
        yield Round(block, to, of, added, length, length)


def _shift(ranks: int, distance: int) -> tuple[Partner, Partner]:
    return lambda rank: (rank + distance) % ranks, lambda rank: (rank - distance) % ranks


def _shifts(block: float, ranks: int, most: int, overlap: bool) -> Rounds:
    """Each rank to the one k places on, k = 1 ... P-1; overlap: all messages are on their way together.

    Any k of a merged block stands for it, not always its first: multiples of the same number would suit a tree's
    switches better, or worse, than all do.
    """
    for number, (first, length) in enumerate(_blocks(ranks - 1, most)):
        to, of = _shift(ranks, 1 + first + (number * 2654435761 >> 7) % length)
        latencies = (1 if number == 0 else 0) if overlap else length
        yield Round(block, to, of, times=length, latencies=latencies)


def _linear(size: float, ranks: int, most: int) -> Rounds:
    if ranks <= AT_ONCE:
        yield AtOnce(size / ranks)
    else:
        yield from _shifts(size / ranks, ranks, most, overlap=True)


def _distances(power: int) -> list[int]:
    """1, 2, 4, ... below a power of two."""
    return [1 << bit for bit in range(power.bit_length() - 1)]


class _Folded:
    """Partners among a power of two of the ranks: of the first 2 r ranks those of odd numbers take part."""

    def __init__(self, ranks: int) -> None:
        self.power = 1 << (ranks.bit_length() - 1)
        self.extra = ranks - self.power

    def partner(self, distance: int) -> Partner:
        """Whose place differs by that bit."""

        def found(rank: int) -> int | None:
            if rank < 2 * self.extra and rank % 2 == 0:
                return None
            place = rank // 2 if rank < 2 * self.extra else rank - self.extra
            other = place ^ distance
            return 2 * other + 1 if other < self.extra else other + self.extra

        return found

    def right(self, rank: int) -> int | None:
        """Of those that do not take part: who does for them."""
        return rank + 1 if rank < 2 * self.extra and rank % 2 == 0 else None

    def left(self, rank: int) -> int | None:
        """For whom a rank takes part, beside itself."""
        return rank - 1 if rank < 2 * self.extra and rank % 2 else None

    def neighbour(self, rank: int) -> int | None:
        """Both of the above."""
        return rank ^ 1 if rank < 2 * self.extra else None


def _recursive_doubling(size: float, ranks: int, _: int) -> Rounds:
    folded = _Folded(ranks)
    if folded.extra:
        yield Round(size, folded.right, folded.left, added=True)
    for distance in _distances(folded.power):
        yield Round(size, folded.partner(distance), folded.partner(distance), added=True)
    if folded.extra:
        yield Round(size, folded.left, folded.right)


def _rabenseifner(size: float, ranks: int, _: int) -> Rounds:
    """Halves to the neighbour, quarters to the next but one, ...; then back. Folding, too, is done by halves."""
    folded = _Folded(ranks)
    if folded.extra:
        yield Round(size / 2, folded.neighbour, folded.neighbour, added=True)
        yield Round(size / 2, folded.right, folded.left)
    exchanges = [(size / (2 * distance), folded.partner(distance)) for distance in _distances(folded.power)]
    for message, partner in exchanges:
        yield Round(message, partner, partner, added=True)
    for message, partner in reversed(exchanges):
        yield Round(message, partner, partner)
    if folded.extra:
        yield Round(size, folded.left, folded.right)


def _recursive_halving(size: float, ranks: int, _: int) -> Rounds:
    """Halves to the farthest, quarters to half as far, ..."""
    folded = _Folded(ranks)
    if folded.extra:
        yield Round(size, folded.right, folded.left, added=True)
    for distance in reversed(_distances(folded.power)):
        partner = folded.partner(distance)
        yield Round(size * distance / folded.power, partner, partner, added=True)
    if folded.extra:
        yield Round(size / ranks, folded.left, folded.right)


def _tree_distances(ranks: int) -> list[int]:
    """Of a binomial tree: 1, 2, 4, ... below the number of ranks."""
    return [1 << bit for bit in range((ranks - 1).bit_length())]


def _tree_partners(ranks: int, distance: int) -> tuple[Partner, Partner]:
    """(child, parent) of each rank at one level of a binomial tree whose root is rank 0."""

    def child(rank: int) -> int | None:
        return rank + distance if rank % (2 * distance) == 0 and rank + distance < ranks else None

    def parent(rank: int) -> int | None:
        return rank - distance if rank % (2 * distance) == distance else None

    return child, parent


def _broadcast(size: float, ranks: int) -> Rounds:
    for distance in reversed(_tree_distances(ranks)):
        child, parent = _tree_partners(ranks, distance)
        yield Round(size, child, parent)


def _reduce_and_broadcast(size: float, ranks: int, _: int) -> Rounds:
    for distance in _tree_distances(ranks):
        child, parent = _tree_partners(ranks, distance)
        yield Round(size, parent, child, added=True)
    yield from _broadcast(size, ranks)


def _gather_and_broadcast(size: float, ranks: int, _: int) -> Rounds:
    yield AtOnce(size / ranks, to_root=True)
    yield from _broadcast(size, ranks)


def _bruck(size: float, ranks: int, _: int) -> Rounds:
    for distance in _tree_distances(ranks):
        of, to = _shift(ranks, distance)
        yield Round(min(distance, ranks - distance) * size / ranks, to, of)


def _neighbor_exchange(size: float, ranks: int, most: int) -> Rounds:
    """With the neighbours on both sides in turn; an odd number of ranks goes by ring, as in Open MPI."""
    if ranks % 2:
        yield from _ring(size / ranks, ranks, most, added=False)
        return

    def one_side(rank: int) -> int:
        return rank ^ 1

    def other_side(rank: int) -> int:
        return (rank - 1 if rank % 2 == 0 else rank + 1) % ranks

    yield Round(size / ranks, one_side, one_side)
    for number, (_, length) in enumerate(_blocks(ranks // 2 - 1, most)):
        side = one_side if number % 2 else other_side
        yield Round(2 * size / ranks, side, side, times=length, latencies=length)


def _ring_allreduce(size: float, ranks: int, most: int) -> Rounds:
    for added in (True, False):
        yield from _ring(size / ranks, ranks, max(1, most // 2), added)


_WRITTEN_OUT: dict[tuple[Operation, Algorithm], Callable[[float, int, int], Rounds]] = {
    ("allreduce", "ring"): _ring_allreduce,
    ("allreduce", "recursive doubling"): _recursive_doubling,
    ("allreduce", "rabenseifner"): _rabenseifner,
    ("allreduce", "reduce and broadcast"): _reduce_and_broadcast,
    ("reducescatter", "ring"): lambda size, ranks, most: _ring(size / ranks, ranks, most, added=True),
    ("reducescatter", "recursive halving"): _recursive_halving,
    ("reducescatter", "butterfly"): _recursive_halving,  # other partners, but as many messages of the same sizes
    ("reducescatter", "reduce and broadcast"): _reduce_and_broadcast,
    ("allgather", "ring"): lambda size, ranks, most: _ring(size / ranks, ranks, most, added=False),
    ("allgather", "bruck"): _bruck,
    ("allgather", "neighbor exchange"): _neighbor_exchange,
    ("allgather", "gather and broadcast"): _gather_and_broadcast,
    ("allgather", "linear"): _linear,
    ("alltoall", "linear"): _linear,
    ("alltoall", "pairwise"): lambda size, ranks, most: _shifts(size / ranks, ranks, most, overlap=False),
}
