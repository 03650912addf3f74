"""Images as the only truth: the picture of a set from the colours of the set before it and the depth computed then.

Every pixel of the new image is cast into the geometry of the set before, seen from the new pose; the point it meets is
looked up in the same camera's old image. What is compared is what all methods can see there: without a sensor of depth, the
geometry that explains the next image best is the best one. Things that move in the meantime count against every method.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8

from letocc_core.geometry.grid import GridSpec
from letocc_core.losses.photometric import ssim_loss
from letocc_core.metrics import baselines
from letocc_core.metrics.frame_score import DepthTruth, Score
from letocc_core.metrics.motion import Mean
from letocc_core.stream.types import FrameSet

Depth = Callable[[np.ndarray, GridSpec, DepthTruth], np.ndarray]  # of a field [X, Y, Z], at the pixels [N, M]
CONSTANTS = (5.0, 8.0, 12.0, 20.0, 32.0, 50.0)  # m; of these depths the baseline takes the best one of each image


@dataclass(frozen=True)
class NovelViewScore:
    """The `novel_view` group of the results format; add the scores of all images."""

    l1: Mean = field(default_factory=Mean)
    dssim: Mean = field(default_factory=Mean)
    squared: Mean = field(default_factory=Mean)

    @classmethod
    def of(
        cls, image: Float[np.ndarray, "h w 3"], guess: Float[np.ndarray, "h w 3"], counted: Bool[np.ndarray, "h w"]
    ) -> "NovelViewScore":
        """Score of one image; values in [0, 1], pixels outside `counted` are left out."""
        if not counted.any():
            return cls()
        filled = np.where(counted[..., None], guess, image)  # so that windows across the border are not punished
        pair = (torch.from_numpy(np.ascontiguousarray(x.transpose(2, 0, 1), np.float32))[None] for x in (image, filled))
        dssim = ssim_loss(*pair)[0].mean(0).numpy()[counted]
        difference = (guess - image)[counted]
        return cls(*(Mean(float(x.mean()), 1) for x in (np.abs(difference), dssim, difference**2)))

    def __add__(self, other: "NovelViewScore") -> "NovelViewScore":
        return NovelViewScore(self.l1 + other.l1, self.dssim + other.dssim, self.squared + other.squared)

    def summary(self) -> dict[str, float]:
        """`l1` and `dssim` in [0, 1], means over images; `psnr` (dB) of the mean squared error."""
        l1, dssim, squared = self.l1.value(), self.dssim.value(), self.squared.value()
        if l1 is None or dssim is None or squared is None:
            return {}
        return {"l1": l1, "dssim": dssim, "psnr": float(-10 * np.log10(max(squared, 1e-10)))}


@dataclass(frozen=True, eq=False)
class Earlier:
    """A set that was answered: its images as the network saw them, and the geometry it found."""

    frames: FrameSet  # without distortion
    probability: Float[np.ndarray, "X Y Z"]
    grid: GridSpec

    def score(self, now: FrameSet, read: Depth, render: Depth, stride: int = 2) -> dict[str, Score]:
        """Scores of the model and of the baselines on the images of the next set, by method.

        Args:
            now: without distortion, the same cameras.
            read: depth (m) that probabilities hold, as `evaluation.depth.read_depth`.
            render: depth (m) of a signed distance field, as `evaluation.depth.render_depth`.
            stride: px between the pixels that are compared.
        """
        T_then_now = np.linalg.inv(self.frames.T_world_ego) @ now.T_world_ego
        total: dict[str, NovelViewScore] = {}
        for i, image in enumerate(now.images):
            before = self.frames.images[i]
            if image is None or before is None:
                continue
            target = _lattice(now, i, T_then_now, stride)
            rows, columns = (len(range(0, n, stride)) for n in image.shape[:2])
            depths = {
                "letocc": read(self.probability, self.grid, target)[0],
                "flat_road": render(baselines.flat_road(self.grid).sdf, self.grid, target)[0],
                **{f"{c:g} m": np.full(target.pixels.shape[1], c) for c in CONSTANTS},
            }
            for method, score in self._compare(
                i, before, target, depths, image[::stride, ::stride], (rows, columns)
            ).items():
                total[method] = total.get(method, NovelViewScore()) + score
        return {method: {"novel_view": score} for method, score in total.items()}

    def _compare(
        self,
        camera: int,
        before: UInt8[np.ndarray, "h w 3"],
        target: DepthTruth,
        depths: dict[str, Float[np.ndarray, "M"]],
        image: UInt8[np.ndarray, "rows columns 3"],
        shape: tuple[int, int],
    ) -> dict[str, NovelViewScore]:
        """Scores of one image, at the pixels that every method finds in the old one."""
        looked_up = {
            name: self._look_up(camera, before, target.points(depth[None])[0], shape) for name, depth in depths.items()
        }
        counted = np.logical_and.reduce([found for _, found in looked_up.values()])
        scores = {name: NovelViewScore.of(image / 255, guess, counted) for name, (guess, _) in looked_up.items()}
        constants = [scores.pop(f"{c:g} m") for c in CONSTANTS]
        return scores | {"constant_depth": min(constants, key=lambda s: s.l1.sum)}

    def _look_up(self, camera: int, image: np.ndarray, points: np.ndarray, shape: tuple[int, int]) -> tuple:
        """Colours in [0, 1] of points [M, 3] (m, ego axes then) in the old image [h, w, 3], and whether they are in it."""
        T_cam_ego = np.linalg.inv(self.frames.T_ego_cam[camera])
        x, y, z = (points @ T_cam_ego[:3, :3].T + T_cam_ego[:3, 3]).T
        K = self.frames.calibration(camera).K
        z = np.where(z > 0.1, z, np.nan)
        u, v = (K[0, 0] * x / z + K[0, 2]).reshape(shape), (K[1, 1] * y / z + K[1, 2]).reshape(shape)
        height, width = image.shape[:2]
        with np.errstate(invalid="ignore"):
            inside = (u >= 0) & (u <= width - 1) & (v >= 0) & (v <= height - 1)
        columns, rows = (np.where(inside, w, 0).astype(np.float32) for w in (u, v))
        return cv2.remap(image, columns, rows, cv2.INTER_LINEAR) / 255, inside


def _lattice(frames: FrameSet, camera: int, T_then_now: np.ndarray, stride: int) -> DepthTruth:
    """Every `stride`-th pixel of one camera, placed in the ego axes of the set before."""
    calibration = frames.calibration(camera)
    v, u = np.mgrid[: calibration.height : stride, : calibration.width : stride]
    pixels = np.stack([u, v], axis=-1).reshape(1, -1, 2).astype(np.float64)
    T = (T_then_now @ frames.T_ego_cam[camera])[None]
    return DepthTruth(calibration.K[None].astype(np.float64), T, pixels, np.zeros(pixels.shape[:2]))
