"""Bytes that each rank sends in a step, by formula: arithmetic only, compared with counted bytes in the tests.

All for collective algorithms that send the least possible: ring or recursive halving for reduce-scatter and allgather
((N-1)/N of the data a rank), twice that for allreduce (Patarasu and Yuan 2009, section 3), pairwise exchange for
alltoall.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

FP32_BYTES = 4


@dataclass(frozen=True)
class DenseShape:
    """What decides the bytes of a large Dense layer."""

    inputs: int
    units: int


def allreduce_bytes(elements: float, ranks: int, bytes_per_element: int = FP32_BYTES) -> float:
    """Sent by each rank to add up `elements` over `ranks`."""
    return 2 * (ranks - 1) / ranks * elements * bytes_per_element


def exchange_bytes(elements: float, ranks: int, bytes_per_element: int = FP32_BYTES) -> float:
    """Sent by each rank in a reduce-scatter, allgather or alltoall; `elements` is the larger side of it on a rank."""
    return (ranks - 1) / ranks * elements * bytes_per_element


def factor_bytes(layer: DenseShape, images: int, ranks: int, factor_value_bytes: int, rows_only: bool) -> float:
    """Sent by each rank to combine the gradient of a Dense layer by its factors.

    images: of one rank. rows_only: each rank needs its rows of the gradient only, so that inputs travel by alltoall.
    """
    inputs = exchange_bytes(images * layer.inputs * (1 if rows_only else ranks), ranks, factor_value_bytes)
    return inputs + exchange_bytes(images * layer.units * ranks, ranks, factor_value_bytes)


def factors_send_less(layer: DenseShape, images: int, ranks: int, factor_value_bytes: int, rows_only: bool) -> bool:
    """Whether factors send fewer bytes than reducing the gradient itself (Zhang et al. 2017, section 3.2)."""
    elements = layer.inputs * layer.units
    reduced = exchange_bytes(elements, ranks) if rows_only else allreduce_bytes(elements, ranks)
    return factor_bytes(layer, images, ranks, factor_value_bytes, rows_only) < reduced


def row_parallel_bytes(layer: DenseShape, images: int, group: int, factor_value_bytes: int) -> float:
    """Sent by each rank for one step of a Dense layer divided over `group` ranks.

    Inputs there and their gradients back, partial sums in fp32, output gradients.
    """
    inputs = 2 * exchange_bytes(images * layer.inputs, group, factor_value_bytes)
    sums = exchange_bytes(images * group * layer.units, group)
    return inputs + sums + exchange_bytes(images * group * layer.units, group, factor_value_bytes)


def bytes_per_step(
    strategy: Literal["allreduce", "sharded", "tensor", "mesh", "none"],
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
) -> float:
    """Bytes that each rank sends in one step with one update.

    images: of one rank. small: elements of each weight outside `layers` that stays whole; divided: of those that
    'sharded' divides. group: ranks that divide one copy of the layers (mesh; all of them for tensor).
    """
    if strategy == "none" or ranks == 1:
        return 0.0
    total = allreduce_bytes(sum(small), ranks, gradient_value_bytes)
    total += 2 * exchange_bytes(sum(divided), ranks)  # reduce-scatter of gradients, allgather of weights
    for layer in layers:
        elements = layer.inputs * layer.units
        if strategy in ("tensor", "mesh"):
            size = ranks if group is None else group
            total += row_parallel_bytes(layer, images, size, factor_value_bytes)
            total += allreduce_bytes(elements / size, ranks // size)
        elif factored:
            total += factor_bytes(layer, images, ranks, factor_value_bytes, rows_only=strategy == "sharded")
            if strategy == "sharded":
                total += exchange_bytes(elements, ranks, factor_value_bytes)
        elif strategy == "sharded":
            total += 2 * exchange_bytes(elements, ranks)
        else:
            total += allreduce_bytes(elements, ranks, gradient_value_bytes)
    return total
