"""Questions that a robot asks of an answer: what is there, what moves, when would one meet it. Plain arrays, no ROS.

What is hidden behind a surface is unknown: it does not count. Ask `answer.believed()` to take it as the network believes it.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import ArrayLike

from letocc_core.errors import DataError
from letocc_core.stream.types import OccFlow


@dataclass(frozen=True, eq=False)
class OccupiedPoints:
    """n occupied voxels."""

    centres: Float[np.ndarray, "n 3"]  # m, ego axes
    velocity: Float[np.ndarray, "n 2"]  # m/s (vx, vy) relative to the world, ego axes
    probability: Float[np.ndarray, "n"]

    @property
    def speed(self) -> Float[np.ndarray, "n"]:
        """m/s"""
        return np.linalg.norm(self.velocity, axis=-1)

    @property
    def distance(self) -> Float[np.ndarray, "n"]:
        """m from the origin of the ego frame, along the ground."""
        return np.linalg.norm(self.centres[:, :2], axis=-1)


@dataclass(frozen=True, eq=False)
class PointStates:
    """What an answer says of n points."""

    known: Bool[np.ndarray, "n"]  # the cameras see the voxel; False where it is hidden, and outside the grid as well
    occupied: Bool[np.ndarray, "n"]  # behind a surface, as the network believes
    probability: Float[np.ndarray, "n"]  # NaN where not known
    velocity: Float[np.ndarray, "n 2"]  # m/s; NaN where not occupied

    @property
    def free(self) -> Bool[np.ndarray, "n"]:
        """Known, and not occupied."""
        return self.known & ~self.occupied


def occupied_points(answer: OccFlow, lowest: float = -np.inf, highest: float = np.inf) -> OccupiedPoints:
    """The occupied voxels that are seen and whose centres lie between two heights (m, ego frame), by flat index."""
    index = np.argwhere(answer.surfaces)
    centres = answer.grid.centres_of(index)
    kept = (centres[:, 2] >= lowest) & (centres[:, 2] <= highest)
    at = tuple(index[kept].T)
    return OccupiedPoints(centres[kept], answer.velocity[at], answer.probability[at])


def states_of(answer: OccFlow, points: ArrayLike) -> PointStates:
    """What the voxels say that hold these points ([n, 3], m, ego axes). Raises `DataError` for points that are not [n, 3]."""
    points = np.asarray(points, np.float64)
    if points.ndim != 2 or points.shape[1] != 3:
        raise DataError(f"points of shape {list(points.shape)}, expected [n, 3]: x, y, z in metres")
    index, inside = answer.grid.voxels_of(points)
    at = tuple(index.T)
    known = inside & answer.seen[at]
    occupied = inside & answer.occupied[at]
    return PointStates(
        known,
        occupied,
        np.where(known, answer.probability[at], np.nan),
        np.where(occupied[:, None], answer.velocity[at], np.nan),
    )


def time_to_collision(
    answer: OccFlow,
    path: ArrayLike,
    times: ArrayLike,
    radius: float,
    lowest: float = 0.3,
    highest: float = 2.0,
) -> float:
    """When a robot on a path first meets an occupied voxel that is seen. Each voxel goes on with its own velocity.

    Args:
        path: [k, 2] x, y (m, ego axes of the answer) of the robot's centre, k >= 1 places, with straight ways between them.
        times: [k] s after the answer's stamp at which it is there, increasing.
        radius: m around its centre that the robot takes; a voxel counts by the nearest point of its square.
        lowest, highest: m, heights between which voxels count: below is the road.

    Returns:
        s after the answer's stamp; infinite if it meets nothing. Exact to half a voxel's way.

    Raises `DataError` for a path that is none.
    """
    path, times = np.asarray(path, np.float64), np.asarray(times, np.float64)
    if path.ndim != 2 or path.shape[1:] != (2,) or times.shape != path.shape[:1] or not len(path):
        raise DataError(f"a path of {list(path.shape)} at times of {list(times.shape)}, expected [k, 2] at [k], k >= 1")
    if not (np.isfinite(path).all() and np.isfinite(times).all() and (np.diff(times) > 0).all()):
        raise DataError("a path has places or times that are not finite, or times that do not increase")
    points = occupied_points(answer, lowest, highest)
    half = answer.grid.voxel_size / 2
    for t in _moments(path, times, float(points.speed.max(initial=0.0)), half):
        robot = np.array([np.interp(t, times, path[:, axis]) for axis in (0, 1)])
        apart = np.abs(points.centres[:, :2] + points.velocity * t - robot)
        if (np.hypot(*np.maximum(apart - half, 0).T) <= radius).any():
            return float(t)
    return float("inf")


def _moments(path: np.ndarray, times: np.ndarray, speed: float, step: float) -> np.ndarray:
    """Times at which to look: between two of them robot and voxel come nearer by `step` m at most."""
    robot = np.linalg.norm(np.diff(path, axis=0), axis=1)
    seconds = np.diff(times)
    counts = np.ceil((robot + speed * seconds) / step).astype(int).clip(1)
    parts = [np.linspace(t, t + s, n, endpoint=False) for t, s, n in zip(times[:-1], seconds, counts, strict=True)]
    return np.concatenate([*parts, times[-1:]])
