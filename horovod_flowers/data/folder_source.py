"""The user's own photos, in whatever layout they lie."""

import hashlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from horovod_flowers.config.data import DataConfig
from horovod_flowers.data.chunks import CHUNK_IMAGES, Chunk, Parts, PhotoChunk
from horovod_flowers.data.folder_layout import FoundPhoto, Layout, read_layout
from horovod_flowers.data.labels_csv import labelled_layout, sample_weights
from horovod_flowers.data.moved_photos import place_of


class FolderSource:
    """Photos of one folder, those of a class together: training photos, then those of its own other sets."""

    def __init__(self, config: DataConfig, fewest_classes: int = 2, known_classes: Collection[str] = ()) -> None:
        """Raises UserError where the folder is missing, empty, or can be read in more than one way."""
        self._size = config.image_size
        layout = (
            labelled_layout(config, fewest_classes)
            if config.labels_csv is not None
            else read_layout(config, fewest_classes, known_classes)
        )
        self.layout: Layout | None = layout
        self.class_names = layout.class_names
        self.photos: tuple[FoundPhoto, ...] = layout.photos
        self.images = len(self.photos)
        self.parts: Parts | None = None
        if layout.has_sets:
            self.parts = Parts(len(layout.training), len(layout.validation), len(layout.test))
        self.weights: np.ndarray | None = None
        if config.sample_weights is not None:
            self.weights = sample_weights(Path(config.sample_weights), self.photos, layout.folder)
        self.identity = self._identity(config)
        self.place: dict[str, Any] | None = place_of(config)

    def _identity(self, config: DataConfig) -> dict[str, Any]:
        found: dict[str, Any] = {
            "source": "folder",
            "image_size": config.image_size,
            "class_names": list(self.class_names),
            "files": [[photo.name, *_size_and_time(photo.path)] for photo in self.photos],
        }
        # Only where there is something to say: plain folders keep the identity that they have always had.
        if self.parts is not None:
            found["parts"] = [self.parts.training, self.parts.validation, self.parts.test]
        if config.labels_csv is not None:
            found["labels"] = [photo.label for photo in self.photos]
        if self.weights is not None:
            found["weights"] = hashlib.sha256(self.weights.tobytes()).hexdigest()
        return found

    def chunks(self) -> Iterator[Chunk]:
        """Photos by path: each prepare process reads its own."""
        for start in range(0, self.images, CHUNK_IMAGES):
            part = self.photos[start : start + CHUNK_IMAGES]
            names, paths, labels = zip(*((photo.name, photo.path, photo.label) for photo in part), strict=True)
            yield PhotoChunk(names, paths, labels, start, self._size)


def _size_and_time(photo: Path) -> list[int | None]:
    try:
        status = photo.stat()
    except OSError:  # a dangling link: listed as unreadable when it is decoded
        return [None, None]
    return [status.st_size, status.st_mtime_ns]
