"""Stems, leaves and blades of grass."""

import cv2
import numpy as np

from horovod_flowers.data.drawing.blossom import SHIFT, Blossom, Pose, fixed
from horovod_flowers.data.drawing.colours import Random, greens


def ribbon(spine: np.ndarray, widths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The two halves [..., 2 n, 2] of leaves with `spine` [..., n, 2] and half widths `widths` [..., n], in pixels."""
    along = np.empty_like(spine)
    along[..., 1:-1, :] = spine[..., 2:, :] - spine[..., :-2, :]
    along[..., 0, :], along[..., -1, :] = spine[..., 1, :] - spine[..., 0, :], spine[..., -1, :] - spine[..., -2, :]
    length = np.hypot(along[..., 0], along[..., 1]) + 1e-6
    normal = along[..., ::-1] * np.array([-1, 1]) * (widths / length)[..., None]
    back = spine[..., ::-1, :]
    return np.concatenate([spine + normal, back], -2), np.concatenate([spine - normal, back], -2)


def curve(start: np.ndarray, middle: np.ndarray, end: np.ndarray, steps: int = 10) -> np.ndarray:
    """Points [..., steps, 2] of quadratic Bézier curves between `start` [..., 2] and `end`, drawn towards `middle`."""
    t = np.linspace(0, 1, steps)[:, None]
    return (1 - t) ** 2 * start[..., None, :] + 2 * t * (1 - t) * middle[..., None, :] + t**2 * end[..., None, :]


def paint_leaf(canvas: np.ndarray, spine: np.ndarray, widths: np.ndarray, colour: np.ndarray) -> None:
    """A leaf with a light and a dark half and a pale midrib."""
    for half, tone in zip(ribbon(spine, widths), (0.82, 1.08), strict=True):
        cv2.fillPoly(canvas, [fixed(half)], np.minimum(colour * tone, 255).tolist(), cv2.LINE_AA, SHIFT)
    cv2.polylines(canvas, [fixed(spine)], False, np.minimum(colour * 1.25 + 10, 255).tolist(), 1, cv2.LINE_AA, SHIFT)


def paint_blades(canvas: np.ndarray, random: Random, size: int, number: int, bright: float) -> None:
    """Grass blades that grow from below the picture."""
    shades = greens(random) * bright
    x, lean, tall, width, tone, bow = random.random((6, number))
    start = np.stack([x * 1.2 - 0.1, np.full(number, 1.05)], 1) * size
    end = np.stack([x + (lean - 0.5) * 0.7, 0.75 - 0.75 * tall], 1) * size
    middle = (start + end) / 2 + np.stack([(bow - 0.5) * 0.3, np.full(number, -0.05)], 1) * size
    half = (0.004 + 0.012 * width**2)[:, None] * size * (1 - np.linspace(0, 1, 7) ** 2)
    colours = shades[1] + (shades[-1] - shades[1]) * tone[:, None]
    sides = [fixed(side) for side in ribbon(curve(start, middle, end, 7), half)]
    for left, right, dark, light in zip(*sides, (colours * 0.8).tolist(), (colours * 1.1).tolist(), strict=True):
        cv2.fillPoly(canvas, [left], dark, cv2.LINE_8, SHIFT)
        cv2.fillPoly(canvas, [right], light, cv2.LINE_8, SHIFT)


def paint_leaves(canvas: np.ndarray, random: Random, size: int, number: int) -> None:
    """A hedge: oval leaves all over the picture."""
    shades = greens(random)
    oval = np.sin(np.linspace(0, np.pi, 10)) ** 0.8
    x, y, turn, length, tone, width = random.random((6, number))
    start = np.stack([x, y], 1) * size
    reach = (0.12 + 0.25 * length) * size
    end = start + reach[:, None] * np.stack([np.cos(turn * 2 * np.pi), np.sin(turn * 2 * np.pi)], 1)
    bow = (start + end) / 2 + (end - start)[:, ::-1] * np.array([0.15, -0.15])
    widths = oval * (reach * (0.15 + 0.2 * width))[:, None]
    colours = shades[1] + (shades[-1] - shades[1]) * tone[:, None]
    for spine, half, colour in zip(curve(start, bow, end), widths, colours, strict=True):
        paint_leaf(canvas, spine, half, colour)


def paint_greenery(canvas: np.ndarray, random: Random, blossom: Blossom, pose: Pose, size: int) -> None:
    """The stem of a blossom and, more or less, the leaves of its kind."""
    green = np.array(blossom.green) * random.uniform(0.8, 1.15)
    axis = pose.rotation[:, 2]
    start = np.array([pose.x, pose.y]) + axis[:2] * blossom.base * pose.radius
    tilt = float(np.hypot(axis[0], axis[1]))
    bend, reach, leaves = random.normal(0, 0.25), random.uniform(1.5, 4.5), int(random.integers(0, 4))
    fates = random.random((3, 4))
    if random.random() > 0.35 + 0.65 * tilt:  # the stem is behind the flower
        return
    length = reach * pose.radius
    away = -axis[:2] / max(tilt, 0.3) * 0.8 + np.array([0, 0.4])
    end = start + np.array([bend + away[0] * 0.4, 1.0]) * length
    spine = curve(start, start + away * length * 0.5, end, 12)
    half = np.linspace(0.8, 1.1, 12) * max(blossom.stem * pose.radius * 0.5, 0.7)
    left, right = ribbon(spine, half)
    cv2.fillPoly(canvas, [fixed(left)], (green * 0.78).tolist(), cv2.LINE_AA, SHIFT)
    cv2.fillPoly(canvas, [fixed(right)], np.minimum(green * 1.12, 255).tolist(), cv2.LINE_AA, SHIFT)
    along = np.linspace(0, 1, 14)
    for where, lean, width, extent in fates[:leaves]:
        side = 1 if lean > 0.5 else -1
        root = spine[3 + int(where * 8)]
        if blossom.leaf == "blade":
            root = spine[-1]
            tip = root + np.array([side * (0.5 + lean), -1.6 - 1.4 * extent]) * pose.radius
            widths = np.sin(np.pi * along**0.8) * pose.radius * (0.1 + 0.1 * width)
        elif blossom.leaf == "toothed":
            root = spine[-1]
            tip = root + np.array([side * (0.8 + width), -0.6 - 0.8 * extent]) * pose.radius
            teeth = np.where(np.arange(14) % 2 == 0, 1.0, 0.4)
            widths = np.sin(np.pi * along**1.4) * teeth * pose.radius * 0.22
        elif blossom.leaf == "heart":
            tip = root + np.array([side * (0.7 + 0.5 * extent), 0.3 * width]) * pose.radius
            widths = np.sqrt(along) * (1 - along**2) * pose.radius * (0.45 + 0.2 * width)
        elif blossom.leaf == "oval":
            tip = root + np.array([side * (0.6 + 0.4 * extent), -0.3 + 0.5 * width]) * pose.radius
            saw = np.where(np.arange(14) % 2 == 0, 1.0, 0.88)
            widths = np.sin(np.pi * along**0.8) * saw * pose.radius * (0.2 + 0.08 * width)
        else:
            tip = root + np.array([side * (0.3 + 0.3 * extent), -0.5 * width]) * pose.radius
            widths = along * (1 - along**4) * pose.radius * 0.1
        bow = (root + tip) / 2 + np.array([side * 0.15, -0.2]) * pose.radius
        paint_leaf(canvas, curve(root, bow, tip, 14), widths, green * (0.8 + 0.4 * extent))
