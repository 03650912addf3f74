"""What any method must beat: a flat road, the mean of the training streets, and a world that stands still.

A baseline is one more prediction, scored by the same code as the model.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from scipy.ndimage import distance_transform_edt

from letocc_core.data.truth import FREE
from letocc_core.geometry.grid import GridSpec


@dataclass(frozen=True, eq=False)
class Scenery:
    """A fixed guess for every frame."""

    occupied: Bool[np.ndarray, "X Y Z"]
    sdf: Float[np.ndarray, "X Y Z"]  # m, positive = free; depth is rendered from it


def flat_road(grid: GridSpec) -> Scenery:
    """Nothing but the ground under base_link: the voxel layer that z = 0 lies in, or is the top of, and SDF = z."""
    z = grid.lower[2] + (np.arange(grid.shape[2]) + 0.5) * grid.voxel_size
    layer = np.arange(grid.shape[2]) == np.ceil(-grid.lower[2] / grid.voxel_size - 1e-6) - 1
    return Scenery(np.broadcast_to(layer, grid.shape).copy(), np.broadcast_to(z.astype(np.float32), grid.shape).copy())


def mean_occupancy(probability: Float[np.ndarray, "X Y Z"], grid: GridSpec) -> Scenery:
    """Voxels that are occupied in more than half of the training frames; its SDF is the distance to their surface."""
    occupied = probability > 0.5
    return Scenery(occupied, signed_distance(occupied, grid.voxel_size))


def mean_of(occupancies: Iterable[np.ndarray]) -> Float[np.ndarray, "X Y Z"]:
    """Share of the true grids (labels, FREE = empty) in which each voxel is occupied."""
    filled, count = np.zeros(()), 0
    for labels in occupancies:
        filled, count = filled + (labels != FREE), count + 1
    return (filled / count).astype(np.float32)


def signed_distance(occupied: Bool[np.ndarray, "X Y Z"], voxel_size: float) -> Float[np.ndarray, "X Y Z"]:
    """Distance (m) of voxel centres to the faces of the occupied voxels, about; negative inside."""
    if occupied.all() or not occupied.any():
        return np.full(occupied.shape, -1e3 if occupied.all() else 1e3, np.float32)
    outside, inside = distance_transform_edt(~occupied), distance_transform_edt(occupied)
    return ((outside - inside - np.where(occupied, -0.5, 0.5)) * voxel_size).astype(np.float32)
