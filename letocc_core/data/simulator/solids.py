"""Closed meshes that things of varied streets are made of: lofts, lying cylinders, lumps of leaves, roofs."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

Colour = tuple[float, float, float]  # RGB in [0, 1]
Triple = tuple[float, float, float] | Float[np.ndarray, "3"]  # x, y, z
INWARD = 1e-3  # m that samples of a surface lie below it


@dataclass(frozen=True, eq=False)
class Solid:
    """A closed surface in the axes of its asset; it may be several closed pieces."""

    vertices: Float[np.ndarray, "V 3"]  # m
    triangles: Int[np.ndarray, "F 3"]  # seen from outside, corners go round to the left
    paint: str = "plain"  # of varied.paints.PAINTS
    colour: Colour | None = None  # None: the asset's
    style: tuple[float, ...] = ()  # of the paint

    @property
    def centre(self) -> tuple[float, float, float]:
        """m, of the box around it."""
        return tuple((self.vertices.min(0) + self.vertices.max(0)) / 2)

    @property
    def size(self) -> tuple[float, float, float]:
        """m, of the box around it."""
        return tuple(self.vertices.max(0) - self.vertices.min(0))

    def points(self, spacing: float, top: float) -> Float[np.ndarray, "n 3"]:
        """Points of its surface and inside, below `top`, at most about `spacing` (m) apart."""
        return np.concatenate([p[p[:, 2] <= top] for p in (self._surface(spacing), self._inside(spacing))])

    def _surface(self, spacing: float) -> np.ndarray:
        corners = self.vertices[self.triangles]
        normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        length = np.linalg.norm(normals, axis=1, keepdims=True)
        corners = (corners - INWARD * (normals / np.maximum(length, 1e-12))[:, None])[length[:, 0] > 1e-9]
        longest = np.linalg.norm(corners - np.roll(corners, 1, axis=1), axis=2).max(1)
        counts = np.ceil(longest / spacing).astype(int)
        return np.concatenate([(_lattice(n) @ corners[counts == n]).reshape(-1, 3) for n in np.unique(counts).tolist()])

    def _inside(self, spacing: float) -> np.ndarray:
        import open3d as o3d

        low, high = self.vertices.min(0), self.vertices.max(0)
        axes = [np.arange(a + spacing / 2, b, spacing) for a, b in zip(low, high, strict=True)]
        points = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
        if not len(points):
            return points
        scene = o3d.t.geometry.RaycastingScene(nthreads=1)
        scene.add_triangles(
            o3d.core.Tensor.from_numpy(self.vertices.astype(np.float32)),
            o3d.core.Tensor.from_numpy(self.triangles.astype(np.uint32)),
        )
        rays = o3d.core.Tensor.from_numpy(points.astype(np.float32))
        return points[scene.compute_occupancy(rays, nthreads=1).numpy() > 0]


def _lattice(n: int) -> np.ndarray:
    """Weights [k, 3] of a triangle's corners, its sides cut into n."""
    i, j = (x.ravel() for x in np.mgrid[: n + 1, : n + 1])
    i, j = i[i + j <= n], j[i + j <= n]
    return np.stack([n - i - j, i, j], 1) / n


def ring(x0: float, x1: float, half_width: float, z: float, corner: float = 0.3) -> Float[np.ndarray, "12 3"]:
    """Outline from x0 to x1 at height z, seen from above, with rounded corners of `corner` m."""
    c, y = min(corner, (x1 - x0) / 2.01, half_width / 1.01), half_width
    k = 0.3 * c
    quarter = [(x1, y - c), (x1 - k, y - k), (x1 - c, y)]
    left = [*quarter, (x0 + c, y), (x0 + k, y - k), (x0, y - c)]
    outline = [*left, *((x, -v) for x, v in reversed(left))]
    return np.array([(x, v, z) for x, v in outline])


def loft(
    rings: Sequence[Float[np.ndarray, "n 3"]], paint: str, colour: Colour | None = None, style: tuple[float, ...] = ()
) -> Solid:
    """Rings of equally many points, from the bottom up, joined; the first and the last one closed."""
    n = len(rings[0])
    vertices = np.concatenate([*rings, [rings[0].mean(0)], [rings[-1].mean(0)]])
    i, j = np.arange(n), np.roll(np.arange(n), -1)
    faces = []
    for k in range(len(rings) - 1):
        a, b = k * n, (k + 1) * n
        faces += [np.stack([a + i, a + j, b + i], 1), np.stack([a + j, b + j, b + i], 1)]
    bottom, top = len(vertices) - 2, len(vertices) - 1
    faces.append(np.stack([np.full(n, bottom), j, i], 1))
    last = (len(rings) - 1) * n
    faces.append(np.stack([np.full(n, top), last + i, last + j], 1))
    return Solid(vertices, np.concatenate(faces), paint, colour, style)


