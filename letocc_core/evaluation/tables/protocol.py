"""How a table is measured. Defaults are those of the papers' released evaluations where they agree."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Shaped

from letocc_core.cues.masks import GroundedSam
from letocc_core.metrics.depth import DepthRange

Sides = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]


@dataclass(frozen=True)
class DepthProtocol:
    """Depth of the cameras of a frame against its LiDAR (or the simulator's truth), image by image."""

    lower: float = 0.1  # m, truth at or below does not count, predictions are raised to it
    upper: float = 80.0  # m, truth at or above does not count, predictions are lowered to it
    median_scaling: bool = False  # multiply each image's depth by median(true) / median(predicted)
    area: tuple[float, float, float, float] = (0.0, 1.0, 0.0, 1.0)  # shares of the image: top, bottom, left, right

    @property
    def limits(self) -> DepthRange:
        return DepthRange(self.lower, self.upper)


@dataclass(frozen=True)
class NovelDepthProtocol(DepthProtocol):
    """Depth that a frame's fields give in the cameras of later frames, against those frames' LiDAR (SceneRF, SelfOcc)."""

    step: float = 0.4  # m that the vehicle drives from one of these frames to the next, at least
    distance: float = 10.0  # m along the drive, farthest of them


@dataclass(frozen=True)
class SceneFlowProtocol:
    """Disparity and optical flow at the LiDAR's returns (`metrics.scene_flow`), or at a simulator's pixels."""

    estimator: str = "dis"  # of the flow that counts as truth, where forward and backward agree
    image_size: tuple[int, int] = (352, 1216)  # px, height and width of the images whose pixels errors are counted in
    masks: GroundedSam | None = None  # objects that could move; None: no figures for them on recordings


@dataclass(frozen=True)
class OriginsProtocol:
    """Where RayIoU's rays start: places of the LiDAR along the drive, at most 8 of them, evenly spread."""

    before: int | None = None  # frames before the measured one whose places count; None: all of the drive
    after: int | None = None  # frames after it
    distance: float | None = None  # m from the measured frame's, farthest place; None: in the box less 1 m at its sides


@dataclass(frozen=True)
class Protocol:
    """What is measured of a frame, and how. Whatever is none is not measured."""

    rays: Literal["none", "semantic", "class_given", "occupied_given", "geometric"] = "none"  # see `metrics.ray_iou`
    origins: OriginsProtocol = OriginsProtocol()  # SparseOcc's and OpenOcc's: the whole drive
    velocity_classes: tuple[str, ...] = ()  # mAVE over these, at those of the rays that are right within 2 m
    voxels: Literal["none", "occupied", "labels"] = "none"  # IoU, precision, recall; and by class
    depth: DepthProtocol | None = None
    novel_depth: NovelDepthProtocol | None = None
    scene_flow: SceneFlowProtocol | None = None
    threshold: float = 0.0  # m, a voxel is occupied where its signed distance is at most this
    crop_prediction: Sides = ((0, 0), (0, 0), (0, 0))  # voxels that count as free at the lower and upper end of x, y, z
    crop_truth: Sides = ((0, 0), (0, 0), (0, 0))
    free_classes: tuple[str, ...] = ()  # classes of the truth that count as free in IoU


def cropped(grid: Shaped[np.ndarray, "X Y Z"], sides: Sides, free: int | bool) -> Shaped[np.ndarray, "X Y Z"]:
    """A copy of a voxel grid [X, Y, Z] with the voxels at its sides set to `free`."""
    out = np.full_like(grid, free)
    inner = tuple(slice(low, n - high) for (low, high), n in zip(sides, grid.shape, strict=True))
    out[inner] = grid[inner]
    return out
