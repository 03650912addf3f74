"""One answered set as viewers show it: what Rerun and Foxglove draw alike, as plain arrays."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from letocc_core.geometry.calibration import Calibration
from letocc_core.geometry.camera import scale_intrinsics
from letocc_core.geometry.grid import GridSpec
from letocc_core.geometry.ray_casting import cast
from letocc_core.stream.consumers.objects import MovingObject, moving_objects
from letocc_core.stream.types import FrameSet, OccFlow
from letocc_core.viz import colours

SMALLEST = 3  # voxels; smaller groups are no object
WIDEST = 640  # px; wider images are reduced


@dataclass(frozen=True, eq=False)
class Scene:
    """An answer with whatever is known beside it; what is None or empty is not drawn."""

    answer: OccFlow
    T_world_ego: Float[np.ndarray, "4 4"]  # m, ego -> fixed frame
    frame_set: FrameSet | None = None  # images without distortion, with their calibrations
    cameras: Sequence[str] = ()  # names, in the order of the images
    lidar: Float[np.ndarray, "P 3"] | None = None  # m, returns in ego axes
    truth: OccFlow | None = None  # true occupancy and velocity; `observed` where the truth is known
    figures: Mapping[str, float] = field(default_factory=dict)  # scores of this set, by name
    dropped: Mapping[str, int] = field(default_factory=dict)  # what was dropped until now, by reason

    @property
    def objects(self) -> list[MovingObject]:
        """What moves, as boxes."""
        return moving_objects(self.answer, colours.STANDING, SMALLEST)


@dataclass(frozen=True, eq=False)
class Voxels:
    """n voxels to draw."""

    index: Int[np.ndarray, "n 3"]
    centres: Float[np.ndarray, "n 3"]  # m, ego axes
    height: Float[np.ndarray, "n"]  # m, of the centres above the road
    speed: Float[np.ndarray, "n"]  # m/s
    probability: Float[np.ndarray, "n"]

    def colours(self, shown: str) -> UInt8[np.ndarray, "n 3"]:
        """RGB by `height`, `speed` or `probability`."""
        return PALETTES[shown](getattr(self, shown))


PALETTES = {
    "height": colours.height_colours,
    "speed": colours.speed_colours,
    "probability": colours.probability_colours,
}


def surface(answer: OccFlow) -> Bool[np.ndarray, "X Y Z"]:
    """Occupied voxels that the cameras of the set see."""
    return answer.occupied & answer.seen


def guessed(answer: OccFlow) -> Bool[np.ndarray, "X Y Z"]:
    """What is more probable than the threshold behind a surface, or where no camera looks: to be drawn faint."""
    return (answer.probability > answer.threshold) & ~answer.seen


def voxels_of(answer: OccFlow, chosen: Bool[np.ndarray, "X Y Z"]) -> Voxels:
    """The voxels to draw of those in `chosen`.

    One with another at each of its six sides is left out: nobody can see it.
    """
    index = np.argwhere(uncovered(chosen))
    at = tuple(index.T)
    centres = answer.grid.centres_of(index).astype(np.float32)
    speed = np.linalg.norm(answer.velocity[at], axis=-1)
    return Voxels(index, centres, centres[:, 2], speed, answer.probability[at])


def reduced(frame_set: FrameSet, widest: int = WIDEST) -> FrameSet:
    """The same set with images of at most `widest` px across; calibrations follow."""
    pictures, calibrations = [], []
    for image, calibration in zip(frame_set.images, frame_set.calibrations, strict=True):
        if image is None or calibration is None or image.shape[1] <= widest:
            pictures.append(image)
            calibrations.append(calibration)
            continue
        size = (widest, round(image.shape[0] * widest / image.shape[1]))
        K = np.array(calibration.K, np.float64)
        K = scale_intrinsics(K, size[0] / image.shape[1], size[1] / image.shape[0])
        pictures.append(cv2.resize(image, size, interpolation=cv2.INTER_AREA))
        calibrations.append(Calibration(size[0], size[1], K))
    return replace(frame_set, images=tuple(pictures), calibrations=tuple(calibrations))


def uncovered(occupied: Bool[np.ndarray, "X Y Z"]) -> Bool[np.ndarray, "X Y Z"]:
    """Occupied voxels with at least one side that no other occupied voxel covers; the grid's faces are open."""
    padded = np.pad(occupied, 1)
    covered = occupied.copy()
    for axis in range(3):
        for step in (-1, 1):
            covered &= np.roll(padded, step, axis)[1:-1, 1:-1, 1:-1]
    return occupied & ~covered


@dataclass(frozen=True, eq=False)
class CameraVoxels:
    """Which occupied voxel each pixel of an image looks at first."""

    layer: UInt8[np.ndarray, "h w"]  # 1 + its place along z; 0: none
    depth: Float[np.ndarray, "h w"]  # m along the optical axis to where the ray enters it; NaN: none


def look(answer: OccFlow, frame_set: FrameSet, stride: int = 2) -> list[CameraVoxels | None]:
    """For each image (without distortion) what its every `stride`-th pixel sees of the occupied voxels; None: no image."""
    occupied = answer.occupied
    return [
        None
        if image is None or calibration is None
        else _look(occupied, answer.grid, image.shape[:2], calibration.K, T, stride)
        for image, calibration, T in zip(frame_set.images, frame_set.calibrations, frame_set.T_ego_cam, strict=True)
    ]


def _look(
    occupied: np.ndarray, grid: GridSpec, size: tuple[int, int], K: np.ndarray, T_ego_cam: np.ndarray, stride: int
) -> CameraVoxels:
    v, u = np.mgrid[stride // 2 : size[0] : stride, stride // 2 : size[1] : stride]
    in_camera = np.stack([u, v, np.ones_like(u)], -1).reshape(-1, 3) @ np.linalg.inv(K).T  # z = 1
    length = np.linalg.norm(in_camera, axis=1)
    directions = in_camera @ T_ego_cam[:3, :3].T / length[:, None]
    eye = (T_ego_cam[:3, 3] - grid.lower) / grid.voxel_size
    found = cast(occupied, np.broadcast_to(eye, directions.shape), directions)
    with np.errstate(divide="ignore", invalid="ignore"):
        sides = (found.voxel[..., None] + (0, 1) - eye[:, None]) / directions[..., None]
    entry = np.nan_to_num(sides.min(-1), nan=-np.inf).max(-1).clip(0)
    return CameraVoxels(
        np.where(found.hit, 1 + found.voxel[:, 2], 0).astype(np.uint8).reshape(u.shape),
        np.where(found.hit, entry * grid.voxel_size / length, np.nan).astype(np.float32).reshape(u.shape),
    )


def layer_colours(grid: GridSpec) -> UInt8[np.ndarray, "n 3"]:
    """RGB of the layers of `CameraVoxels`, from 1 on, as voxels of that height have it."""
    return colours.height_colours(grid.lower[2] + (np.arange(grid.shape[2]) + 0.5) * grid.voxel_size)
