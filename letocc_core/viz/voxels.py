"""Voxels as a picture from an oblique view: ray casting with sun and shadow, on the CPU and without a display."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Bool, Float, UInt8
from numba import njit

from letocc_core.compiled.threads import shared
from letocc_core.geometry.grid import GridSpec
from letocc_core.geometry.ray_casting import WALL, enter_grid
from letocc_core.viz import colours

SUN = np.array([-0.35, 0.45, 0.82]) / np.linalg.norm([-0.35, 0.45, 0.82])  # towards the light, ego axes
AMBIENT = 0.58  # light in the shadow
AWAY = AMBIENT + 0.12  # light of faces turned away from the sun
OUTLINE = 0.86  # light of a face's outline
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

    @lru_cache(maxsize=1)  # noqa: B019 -- a view is a value; an animation asks for the same ones again and again
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
    lower, size = np.array(grid.lower), grid.voxel_size
    cells = np.full(np.add(grid.shape, 2), WALL, np.uint8)
    cells[1:-1, 1:-1, 1:-1] = occupied
    box = (np.array(EGO_BOX) - lower) / size if ego else np.full((2, 3), np.inf)
    paints = np.array([colours.SKY, colours.UNSEEN, colours.EGO], np.float32)
    eye = (np.array(view.eye) - lower) / size
    shared(_paint, len(directions), image, eye, directions, cells.reshape(-1), cells.shape, colour, box, paints)
    shape = (view.height, antialias, view.width, antialias, 3)
    return np.clip(image.reshape(shape).mean(axis=(1, 3)).round(), 0, 255).astype(np.uint8)


def voxel_heights(grid: GridSpec) -> Float[np.ndarray, "X Y Z"]:
    """Height of voxel centres above the road, m."""
    z = grid.lower[2] + (np.arange(grid.shape[2]) + 0.5) * grid.voxel_size
    return np.broadcast_to(z, grid.shape)


@njit(cache=True, nogil=True, error_model="numpy")
def _paint(first, last, image, eye, directions, cells, shape, colour, box, paints):
    """Colours of rays: of what is nearest of voxels, the ego vehicle's box, the plate below everything, and the sky.

    Args:
        eye, box: voxel units; the box is at infinity if it is not to be drawn.
        cells: the grid with a wall around it; `shape` counts the wall.
        paints: of the sky, of the plate and of the ego vehicle.
    """
    sun = (SUN[0], SUN[1], SUN[2])
    for ray in range(first, last):
        d = (directions[ray, 0], directions[ray, 1], directions[ray, 2])
        at, light, paint = np.inf, 1.0, 0
        if d[2] != 0 and -eye[2] / d[2] > 0:
            t = -eye[2] / d[2]
            if 0 <= eye[0] + t * d[0] < shape[0] - 2 and 0 <= eye[1] + t * d[1] < shape[1] - 2:
                at, paint = t, 1
        enter, leave, axis = _slab(eye, d, (0.0, 0.0, 0.0), (shape[0] - 2.0, shape[1] - 2.0, shape[2] - 2.0))
        if leave > max(enter, 0.0):
            t, axis, i, j, k = _first(cells, shape, eye, d, max(enter, 0.0), axis)
            if t < at:
                at, paint = t, -1
                x, y, z = eye[0] + t * d[0], eye[1] + t * d[1], eye[2] + t * d[2]
                light = _light(cells, shape, (x, y, z), d, axis, sun)
                if _on_edge(x - i, y - j, z - k, axis):
                    light *= OUTLINE
                image[ray] = colour[i, j, k] * light
        enter, leave, axis = _slab(eye, d, box[0], box[1])
        if leave > enter and 0 < enter < at:
            at, paint, light = enter, 2, FACE_LIGHT[axis]
        if paint >= 0:
            image[ray] = paints[paint] * light


@njit(cache=True, nogil=True, error_model="numpy")
def _slab(origin, direction, lower, upper):
    """Where a ray enters a box, where it leaves it, and the axis of the face that it enters by."""
    enter, leave, axis = -np.inf, np.inf, 0
    for n in range(3):
        if direction[n] == 0:
            if not lower[n] <= origin[n] < upper[n]:
                return np.inf, -np.inf, 0
            continue
        a, b = (lower[n] - origin[n]) / direction[n], (upper[n] - origin[n]) / direction[n]
        if min(a, b) > enter:
            enter, axis = min(a, b), n
        leave = min(leave, max(a, b))
    return enter, leave, axis


@njit(cache=True, nogil=True, error_model="numpy")
def _first(cells, shape, origin, direction, start, axis):
    """Distance at which a ray that is in the grid from `start` on enters an occupied voxel, by which axis, and the voxel.

    Infinity where it meets none. `axis` is that of the face by which it came to `start`.
    """
    place = (
        min(max(origin[0] + start * direction[0], 1e-6), shape[0] - 2 - 1e-6),
        min(max(origin[1] + start * direction[1], 1e-6), shape[1] - 2 - 1e-6),
        min(max(origin[2] + start * direction[2], 1e-6), shape[2] - 2 - 1e-6),
    )
    _, (i, j, k), (x, y, z), (a, b, c), (step_x, step_y, step_z) = enter_grid(shape, place, direction)
    t = 0.0
    while True:
        cell = cells[((i + 1) * shape[1] + j + 1) * shape[2] + k + 1]
        if cell == WALL:
            return np.inf, axis, i, j, k
        if cell != 0:
            return start + t, axis, i, j, k
        if x < y and x < z:
            t, axis = x, 0
            x += step_x
            i += a
        elif x >= y and y < z:
            t, axis = y, 1
            y += step_y
            j += b
        else:
            t, axis = z, 2
            z += step_z
            k += c


@njit(cache=True, nogil=True, error_model="numpy")
def _light(cells, shape, point, direction, axis, sun):
    """Of a face across `axis` at a point: less where it is turned away from the sun, and in the shadow of other voxels."""
    outward = -1.0 if direction[axis] > 0 else 1.0
    if outward * sun[axis] <= 0:
        return FACE_LIGHT[axis] * AWAY
    x, y, z = point
    start = (
        x + outward * 1e-3 * (axis == 0),
        y + outward * 1e-3 * (axis == 1),
        z + outward * 1e-3 * (axis == 2),
    )
    inside = 0 < start[0] < shape[0] - 2 and 0 < start[1] < shape[1] - 2 and 0 < start[2] < shape[2] - 2
    if inside and _first(cells, shape, start, sun, 0.0, axis)[0] < np.inf:
        return FACE_LIGHT[axis] * AMBIENT
    return FACE_LIGHT[axis]


@njit(cache=True, nogil=True, error_model="numpy")
def _on_edge(x, y, z, axis):
    """Whether a point on a voxel's face (coordinates in [0, 1]) lies on its outline."""
    u, v = (y, z) if axis == 0 else ((x, z) if axis == 1 else (x, y))
    return min(min(u, 1 - u), min(v, 1 - v)) < EDGE
