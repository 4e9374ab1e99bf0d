"""What is behind the flowers."""

import cv2
import numpy as np

from horovod_flowers.data.drawing.blossom import SHIFT, Pose, fixed
from horovod_flowers.data.drawing.colours import Random, greens, hsv, near, pick, square, tint
from horovod_flowers.data.drawing.greenery import paint_blades, paint_leaves

# How likely each background is behind each kind, more or less as people photograph them: sky, foliage out of focus,
# soil, grass, wall, dark studio, water, hedge.
BACKGROUNDS = (
    (0.10, 0.28, 0.10, 0.32, 0.06, 0.04, 0.02, 0.08),
    (0.10, 0.26, 0.16, 0.20, 0.08, 0.08, 0.04, 0.08),
    (0.14, 0.24, 0.12, 0.22, 0.10, 0.06, 0.06, 0.06),
    (0.36, 0.24, 0.04, 0.08, 0.12, 0.06, 0.04, 0.06),
    (0.06, 0.26, 0.05, 0.04, 0.18, 0.18, 0.03, 0.20),
)


def clouds(random: Random, size: int, cells: int, colours: np.ndarray) -> np.ndarray:
    """Smooth noise with `cells` bumps across, coloured along `colours` [n, 3]: uint8 [size, size, 3]."""
    grid = random.integers(0, 256, (cells, cells), np.uint8)
    field = cv2.resize(grid, (size, size), interpolation=cv2.INTER_CUBIC)
    return tint(field, colours)


def background(random: Random, flower: int, size: int) -> np.ndarray:
    """What is behind the flowers: uint8 [size, size, 3]."""
    kind = pick(random, BACKGROUNDS[flower])
    if kind == 0:
        canvas = sky(random, size)
    elif kind == 1:
        canvas = bokeh(random, size)
    elif kind == 2:
        canvas = soil(random, size)
    elif kind == 3:
        canvas = clouds(random, size, int(random.integers(3, 9)), greens(random))
        paint_blades(canvas, random, size, int(random.integers(15, 45)), random.uniform(0.6, 1.0))
    elif kind == 4:
        canvas = wall(random, size)
    elif kind == 5:
        dark = hsv(random.uniform(0, 360), random.uniform(0, 0.5), 1)
        canvas = clouds(random, size, 3, np.stack([dark * 0.02, dark * random.uniform(0.08, 0.25)]))
    elif kind == 6:
        canvas = water(random, size)
    else:
        canvas = clouds(random, size, 4, greens(random) * 0.7)
        paint_leaves(canvas, random, size, int(random.integers(8, 20)))
    if random.random() < 0.1:
        canvas = with_distractors(random, canvas)
    if kind not in (1, 5) and random.random() < 0.6:
        side = 1 + int(random.uniform(0.012, 0.05) * size)
        canvas = cv2.blur(cv2.blur(canvas, (side, side)), (side, side))
    return canvas


def sky(random: Random, size: int) -> np.ndarray:
    """A sky gradient with clouds, often above a field."""
    hue, pale = random.uniform(195, 225), random.uniform(0.05, 0.3)
    top, low = hsv(hue, random.uniform(0.2, 0.75), random.uniform(0.6, 0.95)), hsv(hue, pale, random.uniform(0.75, 1))
    rows = np.linspace(0, 1, 48)[:, None, None]
    small: np.ndarray = np.broadcast_to(top + (low - top) * rows, (48, 48, 3)).astype(np.uint8)
    small = cv2.addWeighted(small, 0.85, clouds(random, 48, 5, np.array([[90, 100, 120], [255, 255, 255]])), 0.15, 10)
    horizon = int(48 * random.uniform(0.35, 1.3))
    field = clouds(random, 48, 7, greens(random))
    if horizon < 48:
        small[horizon:] = field[horizon:]
    return cv2.resize(cv2.blur(small, (3, 3)), (size, size), interpolation=cv2.INTER_LINEAR)


def bokeh(random: Random, size: int) -> np.ndarray:
    """Foliage far out of focus, with discs of light."""
    shades = greens(random)
    if random.random() < 0.25:
        shades = shades * 0.6 + near(random, random.uniform(0, 360), 0.4, 0.7) * np.linspace(0, 0.5, 4)[:, None]
    small = clouds(random, 90, int(random.integers(3, 8)), shades)
    spots = random.random((int(random.integers(4, 22)), 4))
    for x, y, r, tone in spots:
        colour = shades[-1] * (0.5 + tone) + 20 * tone
        layer = small.copy()
        cv2.circle(layer, (int(90 * x), int(90 * y)), int(3 + 9 * r), np.minimum(colour, 255).tolist(), -1, cv2.LINE_AA)
        cv2.addWeighted(small, 0.6, layer, 0.4, 0, small)
    small = cv2.blur(small, square(random, 1, 6))
    return cv2.resize(small, (size, size), interpolation=cv2.INTER_LINEAR)


