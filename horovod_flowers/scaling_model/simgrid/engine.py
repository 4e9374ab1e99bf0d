"""What the scaling model asks of SimGrid: how long calls take, and whole steps."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from horovod_flowers.scaling_model.call_model import CallModel
from horovod_flowers.scaling_model.schedule import ScheduledStep
from horovod_flowers.scaling_model.simgrid.replay import replayed_seconds
from horovod_flowers.scaling_model.simgrid.step_trace import (
    MOST_MESSAGES,
    SerialCall,
    StepProgram,
    program_of,
    write_trace,
)
from horovod_flowers.scaling_model.simgrid.topology import Star, Topology, platform_xml
from horovod_flowers.scaling_model.step_tasks import Call

_SLOWER = 1e3
"""Simulated times are so many times as long as real ones: SimGrid computes with a precision of 1 ns."""


@dataclass
class SimulatedCalls:
    """An engine (`step_tasks.CallCosts`): each call simulated message by message, all groups that make it together."""

    model: CallModel
    """What a message costs, and which algorithms send them."""
    topology: Topology = field(default_factory=Star)
    most_messages: int = MOST_MESSAGES // 16
    """Of a call; more of equal rounds are merged."""
    _known: dict[tuple[Call, int], float] = field(default_factory=dict)

    def call_seconds(self, calls: Sequence[Call], ranks: int) -> list[float]:
        """Seconds of each of these calls alone in a world of `ranks`. Raises UserError as `replayed_seconds` does."""
        for call in calls:
            if (call, ranks) not in self._known:
                alone = StepProgram((SerialCall(call),))
                seconds = simulated(alone, ranks, self.model, self.topology, self.most_messages)
                more = self.model.call_seconds_more.get(call.operation, 0.0) if call.group.size > 1 else 0.0
                self._known[call, ranks] = seconds + more
        return [self._known[call, ranks] for call in calls]


def simulated_step(
    scheduled: ScheduledStep, ranks: int, model: CallModel, topology: Topology, most_messages: int = MOST_MESSAGES
) -> float:
    """Seconds of a whole step of `ranks`: its computing, and its calls in the schedule's order, as they get on."""
    return simulated(program_of(scheduled), ranks, model, topology, most_messages)


def simulated(
    program: StepProgram, ranks: int, model: CallModel, topology: Topology, most_messages: int = MOST_MESSAGES
) -> float:
    """Seconds that `ranks` take for a program, one step of which each does.

    Raises UserError where SimGrid is missing or fails, or where the network has no room for so many ranks.
    """
    with tempfile.TemporaryDirectory(prefix="flowers-simgrid-") as name:
        folder = Path(name)
        platform, hostfile = folder / "platform.xml", folder / "hostfile"
        platform.write_text(platform_xml(model.network, topology, ranks, _SLOWER))
        traces, nodes = write_trace(program, ranks, model, folder, _SLOWER, most_messages)
        hostfile.write_text("".join(f"{node}\n" for node in nodes))
        return replayed_seconds(platform, traces, hostfile, len(nodes)) / _SLOWER
