"""Depth evidence from past frames by plane sweep, an optional input besides the papers' network. No gradient, no weights.

Every pixel of the current images tries a set of inverse depths; each is compared with the past images by normalised
cross-correlation over a window (insensitive to exposure). The softmax over depths is lifted to the voxels.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from letocc_core.geometry import camera, se3
from letocc_core.geometry.grid import GridSpec

CHANNELS = 4  # truncated signed distance, surface probability, occluded probability (each times weight), weight


@dataclass(frozen=True)
class PlaneSweepConfig:
    """Sampling and scoring of the sweep."""

    depths: int = 64  # inverse depths tried
    nearest: float = 1.5  # m
    farthest: float = 60.0  # m
    window: int = 5  # pixels at half resolution over which images are compared
    temperature: float = 0.05  # of the softmax over 1 - correlation
    least_parallax: float = 1.5  # pixels at half resolution between nearest and farthest; less is no evidence
    truncation: float = 1.5  # m, of the signed distance


@dataclass(frozen=True)
class SweptDepth:
    """Evidence per pixel at a quarter of the image resolution."""

    probability: Float[Tensor, "B N depths h w"]  # over inverse depths, farthest first
    depth: Float[Tensor, "B N h w"]  # m, around the most probable hypothesis
    confidence: Float[Tensor, "B N h w"]  # 0 (no parallax, not seen in the past) to 1
    inverse_depths: Float[Tensor, "depths"]  # 1/m


def grey_half(images: Float[Tensor, "B N 3 H W"]) -> Float[Tensor, "B N H/2 W/2"]:
    """What the sweep keeps of a frame: brightness at half resolution."""
    grey = (images * images.new_tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(2)
    return F.avg_pool2d(grey, 2)


def half_intrinsics(K: Float[Tensor, "*n 3 3"]) -> Float[Tensor, "*n 3 3"]:
    """Intrinsics of an image averaged over 2 x 2 pixels."""
    K = K.clone()
    K[..., :2, :2] = K[..., :2, :2] / 2
    K[..., :2, 2] = (K[..., :2, 2] + 0.5) / 2 - 0.5
    return K


@torch.no_grad()
def sweep_depth(
    grey: Float[Tensor, "B N h w"],
    past_grey: Sequence[Float[Tensor, "B N h w"]],
    K: Float[Tensor, "B N 3 3"],
    T_past_now: Sequence[Float[Tensor, "B N 4 4"]],
    past_valid: Sequence[Bool[Tensor, "B N"]],
    config: PlaneSweepConfig,
) -> SweptDepth:
    """Depth of every second pixel of half-resolution images from the same cameras' past images.

    Args:
        K: of the half-resolution images. T_past_now: current camera -> the same camera in the past.
    """
    B, N, h, w = grey.shape
    inverse = torch.linspace(1 / config.farthest, 1 / config.nearest, config.depths, device=grey.device)
    v, u = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    pixels = torch.stack([u, v], -1).view(1, 1, -1, 2).to(grey)
    rays = camera.ray_directions(pixels.expand(B, N, -1, -1), K)
    target = grey.reshape(B * N, 1, h, w)
    cost, seen = 0.0, 0.0
    for past, T, valid in zip(past_grey, T_past_now, past_valid, strict=True):
        steady = rays @ (K @ T[..., :3, :3]).transpose(-1, -2)  # [B, N, h*w, 3]
        shift = (K @ T[..., :3, 3:])[..., 0]  # [B, N, 3]: times inverse depth, the parallax
        points = steady[:, :, None] + shift[:, :, None, None] * inverse.view(-1, 1, 1)
        depth = points[..., 2]
        uv = points[..., :2] / depth.clamp(min=1e-3)[..., None]
        inside = camera.in_image(uv, depth + camera.MIN_DEPTH, h, w) & valid[..., None, None]
        parallax = (uv[:, :, -1] - uv[:, :, 0]).norm(dim=-1)
        usable = inside & (parallax >= config.least_parallax)[:, :, None]
        grid = camera.to_unit(uv, h, w).view(B * N, config.depths * h, w, 2)
        source = past.reshape(B * N, 1, h, w)
        warped = F.grid_sample(source, grid, padding_mode="border", align_corners=False).view(B * N, -1, h, w)
        match = correlation(target, warped, config.window)
        mask = F.avg_pool2d(usable.view(B * N, -1, h, w).float(), 2) >= 0.5
        cost = cost + (1 - match) * mask
        seen = seen + mask.float()
    score = torch.where(seen > 0, cost / seen.clamp(min=1), 1.0)
    probability = (-score / config.temperature).softmax(1)
    best = probability.argmax(1, keepdim=True)
    near = (best + torch.arange(-1, 2, device=grey.device).view(1, 3, 1, 1)).clamp(0, config.depths - 1)
    local = probability.gather(1, near)
    depth = local.sum(1) / (local * inverse[near]).sum(1)
    confidence = local.sum(1).clamp(max=1) * (seen.gather(1, best)[:, 0] > 0)
    quarter = (B, N, h // 2, w // 2)
    return SweptDepth(probability.view(B, N, -1, *quarter[2:]), depth.view(quarter), confidence.view(quarter), inverse)


def correlation(
    target: Float[Tensor, "M 1 h w"], warped: Float[Tensor, "M D h w"], window: int
) -> Float[Tensor, "M D h/2 w/2"]:
    """Normalised cross-correlation over a window, at every second pixel; 0 where either image is flat."""

    def mean(x: Tensor) -> Tensor:
        return F.avg_pool2d(x, window, stride=2, padding=window // 2, count_include_pad=False)

    h, w = target.shape[-2] // 2, target.shape[-1] // 2
    a, b = mean(target), mean(warped)
    covariance = mean(target * warped) - a * b
    variances = (mean(target**2) - a**2).clamp(min=1e-6) * (mean(warped**2) - b**2).clamp(min=1e-6)
    return (covariance / (variances.sqrt() + 1e-5))[..., :h, :w]


@torch.no_grad()
def lift(
    swept: SweptDepth,
    grid: GridSpec,
    K: Float[Tensor, "B N 3 3"],
    T_ego_cam: Float[Tensor, "B N 4 4"],
    truncation: float,
) -> Float[Tensor, "B CHANNELS X Y Z"]:
    """The cameras' evidence at every voxel, weighted by confidence; zeros where no camera has any.

    Args:
        K: of the images at half resolution (the evidence lies on every second of their pixels).
    """
    B, N, depths, h, w = swept.probability.shape
    centres = grid.centres(K.device).view(1, 1, -1, 3).expand(B, N, -1, -1)
    pixels, depth = camera.project(se3.transform(se3.inverse(T_ego_cam), centres), K)
    inside = camera.in_image(pixels / 2, depth, h, w)
    unit = camera.to_unit(pixels / 2, h, w).view(B * N, -1, 1, 2)
    maps = torch.stack([swept.depth, swept.confidence], 2).flatten(0, 1)
    surface, confidence = F.grid_sample(maps, unit, mode="nearest", align_corners=False)[..., 0].unbind(1)
    position = (
        (1 / depth.clamp(min=camera.MIN_DEPTH) - swept.inverse_depths[0])
        / (swept.inverse_depths[-1] - swept.inverse_depths[0])
        * (depths - 1)
    )
    where = torch.cat([unit[:, :, 0], ((position.view(B * N, -1, 1) + 0.5) / depths * 2 - 1)], -1)[:, :, None, None]
    behind = swept.probability.flip(2).cumsum(2).flip(2)  # probability that the surface is nearer than this plane
    volume = torch.stack([swept.probability, behind], 2).flatten(0, 1)
    here, hidden = F.grid_sample(volume, where, padding_mode="border", align_corners=False)[..., 0, 0].unbind(1)
    distance = ((surface - depth.view(B * N, -1)) / truncation).clamp(-1, 1)
    weight = confidence * inside.view(B * N, -1)
    known = weight * (distance > -1)  # what lies far behind a surface is not known
    values = torch.stack([distance * known, here * weight, hidden * weight, known], 1).view(B, N, CHANNELS, -1).sum(1)
    totals = torch.stack([known, weight, weight], 1).view(B, N, 3, -1).sum(1).clamp(min=1e-3)
    values = torch.cat([values[:, :3] / totals, values[:, 3:].clamp(max=1)], 1)
    return values.view(B, CHANNELS, *grid.shape)
