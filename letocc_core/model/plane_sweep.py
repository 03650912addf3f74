"""Depth evidence from past frames by plane sweep: an optional input besides the papers' network, with no weights.

Every pixel of the current images tries a set of inverse depths; each is compared with the past images by normalised
cross-correlation over a window (insensitive to exposure), smoothed by semi-global matching, and turned into
probabilities, which `lift` carries to the voxels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from letocc_core.compiled.threads import serves
from letocc_core.geometry import camera, se3
from letocc_core.geometry.grid import GridSpec

CHANNELS = 4  # of the lifted evidence: signed distance, surface, hidden, known (see `lift`)
FLAT = 1e-6  # variance of brightness below which a window has no texture
NOWHERE = torch.tensor([[0.0, 0, 0, 0], [0, 0, 0, 0], [0, 0, -1, 0]])  # lines of a camera that has no past image
# Costs are 1 - correlation.
DEPTHS = 48  # inverse depths tried, evenly spaced
NEAREST = 2.0  # m
FARTHEST = 60.0  # m
WINDOW = 5  # px at half resolution, odd: side of the window over which images are compared
WORST_COST = 0.6  # a worse match counts no more than this: occlusion, motion, reflections
UNSEEN_COST = 0.4  # of a hypothesis that no past image shows: a match must be better to be believed
SMALL_STEP = 0.2  # cost of neighbours that differ by one inverse depth
LARGE_STEP = 1.5  # cost of neighbours that differ by more
TEMPERATURE = 0.1  # of the softmax over the aggregated costs
LEAST_PARALLAX = 1.5  # px at half resolution between nearest and farthest; less is no evidence
TRUNCATION = 1.5  # m, of the signed distance


@dataclass(frozen=True)
class PlaneSweepConfig:
    """How the network uses the sweep."""

    prior: bool = False  # the SDF starts from the evidence, and the network learns what to add to it

    REMOVED: ClassVar = {
        "depths": 48,
        "nearest": 2.0,
        "farthest": 60.0,
        "window": 5,
        "worst_cost": 0.6,
        "unseen_cost": 0.4,
        "small_step": 0.2,
        "large_step": 1.5,
        "temperature": 0.1,
        "least_parallax": 1.5,
        "truncation": 1.5,
    }


@dataclass(frozen=True)
class SweptDepth:
    """Evidence at every second pixel of the half-resolution images."""

    probability: Float[Tensor, "B N depths h w"]  # over inverse depths, farthest first
    depth: Float[Tensor, "B N h w"]  # m, around the most probable hypothesis
    confidence: Float[Tensor, "B N h w"]  # 0 (no parallax, not seen in the past) to 1
    inverse_depths: Float[Tensor, "depths"]  # 1/m


def brightness(images: Float[Tensor, "B N 3 H W"]) -> Float[Tensor, "B N H W"]:
    """What the sweeps keep of a frame."""
    return (images * images.new_tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(2)


def half_intrinsics(K: Float[Tensor, "*n 3 3"]) -> Float[Tensor, "*n 3 3"]:
    """Intrinsics of an image averaged over 2 x 2 pixels."""
    K = K.clone()
    K[..., :2, :2] = K[..., :2, :2] / 2
    K[..., :2, 2] = (K[..., :2, 2] + 0.5) / 2 - 0.5
    return K


def half_masked(masked: Bool[Tensor, "B N H W"]) -> Bool[Tensor, "B N h w"]:
    """Pixels at half resolution whose window touches a masked one."""
    return F.max_pool2d(F.max_pool2d(masked.float(), 2), WINDOW, stride=1, padding=WINDOW // 2) > 0


@torch.no_grad()
def sweep_depth(
    grey: Float[Tensor, "B N h w"],
    past_grey: Sequence[Float[Tensor, "B N h w"]],
    K: Float[Tensor, "B N 3 3"],
    past_K: Sequence[Float[Tensor, "B N 3 3"]],
    T_past_now: Sequence[Float[Tensor, "B N 4 4"]],
    past_valid: Sequence[Bool[Tensor, "B N"]],
    depths: int = DEPTHS,
    nearest: float = NEAREST,
    masked: Sequence[Bool[Tensor, "B N h w"] | None] = (),
) -> SweptDepth:
    """Depth of every second pixel of half-resolution images from the same cameras' past images.

    Args:
        K, past_K: of the half-resolution images.
        T_past_now: the camera's frame now -> its frame in the past (m).
        past_valid: the camera has an image both now and then.
        depths: how many inverse depths are tried.
        nearest: m, the nearest of them.
        masked: pixels without evidence, of the images now and of each past one (`half_masked`); empty: none.
    """
    B, N, h, w = grey.shape
    inverse = torch.linspace(1 / FARTHEST, 1 / nearest, depths, device=grey.device)
    target = grey.reshape(B * N, 1, h, w) - 0.5  # around zero the variances keep more digits
    now_masked, *past_masked = masked or [None] * (1 + len(past_grey))
    pairs = list(zip(past_grey, past_K, T_past_now, past_valid, past_masked, strict=True))
    if serves(grey):
        return _compiled_sweep(target, pairs, K, inverse, now_masked)
    cost, seen = torch.zeros(()), torch.zeros(())
    for past, K_past, T, valid, blind in pairs:
        grid, behind = _hypotheses((h, w), K, K_past, T, inverse)
        images = past.reshape(B * N, 1, h, w) - 0.5
        warped = F.grid_sample(images, grid.flatten(1, 2), padding_mode="border", align_corners=False).view_as(behind)
        mismatch = (1 - correlation(target, warped.movedim(-1, 1), WINDOW)).clamp_(max=WORST_COST)
        shown = _shown(grid[:, ::2, ::2], behind[:, ::2, ::2]) & valid.view(-1, 1, 1, 1)
        if blind is not None:
            shown = shown & ~_at(blind, grid[:, ::2, ::2])
        cost = cost + mismatch * shown
        seen = seen + shown.float()
    if now_masked is not None:
        seen = seen * ~now_masked.flatten(0, 1)[:, None, ::2, ::2]
    cost = torch.where(seen > 0, cost / seen.clamp(min=1), UNSEEN_COST)
    logits = aggregate(cost, SMALL_STEP, LARGE_STEP) / -TEMPERATURE
    return _summarise(logits.movedim(1, -1).softmax(-1).movedim(-1, 1), seen > 0, inverse, B)


def _compiled_sweep(
    target: Float[Tensor, "M 1 h w"],
    pairs: Sequence[tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None]],
    K: Float[Tensor, "B N 3 3"],
    inverse: Float[Tensor, "depths"],
    masked: Bool[Tensor, "B N h w"] | None,
) -> SweptDepth:
    """The same on a CPU: no image of any hypothesis is kept."""
    from letocc_core.compiled import sweep

    M, _, h, w = target.shape
    mean, square = (_window_mean(x, WINDOW)[:, 0] for x in (target, target**2))
    variance = (square - mean**2).clamp(min=FLAT)
    cost = torch.zeros(*mean.shape, len(inverse))
    seen = torch.zeros_like(cost)
    for past, K_past, T, valid, blind in pairs:
        lines = torch.where(valid.view(-1, 1, 1), _lines((h, w), K, K_past, T), NOWHERE)
        images, limits = past.reshape(M, h, w) - 0.5, (WINDOW, WORST_COST, LEAST_PARALLAX)
        blind = None if blind is None else blind.flatten(0, 1)
        sweep.matching_costs(target[:, 0], images, lines, inverse, mean, variance, *limits, blind, cost, seen)
    if masked is not None:
        seen *= ~masked.flatten(0, 1)[:, ::2, ::2, None]
    cost = torch.where(seen > 0, cost / seen.clamp(min=1), UNSEEN_COST)
    logits = sweep.aggregate(cost, SMALL_STEP, LARGE_STEP, -0.25 / TEMPERATURE)
    return _summarise(logits.softmax(-1).movedim(-1, 1), (seen > 0).movedim(-1, 1), inverse, len(K))


def _lines(shape: tuple[int, int], K: Tensor, K_past: Tensor, T: Tensor) -> Float[Tensor, "M 3 4"]:
    """From (u, v, 1, inverse depth) of a pixel to homogeneous coordinates in [-1, 1] across the past image."""
    P = (camera.unit_intrinsics(K_past, *shape) @ T[..., :3, :]).flatten(0, 1)
    corners = K.new_tensor([[[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]]).expand(len(P), -1, -1)
    origin, right, down = camera.ray_directions(corners, K.flatten(0, 1)).unbind(1)
    directions = torch.stack([right - origin, down - origin, origin], dim=-1)
    return torch.cat([P[..., :3] @ directions, P[..., 3:]], dim=-1)


def _hypotheses(
    shape: tuple[int, int], K: Tensor, K_past: Tensor, T: Tensor, inverse: Tensor
) -> tuple[Float[Tensor, "M h w depths 2"], Bool[Tensor, "M h w depths"]]:
    """Where each pixel would be in the past image at each inverse depth, in [-1, 1], and whether behind the camera.

    In homogeneous coordinates a pixel moves along a line: its direction, turned, plus inverse depth times the shift.
    A pixel's hypotheses are neighbours in memory: what follows is done for many of them at once.
    """
    h, w = shape
    v, u = torch.meshgrid(*(torch.arange(n, device=K.device, dtype=K.dtype) for n in shape), indexing="ij")
    pixels = torch.stack([u, v], -1).view(1, -1, 2).expand(K[..., 0, 0].numel(), -1, -1)
    P = (camera.unit_intrinsics(K_past, h, w) @ T[..., :3, :]).flatten(0, 1)
    turned = camera.ray_directions(pixels, K.flatten(0, 1)) @ P[..., :3].transpose(1, 2)
    line = turned.movedim(-1, 0).reshape(3, -1, h, w, 1) + P[..., 3].T.reshape(3, -1, 1, 1, 1) * inverse
    z = line[2]
    behind = z < 0.05
    return line[:2].div_(z.clamp_(min=0.05)).movedim(0, -1), behind


def _shown(grid: Tensor, behind: Tensor) -> Bool[Tensor, "M depths h w"]:
    """Hypotheses that the past image shows, of pixels that move enough between the farthest and the nearest."""
    h, w = 2 * grid.shape[1], 2 * grid.shape[2]
    inside = (grid[..., 0].abs() <= 1) & (grid[..., 1].abs() <= 1) & ~behind
    path = (grid[..., -1, :] - grid[..., 0, :]) * grid.new_tensor([w / 2, h / 2])
    return (inside & (path.norm(dim=-1) >= LEAST_PARALLAX)[..., None]).movedim(-1, 1)


def _at(masked: Bool[Tensor, "B N h w"], grid: Float[Tensor, "M y x depths 2"]) -> Bool[Tensor, "M depths y x"]:
    """Whether hypotheses lie on masked pixels."""
    images = masked.flatten(0, 1)[:, None].float()
    found = F.grid_sample(images, grid.flatten(1, 2), mode="nearest", padding_mode="border", align_corners=False)
    return found.view(grid.shape[:-1]).movedim(-1, 1) > 0


def correlation(
    target: Float[Tensor, "M 1 h w"], warped: Float[Tensor, "M D h w"], window: int
) -> Float[Tensor, "M D (h+1)//2 (w+1)//2"]:
    """Normalised cross-correlation over a window, at every second pixel; 0 where either image is flat."""

    def mean(x: Tensor) -> Tensor:
        return _window_mean(x, window)

    a, b = mean(target), mean(warped)
    variance = (mean(target**2) - a**2).clamp_(min=FLAT)
    deviations = (mean(warped**2).addcmul_(b, b, value=-1)).clamp_(min=FLAT).mul_(variance).sqrt_()
    return mean(target * warped).addcmul_(a, b, value=-1).div_(deviations.add_(1e-5))


def _window_mean(x: Float[Tensor, "M D h w"], window: int) -> Float[Tensor, "M D (h+1)//2 (w+1)//2"]:
    return F.avg_pool2d(x, window, stride=2, padding=window // 2, count_include_pad=False)


def aggregate(cost: Float[Tensor, "M D h w"], small_step: float, large_step: float) -> Float[Tensor, "M D h w"]:
    """Semi-global matching over four paths (Hirschmueller, PAMI 2008, eq. 13): the mean of the paths' costs."""

    def both_ways(lines: Tensor) -> Tensor:
        forward, backward = _path(torch.cat([lines, lines.flip(0)], 1), small_step, large_step).chunk(2, dim=1)
        return forward + backward.flip(0)

    M, D, h, w = cost.shape
    down = both_ways(cost.permute(2, 0, 3, 1).reshape(h, M * w, D)).view(h, M, w, D).permute(1, 3, 0, 2)
    across = both_ways(cost.permute(3, 0, 2, 1).reshape(w, M * h, D)).view(w, M, h, D).permute(1, 3, 2, 0)
    return (down + across) / 4


