"""Voxels as a picture from an oblique view: ray casting with sun and shadow, on the CPU and without a display."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, UInt8

from letocc_core.geometry.grid import GridSpec
from letocc_core.geometry.ray_casting import cast
from letocc_core.viz import colours

SUN = np.array([-0.35, 0.45, 0.82]) / np.linalg.norm([-0.35, 0.45, 0.82])  # towards the light, ego axes
AMBIENT = 0.58  # light in the shadow
FACE_LIGHT = (0.86, 0.74, 1.0)  # of faces across x, y, z
EDGE = 0.05  # share of a voxel's face that its outline takes
EGO_BOX = ((-1.0, -0.9, 0.15), (3.6, 0.9, 1.6))  # m, base_link below the rear axle


@dataclass(frozen=True)
class View:
    """A perspective camera."""

    eye: tuple[float, float, float]  # m, ego axes
    target: tuple[float, float, float]  # m
    fov_deg: float = 42.0  # vertical
    height: int = 480  # px
    width: int = 800  # px

    @classmethod
    def behind(cls, grid: GridSpec, height: int = 480, width: int = 800) -> "View":
        """From behind and above, so that the whole box fills the picture."""
        lower, upper = np.array(grid.lower), np.array(grid.upper)
        span = upper - lower
        middle = (lower[1] + upper[1]) / 2
        eye = (lower[0] - 0.46 * span[0], middle + 0.16 * span[1], 0.66 * max(span[0], span[1]))
        target = (lower[0] + 0.41 * span[0], middle, 0.0)
        fov = np.degrees(2 * np.arctan(0.374 * max(1.0, 1.7 * height / width)))  # narrow pictures need a wider lens
        return cls(eye, target, float(fov), height, width)

    def axes(self) -> Float[np.ndarray, "3 3"]:
        """Rows: right, down, forward of the picture in ego axes."""
        forward = np.subtract(self.target, self.eye)
        forward = forward / np.linalg.norm(forward)
        right = np.cross(forward, (0.0, 0.0, 1.0))
        right /= np.linalg.norm(right)
        return np.stack([right, np.cross(forward, right), forward])

    @property
    def focal(self) -> float:
        """px"""
        return self.height / 2 / np.tan(np.radians(self.fov_deg) / 2)

    def rays(self, scale: int = 1) -> Float[np.ndarray, "P 3"]:
        """Unit directions through the pixels of a picture `scale` times as fine, row by row."""
        v, u = np.mgrid[: self.height * scale, : self.width * scale]
        x = ((u + 0.5) / scale - self.width / 2) / self.focal
        y = ((v + 0.5) / scale - self.height / 2) / self.focal
        directions = np.stack([x, y, np.ones_like(x)], axis=-1).reshape(-1, 3) @ self.axes()
        return directions / np.linalg.norm(directions, axis=1, keepdims=True)

    def project(self, points: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 2"]:
        """Pixels of points (m, ego axes) in front of the camera."""
        x, y, z = (np.subtract(points, self.eye) @ self.axes().T).T
        z = np.maximum(z, 0.1)
        return np.stack([x / z * self.focal + self.width / 2, y / z * self.focal + self.height / 2], axis=1)


def render_voxels(
    occupied: Bool[np.ndarray, "X Y Z"],
    colour: UInt8[np.ndarray, "X Y Z 3"],
    grid: GridSpec,
    view: View,
    ego: bool = True,
    antialias: int = 2,
) -> UInt8[np.ndarray, "h w 3"]:
    """A shaded picture of the occupied voxels.

    Args:
        colour: RGB of each voxel.
        ego: draw the ego vehicle as a box.
        antialias: rays a pixel and axis.
    """
    directions = view.rays(antialias)
    image = np.empty((len(directions), 3), np.float32)
    image[:] = colours.SKY
    distance = np.full(len(directions), np.inf)
    _paint_floor(image, distance, directions, grid, view)
    _paint_voxels(image, distance, directions, occupied, colour, grid, view)
    if ego:
        _paint_ego(image, distance, directions, view)
    shape = (view.height, antialias, view.width, antialias, 3)
    return np.clip(image.reshape(shape).mean(axis=(1, 3)).round(), 0, 255).astype(np.uint8)


def voxel_heights(grid: GridSpec) -> Float[np.ndarray, "X Y Z"]:
    """Height of voxel centres above the road, m."""
    z = grid.lower[2] + (np.arange(grid.shape[2]) + 0.5) * grid.voxel_size
    return np.broadcast_to(z, grid.shape)


def _slab(
    origins: np.ndarray, directions: np.ndarray, lower: np.ndarray, upper: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where rays enter a box (or boxes, one a ray), where they leave it, and the axis of the face they enter by."""
    with np.errstate(divide="ignore", invalid="ignore"):
        a, b = (lower - origins) / directions, (upper - origins) / directions
    near = np.nan_to_num(np.minimum(a, b), nan=-np.inf)
    return near.max(1), np.nan_to_num(np.maximum(a, b), nan=np.inf).min(1), near.argmax(1)


