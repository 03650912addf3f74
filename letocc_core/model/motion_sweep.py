"""Motion evidence from past frames by a sweep over velocities: an optional input besides the papers' network, no weights.

What the plane sweep is to depth. Every voxel of the coarse grid tries a set of velocities: if it held matter that moves
like this, where was it in the past images, and do they look alike there? It compares small descriptors, so that what
moves far between two frames is found as well as what moves little. Given where the matter is, its motion in the image
tells its velocity; the rest, such as motion along the line of sight, is for the network to know.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from letocc_core.errors import ConfigError
from letocc_core.geometry import camera, se3
from letocc_core.geometry.grid import GridSpec

CHANNELS = 4  # velocity x, y (in units of `SCALE`), confidence, advantage over standing still
SCALE = 10.0  # m/s
FLAT = 0.03  # contrast below which a patch has no texture
UNSEEN = -0.2  # similarity of a velocity that leads out of all past images


@dataclass(frozen=True)
class MotionSweepConfig:
    """Velocities tried, in ego axes and relative to the world, and how they are scored. Similarities lie in [-1, 1]."""

    forward: float = 14.0  # m/s, fastest along x, either way
    sideways: float = 6.0  # m/s, fastest along y
    step: float = 2.0  # m/s between the velocities tried
    highest: float = 3.0  # m, voxels above it do not move
    window: int = 5  # voxels, odd: side of the cube whose similarities are averaged
    temperature: float = 0.05  # of the softmax over velocities
    still: float = 0.05  # similarity by which a velocity must beat standing still

    def __post_init__(self):
        if self.window % 2 == 0:
            raise ConfigError(f"motion_sweep.window is {self.window} voxels, expected an odd number")
        if not (self.step > 0 and self.forward >= self.step and self.sideways >= 0):
            raise ConfigError(
                f"motion_sweep: up to {self.forward} and {self.sideways} m/s in steps of {self.step} m/s, expected "
                "positive speeds of at least one step"
            )

    def velocities(self) -> Float[Tensor, "M 2"]:
        """All that are tried (m/s), standing still among them."""
        x, y = (torch.arange(-int(v / self.step), int(v / self.step) + 1) for v in (self.forward, self.sideways))
        return torch.cartesian_prod(x, y) * self.step


@dataclass(frozen=True)
class View:
    """What the sweep takes of a frame: brightness at half resolution, with its cameras."""

    stamp: Int[Tensor, "B"]  # ns
    grey: Float[Tensor, "B N h w"]
    K: Float[Tensor, "B N 3 3"]  # px, of these images
    T_ego_cam: Float[Tensor, "B N 4 4"]  # m
    camera_valid: Bool[Tensor, "B N"]


@torch.no_grad()
def sweep_velocity(
    current: View,
    past: Sequence[View],
    T_past_now: Sequence[Float[Tensor, "B 4 4"]],
    grid: GridSpec,
    config: MotionSweepConfig,
) -> Float[Tensor, "B CHANNELS X Y Z"]:
    """Motion evidence at every voxel of `grid`; zeros where no camera has any.

    Args:
        T_past_now: ego frame now -> ego frame in the past (m).
    """
    B, N, h, w = current.grey.shape
    velocities = config.velocities().to(current.grey)
    x, y, z = grid.axes(current.grey.device)
    axes = (x, y, z[grid.lower[2] + torch.arange(len(z)) * grid.voxel_size < config.highest])
    shape = tuple(map(len, axes))
    pixels, depth = (p.flatten(2, 4).flatten(0, 1) for p in camera.project_lattice(axes, current.K, current.T_ego_cam))
    view, voxel = torch.nonzero(camera.in_image(pixels, depth, h, w) & current.camera_valid.view(-1, 1), as_tuple=True)
    here = _look_up(descriptors(current.grey), view, pixels[view, voxel])
    points = torch.cartesian_prod(*axes)[voxel]
    index = view // N * math.prod(shape) + voxel
    total = points.new_zeros(B * math.prod(shape), len(velocities))
    count = torch.zeros_like(total)
    for other, T in zip(past, T_past_now, strict=True):
        there, shown = _project_moved(points, view, velocities, current, other, T)
        similarity = torch.einsum("mc,mkc->mk", here, _look_up(descriptors(other.grey), view[:, None], there))
        total.index_add_(0, index, similarity * shown)
        count.index_add_(0, index, shown.to(total))
    total, count = (_mean_of_cubes(sums.view(B, *shape, -1), config.window) for sums in (total, count))
    return _pad_layers(_summarise(total, count, velocities, config), grid.shape[2])


def descriptors(grey: Float[Tensor, "B N h w"]) -> Float[Tensor, "B*N h w 9"]:
    """Each pixel's 3 x 3 neighbourhood without its mean, of length 1, or shorter where there is little texture."""
    B, N, h, w = grey.shape
    patches = F.unfold(F.pad(grey.view(B * N, 1, h, w), (1, 1, 1, 1), mode="replicate"), 3).view(B * N, 9, h, w)
    patches = patches - patches.mean(1, keepdim=True)
    return (patches / (patches.norm(dim=1, keepdim=True) + FLAT)).movedim(1, -1).contiguous()


