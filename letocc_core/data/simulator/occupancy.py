"""Which voxels hold matter. Solids are filled (a car is occupied inside), the ground is the layer that holds its surface."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float
from scipy.spatial import cKDTree

from letocc_core.data.simulator import assets
from letocc_core.data.simulator.assets import Asset
from letocc_core.data.simulator.world import PAVEMENT, ROAD, World
from letocc_core.data.truth import CLASS_NAMES, FREE
from letocc_core.geometry.grid import GridSpec


class OccupancyTruth:
    """Occupancy of one street on a grid that moves with the ego vehicle.

    Args:
        statics: things that stand still, with their world poses.
    """

    def __init__(self, grid: GridSpec, world: World, statics: Sequence[tuple[Asset, np.ndarray]]):
        self.grid = grid
        self.centres = grid.centres().numpy()
        self._spacing = 0.6 * grid.voxel_size
        self._reach = float(np.abs([*grid.lower[:2], *grid.upper[:2]]).max() * np.sqrt(2) + 1)
        self._cache: dict[int, np.ndarray] = {}
        self._line = cKDTree(world.line.points)
        placed = [_place(self._solid(asset), T) for asset, T in statics]
        self._points = np.concatenate(placed) if placed else np.zeros((0, 3))
        self._labels = np.repeat([CLASS_NAMES.index(a.label) for a, _ in statics], [len(p) for p in placed]).astype(
            np.uint8
        )

    def at(
        self, T_world_ego: Float[np.ndarray, "4 4"], actors: Sequence[tuple[Asset, np.ndarray, np.ndarray]]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Labels uint8 [X, Y, Z] and velocities float32 [X, Y, Z, 2] (m/s, ego axes).

        Args:
            actors: moving things with world pose and world velocity (m/s).
        """
        labels, velocity = self._ground(T_world_ego), np.zeros((*self.grid.shape, 2), np.float32)
        T_ego_world = np.linalg.inv(T_world_ego)
        near = np.abs(self._points[:, :2] - T_world_ego[:2, 3]).max(1) < self._reach
        index, inside = self._voxels(_place(self._points[near], T_ego_world))
        labels[tuple(index.T)] = self._labels[near][inside]
        for asset, T, speed in actors:
            if np.abs(T[:2, 3] - T_world_ego[:2, 3]).max() > self._reach + asset.radius:
                continue
            index, _ = self._voxels(_place(self._solid(asset), T_ego_world @ T))
            labels[tuple(index.T)] = CLASS_NAMES.index(asset.label)
            velocity[tuple(index.T)] = speed @ T_world_ego[:2, :2]
        return labels, velocity

    def visible(
        self, depth: Float[np.ndarray, "N H W"], K: Float[np.ndarray, "N 3 3"], T_ego_cam: Float[np.ndarray, "N 4 4"]
    ) -> Bool[np.ndarray, "X Y Z"]:
        """Voxels that some camera sees: their centre projects into its image, not behind what it shows there."""
        centres = self.centres.reshape(-1, 3)
        seen = np.zeros(len(centres), bool)
        height, width = depth.shape[1:]
        for image, k, T in zip(depth, K.astype(np.float32), np.linalg.inv(T_ego_cam).astype(np.float32), strict=True):
            x, y, z = T[:3, :3] @ centres.T + T[:3, 3:]
            front = np.maximum(z, 0.1)
            u, v = x / front * k[0, 0] + k[0, 2], y / front * k[1, 1] + k[1, 2]
            inside = (z > 0.1) & (u > -0.5) & (v > -0.5) & (u < width - 0.5) & (v < height - 0.5)
            shown = image[(v[inside] + 0.5).astype(int), (u[inside] + 0.5).astype(int)]
            seen[inside] |= shown >= z[inside] - 0.5 * self.grid.voxel_size
        return seen.reshape(self.grid.shape)

    def _solid(self, asset: Asset) -> np.ndarray:
        key = id(asset)
        if key not in self._cache:
            self._cache[key] = assets.solid_points(asset, self._spacing, top=self.grid.upper[2])
        return self._cache[key]

    def _ground(self, T_world_ego: np.ndarray) -> np.ndarray:
        """The layer that holds z = 0: road, kerb (the pavement) or open ground by distance to the centre line."""
        labels = np.full(self.grid.shape, FREE, np.uint8)
        layer = int(np.floor((0.0 - self.grid.lower[2]) / self.grid.voxel_size))
        if not 0 <= layer < self.grid.shape[2]:
            return labels
        columns = _place(self.centres[:, :, layer].reshape(-1, 3), T_world_ego)
        distance = self._line.query(columns[:, :2])[0].reshape(self.grid.shape[:2])
        names = np.select([distance < ROAD, distance < PAVEMENT], [0, 1], 2)
        labels[:, :, layer] = np.array([CLASS_NAMES.index(n) for n in ("road", "kerb", "ground")], np.uint8)[names]
        return labels

    def _voxels(self, points: Float[np.ndarray, "n 3"]) -> tuple[np.ndarray, np.ndarray]:
        """Indices of the voxels that hold the points inside the box, and which points those are."""
        index = np.floor((points - np.array(self.grid.lower)) / self.grid.voxel_size).astype(int)
        inside = ((index >= 0) & (index < np.array(self.grid.shape))).all(1)
        return index[inside], inside


def _place(points: np.ndarray, T: np.ndarray) -> np.ndarray:
    return points @ T[:3, :3].T + T[:3, 3]