def _paint_floor(image: np.ndarray, distance: np.ndarray, directions: np.ndarray, grid: GridSpec, view: View) -> None:
    """The box's footprint as a pale plate below everything."""
    lower, upper = np.array(grid.lower), np.array(grid.upper)
    with np.errstate(divide="ignore"):
        t = (lower[2] - view.eye[2]) / directions[:, 2]
    xy = view.eye[:2] + directions[:, :2] * np.where(np.isfinite(t), t, 0)[:, None]
    on = (t > 0) & (xy >= lower[:2]).all(1) & (xy < upper[:2]).all(1)
    image[on] = colours.UNSEEN
    distance[on] = t[on]


def _paint_voxels(
    image: np.ndarray,
    distance: np.ndarray,
    directions: np.ndarray,
    occupied: np.ndarray,
    colour: np.ndarray,
    grid: GridSpec,
    view: View,
) -> None:
    lower, size = np.array(grid.lower), grid.voxel_size
    eye = np.broadcast_to((np.array(view.eye) - lower) / size, directions.shape)
    enter, leave, _ = _slab(eye, directions, np.zeros(3), np.array(grid.shape))
    rays = np.flatnonzero((leave > enter) & (leave > 0))
    d = directions[rays]
    start = eye[rays] + d * np.maximum(enter[rays], 0)[:, None]
    hits = cast(occupied, np.clip(start, 1e-6, np.array(grid.shape) - 1e-6), d)
    rays, d, voxel = rays[hits.hit], d[hits.hit], hits.voxel[hits.hit]
    t, _, axis = _slab(eye[rays], d, voxel, voxel + 1)
    points = eye[rays] + d * t[:, None]
    light = np.array(FACE_LIGHT)[axis] * _sunlight(occupied, points, axis, d)
    shade = np.where(_on_edge(points - voxel, axis), 0.86, 1.0) * light
    image[rays] = colour[tuple(voxel.T)] * shade[:, None]
    distance[rays] = t * size


def _sunlight(occupied: np.ndarray, points: np.ndarray, axis: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """1 where the sun reaches a point on a face, `AMBIENT` in shadow and on faces turned away from it."""
    outward = -np.sign(directions[np.arange(len(points)), axis])
    lit = outward * SUN[axis] > 0
    start = points.copy()
    start[np.arange(len(points)), axis] += outward * 1e-3
    inside = ((start > 0) & (start < occupied.shape)).all(1) & lit
    shadow = cast(occupied, start[inside], np.broadcast_to(SUN, (int(inside.sum()), 3))).hit
    light = np.where(lit, 1.0, AMBIENT + 0.12)
    light[np.flatnonzero(inside)[shadow]] = AMBIENT
    return light


def _on_edge(local: np.ndarray, axis: np.ndarray) -> np.ndarray:
    """Whether points on a voxel's face (coordinates in [0, 1]) lie on its outline."""
    border = np.minimum(local, 1 - local)
    border[np.arange(len(axis)), axis] = 1
    return border.min(1) < EDGE


def _paint_ego(image: np.ndarray, distance: np.ndarray, directions: np.ndarray, view: View) -> None:
    eye = np.broadcast_to(np.array(view.eye, np.float64), directions.shape)
    enter, leave, axis = _slab(eye, directions, np.array(EGO_BOX[0]), np.array(EGO_BOX[1]))
    seen = (leave > enter) & (enter > 0) & (enter < distance)
    image[seen] = np.array(colours.EGO) * np.array(FACE_LIGHT)[axis[seen], None]
    distance[seen] = enter[seen]