def _look_up(table: Float[Tensor, "M h w c"], view: Tensor, pixels: Float[Tensor, "*n 2"]) -> Float[Tensor, "*n c"]:
    """Descriptors at the nearest pixels of views; beyond the border, those of the border."""
    h, w, c = table.shape[1:]
    u, v = pixels.round().long().unbind(-1)
    index = (view * h + v.clamp_(0, h - 1)) * w + u.clamp_(0, w - 1)
    return table.view(-1, c).index_select(0, index.flatten()).view(*index.shape, c)


def _project_moved(
    points: Float[Tensor, "m 3"],
    view: Int[Tensor, "m"],
    velocities: Float[Tensor, "k 2"],
    current: View,
    other: View,
    T_past_now: Float[Tensor, "B 4 4"],
) -> tuple[Float[Tensor, "m k 2"], Bool[Tensor, "m k"]]:
    """Pixels in the past image of each point's camera for each velocity that it may have had, and whether it shows them.

    In homogeneous coordinates a point moves along a line.
    """
    h, w = other.grey.shape[-2:]
    P = other.K @ (se3.inverse(other.T_ego_cam) @ T_past_now[:, None])[..., :3, :]  # [B, N, 3, 4]
    seconds = (other.stamp - current.stamp).to(points.dtype) * 1e-9
    moves = torch.einsum("bnij,kj,b->ibnk", P[..., :2], velocities, seconds).flatten(1, 2)  # [3, views, k]
    P = P.flatten(0, 1)[view]
    still = (P[..., :3] @ points[..., None])[..., 0] + P[..., 3]
    moved = still.T[..., None] + moves.index_select(1, view)
    pixels = (moved[:2] / moved[2].clamp(min=camera.MIN_DEPTH)).movedim(0, -1)
    shown = camera.in_image(pixels, moved[2], h, w) & other.camera_valid.flatten()[view][:, None]
    return pixels, shown


def _mean_of_cubes(values: Float[Tensor, "B X Y Z M"], side: int) -> Float[Tensor, "B X Y Z M"]:
    """Mean over the cube of voxels around each, axis by axis; zeros beyond the border count."""
    for dim in (1, 2, 3):
        margin = [0, 0] * (values.dim() - 1 - dim) + [side // 2] * 2
        values = F.pad(values, margin).unfold(dim, side, 1).mean(-1)
    return values


def _summarise(
    total: Float[Tensor, "B X Y Z M"], count: Float[Tensor, "B X Y Z M"], velocities: Tensor, config: MotionSweepConfig
) -> Float[Tensor, "B CHANNELS X Y Z"]:
    """Mean velocity, confidence and advantage over standing still, from the neighbourhood's similarities."""
    similarity = torch.where(count > 0, total / count.clamp(min=1e-6), UNSEEN)
    still = (velocities == 0).all(-1).nonzero()[0, 0]
    advantage = similarity.amax(-1) - similarity[..., still]
    similarity[..., still] += config.still
    probability = (similarity / config.temperature).softmax(-1)
    velocity = probability @ velocities / SCALE
    known = (count > 0).any(-1, keepdim=True)
    evidence = torch.cat([velocity, probability.amax(-1, keepdim=True), advantage[..., None]], -1) * known
    return evidence.movedim(-1, 1)


def _pad_layers(evidence: Float[Tensor, "B C X Y z"], layers: int) -> Float[Tensor, "B C X Y Z"]:
    return F.pad(evidence, (0, layers - evidence.shape[-1]))
