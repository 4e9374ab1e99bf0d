"""How each kind of flower grows: petals, discs, seed heads, and the colours they come in."""

from collections.abc import Callable, Sequence

import numpy as np

from horovod_flowers.data.drawing.blossom import GOLDEN_ANGLE, Blossom, Disc, Mesh, SeedHead
from horovod_flowers.data.drawing.colours import Random, hsv, near, pick, rgb

# The colours a kind comes in: how likely, hue in degrees, saturation, value.
DAISIES = (  # white, bluish, pale pink, pink, yellow, lilac, orange
    (0.56, 50, 0.03, 0.97),
    (0.14, 210, 0.05, 0.95),
    (0.1, 330, 0.22, 0.95),
    (0.05, 338, 0.5, 0.9),
    (0.07, 50, 0.72, 0.97),
    (0.05, 275, 0.32, 0.88),
    (0.03, 18, 0.75, 0.93),
)
SUNFLOWERS = (  # yellow, lemon, orange, red-brown, cream
    (0.58, 46, 0.9, 0.97),
    (0.14, 52, 0.65, 0.98),
    (0.16, 36, 0.93, 0.93),
    (0.08, 14, 0.85, 0.68),
    (0.04, 50, 0.25, 0.97),
)
TULIPS = (  # red, pink, yellow, white, purple, orange
    (0.2, 355, 0.88, 0.85),
    (0.2, 335, 0.6, 0.93),
    (0.16, 50, 0.82, 0.96),
    (0.08, 45, 0.07, 0.96),
    (0.2, 290, 0.5, 0.6),
    (0.16, 22, 0.85, 0.95),
)
ROSES = (  # red, pink, white, yellow, peach, mauve, dark red
    (0.34, 352, 0.88, 0.75),
    (0.25, 340, 0.48, 0.95),
    (0.15, 45, 0.08, 0.97),
    (0.06, 48, 0.62, 0.97),
    (0.07, 20, 0.5, 0.97),
    (0.04, 315, 0.45, 0.75),
    (0.09, 355, 0.9, 0.45),
)


def variety(random: Random, colours: Sequence[tuple[float, float, float, float]]) -> tuple[float, float, float]:
    """The hue, saturation and value of one of `colours`, a table like those above."""
    return colours[pick(random, [row[0] for row in colours])][1:]


def ray_petals(
    random: Random,
    *,
    count: int,
    inner: float,
    length: float,
    width: float,
    profile: np.ndarray,
    cup: float,
    curl: float,
    crease: float = 0.3,
    mess: float = 1.0,
    columns: int = 2,
    offset: float = 0.0,
) -> np.ndarray:
    """Petals [count, rows + 1, columns + 1, 3] that stand around the middle like rays.

    `profile` [rows + 1] is the relative half width from base to tip, `cup` the slope (radians) at the base and `curl`
    what is added to it up to the tip; `crease` lifts the sides; `mess` scales how much petals differ.
    """
    rows = len(profile) - 1
    along = np.sin(np.linspace(0, np.pi / 2, rows + 1))  # closer rows at the tip, where the outline bends most
    across = np.linspace(-1, 1, columns + 1)
    jitter = random.normal(0, 1, (6, count, 1)) * mess
    angle = 2 * np.pi * (np.arange(count)[:, None] + offset + 0.16 * jitter[0]) / count
    slope = cup + 0.10 * jitter[1] + (curl + 0.22 * jitter[2]) * along
    step = np.diff(along, prepend=0.0) * length * (1 + 0.07 * jitter[3])
    outwards = inner + np.cumsum(np.cos(slope) * step, 1)
    upwards = np.cumsum(np.sin(slope) * step, 1)
    half = width * profile * (1 + 0.12 * jitter[4])
    side = half[:, :, None] * across
    x = outwards[:, :, None] + np.zeros_like(side)
    z = upwards[:, :, None] + crease * half[:, :, None] * across**2 + 0.35 * jitter[5][:, :, None] * side
    c, s = np.cos(angle)[:, :, None], np.sin(angle)[:, :, None]
    return np.stack([x * c - side * s, x * s + side * c, z], -1).astype(np.float32)


