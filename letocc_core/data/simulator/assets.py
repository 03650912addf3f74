"""What stands and moves in a street, built from boxes, cylinders and ellipsoids in local axes (x forward, z up)."""

from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
from jaxtyping import Float

from letocc_core.data.simulator.solids import Solid


@dataclass(frozen=True)
class Part:
    """One solid. `centre` and `size` in metres; a cylinder stands upright, its size is (diameter, diameter, height)."""

    kind: Literal["box", "cylinder", "ellipsoid"]
    centre: tuple[float, float, float]
    size: tuple[float, float, float]
    # How it looks in varied streets
    paint: str = "plain"  # of varied.paints.PAINTS
    colour: tuple[float, float, float] | None = None  # RGB in [0, 1]; None: the asset's
    style: tuple[float, ...] = ()  # numbers that the paint reads


@dataclass(frozen=True)
class Asset:
    """A rigid thing: its parts, class and base colour."""

    label: str  # one of truth.CLASS_NAMES
    parts: tuple[Part | Solid, ...]
    colour: tuple[float, float, float]  # RGB in [0, 1]

    @property
    def radius(self) -> float:
        """m, of the circle around the origin that holds its footprint."""
        return max(np.hypot(abs(p.centre[0]) + p.size[0] / 2, abs(p.centre[1]) + p.size[1] / 2) for p in self.parts)


def mesh(asset: Asset) -> tuple[np.ndarray, np.ndarray]:
    """Triangle mesh of all parts (float32 vertices [V, 3] m, int32 triangles [F, 3])."""
    vertices, triangles, count = [], [], 0
    for part in asset.parts:
        v, t = part_mesh(part)
        vertices.append(v)
        triangles.append(t + count)
        count += len(v)
    return np.concatenate(vertices).astype(np.float32), np.concatenate(triangles).astype(np.uint32)


def part_mesh(part: Part | Solid) -> tuple[np.ndarray, np.ndarray]:
    """Vertices [V, 3] (m) and triangles [F, 3] of one part."""
    if isinstance(part, Solid):
        return part.vertices, part.triangles
    v, t = _unit_mesh(part.kind)
    return v * np.array(part.size) + np.array(part.centre), t


def solid_points(asset: Asset, spacing: float, top: float = 6.0, shell: float = np.inf) -> Float[np.ndarray, "n 3"]:
    """A lattice of points (m, local) that fills the solids below `top`, faces included, at most `spacing` apart.

    Boxes are filled to a depth of `shell` (m) below their faces only.
    """
    out = []
    for part in asset.parts:
        if isinstance(part, Solid):
            out.append(part.points(spacing, top))
            continue
        size = np.array(part.size)
        low = np.array(part.centre) - size / 2
        high = np.minimum(low + size, [np.inf, np.inf, top])
        if high[2] < low[2]:
            continue
        counts = [
            2 * int(np.ceil((b - a) / spacing / 2)) + 1 for a, b in zip(low, high, strict=True)
        ]  # odd: the axis too
        axes = [np.linspace(a + 1e-3, b - 1e-3, n) for a, b, n in zip(low, high, counts, strict=True)]
        points = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
        unit = (points - np.array(part.centre)) / size * 2
        if part.kind == "cylinder":
            points = points[(unit[:, :2] ** 2).sum(1) <= 1.05]
        elif part.kind == "ellipsoid":
            points = points[(unit**2).sum(1) <= 1.05]
        else:
            points = points[((1 - np.abs(unit)) * size / 2).min(1) <= shell]
        out.append(points)
    return np.concatenate(out) if out else np.zeros((0, 3))


@cache
def _unit_mesh(kind: str) -> tuple[np.ndarray, np.ndarray]:
    import open3d as o3d

    create = o3d.geometry.TriangleMesh
    if kind == "box":
        solid = create.create_box(1, 1, 1)
        solid.translate((-0.5, -0.5, -0.5))
    elif kind == "cylinder":
        solid = create.create_cylinder(0.5, 1, resolution=10, split=1)
    else:
        solid = create.create_sphere(0.5, resolution=6)
    return np.asarray(solid.vertices), np.asarray(solid.triangles)


