"""Drawn pictures of five kinds of flowers: a stand-in for the tf_flowers photos that needs no file and no download.

A picture is a scene: a background, one to six blossoms of one kind with their stems and leaves, things in front of
them, light and a camera. The kinds share colours, backgrounds and clutter, so that a network has to learn their shapes.
"""

import cv2
import numpy as np

from horovod_flowers.data.drawing.background import background, cast_shadows
from horovod_flowers.data.drawing.blossom import Blossom, Pose, paint_blossom, rotation
from horovod_flowers.data.drawing.camera import photograph
from horovod_flowers.data.drawing.colours import Random, pick
from horovod_flowers.data.drawing.greenery import paint_blades, paint_greenery
from horovod_flowers.data.drawing.kinds import GROWERS

CLASSES = ("dandelion", "daisy", "tulips", "sunflowers", "roses")

VERSION = 1
"""Raised whenever the drawings change; a part of the identity of data prepared from them."""
OVERSAMPLING = 1.5
SMALLEST_CANVAS = 144


def label(index: int) -> int:
    """The class of picture `index`, a position in CLASSES: the kinds take turns."""
    return index % len(CLASSES)


def draw(seed: int, index: int, size: int) -> np.ndarray:
    """Draw picture `index` of the set `seed`: uint8 [size, size, 3], RGB.

    The arguments alone determine the pixels. The scene does not depend on `size`, only how finely it is drawn does.
    """
    random = np.random.default_rng([seed, index])
    canvas = max(round(size * OVERSAMPLING), SMALLEST_CANVAS)
    picture = draw_scene(random, label(index), canvas)
    # The scene is slightly blurred: averaging, three times slower, pays only where many pixels become one.
    method = cv2.INTER_LINEAR if canvas <= size * OVERSAMPLING + 1 else cv2.INTER_AREA
    return photograph(random, cv2.resize(picture, (size, size), interpolation=method))


def draw_scene(random: Random, kind: int, size: int) -> np.ndarray:
    """Background, flowers and what is in front of them: uint8 [size, size, 3]."""
    canvas = background(random, kind, size)
    side = random.normal(0, 0.55)
    light = np.array([side, -random.uniform(0.15, 0.8), random.uniform(0.5, 1.0)], np.float32)
    light /= np.linalg.norm(light)
    ambient = random.uniform(0.6, 0.85)

    grow = GROWERS[kind]
    varieties = [grow(random)]
    number = 1 + pick(random, [0.62, 0.15, 0.1, 0.06, 0.04, 0.03])
    if number > 1 and random.random() < 0.35:
        varieties.append(grow(random))
    poses = place(random, number, [varieties[n % len(varieties)] for n in range(number)], size)
    soft = random.random() < 0.4  # the farther flowers are out of focus
    cast_shadows(canvas, poses, light)
    for n, pose in enumerate(poses):
        blossom = varieties[n % len(varieties)]
        paint_greenery(canvas, random, blossom, pose, size)
        paint_blossom(canvas, blossom, pose, light, ambient)
        if soft and n == len(poses) - 2:
            amount = random.uniform(0.4, 1.1) * size / 180
            canvas = cv2.GaussianBlur(canvas, (0, 0), amount)
    if random.random() < 0.25:
        paint_blades(canvas, random, size, int(random.integers(1, 7)), 1.0)
    return cv2.GaussianBlur(canvas, (3, 3), 0.7)  # no lens shows the edges of polygons


def place(random: Random, number: int, blossoms: list[Blossom], size: int) -> list[Pose]:
    """Poses for `number` flowers, the smallest (farthest) first, apart from each other where there is room."""
    if number == 1:
        largest = random.uniform(0.34, 0.62)
        spread = 0.45 - 0.33 * min(largest, 0.45) / 0.45
    else:
        largest = random.uniform(0.26, 0.42) * (1.1 - 0.06 * number)
        spread = 0.42
    radii = np.sort(largest * np.concatenate([[1.0], random.uniform(0.6, 1.0, number - 1)]))
    placed: list[tuple[float, float, float]] = []
    poses = []
    for radius, blossom in zip(radii, blossoms, strict=True):
        candidates = 0.5 + spread * random.uniform(-1, 1, (5, 2))
        if placed:
            others = np.array(placed)
            gaps = np.hypot(*(candidates[:, None] - others[:, :2]).transpose(2, 0, 1)) / (radius + others[:, 2])
            x, y = candidates[np.argmax(np.minimum(gaps.min(1), 1.1))]
        else:
            x, y = candidates[0]
        placed.append((x, y, radius))
        roll = random.normal(0, 0.2 if blossom.upright else 0.6)
        matrix = rotation(random.uniform(*blossom.tilts), roll, random.uniform(0, 2 * np.pi))
        poses.append(Pose(x * size, y * size, radius * size, matrix))
    return poses
