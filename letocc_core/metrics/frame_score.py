"""All scores of one frame: a prediction on the grid against what is known of that frame.

A score is a dictionary from the groups of the results format to accumulators, each with `+` and `summary()`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Integer

from letocc_core.data.truth import CLASS_NAMES, FREE, GROUND_CLASSES, MOVABLE_CLASSES, Truth
from letocc_core.geometry.grid import GridSpec
from letocc_core.geometry.ray_casting import RayHits
from letocc_core.metrics.budget import DepthByDistance, score_budget
from letocc_core.metrics.depth import DepthRange, DepthScore
from letocc_core.metrics.flow2d import FlowScore
from letocc_core.metrics.motion import MATCH_DISTANCE, MotionScore
from letocc_core.metrics.occupancy import OBJECT_HEIGHT, ProbabilityCounts, VoxelTruth, score_occupancy, score_sight
from letocc_core.metrics.ray_iou import RayCounts, Rays, distance_error

Score = Mapping[str, Any]

CUE_MAX_FLOW = 20.0  # px, longer optical flow is beyond what a cue can measure
CUE_MIN_DEPTH = 4.0  # m, nearer points move too fast in the image
CUE_DEPTH_AGREEMENT = 1.0  # m between a voxel and the surface its pixel sees


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a model or a baseline says about one frame, on the grid [X, Y, Z] in ego axes."""

    occupied: Bool[np.ndarray, "X Y Z"]
    velocity: Float[np.ndarray, "X Y Z 2"]  # m/s
    depth: Float[np.ndarray, "N M"] | None = None  # m, rendered at the pixels of the frame's `DepthTruth`
    probability: Float[np.ndarray, "X Y Z"] | None = None  # of being occupied; None: it gives none
    observed: Bool[np.ndarray, "X Y Z"] | None = None  # voxels that cameras look at; None: all
    seen: Bool[np.ndarray, "X Y Z"] | None = None  # those of them that are not hidden; None: not known


@dataclass(frozen=True, eq=False)
class DepthTruth:
    """Pixels of N cameras with known depth; M a camera, padded with NaN depth."""

    K: Float[np.ndarray, "N 3 3"]  # px
    T_ego_cam: Float[np.ndarray, "N 4 4"]  # m
    pixels: Float[np.ndarray, "N M 2"]  # px (u, v)
    depth: Float[np.ndarray, "N M"]  # m along z of the optical frame
    flow: Float[np.ndarray, "N M 2"] | None = None  # px to the next frame, NaN where unknown
    foreground: Bool[np.ndarray, "N M"] | None = None  # pixels of movable objects
    T_next_ego: Float[np.ndarray, "4 4"] | None = None  # m, ego axes now -> at the frame that the flow leads to
    flow_interval: float | None = None  # s until then

    def points(self, depth: Float[np.ndarray, "N M"]) -> Float[np.ndarray, "N M 3"]:
        """Points (m, ego axes) at these depths of the pixels' rays."""
        homogeneous = np.concatenate([self.pixels, np.ones_like(self.pixels[..., :1])], axis=-1)
        in_camera = homogeneous @ np.linalg.inv(self.K).transpose(0, 2, 1) * depth[..., None]
        return _transform(self.T_ego_cam, in_camera)

    def inside(self, grid: GridSpec) -> Bool[np.ndarray, "N M"]:
        """Pixels whose true point lies in the box: the only ones that a prediction on the grid can answer."""
        known = np.isfinite(self.depth)
        points = self.points(np.where(known, self.depth, 0.0))
        return known & ((points >= grid.lower) & (points < grid.upper)).all(-1)


