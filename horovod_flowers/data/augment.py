"""Flip, crop, turn, recolour and erase one image by numbers drawn beforehand: the result is the same on any rank."""

import math
from dataclasses import dataclass

import cv2
import numpy as np

from horovod_flowers.config.data import DataConfig

DRAWS = 13
"""Random numbers an image: flip, crop size, crop x, crop y, brightness, contrast, saturation, then stretch, rotation,
whether to erase, and size, x and y of what is erased."""

ERASED_EDGE = (0.2, 0.4)  # of the result's height and width (Zhong et al. 2020 erase 2 to 40 % of the area)
_ERASED_TO = 128

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601


@dataclass(frozen=True)
class Augmentation:
    """How far images may be changed."""

    size: int
    """Height and width of the result in pixels."""
    smallest_crop: float
    stretch: float
    rotation_degrees: float
    recolour: float
    erase: float

    @staticmethod
    def of(config: DataConfig) -> "Augmentation | None":
        """What a run's options ask for; None where images stay as they are."""
        if not config.augment:
            return None
        return Augmentation(
            size=config.crop_size or config.image_size,
            smallest_crop=config.smallest_crop,
            stretch=config.stretch,
            rotation_degrees=config.rotation_degrees,
            recolour=config.recolour,
            erase=config.erase,
        )

    def __call__(self, image: np.ndarray, draws: np.ndarray) -> np.ndarray:
        """uint8 [s, s, 3] and DRAWS numbers in [0, 1) -> uint8 [size, size, 3]."""
        numbers = [float(number) for number in draws]
        flip, crop, left, top, brightness, contrast, saturation, stretch, turn, whether, *square = numbers
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        cropped = cv2.warpAffine(
            np.ascontiguousarray(image),
            self._transform(image.shape[0], flip < 0.5, crop, left, top, stretch, turn),
            (self.size, self.size),
            flags=flags,
            borderMode=cv2.BORDER_REFLECT,
        )
        changed = self._recoloured(cropped, brightness, contrast, saturation)
        if whether < self.erase:
            self._erase(changed, *square)
        return changed

    def _transform(
        self, source: int, mirror: bool, crop: float, left: float, top: float, stretch: float, turn: float
    ) -> np.ndarray:
        """float64 [2, 3]: maps a pixel of the result to its place in the image; pixel centres stay centres."""
        extent = self.smallest_crop + (1 - self.smallest_crop) * crop
        wider = self.stretch ** ((2 * stretch - 1) / 2)
        width, height = min(1.0, extent * wider), min(1.0, extent / wider)
        x_centre = (1 - width) * left * source + width * source / 2 - 0.5
        y_centre = (1 - height) * top * source + height * source / 2 - 0.5
        x_scale, y_scale = width * source / self.size, height * source / self.size
        angle = math.radians(self.rotation_degrees * (2 * turn - 1))
        turned = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        linear = turned @ np.diag([-x_scale if mirror else x_scale, y_scale])
        shift = np.array([x_centre, y_centre]) - linear @ np.full(2, (self.size - 1) / 2)
        return np.column_stack([linear, shift])

    def _recoloured(self, image: np.ndarray, *draws: float) -> np.ndarray:
        brightness, contrast, saturation = (1 + self.recolour * (2 * number - 1) for number in draws)
        # One affine map of the colours: saturation mixes with grey, contrast turns about middle grey, then brightness.
        mixing = brightness * contrast * (saturation * np.eye(3) + (1 - saturation) * _LUMA)
        shift = np.full((3, 1), brightness * (1 - contrast) * 127.5)
        return cv2.transform(image, np.hstack([mixing, shift]))

    def _erase(self, image: np.ndarray, edge: float, left: float, top: float) -> None:
        least, most = ERASED_EDGE
        pixels = round(self.size * (least + (most - least) * edge))
        x, y = (int((self.size - pixels + 1) * share) for share in (left, top))
        image[y : y + pixels, x : x + pixels] = _ERASED_TO
