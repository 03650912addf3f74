"""What moves, as objects: the moving voxels of an answer that touch and go the same way. One answer, no tracks."""

from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from letocc_core.stream.types import OccFlow

TOUCHING = 1.8  # voxels between the centres of two that share a face, an edge or a corner (at most sqrt(3))
SAME_MOTION = 2.0  # m/s, largest difference in velocity of two touching voxels of one object


@dataclass(frozen=True)
class MovingObject:
    """A box around voxels that move together, turned into the direction of motion."""

    position: tuple[float, float, float]  # m, centre of the box, ego axes
    size: tuple[float, float, float]  # m: along the motion, across it, up
    velocity: tuple[float, float]  # m/s (vx, vy) relative to the world, ego axes: the median of its voxels
    voxels: int  # how many

    @property
    def heading(self) -> float:
        """rad, direction of motion: 0 along x, counterclockwise."""
        return float(np.arctan2(self.velocity[1], self.velocity[0]))


def moving_objects(answer: OccFlow, min_speed: float, min_voxels: int) -> list[MovingObject]:
    """Objects of at least `min_voxels` occupied voxels faster than `min_speed` (m/s), the largest first.

    Hidden voxels do not count and are no part of a box, except in `answer.believed()`.
    """
    moving = answer.surfaces & (np.linalg.norm(answer.velocity, axis=-1) > min_speed)
    index, velocity = np.argwhere(moving), answer.velocity[moving]
    if not len(index):
        return []
    centres = answer.grid.centres_of(index)
    labels = _label(index, velocity)
    counts = np.bincount(labels)
    order = np.argsort(-counts, kind="stable")
    return [
        _box(centres[labels == label], velocity[labels == label], answer.grid.voxel_size)
        for label in order[counts[order] >= min_voxels]
    ]


def _label(index: np.ndarray, velocity: np.ndarray) -> np.ndarray:
    """[n] int: the object that each of n moving voxels belongs to."""
    pairs = cKDTree(index).query_pairs(TOUCHING, output_type="ndarray")
    apart = np.linalg.norm(velocity[pairs[:, 0]] - velocity[pairs[:, 1]], axis=-1)
    first, second = pairs[apart <= SAME_MOTION].T
    graph = coo_array((np.ones(len(first), bool), (first, second)), shape=(len(index), len(index)))
    return connected_components(graph, directed=False)[1]


def _box(centres: np.ndarray, velocity: np.ndarray, voxel_size: float) -> MovingObject:
    vx, vy = np.median(velocity, axis=0).tolist()
    speed = np.hypot(vx, vy)
    along = np.array([vx, vy]) / speed if speed > 0 else np.array([1.0, 0.0])
    axes = np.array([[*along, 0], [-along[1], along[0], 0], [0, 0, 1]])
    in_box = centres @ axes.T
    low, high = in_box.min(0), in_box.max(0)
    position = (low + high) / 2 @ axes
    return MovingObject(tuple(position.tolist()), tuple((high - low + voxel_size).tolist()), (vx, vy), len(centres))
