"""Which classes there are, how many images of each, and what is to be said of their numbers."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from rich.cells import cell_len

from horovod_flowers.data.folder_layout import Layout
from horovod_flowers.data.prepared import Prepared
from horovod_flowers.runtime.console import warn
from horovod_flowers.runtime.errors import harmless

MOST_ROWS = 40
UNEQUAL = 10
"""From this ratio of the largest to the smallest class on, it is said."""
FEW = 10
"""Images of a class below which it is said."""
NAMED = 8


def sets_of(prepared: Prepared) -> dict[str, np.ndarray]:
    """Indices of the images by the sets that their source came with: all of them, where it came with none."""
    indices = np.arange(len(prepared))
    if prepared.parts is None:
        return {"images": indices}
    ends = np.cumsum([prepared.parts.training, prepared.parts.validation])
    parts = np.split(indices, np.searchsorted(prepared.positions, ends))
    return {name: own for name, own in zip(("training", "validation", "test"), parts, strict=True) if len(own)}


def class_lines(prepared: Prepared, sets: Mapping[str, np.ndarray], layout: Layout | None) -> Iterator[str]:
    """A table of classes and their images, and what else was found in their folders.

    `sets`: by the column's heading, indices into the images.
    """
    names = prepared.class_names
    columns = {heading: np.bincount(prepared.labels[own], minlength=len(names)) for heading, own in sets.items()}
    notes = layout.notes if layout is not None else {}
    if prepared.unreadable and layout is not None:
        there = np.bincount([photo.label for photo in layout.photos], minlength=len(names))
        columns["unreadable"] = there - np.bincount(prepared.labels, minlength=len(names))
    rows = [
        [harmless(name), *(f"{counts[number]:,}" for counts in columns.values()), notes.get(name, "")]
        for number, name in enumerate(names)
    ]
    if len(rows) > MOST_ROWS:
        largest = np.argsort(-next(iter(columns.values())), kind="stable")
        half = MOST_ROWS // 2
        between = [f"... and {len(rows) - MOST_ROWS} classes between", *[""] * len(columns), ""]
        rows = [*(rows[k] for k in largest[:half]), between, *(rows[k] for k in largest[-half:])]
    rows.append(["all", *(f"{counts.sum():,}" for counts in columns.values()), ""])
    yield from _aligned([["class", *columns, ""], *rows])
    if layout is not None:
        yield from layout.remarks


def _aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Names to the left, numbers to the right; some scripts' letters are two columns wide."""
    widths = [max(cell_len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    for name, *numbers, note in rows:
        cells = [number.rjust(width) for number, width in zip(numbers, widths[1:], strict=True)]
        yield "  ".join(["", name + " " * (widths[0] - cell_len(name)), *cells, note]).rstrip()


def warn_of_empty_classes(layout: Layout) -> None:
    """Name the folders that would be classes, but for a photo in them."""
    if layout.without_photos:
        warn(
            f"left out, since there is no photo in them: {_listed([harmless(name) for name in layout.without_photos])}"
        )


def class_warnings(prepared: Prepared, training: np.ndarray, validation: np.ndarray | None) -> Iterator[str]:
    """What a reader of an accuracy should know of these classes: a sentence each.

    `validation`: indices, None where they are not told apart yet.
    """
    names = [harmless(name) for name in prepared.class_names]
    counts = np.bincount(prepared.labels[training], minlength=len(names))
    largest, smallest = int(counts.argmax()), int(counts.argmin())
    if counts[largest] >= UNEQUAL * max(1, counts[smallest]):
        share = counts[largest] / counts.sum()
        yield (
            f"the classes are unequal, {names[largest]} with {counts[largest]:,} images and {names[smallest]} with "
            f"{counts[smallest]:,}: to answer {names[largest]} always gives an accuracy of {share:.3f}; look at each "
            "class with evaluate, and try --data.class-weights balanced"
        )
    none = [names[k] for k in np.flatnonzero(counts == 0)]
    if none:
        yield f"training refuses classes without a readable photo: {_listed(none)}"
    if validation is None:
        few = [f"{names[k]} {counts[k]}" for k in np.flatnonzero((counts < FEW) & (counts > 0))]
        if few:
            yield f"classes with fewer than {FEW} images, whose figures will say little: {_listed(few)}"
        return
    held = np.bincount(prepared.labels[validation], minlength=len(names))
    missing = [names[k] for k in np.flatnonzero(held == 0)]
    if missing and len(validation):
        yield f"not validated, since no validation image is of it: {_listed(missing)}"
    few = [
        f"{names[k]} {counts[k]} to train and {held[k]} to validate"
        for k in np.flatnonzero((counts + held < FEW) & (held > 0))
    ]
    if few:
        yield f"classes with fewer than {FEW} images, whose figures say little: {_listed(few)}"


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more
