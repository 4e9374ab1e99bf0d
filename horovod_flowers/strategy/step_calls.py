"""The collective calls of a step, one by one: what each waits for, and what waits for it. Arithmetic only.

The same calls as `communication_volume.volume_per_step` adds up (a test compares them), for those who need to know when
a call can begin: predictions of how a step scales.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from horovod_flowers.config.choices import DIVIDING, INDEPENDENT, StrategyName
from horovod_flowers.runlog.records import CommunicationVolume, Operation
from horovod_flowers.strategy.call_contents import SMALLEST_DIVIDED, calls_of
from horovod_flowers.strategy.communication_volume import (
    FP32_BYTES,
    DenseShape,
    added_up,
    allreduce,
    exchange,
    factors_send_less,
)

Members = Literal["all ranks", "group", "copies"]
"""Who makes a call: all ranks, those that divide one copy of the large layers, or those that hold the same slice."""

Moment = Literal[
    "input", "product", "output", "output gradient", "input gradient", "kernel gradient",
    "gradients", "combined gradients", "update", "end",
]  # fmt: skip
"""What is computed in a step: of one Dense layer (input to kernel gradient), of some weights (gradients), or of all."""


@dataclass(frozen=True)
class StepWeight:
    """A trainable weight, as far as calls depend on it."""

    elements: int
    layer: DenseShape | None = None
    """Of the kernel of a Dense layer that a strategy may take over."""
    whole: bool = False
    """Whether every rank needs all of it."""


@dataclass(frozen=True)
class StepCall:
    """One collective call of a step."""

    operation: Operation
    members: Members
    ranks: int
    """That take part."""
    bytes: float
    """The larger side of the call on a rank: its input, but of an allgather the result."""
    after: Moment
    """What has to be there before."""
    before: Moment
    """What needs its result."""
    weights: tuple[int, ...]
    """Numbers of the weights that it is about; of a Dense layer's calls that of its kernel."""


def large_kernels(weights: Sequence[StepWeight], shard_above: int) -> list[int]:
    """Numbers of the kernels of Dense layers of at least that many weights."""
    return [k for k, weight in enumerate(weights) if weight.layer is not None and weight.elements >= shard_above]


def kernels_by_factors(
    weights: Sequence[StepWeight],
    large: Sequence[int],
    *,
    images: int,
    ranks: int,
    dense_gradients: Literal["auto", "reduced", "factors"],
    factor_value_bytes: int,
    rows_only: bool,
) -> list[int]:
    """Those of the large kernels whose gradients travel as factors, as choice.py decides it."""
    if dense_gradients == "reduced":
        return []
    found = []
    for number in large:
        layer = weights[number].layer
        if layer is None or layer.inputs < ranks:
            continue
        less = layer.rows == 1 and factors_send_less(layer, images, ranks, factor_value_bytes, rows_only)
        if dense_gradients == "factors" or less:
            found.append(number)
    return found