def wrap_petals(
    *, angle: np.ndarray, radius: np.ndarray, height: np.ndarray, span: np.ndarray, drop: np.ndarray, columns: int
) -> np.ndarray:
    """Petals [petals, rows + 1, columns + 1, 3] that wrap around the flower's axis, as in a cup.

    `angle` [petals] is where a petal's middle is, `radius`, `height` and `span` (half, radians) are [petals, rows + 1]
    from base to tip and `drop` [petals] is how much lower than its middle a petal's sides end.
    """
    across = np.linspace(-1, 1, columns + 1)
    along = np.linspace(0, 1, radius.shape[1])[:, None]
    turn = angle[:, None, None] + span[:, :, None] * across
    z = height[:, :, None] - drop[:, None, None] * (along * across**2) ** 1.5
    return np.stack([radius[:, :, None] * np.cos(turn), radius[:, :, None] * np.sin(turn), z], -1).astype(np.float32)


def layered(layers: list[tuple[np.ndarray, np.ndarray]], edge: float, veins: float) -> Mesh:
    """Layers of petals, as points and colours, in one mesh: depth alone then says which is in front."""
    return Mesh(np.concatenate([p for p, _ in layers]), np.concatenate([c for _, c in layers]), edge, veins)


def petal_colours(
    random: Random, points: np.ndarray, base: np.ndarray, tip: np.ndarray, *, bend: float = 1.0, uneven: float = 0.05
) -> np.ndarray:
    """Colours [petals, rows, columns, 3] from `base` [3] to `tip` [3], a little different for each petal and stripe."""
    petals, rows, columns = points.shape[0], points.shape[1] - 1, points.shape[2] - 1
    mix = ((np.arange(rows) + 0.5) / rows)[None, :, None, None] ** bend
    whole, stripes = random.normal(0, uneven, (petals, 1, 1, 1)), random.normal(0, uneven / 2, (petals, 1, columns, 1))
    shade = 1 + whole + stripes
    return ((base + (tip - base) * mix) * shade).astype(np.float32)


# Kinds


def dandelion(random: Random) -> Blossom:
    """A yellow head of many narrow straps, or a clock of white seeds."""
    green = rgb(near(random, 95, 0.5, 0.5, 20))
    if random.random() < 0.36:
        count = int(random.integers(55, 95))
        turn = np.arange(count) * GOLDEN_ANGLE
        z = 1 - 2 * (np.arange(count) + 0.5) / count
        flat = np.sqrt(1 - z * z)
        seeds = np.stack([flat * np.cos(turn), flat * np.sin(turn), z], 1) + random.normal(0, 0.05, (count, 3))
        if random.random() < 0.35:  # the wind took some
            wind = random.normal(0, 1, 3)
            seeds = seeds[seeds @ (wind / np.linalg.norm(wind)) < random.uniform(0.0, 0.7)]
        ends = seeds[:, None] + random.normal(0, 0.16, (len(seeds), 12, 3))
        grey = near(random, random.uniform(20, 220), 0.1, 0.93)
        core = near(random, 45, 0.45, 0.45, 20)
        clock = SeedHead(seeds.astype(np.float32), ends.astype(np.float32), rgb(grey), rgb(core))
        return Blossom([clock], tilts=(0.3, 1.6), stem=0.05, leaf="toothed", upright=True, green=green)
    hue = random.uniform(43, 57)
    tip, base = near(random, hue, 0.86, 0.97), near(random, hue - 9, 0.95, 0.82)
    strap = np.array([0.45, 0.85, 1.0, 0.6])
    opening = random.uniform(0.0, 0.5)
    straps = []
    layers = int(random.integers(5, 7))
    slim = random.uniform(0.036, 0.05)
    for layer in range(layers):
        share = layer / (layers - 1)
        count = int(random.integers(34, 44) * (1 - 0.5 * share))
        points = ray_petals(
            random,
            count=count,
            inner=0.08 * (1 - share),
            length=0.92 - 0.68 * share,
            width=slim * (1 - 0.15 * share),
            profile=strap,
            cup=0.05 + opening + share * 0.75,
            curl=0.35 - opening * 0.5,
            crease=0.5,
            mess=1.5,
            columns=1,
            offset=random.random(),
        )
        # Straps differ in brightness instead of having edges: they are too narrow for lines.
        low, high = base * (0.72 + 0.16 * share), tip * (0.88 + 0.12 * share)
        colours = petal_colours(random, points, low, high, bend=0.7, uneven=0.1)
        straps.append((points, colours))
    head = layered(straps, edge=1.0, veins=1.0)
    return Blossom([head], tilts=(0.0, 1.15), base=-0.05, stem=0.07, leaf="toothed", green=green)


