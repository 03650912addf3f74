"""Where the errors are: of voxels by whether the answer calls them seen or hidden, of depth by how far away things are."""

from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Float
from scipy.ndimage import distance_transform_edt

from letocc_core.geometry.grid import GridSpec
from letocc_core.metrics.depth import DepthRange
from letocc_core.metrics.motion import MOVING_SPEED, Mean
from letocc_core.metrics.occupancy import RING_NAMES, RINGS, Shares, VoxelTruth

NEAR_MOTION = 1.0  # m between the centres of a voxel and of the nearest one that moves
CAUSES = ("false_seen", "false_hidden", "missed_seen", "missed_hidden", "missed_outside", "moving")


def score_budget(
    truth: VoxelTruth,
    occupied: Bool[np.ndarray, "X Y Z"],
    seen: Bool[np.ndarray, "X Y Z"],
    observed: Bool[np.ndarray, "X Y Z"],
    grid: GridSpec,
    velocity: Float[np.ndarray, "X Y Z 2"] | None = None,
) -> dict[str, Shares]:
    """`error_budget` of one frame: shares of the known voxels that are wrong.

    `false_`: said to be occupied, and free; `missed_`: the other way round. `_seen`: the answer says that the cameras see
    the voxel; `_hidden`: that a surface of its own is before it, which in truth is not there; `_outside`: no camera looks.
    `moving`: within `NEAR_MOTION` of matter that moves in truth, whatever of the above it is.

    Args:
        seen, observed: of the answer.
        velocity: true one, m/s; without it there is no `moving`.
    """
    false, missed = occupied & ~truth.occupied & truth.known, ~occupied & truth.occupied & truth.known
    hidden = observed & ~seen
    parts = {
        "false_seen": false & seen,
        "false_hidden": false & hidden,
        "missed_seen": missed & seen,
        "missed_hidden": missed & hidden,
        "missed_outside": missed & ~observed,
    }
    if velocity is not None:
        moves = truth.occupied & (np.linalg.norm(velocity, axis=-1) > MOVING_SPEED)
        away = distance_transform_edt(~moves) * grid.voxel_size if moves.any() else np.full(grid.shape, np.inf)
        parts["moving"] = (false | missed) & (away <= NEAR_MOTION)
    wrong = int((false | missed).sum())
    return {"error_budget": Shares({name: (int(part.sum()), wrong) for name, part in parts.items()})}


@dataclass(frozen=True)
class DepthByDistance:
    """The `depth_by_distance` group of the results format: abs rel of all pixels together; add those of all frames."""

    errors: dict[str, Mean] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        true: Float[np.ndarray, "*n"],
        predicted: Float[np.ndarray, "*n"],
        valid: Bool[np.ndarray, "*n"],
        movable: Bool[np.ndarray, "*n"] | None,
        limits: DepthRange,
    ) -> "DepthByDistance":
        """By the true depth (m) of the valid pixels; `movable` ones also by themselves, where they are known."""
        with np.errstate(invalid="ignore"):
            valid = valid & (true > limits.lower) & (true < limits.upper)
        t = true[valid]
        error = np.abs(t - np.clip(predicted[valid], limits.lower, limits.upper)) / t
        rings = zip(RING_NAMES, pairwise(RINGS), strict=True)
        errors = {name: Mean.of(error[(t >= begin) & (t < end)]) for name, (begin, end) in rings}
        if movable is not None:
            errors["movable"] = Mean.of(error[movable[valid]])
        return cls(errors)

    def __add__(self, other: "DepthByDistance") -> "DepthByDistance":
        names = [*self.errors, *(n for n in other.errors if n not in self.errors)]
        return DepthByDistance({n: self.errors.get(n, Mean()) + other.errors.get(n, Mean()) for n in names})

    def summary(self) -> dict[str, float]:
        """abs rel by ring of true depth, and `movable`; without those of no pixel."""
        return {name: value for name, mean in self.errors.items() if (value := mean.value()) is not None}