@dataclass(frozen=True, eq=False)
class RayTruth:
    """Rays that hit something in truth, R of them."""

    rays: Rays
    hits: RayHits
    is_object: Bool[np.ndarray, "R"]
    label: Integer[np.ndarray, "R"] | None = None  # index into MOVABLE_CLASSES, -1 = not movable
    velocity: Float[np.ndarray, "R 2"] | None = None  # m/s
    supervised: Bool[np.ndarray, "R"] | None = None  # an optical-flow cue could measure the motion of what is hit

    @classmethod
    def from_grid(cls, truth: Truth, origins: Float[np.ndarray, "N 3"], grid: GridSpec, cues: DepthTruth) -> "RayTruth":
        """The protocol's rays from `origins` (m, ego axes) through a true occupancy grid."""
        rays = Rays.lidar(origins, grid)
        hits = rays.cast(truth.occupancy != FREE)
        rays, hits = rays.select(hits.hit), _select(hits, hits.hit)
        voxel = tuple(hits.voxel.T)
        label = truth.occupancy[voxel]
        centres = grid.centres_of(hits.voxel)
        return cls(
            rays,
            hits,
            ~np.isin(label, [CLASS_NAMES.index(c) for c in GROUND_CLASSES]),
            _MOVABLE_INDEX[label],
            truth.velocity[voxel],
            cue_sees(centres, truth, cues.K, cues.T_ego_cam),
        )

    @classmethod
    def from_sweep(
        cls,
        points: Float[np.ndarray, "P 3"],
        origin: Float[np.ndarray, "3"],
        grid: GridSpec,
        observed: Bool[np.ndarray, "X Y Z"],
    ) -> "RayTruth":
        """A LiDAR sweep (m, ego axes) as a grid of the voxels that hold a return, and its returns as the rays.

        Returns outside the box and in voxels that no camera sees are left out. An object is a voxel with a return above
        `OBJECT_HEIGHT`.
        """
        points = points[np.isfinite(points).all(1)].astype(np.float64)
        voxel, inside = grid.voxels_of(points)
        inside[inside] = observed[tuple(voxel[inside].T)]
        points = points[inside]
        occupied, objects = grid.holding(points), grid.holding(points[points[:, 2] > OBJECT_HEIGHT])
        rays = Rays.between(np.broadcast_to(origin, points.shape), points, grid)
        hits = rays.cast(occupied)
        return cls(rays, hits, objects[tuple(hits.voxel.T)])


def score_rays(truth: RayTruth, prediction: Prediction) -> dict[str, Any]:
    """`ray_iou`, `ray_iou_objects` and, where velocities are known, the part of `motion` that rays tell."""
    hits = truth.rays.cast(prediction.occupied)
    error = distance_error(truth.hits, hits, truth.rays.voxel_size)
    score: dict[str, Any] = {
        "ray_iou": RayCounts.geometric(truth.hits.hit, hits.hit, error),
        "ray_iou_objects": RayCounts.geometric(truth.is_object, hits.hit, error),
    }
    if truth.label is not None and truth.velocity is not None and truth.supervised is not None:
        matched = hits.hit & (error < MATCH_DISTANCE) & (truth.label >= 0)
        score["motion"] = MotionScore.of_rays(
            truth.label[matched],
            truth.velocity[matched],
            prediction.velocity[tuple(hits.voxel[matched].T)],
            truth.supervised[matched],
            len(MOVABLE_CLASSES),
        )
    return score


def score_voxels(
    truth: VoxelTruth, prediction: Prediction, grid: GridSpec, velocity: Float[np.ndarray, "X Y Z 2"] | None = None
) -> dict[str, Any]:
    """`iou`, `precision`, `recall`, each also `_by_distance`; `probability`, `error_budget`, `sight` of whoever tells them.

    Args:
        velocity: true one, m/s, where it is known.
    """
    score: dict[str, Any] = dict(score_occupancy(truth, prediction.occupied, grid, prediction.seen))
    if prediction.probability is not None:
        observed = np.ones(grid.shape, bool) if prediction.observed is None else prediction.observed
        score["probability"] = ProbabilityCounts.of(truth, prediction.probability, observed)
        if prediction.seen is not None:
            score |= score_budget(truth, prediction.occupied, prediction.seen, observed, grid, velocity)
        if prediction.seen is not None and truth.everywhere:
            score |= score_sight(truth, prediction.seen, observed)
    return score


def score_voxel_motion(truth: Truth, prediction: Prediction) -> dict[str, Any]:
    """The part of `motion` that voxels tell, among those that a sensor could see."""
    there = (truth.occupancy != FREE) & truth.visible
    velocities = truth.velocity[there], prediction.velocity[there]
    motion = MotionScore.of_voxels(*velocities, prediction.occupied[there], len(MOVABLE_CLASSES))
    return {"motion": motion}


def score_depth(truth: DepthTruth, prediction: Prediction, grid: GridSpec, limits: DepthRange) -> dict[str, Any]:
    """`depth`, also `_by_distance`, and, where the true flow is known, `flow2d`, of whoever tells a depth.

    At pixels whose true point lies in the box.
    """
    if prediction.depth is None:
        return {}
    inside = truth.inside(grid)
    by_distance = DepthByDistance.of(truth.depth, prediction.depth, inside, truth.foreground, limits)
    score: dict[str, Any] = {
        "depth": DepthScore.of_images(truth.depth, prediction.depth, inside, limits),
        "depth_by_distance": by_distance,
    }
    if truth.flow is not None and truth.T_next_ego is not None and truth.foreground is not None:
        flow = implied_flow(truth, prediction.depth, prediction.velocity, grid)
        score["flow2d"] = FlowScore.of(truth.flow, flow, inside, truth.foreground)
    return score


