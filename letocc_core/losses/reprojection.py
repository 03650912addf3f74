"""Where points of the current frame are in the images of another instant."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from letocc_core.frame import FlowCue, Frame
from letocc_core.geometry import camera, se3


def reproject(
    points: Float[Tensor, "B N *p s 3"],
    current: Frame,
    other: Frame | FlowCue,
    velocity: Float[Tensor, "B N *p s 2"] | None = None,
) -> tuple[Float[Tensor, "B N *p s 2"], Float[Tensor, "B N *p s"]]:
    """Pixels (u, v) and depth (m) of points (m, current ego axes) in the same camera at another instant.

    Args:
        velocity: m/s, of the matter relative to the world; moves each point by the true time difference.
    """
    if velocity is not None:
        seconds = (other.stamp - current.stamp).to(points.dtype) * 1e-9
        shift = velocity * seconds.view(-1, *[1] * (velocity.dim() - 1))
        points = points + F.pad(shift, (0, 1))
    T = se3.inverse(other.T_ego_cam) @ se3.relative(other.T_world_ego, current.T_world_ego)[:, None].to(points.dtype)
    pixels, depth = camera.project(se3.transform(T, points.flatten(2, -2)), other.K)
    return pixels.view(*points.shape[:-1], 2), depth.view(points.shape[:-1])
