"""Flip, crop and recolour one image by numbers drawn beforehand, so that the result is the same on any rank."""

import cv2
import numpy as np

DRAWS = 7
"""Random numbers an image: flip, crop size, crop x, crop y, brightness, contrast, saturation."""

SMALLEST_CROP = 0.75  # of the height and of the width
COLOUR_RANGE = 0.2  # brightness, contrast and saturation each vary by up to this share

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601


def augment(image: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """uint8 [s, s, 3] and DRAWS numbers in [0, 1) -> uint8 [s, s, 3]."""
    size = image.shape[0]
    flip, crop, left, top, *colour = (float(number) for number in draws)
    extent = SMALLEST_CROP + (1 - SMALLEST_CROP) * crop
    x0, y0 = (1 - extent) * left * size, (1 - extent) * top * size
    # Maps a pixel of the result to its place in the image, mirrored when flipped; pixel centres stay centres.
    mirror = flip < 0.5
    x_scale, x_shift = (-extent, x0 + extent * (size - 1)) if mirror else (extent, x0)
    transform = np.array([[x_scale, 0, x_shift], [0, extent, y0]], np.float64)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    cropped = cv2.warpAffine(
        np.ascontiguousarray(image), transform, (size, size), flags=flags, borderMode=cv2.BORDER_REFLECT
    )
    brightness, contrast, saturation = (1 + COLOUR_RANGE * (2 * number - 1) for number in colour)
    # One affine map of the colours: saturation mixes with grey, contrast turns about middle grey, brightness scales.
    mixing = brightness * contrast * (saturation * np.eye(3) + (1 - saturation) * _LUMA)
    shift = np.full((3, 1), brightness * (1 - contrast) * 127.5)
    return cv2.transform(cropped, np.hstack([mixing, shift]))
