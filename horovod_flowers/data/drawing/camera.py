"""Between the flowers and the picture: things in front, light, exposure, blur and noise."""

import cv2
import numpy as np

from horovod_flowers.data.drawing.colours import Random, near, pick, square


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
