"""The sources of labelled photos behind one interface (`chunks.Source`), and the drawn flowers."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from horovod_flowers.config.data import DataConfig
from horovod_flowers.data import synthetic
from horovod_flowers.data.chunks import CHUNK_IMAGES, Chunk, DecodedChunk, Parts, Source
from horovod_flowers.data.folder_layout import Layout
from horovod_flowers.data.folder_source import FolderSource
from horovod_flowers.data.tfds_source import TfdsSource


def open_source(config: DataConfig, download: bool = False) -> Source:
    """The source that the configuration names. Raises UserError where it is missing or empty."""
    if config.source == "synthetic":
        return SyntheticSource(config)
    if config.source == "folder":
        return FolderSource(config)
    return TfdsSource(config, download)


@dataclass(frozen=True)
class _SyntheticChunk:
    seed: int
    start: int
    stop: int
    size: int

    def decode(self) -> DecodedChunk:
        indices = range(self.start, self.stop)
        return DecodedChunk(
            np.stack([synthetic.draw(self.seed, index, self.size) for index in indices]),
            np.array([synthetic.label(index) for index in indices], np.int32),
            np.arange(self.start, self.stop),
            (),
        )


class SyntheticSource:
    """Five kinds of flower, drawn; image i depends on (seed, i) alone."""

    parts: Parts | None = None
    weights: np.ndarray | None = None
    place: dict[str, Any] | None = None
    layout: Layout | None = None

    def __init__(self, config: DataConfig) -> None:
        self._config = config
        self.class_names: tuple[str, ...] = synthetic.CLASSES
        self.images = config.synthetic_images
        self.identity = {
            "source": "synthetic",
            "version": synthetic.VERSION,
            "seed": config.synthetic_seed,
            "images": config.synthetic_images,
            "image_size": config.image_size,
        }

    def chunks(self) -> Iterator[Chunk]:
        """Ranges of image numbers."""
        config = self._config
        for start in range(0, self.images, CHUNK_IMAGES):
            stop = min(start + CHUNK_IMAGES, self.images)
            yield _SyntheticChunk(config.synthetic_seed, start, stop, config.image_size)
