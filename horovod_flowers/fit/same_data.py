"""Whether the ranks were given the same data: what a batch or an array looks like, compared over ranks."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from horovod_flowers.fit.row_shares import leaves_of
from horovod_flowers.ranks.communicator import Ranks
from horovod_flowers.runtime.console import warn
from horovod_flowers.runtime.errors import AgreedError

WHAT_TO_DO = (
    "every rank needs the same data in the same order and takes its part of them itself: shuffle with a seed "
    "(keras.utils.set_random_seed(1) at the top, or shuffle(seed=1)), and divide nothing by ranks before (no "
    "Dataset.shard, no files by rank)"
)
ROWS_LOOKED_AT = 64
"""Of an array, spread evenly over it."""
NUMBERS_LOOKED_AT = 1024
"""Of each tensor of a batch after the first."""


@dataclass(frozen=True)
class PartSeen:
    """One tensor of the data, as a rank sees it."""

    name: str
    form: str
    """Type and shape."""
    checksum: int
    varies: bool
    """Whether its rows differ, so that equal checksums tell equal order."""


def part_names(data: Any) -> list[str]:
    """What each tensor of a batch is: 'x', 'y[1]', 'sample_weight'. data: (x,), (x, y), (x, y, sample_weight) or x."""
    parts = data if isinstance(data, (tuple, list)) and 0 < len(data) <= 3 else (data,)
    names = []
    for name, part in zip(("x", "y", "sample_weight"), parts, strict=False):
        paths = [f"{name}{place}" for place in _places(part)]
        names += paths
    return names


def _places(part: Any) -> list[str]:
    if isinstance(part, dict):
        return [f"[{key!r}]{place}" for key in sorted(part) for place in _places(part[key])]
    if isinstance(part, (list, tuple)):
        return [f"[{index}]{place}" for index, each in enumerate(part) for place in _places(each)]
    return [] if part is None or isinstance(part, tf.experimental.Optional) else [""]


def checksums(index: Any, data: Any) -> Any:
    """Of the tensors of a batch, in a graph: int64 [tensors, 2], a CRC and whether the rows differ.

    index: of the batch in its pass. The first is looked at as a whole, of those after it some numbers of each tensor.
    """
    leaves = leaves_of(data)
    counts = [len(tf.nest.flatten(leaf, expand_composites=True)) for leaf in leaves]

    def look(index: np.ndarray, *components: np.ndarray) -> np.ndarray:
        left, found = list(components), []
        for count in counts:
            own, left = left[:count], left[count:]
            if index == 0:
                found.append((crc_of(own), int(_varies(own[0]))))
            else:
                found.append((crc_of([_some_of(each) for each in own]), 1))
        return np.array(found, np.int64)

    seen = tf.numpy_function(look, [index, *tf.nest.flatten(leaves, expand_composites=True)], tf.int64)
    return tf.ensure_shape(seen, [len(leaves), 2])


def _some_of(array: np.ndarray) -> np.ndarray:
    """Numbers spread evenly over an array."""
    flat = array.reshape(-1)
    return flat[:: max(1, flat.size // NUMBERS_LOOKED_AT)]


def fingerprint(names: Sequence[str], found: np.ndarray, labels_alone: bool) -> int:
    """Less than 2**24, of what `checksums` found; of labels and weights where inputs may differ; 0 of nothing."""
    if not len(found):  # of arrays, which were looked at before
        return 0
    told = [int(crc) for name, (crc, _) in zip(names, found, strict=True) if not labels_alone or name[:1] != "x"]
    return zlib.crc32(np.array(told, np.int64).tobytes()) & 0xFFFFFF if told else 0


def are_equal(count: int, total: int, squares: int) -> bool:
    """Whether numbers are all the same, by their sum and the sum of their squares."""
    return count * squares == total * total


def crc_of(components: list[np.ndarray]) -> int:
    """Of the bytes of arrays; of strings, of their letters."""
    value = 0
    for array in components:
        held = (
            b"\0".join(map(_bytes, array.ravel())) if array.dtype == object else np.ascontiguousarray(array).tobytes()
        )
        value = zlib.crc32(held, zlib.crc32(str(array.shape).encode(), value))
    return value


def _bytes(text: Any) -> bytes:
    return text if isinstance(text, bytes) else str(text).encode()


def _varies(array: np.ndarray) -> bool:
    return len(array) > 1 and any(not np.array_equal(array[0], row) for row in array[1:])


def parts_of_batch(data: Any, found: np.ndarray) -> list[PartSeen]:
    """A batch as it is compared. data: this rank's part of it; found: of all of it, as `checksums` gives."""
    leaves = leaves_of(data)
    names = part_names(data)
    forms = [f"{leaf.dtype.name} {tuple(leaf.shape)[1:]}" for leaf in leaves]
    return [PartSeen(*each[:2], int(each[2][0]), bool(each[2][1])) for each in zip(names, forms, found, strict=True)]