def car(rng: np.random.Generator) -> Asset:
    length, width, height = rng.uniform(3.8, 4.9), rng.uniform(1.7, 1.95), rng.uniform(1.4, 1.75)
    body = Part("box", (0, 0, 0.2 + height * 0.25), (length, width, height * 0.5))
    cabin = Part("box", (-0.1 * length, 0, height * 0.82), (length * 0.55, width * 0.86, height * 0.36))
    wheels = tuple(Part("box", (x * length, 0, 0.25), (0.6, width * 1.01, 0.5)) for x in (-0.32, 0.32))
    return Asset("car", (body, cabin, *wheels), tuple(rng.uniform(0.1, 0.9, 3)))


def lorry(rng: np.random.Generator) -> Asset:
    length, width, height = rng.uniform(6.5, 9.5), rng.uniform(2.2, 2.5), rng.uniform(2.8, 3.6)
    box = Part("box", (-1.0, 0, 0.5 + height / 2), (length - 2.4, width, height))
    cab = Part("box", (length / 2 - 1.1, 0, 1.4), (2.0, width * 0.95, 2.3))
    chassis = Part("box", (-0.3, 0, 0.4), (length - 0.8, width * 0.9, 0.6))
    return Asset("lorry", (box, cab, chassis), tuple(rng.uniform(0.2, 0.95, 3)))


def cyclist(rng: np.random.Generator) -> Asset:
    frame = Part("box", (0, 0, 0.45), (1.7, 0.18, 0.8))
    rider = Part("ellipsoid", (-0.1, 0, 1.2), (0.55, 0.5, 0.9))
    head = Part("ellipsoid", (0.1, 0, 1.7), (0.28, 0.28, 0.3))
    return Asset("cyclist", (frame, rider, head), tuple(rng.uniform(0.1, 0.95, 3)))


def pedestrian(rng: np.random.Generator) -> Asset:
    height = rng.uniform(1.5, 1.9)
    legs = Part("cylinder", (0, 0, height * 0.23), (0.36, 0.36, height * 0.46))
    torso = Part("ellipsoid", (0, 0, height * 0.64), (0.42, 0.56, height * 0.46))
    head = Part("ellipsoid", (0, 0, height * 0.93), (0.24, 0.24, 0.28))
    return Asset("pedestrian", (legs, torso, head), tuple(rng.uniform(0.1, 0.95, 3)))


def building(rng: np.random.Generator) -> Asset:
    length, depth, height = rng.uniform(6, 18), rng.uniform(6, 12), rng.uniform(3.5, 16)
    parts = [Part("box", (0, 0, height / 2), (length, depth, height))]
    if rng.random() < 0.5:  # a bay or a porch breaks the facade
        bay = rng.uniform(1.5, length / 2)
        parts.append(
            Part("box", (rng.uniform(-length / 4, length / 4), 0, 1.6), (bay, depth + rng.uniform(0.8, 2), 3.2))
        )
    return Asset("building", tuple(parts), tuple(rng.uniform(0.3, 0.8) + rng.uniform(-0.12, 0.12, 3)))


def tree(rng: np.random.Generator) -> Asset:
    trunk, crown = rng.uniform(1.6, 2.8), rng.uniform(2.0, 4.5)
    parts = (
        Part("cylinder", (0, 0, trunk / 2), (0.35, 0.35, trunk)),
        Part("ellipsoid", (0, 0, trunk + crown * 0.4), (crown, crown, crown * rng.uniform(0.8, 1.2))),
    )
    return Asset("vegetation", parts, (rng.uniform(0.15, 0.35), rng.uniform(0.35, 0.55), rng.uniform(0.1, 0.25)))


def hedge(rng: np.random.Generator) -> Asset:
    length, height = rng.uniform(3, 9), rng.uniform(0.8, 1.6)
    part = Part("box", (0, 0, height / 2), (length, 0.9, height))
    return Asset("vegetation", (part,), (rng.uniform(0.15, 0.3), rng.uniform(0.3, 0.5), 0.15))


def pole(rng: np.random.Generator) -> Asset:
    height = rng.uniform(4, 8)
    return Asset("pole", (Part("cylinder", (0, 0, height / 2), (0.24, 0.24, height)),), (rng.uniform(0.3, 0.6),) * 3)


def sign(rng: np.random.Generator) -> Asset:
    parts = (Part("cylinder", (0, 0, 1.1), (0.1, 0.1, 2.2)), Part("box", (0, 0, 2.4), (0.08, 0.7, 0.7)))
    return Asset("sign", parts, tuple(rng.choice([0.1, 0.85], 3)))
