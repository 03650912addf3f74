"""What the surfaces of varied streets look like: colours from where on a thing a ray met it (compiled by numba).

A part of a thing has a paint, a colour, numbers that the paint reads (`style`) and a shift of its texture. Edges of
painted patterns are blurred over the pixel's footprint, texture is left out where a pixel cannot resolve it, so that
what is far looks as a camera's pixels would average it. Colours are the square roots of radiances.
"""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from numba import njit

from letocc_core.data.simulator import texture

PAINTS = (
    "plain", "facade", "tiles", "leaves", "bark", "body", "glass", "wheel", "road", "pavement", "grass", "yard", "sign",
    "lamp", "planks", "cargo", "wall",
)  # fmt: skip
_ID = {name: i for i, name in enumerate(PAINTS)}
STYLES = 8  # numbers of a style

PLAIN, FACADE, TILES, LEAVES, BARK, BODY, GLASS, WHEEL, ROAD, PAVEMENT, GRASS, YARD, SIGN, LAMP, PLANKS, CARGO, WALL = (
    _ID[name] for name in PAINTS
)
_SIDE, _CELL = texture.SIDE, texture.PER_CELL


class Light(NamedTuple):
    """The sky and the sun; colours are radiances of red, green and blue, float32 [3]."""

    zenith: np.ndarray
    horizon: np.ndarray
    cloud: np.ndarray
    cover: float  # share of the sky that is clouded
    overcast: float  # 1: the sky alone lights, the zenith takes the place of the sun, else 0
    sun_direction: np.ndarray  # unit, towards the sun
    sun: np.ndarray  # what it adds to a white surface that faces it
    ambient: np.ndarray  # of a white surface that faces up, from the whole sky
    haze: float  # 1/m
    skyline: float  # sine of the elevation up to which distant houses and trees stand before the sky
    shift: float  # of clouds and skyline
    wet: float  # 0 to 1: how far the road mirrors
    lamps: float  # 1: it is dark enough for lamps and lit windows, else 0


class Wardrobe(NamedTuple):
    """How P parts are painted."""

    paint: np.ndarray  # int32 [P], index into PAINTS
    colour: np.ndarray  # float32 [P, 3]
    style: np.ndarray  # float32 [P, STYLES]
    shift: np.ndarray  # float32 [P, 3], of the texture
    contrast: np.ndarray  # float32 [P], of the texture


class Triangles(NamedTuple):
    """All triangles of a street, in the axes of the things that they belong to."""

    part: np.ndarray  # int32 [T], whose they are
    corners: np.ndarray  # float32 [T, 3, 3] m; of the ground: metres along the street, to the left of it, and up
    normal: np.ndarray  # float32 [T, 3]


def shade(
    triangle: Int[np.ndarray, "n"],
    uv: Float[np.ndarray, "n 2"],
    normal: Float[np.ndarray, "n 3"],
    distance: Float[np.ndarray, "n"],
    direction: Float[np.ndarray, "n 3"],
    pixel: float,
    sunlit: Float[np.ndarray, "n"],
    triangles: Triangles,
    wardrobe: Wardrobe,
    light: Light,
) -> Float[np.ndarray, "n 3"]:
    """Radiance that comes along rays.

    Args:
        triangle: what each meets; -1: the sky.
        uv: where on it: weights of its second and third corner.
        normal: of the surface there, world.
        distance: to the surface, in ray lengths.
        direction: away from the camera, world.
        pixel: rad, angle that a ray of length 1 stands for.
        sunlit: share of the sun (of an overcast sky: of the zenith) that reaches the surface.
    """
    out = np.empty((len(triangle), 3), np.float32)
    _shade(triangle, uv, normal, distance, direction, pixel, sunlit, triangles, wardrobe, light, texture.tile(), out)
    return out


@njit(cache=True, nogil=True, error_model="numpy", fastmath=True)
def _hash(i, j, k):
    """A number in [0, 1) for three integers."""
    h = (
        (np.uint32(i) * np.uint32(73856093))
        ^ (np.uint32(j) * np.uint32(19349663))
        ^ (np.uint32(k) * np.uint32(83492791))
    )
    h = (h ^ (h >> np.uint32(13))) * np.uint32(1274126177)
    h = np.uint32(h ^ (h >> np.uint32(16)))
    return np.float32(h & np.uint32(0xFFFFFF)) / np.float32(16777216.0)