def parts_of_arrays(arrays: Any, rows: int) -> list[PartSeen]:
    """Arrays as they are compared: rows spread evenly over them. arrays: as `keras_internals.tensors_of` gives them."""
    places = np.unique(np.linspace(0, max(rows - 1, 0), ROWS_LOOKED_AT).astype(np.int64))
    parts = []
    for name, leaf in zip(part_names(arrays), leaves_of(arrays), strict=False):
        picked = tf.nest.flatten(_rows_at(leaf, places), expand_composites=True)
        held = [np.asarray(each) for each in picked]
        form = f"{held[0].dtype.name} {tuple(leaf.shape)}"
        parts.append(PartSeen(name, form, crc_of(held), _varies(held[0])))
    return parts


def _rows_at(leaf: Any, places: np.ndarray) -> Any:
    if isinstance(leaf, tf.SparseTensor):  # as a whole
        return leaf
    if isinstance(leaf, tf.RaggedTensor):  # Keras keeps the rows of a sparse tensor in shorter ones
        return tf.gather(leaf, places[places < int(leaf.nrows())])
    return leaf[places] if isinstance(leaf, np.ndarray) else tf.gather(leaf, places)


def refuse_other_data(parts: Sequence[PartSeen], ranks: Ranks, what: str, changing: bool = False) -> bool:
    """Raise AgreedError on every rank where a rank sees other data than rank 0, and say what differs.

    what: 'the first batch', 'the arrays'. changing: of data that are computed as they are read. Where their labels are
    equal and only inputs differ, ranks draw random changes of the same samples: said, not refused; whether they do.
    """
    seen = ranks.allgather(parts)
    for rank, theirs in enumerate(seen):
        if [part.name for part in theirs] != [part.name for part in seen[0]]:
            names = " and ".join(f"{', '.join(part.name for part in each)}" for each in (theirs, seen[0]))
            raise AgreedError(f"{what} of rank {rank} and rank 0 consist of different parts ({names}): {WHAT_TO_DO}")
        for theirs_of, first in zip(theirs, seen[0], strict=True):
            if theirs_of.form != first.form:
                raise AgreedError(
                    f"{what} of rank {rank} and rank 0 differ in {first.name}: {theirs_of.form} and {first.form}; "
                    f"{WHAT_TO_DO}"
                )
    for rank, theirs in enumerate(seen):
        pairs = list(zip(theirs, seen[0], strict=True))
        differing = [first for own, first in pairs if own.checksum != first.checksum]
        labels = [first for own, first in pairs if first.name[:1] == "y"]
        if not differing:
            continue
        changed = changing and all(part.name[:1] == "x" for part in differing) and any(part.varies for part in labels)
        names = ", ".join(part.name for part in differing)
        if not changed:
            raise AgreedError(f"{what} of rank {rank} and rank 0 differ in {names}: {WHAT_TO_DO}")
        if ranks.rank == 0:
            warn(
                f"{what} of rank {rank} and rank 0 have the same labels and differ in {names}: taken for random "
                "changes of the same samples (augmentation), of which each rank draws its own"
            )
        return True
    return False
