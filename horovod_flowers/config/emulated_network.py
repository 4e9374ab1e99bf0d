"""What an emulated network is: how many virtual nodes, and what their links carry. Read from job files and records."""

import os
from collections.abc import Mapping
from typing import Annotated

import msgspec

from horovod_flowers.runtime.errors import UserError

VARIABLE = "FLOWERS_EMULATED_NETWORK"
"""Holds it, as JSON, in every process on a virtual node."""
MOST_NODES = 250
"""What one network of 256 addresses has room for."""
MOST_RANKS_PER_NODE = 64
MOST_MBIT = 1_000_000
MOST_SHRINK = 10_000
LEAST_MTU, MOST_MTU = 1280, 9000
"""Bytes; 9000 is Ethernet's jumbo frame."""
PACKET_SECONDS = 0.001
"""That the largest packet is on a link, where it is not given: a message waits for the packets of others, and one
packet passes at once after a pause, whatever the rate is."""
LEAST_VIRTUAL_MBIT = 0.01
"""That a virtual link carries: below, tc counts its packets wrongly."""


class EmulatedNetwork(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Virtual nodes with a network interface each, all on one non-blocking switch."""

    nodes: Annotated[int, msgspec.Meta(ge=1, le=MOST_NODES)]
    ranks_per_node: Annotated[int, msgspec.Meta(ge=1, le=MOST_RANKS_PER_NODE)] = 1
    """That there is room for on each; nodes are filled one after the other."""
    mbit: Annotated[float, msgspec.Meta(gt=0, le=MOST_MBIT)]
    """Megabits a second that the link of a node carries in each direction, as it is stood for."""
    shrink: Annotated[float, msgspec.Meta(ge=1, le=MOST_SHRINK)] = 1.0
    """By how much links and tensors are smaller than what they stand for: the ideal times stay, and fewer bytes need
    fewer cores."""
    mtu: Annotated[int, msgspec.Meta(ge=LEAST_MTU, le=MOST_MTU)] = 0
    """Largest packet in bytes; where it is not given, what suits the virtual link (`usual_mtu`)."""

    def __post_init__(self) -> None:
        """Raises ValueError."""
        if self.mtu == 0:
            msgspec.structs.force_setattr(self, "mtu", self.usual_mtu)
        if self.virtual_mbit < LEAST_VIRTUAL_MBIT:
            raise ValueError(
                f"a virtual link of {self.virtual_mbit:g} Mbit/s (mbit {self.mbit:g}, shrink {self.shrink:g}) cannot "
                f"be emulated: at least {LEAST_VIRTUAL_MBIT:g} can, so raise mbit, or lower shrink"
            )

    @property
    def usual_mtu(self) -> int:
        """The largest packet that is on a virtual link for no longer than `PACKET_SECONDS`, within what there is."""
        return min(MOST_MTU, max(LEAST_MTU, round(self.virtual_mbit * 1e6 / 8 * PACKET_SECONDS)))

    @property
    def ranks(self) -> int:
        """That there is room for."""
        return self.nodes * self.ranks_per_node

    @property
    def virtual_mbit(self) -> float:
        """What a virtual link really carries."""
        return self.mbit / self.shrink

    def __str__(self) -> str:
        nodes = f"{self.nodes} virtual node{'' if self.nodes == 1 else 's'}"
        of_ranks = f" of {self.ranks_per_node} ranks" if self.ranks_per_node > 1 else ""
        link = f"{self.mbit:g} Mbit/s each way"
        if self.shrink > 1:
            link += (
                f" (emulated with {self.virtual_mbit:g}, tensors and links being 1/{self.shrink:g} of what they are)"
            )
        return f"{nodes}{of_ranks}, {link}"


def emulated_network(environment: Mapping[str, str] = os.environ) -> EmulatedNetwork | None:
    """The network that this process is on; None on a real one. Raises UserError where the variable is none of ours."""
    given = environment.get(VARIABLE)
    if not given:
        return None
    try:
        return msgspec.json.decode(given, type=EmulatedNetwork)
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise UserError(
            f"{VARIABLE} is {given!r} ({error}): unset it, python -m horovod_flowers.emulation sets it for what it "
            "starts"
        ) from error
