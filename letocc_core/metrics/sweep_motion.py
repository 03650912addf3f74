"""Whether velocities agree with the LiDAR alone: a return, moved by its velocity, must fall on a later sweep.

Returns of a sweep between two heights, in the box and where a camera looks, take the velocity of the nearest occupied
voxel within `REACH` (none: they stand still) and are moved for the time between the sweeps. Distances to the later
sweep's returns of the same heights are horizontal, as velocities are, so that the gaps between a LiDAR's rings do not
count. A return has *changed* if nothing is found within `TOLERANCE` of where it was:

- `explained`: share of the changed returns that the velocities bring within `TOLERANCE` of a return;
- `spoilt`: share of the unchanged ones that the velocities move away from all returns.

Standing still explains nothing and spoils nothing. True velocities do not explain everything: what is hidden or out of
sight in the later sweep has changed as well, for every method alike.
"""

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float
from scipy.spatial import KDTree

from letocc_core.geometry.grid import GridSpec
from letocc_core.metrics.motion import Mean

HEIGHTS = (0.4, 2.5)  # m above base_link's ground: traffic, without road and treetops
TOLERANCE = 0.3  # m
REACH = 1.0  # m from a return to the voxel whose velocity it takes


@dataclass(frozen=True)
class SweepMotionScore:
    """The `sweep_motion` group of the results format; add the scores of all frames."""

    explained: Mean = field(default_factory=Mean)
    spoilt: Mean = field(default_factory=Mean)

    @classmethod
    def of(
        cls,
        points: Float[np.ndarray, "P 3"],
        later: Float[np.ndarray, "Q 3"],
        velocity: Float[np.ndarray, "P 2"],
        seconds: float,
    ) -> "SweepMotionScore":
        """Judge velocities of returns.

        Args:
            points: returns of a sweep, m in ego axes.
            later: returns of a later sweep, m in the same axes, as if the vehicle had stood still between the two.
            velocity: of `points`, m/s in these axes.
            seconds: between the sweeps.
        """
        if not len(points) or not len(later):
            return cls()
        tree = KDTree(later[:, :2])
        changed = _nothing_near(tree, points[:, :2])
        missed = _nothing_near(tree, points[:, :2] + velocity * seconds)
        return cls(Mean.of(~missed[changed]), Mean.of(missed[~changed]))

    @classmethod
    def of_answer(
        cls,
        sweep: Float[np.ndarray, "P 3"],
        later: Float[np.ndarray, "Q 3"],
        seconds: float,
        occupied: Bool[np.ndarray, "X Y Z"],
        velocity: Float[np.ndarray, "X Y Z 2"],
        observed: Bool[np.ndarray, "X Y Z"],
        grid: GridSpec,
    ) -> "SweepMotionScore":
        """Judge the velocities of an answer by two sweeps (m, ego axes of the answer)."""
        sweep, later = _of_traffic(sweep), _of_traffic(later)
        voxel, seen = grid.voxels_of(sweep)
        seen[seen] = observed[tuple(voxel[seen].T)]
        points = sweep[seen]
        return cls.of(points, later, _velocity_at(points, occupied, velocity, grid), seconds)

    def __add__(self, other: "SweepMotionScore") -> "SweepMotionScore":
        return SweepMotionScore(self.explained + other.explained, self.spoilt + other.spoilt)

    def summary(self) -> dict[str, float]:
        """`explained` and `spoilt` (shares); without those of no return."""
        values = {"explained": self.explained.value(), "spoilt": self.spoilt.value()}
        return {k: v for k, v in values.items() if v is not None}


def _nothing_near(tree: KDTree, places: Float[np.ndarray, "P 2"]) -> Bool[np.ndarray, "P"]:
    distance, _ = tree.query(places, distance_upper_bound=TOLERANCE)
    return ~np.isfinite(distance)


def _of_traffic(points: np.ndarray) -> np.ndarray:
    low, high = HEIGHTS
    return points[np.isfinite(points).all(1) & (points[:, 2] > low) & (points[:, 2] < high)].astype(np.float64)


def _velocity_at(points: np.ndarray, occupied: np.ndarray, velocity: np.ndarray, grid: GridSpec) -> np.ndarray:
    """Velocity of the occupied voxel nearest to each point; zero where none is within `REACH`."""
    index = np.argwhere(occupied)
    out = np.zeros((len(points), 2))
    if len(index) and len(points):
        centres = grid.centres_of(index)
        distance, nearest = KDTree(centres).query(points, distance_upper_bound=REACH)
        found = np.isfinite(distance)
        out[found] = velocity[tuple(index[nearest[found]].T)]
    return out
