"""Rays and samples of one instant in the axes, and in the images, of another."""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from letocc_core.frame import Clip, FlowCue, Frame
from letocc_core.geometry import camera, se3
from letocc_core.rendering.rays import Rays, channels


def reproject(
    rays: Rays,
    t: Float[Tensor, "B N *p s"],
    current: Frame,
    other: Frame | FlowCue,
    velocity: Float[Tensor, "B N *p s 2"] | None = None,
    K: Float[Tensor, "B N 3 3"] | None = None,
) -> tuple[Float[Tensor, "B N *p s 2"], Float[Tensor, "B N *p s"]]:
    """Pixels (u, v) and depth (m) in the same camera at another instant of samples at `t` along rays [B, N, *p].

    In homogeneous coordinates the samples of a ray lie on a line, so that each of them costs an addition a coordinate.
    Points nearer than `camera.MIN_DEPTH` are divided by it, as in `camera.project`.

    Args:
        velocity: m/s, of the matter relative to the world; moves each point by the true time difference.
        K: intrinsics in whose units (u, v) are; None: those of the other instant (px).
    """
    T = se3.inverse(other.T_ego_cam) @ se3.relative(other.T_world_ego, current.T_world_ego)[:, None].to(t.dtype)
    P = (other.K if K is None else K) @ T[..., :3, :]
    starts, steps = (x.flatten(2, -2) @ P[..., :3].transpose(-1, -2) for x in (rays.origins, rays.directions))
    starts = starts + P[..., None, :, 3]
    starts, steps = (x.movedim(-1, 0).reshape(3, *t.shape[:-1], 1).contiguous() for x in (starts, steps))
    places, depth = torch.addcmul(starts[:2], steps[:2], t), torch.addcmul(starts[2], steps[2], t)
    if velocity is not None:
        seconds = (other.stamp - current.stamp).to(t.dtype) * 1e-9
        shifts = (P[..., :2] * seconds.view(-1, 1, 1, 1)).movedim((-2, -1), (0, 1))[(...,) + (None,) * (t.dim() - 2)]
        for axis, speed in enumerate(channels(velocity)):
            places = torch.addcmul(places, shifts[:2, axis], speed)
            depth = torch.addcmul(depth, shifts[2, axis], speed)
    nearness = depth.clamp(min=camera.MIN_DEPTH).reciprocal_()
    return (places * nearness).movedim(0, -1), depth


def as_rendered(clip: Clip) -> Clip:
    """A clip with the rendered frame in the place of the current one, its cameras given in the current ego axes."""
    if clip.rendered is None:
        return clip
    return replace(clip, current=in_axes_of(clip.rendered, clip.current), rendered=None)


def in_axes_of(frame: Frame, now: Frame) -> Frame:
    """A batched frame as if its cameras were mounted, where they were, on the vehicle as it stands at `now`.

    Rays and projections into other frames stay as they are; only the axes in which they are written change. LiDAR and
    votes, which are written in the frame's own axes, are left out.
    """
    T_now_then = se3.relative(now.T_world_ego, frame.T_world_ego)
    T_now_cam = (T_now_then[:, None] @ frame.T_ego_cam).to(frame.T_ego_cam)
    return replace(frame.images_alone(), T_ego_cam=T_now_cam, T_world_ego=now.T_world_ego)
