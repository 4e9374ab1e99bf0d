"""The images that a trained model is evaluated on: some of those that it was trained with, or photos it never saw.

They are cut into batches of one size before they are shared out, each batch to one rank, and the last one is filled up:
a batch holds the same images at any number of ranks, so that its numbers come out the same.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from horovod_flowers.config.data import DataConfig
from horovod_flowers.data.batches import evaluation_batches
from horovod_flowers.data.decoding import decode_photo, photo_or_reason
from horovod_flowers.data.folder_source import FolderSource
from horovod_flowers.data.prepared import Prepared
from horovod_flowers.inference.prediction.photos import shown
from horovod_flowers.runtime.errors import UserError


@dataclass(frozen=True)
class Part:
    """A batch to classify."""

    numbers: np.ndarray
    """int64 [n]: which images these are."""
    labels: np.ndarray
    """int64 [n]: numbers of classes of the run."""
    images: np.ndarray
    """uint8 [batch, size, size, 3]: those n images, and some of them again behind."""
    digests: tuple[str, ...] = ()
    """Of the pixels of each of the n images; empty where the images have a digest of their own."""
    unreadable: tuple[tuple[str, str], ...] = ()
    """Name and reason of each image that was left out."""


class Images(Protocol):
    """Labelled images in a fixed order."""

    count: int

    def parts(self, rank: int, size: int, batch: int) -> Iterator[Part]:
        """This rank's batches: over all ranks each image exactly once."""
        ...

    def image(self, number: int) -> np.ndarray:
        """One image, uint8 [size, size, 3]."""
        ...

    def photo(self, number: int) -> str | None:
        """CLASS/FILE of an image that is a photo of its own."""
        ...


class PreparedImages:
    """Some of the prepared images; an image's number is its index there."""

    def __init__(self, prepared: Prepared, indices: np.ndarray) -> None:
        self._prepared, self._indices = prepared, indices
        self.count = len(indices)

    def parts(self, rank: int, size: int, batch: int) -> Iterator[Part]:
        """This rank's batches: over all ranks each image exactly once."""
        for start in range(rank * batch, self.count, size * batch):
            own = self._indices[start : start + batch]
            for filled in evaluation_batches(self._prepared, own, batch=batch, rank=0, size=1):
                yield Part(own, self._prepared.labels[own], filled.images)

    def image(self, number: int) -> np.ndarray:
        """One image, uint8 [size, size, 3]."""
        return self._prepared.image(number)

    def photo(self, number: int) -> str | None:
        """Their files are not known any more."""
        return None


class PhotoImages:
    """Photos as CLASS/*.jpg, decoded as `prepare` decodes them; an image's number is its place among them."""

    def __init__(self, folder: Path, image_size: int, class_names: tuple[str, ...]) -> None:
        """`class_names` of the run. Raises UserError for a folder that is none of them, or without photos."""
        config = DataConfig(source="folder", path=str(folder), image_size=image_size)
        source = FolderSource(config, fewest_classes=1, known_classes=class_names)
        if source.parts is not None:
            raise UserError(
                f"{folder} holds training photos, and sets to validate or test on: give one of its folders, such as "
                f"--photos {folder / source.photos[-1].name.split('/')[0]}"
            )
        unknown = [name for name in source.class_names if name not in class_names]
        if unknown:
            raise UserError(
                f"{folder} has photos of {', '.join(unknown)}, which the run does not know: its classes are "
                f"{', '.join(class_names)}; rename or move these folders"
            )
        self._size = image_size
        self._paths = tuple(photo.path for photo in source.photos)
        self.names = tuple(photo.name for photo in source.photos)
        self._labels = np.array([class_names.index(source.class_names[photo.label]) for photo in source.photos])
        self.remarks = source.layout.remarks if source.layout is not None else ()
        """How the folder was read, and what of it was left out."""
        self.count = len(self.names)

    def parts(self, rank: int, size: int, batch: int) -> Iterator[Part]:
        """This rank's batches: over all ranks each photo exactly once, but for those that cannot be read."""
        for start in range(rank * batch, self.count, size * batch):
            numbers, images, unreadable = [], [], []
            for number in range(start, min(start + batch, self.count)):
                image = photo_or_reason(self._paths[number], self._size)
                if isinstance(image, str):
                    unreadable.append((shown(self.names[number]), image))
                    continue
                images.append(image)
                numbers.append(number)
            own = np.array(numbers, np.int64)
            digests = tuple(hashlib.sha256(image.tobytes()).hexdigest() for image in images)
            blank = np.zeros((batch, self._size, self._size, 3), np.uint8)
            filled = np.resize(np.stack(images), blank.shape) if images else blank
            yield Part(own, self._labels[own], filled, digests, tuple(unreadable))

    def image(self, number: int) -> np.ndarray:
        """One photo, uint8 [size, size, 3]. Raises Pillow's errors."""
        return decode_photo(self._paths[number], self._size)

    def photo(self, number: int) -> str | None:
        """CLASS/FILE."""
        return shown(self.names[number])
