"""The part of one rank, and all parts put together in the photos' order. A line a photo, a block at a time."""

import csv
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from itertools import islice
from pathlib import Path

import numpy as np

from horovod_flowers.inference.prediction.decoding import Decoded
from horovod_flowers.inference.prediction.photos import shown
from horovod_flowers.inference.prediction.tables import Row, table
from horovod_flowers.runtime.files import whole_file, writing


def part_of(folder: Path, rank: int) -> Path:
    """The file of one rank."""
    return folder / f"part-{rank:05d}.jsonl"


def classify(blocks: Iterator[Decoded], probabilities: Callable[[np.ndarray], np.ndarray], part: Path) -> Iterator[int]:
    """Classify block after block into a part file; yields how many photos each had."""
    with writing(part), open(part, "w", encoding="ascii") as file:
        for block in blocks:
            chances = probabilities(block.images).tolist() if None in block.problems else []
            for place, (name, problem) in enumerate(zip(block.names, block.problems, strict=True)):
                file.write(json.dumps([name, problem, None if problem else chances[place]]) + "\n")
            yield len(block.names)


def in_order(folder: Path, ranks: int, block_size: int) -> Iterator[tuple[str, str | None, list[float] | None]]:
    """Name, problem and probabilities of every photo: a block of each rank's part in turn."""
    with ExitStack() as stack:
        files = [stack.enter_context(open(part_of(folder, rank), encoding="ascii")) for rank in range(ranks)]
        found = True
        while found:
            found = False
            for file in files:
                for line in islice(file, block_size):
                    found = True
                    name, problem, chances = json.loads(line)
                    yield name, problem, chances


def merge(
    folder: Path, ranks: int, block_size: int, output: Path, kind: str, class_names: tuple[str, ...]
) -> tuple[int, int]:
    """Write the table, whole, and beside it a list of what could not be read; how many photos were, and were not.

    An earlier table stays where no photo could be read.
    """
    read = unread = 0
    listed = unreadable_list(output)
    with (
        whole_file(listed) as problems,
        suppress(_NothingRead),  # inside the list of problems, which is kept where the table is not
        whole_file(output) as temporary,
        table(temporary, kind, class_names) as rows,
        open(problems, "w", encoding="utf-8", newline="") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("photo", "reason"))
        for name, problem, chances in in_order(folder, ranks, block_size):
            if chances is None:
                unread += 1
                writer.writerow((shown(name), problem))
                continue
            read += 1
            best = int(np.argmax(chances))
            rows.write(Row(shown(name), class_names[best], chances[best], chances))
        if not read:
            raise _NothingRead
    if not unread:
        listed.unlink()
    return read, unread


class _NothingRead(Exception):
    """Leaves an earlier table as it is."""


def unreadable_list(output: Path) -> Path:
    """Where the photos that could not be read are listed, with the reason."""
    return output.with_name(f"{output.name}.unreadable.csv")
