"""An answer from above, for planners: the cost of each column between two heights, and how far free space is seen."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int8, Shaped

from letocc_core.errors import ConfigError
from letocc_core.geometry.grid import GridSpec
from letocc_core.stream.types import OccFlow

UNKNOWN, OCCUPIED = -1, 100  # of `nav_msgs/OccupancyGrid`
SAMPLES = 3  # a side of a cell: fewer could miss a cell that lies askew


@dataclass(frozen=True)
class Band:
    """Heights above the ego frame. Raises `ConfigError` unless `lowest` is below `highest`."""

    lowest: float  # m
    highest: float  # m

    def __post_init__(self):
        if not self.lowest < self.highest:
            raise ConfigError(
                f"heights from {self.lowest:g} to {self.highest:g} m, expected the first below the second"
            )

    def layers(self, answer: OccFlow) -> Bool[np.ndarray, "Z"]:
        """The layers of the answer's grid whose centres lie in it."""
        grid = answer.grid
        heights = grid.lower[2] + (np.arange(grid.shape[2]) + 0.5) * grid.voxel_size
        return (heights >= self.lowest) & (heights <= self.highest)


def moving(answer: OccFlow, min_speed: float) -> Bool[np.ndarray, "X Y Z"]:
    """Occupied voxels faster than this (m/s)."""
    return answer.occupied & (np.linalg.norm(answer.velocity, axis=-1) > min_speed)


def column_costs(
    answer: OccFlow, band: Band, without: Bool[np.ndarray, "X Y Z"] | None = None
) -> Int8[np.ndarray, "X Y"]:
    """100 where the cameras see an occupied voxel of the column, -1 elsewhere if one is hidden or none is looked at.

    Where neither is so, 99 times the largest probability.

    Args:
        without: voxels that count as free, such as those that move.
    """
    layers = band.layers(answer)
    seen = answer.seen[:, :, layers]
    hidden, occupied = answer.observed[:, :, layers] & ~seen, answer.occupied[:, :, layers] & seen
    probability = np.where(seen, answer.probability[:, :, layers], 0)
    if without is not None:
        left_out = without[:, :, layers]
        occupied, probability = occupied & ~left_out, np.where(left_out, 0, probability)
    cost = np.rint(99 * probability.max(-1, initial=0)).astype(np.int8)
    cost[hidden.any(-1) | ~seen.any(-1)] = UNKNOWN
    cost[occupied.any(-1)] = OCCUPIED
    return cost


def costs_in_fixed_frame(
    cost: Int8[np.ndarray, "X Y"], grid: GridSpec, T_fixed_ego: Shaped[np.ndarray, "4 4"]
) -> tuple[Int8[np.ndarray, "N N"], tuple[float, float]]:
    """The same costs in cells of the fixed frame, and the corner (m) of the first: x and y, whole cells from the origin.

    So what stands still stays in its cells while the vehicle moves. The grid is the smallest square that holds the one of
    the vehicle however it is turned; beside that one, nothing is known. A cell has the highest cost of those of the
    vehicle's that it covers a part of, so that nothing occupied is lost. Of the pose, x, y and heading count.
    """
    size, n = grid.voxel_size, int(np.ceil(np.hypot(*grid.shape[:2]))) + 1
    heading = np.arctan2(T_fixed_ego[1, 0], T_fixed_ego[0, 0])
    R = np.array([[np.cos(heading), -np.sin(heading)], [np.sin(heading), np.cos(heading)]])
    middle = R @ (np.asarray(grid.lower[:2]) + np.asarray(grid.upper[:2])) / 2 + T_fixed_ego[:2, 3]
    first = np.round(middle / size - n / 2).astype(int)
    steps = (np.arange(n * SAMPLES) + 0.5) / SAMPLES
    places = np.stack(np.meshgrid(first[0] + steps, first[1] + steps, indexing="ij"), -1) * size
    index = np.floor(((places - T_fixed_ego[:2, 3]) @ R - grid.lower[:2]) / size).astype(int)
    inside = ((index >= 0) & (index < grid.shape[:2])).all(-1)
    x, y = np.where(inside[..., None], index, 0).transpose(2, 0, 1)
    samples = np.where(inside, cost[x, y], np.int8(UNKNOWN)).reshape(n, SAMPLES, n, SAMPLES)
    return samples.max((1, 3)), (float(first[0] * size), float(first[1] * size))


def free_ends(answer: OccFlow, band: Band, blind: float) -> Float[np.ndarray, "n 3"]:
    """How far one sees from the origin of the ego frame: where rays over the ground end (m, ego axes).

    A ray ends before the first column that is occupied in the band, or of which something there is hidden or nobody sees
    any; the columns before its end are free. All columns of the grid that can be reached lie on some ray. Near the vehicle no camera sees the ground:
    a ray goes over unseen columns at its start, up to `blind` m, and is left out if those reach farther.

    Args:
        blind: m from the origin.
    """
    grid, layers = answer.grid, band.layers(answer)
    if not layers.any():
        return np.zeros((0, 3))
    hidden = (answer.observed & ~answer.seen)[:, :, layers].any(-1)
    seen = answer.seen[:, :, layers].any(-1) & ~hidden
    stops = (answer.occupied & answer.seen)[:, :, layers].any(-1)
    corners = np.abs([grid.lower[:2], grid.upper[:2]]).max(0)
    farthest, step = float(np.hypot(*corners)), grid.voxel_size / 2
    angles = np.linspace(-np.pi, np.pi, int(np.ceil(4 * np.pi * farthest / grid.voxel_size)), endpoint=False)
    distance = np.arange(1, int(farthest / step) + 1) * step
    places = distance[:, None] * np.stack([np.cos(angles), np.sin(angles)], -1)[:, None]  # [rays, steps, 2]
    index = np.floor((places - grid.lower[:2]) / grid.voxel_size).astype(int)
    inside = ((index >= 0) & (index < grid.shape[:2])).all(-1)
    at = tuple(np.where(inside[..., None], index, 0).transpose(2, 0, 1))
    looked, blocked = inside & seen[at], inside & stops[at]
    begun = np.logical_or.accumulate(looked, axis=1)
    ends = blocked | (begun & ~looked)  # beyond the grid nothing is seen
    last = np.where(ends.any(1), ends.argmax(1), len(distance)) - 1
    rays = np.arange(len(angles))
    kept = (last >= 0) & looked[rays, last] & (distance[begun.argmax(1)] <= blind)
    height = (max(band.lowest, grid.lower[2]) + min(band.highest, grid.upper[2])) / 2
    return np.column_stack([places[rays[kept], last[kept]], np.full(kept.sum(), height)])
