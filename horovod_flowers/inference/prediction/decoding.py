"""Photos decoded by several threads, a block ahead of the model."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from horovod_flowers.data.decoding import photo_or_reason
from horovod_flowers.inference.prediction.patience import SECONDS, Hands


@dataclass(frozen=True)
class Decoded:
    """A block of photos."""

    names: list[str]
    images: np.ndarray
    """uint8 [block size, size, size, 3], black where a photo could not be read and behind the last one: always the same
    shape, so that a photo's numbers do not depend on how many others could be read."""
    problems: list[str | None]
    """Why each photo could not be read; None where it could."""


def decoded(blocks: Iterator[Sequence[str]], block_size: int, size: int, threads: int) -> Iterator[Decoded]:
    """Decode block after block, the photos of one by `threads` threads: Pillow decodes outside Python's lock."""
    with Hands[str, np.ndarray | str](lambda name: photo_or_reason(Path(name), size), threads, SECONDS) as hands:
        for names in blocks:
            images = np.zeros((block_size, size, size, 3), np.uint8)
            found = hands.each(names, lambda name: f"its file system does not answer ({SECONDS:g} s)")
            problems: list[str | None] = []
            for place, image in enumerate(found):
                problems.append(image if isinstance(image, str) else None)
                if not isinstance(image, str):
                    images[place] = image
            yield Decoded(list(names), images, problems)
