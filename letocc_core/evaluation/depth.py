"""Depth behind an answer, rendered as training renders it, and the true depth that it is compared with."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from letocc_core.evaluation.config import EvaluationConfig
from letocc_core.evaluation.samples import Sample
from letocc_core.geometry.grid import GridSpec
from letocc_core.metrics.frame_score import DepthTruth
from letocc_core.stream.types import FrameSet, OccFlow

MAX_SWEEP_PIXELS = 4096  # pixels a camera at which depth is compared with a LiDAR sweep


def sdf_of(output: OccFlow, scale: float = 0.1) -> Float[np.ndarray, "X Y Z"]:
    """Signed distance (m) whose zero is where the probability crosses 0.5: the inverse of `Fields.probability`."""
    p = np.clip(output.probability.astype(np.float64), 1 / 510, 1 - 1 / 510)
    return (-scale * np.log(p / (1 - p))).astype(np.float32)


def depth_truth(sample: Sample, stride: int, most: int = MAX_SWEEP_PIXELS) -> DepthTruth:
    """Every `stride`-th pixel of the true depth, or `most` of the pixels a camera that LiDAR returns fall on, at most."""
    frame_set = sample.frame_set
    present = [i for i, image in enumerate(frame_set.images) if image is not None]
    K = np.stack([frame_set.calibrations[i].K for i in present]).astype(np.float64)
    T_ego_cam = frame_set.T_ego_cam[present].astype(np.float64)
    if sample.truth is None:
        return _sweep_depth(sample.lidar, frame_set, present, K, T_ego_cam, most)
    truth = sample.truth
    lattice = (present, slice(stride // 2, None, stride), slice(stride // 2, None, stride))
    rows, columns = (np.arange(n)[lattice[1]] for n in truth.depth.shape[1:])
    pixels = np.stack(np.meshgrid(columns, rows), axis=-1).reshape(1, -1, 2).repeat(len(present), axis=0)
    flow = None if truth.flow_forward is None else truth.flow_forward[lattice].reshape(*pixels.shape)
    T_next_ego = None
    if sample.T_world_ego_next is not None:
        T_next_ego = np.linalg.inv(sample.T_world_ego_next) @ frame_set.T_world_ego
    depth = truth.depth[lattice].reshape(pixels.shape[:2]).astype(np.float64)
    return DepthTruth(
        K,
        T_ego_cam,
        pixels.astype(np.float64),
        np.where(np.isfinite(depth), depth, np.nan),
        flow if T_next_ego is not None else None,
        truth.movable[lattice].reshape(pixels.shape[:2]),
        T_next_ego,
        sample.flow_interval,
    )


def _sweep_depth(
    lidar: np.ndarray, frame_set: FrameSet, present: list[int], K: np.ndarray, T_ego_cam: np.ndarray, most: int
) -> DepthTruth:
    """The nearest return on each pixel of each camera; cameras are padded with NaN to the largest number of pixels."""
    from letocc_core.geometry.camera import project_lidar

    maps = [
        project_lidar(lidar, K[row], T_ego_cam[row], frame_set.calibrations[i].height, frame_set.calibrations[i].width)
        for row, i in enumerate(present)
    ]
    places = [p[:: len(p) // most + 1] for p in (np.argwhere(m > 0) for m in maps)]
    size = max(map(len, places))
    pixels, depth = np.zeros((len(maps), size, 2)), np.full((len(maps), size), np.nan)
    for row, (image, place) in enumerate(zip(maps, places, strict=True)):
        pixels[row, : len(place)] = place[:, ::-1]
        depth[row, : len(place)] = image[tuple(place.T)]
    return DepthTruth(K, T_ego_cam, pixels, depth)


@dataclass(frozen=True, eq=False)
class _Surface:
    """A signed distance field alone, for the renderer."""

    sdf: Float[torch.Tensor, "1 1 X Y Z"]  # m
    flow: None = None
    semantics: None = None


@torch.no_grad()
def render_depth(
    sdf: Float[np.ndarray, "X Y Z"], grid: GridSpec, target: DepthTruth, config: EvaluationConfig = EvaluationConfig()
) -> Float[np.ndarray, "N M"]:
    """Depth (m) of a signed distance field at the pixels of `target`, by the renderer that training uses."""
    from letocc_core.rendering.rays import rays_through
    from letocc_core.rendering.render import render

    def tensor(values: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(values, np.float32))[None]

    rays = rays_through(tensor(target.pixels), tensor(target.K), tensor(target.T_ego_cam), grid)
    surface = _Surface(tensor(sdf)[None])
    return render(surface, grid, rays, samples=config.samples, beta=config.beta).depth[0].numpy()


def depth_images(
    sdf: Float[np.ndarray, "X Y Z"], grid: GridSpec, frame_set: FrameSet, columns: int = 240
) -> list[Float[np.ndarray, "h w"] | None]:
    """Rendered depth (m) of each camera for pictures; NaN where the ray leaves the box.

    At every second pixel, of large images at fewer: at most `columns` a row.
    """
    out: list[np.ndarray | None] = []
    for image, calibration, T in zip(frame_set.images, frame_set.calibrations, frame_set.T_ego_cam, strict=True):
        if image is None:
            out.append(None)
            continue
        stride = max(2, -(-calibration.width // columns))
        v, u = np.mgrid[stride // 2 : calibration.height : stride, stride // 2 : calibration.width : stride]
        pixels = np.stack([u, v], axis=-1).reshape(1, -1, 2).astype(np.float64)
        target = DepthTruth(calibration.K[None], T[None], pixels, np.zeros(pixels.shape[:2]))
        depth = render_depth(sdf, grid, target)
        points = target.points(depth * 1.001)
        inside = ((points >= grid.lower) & (points < grid.upper)).all(-1)
        out.append(np.where(inside, depth, np.nan).reshape(u.shape))
    return out
