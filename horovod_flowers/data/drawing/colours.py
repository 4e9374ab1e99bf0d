"""Colours and chance: RGB in 0..255, and what is drawn from a generator."""

import colorsys
from collections.abc import Sequence

import cv2
import numpy as np

Random = np.random.Generator
Colour = tuple[float, float, float]


def hsv(hue: float, saturation: float, value: float) -> np.ndarray:
    """The RGB colour [3] in 0..255 for a hue in degrees and a saturation and value in 0..1."""
    red, green, blue = colorsys.hsv_to_rgb((hue % 360) / 360, min(max(saturation, 0), 1), min(max(value, 0), 1))
    return np.array([red, green, blue], np.float32) * 255


def near(random: Random, hue: float, saturation: float, value: float, hue_spread: float = 6) -> np.ndarray:
    """A colour [3] close to the given one."""
    shift = random.uniform(-1, 1, 3)
    return hsv(hue + hue_spread * shift[0], saturation + 0.1 * shift[1], value + 0.07 * shift[2])


def pick(random: Random, weights: Sequence[float]) -> int:
    """A position in `weights`, each as likely as its weight (much faster than Generator.choice for a few)."""
    point = random.random() * sum(weights)
    for position, weight in enumerate(weights):
        point -= weight
        if point < 0:
            return position
    return len(weights) - 1


def rgb(colour: np.ndarray) -> Colour:
    """A colour [3] as the plain numbers OpenCV takes."""
    red, green, blue = colour.tolist()
    return red, green, blue


def tint(field: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """Replace the grey levels of `field` [h, w] with colours between those in `colours` [n, 3]."""
    stops = np.linspace(0, 255, len(colours))
    table = np.stack([np.interp(np.arange(256), stops, colours[:, channel]) for channel in range(3)], 1)
    return cv2.applyColorMap(field, np.clip(table, 0, 255).astype(np.uint8)[:, None])


def greens(random: Random, number: int = 4) -> np.ndarray:
    """Shades of foliage from dark to light: [number, 3]."""
    hue, saturation = random.uniform(65, 145), random.uniform(0.25, 0.7)
    low, high = random.uniform(0.08, 0.3), random.uniform(0.4, 0.75)
    return np.stack([hsv(hue - 25 * s, saturation, low + (high - low) * s) for s in np.linspace(0, 1, number)])


def square(random: Random, low: int, high: int) -> tuple[int, int]:
    """The size of a blur, `low` to `high` - 1 both ways."""
    side = int(random.integers(low, high))
    return side, side