def daisy(random: Random) -> Blossom:
    """A ring or two of slim petals around a yellow dome."""
    hue, saturation, value = variety(random, DAISIES)
    tip = near(random, hue, saturation, value)
    base = tip * random.uniform(0.72, 0.95) if random.random() < 0.7 else near(random, hue, saturation * 0.4, 0.9)
    count = int(random.integers(10, 31))
    layers = 1 + (random.random() < 0.4)
    disc = random.uniform(0.2, 0.36)
    width = min(0.17, random.uniform(1.7, 3.0) * (0.5 + disc) / count)
    profile = np.array([0.45, 0.85, 1.0, 0.9, random.uniform(0.25, 0.6)])
    cup, curl = random.uniform(-0.15, 0.5), random.uniform(-0.7, 0.3)
    petals = []
    for layer in range(layers):
        points = ray_petals(
            random,
            count=count,
            inner=disc * 0.7,
            length=1 - disc * 0.7 - 0.1 * layer,
            width=width,
            profile=profile,
            cup=cup + 0.15 * layer,
            curl=curl,
            crease=random.uniform(-0.4, 0.5),
            mess=random.uniform(0.5, 1.2),
            offset=0.5 * layer,
        )
        petals.append((points, petal_colours(random, points, base, tip, bend=0.7, uneven=0.04)))
    yellow = near(random, 46, 0.85, 0.95)
    dome = Disc(
        radius=disc,
        height=random.uniform(0.1, 0.3),
        florets=110,
        base=(rgb(yellow * 0.86), rgb(near(random, 34, 0.9, 0.7))),
        dots=(rgb(yellow), rgb(near(random, 44, 0.85, 0.93))),
    )
    green = rgb(near(random, 90, 0.5, 0.48, 15))
    rays = layered(petals, edge=0.77, veins=0.9)
    return Blossom([rays, dome], tilts=(0.0, 1.1), base=-0.05, stem=0.05, leaf="spoon", green=green)


