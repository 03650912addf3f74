"""Depth that an answer holds, depth of a known surface, and the true depth that both are compared with."""

from dataclasses import dataclass
from math import log
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import softplus

from letocc_core.compiled.threads import serves
from letocc_core.evaluation.config import EvaluationConfig
from letocc_core.evaluation.samples import Sample
from letocc_core.geometry.grid import GridSpec
from letocc_core.metrics.frame_score import DepthTruth
from letocc_core.stream.types import FrameSet

if TYPE_CHECKING:
    from letocc_core.rendering.rays import Rays

CERTAIN = (1 / 510, 1 - 1 / 510)  # probabilities beyond count as these, half a step of what a message carries
MAX_SWEEP_PIXELS = 4096  # pixels a camera at which depth is compared with a LiDAR sweep


def depth_truth(sample: Sample, stride: int, most: int = MAX_SWEEP_PIXELS) -> DepthTruth:
    """Every `stride`-th pixel of the true depth, or `most` of the pixels a camera that LiDAR returns fall on, at most."""
    frame_set = sample.frame_set
    present = [i for i, image in enumerate(frame_set.images) if image is not None]
    K = np.stack([frame_set.calibration(i).K for i in present]).astype(np.float64)
    T_ego_cam = frame_set.T_ego_cam[present].astype(np.float64)
    if sample.truth is None:
        return _sweep_depth(sample.sweep, frame_set, present, K, T_ego_cam, most)
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
        project_lidar(lidar, K[row], T_ego_cam[row], calibration.height, calibration.width)
        for row, calibration in enumerate(frame_set.calibration(i) for i in present)
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

    sdf: Float[Tensor, "1 1 X Y Z"]  # m
    flow: None = None
    semantics: None = None


@torch.no_grad()
def render_depth(
    sdf: Float[np.ndarray, "X Y Z"], grid: GridSpec, target: DepthTruth, config: EvaluationConfig = EvaluationConfig()
) -> Float[np.ndarray, "N M"]:
    """Depth (m) of a signed distance field at the pixels of `target`, by the renderer that training uses."""
    from letocc_core.rendering.render import render

    surface = _Surface(_tensor(sdf)[None])
    return render(surface, grid, _rays(target, grid), samples=config.samples, beta=config.beta).depth[0].numpy()


@torch.no_grad()
def read_depth(
    probability: Float[np.ndarray, "X Y Z"],
    grid: GridSpec,
    target: DepthTruth,
    config: EvaluationConfig = EvaluationConfig(),
) -> Float[np.ndarray, "N M"]:
    """Depth (m) at which the pixels of `target` have met matter, more likely than not; where they leave the box if never.

    A ray that has crossed voxels of occupancy probability p_i over the lengths l_i (in voxels) is still free with the
    probability prod (1 - p_i)^l_i. Where that falls to a half is the median of its depth. Between the centres of voxels
    the logarithm of the odds is interpolated.
    """
    from letocc_core.geometry.grid import sample_unit
    from letocc_core.rendering.rays import sample_edges

    rays = _rays(target, grid)
    p = np.clip(probability.astype(np.float64), *CERTAIN)
    odds = _tensor(np.log(p / (1 - p)))[None]
    if serves(odds):
        from letocc_core.compiled.surfaces import half_free

        where, along = grid.to_index(rays.origins), rays.directions / grid.voxel_size
        origins, directions, near, far = (x.flatten(0, 2) for x in (where, along, rays.near, rays.far))
        return half_free(odds, origins, directions, near, far, config.samples).view_as(rays.near)[0].numpy()
    edges = sample_edges(rays, config.samples)
    points = rays.in_units(grid).at(torch.lerp(edges[..., :-1], edges[..., 1:], 0.5))
    odds = sample_unit(odds, points, "border")[..., 0]
    voxels = edges.diff(dim=-1) * rays.directions.norm(dim=-1)[..., None] / grid.voxel_size
    passed = torch.cumsum(softplus(odds) * voxels, dim=-1)  # -log of the probability that a ray is free until there
    found, at = (passed >= log(2)).max(dim=-1, keepdim=True)
    before = torch.nn.functional.pad(passed, (1, 0)).gather(-1, at)
    share = (log(2) - before) / (passed.gather(-1, at) - before).clamp(min=1e-9)
    depth = torch.lerp(edges.gather(-1, at), edges.gather(-1, at + 1), share)
    return torch.where(found, depth, rays.far[..., None])[0, ..., 0].numpy()


def _rays(target: DepthTruth, grid: GridSpec) -> "Rays":
    from letocc_core.rendering.rays import rays_through

    return rays_through(_tensor(target.pixels), _tensor(target.K), _tensor(target.T_ego_cam), grid)


def _tensor(values: np.ndarray) -> Float[Tensor, "1 ..."]:
    return torch.from_numpy(np.ascontiguousarray(values, np.float32))[None]


def depth_images(
    probability: Float[np.ndarray, "X Y Z"], grid: GridSpec, frame_set: FrameSet, columns: int = 240
) -> list[Float[np.ndarray, "h w"] | None]:
    """Depth (m) that each camera sees in an answer, for pictures; NaN where the ray leaves the box.

    At every second pixel, of large images at fewer: at most `columns` a row.
    """
    out: list[np.ndarray | None] = []
    for i, (image, T) in enumerate(zip(frame_set.images, frame_set.T_ego_cam, strict=True)):
        if image is None:
            out.append(None)
            continue
        calibration = frame_set.calibration(i)
        stride = max(2, -(-calibration.width // columns))
        v, u = np.mgrid[stride // 2 : calibration.height : stride, stride // 2 : calibration.width : stride]
        pixels = np.stack([u, v], axis=-1).reshape(1, -1, 2).astype(np.float64)
        target = DepthTruth(calibration.K[None], T[None], pixels, np.zeros(pixels.shape[:2]))
        depth = read_depth(probability, grid, target)
        points = target.points(depth * 1.001)
        inside = ((points >= grid.lower) & (points < grid.upper)).all(-1)
        out.append(np.where(inside, depth, np.nan).reshape(u.shape))
    return out
