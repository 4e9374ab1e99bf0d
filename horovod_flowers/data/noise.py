"""Images of noise in place of photos, for steps whose time counts and not what they learn. No file is read."""

from functools import cached_property
from pathlib import Path

import numpy as np

from horovod_flowers.data.order import Split
from horovod_flowers.data.prepared import Prepared


class Noise(Prepared):
    """Prepared images that are nowhere: `contents` of random pixels, again and again."""

    contents = 16

    @property
    def stored_bytes(self) -> int | None:
        """None: it is not stored."""
        return None

    @cached_property
    def labels(self) -> np.ndarray:
        """int32 [n]: one class after the other."""
        return (np.arange(len(self)) % len(self.class_names)).astype(np.int32)

    @cached_property
    def positions(self) -> np.ndarray:
        """int64 [n]."""
        return np.arange(len(self))

    @cached_property
    def _pixels(self) -> np.ndarray:
        shape = (self.contents, self.image_size, self.image_size, 3)
        return np.random.default_rng(0).integers(0, 256, shape, np.uint8)

    def image(self, index: int) -> np.ndarray:
        """One image, uint8 [size, size, 3]."""
        image: np.ndarray = self._pixels[index % self.contents]
        return image


def noise_images(class_names: tuple[str, ...], image_size: int, images: int) -> tuple[Noise, Split]:
    """So many images to train on, of that height and width in pixels, and one to validate on."""
    prepared = Noise(
        folder=Path("noise"),
        digest="noise",
        class_names=class_names,
        image_size=image_size,
        source_images=images + 1,
        unreadable=(),
        shard_images=(images + 1,),
    )
    indices = np.arange(images + 1)
    return prepared, Split(indices[:images], indices[images:], indices[:0])
