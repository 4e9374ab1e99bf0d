"""What an emulated run or measurement of collective calls ran on, and whether it counts. No TensorFlow here."""

import msgspec

from horovod_flowers.config.emulated_network import EmulatedNetwork
from horovod_flowers.runlog.emulated_step import EmulatedStep
from horovod_flowers.runlog.field_types import Positive, Seconds

MOST_WAITING = 0.05
"""Of the time of the timed steps or calls, that a rank's threads may wait for a core."""
MOST_BUSY = 0.70
"""Of the machine's cores, that all ranks together may keep busy."""


class Emulation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What was emulated."""

    network: EmulatedNetwork | None = None
    """None: the ranks' real one."""
    step: EmulatedStep | None = None
    """None: the ranks compute."""

    @property
    def kind(self) -> str:
        """What runs have in common that may be compared, whatever their ranks and batches, in words."""
        words = []
        if self.step is not None:
            words.append(f"sleeps for steps measured {self.step.started_utc}, sends 1/{self.step.shrink:g}")
        network = self.network
        if network is not None:  # more nodes than a run has ranks for change nothing
            ranks = "rank" if network.ranks_per_node == 1 else "ranks"
            words.append(f"{network.mbit:g} Mbit/s between nodes of {network.ranks_per_node} {ranks}")
            words += [f"1/{network.shrink:g} of it on the way"] if network.shrink > 1 else []
            words += [f"packets of {network.mtu} bytes"] if network.mtu != network.usual_mtu else []
        return ", ".join(words)

    def __str__(self) -> str:
        words = [] if self.step is None else [str(self.step)]
        words += [] if self.network is None else [str(self.network)]
        return "; ".join(words)


class CoreGauge(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Whether cores were there when the ranks needed them, over the timed steps or calls: one number a rank.

    Ranks that sleep for what others would compute share a few cores; where they wait for these, a time says nothing of
    the network.
    """

    elapsed_seconds: list[Seconds]
    waited_seconds: list[Seconds]
    """For a core (Linux' run delay): of the rank's threads the one that waited longest."""
    cpu_seconds: list[Seconds]
    cores: Positive
    """Logical CPUs that the ranks could use, all together."""
    precedence: bool
    """Whether the ranks took cores from other processes when they woke, as root may; else those were in the way."""

    @property
    def waiting(self) -> float:
        """Of the rank that waited longest, the share of its time."""
        return max(
            waited / elapsed
            for waited, elapsed in zip(self.waited_seconds, self.elapsed_seconds, strict=True)
            if elapsed
        )

    @property
    def busy(self) -> float:
        """Share of the cores that all ranks kept busy."""
        return sum(self.cpu_seconds) / max(self.elapsed_seconds) / self.cores

    @property
    def problem(self) -> str | None:
        """Why it is no measurement, in a sentence without its stop; None where it is one."""
        if not self.elapsed_seconds or not all(self.elapsed_seconds):
            return "nothing was timed"
        if self.waiting > MOST_WAITING:
            return (
                f"a rank waited for a core {self.waiting:.1%} of the time, and {MOST_WAITING:.0%} are allowed: let "
                "nothing else run on this machine, or emulate fewer ranks, or a slower or more shrunk network"
            )
        if self.busy > MOST_BUSY:
            return (
                f"the ranks kept {self.busy:.1%} of the {self.cores} cores busy, and {MOST_BUSY:.0%} are allowed: "
                "emulate fewer ranks, or a slower or more shrunk network"
            )
        return None
