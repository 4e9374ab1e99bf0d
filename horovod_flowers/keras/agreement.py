"""What the ranks agree on before they combine gradients for the first time.

A collective call that one rank makes in another way, or not at all, hangs or ends in numbers of the wrong weights. So
every rank tells what it is about to combine, once for each set of weights, and all find the same answer in it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias
from zlib import crc32

import horovod.tensorflow as hvd
import numpy as np
import tensorflow as tf
from horovod.tensorflow.mpi_ops import global_process_set

from horovod_flowers.runtime.console import warn
from horovod_flowers.runtime.errors import UserError

Kind: TypeAlias = Literal["none", "dense", "sparse"]
"""Of a gradient: none where the loss does not depend on the weight, sparse as rows of it (tf.IndexedSlices)."""


@dataclass(frozen=True)
class Proposal:
    """What one rank is about to combine."""

    settings: str
    """Of the optimizer, as far as they decide what is sent."""
    number: int
    """How many agreements this rank has taken part in."""
    names: tuple[str, ...]
    """Of the weights."""
    shapes: tuple[tuple[int | None, ...], ...]
    dtypes: tuple[str, ...]
    kinds: tuple[Kind, ...]
    checksum: int
    """Of the weights' values."""


@dataclass(frozen=True)
class Agreement:
    """The same on all ranks."""

    number: int
    kinds: tuple[Kind, ...]


_done: dict[int, int] = {}
"""Agreements so far, by the number of the process set."""


def kind_of(gradient: Any) -> Kind:
    """As what it is combined."""
    if gradient is None:
        return "none"
    return "sparse" if isinstance(gradient, tf.IndexedSlices) else "dense"


def agree(settings: str, variables: Sequence[tf.Variable], kinds: Sequence[Kind], process_set: Any) -> Agreement:
    """Find what to combine; every rank of the process set calls it, also while TensorFlow traces a function.

    A gradient that only some ranks have counts as zero on the others; one that is sparse on some ranks only is combined
    as a dense one. Raises UserError on all ranks where weights or settings differ. Warns where the weights' values do.
    """
    with tf.init_scope():
        own = Proposal(
            settings,
            _done.get(process_set.process_set_id, 0),
            tuple(variable.name for variable in variables),
            tuple(tuple(variable.shape.as_list()) for variable in variables),
            tuple(variable.dtype.name for variable in variables),
            tuple(kinds),
            _checksum(variables),
        )
        name = f"horovod_flowers.keras.agreement.{process_set.process_set_id}"
        proposals: list[Proposal] = of_all_ranks(own, name, process_set)
    ranks = process_set.ranks if process_set.ranks is not None else list(range(len(proposals)))
    for rank, other in zip(ranks[1:], proposals[1:], strict=True):
        if (difference := _difference(ranks[0], proposals[0], rank, other)) is not None:
            raise UserError(difference)
    number = max(proposal.number for proposal in proposals)
    _done[process_set.process_set_id] = number + 1
    others = [rank for rank, each in zip(ranks, proposals, strict=True) if each.checksum != proposals[0].checksum]
    if others and hvd.rank() == ranks[0]:
        warn(
            f"rank {others[0]} begins with other weights than rank {ranks[0]}, so ranks train different models: add "
            "hvd.callbacks.BroadcastGlobalVariablesCallback(0), or broadcast the weights before the first step"
        )
    return Agreement(number, tuple(_common(kinds) for kinds in zip(*(each.kinds for each in proposals), strict=True)))


def of_all_ranks(own: Any, name: str, process_set: Any) -> list[Any]:
    """What each rank gives. Raises UserError where one has ended without."""
    try:
        found: list[Any] = hvd.allgather_object(own, name=name, process_set=process_set)
    except tf.errors.UnknownError as error:
        if "Horovod has been shut down" not in str(error):
            raise
        raise UserError(
            "a rank has ended while this one was about to train with it: call fit on all ranks, equally often"
        ) from error
    return found


def _difference(first: int, proposed: Proposal, rank: int, other: Proposal) -> str | None:
    """What two ranks differ in, as a sentence."""
    if proposed.settings != other.settings:
        return (
            f"rank {rank} has another DistributedOptimizer than rank {first}: {other.settings} there, "
            f"{proposed.settings} here; give the same arguments on all ranks"
        )
    if len(proposed.names) != len(other.names):
        return (
            f"rank {rank} trains {len(other.names)} weights and rank {first} {len(proposed.names)}: build the same "
            "model on all ranks"
        )
    there = zip(other.names, other.shapes, other.dtypes, strict=True)
    here = zip(proposed.names, proposed.shapes, proposed.dtypes, strict=True)
    for number, (one, two) in enumerate(zip(here, there, strict=True), 1):
        if one[1:] != two[1:]:
            return (
                f"rank {rank} trains another model than rank {first}: weight {number} is {two[0]} {list(two[1])} "
                f"{two[2]} there, {one[0]} {list(one[1])} {one[2]} here; build the same model on all ranks"
            )
    return None


def _common(kinds: Sequence[Kind]) -> Kind:
    found = set(kinds) - {"none"}
    if not found:
        return "none"
    return "sparse" if found == {"sparse"} else "dense"


def _checksum(variables: Sequence[tf.Variable]) -> int:
    value = 0
    for variable in variables:
        value = crc32(np.ascontiguousarray(variable.numpy()).tobytes(), value)
    return value


def check_same_variables(variables: Sequence[Any]) -> None:
    """Refuse on all ranks variables that differ over ranks in number, shape or type (UserError)."""
    own = [(getattr(each, "path", each.name), tuple(each.shape), str(each.dtype)) for each in variables]
    found = of_all_ranks(own, "horovod_flowers.keras.variables", global_process_set)
    for rank, other in enumerate(found[1:], 1):
        if len(other) != len(found[0]):
            raise UserError(
                f"rank {rank} has {len(other)} variables and rank 0 has {len(found[0])}: build and compile the same "
                "model on all ranks"
            )
        for here, there in zip(found[0], other, strict=True):
            if here[1:] != there[1:]:
                raise UserError(
                    f"rank {rank} has another model than rank 0: {there[0]} {list(there[1])} {there[2]} there, "
                    f"{here[0]} {list(here[1])} {here[2]} here; build the same model on all ranks"
                )