def step_calls(
    strategy: StrategyName,
    weights: Sequence[StepWeight],
    *,
    ranks: int,
    images: int,
    layers: Collection[int] = (),
    group: int | None = None,
    factor_value_bytes: int = FP32_BYTES,
    gradient_value_bytes: int = FP32_BYTES,
    packs_bytes: int = 0,
    clips_by_norm: bool = False,
) -> list[StepCall]:
    """Every call of a step with one update, those of each moment in the order in which the strategy makes them.

    images: of one rank. layers: numbers of the kernels that the strategy divides (tensor, mesh) or whose gradients
    travel as factors. group: ranks that divide one copy of the layers (mesh; all of them for tensor). packs_bytes: of a
    call for several tensors (call_contents.py); 0: a call each.
    """
    if strategy == INDEPENDENT or ranks == 1:
        return []
    size = ranks if group is None or strategy not in DIVIDING else group
    world = _Calls(ranks)
    divided = list(layers) if strategy in DIVIDING else []
    if strategy == "sharded":
        divided = [
            k for k, weight in enumerate(weights)
            if k not in layers and weight.elements >= SMALLEST_DIVIDED and not weight.whole
        ]  # fmt: skip
    for kernel in layers:
        shape = weights[kernel].layer
        assert shape is not None, f"weight {kernel} is no kernel of a Dense layer"
        if strategy in DIVIDING:
            world.row_parallel(kernel, shape, images, size, factor_value_bytes)
        else:
            world.by_factors(kernel, shape, images, factor_value_bytes, rows_only=strategy == "sharded")
    whole = [k for k in range(len(weights)) if k not in layers and k not in divided]
    for numbers in _packed(weights, whole, packs_bytes // gradient_value_bytes):
        world.add("allreduce", _elements(weights, numbers) * gradient_value_bytes, "gradients", "update", numbers)
    if strategy == "sharded":
        world.divided_update(weights, layers, _packed(weights, divided, packs_bytes // FP32_BYTES), factor_value_bytes)
    elif strategy in DIVIDING and size < ranks:
        for kernel in layers:
            part = weights[kernel].elements / size * FP32_BYTES
            world.add("allreduce", part, "kernel gradient", "update", [kernel], "copies", ranks // size)
    parts = len(divided) + (len(layers) if strategy == "sharded" else 0)
    if clips_by_norm and parts:
        world.add("allreduce", parts * FP32_BYTES, "combined gradients", "update", [])
    return [call for call in world.calls if call.ranks > 1]


class _Calls:
    """Gathers the calls of a step."""

    def __init__(self, ranks: int) -> None:
        self._ranks = ranks
        self.calls: list[StepCall] = []

    def add(
        self,
        operation: Operation,
        size: float,
        after: Moment,
        before: Moment,
        weights: Sequence[int],
        members: Members = "all ranks",
        ranks: int | None = None,
    ) -> None:
        over = self._ranks if ranks is None else ranks
        self.calls.append(StepCall(operation, members, over, size, after, before, tuple(weights)))

    def row_parallel(self, kernel: int, layer: DenseShape, images: int, group: int, value_bytes: int) -> None:
        """Inputs there and their gradients back, partial sums, output gradients (wide_dense.RowParallelDense)."""
        members: Members = "group" if group < self._ranks else "all ranks"
        rows = images * layer.rows
        inputs, outputs = rows * layer.inputs * value_bytes, rows * group * layer.units
        mine: list[tuple[Operation, float, Moment, Moment]] = [
            ("alltoall", inputs, "input", "product"),
            ("reducescatter", outputs * FP32_BYTES, "product", "output"),
            ("allgather", outputs * value_bytes, "output gradient", "input gradient"),
            ("alltoall", inputs, "input gradient", "gradients"),
        ]
        for operation, size, after, before in mine:
            self.add(operation, size, after, before, [kernel], members, group)

    def by_factors(self, kernel: int, layer: DenseShape, images: int, value_bytes: int, rows_only: bool) -> None:
        """Output gradients and inputs of all ranks (wide_dense.FactorDense, GatheredDense)."""
        rows = images * layer.rows
        gathered = rows * layer.units * self._ranks * value_bytes
        self.add("allgather", gathered, "output gradient", "kernel gradient", [kernel])
        if rows_only:
            self.add("alltoall", rows * layer.inputs * value_bytes, "input", "kernel gradient", [kernel])
        else:
            self.add("allgather", rows * layer.inputs * self._ranks * value_bytes, "input", "kernel gradient", [kernel])

    def divided_update(
        self,
        weights: Sequence[StepWeight],
        factored: Collection[int],
        packed: Sequence[Sequence[int]],
        value_bytes: int,
    ) -> None:
        """Gradients to those who update their weights, and the weights back."""
        for numbers in packed:
            self.add("reducescatter", _elements(weights, numbers) * FP32_BYTES, "gradients", "update", numbers)
        for kernel in factored:
            self.add("allgather", weights[kernel].elements * value_bytes, "update", "end", [kernel])
        for numbers in packed:
            self.add("allgather", _elements(weights, numbers) * FP32_BYTES, "update", "end", numbers)


def _packed(weights: Sequence[StepWeight], numbers: Sequence[int], most_elements: int) -> list[list[int]]:
    found = calls_of([weights[number].elements for number in numbers], most_elements)
    return [[numbers[position] for position in positions] for positions in found]


def _elements(weights: Sequence[StepWeight], numbers: Sequence[int]) -> int:
    return sum(weights[number].elements for number in numbers)


def volume_of(calls: Sequence[StepCall]) -> list[CommunicationVolume]:
    """What each rank sends in these calls, as a run's record has it."""
    return added_up(
        allreduce([call.bytes], call.ranks, 1)
        if call.operation == "allreduce"
        else exchange(call.operation, [call.bytes], call.ranks, 1)
        for call in calls
    )
