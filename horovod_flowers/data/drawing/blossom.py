"""What a blossom is made of, and how it is painted in any pose.

A blossom is a handful of small surface meshes in its own space: the x-y plane is the plane of the open flower, z points
out of its face, and the flower reaches about 1 from the origin. It is turned in space, projected without perspective,
shaded by a light and painted back to front, one flat quadrilateral after the other. That gives petals their gradients
and folds for the price of a few hundred small convex polygons.

Everything random is decided while a blossom is grown (kinds.py); painting is deterministic.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from horovod_flowers.data.drawing.colours import Colour, rgb

SHIFT = 4  # polygons are handed to OpenCV in sixteenths of a pixel
GOLDEN_ANGLE = np.pi * (3 - np.sqrt(5))


@dataclass(frozen=True)
class Pose:
    """Where a blossom is and how it is turned; lengths are in canvas pixels."""

    x: float
    y: float
    radius: float
    rotation: np.ndarray  # [3, 3], from flower space to the screen: x right, y down, z towards the viewer


@dataclass(frozen=True)
class Mesh:
    """Petals as surfaces: `points` float32 [petals, rows + 1, columns + 1, 3], `colours` [petals, rows, columns, 3]."""

    points: np.ndarray
    colours: np.ndarray
    edge: float = 0.72  # brightness of the line around a petal; 1 leaves it out
    veins: float = 0.9  # brightness of the lines along a petal; 1 leaves them out


@dataclass(frozen=True)
class Disc:
    """The domed middle of a daisy or a sunflower, covered with florets on a phyllotaxis spiral."""

    radius: float
    height: float
    florets: int
    base: tuple[Colour, Colour]  # middle, rim
    dots: tuple[Colour, Colour]  # middle, rim


@dataclass(frozen=True)
class SeedHead:
    """A dandelion clock: `seeds` float32 [seeds, 3] are directions, `fans` [seeds, filaments, 3] ends of filaments."""

    seeds: np.ndarray
    fans: np.ndarray
    colour: Colour
    core: Colour


@dataclass(frozen=True)
class Blossom:
    """One variety of one kind, ready to be painted in any pose."""

    parts: list[Mesh | Disc | SeedHead]
    tilts: tuple[float, float]  # from least to most, radians: 0 is seen from above, pi / 2 from aside
    base: float = 0.0  # height (flower space) at which the stem begins
    stem: float = 0.06  # width of the stem
    leaf: str = "blade"
    upright: bool = False  # grows upwards: only a little roll
    green: Colour = (70.0, 120.0, 50.0)


def rotation(tilt: float, roll: float, spin: float) -> np.ndarray:
    """The matrix [3, 3] that spins a flower around its axis, tilts its face upwards and rolls it in the picture."""
    ct, st, cr, sr, cs, ss = np.cos(tilt), np.sin(tilt), np.cos(roll), np.sin(roll), np.cos(spin), np.sin(spin)
    around = np.array([[cs, -ss, 0], [ss, cs, 0], [0, 0, 1]])
    upwards = np.array([[1, 0, 0], [0, ct, -st], [0, st, ct]])
    within = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
    return (within @ upwards @ around).astype(np.float32)


def fixed(points: np.ndarray) -> np.ndarray:
    """Pixel positions as the fixed-point numbers OpenCV draws with."""
    return np.rint(points * (1 << SHIFT)).astype(np.int32)


def paint_mesh(canvas: np.ndarray, mesh: Mesh, pose: Pose, light: np.ndarray, ambient: float) -> None:
    """Shade `mesh` and paint its petals from the farthest to the nearest."""
    points, colours = mesh.points, mesh.colours
    if pose.radius < 60 and points.shape[2] > 4:
        points, colours = points[:, :, ::2], colours[:, :, ::2]
    if pose.radius < 42 and points.shape[1] > 4:  # too small for every row to be seen
        points = points[:, [0, *range(1 + points.shape[1] % 2, points.shape[1], 2)]]
        colours = colours[:, ::2]
    turned = points @ pose.rotation.T
    first = turned[:, 1:, 1:] - turned[:, :-1, :-1]
    second = turned[:, :-1, 1:] - turned[:, 1:, :-1]
    ax, ay, az = first[..., 0], first[..., 1], first[..., 2]
    bx, by, bz = second[..., 0], second[..., 1], second[..., 2]
    nx, ny, nz = ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx
    # The side that is seen is lit; dividing by the signed length turns a normal towards the viewer.
    length = np.copysign(np.sqrt(nx * nx + ny * ny + nz * nz) + 1e-9, nz)
    facing = (nx * light[0] + ny * light[1] + nz * light[2]) / length
    shade = ambient + (1 - ambient) * np.maximum(facing, -0.35) * 1.15
    lit = np.minimum(colours * shade[..., None], 255)

    flat = turned[..., :2] * pose.radius + np.array([pose.x, pose.y], np.float32)
    grid = fixed(flat)
    petals, rows, columns = lit.shape[:3]
    quads = np.empty((petals, rows, columns, 4, 2), np.int32)
    quads[..., 0, :], quads[..., 1, :] = grid[:, :-1, :-1], grid[:, :-1, 1:]
    quads[..., 2, :], quads[..., 3, :] = grid[:, 1:, 1:], grid[:, 1:, :-1]
    quads = quads.reshape(petals, rows * columns, 4, 2)
    lit = lit.reshape(petals, rows * columns, 3)
    tones, means = lit.tolist(), lit.mean(1)
    outline = np.ascontiguousarray(np.concatenate([grid[:, :, 0], grid[:, -1, 1:-1], grid[:, ::-1, -1]], 1))
    edges = (means * mesh.edge).tolist()
    with_edges = mesh.edge < 1 and pose.radius > 14
    with_veins = mesh.veins < 1 and pose.radius > 40
    ribs = np.ascontiguousarray(grid[:, :, 1:-1].swapaxes(1, 2))
    vein_tones = (means * mesh.veins).tolist()
    fill = cv2.fillConvexPoly
    for petal in np.argsort(turned[..., 2].reshape(petals, -1).mean(1), kind="stable"):
        for quad, tone in zip(quads[petal], tones[petal], strict=True):
            fill(canvas, quad, tone, cv2.LINE_8, SHIFT)
        if with_veins:
            cv2.polylines(canvas, list(ribs[petal]), False, vein_tones[petal], 1, cv2.LINE_8, SHIFT)
        if with_edges:
            cv2.polylines(canvas, [outline[petal]], False, edges[petal], 1, cv2.LINE_AA, SHIFT)


def paint_disc(canvas: np.ndarray, disc: Disc, pose: Pose, light: np.ndarray) -> None:
    """Paint a dome as nested ellipses and its florets as dots."""
    axis = pose.rotation[:, 2]
    squeeze = max(float(axis[2]), 0.12)
    angle = float(np.degrees(np.arctan2(axis[1], axis[0]))) + 90
    middle, rim = np.array(disc.base[0]), np.array(disc.base[1])
    scale = pose.radius * disc.radius
    for step in range(5):
        share = 1 - step / 5
        lift = disc.height * (1 - share**2) * pose.radius * 0.9
        x = pose.x + axis[0] * lift + light[0] * scale * 0.05 * step
        y = pose.y + axis[1] * lift + light[1] * scale * 0.05 * step
        tone = (middle + (rim - middle) * share**2) * (0.72 + 0.07 * step)
        size = fixed(np.array([scale * share, scale * share * (squeeze + (1 - squeeze) * 0.25)]))
        spot = fixed(np.array([x, y])).tolist()
        cv2.ellipse(canvas, spot, size.tolist(), angle, 0, 360, tone.tolist(), -1, cv2.LINE_AA, SHIFT)
    florets = int(min(disc.florets, 0.25 * scale * scale))  # no more than can be told apart
    if florets < 8:
        return
    index = np.arange(florets) + 0.5
    out = np.sqrt(index / florets)
    turn = index * GOLDEN_ANGLE
    across, dome = disc.radius * 0.97 * out, disc.height * (1 - out**2)
    spots = np.stack([across * np.cos(turn), across * np.sin(turn), dome], 1) @ pose.rotation.T
    where = fixed(spots[:, :2] * pose.radius + (pose.x, pose.y)).tolist()
    inside, outside = np.array(disc.dots[0]), np.array(disc.dots[1])
    side = (spots[:, :2] / disc.radius) @ light[:2]
    wave = 1 + 0.12 * np.cos(index * 2.1)
    tones = (inside + (outside - inside) * out[:, None] ** 2) * ((0.9 + 0.25 * side) * wave)[:, None]
    dot = int(fixed(np.array(0.62 * scale / np.sqrt(florets))))
    for place, tone in zip(where, np.minimum(tones, 255).tolist(), strict=True):
        cv2.circle(canvas, place, dot, tone, -1, cv2.LINE_8, SHIFT)


def paint_seed_head(canvas: np.ndarray, head: SeedHead, pose: Pose) -> None:
    """Paint a clock of seeds: translucent fluff, the far half dimmer than the near one."""
    size = len(canvas)
    reach = pose.radius * 1.45
    left, right = int(np.clip(pose.x - reach, 0, size)), int(np.clip(pose.x + reach, 0, size))
    top, bottom = int(np.clip(pose.y - reach, 0, size)), int(np.clip(pose.y + reach, 0, size))
    if right - left < 2 or bottom - top < 2:
        return
    window = canvas[top:bottom, left:right]
    centre = np.array([pose.x - left, pose.y - top])
    seeds = head.seeds @ pose.rotation.T
    fans = head.fans @ pose.rotation.T
    # As many filaments as can be told apart.
    fans = fans[:, : 4 if pose.radius < 35 else 8 if pose.radius < 80 else 12]
    stalks = fixed(np.stack([seeds[:, :2] * 0.12, seeds[:, :2] * 0.82], 1) * pose.radius + centre)
    starts = np.broadcast_to(seeds[:, None, :2] * 0.82, fans[..., :2].shape)
    hairs = fixed(np.stack([starts, fans[..., :2]], 2) * pose.radius + centre)
    colour = np.array(head.colour)
    layer = window.copy()
    spot = fixed(centre).tolist()
    if pose.radius < 50:  # what the missing filaments would add up to
        cv2.circle(layer, spot, int(fixed(np.array(pose.radius * 0.9))), rgb(colour * 0.85), -1, cv2.LINE_AA, SHIFT)
        cv2.addWeighted(window, 0.75, layer, 0.25, 0, layer)
    far = seeds[:, 2] < 0
    for half, tone in ((far, 0.72), (~far, 1.0)):
        cv2.polylines(layer, list(stalks[half]), False, (colour * tone * 0.8).tolist(), 1, cv2.LINE_AA, SHIFT)
        lines = hairs[half].reshape(-1, 2, 2)
        cv2.polylines(layer, list(lines), False, (colour * tone).tolist(), 1, cv2.LINE_AA, SHIFT)
        if tone < 1:
            core = int(fixed(np.array(pose.radius * 0.15)))
            cv2.circle(layer, spot, core, head.core, -1, cv2.LINE_AA, SHIFT)
    cv2.addWeighted(window, 0.15, layer, 0.85, 0, window)


def paint_blossom(canvas: np.ndarray, blossom: Blossom, pose: Pose, light: np.ndarray, ambient: float) -> None:
    """Paint `blossom` on `canvas` (uint8 [n, n, 3], changed in place); `light` [3] points to where the light is."""
    for part in blossom.parts:
        if isinstance(part, Mesh):
            paint_mesh(canvas, part, pose, light, ambient)
        elif isinstance(part, Disc):
            paint_disc(canvas, part, pose, light)
        else:
            paint_seed_head(canvas, part, pose)
