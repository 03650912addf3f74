"""Photometric consistency between the current frame and its neighbours (Let Occ Flow eq. 8; SelfOcc, CVPR 2024)."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from letocc_core.geometry import camera, se3


def ssim_loss(a: Float[Tensor, "M C h w"], b: Float[Tensor, "M C h w"]) -> Float[Tensor, "M C h w"]:
    """D-SSIM (1 - SSIM) / 2 in [0, 1] over 3 x 3 windows with reflected borders (Monodepth2)."""
    a, b = (F.pad(x, (1, 1, 1, 1), mode="reflect") for x in (a, b))

    def mean(x: Tensor) -> Tensor:
        return F.avg_pool2d(x, 3, 1)

    mean_a, mean_b = mean(a), mean(b)
    variance_a, variance_b = mean(a**2) - mean_a**2, mean(b**2) - mean_b**2
    covariance = mean(a * b) - mean_a * mean_b
    upper = (2 * mean_a * mean_b + 0.01**2) * (2 * covariance + 0.03**2)
    lower = (mean_a**2 + mean_b**2 + 0.01**2) * (variance_a + variance_b + 0.03**2)
    return ((1 - upper / lower) / 2).clamp(0, 1)


def sample_colours(
    images: Float[Tensor, "B N 3 H W"], pixels: Float[Tensor, "B N *p 2"]
) -> Float[Tensor, "B N *p 3"]:
    """Bilinear colours at pixels (u, v); beyond the border, those of the border."""
    B, N, _, H, W = images.shape
    grid = camera.to_unit(pixels, H, W).reshape(B * N, -1, 1, 2)
    colours = F.grid_sample(images.flatten(0, 1), grid, padding_mode="border", align_corners=False)
    return colours[..., 0].transpose(1, 2).reshape(*pixels.shape[:-1], 3)


def project_samples(
    points: Float[Tensor, "B N *p 3"],
    T_source_ego: Float[Tensor, "B 4 4"],
    T_ego_cam: Float[Tensor, "B N 4 4"],
    K: Float[Tensor, "B N 3 3"],
    image_size: tuple[int, int],
) -> tuple[Float[Tensor, "B N *p 2"], Bool[Tensor, "B N *p"]]:
    """Pixels of points (m, current ego axes) in the same cameras of a source frame, and whether they are on its images.

    Args:
        T_source_ego: current ego -> source ego. T_ego_cam, K: of the source frame.
    """
    T = se3.inverse(T_ego_cam) @ T_source_ego[:, None]
    pixels, depth = camera.project(se3.transform(T, points.flatten(2, -2)), K)
    inside = camera.in_image(pixels, depth, *image_size)
    return pixels.view(*points.shape[:-1], 2), inside.view(points.shape[:-1])


def photometric(
    target: Float[Tensor, "B N h w 3"],
    colours: Float[Tensor, "B N h w s 3"],
    weights: Float[Tensor, "B N h w s"],
    dssim_share: float,
) -> Float[Tensor, "B N h w"]:
    """Error of one source: L1 sample by sample, weighted (MVS-embedded); D-SSIM of the composited lattice image.

    Args:
        target: colours of the rays' own pixels.
        colours: source colours of every sample (the last one may be the background), weights summing to 1.
    """
    l1 = ((colours - target[..., None, :]).abs().mean(-1) * weights).sum(-1)
    composited = (colours * weights[..., None]).sum(-2)
    dssim = ssim_loss(composited.flatten(0, 1).movedim(-1, 1), target.flatten(0, 1).movedim(-1, 1)).mean(1)
    return (1 - dssim_share) * l1 + dssim_share * dssim.view(l1.shape)


def minimum_over_sources(
    errors: Float[Tensor, "sources *r"],
    inside: Bool[Tensor, "sources *r"],
    unwarped: Float[Tensor, "sources *r"] | None,
    counted: Bool[Tensor, "*r"],
) -> Float[Tensor, ""]:
    """Mean over rays of the least error of the sources that see the ray (Monodepth2's minimum and auto-mask).

    Args:
        inside: the ray stays on that source's images.
        unwarped: errors against the unwarped sources; rays that one of them explains better are left out.
        counted: rays to use at all.
    """
    best = torch.where(inside, errors, torch.inf).amin(0)
    kept = counted & inside.any(0)
    if unwarped is not None:
        kept = kept & (best < torch.where(inside, unwarped, torch.inf).amin(0))
    return torch.where(kept, best, 0.0).sum() / kept.sum().clamp(min=1)