def soil(random: Random, size: int) -> np.ndarray:
    """Earth, gravel or sand with crumbs and dry bits."""
    brown = near(random, random.uniform(18, 42), random.uniform(0.15, 0.5), random.uniform(0.3, 0.65))
    shades = np.stack([brown * 0.45, brown, np.minimum(brown * 1.35, 255)])
    coarse = clouds(random, size, int(random.integers(5, 14)), shades)
    fine = clouds(random, size, int(random.integers(45, 90)), shades)
    canvas = cv2.addWeighted(coarse, 0.5, fine, 0.5, 0)
    if random.random() < 0.4:
        paint_blades(canvas, random, size, int(random.integers(3, 14)), 0.7)
    return canvas


def wall(random: Random, size: int) -> np.ndarray:
    """Plaster, planks or bricks."""
    tone = hsv(random.uniform(0, 360), random.uniform(0, 0.4), random.uniform(0.35, 0.97))
    canvas = clouds(random, size, int(random.integers(3, 40)), np.stack([tone * 0.85, np.minimum(tone * 1.06, 255)]))
    pattern, courses, line = random.random(), int(random.integers(4, 11)), (tone * random.uniform(0.6, 0.85)).tolist()
    thick = max(1, size // 120)
    if pattern < 0.6:
        for course in range(1, courses):
            y = course * size // courses
            cv2.line(canvas, (0, y), (size, y), line, thick)
            if pattern < 0.3:
                for column in range(-1, courses // 2 + 1):
                    x = int((column + 0.5 * (course % 2)) * 2 * size / courses)
                    cv2.line(canvas, (x, y - size // courses), (x, y), line, thick)
        if pattern > 0.45:
            canvas = np.ascontiguousarray(canvas.transpose(1, 0, 2))
    return canvas


def water(random: Random, size: int) -> np.ndarray:
    """Ripples: noise stretched sideways."""
    hue, value = random.uniform(150, 225), random.uniform(0.3, 0.8)
    shades = np.stack([hsv(hue, 0.6, value * 0.5), hsv(hue, 0.45, value), hsv(hue, 0.15, min(1.0, value * 1.3))])
    grid = random.integers(0, 256, (int(random.integers(12, 40)), 5), np.uint8)
    return tint(cv2.resize(grid, (size, size), interpolation=cv2.INTER_CUBIC), shades)


def with_distractors(random: Random, canvas: np.ndarray) -> np.ndarray:
    """Blurred blossoms of no particular kind, painted coarsely and laid over `canvas`."""
    size, coarse = len(canvas), 72
    small = cv2.resize(canvas, (coarse, coarse), interpolation=cv2.INTER_AREA)
    hue = random.choice([0, 25, 48, 52, 210, 280, 330]) + random.uniform(-8, 8)
    for _ in range(int(random.integers(2, 9))):
        colour = near(random, hue, random.choice([0.1, 0.45, 0.7]), 0.8, 15)
        x, y = random.uniform(0, coarse, 2).tolist()
        radius, turn = random.uniform(2, 8), random.uniform(0, 6)
        for petal in range(5):
            angle = turn + petal * 2 * np.pi / 5
            spot = fixed(np.array([x + np.cos(angle) * radius * 0.6, y + np.sin(angle) * radius * 0.6])).tolist()
            tone = (colour * (0.8 + 0.05 * petal)).tolist()
            cv2.circle(small, spot, int(radius * 0.55 * (1 << SHIFT)), tone, -1, cv2.LINE_AA, SHIFT)
        middle = (colour * 0.6).tolist()
        cv2.circle(small, fixed(np.array([x, y])).tolist(), int(radius * 5), middle, -1, cv2.LINE_AA, SHIFT)
    small = cv2.blur(small, square(random, 2, 6))
    return cv2.resize(small, (size, size), interpolation=cv2.INTER_LINEAR)


def cast_shadows(canvas: np.ndarray, poses: list[Pose], light: np.ndarray) -> None:
    """Darken what is behind the flowers, away from the light."""
    size, coarse = len(canvas), 45
    shade: np.ndarray = np.full((coarse, coarse), 255, np.uint8)
    for pose in poses:
        x, y = pose.x - light[0] * pose.radius * 0.5, pose.y - light[1] * pose.radius * 0.6
        spot = fixed(np.array([x, y]) * coarse / size).tolist()
        cv2.circle(shade, spot, int(pose.radius * 0.75 * coarse / size * (1 << SHIFT)), 175.0, -1, cv2.LINE_AA, SHIFT)
    shade = cv2.resize(cv2.blur(shade, (7, 7)), (size, size), interpolation=cv2.INTER_LINEAR)
    cv2.multiply(canvas, cv2.merge([shade, shade, shade]), canvas, 1 / 255)
