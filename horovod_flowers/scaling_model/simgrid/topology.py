"""Networks as SimGrid reads them: each node one link in each direction, and what lies between these links."""

import math
from dataclasses import dataclass

from horovod_flowers.runtime.errors import UserError
from horovod_flowers.scaling_model.network import Network

NODES_A_LEAF = 16
MOST_NODES = 65_536
"""Of a topology, used or not: SimGrid makes an object of each, and of its links."""


def _check_size(name: str, nodes: int) -> None:
    """Refuse what no simulation would finish (UserError)."""
    if nodes > MOST_NODES:
        raise UserError(f"a {name} with {nodes:,} places for nodes is too large to simulate: at most {MOST_NODES:,}")


@dataclass(frozen=True)
class Star:
    """Every node at one switch that never blocks: what the formulas assume."""

    def sentence(self) -> str:
        """What it is, for a table's head."""
        return "non-blocking"

    def nodes(self, wanted: int) -> int:
        """Places for nodes that it has, if `wanted` are used."""
        return wanted

    def attributes(self, wanted: int) -> str:
        """Of SimGrid's cluster."""
        return ""


@dataclass(frozen=True)
class FatTree:
    """Two levels: `nodes_a_leaf` nodes at each leaf switch, which has `uplinks` links of a node's rate to the roots.

    Fewer uplinks than nodes is oversubscription. Routes are chosen by the destination (D-mod-k; Zahavi 2012).
    """

    nodes_a_leaf: int = NODES_A_LEAF
    uplinks: int = NODES_A_LEAF

    def __post_init__(self) -> None:
        """Refuse what is no tree (UserError)."""
        if self.nodes_a_leaf < 1 or self.uplinks < 1:
            raise UserError(f"a fat tree needs nodes and uplinks at each leaf, not {self.nodes_a_leaf}:{self.uplinks}")
        if self.uplinks > self.nodes_a_leaf:
            raise UserError(
                f"a fat tree of {self.nodes_a_leaf} nodes a leaf has at most as many uplinks, not {self.uplinks}"
            )
        _check_size("fat tree", self.nodes_a_leaf)

    def sentence(self) -> str:
        """What it is, for a table's head."""
        return f"fat tree, {self.nodes_a_leaf} nodes and {self.uplinks} uplinks a leaf"

    def nodes(self, wanted: int) -> int:
        """Whole leaves, as many as hold `wanted` nodes."""
        return max(1, math.ceil(wanted / self.nodes_a_leaf)) * self.nodes_a_leaf

    def attributes(self, wanted: int) -> str:
        """Of SimGrid's cluster."""
        leaves = self.nodes(wanted) // self.nodes_a_leaf
        return f'topology="FAT_TREE" topo_parameters="2;{self.nodes_a_leaf},{leaves};1,{self.uplinks};1,1"'


@dataclass(frozen=True)
class Dragonfly:
    """Groups of routers, all routers of a group connected, all groups connected; the shortest way, as Kim et al. 2008.

    Every link has a node's rate; `links_between_groups` of them join each pair of groups.
    """

    groups: int
    routers: int
    nodes_a_router: int
    links_between_groups: int = 1

    def __post_init__(self) -> None:
        """Refuse what cannot be connected (UserError)."""
        if min(self.groups, self.routers, self.nodes_a_router, self.links_between_groups) < 1:
            raise UserError(
                "a dragonfly needs groups, routers a group, nodes a router and links between groups, each at least 1, "
                f"not {self.groups}:{self.routers}:{self.nodes_a_router}:{self.links_between_groups}"
            )
        if self.routers < self.groups:
            raise UserError(
                f"a dragonfly of {self.groups} groups needs at least as many routers in each, not {self.routers}: "
                "each router of a group leads to one other group"
            )
        _check_size("dragonfly", self.nodes(0))

    def sentence(self) -> str:
        """What it is, for a table's head."""
        return (
            f"dragonfly, {self.groups} groups of {self.routers} routers with {self.nodes_a_router} nodes each, "
            f"{self.links_between_groups} links between two groups"
        )

    def nodes(self, wanted: int) -> int:
        """All that it has. Raises UserError if `wanted` are more."""
        there = self.groups * self.routers * self.nodes_a_router
        if wanted > there:
            raise UserError(f"{wanted} nodes do not fit into a {self.sentence()}: it has {there}")
        return there

    def attributes(self, wanted: int) -> str:
        """Of SimGrid's cluster."""
        return (
            f'topology="DRAGONFLY" topo_parameters='
            f'"{self.groups},{self.links_between_groups};1,1;{self.routers},1;{self.nodes_a_router}"'
        )


Topology = Star | FatTree | Dragonfly
SPELLING = (
    "star, fat-tree:NODES_A_LEAF:UPLINKS or dragonfly:GROUPS:ROUTERS_A_GROUP:NODES_A_ROUTER[:LINKS_BETWEEN_GROUPS]"
)


def topology_named(text: str) -> Topology:
    """From a command line: as `SPELLING`. Raises UserError."""
    name, *words = text.split(":")
    try:
        numbers = [int(word) for word in words]
    except ValueError:
        raise UserError(f"topology {text!r}: {SPELLING}, in whole numbers") from None
    if name == "star" and not numbers:
        return Star()
    if name == "fat-tree" and len(numbers) == 2:
        return FatTree(*numbers)
    if name == "dragonfly" and len(numbers) in (3, 4):
        return Dragonfly(*numbers)
    raise UserError(f"topology {text!r} is none of these: {SPELLING}")


def nodes_of(network: Network, ranks: int) -> int:
    """Nodes that so many ranks take, filled one after the other."""
    return math.ceil(ranks / network.ranks_per_node)


def platform_xml(network: Network, topology: Topology, ranks: int, slower: float) -> str:
    """The platform for so many ranks; every time in it is `slower` times as long. Nodes are named node0, node1, ...

    Its links have rates alone: latencies are in the trace, since a message has one whatever way it takes. Two ranks of
    a node have its inner rate for themselves.
    """
    used = nodes_of(network, ranks)
    inner = network.in_node or network.between_nodes
    return (
        '<?xml version="1.0"?>\n'
        '<!DOCTYPE platform SYSTEM "https://simgrid.org/simgrid.dtd">\n'
        '<platform version="4.1">\n'
        f'<cluster id="cluster" prefix="node" suffix="" radical="0-{topology.nodes(used) - 1}" speed="1Gf" '
        f'bw="{network.between_nodes.bytes_per_second / slower:.17g}Bps" lat="0s" '
        f'loopback_bw="{inner.bytes_per_second / slower:.17g}Bps" loopback_lat="0s" sharing_policy="SPLITDUPLEX" '
        f"{topology.attributes(used)}/>\n"
        "</platform>\n"
    )