@njit(cache=True, nogil=True, error_model="numpy", fastmath=True)
def _noise(tile, x, y, z):
    """Smooth noise of unit variance; its cells are 1 long."""
    x, y, z = x * _CELL, y * _CELL, z * _CELL
    i, j, k = math.floor(x), math.floor(y), math.floor(z)
    a, b, c = x - i, y - j, z - k
    m = _SIDE - 1
    i0, j0, k0 = int(i) & m, int(j) & m, int(k) & m
    i1, j1, k1 = (i0 + 1) & m, (j0 + 1) & m, (k0 + 1) & m
    r00, r01 = (i0 * _SIDE + j0) * _SIDE, (i0 * _SIDE + j1) * _SIDE
    r10, r11 = (i1 * _SIDE + j0) * _SIDE, (i1 * _SIDE + j1) * _SIDE
    low = (tile[r00 + k0] * (1 - b) + tile[r01 + k0] * b) * (1 - a) + (
        tile[r10 + k0] * (1 - b) + tile[r11 + k0] * b
    ) * a
    high = (tile[r00 + k1] * (1 - b) + tile[r01 + k1] * b) * (1 - a) + (
        tile[r10 + k1] * (1 - b) + tile[r11 + k1] * b
    ) * a
    return low * (1 - c) + high * c


@njit(cache=True, nogil=True, error_model="numpy", fastmath=True)
def _grain(tile, x, y, z, size):
    """Noise in cells of 6, 2, 0.7, 0.25 and 0.1 m, each as far as a pixel of `size` m resolves it."""
    total = np.float32(0.0)
    for cell in (6.0, 2.0, 0.7, 0.25, 0.1):
        weight = min((cell / size - 1.5) * 0.5, 1.0)
        if weight <= 0:
            break
        total += weight * _noise(tile, x / cell + 17.3 * cell, y / cell, z / cell)
    return total


@njit(cache=True, nogil=True, error_model="numpy", fastmath=True)
def _cover(offset, half, size):
    """Share of a pixel of `size` m that a band of half width `half` covers, `offset` m from its middle."""
    return min(max((half - abs(offset)) / size + 0.5, 0.0), 1.0) * min(2 * half / size, 1.0)


@njit(cache=True, nogil=True, error_model="numpy", fastmath=True)
def _periodic(x, period):
    """Offset of x from the nearest multiple of a period."""
    return x - period * math.floor(x / period + 0.5)


@njit(cache=True, nogil=True, error_model="numpy", fastmath=True)
def _sky(x, y, z, light, tile, out):
    """Radiance of the sky in a direction."""
    fade = math.exp(-4.0 * max(z, 0.0))
    for c in range(3):
        out[c] = light.zenith[c] * (1 - fade) + light.horizon[c] * fade
    if light.cover > 0 and z > 0.01:
        reach = 1.0 / (z + 0.12)
        u, v = x * reach, y * reach
        n = _noise(tile, 0.35 * u + light.shift, 0.35 * v, 0.0) + 0.5 * _noise(tile, u + light.shift, v, 3.0)
        n += 0.25 * _noise(tile, 2.7 * u, 2.7 * v + light.shift, 5.0)
        share = min(max(0.9 * n + 2.6 * light.cover - 1.1, 0.0), 1.0) * min(z * 12, 1.0)
        dark = 1.0 - 0.18 * min(max(n + 0.5, 0.0), 1.0)
        for c in range(3):
            out[c] += share * (light.cloud[c] * dark - out[c])
    near = x * light.sun_direction[0] + y * light.sun_direction[1] + z * light.sun_direction[2]
    if near > 0.5:
        glow = 0.12 * near**24 + 0.5 * near**300 + (8.0 if near > 0.9993 else 0.0)
        for c in range(3):
            out[c] += glow * light.sun[c]
    around = 2.0 * math.atan2(y, x)
    top = (
        0.5
        + 0.25 * _noise(tile, around + light.shift, 7.0, 0.0)
        + 0.35 * _hash(math.floor(9 * around), 5, int(light.shift))
    )
    if z < light.skyline * top:
        tone = 0.25 + 0.25 * _hash(math.floor(9 * around), 3, int(light.shift))
        for c in range(3):
            out[c] = 0.45 * light.horizon[c] + 0.55 * tone * light.ambient[c]


