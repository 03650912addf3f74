"""Which voxels hold matter. Solids are filled (a car is occupied inside), the ground is the layer that holds its surface."""

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Bool, Float

from letocc_core.data.simulator import assets
from letocc_core.data.simulator.assets import Asset
from letocc_core.data.simulator.rig import Rig
from letocc_core.data.simulator.world import World
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
        self._shell = 1.5 * grid.voxel_size
        self._reach = float(np.abs([*grid.lower[:2], *grid.upper[:2]]).max() * np.sqrt(2) + 1)
        self._cache: dict[int, np.ndarray] = {}
        self._world = world
        self._statics = list(statics)

    def at(
        self, T_world_ego: Float[np.ndarray, "4 4"], actors: Sequence[tuple[Asset, np.ndarray, np.ndarray]]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Labels uint8 [X, Y, Z] and velocities float32 [X, Y, Z, 2] (m/s, ego axes).

        Args:
            actors: moving things with world pose and world velocity (m/s).
        """
        labels, velocity = self._ground(T_world_ego), np.zeros((*self.grid.shape, 2), np.float32)
        T_ego_world = np.linalg.inv(T_world_ego)
        for asset, T in self._statics:
            if self.is_near(asset, T, T_world_ego):
                for voxels in self._solid_voxels(asset, T_ego_world @ T):
                    labels[voxels] = CLASS_NAMES.index(asset.label)
        for asset, T, speed in actors:
            if self.is_near(asset, T, T_world_ego):
                for voxels in self._solid_voxels(asset, T_ego_world @ T):
                    labels[voxels] = CLASS_NAMES.index(asset.label)
                    velocity[voxels] = (speed @ T_world_ego[:3, :3])[:2]
        return labels, velocity

    def is_near(self, asset: Asset, T: Float[np.ndarray, "4 4"], T_world_ego: Float[np.ndarray, "4 4"]) -> bool:
        """Whether a thing with world pose `T` may reach into the grid."""
        return bool(np.abs(T[:2, 3] - T_world_ego[:2, 3]).max() < self._reach + asset.radius)

    def visible(
        self, depth: Float[np.ndarray, "N H W"], rig: Rig, T_ego_cam: Float[np.ndarray, "N 4 4"]
    ) -> Bool[np.ndarray, "X Y Z"]:
        """Voxels that some camera sees: their centre projects into its image, not behind what it shows there."""
        centres = self.centres.reshape(-1, 3)
        height, width = depth.shape[1:]
        T_cam_ego = np.linalg.inv(T_ego_cam).astype(np.float32)
        pixels, reach = rig.project(centres @ T_cam_ego[:, :3, :3].swapaxes(1, 2) + T_cam_ego[:, None, :3, 3])
        seen = np.zeros(len(centres), bool)
        for image, (u, v), far in zip(depth, pixels.transpose(0, 2, 1), reach, strict=True):
            inside = (far > 0.1) & (u > -0.5) & (v > -0.5) & (u < width - 0.5) & (v < height - 0.5)
            shown = image[(v[inside] + 0.5).astype(int), (u[inside] + 0.5).astype(int)]
            seen[inside] |= shown >= far[inside] - 0.5 * self.grid.voxel_size
        return seen.reshape(self.grid.shape)

    def _solid_voxels(self, asset: Asset, T_ego_thing: np.ndarray) -> Iterator[tuple]:
        """Indices into the grid of the voxels that hold some of an upright thing: its surface, and the inside of boxes."""
        if id(asset) not in self._cache:
            self._cache[id(asset)] = assets.solid_points(asset, self._spacing, self.grid.upper[2], self._shell)
        yield self._voxels(_place(self._cache[id(asset)], T_ego_thing))
        for part in asset.parts:
            if isinstance(part, assets.Part) and part.kind == "box" and min(part.size[:2]) > 2 * self._shell:
                yield self._inside(part, T_ego_thing)

    def _inside(self, box: assets.Part, T_ego_thing: np.ndarray) -> tuple:
        """Indices of the voxels whose centre lies in a box."""
        T = T_ego_thing.copy()
        T[:3, 3] += T[:3, :3] @ box.centre
        half = np.array(box.size) / 2 + 1e-6
        columns = self.centres[:, :, 0, :2] - T[:2, 3]
        x, y = np.nonzero((np.abs(columns) <= np.linalg.norm(half)).all(-1))
        local = (self.centres[x, y] - T[:3, 3]) @ T[:3, :3]
        column, layer = np.nonzero((np.abs(local) <= half).all(-1))
        return x[column], y[column], layer

    def _ground(self, T_world_ego: np.ndarray) -> np.ndarray:
        """The layers that hold the ground's surface: road, kerb (the pavement) or open ground, column by column.

        A column's surface is that at its middle, as high and low as its slope takes it within the voxel.
        """
        labels = np.full(self.grid.shape, FREE, np.uint8)
        columns = self.centres[:, :, 0].copy()
        for _ in range(3):  # a column of voxels leans with the ego vehicle
            world = _place(columns.reshape(-1, 3), T_world_ego)
            names, relief = self._world.ground(world[:, :2])
            columns[..., 2] += ((relief.sum(0) - world[:, 2]) / T_world_ego[2, 2]).reshape(self.grid.shape[:2])
        smooth = columns[..., 2] - relief[1].reshape(self.grid.shape[:2])
        spread = sum(np.abs(slope) for slope in np.gradient(smooth)) / 2
        for extent in (-spread, 0, spread):
            layer = np.floor((columns[..., 2] + extent - self.grid.lower[2]) / self.grid.voxel_size).astype(int)
            x, y = np.nonzero((layer >= 0) & (layer < self.grid.shape[2]))
            labels[x, y, layer[x, y]] = names.reshape(self.grid.shape[:2])[x, y]
        return labels

    def _voxels(self, points: Float[np.ndarray, "n 3"]) -> tuple[np.ndarray, ...]:
        """Indices of the voxels that hold the points inside the box."""
        index = np.floor((points - np.array(self.grid.lower)) / self.grid.voxel_size).astype(int)
        x, y, z = index.T
        X, Y, Z = self.grid.shape
        inside = (x >= 0) & (x < X) & (y >= 0) & (y < Y) & (z >= 0) & (z < Z)
        return x[inside], y[inside], z[inside]


def _place(points: np.ndarray, T: np.ndarray) -> np.ndarray:
    return points @ T[:3, :3].T + T[:3, 3]
