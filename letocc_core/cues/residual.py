"""Pixels that move, by optical flow and ego motion alone: masks where no network that knows objects can be had.

What moves shows a flow that a still world shows at no depth. Motion along a pixel's own epipolar line looks like another
depth, so the bounds of depth decide how much is found: nothing is farther than the ground, and LiDAR says more where
there is any.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from letocc_core.errors import ConfigError
from letocc_core.frame import FlowCue, Frame
from letocc_core.geometry import camera, polyline, se3

FARTHEST = 500.0  # m
DEPTHS = 9  # evenly spaced inverse depths, at which the line of a still pixel's flow has its corners


@dataclass(frozen=True)
class FlowResidual:
    """What is taken to move, in pixels of the network's images."""

    residual: float = 1.0  # px between the flow and the nearest one of a still world, mean over the cues
    nearest: float = 2.0  # m, the least depth that a pixel may have
    tolerance: float = 1.15  # factor by which the depth of LiDAR returns, and of the ground, may be wrong
    reach: int = 2  # px around a pixel within which LiDAR returns say its depth
    ground: bool = True  # nothing is farther than the plane z = 0 in ego axes
    speck: int = 5  # px, odd: what is narrower is noise (opening)
    gap: int = 9  # px, odd: what is narrower is a hole in an object (closing)

    def __post_init__(self):
        if self.speck % 2 == 0 or self.gap % 2 == 0:
            raise ConfigError(f"masks: speck {self.speck} and gap {self.gap} px, expected odd numbers")
        if self.tolerance < 1 or not 0 < self.nearest < FARTHEST:
            raise ConfigError(
                f"masks: tolerance {self.tolerance}, nearest {self.nearest} m; expected a factor of at least 1 and a "
                f"depth between 0 and {FARTHEST:g} m"
            )

    def __call__(self, frame: Frame, cues: Sequence[FlowCue]) -> Bool[Tensor, "N H W"]:
        """Pixels of a single frame that move; not those whose flow no cue knows."""
        near, far = self.depths(frame)
        residuals = torch.stack([_residual(frame, cue, near, far) for cue in cues])
        moves = residuals.nanmean(0) > self.residual
        return closed(opened(moves, self.speck), self.gap)

    def depths(self, frame: Frame) -> tuple[Float[Tensor, "N H W"], Float[Tensor, "N H W"]]:
        """The least and the largest depth (m) that each pixel of a single frame may have."""
        height, width = frame.images.shape[-2:]
        near = frame.K.new_full((len(frame.K), height, width), self.nearest)
        far = torch.full_like(near, FARTHEST)
        if self.ground:
            far = (_ground_depth(frame) * self.tolerance).clamp(self.nearest, FARTHEST)
        if frame.lidar is None:
            return near, far
        nearest, farthest = (_around(depth, self.reach) for depth in _lidar_depth(frame, frame.lidar))
        nearest, known = -nearest, farthest > 0
        return torch.where(known, nearest / self.tolerance, near), torch.where(known, farthest * self.tolerance, far)


def opened(mask: Bool[Tensor, "N H W"], size: int) -> Bool[Tensor, "N H W"]:
    """Without what a square of `size` px (odd) does not fit into; beyond the image it goes on as at the border."""
    return ~closed(~mask, size)


def closed(mask: Bool[Tensor, "N H W"], size: int) -> Bool[Tensor, "N H W"]:
    """With all that a square of `size` px (odd) outside of the mask cannot reach."""
    half = size // 2
    grown = F.max_pool2d(F.pad(mask.float(), [2 * half] * 4, mode="replicate"), size, stride=1)
    return F.max_pool2d(-grown, size, stride=1) < 0


def _residual(
    frame: Frame, cue: FlowCue, near: Float[Tensor, "N H W"], far: Float[Tensor, "N H W"]
) -> Float[Tensor, "N H W"]:
    """Distance (px) of the flow to the nearest one that a still point between the two depths (m) shows; NaN: not known."""
    pixels = _pixels(frame)
    rays = camera.ray_directions(pixels, frame.K)
    T = se3.inverse(cue.T_ego_cam) @ se3.relative(cue.T_world_ego, frame.T_world_ego) @ frame.T_ego_cam
    shares = torch.linspace(0, 1, DEPTHS, device=pixels.device)
    depths = [torch.lerp(1 / near, 1 / far, share).reciprocal().flatten(1) for share in shares]
    flows = [camera.project(se3.transform(T, rays * depth[..., None]), cue.K)[0] - pixels for depth in depths]
    flow = cue.flow.flatten(2).mT
    distance = (polyline.nearest_on(torch.stack(flows), flow) - flow).norm(dim=-1).view(near.shape)
    return torch.where(cue.valid, distance, torch.nan)


def _ground_depth(frame: Frame) -> Float[Tensor, "N H W"]:
    """Depth (m) at which each pixel's ray meets the plane z = 0 of ego axes; infinite above the horizon."""
    height, width = frame.images.shape[-2:]
    down = -(camera.ray_directions(_pixels(frame), frame.K) @ frame.T_ego_cam[:, 2, :3, None])[..., 0]
    depth = torch.where(down > 0, frame.T_ego_cam[:, 2, 3, None] / down, torch.inf)
    return depth.view(-1, height, width)


def _lidar_depth(frame: Frame, lidar: Float[Tensor, "P 3"]) -> tuple[Float[Tensor, "N H W"], Float[Tensor, "N H W"]]:
    """Depth (m) of the nearest return on each pixel, negated, and of the farthest; -inf where there is none."""
    N, _, height, width = frame.images.shape
    points = se3.transform(se3.inverse(frame.T_ego_cam), lidar.expand(N, -1, 3))
    pixels, depth = camera.project(points, frame.K)
    seen = camera.in_image(pixels, depth, height, width)
    u, v = pixels.nan_to_num().round().long().unbind(-1)
    index = v.clamp(0, height - 1) * width + u.clamp(0, width - 1)
    empty = depth.new_full((N, height * width), -torch.inf)
    nearest, farthest = (
        empty.scatter_reduce(1, index, torch.where(seen, sign * depth, -torch.inf), "amax").view(N, height, width)
        for sign in (-1, 1)
    )
    return nearest, farthest


def _around(depth: Float[Tensor, "N H W"], reach: int) -> Float[Tensor, "N H W"]:
    """The largest value within `reach` px, either way."""
    return F.max_pool2d(depth, 2 * reach + 1, stride=1, padding=reach)


def _pixels(frame: Frame) -> Float[Tensor, "N p 2"]:
    """(u, v) of every pixel, row by row."""
    height, width = frame.images.shape[-2:]
    rows, columns = (torch.arange(n, device=frame.K.device) for n in (height, width))
    return torch.cartesian_prod(rows, columns).flip(-1).to(frame.K).expand(len(frame.K), -1, -1)
