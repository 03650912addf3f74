"""Photometric consistency between the current frame and its neighbours (Let Occ Flow eq. 8; SelfOcc section 3.3).

MVS-embedded: every sample of a ray is projected into the source frames, so that a ray compares all depths at once and
its weights are pulled towards the depth that matches, however far away. While the world stands still the samples'
costs are constants, and only the rendering weights carry gradients.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from letocc_core.frame import Frame
from letocc_core.geometry import camera
from letocc_core.losses.reprojection import reproject


@dataclass(frozen=True)
class Matches:
    """What V views say about every sample of the rays; a view is one source frame, or the mean of several."""

    colours: Float[Tensor, "V *r s 3"]  # in [0, 1]
    cost: Float[Tensor, "V *r s"]  # mean absolute colour difference to the ray's own pixel
    seen: Bool[Tensor, "V *r"]  # some sample of the ray lies on the view's image


def match(
    points: Float[Tensor, "B N *p s 3"],
    target: Float[Tensor, "B N *p 3"],
    current: Frame,
    sources: Sequence[Frame],
    velocity: Float[Tensor, "B N *p s 2"] | None = None,
    average: bool = True,
) -> Matches:
    """Look every sample (m, current ego axes) of the rays up in the same camera of the source frames.

    A sample outside a view's image has no evidence for or against it: its cost (and colour) is the mean over the ray's
    samples that are inside. Leaving such rays out instead lets a ray hide: weight that moves to where no source looks,
    such as right in front of a side camera, would never be paid for.

    Args:
        target: colours of the rays' own pixels.
        velocity: m/s, moves each sample by the true time difference to the source (Let Occ Flow eq. 8); None: static.
        average: one view, the mean over the sources that see a sample (SelfOcc), instead of one view a source.
    """
    colours, inside = zip(*(_look_up(points, current, s, velocity) for s in sources), strict=True)
    colours, inside = torch.stack(colours), torch.stack(inside)
    cost = (colours - target[..., None, :]).abs().mean(-1)
    if average:
        count = inside.sum(0, keepdim=True).clamp(min=1)
        cost = (cost * inside).sum(0, keepdim=True) / count
        colours = (colours * inside[..., None]).sum(0, keepdim=True) / count[..., None]
        inside = inside.any(0, keepdim=True)
    count = inside.sum(-1, keepdim=True).clamp(min=1)
    neutral_cost = (cost * inside).sum(-1, keepdim=True) / count
    neutral_colour = (colours * inside[..., None]).sum(-2, keepdim=True) / count[..., None]
    return Matches(
        torch.where(inside[..., None], colours, neutral_colour),
        torch.where(inside, cost, neutral_cost),
        inside.any(-1),
    )


def photometric(
    matches: Matches,
    target: Float[Tensor, "B N h w 3"],
    weights: Float[Tensor, "V B N h w s"] | Float[Tensor, "B N h w s"],
    dssim: float,
) -> Float[Tensor, "V B N h w"]:
    """Error of each ray in each view: (1 - dssim) sum w |c - target| + dssim D-SSIM(sum w c, target).

    The D-SSIM compares composited colours with the target's in windows of 3 x 3 rays; `weights` sum to 1.
    """
    l1 = (weights * matches.cost).sum(-1)
    if dssim == 0:
        return l1
    composited = (weights[..., None] * matches.colours).sum(-2)
    return (1 - dssim) * l1 + dssim * _lattice_dssim(composited, target)


def unwarped_error(
    pixels: Float[Tensor, "B N h w 2"], target: Float[Tensor, "B N h w 3"], sources: Sequence[Frame], dssim: float
) -> Float[Tensor, "V B N h w"]:
    """The same error against each source's colours at the ray's own pixel: small where nothing seems to move."""
    colours = torch.stack([sample_colours(source.images, pixels) for source in sources])
    l1 = (colours - target).abs().mean(-1)
    return l1 if dssim == 0 else (1 - dssim) * l1 + dssim * _lattice_dssim(colours, target)


def minimum_over_views(
    errors: Float[Tensor, "V *r"],
    seen: Bool[Tensor, "V *r"],
    unwarped: Float[Tensor, "U *r"] | None = None,
) -> tuple[Float[Tensor, "*r"], Bool[Tensor, "*r"]]:
    """Least error of each ray over the views that see it, and the rays it counts for (Monodepth2 eq. 4 and 5).

    With `unwarped`, rays that an unwarped source explains better are left out (auto-mask): nothing seems to move there.
    """
    best = torch.where(seen, errors, torch.inf).amin(0)
    counted = seen.any(0)
    if unwarped is not None:
        counted = counted & (best < unwarped.amin(0))
    return torch.where(counted, best, 0.0), counted


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


def sample_colours(images: Float[Tensor, "B N C H W"], pixels: Float[Tensor, "B N *p 2"]) -> Float[Tensor, "B N *p C"]:
    """Bilinear colours at pixels (u, v); beyond the border, those of the border."""
    B, N, C, H, W = images.shape
    grid = camera.to_unit(pixels, H, W).reshape(B * N, -1, 1, 2)
    colours = F.grid_sample(images.flatten(0, 1), grid, padding_mode="border", align_corners=False)
    return colours[..., 0].transpose(1, 2).reshape(*pixels.shape[:-1], C)


def _look_up(points: Tensor, current: Frame, source: Frame, velocity: Tensor | None) -> tuple[Tensor, Tensor]:
    """Colours of the samples in one source, and whether they lie on an image of a camera that is there."""
    pixels, depth = reproject(points, current, source, velocity)
    seen = source.camera_valid.view(*source.camera_valid.shape, *[1] * (depth.dim() - 2))
    inside = camera.in_image(pixels, depth, *source.images.shape[-2:]) & seen
    return sample_colours(source.images, pixels), inside


def _lattice_dssim(colours: Tensor, target: Tensor) -> Tensor:
    """D-SSIM [V, B, N, h, w], mean over the channels, of lattice images [V, B, N, h, w, 3] and [B, N, h, w, 3]."""
    images, targets = (x.flatten(0, 2).movedim(-1, 1) for x in (colours, target.expand_as(colours)))
    return ssim_loss(images, targets).mean(1).view(colours.shape[:-1])
