"""What each rank sends in a step, by formula: arithmetic only, compared with counted bytes in the tests.

All for collective algorithms that send the least possible: ring or recursive halving for reduce-scatter and allgather
((N-1)/N of the data per rank), twice that for allreduce (Patarasuk and Yuan 2009, section 3), pairwise exchange for
alltoall.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from horovod_flowers.config.choices import DIVIDING, INDEPENDENT, StrategyName
from horovod_flowers.runlog.records import CommunicationVolume, Operation

FP32_BYTES = 4


@dataclass(frozen=True)
class DenseShape:
    """What decides the bytes of a large Dense layer."""

    inputs: int
    units: int
    rows: int = 1
    """Of its inputs for each image: 1, or the positions of a sequence."""

    @property
    def elements(self) -> int:
        """Of its kernel."""
        return self.inputs * self.units


def allreduce(elements: Iterable[float], ranks: int, bytes_per_element: int = FP32_BYTES) -> CommunicationVolume:
    """One allreduce over `ranks` for each of `elements`: the length of an array that every rank has."""
    lengths = list(elements)
    sent = 2 * (ranks - 1) / ranks * sum(lengths) * bytes_per_element
    return CommunicationVolume(operation="allreduce", ranks=ranks, calls=len(lengths), bytes_sent=sent)


def exchange(
    operation: Operation, elements: Iterable[float], ranks: int, bytes_per_element: int = FP32_BYTES
) -> CommunicationVolume:
    """One reduce-scatter, allgather or alltoall for each of `elements`: the larger side of the call on a rank."""
    lengths = list(elements)
    sent = (ranks - 1) / ranks * sum(lengths) * bytes_per_element
    return CommunicationVolume(operation=operation, ranks=ranks, calls=len(lengths), bytes_sent=sent)


def divided_update(elements: Sequence[float], ranks: int) -> list[CommunicationVolume]:
    """Reduce-scatter of gradients, allgather of updated weights."""
    return [exchange("reducescatter", elements, ranks), exchange("allgather", elements, ranks)]


def by_factors(
    layer: DenseShape, images: int, ranks: int, factor_value_bytes: int, rows_only: bool
) -> list[CommunicationVolume]:
    """The gradient of a Dense layer from its factors.

    images: of one rank. rows_only: each rank needs its rows of the gradient only, so that inputs travel by alltoall.
    """
    rows = images * layer.rows
    inputs = (
        exchange("alltoall", [rows * layer.inputs], ranks, factor_value_bytes)
        if rows_only
        else exchange("allgather", [rows * layer.inputs * ranks], ranks, factor_value_bytes)
    )
    return [inputs, exchange("allgather", [rows * layer.units * ranks], ranks, factor_value_bytes)]


def factors_send_less(layer: DenseShape, images: int, ranks: int, factor_value_bytes: int, rows_only: bool) -> bool:
    """Whether factors send fewer bytes than reducing the gradient itself (Zhang et al. 2017, section 3.2)."""
    elements = [layer.elements]
    reduced = exchange("reducescatter", elements, ranks) if rows_only else allreduce(elements, ranks)
    return total_bytes(by_factors(layer, images, ranks, factor_value_bytes, rows_only)) < reduced.bytes_sent


def row_parallel(layer: DenseShape, images: int, group: int, factor_value_bytes: int) -> list[CommunicationVolume]:
    """One step of a Dense layer divided over `group` ranks.

    Inputs there and their gradients back, partial sums in fp32, output gradients.
    """
    rows = images * layer.rows
    return [
        exchange("alltoall", [rows * layer.inputs] * 2, group, factor_value_bytes),
        exchange("reducescatter", [rows * group * layer.units], group),
        exchange("allgather", [rows * group * layer.units], group, factor_value_bytes),
    ]


def volume_per_step(
    strategy: StrategyName,
    *,
    ranks: int,
    images: int,
    small: Iterable[int],
    layers: Sequence[DenseShape],
    factor_value_bytes: int = FP32_BYTES,
    factored: bool = False,
    group: int | None = None,
    gradient_value_bytes: int = FP32_BYTES,
    divided: Iterable[int] = (),
) -> list[CommunicationVolume]:
    """What each rank sends in one step with one update; one entry for each operation and number of ranks in it.

    images: of one rank. small: elements of each weight outside `layers` that stays whole; divided: of those that
    'sharded' divides. group: ranks that divide one copy of the layers (mesh; all of them for tensor).
    """
    if strategy == INDEPENDENT:
        return []
    sent = [allreduce(small, ranks, gradient_value_bytes), *divided_update(list(divided), ranks)]
    for layer in layers:
        if strategy in DIVIDING:
            size = ranks if group is None else group
            sent += row_parallel(layer, images, size, factor_value_bytes)
            sent.append(allreduce([layer.elements / size], ranks // size))
        elif factored:
            sent += by_factors(layer, images, ranks, factor_value_bytes, rows_only=strategy == "sharded")
            if strategy == "sharded":
                sent.append(exchange("allgather", [layer.elements], ranks, factor_value_bytes))
        elif strategy == "sharded":
            sent += divided_update([layer.elements], ranks)
        else:
            sent.append(allreduce([layer.elements], ranks, gradient_value_bytes))
    return added_up(sent)


def added_up(entries: Iterable[CommunicationVolume]) -> list[CommunicationVolume]:
    """One entry for each operation and number of ranks, in the order in which they come; without those of one rank."""
    sums: dict[tuple[Operation, int], CommunicationVolume] = {}
    for entry in entries:
        if entry.ranks > 1 and entry.calls:
            key = (entry.operation, entry.ranks)
            before = sums.get(key)
            sums[key] = CommunicationVolume(
                operation=entry.operation,
                ranks=entry.ranks,
                calls=entry.calls + (before.calls if before else 0),
                bytes_sent=entry.bytes_sent + (before.bytes_sent if before else 0.0),
            )
    return list(sums.values())


def total_bytes(entries: Iterable[CommunicationVolume]) -> float:
    """Bytes that each rank sends in all of them."""
    return sum((entry.bytes_sent for entry in entries), 0.0)


def bytes_per_step(strategy: StrategyName, **work: Any) -> float:
    """Bytes that each rank sends in one step with one update: `traffic_per_step` of the same arguments, added up."""
    return total_bytes(volume_per_step(strategy, **work))
