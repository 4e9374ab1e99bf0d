"""A call model fitted to measured calls (runlog/collectives.py): latency, bandwidth, and what Horovod adds to a call.

The unknowns are physical, and the same for all operations and numbers of ranks: what a message costs, by its size and
by who sends to whom; what a call costs before its first message; how that grows with the ranks. What an operation's
algorithm makes of them is known (algorithms.py). So calls over 2 and 4 ranks say what those over 16 cost.

Calls over one number of ranks leave things open: how coordination grows, and, over two ranks, where every message is an
exchange, whether one way would be quicker, and whether other pairs take turns. The model then has a low
and a high end.
"""

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from horovod_flowers.runlog.collectives import Collectives
from horovod_flowers.runlog.records import Operation
from horovod_flowers.runtime.errors import UserError
from horovod_flowers.scaling_model.algorithms import SIZES, LinkTerms, MessageCost, terms_of
from horovod_flowers.scaling_model.call_model import DEFAULT_CYCLE_SECONDS, CallModel
from horovod_flowers.scaling_model.open_mpi import choice_from_settings
from horovod_flowers.scaling_model.step_tasks import Call, RankGroup

OPERATIONS: tuple[Operation, ...] = ("allreduce", "reducescatter", "allgather", "alltoall")
FEWEST_SIZES = 3
TURNS = 2.0
"""How much longer an exchange takes, at most, than one way: one message after the other."""
SIDES = ("between", "inside")
KINDS = ("one_way", "exchanged", "concurrent", "paired")
_SLOPES = len(SIZES) + 1
# Weak knowledge for what calls do not tell: slopes of neighbouring sizes and of kinds of messages are alike, and so are
# calls of different operations. A factor of e between two of them counts as much as one size that is missed by 10 %.
_WEIGHT_OF_LIKENESS = 0.1


@dataclass(frozen=True)
class Calibration:
    """A call model, and how sure it is."""

    model: CallModel
    low: CallModel
    """Everything that the calls leave open taken as quick as it may be."""
    high: CallModel
    """The same, as slow as it may be."""
    ranks: tuple[int, ...]
    """Over which calls were measured."""
    relative_error: float
    """Root mean square of (fitted / measured - 1) over the sizes, of medians."""
    calls: int
    """How many were measured."""
    between_nodes: bool
    """Whether any call left a node."""
    in_node: bool
    """Whether any message stayed in one."""
    emulated: bool = False

    @property
    def lacks(self) -> list[str]:
        """What these measurements leave open, in words."""
        found = []
        if len(self.ranks) == 1:
            found.append(
                f"calls were measured over {self.ranks[0]} ranks only: how they grow with the ranks is an interval, "
                "not a slope (measure them over another number too)"
            )
        return found


@dataclass(frozen=True)
class _Row:
    """The median of the calls of one operation and size over some ranks."""

    operation: Operation
    ranks: int
    between: LinkTerms
    inside: LinkTerms
    known_seconds: float
    seconds: float


def calibrate(records: Sequence[Collectives]) -> Calibration:
    """Fit a call model to these records, all of one machine and one set of settings.

    Raises UserError where they hold too little, or were measured under different settings.
    """
    if not records:
        raise UserError("no collective calls were measured: run a study with collectives: true, or give --network")
    cycles = {cycle_seconds(record.horovod_settings) for record in records}
    shrinks = {shrink_of(record) for record in records}
    if len(cycles) > 1:
        listed = " and ".join(f"{seconds * 1000:g} ms" for seconds in sorted(cycles))
        raise UserError(f"calls were measured with different cycle times of Horovod ({listed}): keep those of one")
    if len(shrinks) > 1:
        listed = " and ".join(f"1/{shrink:g}" for shrink in sorted(shrinks))
        raise UserError(f"calls were measured on networks of different sizes ({listed}): keep those of one")
    rows = [row for record in records for row in _rows(record)]
    sizes = Counter((row.operation, row.ranks) for row in rows)
    if not all(row.seconds > 0 for row in rows):
        raise UserError("a record of calls has none of a size, or one that took no time: measure them again")
    if not sizes or min(sizes.values()) < FEWEST_SIZES:
        raise UserError(f"a model of calls needs at least {FEWEST_SIZES} message sizes of each operation")
    ranks = tuple(sorted({record.world_size for record in records}))
    fitted = _Fit(rows, len(ranks) > 1, cycles.pop())
    model = replace(
        fitted.model,
        ranks_per_node=max(_ranks_per_node(record) for record in records),
        added_seconds_per_byte=float(np.median([1 / record.reduction_bytes_per_second for record in records])),
        choice=choice_from_settings(records[-1].mpi_settings),
        shrink=shrinks.pop(),
    )
    low, high = _ends(model, fitted, len(ranks) > 1)
    return Calibration(
        model,
        low,
        high,
        ranks,
        fitted.relative_error,
        calls=sum(len(measured.seconds) for record in records for measured in record.measured),
        between_nodes=any(row.between.messages for row in rows),
        in_node=any(row.inside.messages for row in rows),
        emulated=any(record.emulated is not None for record in records),
    )