def wheels(
    centres: Sequence[tuple[float, float, float]], radius: float, width: float, style: tuple[float, ...] = ()
) -> Solid:
    """Cylinders that lie across, around `centres` (m)."""
    angle = np.arange(10) * (2 * np.pi / 10)
    disc = np.stack([np.cos(angle) * radius, np.zeros(10), np.sin(angle) * radius], 1)
    pieces = [
        loft([disc + c - (0, width / 2, 0), disc + c + (0, width / 2, 0)], "wheel") for c in map(np.array, centres)
    ]
    # The rings go round the other way than those that are stacked upwards
    return joined([Solid(p.vertices, p.triangles[:, ::-1], "wheel", (0.07, 0.07, 0.075), style) for p in pieces])


def joined(pieces: Sequence[Solid]) -> Solid:
    """Several as one, painted as the first."""
    first = np.cumsum([0, *(len(p.vertices) for p in pieces[:-1])])
    triangles = np.concatenate([p.triangles + k for p, k in zip(pieces, first, strict=True)])
    vertices = np.concatenate([p.vertices for p in pieces])
    return Solid(vertices, triangles, pieces[0].paint, pieces[0].colour, pieces[0].style)


def box(
    low: tuple[float, float, float],
    high: tuple[float, float, float],
    paint: str = "plain",
    colour: Colour | None = None,
    style: tuple[float, ...] = (),
) -> Solid:
    """An upright box between two corners (m)."""
    (x0, y0, z0), (x1, y1, z1) = low, high
    outline = np.array([(x0, y0, 0), (x1, y0, 0), (x1, y1, 0), (x0, y1, 0)])
    return loft([outline + np.array((0, 0, z0)), outline + np.array((0, 0, z1))], paint, colour, style)


def gable(length: float, depth: float, base: float, rise: float, colour: Colour, hipped: float) -> Solid:
    """A roof over a rectangle, its ridge along x; `hipped` m shorter at either end."""
    x, y, over = length / 2 + 0.3, depth / 2 + 0.4, 0.15
    eaves = np.array([(x, y, base), (-x, y, base), (-x, -y, base), (x, -y, base)])
    r = max(x - hipped, 0.2)
    ridge = np.array(
        [(r, 0.05, base + rise), (-r, 0.05, base + rise), (-r, -0.05, base + rise), (r, -0.05, base + rise)]
    )
    return loft([eaves, eaves + np.array((0, 0, over)), ridge + np.array((0, 0, over))], "tiles", colour)


def lump(
    rng: np.random.Generator, centre: Triple, size: Triple, paint: str, colour: Colour, rough: float = 0.2
) -> Solid:
    """An ellipsoid (m) with dents and bumps of `rough` of its radius."""
    directions, triangles = _SPHERE
    radius = 0.5 * (1 + rough * rng.uniform(-1, 1, len(directions)))
    return Solid(directions * radius[:, None] * np.array(size) + np.array(centre), triangles, paint, colour)


def _sphere() -> tuple[np.ndarray, np.ndarray]:
    """An icosahedron whose faces are cut in four: 42 corners, 80 triangles."""
    g = (1 + 5**0.5) / 2
    corners: list[tuple[float, float, float]] = [
        (-1, g, 0),
        (1, g, 0),
        (-1, -g, 0),
        (1, -g, 0),
        (0, -1, g),
        (0, 1, g),
        (0, -1, -g),
        (0, 1, -g),
    ]
    corners += [(g, 0, -1), (g, 0, 1), (-g, 0, -1), (-g, 0, 1)]
    faces = [(0, 11, 5), (0, 5, 1), (0, 1, 7), (0, 7, 10), (0, 10, 11), (1, 5, 9), (5, 11, 4), (11, 10, 2), (10, 7, 6)]
    faces += [(7, 1, 8), (3, 9, 4), (3, 4, 2), (3, 2, 6), (3, 6, 8), (3, 8, 9), (4, 9, 5), (2, 4, 11), (6, 2, 10)]
    faces += [(8, 6, 7), (9, 8, 1)]
    points = [np.array(c, float) for c in corners]
    middle: dict[tuple[int, int], int] = {}

    def between(i: int, j: int) -> int:
        key = (min(i, j), max(i, j))
        if key not in middle:
            middle[key] = len(points)
            points.append((points[i] + points[j]) / 2)
        return middle[key]

    finer = []
    for a, b, c in faces:
        ab, bc, ca = between(a, b), between(b, c), between(c, a)
        finer += [(a, ab, ca), (b, bc, ab), (c, ca, bc), (ab, bc, ca)]
    sphere = np.array(points)
    return sphere / np.linalg.norm(sphere, axis=1, keepdims=True), np.array(finer)


_SPHERE = _sphere()