def sunflower(random: Random) -> Blossom:
    """Pointed petals around a big dark disc of florets."""
    hue, saturation, value = variety(random, SUNFLOWERS)
    tip = near(random, hue, saturation, value, 4)
    base = near(random, hue - 10, saturation + 0.05, value * 0.86, 4)
    if random.random() < 0.15:
        base = near(random, 12, 0.85, 0.5)
    disc = random.uniform(0.34, 0.58)
    profile = np.array([0.6, 0.95, 1.0, 0.6, 0.04])
    cup, curl = random.uniform(-0.1, 0.45), random.uniform(-0.5, 0.5)
    petals = []
    count = int(random.integers(15, 26))
    width = random.uniform(1.9, 2.7) * (0.35 + 0.5 * disc) / count * 1.5
    for layer in range(2):
        points = ray_petals(
            random,
            count=count,
            inner=disc * 0.8,
            length=(1 - disc * 0.8) * (1 - 0.14 * layer),
            width=width,
            profile=profile,
            cup=cup + 0.15 * layer,
            curl=curl,
            crease=random.uniform(-0.2, 0.6),
            mess=random.uniform(0.8, 1.8),
            offset=0.5 * layer,
        )
        petals.append((points, petal_colours(random, points, base, tip, bend=0.7, uneven=0.06)))
    dark = near(random, 26, 0.65, random.choice([0.2, 0.28, 0.36]), 8)
    middle = dark * random.uniform(0.6, 1.0) if random.random() < 0.6 else near(random, 75, 0.5, 0.42, 12)
    dome = Disc(
        radius=disc,
        height=random.uniform(0.03, 0.16),
        florets=230,
        base=(rgb(middle), rgb(dark * 0.75)),
        dots=(rgb(middle * 1.35 + 12), rgb(near(random, 32, 0.8, random.uniform(0.4, 0.72)))),
    )
    green = rgb(near(random, 92, 0.55, 0.45, 12))
    rays = layered(petals, edge=0.7, veins=0.85)
    return Blossom([rays, dome], tilts=(0.0, 1.0), base=-0.1, stem=0.1, leaf="heart", green=green)


def tulip(random: Random) -> Blossom:
    """A cup of six broad petals, closed, half open or wide open."""
    hue, saturation, value = variety(random, TULIPS)
    tip = near(random, hue, saturation, value, 8)
    kind = random.random()
    if kind < 0.3:
        base = near(random, random.choice([50, 60, 340, 20]), 0.55, 0.92)
    elif kind < 0.5:
        base, tip = tip, near(random, random.choice([48, 350, 330, 20]), random.choice([0.15, 0.7]), 0.93)
    else:
        base = tip * random.uniform(0.62, 0.9)
    opening = random.beta(1.2, 2.0)
    rows, columns = 10, 8
    along = np.sin(np.linspace(0, np.pi / 2, rows + 1))
    angle = np.arange(6) * np.pi / 3 + random.normal(0, 0.08, 6)
    outer = np.array([1, 0, 1, 0, 1, 0])
    lean = np.clip(opening + random.normal(0, 0.07, 6), 0, 1.1)[:, None]
    belly = random.uniform(0.4, 0.56)
    wide = belly * (np.sin(np.pi * np.clip(along * 0.62 + 0.06, 0, 1)) ** 0.8)
    radius = (wide - 0.13 * along**4) * (0.9 + 0.1 * outer[:, None]) + lean * 0.75 * along**2.2
    height = 1.5 * along[None] * (1 - 0.38 * lean * along) * (1 + random.normal(0, 0.03, (6, 1))) - 0.75
    point = random.uniform(1.6, 3.2)
    shape = np.minimum(0.5 + 1.4 * along, 1) * (1 - np.clip((along - 0.3) / 0.7, 0, 1) ** point) ** 0.7 + 0.06
    span = np.broadcast_to(shape * random.uniform(0.72, 0.92) / (1 + 0.5 * lean * along), (6, rows + 1))
    drop = np.full(6, random.uniform(0.0, 0.18))
    points = wrap_petals(angle=angle, radius=radius, height=height, span=span, drop=drop, columns=columns)
    colours = petal_colours(random, points, base, tip, bend=random.uniform(0.6, 1.6), uneven=0.045)
    if random.random() < 0.25:  # flames: the middle of a petal in another colour
        flame = near(random, random.choice([50, 350, 300, 40]), random.choice([0.1, 0.75]), 0.9)
        middle = np.exp(-((np.linspace(-0.875, 0.875, columns) / 0.4) ** 2))
        weight = 0.75 * middle[:, None] * np.linspace(1, 0.25, rows)[:, None, None]
        colours = colours * (1 - weight) + flame * weight
    tilts = (1.2, 1.62) if random.random() < 0.8 else (0.3, 1.0)
    stem = near(random, 92, 0.42, 0.55, 12)
    cup = Mesh(points, colours, edge=0.74, veins=0.955)
    return Blossom([cup], tilts=tilts, base=-0.72, stem=0.09, leaf="blade", upright=True, green=rgb(stem))


