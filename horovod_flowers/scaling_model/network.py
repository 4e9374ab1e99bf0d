"""Networks: given on the command line, or of a named kind; calibration.py fits one to measured calls."""

import re
from dataclasses import dataclass, replace

from horovod_flowers.runtime.errors import UserError

BITS_A_BYTE = 8
SLOWEST_BITS, FASTEST_BITS = 1e3, 1e18
"""A second, of a link that can be given: a slip of the keyboard is told, not computed with."""
LONGEST_LATENCY_SECONDS = 60.0
"""The same of its latency."""


@dataclass(frozen=True)
class Link:
    """What a message of m bytes costs: latency + m / bandwidth (Hockney 1994, Parallel Computing 20(3))."""

    latency_seconds: float
    bytes_per_second: float
    """In one direction."""

    def __post_init__(self) -> None:
        if not self.latency_seconds >= 0 or not self.bytes_per_second > 0:
            raise ValueError(f"{self} has no latency or bandwidth")


@dataclass(frozen=True)
class Network:
    """The links between ranks: each node has one full-duplex link to a switch that blocks nothing."""

    between_nodes: Link
    """Of a node to the others, shared by its ranks."""
    in_node: Link | None = None
    """Of a rank to another one of its node; None: as between nodes, but not shared."""
    ranks_per_node: int = 1
    """Neighbouring ranks lie in one node."""
    source: str = "given"
    """Where the figures are from, in words."""


# Bandwidth in one direction: the rate of the standard or product. Latency of one message between two processes.
# TCP: Larsen et al. 2009, 'Architectural Breakdown of End-to-End Latency in a TCP/IP Network', International Journal of
# Parallel Programming 37: 10 us for a Linux stack over 10GbE, of which little depends on the link's rate.
_TCP_US = 10.0
NAMED: dict[str, tuple[float, float]] = {
    "1gbe": (1, _TCP_US),
    "10gbe": (10, _TCP_US),
    "25gbe": (25, _TCP_US),
    "100gbe": (100, _TCP_US),
    "omni-path": (100, 1.0),
    "edr-infiniband": (100, 1.0),
    "hdr-infiniband": (200, 1.0),
    "ndr-infiniband": (400, 1.0),
    "slingshot-11": (200, 1.8),
}
"""Gbit/s and microseconds by name; docs/scaling-model.md has the sources."""

_RATES = {"kbit": 1e3, "mbit": 1e6, "gbit": 1e9, "tbit": 1e12}
_TIMES = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0}
_ALLOWED = (
    f"give rate and latency such as 100Gbit,2us (kbit, Mbit, Gbit or Tbit a second; ns, us or ms), or one of "
    f"{', '.join(NAMED)}"
)


def parse_network(text: str, option: str = "network") -> Network:
    """Read '100Gbit,2us' or a name. Raises UserError with a sentence that names the option."""
    word = text.strip().lower()
    if word in NAMED:
        gbit, microseconds = NAMED[word]
        return Network(Link(microseconds * 1e-6, gbit * 1e9 / BITS_A_BYTE), source=f"{word}, published figures")
    parts = [part.strip() for part in word.split(",")]
    if len(parts) != 2:
        raise UserError(f"{option} is {text!r}: {_ALLOWED}")
    rate, latency = _quantity(parts[0], _RATES), _quantity(parts[1], _TIMES)
    if rate is None or latency is None:
        wrong = parts[0] if rate is None else parts[1]
        raise UserError(
            f"{option} is {text!r}, of which {wrong!r} is no {'rate' if rate is None else 'time'}: {_ALLOWED}"
        )
    if rate == 0:
        raise UserError(f"{option} is {text!r}, a link of no rate: {_ALLOWED}")
    if not SLOWEST_BITS <= rate <= FASTEST_BITS or latency > LONGEST_LATENCY_SECONDS:
        raise UserError(
            f"{option} is {text[:80]!r}, which no link is: give a rate from 1kbit to 1000000Tbit, and a latency of a "
            "minute at most"
        )
    return Network(Link(latency, rate / BITS_A_BYTE), source="given")


def _quantity(text: str, units: dict[str, float]) -> float | None:
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*([a-zµ]+)(?:/s|ps)?", text)
    if found is None:
        return None
    unit = found[2] if found[2] in units else found[2].removesuffix("ps")
    return float(found[1]) * units[unit] if unit in units else None


def with_nodes(network: Network, ranks_per_node: int, in_node: Link | None) -> Network:
    """The same network, with several ranks a node."""
    if ranks_per_node < 1:
        raise UserError(f"ranks_per_node is {ranks_per_node}: give 1 or more")
    return replace(network, ranks_per_node=ranks_per_node, in_node=in_node)
