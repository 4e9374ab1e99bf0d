"""Collective algorithms as rounds of messages, and from these their cost.

In a round every rank of a group sends a message at the same time. With N ranks, n bytes (the larger side of the call on
a rank), L = log2 N, a the latency of a message, b the seconds a byte on the wire, g the seconds of adding up a byte
(Thakur, Rabenseifner and Gropp 2005, Int. J. High Performance Computing Applications 19(1), sections 3 and 4; T. as
there where N is a power of two):

    ring                 allreduce       2 (N-1) a + 2 (N-1)/N n b + (N-1)/N n g     (Patarasuk and Yuan 2009)
    ring                 reduce-scatter    (N-1) a +   (N-1)/N n b + (N-1)/N n g; allgather without the last term
    recursive doubling   allreduce             L a +         L n b +       L n g
    Rabenseifner         allreduce           2 L a + 2 (N-1)/N n b + (N-1)/N n g     recursive halving, then doubling
    recursive halving    reduce-scatter        L a +   (N-1)/N n b + (N-1)/N n g
    butterfly            reduce-scatter        as recursive halving
    Bruck                allgather      ceil(L) a +   (N-1)/N n b
    neighbor exchange    allgather         N/2 a +   (N-1)/N n b                     (Chen et al. 2005; N even)
    linear               alltoall              a +   (N-1)/N n b                     all messages at once
    pairwise             alltoall        (N-1) a +   (N-1)/N n b
    binomial             reduce, broadcast: ceil(L) a + ceil(L) n b each

Where N is not a power of two, the ranks beyond 2^floor(L) first hand their values to neighbours, and get the result
back at the end: two more messages and one more addition (section 4.4 there). Rabenseifner halves what is handed over:
three more messages, and an addition of half as much.

What a round costs depends on who sends to whom. Between ranks of one node it is that node's own link; where ranks of a
node send to other nodes at once, they share the node's link to the network. A round of both kinds lasts as long as the
slower one.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, TypeAlias

from horovod_flowers.runlog.records import Operation
from horovod_flowers.scaling_model.network import Link, Network
from horovod_flowers.scaling_model.step_tasks import Call, RankGroup

Algorithm: TypeAlias = Literal[
    "ring", "recursive doubling", "rabenseifner", "reduce and broadcast", "recursive halving", "butterfly",
    "bruck", "neighbor exchange", "pairwise", "linear", "gather and broadcast",
]  # fmt: skip


Pattern = Literal["steady", "shift", "exchange", "neighbors", "tree", "gather"]
"""Who sends to whom in the rounds of an algorithm: each rank to the same neighbour in all of them; each rank to one at
a distance, another one in each round; pairs at a distance to each other; a rank of odd number and the one after it to
each other; those at odd multiples of the distance to the ones before; or all others to the first."""


EXCHANGES = ("exchange", "neighbors")


@dataclass(frozen=True)
class Round:
    """`times` rounds in which each rank sends `bytes`."""

    times: int
    bytes: float
    distance: int
    """To the rank that is sent to, in ranks of the group."""
    pattern: Pattern = "shift"
    added: float = 0.0
    """Bytes that a rank adds up afterwards, each time."""
    peers: int = 1
    """Ranks that each rank sends `bytes` to at once, the next `peers` ones from `distance` on."""


def _log2(ranks: int) -> int:
    return ranks.bit_length() - 1


def _is_power_of_two(ranks: int) -> bool:
    return ranks == 2 ** _log2(ranks)


def ring_reduce_scatter(n: float, ranks: int) -> list[Round]:
    return [Round(ranks - 1, n / ranks, 1, "steady", added=n / ranks)]


def ring_allgather(n: float, ranks: int) -> list[Round]:
    return [Round(ranks - 1, n / ranks, 1, "steady")]


def ring_allreduce(n: float, ranks: int) -> list[Round]:
    return [*ring_reduce_scatter(n, ranks), *ring_allgather(n, ranks)]


def recursive_doubling_allreduce(n: float, ranks: int) -> list[Round]:
    fold = [] if _is_power_of_two(ranks) else [Round(1, n, 1, "tree", n), Round(1, n, 1, "tree")]
    return [*fold, *(Round(1, n, 2**step, "exchange", n) for step in range(_log2(ranks)))]


def rabenseifner_allreduce(n: float, ranks: int) -> list[Round]:
    """Neighbours exchange halves first, so that the farthest exchange the least."""
    steps = range(_log2(ranks))
    halving = [Round(1, n / 2 ** (step + 1), 2**step, "exchange", n / 2 ** (step + 1)) for step in steps]
    doubling = [Round(1, n / 2 ** (step + 1), 2**step, "exchange") for step in reversed(steps)]
    fold = [Round(1, n / 2, 1, "exchange", n / 2), Round(1, n / 2, 1, "tree"), Round(1, n, 1, "tree")]
    return [*([] if _is_power_of_two(ranks) else fold), *halving, *doubling]


def recursive_halving_reduce_scatter(n: float, ranks: int) -> list[Round]:
    """The farthest ranks exchange halves first."""
    power = _log2(ranks)
    rounds = [
        Round(1, n / 2 ** (step + 1), 2 ** (power - step - 1), "exchange", n / 2 ** (step + 1)) for step in range(power)
    ]
    fold = [] if _is_power_of_two(ranks) else [Round(1, n, 1, "tree", n), Round(1, n / ranks, 1, "tree")]
    return [*fold, *rounds]


def bruck_allgather(n: float, ranks: int) -> list[Round]:
    found, have = [], 1
    while have < ranks:
        blocks = min(have, ranks - have)
        found.append(Round(1, n / ranks * blocks, have))
        have += blocks
    return found


def neighbor_exchange_allgather(n: float, ranks: int) -> list[Round]:
    """Of an even number of ranks; Open MPI takes a ring where it is odd."""
    if ranks % 2:
        return ring_allgather(n, ranks)
    block, more = n / ranks, ranks // 2 - 1
    found = [Round(1, block, 1, "exchange"), Round(more - more // 2, 2 * block, 1, "neighbors")]
    return [*found, Round(more // 2, 2 * block, 1, "exchange")]


def pairwise_alltoall(n: float, ranks: int) -> list[Round]:
    return [Round(1, n / ranks, step) for step in range(1, ranks)]


def linear_alltoall(n: float, ranks: int) -> list[Round]:
    """Each pair of ranks exchanges, all at once."""
    return [Round(1, n / ranks, 1, peers=ranks - 1)]


def reduce_and_broadcast(n: float, ranks: int) -> list[Round]:
    """Binomial trees."""
    steps = range(math.ceil(math.log2(ranks)))
    reduce = [Round(1, n, 2**step, "tree", added=n) for step in steps]
    return [*reduce, *(Round(1, n, 2**step, "tree") for step in steps)]


def gather_and_broadcast(n: float, ranks: int) -> list[Round]:
    """One rank receives from all, then a binomial tree."""
    tree = [Round(1, n, 2**step, "tree") for step in range(math.ceil(math.log2(ranks)))]
    return [Round(1, n / ranks, 1, "gather", peers=ranks - 1), *tree]


ROUNDS: dict[tuple[Operation, Algorithm], Callable[[float, int], list[Round]]] = {
    ("allreduce", "ring"): ring_allreduce,
    ("allreduce", "recursive doubling"): recursive_doubling_allreduce,
    ("allreduce", "rabenseifner"): rabenseifner_allreduce,
    ("allreduce", "reduce and broadcast"): reduce_and_broadcast,
    ("reducescatter", "ring"): ring_reduce_scatter,
    ("reducescatter", "recursive halving"): recursive_halving_reduce_scatter,
    ("reducescatter", "butterfly"): recursive_halving_reduce_scatter,
    ("reducescatter", "reduce and broadcast"): reduce_and_broadcast,
    ("allgather", "ring"): ring_allgather,
    ("allgather", "bruck"): bruck_allgather,
    ("allgather", "neighbor exchange"): neighbor_exchange_allgather,
    ("allgather", "gather and broadcast"): gather_and_broadcast,
    ("allgather", "linear"): linear_alltoall,
    ("alltoall", "linear"): linear_alltoall,
    ("alltoall", "pairwise"): pairwise_alltoall,
}
"""The rounds of n bytes over so many ranks."""


SIZES = (64 * 2**10, 2**20)
"""Bytes at which the cost of a message changes its slope: small ones are sent at once, larger ones after the receiver
has agreed, the largest fill buffers and caches. As in parameterised LogP (Kielmann, Bal and Verstoep 2000), whose costs
are functions of the size."""
_BY_SIZE = (0.0,) * (len(SIZES) + 1)


def by_size(message: float, times: float) -> tuple[float, ...]:
    """How many bytes of `times` messages lie below the first of SIZES, between the first and the second, and above."""
    limits = (0.0, *SIZES, math.inf)
    return tuple(times * max(0.0, min(message, high) - low) for low, high in pairwise(limits))


@dataclass(frozen=True)
class LinkTerms:
    """What a call pays on one kind of link. Bytes are those that go over a link one after the other, `by_size`."""

    messages: float = 0.0
    """Latencies."""
    one_way: tuple[float, ...] = _BY_SIZE
    """Bytes that a rank sends to one and gets from another."""
    exchanged: tuple[float, ...] = _BY_SIZE
    """Bytes that two ranks send to each other at the same time."""
    concurrent: tuple[float, ...] = _BY_SIZE
    """Bytes to all others at once."""
    paired: tuple[float, ...] = _BY_SIZE
    """Bytes between the two ranks of a group of two, which always exchange."""

    def __add__(self, other: "LinkTerms") -> "LinkTerms":
        return LinkTerms(
            self.messages + other.messages,
            _added(self.one_way, other.one_way),
            _added(self.exchanged, other.exchanged),
            _added(self.concurrent, other.concurrent),
            _added(self.paired, other.paired),
        )


def _added(one: tuple[float, ...], other: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(mine + theirs for mine, theirs in zip(one, other, strict=True))


@dataclass(frozen=True)
class Terms:
    """What a call pays altogether."""

    between_nodes: LinkTerms = LinkTerms()
    in_node: LinkTerms = LinkTerms()
    added_bytes: float = 0.0
    """Bytes that a rank adds up."""

    def __add__(self, other: "Terms") -> "Terms":
        return Terms(
            self.between_nodes + other.between_nodes,
            self.in_node + other.in_node,
            self.added_bytes + other.added_bytes,
        )


def terms_of(call: Call, algorithm: Algorithm, ranks_per_node: int) -> Terms:
    """The terms of one call, of a round of both kinds of links those between nodes, as if these were the slower."""
    found = Terms()
    for terms, _ in round_terms(call, algorithm, ranks_per_node):
        found += terms
    return found


def round_terms(call: Call, algorithm: Algorithm, ranks_per_node: int) -> list[tuple[Terms, LinkTerms]]:
    """The terms of each kind of round, and what its messages within nodes pay while others leave their nodes.

    The round lasts as long as the slower of both.
    """
    if call.group.size < 2:
        return []
    parts = ROUNDS[call.operation, algorithm](call.bytes, call.group.size)
    return [_round_terms(part, call.group, ranks_per_node) for part in parts]


def _round_terms(part: Round, group: RankGroup, ranks_per_node: int) -> tuple[Terms, LinkTerms]:
    """Of `part.times` rounds."""
    crossing, added = _crossing(part, group, ranks_per_node), part.times * part.added
    if crossing == 0:
        return Terms(in_node=_link_terms(part, group, part.peers), added_bytes=added), LinkTerms()
    beside = _staying(part, group, ranks_per_node)
    inside = _link_terms(part, group, beside) if beside else LinkTerms()
    return Terms(between_nodes=_link_terms(part, group, crossing), added_bytes=added), inside


def _link_terms(part: Round, group: RankGroup, messages: float) -> LinkTerms:
    """Of so many messages one after the other on a link, in each round."""
    sent = by_size(part.bytes, part.times * messages)
    if group.size == 2:
        return LinkTerms(part.times, paired=sent)
    if part.peers > 1:
        return LinkTerms(part.times, concurrent=sent)
    if part.pattern in EXCHANGES or (part.pattern == "shift" and 2 * part.distance == group.size):
        return LinkTerms(part.times, exchanged=sent)
    return LinkTerms(part.times, one_way=sent)


def _staying(part: Round, group: RankGroup, ranks_per_node: int) -> int:
    """Messages that a rank sends within its node in a round in which others leave theirs."""
    members = max(1, ranks_per_node // group.stride)
    if part.pattern == "gather" or part.peers > 1:
        return members - 1
    stays = {
        "steady": members > 1,
        "shift": min(part.distance, group.size - part.distance) < members,
        "exchange": False,
        "neighbors": members > 1,
        "tree": False,
    }
    return int(stays[part.pattern])


def _crossing(part: Round, group: RankGroup, ranks_per_node: int) -> float:
    """Messages of a round that leave a node, over all of its ranks: of as many groups as have members in it."""
    if group.size * group.stride <= ranks_per_node:
        return 0
    members, groups = max(1, ranks_per_node // group.stride), min(ranks_per_node, group.stride)
    if part.pattern == "gather":
        return groups * (group.size - members)
    if part.peers > 1:
        return groups * members * (group.size - members) / (group.size - 1) * part.peers
    inside = part.distance < members
    of_group = {
        "steady": 1,
        "shift": min(part.distance, group.size - part.distance, members),
        "exchange": 0 if inside else members,
        "neighbors": min(2, members),
        "tree": 0 if inside else 1,
    }
    return groups * of_group[part.pattern]


@dataclass(frozen=True)
class MessageCost:
    """What a message costs on a link: latency, and seconds a byte by size (`by_size`) and by who sends to whom.

    On an ideal network all of these are one over the bandwidth. Transports make a difference: two that send to each
    other may have to take turns, and what many send to one at the same time may be lost and sent again.
    """

    latency_seconds: float
    one_way: tuple[float, ...]
    exchanged: tuple[float, ...]
    concurrent: tuple[float, ...]
    paired: tuple[float, ...]

    @staticmethod
    def of(link: Link) -> "MessageCost":
        """The same for all messages."""
        slopes = (1 / link.bytes_per_second,) * len(_BY_SIZE)
        return MessageCost(link.latency_seconds, slopes, slopes, slopes, slopes)

    @property
    def by_pattern(self) -> dict[str, list[float]]:
        """Seconds a byte, by size, of each kind of message."""
        kinds = ("one_way", "exchanged", "concurrent", "paired")
        return {kind: list(getattr(self, kind)) for kind in kinds}

    def seconds(self, terms: LinkTerms) -> float:
        """Of these terms."""
        parts = (
            (terms.one_way, self.one_way), (terms.exchanged, self.exchanged), (terms.concurrent, self.concurrent),
            (terms.paired, self.paired),
        )  # fmt: skip
        sent = sum(size * slope for sizes, slopes in parts for size, slope in zip(sizes, slopes, strict=True))
        return terms.messages * self.latency_seconds + sent


def seconds_of(terms: Terms, network: Network, added_seconds_per_byte: float) -> float:
    """What they cost on a network."""
    between, inner = MessageCost.of(network.between_nodes), MessageCost.of(network.in_node or network.between_nodes)
    return (
        between.seconds(terms.between_nodes) + inner.seconds(terms.in_node) + terms.added_bytes * added_seconds_per_byte
    )
