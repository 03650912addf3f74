"""Photometric consistency between the current frame and its neighbours (Let Occ Flow eq. 8; SelfOcc section 3.3).

MVS-embedded: every sample of a ray is projected into the source frames, so that a ray compares all depths at once and
its weights are pulled towards the depth that matches, however far away. While the world stands still the samples'
costs are constants, and only the rendering weights carry gradients.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from letocc_core.frame import Frame
from letocc_core.geometry import camera
from letocc_core.losses.reprojection import reproject
from letocc_core.rendering.rays import Rays, channels
from letocc_core.rendering.render import composite


@dataclass(frozen=True)
class Match:
    """What a view says about every sample of the rays; a view is one source frame, or the mean of several.

    A sample outside the view's image has no evidence for or against it: what the others say counts for it, on average.
    Leaving such rays out instead lets a ray hide: weight that moves to where no source looks, such as right in front of
    a side camera, would never be paid for.
    """

    colours: Float[Tensor, "*r s 3"]  # in [0, 1]; of the samples inside
    cost: Float[Tensor, "*r s"]  # mean absolute colour difference to the ray's own pixel; outside: the others' mean
    inside: Float[Tensor, "*r s"]  # 1 where the sample lies on the view's image, 0 elsewhere

    @property
    def seen(self) -> Bool[Tensor, "*r"]:
        """Some sample of the ray lies on the view's image."""
        return self.inside.sum(-1) > 0

    def composited(self, weights: Float[Tensor, "*r s"]) -> Float[Tensor, "*r 3"]:
        """Colours of the rays: the weight of the samples outside is shared out evenly among those inside."""
        within = weights * self.inside
        share = (weights.sum(-1) - within.sum(-1)) / self.inside.sum(-1).clamp(min=1)
        return composite(torch.addcmul(within, share[..., None], self.inside), self.colours)


def match(
    rays: Rays,
    t: Float[Tensor, "B N *p s"],
    target: Float[Tensor, "B N *p 3"],
    current: Frame,
    sources: Sequence[Frame],
    velocity: Float[Tensor, "B N *p s 2"] | None = None,
    average: bool = True,
) -> list[Match]:
    """Look samples at `t` along rays up in the same camera of the source frames.

    Args:
        target: colours of the rays' own pixels.
        velocity: m/s, moves each sample by the true time difference to the source (Let Occ Flow eq. 8); None: static.
        average: one view, the mean over the sources that see a sample (SelfOcc), instead of one view a source.
    """
    found = [_look_up(rays, t, target, current, source, velocity) for source in sources]
    return [_with_neutral_cost(view) for view in ([_mean(found)] if average else found)]


def _look_up(rays: Rays, t: Tensor, target: Tensor, current: Frame, source: Frame, velocity: Tensor | None) -> Match:
    """The samples in one source; inside: on an image of a camera that is there."""
    K = camera.unit_intrinsics(source.K, *source.images.shape[-2:])
    there, depth = reproject(rays, t, current, source, velocity, K)
    u, v = channels(there)
    nearest = torch.where(source.camera_valid, camera.MIN_DEPTH, torch.inf)[(...,) + (None,) * (depth.dim() - 2)]
    inside = torch.maximum(u.detach().abs(), v.detach().abs()).le_(1)  # in place, as truth values take longer
    inside *= depth.detach().clone().gt_(nearest)
    if source.masked is not None:
        inside *= _colours_at(source.masked[:, :, None].float(), there)[..., 0] == 0
    colours = _colours_at(source.images, there)
    pairs = zip(channels(colours), target[..., None, :].unbind(-1), strict=True)
    red, green, blue = (
        (here - own).abs_() for here, own in pairs
    )  # one channel after the other, as they lie in memory
    cost = red.add_(green).add_(blue).div_(3)
    return Match(colours, cost, inside)


def _mean(views: Sequence[Match]) -> Match:
    """Over the views that have a sample inside."""
    count = torch.stack([view.inside for view in views]).sum(0).clamp(min=1)
    return Match(
        sum(view.colours * view.inside[..., None] for view in views) / count[..., None],
        sum(view.cost * view.inside for view in views) / count,
        torch.stack([view.inside for view in views]).amax(0),
    )


def _with_neutral_cost(view: Match) -> Match:
    neutral = torch.linalg.vecdot(view.cost, view.inside) / view.inside.sum(-1).clamp(min=1)
    return replace(view, cost=torch.lerp(neutral[..., None], view.cost, view.inside))


def photometric(
    view: Match, target: Float[Tensor, "B N h w 3"], weights: Float[Tensor, "B N h w s"], dssim: float
) -> Float[Tensor, "B N h w"]:
    """Error of each ray in a view: (1 - dssim) sum w |c - target| + dssim D-SSIM(sum w c, target).

    The D-SSIM compares composited colours with the target's in windows of 3 x 3 rays; `weights` sum to 1.
    """
    l1 = torch.linalg.vecdot(weights, view.cost)
    return l1 if dssim == 0 else (1 - dssim) * l1 + dssim * _lattice_dssim(view.composited(weights), target)


def unwarped_error(
    pixels: Float[Tensor, "B N h w 2"], target: Float[Tensor, "B N h w 3"], sources: Sequence[Frame], dssim: float
) -> Float[Tensor, "V B N h w"]:
    """The same error against each source's colours at the ray's own pixel: small where nothing seems to move."""
    errors = []
    for source in sources:
        colours = sample_colours(source.images, pixels)
        l1 = (colours - target).abs().mean(-1)
        errors.append(l1 if dssim == 0 else (1 - dssim) * l1 + dssim * _lattice_dssim(colours, target))
    return torch.stack(errors)


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
        rows = x[..., :-2, :] + x[..., 1:-1, :] + x[..., 2:, :]
        return (rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]) / 9

    mean_a, mean_b = mean(a), mean(b)
    variance_a, variance_b = mean(a**2) - mean_a**2, mean(b**2) - mean_b**2
    covariance = mean(a * b) - mean_a * mean_b
    upper = (2 * mean_a * mean_b + 0.01**2) * (2 * covariance + 0.03**2)
    lower = (mean_a**2 + mean_b**2 + 0.01**2) * (variance_a + variance_b + 0.03**2)
    return ((1 - upper / lower) / 2).clamp(0, 1)


def sample_colours(images: Float[Tensor, "B N C H W"], pixels: Float[Tensor, "B N *p 2"]) -> Float[Tensor, "B N *p C"]:
    """Bilinear colours at pixels (u, v); beyond the border, those of the border."""
    return _colours_at(images, camera.to_unit(pixels, *images.shape[-2:]))


def _colours_at(images: Float[Tensor, "B N C H W"], unit: Float[Tensor, "B N *p 2"]) -> Float[Tensor, "B N *p C"]:
    """The same at coordinates as `camera.to_unit` gives them."""
    B, N, C, _, _ = images.shape
    where = unit.reshape(B * N, -1, 1, 2)
    colours = F.grid_sample(images.flatten(0, 1), where, padding_mode="border", align_corners=False)
    return colours[..., 0].transpose(1, 2).reshape(*unit.shape[:-1], C)


def _lattice_dssim(colours: Tensor, target: Tensor) -> Tensor:
    """D-SSIM [B, N, h, w], mean over the channels, of lattice images [B, N, h, w, 3]."""
    images, targets = (x.flatten(0, 1).movedim(-1, 1) for x in (colours, target))
    return ssim_loss(images, targets).mean(1).view(colours.shape[:-1])