def implied_flow(
    truth: DepthTruth, depth: Float[np.ndarray, "N M"], velocity: Float[np.ndarray, "X Y Z 2"], grid: GridSpec
) -> Float[np.ndarray, "N M 2"]:
    """Optical flow (px) that a depth (m), velocities (m/s) and the ego motion imply; NaN behind the camera."""
    points = truth.points(depth)
    return flow_of_points(truth, points, velocity_at(points, velocity, grid))


def velocity_at(
    points: Float[np.ndarray, "*n 3"], velocity: Float[np.ndarray, "X Y Z 2"], grid: GridSpec
) -> Float[np.ndarray, "*n 2"]:
    """Velocity (m/s) of the voxels that hold these points (m, ego axes); of points outside the box, of the nearest."""
    voxel = np.floor((points - grid.lower) / grid.voxel_size).astype(np.int64)
    voxel = np.clip(voxel, 0, np.asarray(grid.shape) - 1)
    return velocity[tuple(np.moveaxis(voxel, -1, 0))]


def flow_of_points(
    truth: DepthTruth, points: Float[np.ndarray, "N M 3"], velocity: Float[np.ndarray, "N M 2"]
) -> Float[np.ndarray, "N M 2"]:
    """Optical flow (px) of points (m, ego axes) that move at `velocity` (m/s) until `truth`'s next frame; NaN behind it."""
    moved = points.copy()
    moved[..., :2] += velocity * truth.flow_interval
    T_cam_ego = np.linalg.inv(truth.T_ego_cam) @ truth.T_next_ego
    projected = _transform(T_cam_ego, moved) @ truth.K.transpose(0, 2, 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        pixels = np.where(projected[..., 2:] > 0.1, projected[..., :2] / projected[..., 2:], np.nan)
    return pixels - truth.pixels


def cue_sees(
    points: Float[np.ndarray, "R 3"], truth: Truth, K: Float[np.ndarray, "N 3 3"], T_ego_cam: Float[np.ndarray, "N 4 4"]
) -> Bool[np.ndarray, "R"]:
    """Whether an optical-flow cue can measure the motion of each point (m, ego axes).

    Some camera sees the point (the depth there agrees within 1 m), at 4 m or more, with a true flow of at most 20 px.
    """
    seen = np.zeros(len(points), bool)
    if truth.flow_forward is None:
        return seen
    height, width = truth.depth.shape[1:]
    for camera, (k, T) in enumerate(zip(K, np.linalg.inv(T_ego_cam), strict=True)):
        in_camera = points @ T[:3, :3].T + T[:3, 3]
        depth = in_camera[:, 2]
        pixel = np.full((len(points), 2), -1.0)
        front = depth >= CUE_MIN_DEPTH
        pixel[front] = np.round((in_camera[front] @ k.T)[:, :2] / depth[front, None])
        u, v = pixel.T.astype(int)
        inside = front & (u >= 0) & (u < width) & (v >= 0) & (v < height)
        at = camera, v[inside], u[inside]
        flow = np.linalg.norm(truth.flow_forward[at], axis=-1)
        seen[inside] |= (np.abs(truth.depth[at] - depth[inside]) < CUE_DEPTH_AGREEMENT) & (flow <= CUE_MAX_FLOW)
    return seen


def add(a: Score, b: Score) -> dict[str, Any]:
    """The score of two sets of frames together."""
    return {k: a[k] + b[k] if k in a and k in b else a.get(k, b.get(k)) for k in [*a, *(k for k in b if k not in a)]}


def summary(score: Score) -> dict[str, dict[str, float]]:
    """Plain numbers by group; groups that nothing counted for are absent."""
    return {group: values for group, accumulator in score.items() if (values := accumulator.summary())}


def _select(hits: RayHits, keep: np.ndarray) -> RayHits:
    return RayHits(hits.distance[keep], hits.voxel[keep], hits.hit[keep])


def _transform(T: np.ndarray, points: np.ndarray) -> np.ndarray:
    return points @ T[:, :3, :3].transpose(0, 2, 1) + T[:, None, :3, 3]


_MOVABLE_INDEX = np.full(256, -1)
_MOVABLE_INDEX[[CLASS_NAMES.index(c) for c in MOVABLE_CLASSES]] = range(len(MOVABLE_CLASSES))
