"""RayIoU: intersection over union of what rays from the LiDAR's place hit first, in truth and in prediction.

Only rays that hit something in truth count. A true positive is a ray whose prediction hits too (the same class, where
classes are compared) at a distance off by less than the threshold; `IoU = TP / (TRUE + PREDICTED - TP)`, so that a hit
at the wrong distance costs twice and a miss once. Counts are summed over the whole data set before dividing.

Three protocols are in use:
- `RayCounts.semantic`: SparseOcc (arXiv 2312.17118) and OpenOcc, per class, mean over classes and thresholds;
- `RayCounts.geometric`: the same with the classes (occupied, free), which is what this project reports as `ray_iou`;
- `RayCounts.class_given`: what Let Occ Flow's evaluation counts: the predicted class is replaced by the true one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from jaxtyping import Bool, Float, Integer

from letocc_core.geometry.grid import GridSpec
from letocc_core.geometry.ray_casting import RayHits, cast

THRESHOLDS = (1.0, 2.0, 4.0)  # m, strict
TOP_PITCH = 0.21  # rad, the upper end of nuScenes' LiDAR
MAX_ORIGINS = 8  # origins a frame
ORIGIN_MARGIN = 1.0  # m that an origin keeps from the box's sides


@cache
def lidar_directions() -> Float[np.ndarray, "14040 3"]:
    """The protocol's rays: 39 pitches from -45 to 12.5 degrees times 360 azimuths, float32 unit vectors.

    The first ten pitches have slopes -1/1, -1/2, ... -1/10; from there the last step is repeated upwards.
    """
    pitches = [-(np.pi / 2 - np.arctan(k)) for k in range(1, 11)]
    while pitches[-1] < TOP_PITCH:
        pitches.append(pitches[-1] + (pitches[-1] - pitches[-2]))
    pitch, azimuth = np.meshgrid(pitches, np.deg2rad(np.arange(360)), indexing="ij")
    rays = np.stack([np.cos(pitch) * np.cos(azimuth), np.cos(pitch) * np.sin(azimuth), np.sin(pitch)], axis=-1)
    return rays.reshape(-1, 3).astype(np.float32)


def select_origins(positions: Float[np.ndarray, "M 3"], grid: GridSpec) -> Float[np.ndarray, "N 3"]:
    """At most 8 of a sequence's LiDAR positions (m, ego axes of the evaluated frame, in time order).

    Those in the box less 1 m at its sides (the protocol's |x|, |y| < 39 m in a box of 40 m), evenly spread in time.
    """
    positions = np.asarray(positions, np.float64)
    lower, upper = np.array(grid.lower[:2]) + ORIGIN_MARGIN, np.array(grid.upper[:2]) - ORIGIN_MARGIN
    return spread(positions[((positions[:, :2] > lower) & (positions[:, :2] < upper)).all(1)])


def spread(positions: Float[np.ndarray, "M 3"]) -> Float[np.ndarray, "N 3"]:
    """At most 8 of them, evenly spread in their order."""
    if len(positions) <= MAX_ORIGINS:
        return positions
    return positions[np.round(np.linspace(0, len(positions) - 1, MAX_ORIGINS)).astype(int)]


@dataclass(frozen=True, eq=False)
class Rays:
    """R rays in voxel units, rounded as the public evaluations round them (float32 end points)."""

    origins: Float[np.ndarray, "R 3"]
    directions: Float[np.ndarray, "R 3"]
    voxel_size: float  # m

    @classmethod
    def between(cls, origins: Float[np.ndarray, "R 3"], points: Float[np.ndarray, "R 3"], grid: GridSpec) -> "Rays":
        """Rays from `origins` through `points` (m, ego axes)."""
        lower, size = np.asarray(grid.lower, np.float64), np.float64(np.float32(grid.voxel_size))
        start = ((origins - lower) / size).astype(np.float32).astype(np.float64)
        direction = ((points - lower) / size).astype(np.float32) - start
        return cls(start, direction / np.linalg.norm(direction, axis=1, keepdims=True), grid.voxel_size)

    @classmethod
    def lidar(cls, origins: Float[np.ndarray, "N 3"], grid: GridSpec) -> "Rays":
        """The protocol's 14 040 rays from each of N origins (m, ego axes)."""
        directions = lidar_directions()
        starts = np.repeat(np.asarray(origins, np.float64), len(directions), axis=0)
        return cls.between(starts, starts + np.tile(directions, (len(origins), 1)), grid)

    def cast(self, occupied: Bool[np.ndarray, "X Y Z"]) -> RayHits:
        """Where they stop in a grid (distances in voxel units)."""
        return cast(occupied, self.origins, self.directions)

    def select(self, keep: Bool[np.ndarray, "R"]) -> "Rays":
        return Rays(self.origins[keep], self.directions[keep], self.voxel_size)


def distance_error(true: RayHits, predicted: RayHits, voxel_size: float) -> Float[np.ndarray, "R"]:
    """Absolute difference of the distances along each ray, m (float32)."""
    size = np.float32(voxel_size)
    return np.abs(predicted.distance * size - true.distance * size)


@dataclass(frozen=True, eq=False)
class RayCounts:
    """Rays by class; add the counts of all frames, then ask for `iou`."""

    true: Float[np.ndarray, "C"]  # rays whose true class is c
    predicted: Float[np.ndarray, "C"]  # of the rays that hit in truth, those predicted as c
    matched: Float[np.ndarray, "3 C"]  # true positives by threshold

    @classmethod
    def geometric(
        cls, true_hit: Bool[np.ndarray, "R"], hit: Bool[np.ndarray, "R"], error: Float[np.ndarray, "R"]
    ) -> "RayCounts":
        """One class, occupied. `error` is the absolute difference of distances, m."""
        hit, error = hit[true_hit], error[true_hit]
        matched = [[np.count_nonzero(hit & (error < t))] for t in THRESHOLDS]
        return cls(np.array([float(len(hit))]), np.array([float(hit.sum())]), np.array(matched, np.float64))

    @classmethod
    def semantic(
        cls,
        true_label: Integer[np.ndarray, "R"],
        label: Integer[np.ndarray, "R"],
        error: Float[np.ndarray, "R"],
        classes: int,
    ) -> "RayCounts":
        """Classes 0 to `classes` - 1; any other label is free."""
        valid = (true_label >= 0) & (true_label < classes)
        true_label, label, error = true_label[valid], label[valid], error[valid]
        same = true_label == label
        matched = [np.bincount(true_label[same & (error < t)], minlength=classes) for t in THRESHOLDS]
        known = (label >= 0) & (label < classes)
        return cls(
            np.bincount(true_label, minlength=classes).astype(np.float64),
            np.bincount(label[known], minlength=classes).astype(np.float64),
            np.array(matched, np.float64),
        )

    @classmethod
    def class_given(
        cls, true_label: Integer[np.ndarray, "R"], error: Float[np.ndarray, "R"], classes: int
    ) -> "RayCounts":
        """Let Occ Flow's evaluation: every ray counts as predicted in its true class, whatever it hits."""
        return cls.semantic(true_label, true_label, error, classes)

    def __add__(self, other: "RayCounts") -> "RayCounts":
        return RayCounts(self.true + other.true, self.predicted + other.predicted, self.matched + other.matched)

    def iou(self) -> Float[np.ndarray, "3 C"]:
        """IoU by threshold and class; NaN for a class that is neither in truth nor predicted."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return self.matched / (self.true + self.predicted - self.matched)

    def summary(self) -> dict[str, float]:
        """`1m`, `2m`, `4m` (means over the classes present) and `mean` over all; nothing where no ray counted."""
        iou = self.iou()
        if np.isnan(iou).all():
            return {}
        return {
            **{f"{t:g}m": float(np.nanmean(row)) for t, row in zip(THRESHOLDS, iou, strict=True)},
            "mean": float(np.nanmean(iou)),
        }


def total(counts: Sequence[RayCounts]) -> RayCounts:
    """Sum over frames."""
    return sum(counts[1:], start=counts[0])


def occ_score(ray_iou: float, mave: float) -> float:
    """OpenOcc's score of the CVPR 2024 challenge: 0.9 RayIoU + 0.1 max(1 - mAVE, 0), mAVE in m/s."""
    return 0.9 * ray_iou + 0.1 * max(1 - mave, 0.0)