@njit(cache=True, nogil=True, error_model="numpy", fastmath=True)
def _mix(colour, r, g, b, share):
    colour[0] += share * (r - colour[0])
    colour[1] += share * (g - colour[1])
    colour[2] += share * (b - colour[2])


@njit(cache=True, nogil=True, error_model="numpy", fastmath=True)
def _scale(colour, factor):
    for c in range(3):
        colour[c] *= factor


@njit(cache=True, nogil=True, error_model="numpy", fastmath=True)
def _facade(x, y, z, face, s, size, number, light, colour):
    """Walls with rows of windows, doors and shops, and flat roofs; returns how much of it is glass, and its glow."""
    if face[2] > 0.7:
        _mix(colour, 0.42, 0.41, 0.40, 0.8)
        return 0.0, 0.0
    along = y if abs(face[0]) > abs(face[1]) else x
    side = int(abs(face[0]) > abs(face[1])) * 2 + int(face[0] + face[1] > 0)
    if s[6] > 0:  # bricks
        row = math.floor(z / 0.09)
        seam = max(
            _cover(_periodic(z, 0.09), 0.008, size), _cover(_periodic(along + 0.12 * (row % 2), 0.24), 0.008, size)
        )
        _scale(
            colour, 0.92 + 0.16 * _hash(row, math.floor((along + 0.12 * (row % 2)) / 0.24), 1) * min(0.1 / size, 1.0)
        )
        _mix(colour, 0.62, 0.60, 0.56, 0.5 * seam)
    floor = math.floor(z / s[0])
    up = z - floor * s[0]
    if z < 0.45:
        _scale(colour, 0.78)
    _mix(
        colour,
        0.8 * colour[0] + 0.15,
        0.8 * colour[1] + 0.15,
        0.8 * colour[2] + 0.15,
        _cover(up - s[0] + 0.1, 0.1, size),
    )
    column = math.floor(along / s[1] + 0.5)
    off = along - column * s[1]
    width, height, sill = s[2], s[3], s[4]
    shop = floor == 0 and s[7] > 0
    if shop:
        width, height, sill = s[1] * 0.86, s[0] * 0.68, 0.35
        band = _cover(up - s[0] + 0.35, 0.28, size)
        tint = _hash(column // 2, number, 9)
        _mix(colour, 0.2 + 0.6 * tint, 0.25 + 0.4 * _hash(column // 2, number, 4), 0.7 - 0.5 * tint, 0.8 * band)
    elif floor == 0 and _hash(column, number, side) < 0.25:  # a door
        width, height, sill = min(1.1, s[1]), min(2.2, 0.8 * s[0]), 0.0
        door = _cover(off, 0.5 * width, size) * _cover(up - 0.5 * height, 0.5 * height, size)
        tone = 0.25 + 0.4 * _hash(column, number, 11)
        _mix(colour, tone, 0.8 * tone, 0.7 * tone, door)
        return 0.0, 0.0
    elif s[5] == 2 and floor == 0 and _hash(column, number, side + 20) < 0.5:  # a roller door
        width, height = 0.85 * s[1], min(3.4, 0.85 * s[0])
        door = _cover(off, 0.5 * width, size) * _cover(up - 0.5 * height, 0.5 * height, size)
        slat = 1 - 0.2 * _cover(_periodic(up, 0.25), 0.04, size)
        _mix(colour, 0.45 * slat, 0.5 * slat, 0.52 * slat, door)
        return 0.0, 0.0
    if s[5] == 2 and floor % 2 == 0 and not shop:
        return 0.0, 0.0
    middle = sill + 0.5 * height
    outer = _cover(off, 0.5 * width + 0.07, size) * _cover(up - middle, 0.5 * height + 0.07, size)
    _mix(colour, 0.3 + 0.55 * s[6], 0.3 + 0.55 * s[6], 0.3 + 0.53 * s[6], outer)
    glass = _cover(off, 0.5 * width, size) * _cover(up - middle, 0.5 * height, size)
    glass *= 1 - _cover(off, 0.03, size) * (1 - 0.5 * s[5])
    curtain = _hash(column + 31 * side, floor, number)
    tone = 0.13 if curtain < 0.6 else 0.13 + 0.8 * (curtain - 0.6)
    _mix(colour, tone, tone, 0.95 * tone, glass)
    lit = light.lamps * (1.0 if _hash(column, floor + 7, number + side) < 0.3 else 0.0)
    return glass, glass * lit


@njit(cache=True, nogil=True, error_model="numpy", fastmath=True)
def _road(s, d, style, size, tile, colour):
    """Asphalt with wheel tracks, patches, cracks and covers, and its markings."""
    lane, lanes, median, kind, edge, crossing, parking, wear = style
    out = abs(d) - median
    number = min(math.floor(out / lane), lanes)
    side = 1 if d > 0 else -1
    within = out - number * lane
    if number < lanes:
        track = min(abs(within - 0.27 * lane), abs(within - 0.73 * lane))
        _scale(colour, 1.0 - 0.07 * math.exp(-((track / 0.25) ** 2)))
    _scale(colour, 0.94 + 0.12 * _hash(number * side, 3, int(edge * 7)))
    cell = math.floor(s / 8.0)
    chance = _hash(cell, int(number * side), 7)
    if chance < 0.18 * wear + 0.04:  # a patch
        length, offset = 1.0 + 5 * _hash(cell, int(number), 8), 8 * cell + 4
        inside = _cover(s - offset, 0.5 * length, size) * _cover(within - 0.5 * lane, 0.25 * lane + 0.5 * chance, size)
        _scale(colour, 1 + inside * (0.35 * chance * 5 - 0.32))
    crack = _noise(tile, s / 3.1, d / 1.7, 9.0)
    _scale(colour, 1 - 0.4 * wear * max(0.0, 1 - abs(crack) / 0.05) * min(0.08 / size, 1.0))
    hole = math.floor(s / 17.0)
    hx, hy = s - 17 * hole - 17 * _hash(hole, side, 21), within - lane * (0.3 + 0.4 * _hash(hole, side, 22))
    if number == int(lanes * _hash(hole, side, 23)):
        _scale(colour, 1 - 0.45 * _cover(math.sqrt(hx * hx + hy * hy), 0.32, size))
    paint = 0.0
    yellow = 0.0
    dash = _cover(_periodic(s, 9.0 + 2 * lane), 1.6, size)
    if median < 0.05:
        if kind == 0:
            paint = _cover(d, 0.07, size) * dash
        elif kind == 1:
            yellow = _cover(abs(d) - 0.13, 0.055, size)
        elif kind == 2:
            paint = _cover(d, 0.07, size)
    else:
        paint = _cover(out - 0.25, 0.06, size)
    for i in range(1, int(lanes)):
        paint = max(paint, _cover(out - i * lane, 0.065, size) * dash)
    if kind != 3:
        border = lane * lanes + 0.05
        if edge - median - border > 0.5 or kind == 2:
            paint = max(paint, _cover(out - border, 0.06, size))
        if parking > 0:
            bay = _cover(_periodic(s, 5.8), 0.05, size) * _cover(abs(d) - edge + 0.5 * parking, 0.5 * parking, size)
            paint = max(paint, bay)
    if crossing > 0:
        at = _periodic(s - 0.37 * crossing, crossing)
        if abs(at) < 6:
            band = _cover(at, 1.6, size)
            paint = paint * (1 - _cover(at, 3.4, size))
            paint = max(paint, band * _cover(_periodic(d, 1.05), 0.26, size))
            paint = max(paint, _cover(at + 3.2 * side, 0.2, size) * (1.0 if number < lanes else 0.0))
    worn = min(max(1.15 - 0.45 * wear * (1 + _noise(tile, s / 0.9, d / 0.9, 1.0)), 0.25), 1.0)
    _mix(colour, 0.86, 0.86, 0.84, paint * worn)
    _mix(colour, 0.82, 0.64, 0.18, yellow * worn)


@njit(cache=True, nogil=True, error_model="numpy", fastmath=True)
def _body(x, y, z, face, s, size, lamps, colour):
    """A vehicle's painted metal: arches, lamps, number plates, grille and bumpers; returns the share of paint, and glow."""
    half, width, front, rear, radius, lamp = s[0], s[1], s[2], s[3], s[4], s[5]
    gloss, glow = 1.0, 0.0
    if abs(face[1]) > 0.6:
        nearest = min((x - front) ** 2, (x - rear) ** 2) + (z - radius) ** 2
        arch = _cover(math.sqrt(nearest), 1.18 * radius, size)
        _mix(colour, 0.05, 0.05, 0.05, arch)
        gloss -= arch
        seam = max(_cover(x - 0.02 * half, 0.015, size), _cover(x - 0.62 * front, 0.015, size))
        _scale(colour, 1 - 0.4 * seam * (1 if z > 0.35 else 0))
    if z < 0.42 * lamp + 0.1:
        _mix(colour, 0.1, 0.1, 0.11, 0.8)
        gloss *= 0.3
    if abs(x) > half - 0.45 and abs(face[0]) > 0.35:
        corner = _cover(abs(y) - 0.72 * width, 0.2 * width, size) * _cover(z - lamp, 0.09 + 0.03 * (x < 0), size)
        if x > 0:
            _mix(colour, 0.9, 0.9, 0.88, corner)
            grille = _cover(y, 0.4 * width, size) * _cover(z - lamp + 0.12, 0.1, size)
            _mix(colour, 0.06, 0.06, 0.06, grille)
            glow = corner * lamps * 3
        else:
            _mix(colour, 0.75, 0.05, 0.04, corner)
            glow = corner * (0.12 + 0.8 * lamps)
        plate = _cover(y, 0.26, size) * _cover(z - lamp + (0.3 if x > 0 else 0.1), 0.06, size)
        _mix(colour, 0.85, 0.85, 0.78, plate)
        gloss *= 1 - corner
    return gloss, glow


@njit(cache=True, nogil=True, error_model="numpy", fastmath=True)
def _shade(triangle, uv, normals, distances, directions, pixel, sunlit, triangles, wardrobe, light, tile, out):
    colour, mirrored = np.empty(3, np.float32), np.empty(3, np.float32)
    for i in range(len(triangle)):
        dx, dy, dz = directions[i, 0], directions[i, 1], directions[i, 2]
        length = math.sqrt(dx * dx + dy * dy + dz * dz)
        dx, dy, dz = dx / length, dy / length, dz / length
        number = triangle[i]
        if number < 0:
            _sky(dx, dy, dz, light, tile, out[i])
            continue
        p, f, corner = triangles.part[number], triangles.normal[number], triangles.corners[number]
        a, b, distance = uv[i, 0], uv[i, 1], distances[i] * length
        x = corner[0, 0] + a * (corner[1, 0] - corner[0, 0]) + b * (corner[2, 0] - corner[0, 0])
        y = corner[0, 1] + a * (corner[1, 1] - corner[0, 1]) + b * (corner[2, 1] - corner[0, 1])
        z = corner[0, 2] + a * (corner[1, 2] - corner[0, 2]) + b * (corner[2, 2] - corner[0, 2])
        paint, s = wardrobe.paint[p], wardrobe.style[p]
        nx, ny, nz = normals[i, 0], normals[i, 1], normals[i, 2]
        cosine = -(dx * nx + dy * ny + dz * nz)
        if cosine < 0:
            nx, ny, nz, cosine = -nx, -ny, -nz, -cosine
        size = distances[i] * pixel / max(cosine, 0.25) + 1e-4
        u, v, w = x + wardrobe.shift[p, 0], y + wardrobe.shift[p, 1], z + wardrobe.shift[p, 2]
        for c in range(3):
            colour[c] = wardrobe.colour[p, c]
        gloss, glow, reflects, open_sky = 0.0, 0.0, 0.0, 1.0
        contrast = wardrobe.contrast[p]
        grain = 0.0
        if paint == BODY or paint == GLASS or paint == WHEEL:  # noqa: SIM109 (compiled: comparisons are fast)
            contrast = 0.0
        else:
            grain = _grain(tile, u, v, w, size)
        if paint == FACADE:
            glass, glow = _facade(x, y, z, f, s, size, p, light, colour)
            gloss, reflects = glass, 0.08 + 0.25 * _hash(math.floor((x + y) / s[1] + 0.5), math.floor(z / s[0]), p)
            open_sky = min(0.7 + 0.1 * z, 1.0)
        elif paint == TILES:
            _scale(colour, 1 - 0.25 * _cover(_periodic(z, 0.16), 0.025, size))
        elif paint == LEAVES:
            contrast = 0.16
            open_sky = 0.75 + 0.25 * max(f[2], 0.0) if f[2] > -0.2 else 0.5
            _scale(colour, 1 - 0.5 * min(max(0.8 * grain - 0.4, 0.0), 1.0))
        elif paint == BARK:
            grain += _noise(tile, u / 0.06, v / 0.06, w / 0.5) * min(0.1 / size, 1.0)
        elif paint == BODY:
            gloss, glow = _body(x, y, z, f, s, size, light.lamps, colour)
            reflects = 0.05
            open_sky = 0.55 + 0.45 * min(z, 1.0)
        elif paint == GLASS:
            pillar = 0.0
            if abs(f[1]) > 0.5:
                pillar = max(_cover(x - s[2], 0.05, size), _cover(x - s[3], 0.07, size))
            rim = max(_cover(z - s[0], 0.07, size), pillar)
            if f[2] > 0.8:
                rim = 1.0
            _mix(colour, 0.09, 0.1, 0.11, 1 - rim)
            gloss, reflects = 1.0, 0.05 + 0.05 * (1 - rim)
        elif paint == WHEEL:
            distance_from_axle = math.sqrt(
                (x - (s[0] if abs(x - s[0]) < abs(x - s[1]) else s[1])) ** 2 + (z - s[2]) ** 2
            )
            rim = _cover(distance_from_axle, 0.64 * s[2], size) if abs(f[1]) > 0.7 else 0.0
            tone = 0.55 if _hash(int(p), 3, 1) < 0.7 else 0.2
            spoke = 0.65 + 0.35 * math.cos(5 * math.atan2(z - s[2], x - s[0])) * min(0.08 / size, 1.0)
            _mix(colour, tone * spoke, tone * spoke, tone * spoke, rim)
            open_sky = 0.6
        elif paint == ROAD:
            _road(x, y, s, size, tile, colour)
            if light.wet > 0:
                puddle = min(max(0.5 + 0.6 * _noise(tile, x / 4, y / 2, 4.0), 0.0), 1.0) * light.wet
                _scale(colour, 1 - 0.35 * puddle)
                reflects, gloss = 0.03, 0.7 * puddle
        elif paint == PAVEMENT:
            joint = max(_cover(_periodic(x, s[1]), 0.012, size), _cover(_periodic(abs(y) - s[0], s[1]), 0.012, size))
            _scale(colour, 1 - 0.35 * joint)
            _scale(
                colour,
                0.95 + 0.1 * _hash(math.floor(x / s[1]), math.floor((abs(y) - s[0]) / s[1]), 2) * min(s[1] / size, 1.0),
            )
            _mix(colour, 0.6, 0.6, 0.58, 0.7 * _cover(abs(y) - s[0] - 0.06, 0.08, size))
        elif paint == GRASS:
            contrast = 0.13
            dry = min(max(0.5 + 0.5 * _noise(tile, u / 9, v / 9, 0.0), 0.0), 1.0)
            _mix(colour, 0.5, 0.46, 0.3, 0.55 * dry)
        elif paint == YARD:
            dark = min(max(0.5 + 0.7 * _noise(tile, u / 7, v / 7, 2.0), 0.0), 1.0)
            _scale(colour, 0.8 + 0.2 * dark)
            joint = max(_cover(_periodic(x, 5.0), 0.03, size), _cover(_periodic(y, 5.0), 0.03, size))
            _scale(colour, 1 - 0.3 * joint * s[0])
        elif paint == SIGN:
            radius = math.sqrt(y * y + (z - s[0]) ** 2)
            if abs(f[0]) > 0.7:
                _mix(colour, 0.9, 0.9, 0.9, _cover(radius, s[1], size))
                _mix(colour, 0.1, 0.1, 0.12, _cover(y, 0.35 * s[1], size) * _cover(z - s[0], 0.5 * s[1], size))
            else:
                _mix(colour, 0.5, 0.5, 0.5, 1.0)
        elif paint == LAMP:
            glow = 0.5 + 4 * light.lamps
        elif paint == PLANKS:
            along = y if abs(f[0]) > abs(f[1]) else x
            _scale(colour, 1 - 0.5 * _cover(_periodic(along, s[0]), 0.012, size))
            _scale(colour, 0.9 + 0.2 * _hash(math.floor(along / s[0]), int(p), 2))
        elif paint == CARGO:
            along = y if abs(f[0]) > abs(f[1]) else x
            rib = _cover(_periodic(along, s[0]), 0.03, size)
            _scale(colour, 1 - 0.25 * rib)
            if abs(f[1]) > 0.7 and s[1] > 0:
                band = _cover(z - s[2], s[1], size) * _cover(x + 1.0, 2.2, size)
                _mix(colour, s[3], s[4], s[5], band)
        elif paint == WALL:
            along = y if abs(f[0]) > abs(f[1]) else x
            row = math.floor(z / s[0])
            half_brick = along + s[1] * 0.5 * (row % 2)
            seam = max(_cover(_periodic(z, s[0]), 0.01, size), _cover(_periodic(half_brick, s[1]), 0.01, size))
            _scale(colour, 0.88 + 0.24 * _hash(row, math.floor(half_brick / s[1]), int(p)) * min(s[0] / size, 1.0))
            _mix(colour, 0.6, 0.58, 0.55, 0.5 * seam)
        tone = max(1 + contrast * grain, 0.15)
        slope = nx * light.sun_direction[0] + ny * light.sun_direction[1] + nz * light.sun_direction[2]
        direct = max(slope, 0.0) * sunlit[i]
        if paint == LEAVES:
            direct = (0.35 + 0.65 * max(slope, 0.0)) * sunlit[i]
        shaded = open_sky * (0.6 + 0.4 * nz)
        if light.overcast > 0 and nz > 0.7:
            shaded *= 0.4 + 0.6 * sunlit[i]
            direct = 0.0
        if gloss > 0:
            k = 2 * cosine
            rx, ry, rz = dx + k * nx, dy + k * ny, dz + k * nz
            fresnel = gloss * (reflects + (1 - reflects) * (1 - cosine) ** 5 * 0.8)
            _sky(rx, ry, max(rz, 0.0), light, tile, mirrored)
            clear = rz * 4 - 0.2 + 0.4 * _noise(tile, 1.5 * math.atan2(ry, rx), 0.0, float(p))
            clear = min(max(clear, 0.0), 1.0)
            for c in range(3):
                below = light.ambient[c] * (0.12 if rz > 0 else 0.07)
                mirrored[c] = min(mirrored[c] * clear + below * (1 - clear), 6.0)
        else:
            fresnel = 0.0
        veil = math.exp(-distance * light.haze)
        for c in range(3):
            albedo = min(max(colour[c] * tone, 0.0), 1.0) ** 2
            value = albedo * (light.ambient[c] * shaded + light.sun[c] * direct)
            value = value * (1 - fresnel)
            if fresnel > 0:
                value += fresnel * mirrored[c]
            if glow > 0:
                warm = (1.0, 0.8, 0.5)[c] if paint == FACADE or paint == LAMP else colour[c]  # noqa: SIM109
                value += glow * warm * 0.5
            out[i, c] = value * veil + light.horizon[c] * (1 - veil)