def rose(random: Random) -> Blossom:
    """Many broad petals wound around each other, seen from above or from aside."""
    hue, saturation, value = variety(random, ROSES)
    colour = near(random, hue, saturation, value, 7)
    deep = hsv(hue - 6 if hue < 60 else hue, saturation + 0.22, value * 0.72)
    count = int(random.integers(14, 25))
    rows, columns = 5, 8
    along = np.sin(np.linspace(0, np.pi / 2, rows + 1))
    share = np.linspace(1, 0, count)[:, None]  # 1 is the outermost petal
    bloom = random.uniform(0.3, 1.0)  # a bud opens
    angle = np.arange(count) * (GOLDEN_ANGLE + random.normal(0, 0.05)) + random.normal(0, 0.12, count)
    reach = 0.10 + (0.42 + 0.45 * bloom) * share ** random.uniform(0.8, 1.1) * (1 + random.normal(0, 0.05, (count, 1)))
    foot = 0.06 + 0.2 * share
    flare = share**1.5 * bloom
    radius = foot + (reach - foot) * along ** (0.7 + 0.5 * flare)
    radius = radius + 0.07 * share * (along > 0.99)  # the rim rolls outwards
    tall = 0.95 - 0.62 * flare - 0.1 * share + random.normal(0, 0.03, (count, 1))
    height = tall * along * (1 - 0.25 * flare * along) - 0.07 * share * (along > 0.99) - 0.4
    shape = (0.75 + 0.3 * along) * (1 - 0.42 * np.clip((along - 0.55) / 0.45, 0, 1) ** 2.5)
    span, drop = (0.66 + 0.5 * (1 - share)) * shape, 0.1 + 0.2 * share[:, 0]
    points = wrap_petals(angle=angle, radius=radius, height=height, span=span, drop=drop, columns=columns)
    # Wavy rims: each petal is pushed in and out along its width.
    pace, phase = random.uniform(0.6, 1.4, (count, 1)), random.uniform(0, 6, (count, 1))
    wave = np.sin(np.linspace(-3, 3, columns + 1) * pace + phase)
    points[..., :2] *= 1 + (0.05 * along[:, None] ** 2 * wave[:, None])[..., None].astype(np.float32)
    colours = petal_colours(random, points, deep * 0.7, colour, bend=0.7, uneven=0.05)
    colours *= (0.66 + 0.34 * share**0.6)[:, :, None, None]
    colours[:, -1] = np.minimum(colours[:, -1] * random.uniform(1.02, 1.22), 255)
    tilts = (0.0, 0.8) if random.random() < 0.65 else (0.8, 1.45)
    sepal = np.array([0.9, 1, 0.6, 0.05])
    sepals = ray_petals(
        random, count=5, inner=0.05, length=0.62, width=0.12, profile=sepal, cup=random.uniform(-0.2, 0.6), curl=-0.4
    )
    sepals[..., 2] -= 0.42
    green = near(random, 105, 0.45, 0.36, 15)
    heart = rgb(deep * 0.42)
    parts: list[Mesh | Disc | SeedHead] = [
        Mesh(sepals, petal_colours(random, sepals, green * 0.8, green)),
        Disc(0.3, 0.0, 0, (heart, heart), (heart, heart)),  # what is seen between the petals
        Mesh(points, colours, edge=0.76, veins=1.0),
    ]
    upright = random.random() < 0.6
    return Blossom(parts, tilts=tilts, base=-0.42, stem=0.08, leaf="oval", upright=upright, green=rgb(green))


GROWERS: tuple[Callable[[Random], Blossom], ...] = (dandelion, daisy, tulip, sunflower, rose)  # in class order
