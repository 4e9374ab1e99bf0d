"""What a measured step computes, part by part, in the order in which it was computed.

A rank computes one thing after the other: each part takes from the end of the one before it to its own end.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from horovod_flowers.runlog.step_profile import ProfiledBatch, ProfiledDense


@dataclass(frozen=True)
class Computation:
    """Part of a step."""

    place: int
    """In the step, from 0."""
    seconds: float


@dataclass(frozen=True)
class GradientOf:
    """What ends with a weight's gradient."""

    weight: int
    computation: Computation


@dataclass
class DenseBackward:
    """The backward pass around a Dense layer, up to where that of the layer before begins."""

    upstream: Computation
    """Ends with the gradient of its outputs."""
    inputs: Computation | None = None
    """Ends with the gradient of its inputs; None where nobody needs that."""
    before: list[GradientOf] = field(default_factory=list)
    """Gradients that are there before the gradient of its outputs."""
    beside: list[GradientOf] = field(default_factory=list)
    """Those that are there before the gradient of its inputs, and so do not wait for it."""


@dataclass(frozen=True)
class Timeline:
    """A step on one rank, cut at some Dense layers."""

    forward: list[Computation]
    """Up to the inputs of each of the layers, and to the loss."""
    backward: list[DenseBackward]
    """Of each of the layers, from the last to the first."""
    rest: list[GradientOf]
    """Gradients after that of the first layer's inputs."""
    kernels: dict[int, Computation]
    """What ends with the gradients of the layers' kernels, which stand among the gradients, too."""
    end: Computation
    """What is left after the last gradient."""
    update_seconds: float
    """Of all weights."""


_Event: TypeAlias = tuple[str, int]
"""'input', 'loss', 'upstream', 'gradient', 'input gradient' or 'end'; and the number of a layer or weight."""


def timeline(batch: ProfiledBatch, layers: Sequence[ProfiledDense]) -> Timeline:
    """Of steps with this batch. layers: in the order of the forward pass."""
    computations = _in_order(_events(batch, layers))
    backward, rest = list[DenseBackward](), list[GradientOf]()
    before: list[GradientOf] = []
    collecting = before
    for (what, number), computation in computations.items():
        if what == "upstream":
            backward.append(DenseBackward(computation, before=collecting))
            collecting = backward[-1].beside
        elif what == "input gradient":
            backward[-1].inputs = computation
            collecting = []
            rest = collecting
        elif what == "gradient":
            collecting.append(GradientOf(number, computation))
    return Timeline(
        forward=[each for (what, _), each in computations.items() if what in ("input", "loss")],
        backward=backward,
        rest=rest if backward else before,
        kernels={layer.kernel: computations["gradient", layer.kernel] for layer in layers},
        end=computations["end", 0],
        update_seconds=batch.update_seconds,
    )


def _events(batch: ProfiledBatch, layers: Sequence[ProfiledDense]) -> list[tuple[float, int, _Event]]:
    """When something was there, a number that decides among equal times, and what.

    The layers come one after the other; medians over steps need not quite be in that order.
    """
    found: list[tuple[float, int, _Event]] = []
    now, order = 0.0, 0

    def add(seconds: float, what: str, number: int) -> None:
        nonlocal now, order
        now, order = max(now, seconds), order + 1
        found.append((now, order, (what, number)))

    for number, layer in enumerate(layers):
        add(layer.input_ready_seconds, "input", number)
    add(batch.forward_seconds, "loss", 0)
    loss, ready = now, dict(enumerate(batch.gradient_ready_seconds))
    for number, layer in reversed(list(enumerate(layers))):
        add(layer.output_gradient_ready_seconds, "upstream", number)
        order += 1
        found.append((max(now, ready.pop(layer.kernel)), order, ("gradient", layer.kernel)))
        if layer.input_gradient_ready_seconds is not None:
            add(layer.input_gradient_ready_seconds, "input gradient", number)
    for weight, seconds in ready.items():
        found.append((max(loss, seconds), order + 1, ("gradient", weight)))
    last = max(seconds for seconds, _, _ in found)
    found.append((max(last, batch.gradients_seconds), order + 2, ("end", 0)))
    return found


def _in_order(events: Sequence[tuple[float, int, _Event]]) -> dict[_Event, Computation]:
    """What each of them ends, one computation after the other."""
    found, now = dict[_Event, Computation](), 0.0
    for place, (seconds, _, event) in enumerate(sorted(events)):
        found[event] = Computation(place, seconds - now)
        now = seconds
    return found
