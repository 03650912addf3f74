"""Depth of objects from where they stand on the ground: ours, for what moves and so has no depth by parallax.

The motion of an object along its own epipolar lines looks like another depth, so photometry between frames puts what
moves at a wrong distance, without any sign of error. But cars, cyclists and pedestrians stand on the ground: the ray
through the lowest pixel of one meets the road at its distance, and the pixels above it are about as far.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from letocc_core.geometry import camera

STEEPEST = 1e-3  # m down for a metre of depth; flatter rays meet the ground nowhere near


def contact_depth(
    movable: Bool[Tensor, "B N H W"], K: Float[Tensor, "B N 3 3"], T_ego_cam: Float[Tensor, "B N 4 4"]
) -> Float[Tensor, "B N H W"]:
    """Depth (m) at which the lowest pixel of each vertical run of movable pixels meets the plane z = 0 of ego axes.

    Infinite off these objects, and where the image ends before the object does. Of objects one behind the other, the
    nearer one's counts for both.
    """
    height, width = movable.shape[-2:]
    row = torch.arange(height, device=movable.device)[:, None].expand_as(movable)
    ends = torch.where(movable, height, row).flip(-2).cummin(-2).values.flip(-2)  # first row below that is off it
    column = torch.arange(width, device=movable.device).expand_as(movable)
    pixels = torch.stack([column, ends - 0.5], dim=-1).to(K)
    down = -(camera.ray_directions(pixels.flatten(2, 3), K) * T_ego_cam[..., None, 2, :3]).sum(-1).view(movable.shape)
    depth = T_ego_cam[..., 2, 3, None, None] / down.clamp(min=STEEPEST)
    return torch.where(movable & (ends < height) & (down > STEEPEST), depth, torch.inf)