def shrink_of(record: Collectives) -> float:
    """By how much an emulated network is smaller than what it stands for."""
    network = None if record.emulated is None else record.emulated.network
    return 1.0 if network is None else network.shrink


def _ranks_per_node(record: Collectives) -> int:
    return max(1, record.world_size // max(1, len(record.hosts)))


def cycle_seconds(horovod_settings: Mapping[str, str]) -> float:
    """Of Horovod's thread, under these settings of a record."""
    given = horovod_settings.get("HOROVOD_CYCLE_TIME")
    try:
        return DEFAULT_CYCLE_SECONDS if given is None else float(given) / 1000
    except ValueError:
        return DEFAULT_CYCLE_SECONDS


def _rows(record: Collectives) -> list[_Row]:
    choice, shrink = choice_from_settings(record.mpi_settings), shrink_of(record)
    found = []
    for measured in record.measured:
        # On a network that is smaller than what it stands for, a smaller call was made, of which the algorithm is.
        call = Call(measured.operation, measured.bytes, RankGroup(record.world_size))
        algorithm = choice.algorithm(call.operation, measured.bytes / shrink, record.world_size)
        terms = terms_of(call, algorithm, _ranks_per_node(record))
        found.append(
            _Row(
                measured.operation,
                record.world_size,
                terms.between_nodes,
                terms.in_node,
                terms.added_bytes / record.reduction_bytes_per_second,
                float(np.median(measured.seconds)),
            )
        )
    return found


class _Fit:
    """Least squares of the logarithms of predicted over measured seconds, which noise in proportion to them suggests.

    Outliers count by their size, not by its square (soft L1). Every unknown is positive: its logarithm is fitted.
    """

    def __init__(self, rows: Sequence[_Row], several: bool, cycle_seconds: float) -> None:
        """several: whether they are of more than one number of ranks, which tells how calls grow with it."""
        from scipy.optimize import least_squares

        self.rows, self._cycle_seconds, self._grows = rows, cycle_seconds, several
        self._operations = [each for each in OPERATIONS if any(row.operation == each for row in rows)]
        self._links = [side for side in SIDES if any(getattr(row, side).messages for row in rows)]
        self._kinds = {
            side: [kind for kind in KINDS if any(any(getattr(getattr(row, side), kind)) for row in rows)]
            for side in self._links
        }
        self._seconds = np.array([row.seconds for row in rows])
        self._known = np.array([row.known_seconds for row in rows])
        self._matrix = np.array([self._columns(row) for row in rows])
        start = np.log(self._start())
        self._likeness = self._likenesses(len(start))
        solved = least_squares(self._residuals, start, self._jacobian, loss="soft_l1", f_scale=0.1, max_nfev=400)
        self.values = np.exp(solved.x)
        predicted = self._matrix @ self.values + self._known
        self.relative_error = float(np.sqrt(np.mean((predicted / self._seconds - 1) ** 2)))

    def _columns(self, row: _Row) -> list[float]:
        """Of the unknowns: a call of each operation, its growth, then latency and slopes of each kind of link."""
        found = [float(row.operation == each) for each in self._operations]
        found += [math.log2(row.ranks) - 1] if self._grows else []
        for side in self._links:
            terms: LinkTerms = getattr(row, side)
            found.append(terms.messages)
            for kind in self._kinds[side]:
                found += getattr(terms, kind)
        return found

    def _start(self) -> np.ndarray:
        """A first guess: a call takes what the quickest took, a byte what it does in the largest calls."""
        least = float(self._seconds.min())
        found = [least / 2] * len(self._operations)
        found += [least / 10] if self._grows else []
        for side in self._links:
            sent = [sum(sum(getattr(getattr(row, side), kind)) for kind in KINDS) for row in self.rows]
            slope = self.rows[int(np.argmax(sent))].seconds / max(sent)
            found += [least / 20, *[slope] * (_SLOPES * len(self._kinds[side]))]
        return np.array(found)

    def _residuals(self, logs: np.ndarray) -> np.ndarray:
        data = np.log((self._matrix @ np.exp(logs) + self._known) / self._seconds)
        return np.concatenate([data, self._likeness @ logs])

    def _jacobian(self, logs: np.ndarray) -> np.ndarray:
        parts = self._matrix * np.exp(logs)
        return np.concatenate([parts / (parts.sum(axis=1) + self._known)[:, None], self._likeness])

    def _likenesses(self, count: int) -> np.ndarray:
        """[pairs, unknowns]: the difference of slopes of neighbouring sizes, of kinds, and of calls of operations."""
        numbers = np.arange(count)
        first = len(self._operations)
        pairs, place = list(pairwise(numbers[:first])), first + self._grows
        for side in self._links:
            kinds = len(self._kinds[side])
            slopes = numbers[place + 1 : place + 1 + _SLOPES * kinds].reshape(kinds, _SLOPES)
            for rows in (slopes, slopes.T):
                pairs += [pair for row in rows for pair in pairwise(row)]
            place += 1 + _SLOPES * kinds
        found = np.zeros((len(pairs), count))
        for number, (one, other) in enumerate(pairs):
            found[number, one], found[number, other] = -_WEIGHT_OF_LIKENESS, _WEIGHT_OF_LIKENESS
        return found

    @property
    def model(self) -> CallModel:
        """The call model, but for what is not fitted."""
        count = len(self._operations)
        calls = dict(zip(self._operations, self.values[:count].tolist(), strict=True))
        growth = float(self.values[count]) if self._grows else 0.0
        costs, place = dict[str, MessageCost](), count + self._grows
        for side in self._links:
            latency, place = float(self.values[place]), place + 1
            slopes: dict[str, tuple[float, ...]] = {}
            for kind in self._kinds[side]:
                slopes[kind] = tuple(self.values[place : place + _SLOPES].tolist())
                place += _SLOPES
            # What was not measured is taken for what comes nearest to it.
            known = next(slopes[kind] for kind in KINDS if kind in slopes)
            costs[side] = MessageCost(latency, *(slopes.get(kind, known) for kind in KINDS))
        between = costs.get("between") or costs["inside"]
        common = min(calls.values())
        return CallModel(
            between_nodes=between,
            in_node=costs.get("inside") or between,
            call_seconds_more={operation: seconds - common for operation, seconds in calls.items()},
            coordination_seconds=max(0.0, common - self._cycle_seconds / 2),
            coordination_seconds_per_doubling=growth,
            cycle_seconds=self._cycle_seconds,
        )


def _ends(model: CallModel, fitted: _Fit, several: bool) -> tuple[CallModel, CallModel]:
    """The quickest and the slowest model that the calls allow."""
    low, high = _scaled(model, 1 / (1 + fitted.relative_error)), _scaled(model, 1 + fitted.relative_error)
    if several:
        return low, high
    if all(row.ranks == 2 for row in fitted.rows):  # one way may take half as long, and exchanges of more ranks twice
        low = replace(low, between_nodes=_half_duplex(low.between_nodes), in_node=_half_duplex(low.in_node))
        high = replace(high, between_nodes=_taking_turns(high.between_nodes), in_node=_taking_turns(high.in_node))
    doubling = model.coordination_seconds + model.cycle_seconds / 2
    return low, replace(high, coordination_seconds_per_doubling=doubling)


def _scaled(model: CallModel, factor: float) -> CallModel:
    return replace(
        model,
        between_nodes=_times(model.between_nodes, factor, latency=factor),
        in_node=_times(model.in_node, factor, latency=factor),
        call_seconds_more={operation: seconds * factor for operation, seconds in model.call_seconds_more.items()},
        coordination_seconds=model.coordination_seconds * factor,
        coordination_seconds_per_doubling=model.coordination_seconds_per_doubling * factor,
    )


def _times(cost: MessageCost, factor: float, kinds: Collection[str] = KINDS, latency: float = 1.0) -> MessageCost:
    """Seconds a byte of these kinds of messages times a factor."""
    slopes = {
        kind: tuple(slope * (factor if kind in kinds else 1.0) for slope in getattr(cost, kind)) for kind in KINDS
    }
    return MessageCost(cost.latency_seconds * latency, **slopes)


def _half_duplex(cost: MessageCost) -> MessageCost:
    """If between the two ranks that were measured one message waited for the other."""
    return _times(cost, 1 / TURNS, ("one_way", "concurrent"))


def _taking_turns(cost: MessageCost) -> MessageCost:
    """If between these it did not, and between others it does."""
    return _times(cost, TURNS, ("exchanged", "concurrent"))
