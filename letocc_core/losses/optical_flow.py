"""Motion from 2D cues: optical flow supervises what moves, and the geometry of what does not (Let Occ Flow 3.4)."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from letocc_core.frame import FlowCue, Frame
from letocc_core.geometry import camera, polyline
from letocc_core.geometry.camera import MIN_DEPTH
from letocc_core.losses.reprojection import reproject
from letocc_core.rendering.rays import CameraRays
from letocc_core.rendering.render import composite

MOST_MEDIANS = 100  # of the error, beyond which a ray is left out
MOST_SCALE = 20  # of the rays that move
SMALL = 0.5  # m/s, over which the flow's slope is measured


def rendered_flow(
    rays: CameraRays,
    t: Float[Tensor, "B N *p s"],
    weights: Float[Tensor, "B N *p s"],
    current: Frame,
    cue: FlowCue,
    velocity: Float[Tensor, "B N *p s 2"] | None = None,
) -> Float[Tensor, "B N *p 2"]:
    """Optical flow (px) that camera rays [B, N, *p] show at the cue's instant: sum w pi(T (x + v dt)) - p (eq. 9).

    Args:
        t: of the samples along the rays.
        weights: of the samples; their sum is taken to be 1, without samples behind the other camera.
        velocity: m/s, of each sample; None: the world stands still.
    """
    there, depth = reproject(rays, t, current, cue, velocity)
    weights = weights * (depth > MIN_DEPTH)
    return composite(weights, there) / weights.sum(-1, keepdim=True).clamp(min=1e-3) - rays.pixels


def cue_at(cue: FlowCue, pixels: Float[Tensor, "B N *p 2"]) -> tuple[Float[Tensor, "B N *p 2"], Bool[Tensor, "B N *p"]]:
    """Flow (px) of the cue at the nearest pixels, and where it can be trusted."""
    flow = [camera.at_nearest(axis, pixels) for axis in cue.flow.unbind(2)]
    return torch.stack(flow, dim=-1), camera.at_nearest(cue.valid, pixels)


def nearest_static(
    target: Float[Tensor, "B N *p 2"],
    static: Float[Tensor, "B N *p 2"],
    rays: CameraRays,
    t: Float[Tensor, "B N *p s"],
    weights: Float[Tensor, "B N *p s"],
    current: Frame,
    cue: FlowCue,
    tolerance: float,
) -> Float[Tensor, "B N *p 2"]:
    """The flow (px) nearest to the cue's that a still world shows at the rendered depth times 1 / tolerance to tolerance.

    An error of depth moves the flow along its epipolar line only. The line is followed in four straight pieces.

    Args:
        target, static: px, of the cue, and at the rendered depth.
        tolerance: 1: the rendered depth alone.
    """
    if tolerance == 1:
        return static
    factors = [tolerance**power for power in (-1, -0.5, 0.5, 1)]
    flows = [rendered_flow(rays, k * t, weights, current, cue) for k in factors]
    flows.insert(2, static)
    return polyline.nearest_on(torch.stack(flows), target)


def flow_slope(
    rays: CameraRays,
    t: Float[Tensor, "B N *p s"],
    weights: Float[Tensor, "B N *p s"],
    current: Frame,
    cue: FlowCue,
    velocity: Float[Tensor, "B N *p s 2"],
) -> tuple[Float[Tensor, "B N *p 2"], Float[Tensor, "B N *p 2 2"]]:
    """Flow (px) at these velocities (m/s), and what a m/s more along x and along y adds to it, in the columns."""
    flow = rendered_flow(rays, t, weights, current, cue, velocity)
    faster = [
        rendered_flow(rays, t, weights, current, cue, velocity + SMALL * axis)
        for axis in torch.eye(2, device=t.device, dtype=t.dtype)
    ]
    return flow, torch.stack([(f - flow) / SMALL for f in faster], dim=-1)


def dynamic_rays(
    cue: Float[Tensor, "*b h w 2"],
    static: Float[Tensor, "*b h w 2"],
    movable: Bool[Tensor, "*b h w"] | None,
    threshold: float,
) -> Bool[Tensor, "*b h w"]:
    """Rays whose flow a world that stands still does not explain, on objects that could move (eq. 10).

    Args:
        cue, static: px, the cue and the flow rendered without motion.
        movable: rays on such objects; None: not known, so that the flow alone decides, by the majority of each 3 x 3
            rays: without specks and pinholes.
        threshold: px.
    """
    moves = (cue - static).norm(dim=-1) > threshold
    return _majority(moves) if movable is None else moves & movable


def _majority(mask: Bool[Tensor, "*b h w"]) -> Bool[Tensor, "*b h w"]:
    """Median filter of 3 x 3; at the border, of what is inside."""
    images = mask.float().view(-1, 1, *mask.shape[-2:])
    share = F.avg_pool2d(images, 3, stride=1, padding=1, count_include_pad=False)
    return (share > 0.5).view(mask.shape)


def dynamic_scale(count: Int[Tensor, "B"], dynamic: Int[Tensor, "B"]) -> Float[Tensor, "B"]:
    """Weight of each ray that moves: those of a clip count as much as the others, up to 20 times (eq. 11)."""
    return (count / dynamic.clamp(min=1)).clamp(max=MOST_SCALE)


def flow_error(
    flow: Float[Tensor, "B *r 2"], cue: Float[Tensor, "B *r 2"], counted: Bool[Tensor, "B *r"]
) -> tuple[Float[Tensor, "B *r"], Bool[Tensor, "B *r"]]:
    """L1 distance (px) to the cue, and the counted rays without those beyond 100 medians of their clip (eq. 9)."""
    error = (flow - cue).abs().sum(-1)
    known = torch.where(counted, error.detach(), torch.nan)
    median = known.flatten(1).nanmedian(1).values.view(-1, *[1] * (error.dim() - 1))
    return error, counted & (known <= MOST_MEDIANS * median)
