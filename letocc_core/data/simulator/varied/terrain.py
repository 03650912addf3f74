"""The ground of varied streets: hills, the road's crown and the banks beside it, and a cross-section of strips."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from letocc_core.data.simulator.path import CentreLine

CHORD = 2.0  # m, longest side of a triangle of the ground across the street
LAND = 2.5  # m between the corners of the open land near the street
FAR = 400.0  # m to the edge of the land


@dataclass(frozen=True, eq=False)
class Hills:
    """Height of the land over the plane: a tilt and long waves. Heights add to whatever stands or lies on it."""

    tilt: Float[np.ndarray, "2"]  # slope along world x and y
    waves: Float[np.ndarray, "w 2"]  # rad/m along world x and y
    phases: Float[np.ndarray, "w"]  # rad
    heights: Float[np.ndarray, "w"]  # m

    @classmethod
    def random(cls, rng: np.random.Generator, steepest: float) -> "Hills":
        """Land whose slope reaches about `steepest` (rise over run) in places."""
        count = 4
        tilt = rng.normal(0, 0.3 * steepest, 2)
        direction, length = rng.uniform(0, 2 * np.pi, count), rng.uniform(50, 200, count)
        waves = np.stack([np.cos(direction), np.sin(direction)], 1) * (2 * np.pi / length)[:, None]
        slopes = rng.uniform(0, 0.6 * steepest, count)
        return cls(tilt, waves, rng.uniform(0, 2 * np.pi, count), slopes * length / (2 * np.pi))

    def height(self, points: Float[np.ndarray, "*n 2"]) -> Float[np.ndarray, "*n"] | np.floating:
        """m at world points."""
        return points @ self.tilt + np.sin(points @ self.waves.T + self.phases) @ self.heights

    def slope(self, points: Float[np.ndarray, "*n 2"]) -> Float[np.ndarray, "*n 2"]:
        """Rise over run along world x and y at world points."""
        return self.tilt + (np.cos(points @ self.waves.T + self.phases) * self.heights) @ self.waves


@dataclass(frozen=True)
class Profile:
    """Height across a street over its hills: the road falls from its middle, a bank rises or falls on either side."""

    crown: float = 0.0  # slope down from the middle of the road
    road: float = 0.0  # m from the middle to the edge of the road
    foot: float = 0.0  # m from the middle to where the banks begin
    banks: tuple[float, float] = (0.0, 0.0)  # slope up from there, to the left and to the right
    widths: tuple[float, float] = (0.0, 0.0)  # m; the land is level again beyond

    @classmethod
    def random(cls, rng: np.random.Generator, road: float, foot: float) -> "Profile":
        """Most roads have a crown of 1 to 3.5 %; two sides of three have a bank, often of 5 %, of 15 % at most."""
        crown = rng.uniform(0.01, 0.035) if rng.random() < 0.8 else 0.0
        banks = [np.clip(rng.normal(0, 0.06), -0.15, 0.15) if rng.random() < 0.67 else 0.0 for _ in range(2)]
        widths = rng.uniform(4, 15, 2)
        return cls(crown, road, foot, (float(banks[0]), float(banks[1])), (float(widths[0]), float(widths[1])))

    def height(self, offset: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
        """m at distances (m) to the left of the street's middle, negative to the right."""
        distance = np.abs(offset)
        crown = -self.crown * (np.sqrt(np.minimum(distance, self.road) ** 2 + 1) - 1)  # round in the middle
        side = (offset < 0).astype(int)
        return crown + np.take(self.banks, side) * np.clip(distance - self.foot, 0, np.take(self.widths, side))

    def slope(self, offset: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
        """Rise over run to the left, at such distances."""
        distance, side = np.abs(offset), (offset < 0).astype(int)
        crown = -self.crown * distance / np.sqrt(distance**2 + 1) * (distance < self.road)
        beyond = distance - self.foot
        bank = np.take(self.banks, side) * ((beyond > 0) & (beyond < np.take(self.widths, side)))
        return np.sign(offset) * (crown + bank)


@dataclass(frozen=True, eq=False)
class Land:
    """The land that a street goes through: hills, and the street's own profile. Heights add to whatever lies on it."""

    hills: Hills
    profile: Profile
    line: CentreLine

    def height(self, points: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n"]:
        """m at world points."""
        return self.relief(points)[0]

    def relief(self, points: Float[np.ndarray, "n 2"]) -> tuple[Float[np.ndarray, "n"], Float[np.ndarray, "n 2"]]:
        """Height (m) at world points, and rise over run along world x and y."""
        offset, heading = self.line.across(points)
        left = np.stack([-np.sin(heading), np.cos(heading)], -1)
        slope = self.hills.slope(points) + self.profile.slope(offset)[:, None] * left
        return self.hills.height(points) + self.profile.height(offset), slope

    def lifted(self, T: Float[np.ndarray, "4 4"], upright: bool) -> Float[np.ndarray, "4 4"]:
        """A pose on the plane put on the land: heading as before, and leaning with the land unless `upright`."""
        out = T.copy()
        (height,), (slope,) = self.relief(T[None, :2, 3])
        out[2, 3] += height
        if upright:
            return out
        up = np.array([-slope[0], -slope[1], 1.0])
        ahead = np.array([T[0, 0], T[1, 0], slope @ T[:2, 0]])
        (a, b, c), (x, y, z) = up / math.sqrt(up @ up), ahead / math.sqrt(ahead @ ahead)
        out[:3, :3] = [[x, b * z - c * y, a], [y, c * x - a * z, b], [z, a * y - b * x, c]]
        return out


@dataclass(frozen=True)
class Strip:
    """What lies between two distances from the centre line, on both sides of it."""

    inner: float  # m
    outer: float  # m
    height: float  # m over the land
    label: str  # one of truth.CLASS_NAMES
    paint: str  # of paints.PAINTS


@dataclass(frozen=True)
class Section:
    """A street's cross-section, strips from the middle outwards, and the open land beyond."""

    strips: tuple[Strip, ...]
    land: Strip

    def strip(self, distance: Float[np.ndarray, "n"]) -> Int[np.ndarray, "n"]:
        """Index of the strip at distances (m) from the centre line; that of the land is the number of strips."""
        return np.searchsorted([s.outer for s in self.strips], distance, side="right")

    @property
    def all(self) -> tuple[Strip, ...]:
        """The strips, the land last."""
        return (*self.strips, self.land)


@dataclass(frozen=True, eq=False)
class Sheet:
    """Triangles of the ground of one strip, with the street's coordinates of their corners."""

    strip: Strip
    vertices: Float[np.ndarray, "V 3"]  # m, world
    triangles: Int[np.ndarray, "F 3"]
    along: Float[np.ndarray, "V 3"]  # (s, d, height over the land), m


def sheets(line: CentreLine, section: Section, land: Land, centre: Float[np.ndarray, "2"]) -> list[Sheet]:
    """The ground as meshes: one sheet a strip, its steps down to its neighbours included, and the land as the last."""
    out = []
    for i, strip in enumerate(section.strips):
        inside = section.strips[i - 1].height if i else strip.height
        outside = section.all[i + 1].height
        across: list[tuple[float, float]] = []  # (distance, height)
        if strip.height > inside:
            across.append((strip.inner, inside))
        count = max(1, int(np.ceil((strip.outer - strip.inner) / CHORD)))
        across += [(d, strip.height) for d in np.linspace(strip.inner, strip.outer, count + 1)]
        if strip.height > outside:
            across.append((strip.outer, outside))
        both = [_ribbon(line, land, [(side * d, z) for d, z in across]) for side in (1, -1)]
        out.append(_joined(strip, both))
    return [*out, _open_land(section, land, centre)]


def _ribbon(line: CentreLine, land: Land, across: Sequence[tuple[float, float]]) -> tuple[np.ndarray, ...]:
    left = np.stack([-np.sin(line.heading), np.cos(line.heading)], 1)
    n = len(line.points)
    s = np.arange(n) * (line.length / n)
    vertices, along = [], []
    for d, z in across:
        xy = line.points + left * d
        vertices.append(np.column_stack([xy, land.height(xy) + z]))
        along.append(np.column_stack([s, np.full(n, d), np.full(n, z)]))
    i = np.arange(n - 1)
    quad = np.concatenate([np.stack([i, i + n, i + 1], 1), np.stack([i + 1, i + n, i + n + 1], 1)])
    triangles = np.concatenate([quad + k * n for k in range(len(across) - 1)])
    return np.concatenate(vertices), triangles, np.concatenate(along)


def _joined(strip: Strip, parts: Sequence[tuple]) -> Sheet:
    vertices, triangles, along = zip(*parts, strict=True)
    first = np.cumsum([0, *(len(v) for v in vertices[:-1])])
    faces = np.concatenate([t + k for t, k in zip(triangles, first, strict=True)])
    return Sheet(strip, np.concatenate(vertices), faces, np.concatenate(along))


def _open_land(section: Section, land: Land, centre: np.ndarray) -> Sheet:
    near = np.arange(-200, 200 + LAND, LAND)
    side = np.concatenate([[-FAR, -300], near, [300, FAR]])
    x, y = np.meshgrid(centre[0] + side, centre[1] + side, indexing="ij")
    xy = np.stack([x.ravel(), y.ravel()], 1)
    height = section.land.height
    vertices = np.column_stack([xy, land.height(xy) + height])
    n = len(side)
    i = (np.arange(n - 1)[:, None] * n + np.arange(n - 1)).ravel()
    triangles = np.concatenate([np.stack([i, i + n, i + 1], 1), np.stack([i + 1, i + n, i + n + 1], 1)])
    return Sheet(section.land, vertices, triangles, np.column_stack([xy, np.full(len(xy), height)]))
