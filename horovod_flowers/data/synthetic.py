"""Drawn pictures of five kinds of flowers: a stand-in for the tf_flowers photos that needs no file and no download.

A picture is a scene: a background, one to six blossoms of one kind with their stems and leaves, things in front of
them, light and a camera. The kinds share colours, backgrounds and clutter, so that a network has to learn their shapes.
"""

import cv2
import numpy as np

from horovod_flowers.data import flower_shapes
from horovod_flowers.data.flower_shapes import SHIFT, Blossom, Pose, Random, fixed, hsv, near, pick

CLASSES = ("dandelion", "daisy", "tulips", "sunflowers", "roses")

VERSION = 1
"""Raised whenever the drawings change; a part of the identity of data prepared from them."""

# How likely each background is behind each kind, more or less as people photograph them: sky, foliage out of focus,
# soil, grass, wall, dark studio, water, hedge.
BACKGROUNDS = (
    (0.10, 0.28, 0.10, 0.32, 0.06, 0.04, 0.02, 0.08),
    (0.10, 0.26, 0.16, 0.20, 0.08, 0.08, 0.04, 0.08),
    (0.14, 0.24, 0.12, 0.22, 0.10, 0.06, 0.06, 0.06),
    (0.36, 0.24, 0.04, 0.08, 0.12, 0.06, 0.04, 0.06),
    (0.06, 0.26, 0.05, 0.04, 0.18, 0.18, 0.03, 0.20),
)
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

    grow = flower_shapes.GROWERS[kind]
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
        flower_shapes.paint_blossom(canvas, blossom, pose, light, ambient)
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
        matrix = flower_shapes.rotation(random.uniform(*blossom.tilts), roll, random.uniform(0, 2 * np.pi))
        poses.append(Pose(x * size, y * size, radius * size, matrix))
    return poses


# Behind the flowers


def clouds(random: Random, size: int, cells: int, colours: np.ndarray) -> np.ndarray:
    """Smooth noise with `cells` bumps across, coloured along `colours` [n, 3]: uint8 [size, size, 3]."""
    grid = random.integers(0, 256, (cells, cells), np.uint8)
    field = cv2.resize(grid, (size, size), interpolation=cv2.INTER_CUBIC)
    return tint(field, colours)


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


def square(random: Random, low: int, high: int) -> tuple[int, int]:
    """The size of a blur, `low` to `high` - 1 both ways."""
    side = int(random.integers(low, high))
    return side, side


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


# Green things


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


# In front of the flowers: light and camera


def photograph(random: Random, picture: np.ndarray) -> np.ndarray:
    """Out-of-focus things in front, uneven light, exposure, blur and noise: uint8 like `picture` [size, size, 3]."""
    size = len(picture)
    if random.random() < 0.14:
        picture = behind_blur(random, picture)
    picture = uneven_light(random, picture)
    blur = pick(random, [0.55, 0.25, 0.2])
    strength = random.uniform(0.0, 1.0)
    if blur == 1:
        picture = cv2.GaussianBlur(picture, (0, 0), 0.3 + strength * size / 200)
    elif blur == 2:  # fewer pixels than it seems, as after strong compression
        small = max(12, round(size * (0.8 - 0.5 * strength)))
        picture = cv2.resize(cv2.resize(picture, (small, small), interpolation=cv2.INTER_AREA), (size, size))
    picture = cv2.LUT(picture, exposure(random))
    grain = (0.0, 0.03, 0.06, 0.12)[pick(random, [0.35, 0.35, 0.22, 0.08])]
    if grain:
        noise: np.ndarray = random.integers(0, 256, (size, size), np.uint8)
        noise = cv2.addWeighted(noise, 0.5, random.integers(0, 256, (size, size), np.uint8), 0.5, 0)
        picture = cv2.addWeighted(picture, 1.0, cv2.merge([noise, noise, noise]), grain, -127.5 * grain)
    return picture


def behind_blur(random: Random, picture: np.ndarray) -> np.ndarray:
    """Lay blurred blades, leaves or petals over the picture."""
    size, coarse = len(picture), 60
    layer: np.ndarray = np.zeros((coarse, coarse, 4), np.uint8)
    hue = random.choice([95, 95, 95, 80, 120, 50, 340, 0])
    for _ in range(int(random.integers(1, 4))):
        colour = near(random, hue, 0.5, random.uniform(0.25, 0.8), 15).tolist()
        edge, x, y = random.random(3)
        if hue in (50, 340, 0) or random.random() < 0.4:
            x, y = (x, 0.95 + 0.1 * y) if edge < 0.6 else (np.rint(x), y)
            axes = (int(random.integers(6, 17)), int(random.integers(5, 14)))
            cv2.ellipse(layer, (int(x * coarse), int(y * coarse)), axes, 360 * edge, 0, 360, (*colour, 235), -1)
        else:
            end = (int((x + edge - 0.5) * coarse), int(coarse * (0.1 + 0.6 * y)))
            cv2.line(layer, (int(x * coarse), coarse), end, (*colour, 235), int(random.integers(2, 6)))
    layer = cv2.resize(cv2.blur(layer, square(random, 3, 8)), (size, size))
    cover = cv2.bitwise_not(layer[..., 3])
    return cv2.add(cv2.multiply(picture, cv2.merge([cover] * 3), scale=1 / 255), np.ascontiguousarray(layer[..., :3]))


def uneven_light(random: Random, picture: np.ndarray) -> np.ndarray:
    """Vignette, light from one side and now and then a shadow across the picture."""
    size = len(picture)
    y, x = np.mgrid[-1:1:16j, -1:1:16j]
    vignette = random.uniform(0, 0.3) * (random.random() < 0.5)
    slope = random.normal(0, 0.08, 2)
    field = 1 - vignette * (x**2 + y**2) / 1.2 + slope[0] * x + slope[1] * y
    depth, angle, offset = random.uniform(0.35, 0.75), random.uniform(0, 2 * np.pi), random.uniform(-0.6, 0.6)
    if random.random() < 0.12:
        inside = np.clip((x * np.cos(angle) + y * np.sin(angle) - offset) * 3, 0, 1)
        field = field * (1 - (1 - depth) * inside)
    field = cv2.resize(np.clip(field * 170, 0, 255).astype(np.uint8), (size, size), interpolation=cv2.INTER_LINEAR)
    return cv2.multiply(picture, cv2.merge([field, field, field]), scale=1 / 170)


def exposure(random: Random) -> np.ndarray:
    """A table uint8 [1, 256, 3] with gain, contrast, gamma and colour cast."""
    gain = np.exp(random.normal(0.1, 0.1)) * np.exp(random.normal(0, 0.04, 3))
    gamma = np.exp(random.normal(-0.1, 0.12))
    contrast, haze = 1.0, 0.0
    style = random.random()
    if style < 0.07:  # mist
        contrast, haze = random.uniform(0.45, 0.75), random.uniform(0.05, 0.35)
    elif style < 0.12:  # overexposed
        gain = gain * random.uniform(1.15, 1.5)
    level = np.linspace(0, 1, 256)[:, None]
    table = (haze + contrast * level**gamma) * gain
    return np.clip(table * 255, 0, 255).astype(np.uint8)[None]
