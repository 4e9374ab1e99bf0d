"""What a source of photos is: a list of chunks that any process can decode."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from horovod_flowers.data.decoding import photo_or_reason
from horovod_flowers.data.folder_layout import Layout
from horovod_flowers.data.photo_file import read_contents
from horovod_flowers.runtime.errors import first_line

CHUNK_IMAGES = 256


@dataclass(frozen=True)
class DecodedChunk:
    """Images of one chunk: uint8 [n, size, size, 3], int32 [n] labels, int64 [n] positions in the source's order."""

    images: np.ndarray
    labels: np.ndarray
    positions: np.ndarray
    unreadable: tuple[tuple[str, str], ...]
    """Name and reason of each image that could not be read."""
    checksums: tuple[str, ...] = ()
    """Of the file of each photo, readable or not; empty where the source has no files of its own."""


class Chunk(Protocol):
    """A picklable piece of work for a prepare process."""

    def decode(self) -> DecodedChunk:
        """Read, resize and label this chunk's images."""
        ...


@dataclass(frozen=True)
class Parts:
    """Images of a source that comes with sets of its own: the training ones first, those of the test set last."""

    training: int
    validation: int
    test: int


class Source(Protocol):
    """Labelled photos in a fixed order."""

    class_names: tuple[str, ...]
    images: int
    identity: dict[str, Any]
    """What determines the prepared images, cheap to obtain: names the prepared data without reading a photo."""
    parts: Parts | None
    """None where training, validation and test images are still to be told apart."""
    weights: np.ndarray | None
    """float32 [images]: how much each one counts in the training loss; None where all count alike."""
    place: dict[str, Any] | None
    """Where it lies, as `moved_photos.place_of` tells it; None where it lies nowhere."""
    layout: Layout | None
    """Of a folder: how it was read, and what was left out."""

    def chunks(self) -> Iterator[Chunk]:
        """Yield the source in chunks, in order."""
        ...


@dataclass(frozen=True)
class PhotoChunk:
    """Encoded photos: paths to open, or their bytes."""

    names: tuple[str, ...]
    photos: tuple[Path | bytes, ...]
    labels: tuple[int, ...]
    """Negative where the source has none for a photo."""
    start: int
    size: int

    def decode(self) -> DecodedChunk:
        """Read, resize and label them."""
        images, labels, positions, unreadable, checksums = [], [], [], [], []
        for offset, (name, photo, label) in enumerate(zip(self.names, self.photos, self.labels, strict=True)):
            contents, image = _read(photo, self.size)
            if isinstance(photo, Path):
                checksums.append(checksum_of(contents))
            if label < 0:
                image = "it has no label"
            if isinstance(image, str):
                unreadable.append((name, image))
                continue
            images.append(image)
            labels.append(label)
            positions.append(self.start + offset)
        empty = np.empty((0, self.size, self.size, 3), np.uint8)
        return DecodedChunk(
            np.stack(images) if images else empty,
            np.array(labels, np.int32),
            np.array(positions, np.int64),
            tuple(unreadable),
            tuple(checksums),
        )


def _read(photo: Path | bytes, size: int) -> tuple[bytes, np.ndarray | str]:
    """The file, empty where there is none, and the image or why it cannot be read."""
    try:
        contents = photo if isinstance(photo, bytes) else read_contents(photo)
    except OSError as error:
        return b"", first_line(error)
    return contents, photo_or_reason(contents, size)


def checksum_of(contents: bytes) -> str:
    """Of a photo's file."""
    return hashlib.sha256(contents).hexdigest()
