"""The formula engine: what calls cost on a network, given or calibrated."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import log2

from horovod_flowers.runlog.records import Operation
from horovod_flowers.scaling_model.algorithms import Algorithm, MessageCost, Terms, round_terms, terms_of
from horovod_flowers.scaling_model.network import Link, Network
from horovod_flowers.scaling_model.open_mpi import AlgorithmChoice
from horovod_flowers.scaling_model.schedule import Coordination
from horovod_flowers.scaling_model.step_tasks import Call, RankGroup

DEFAULT_CYCLE_SECONDS = 0.001
"""HOROVOD_CYCLE_TIME where it is not set (Horovod 0.28)."""


@dataclass(frozen=True)
class CallModel:
    """What a call takes: its algorithm's messages, and what Horovod adds. A CallCosts."""

    between_nodes: MessageCost
    in_node: MessageCost
    ranks_per_node: int = 1
    added_seconds_per_byte: float = 0.0
    """Of adding up two arrays on one rank."""
    choice: AlgorithmChoice = field(default_factory=AlgorithmChoice)
    call_seconds_more: Mapping[Operation, float] = field(default_factory=dict)
    """Of each call, beyond its messages and what all operations have in common."""
    coordination_seconds: float = 0.0
    """Of Horovod, once a cycle in which calls are ready: that of two ranks."""
    coordination_seconds_per_doubling: float = 0.0
    """Of the ranks, beyond two."""
    cycle_seconds: float = DEFAULT_CYCLE_SECONDS
    shrink: float = 1.0
    """By how much an emulated network and its tensors are smaller than what they stand for: the MPI library chooses by
    the bytes that it sees."""

    @staticmethod
    def of(network: Network, choice: AlgorithmChoice | None = None, added_seconds_per_byte: float = 0.0) -> "CallModel":
        """On a network of given figures."""
        return CallModel(
            MessageCost.of(network.between_nodes),
            MessageCost.of(network.in_node or network.between_nodes),
            network.ranks_per_node,
            added_seconds_per_byte,
            choice or AlgorithmChoice(),
        )

    @staticmethod
    def of_link(link: Link) -> "CallModel":
        """Between nodes of one rank each, all on the same links."""
        return CallModel.of(Network(link))

    def algorithm(self, call: Call) -> Algorithm:
        """That the MPI library takes."""
        return self.choice.algorithm(call.operation, call.bytes / self.shrink, call.group.size)

    def terms(self, call: Call) -> Terms:
        """What a call consists of."""
        return terms_of(call, self.algorithm(call), self.ranks_per_node)

    def seconds(self, call: Call) -> float:
        """Of one call alone, once the ranks have agreed on it."""
        if call.group.size < 2:
            return 0.0
        found = self.call_seconds_more.get(call.operation, 0.0)
        for terms, inside in round_terms(call, self.algorithm(call), self.ranks_per_node):
            found += max(self.between_nodes.seconds(terms.between_nodes), self.in_node.seconds(inside))
            found += self.in_node.seconds(terms.in_node) + terms.added_bytes * self.added_seconds_per_byte
        return found

    def call_seconds(self, calls: Sequence[Call], ranks: int) -> list[float]:
        """Of each of these calls."""
        known: dict[Call, float] = {}
        return [known[call] if call in known else known.setdefault(call, self.seconds(call)) for call in calls]

    def coordination(self, ranks: int) -> Coordination:
        """Of Horovod over that many ranks."""
        more = self.coordination_seconds_per_doubling * (log2(ranks) - 1) if ranks > 2 else 0.0
        return Coordination(self.cycle_seconds, self.coordination_seconds + more)

    def call_base_seconds(self, operation: Operation) -> float:
        """Of a call over two ranks, before its first message."""
        return self.alone(Call(operation, 0.0, RankGroup(1)), 2) + self.call_seconds_more.get(operation, 0.0)

    def alone(self, call: Call, ranks: int) -> float:
        """What a single call takes, from when all ranks are ready for it: as a microbenchmark measures it."""
        found = self.coordination(ranks)
        return found.cycle_seconds / 2 + found.seconds + self.seconds(call)

    @property
    def network(self) -> Network:
        """Latency and bandwidth of long messages, for an engine that knows no more."""
        between, inner = _link(self.between_nodes), _link(self.in_node)
        return Network(between, inner, self.ranks_per_node, "fitted to measured calls")


def _link(cost: MessageCost) -> Link:
    return Link(cost.latency_seconds, 1 / cost.one_way[-1])