def _path(cost: Float[Tensor, "steps lines D"], small_step: float, large_step: float) -> Tensor:
    """Least cost of arriving at each hypothesis, step by step along lines of pixels (less the least of the last)."""
    out = torch.empty_like(cost)
    out[0] = cost[0]
    for i in range(1, len(cost)):
        before = out[i - 1]
        best = before.amin(-1, keepdim=True)
        arrive = torch.minimum(before, best + large_step)
        arrive[:, 1:] = torch.minimum(arrive[:, 1:], before[:, :-1] + small_step)
        arrive[:, :-1] = torch.minimum(arrive[:, :-1], before[:, 1:] + small_step)
        torch.add(cost[i], arrive - best, out=out[i])
    return out


def _summarise(probability: Tensor, seen: Tensor, inverse: Tensor, B: int) -> SweptDepth:
    """Depth around the most probable hypothesis, and how much of the probability is there."""
    best = probability.argmax(1, keepdim=True)
    near = (best + torch.arange(-1, 2, device=best.device).view(1, 3, 1, 1)).clamp(0, len(inverse) - 1)
    local = probability.gather(1, near)
    depth = local.sum(1) / (local * inverse[near]).sum(1)
    confidence = local.sum(1).clamp(max=1) * seen.gather(1, best)[:, 0]
    split = (B, len(depth) // B)
    return SweptDepth(
        probability.unflatten(0, split), depth.unflatten(0, split), confidence.unflatten(0, split), inverse
    )


@torch.no_grad()
def lift(
    swept: SweptDepth,
    grid: GridSpec,
    K: Float[Tensor, "B N 3 3"],
    T_ego_cam: Float[Tensor, "B N 4 4"],
) -> Float[Tensor, "B CHANNELS X Y Z"]:
    """The cameras' evidence at every voxel, weighted by confidence; zeros where no camera has any.

    Channels: signed distance to the surface along the ray in units of `TRUNCATION`, in [-1, 1]; probability that the
    surface is at this depth; that it is nearer (so that the voxel is hidden); how well the distance is known, 0 to 1.

    Args:
        K: of the images at half resolution (the evidence lies on every second of their pixels).
    """
    B, N, D, h, w = swept.probability.shape
    if serves(swept.probability):
        from letocc_core.compiled import sweep

        P = K.new_tensor([[0.5], [0.5], [1.0]]) * (K @ se3.inverse(T_ego_cam)[..., :3, :])
        probability, depth, sure = (
            x.flatten(0, 1) for x in (swept.probability.movedim(2, -1), swept.depth, swept.confidence)
        )
        axes = grid.axes()
        lifted = sweep.lift(probability, depth, sure, swept.inverse_depths, P, axes, TRUNCATION, camera.MIN_DEPTH)
        return lifted.movedim(-1, 1)
    pixels, depth = (x.flatten(2, 4).flatten(0, 1) for x in camera.project_lattice(grid.axes(K.device), K, T_ego_cam))
    pixels, voxels = pixels / 2, depth.shape[1]
    view, voxel = torch.nonzero(camera.in_image(pixels, depth, h, w), as_tuple=True)
    depth = depth[view, voxel]
    u, v = pixels[view, voxel].round().long().unbind(-1)
    u, v = u.clamp(0, w - 1), v.clamp(0, h - 1)

    weight = swept.confidence.flatten(0, 1)[view, v, u]
    distance = ((swept.depth.flatten(0, 1)[view, v, u] - depth) / TRUNCATION).clamp(-1, 1)
    known = weight * (distance > -1)  # what lies far behind a surface is not known
    probability = swept.probability.flatten(0, 1)
    nearer = probability.flip(1).cumsum(1).flip(1)  # probability that the surface is at this inverse depth or above
    step = swept.inverse_depths[1] - swept.inverse_depths[0]
    position = ((1 / depth - swept.inverse_depths[0]) / step).clamp(0, D - 1)
    low = position.floor().clamp(max=D - 2).long()
    part = position - low
    here, hidden = (
        torch.lerp(values[view, low, v, u], values[view, low + 1, v, u], part) for values in (probability, nearer)
    )
    evidence = torch.stack([distance * known, here * weight, hidden * weight, known, weight], -1)
    total = evidence.new_zeros(B * voxels, 5).index_add_(0, view // N * voxels + voxel, evidence)
    known, weight = total[:, 3:4], total[:, 4:]
    values = torch.cat([total[:, :1] / known.clamp(min=1e-3), total[:, 1:3] / weight.clamp(min=1e-3)], -1)
    return torch.cat([values, known.clamp(max=1)], -1).view(B, *grid.shape, CHANNELS).movedim(-1, 1)
