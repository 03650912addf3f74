"""The static stage: the terms that shape geometry while the world is taken to stand still (SelfOcc's objective)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from letocc_core.frame import Clip, Frame
from letocc_core.geometry import se3
from letocc_core.geometry.grid import GridSpec, sample_volume
from letocc_core.losses import photometric as photo
from letocc_core.losses import regularisers
from letocc_core.losses.lidar import silog
from letocc_core.model.fields import Fields
from letocc_core.rendering.rays import Rays, camera_rays, lidar_rays
from letocc_core.rendering.render import Rendered, render

FAR_AWAY = 200.0  # m, where the part of a ray that leaves the box is taken to end


@dataclass(frozen=True)
class StaticStageConfig:
    """Rays, schedule and weights; the defaults suit the small configurations."""

    rows: int = 16  # rays a camera, down
    columns: int = 28  # rays a camera, across
    samples: int = 64  # along a ray
    lidar_samples: int = 1024  # LiDAR rays a frame
    beta_start: float = 0.5  # m, surface width at the start
    beta_end: float = 0.2  # m, and at the end of the annealing
    beta_anneal: float = 0.7  # share of the stage over which it falls
    dssim: float = 0.3  # share of D-SSIM in the photometric term
    movable: bool = True  # use rays through movable objects: parked ones teach, moving ones mislead
    auto_mask: bool = True  # leave out rays that the unwarped source explains better
    photometric: float = 1.0  # weights from here on
    lidar: float = 0.05
    eikonal: float = 0.01
    hessian: float = 0.002
    edge: float = 0.005
    sparsity: float = 0.002
    behind: float = 0.002

    def beta(self, progress: float) -> float:
        """Surface width (m) at `progress` in [0, 1] of the stage: linear, then constant."""
        done = min(progress / self.beta_anneal, 1.0) if self.beta_anneal > 0 else 1.0
        return self.beta_start + (self.beta_end - self.beta_start) * done


def static_stage(
    fields: Fields,
    grid: GridSpec,
    clip: Clip,
    config: StaticStageConfig,
    progress: float,
    generator: torch.Generator | None = None,
) -> dict[str, Tensor]:
    """Weighted terms and their sum, `total`, for a batched clip.

    Args:
        progress: share of the stage that is done, for the annealing of beta.
        generator: of the rays' jitter; None: the lattice's cell centres.
    """
    beta = config.beta(progress)
    rays = camera_rays(clip.current, grid, config.rows, config.columns, generator)
    seen = render(fields, grid, rays, config.samples, beta, generator)
    target = photo.sample_colours(clip.current.images, rays.pixels)
    still = rays.valid if config.movable else rays.valid & ~_movable_at(clip.current, rays)
    terms = {
        "photometric": config.photometric * _photometric(seen, rays, target, still, clip, config),
        "edge": config.edge * _edge(seen, rays, target),
        "behind": config.behind * regularisers.free_behind(_middles(seen), seen.t, seen.depth),
        "eikonal": config.eikonal * _eikonal(fields, grid, seen),
        "hessian": config.hessian * regularisers.hessian(fields.sdf, grid.voxel_size),
        "sparsity": config.sparsity * regularisers.free_where_unseen(fields.sdf),
    }
    if config.lidar > 0 and clip.current.lidar is not None:
        beams, ranges = lidar_rays(clip.current, grid, config.lidar_samples, generator)
        predicted = render(fields, grid, beams, config.samples, beta, generator).depth
        terms["lidar"] = config.lidar * silog(predicted, ranges, beams.valid)
    terms["total"] = sum(terms.values())
    return terms


def _photometric(seen: Rendered, rays: Rays, target: Tensor, still: Tensor, clip: Clip, config: StaticStageConfig) -> Tensor:
    """Every sample of every ray in every source; what leaves the box is one more sample, far away."""
    away = rays.origins + rays.directions * FAR_AWAY
    points = torch.cat([seen.points, away[..., None, :]], dim=-2)
    weights = torch.cat([seen.weights, (1 - seen.opacity).clamp(min=0)[..., None]], dim=-1)
    errors, inside, unwarped = [], [], []
    for source in clip.sources:
        T = se3.relative(source.T_world_ego, clip.current.T_world_ego)
        size = tuple(source.images.shape[-2:])
        pixels, on_image = photo.project_samples(points, T, source.T_ego_cam, source.K, size)
        colours = photo.sample_colours(source.images, pixels)
        errors.append(photo.photometric(target, colours, weights, config.dssim))
        on_image = (weights * on_image).sum(-1) > 0.5
        inside.append(on_image & source.camera_valid[:, :, None, None])
        same = photo.sample_colours(source.images, rays.pixels)[..., None, :]
        unwarped.append(photo.photometric(target, same, torch.ones_like(same[..., 0]), config.dssim))
    still_better = torch.stack(unwarped) if config.auto_mask else None
    return photo.minimum_over_sources(torch.stack(errors), torch.stack(inside), still_better, still)


def _movable_at(frame: Frame, rays: Rays) -> Tensor:
    """Rays [B, N, rows, columns] through pixels of objects that could move."""
    if frame.movable is None:
        return torch.zeros_like(rays.valid)
    u, v = rays.pixels.round().long().unbind(-1)
    height, width = frame.movable.shape[-2:]
    index = v.clamp(0, height - 1) * width + u.clamp(0, width - 1)
    return frame.movable.flatten(2).gather(2, index.flatten(2)).view(index.shape)


def _edge(seen: Rendered, rays: Rays, target: Tensor) -> Tensor:
    """Smooth inverse depth where the image is smooth."""
    valid = rays.valid & (seen.opacity > 0.5)
    inverse = 1 / seen.depth.clamp(min=0.5)
    return regularisers.edge_aware(inverse.flatten(0, 1), target.flatten(0, 1), valid.flatten(0, 1))


def _middles(seen: Rendered) -> Tensor:
    return (seen.sdf[..., 1:] + seen.sdf[..., :-1]) / 2


def _eikonal(fields: Fields, grid: GridSpec, seen: Rendered) -> Tensor:
    """At every fourth sample of the rays, from the grid's own gradient."""
    slope = regularisers.gradient(fields.sdf, grid.voxel_size)
    points = seen.points[..., ::4, :].flatten(1, -2)
    return regularisers.eikonal(sample_volume(slope, grid, points, padding="border"))
