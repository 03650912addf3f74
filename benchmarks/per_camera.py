"""Rendering and losses written down camera by camera, to compare time, memory and results with the library's.

The formulas of `letocc_core.losses.objective` without draws, one clip, one camera and one source frame after the other:
as one writes them first, and with nothing of the library but the data types and the grid.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from letocc_core.frame import Clip, FlowCue, Frame
from letocc_core.geometry.grid import GridSpec
from letocc_core.losses.objective import FAR_AWAY, MotionConfig, StaticStageConfig

NEAREST = 0.1  # m


def stage_terms(
    fields, grid: GridSpec, clip: Clip, config: StaticStageConfig, beta: float, motion: MotionConfig | None
) -> dict[str, Tensor]:
    """Weighted terms of rays from cameras: photometric, edge, behind, start, and with `motion` flow, static_flow, still."""
    every = []
    for b in range(len(clip.current.images)):
        cameras = [_camera(fields, grid, clip, b, n, config, beta, motion) for n in range(clip.current.images.shape[1])]
        joined = {name: torch.cat([c[name].flatten() for c in cameras]) for name in cameras[0] if name != "edge"}
        every.append(
            _terms(joined, config, motion) | {"edge": config.edge * sum(c["edge"] for c in cameras) / len(cameras)}
        )
    return {name: sum(terms[name] for terms in every) / len(every) for name in every[0]}


def _terms(rays: dict[str, Tensor], config: StaticStageConfig, motion: MotionConfig | None) -> dict[str, Tensor]:
    """Means over the rays of all cameras."""
    terms = {
        "photometric": config.photometric * _mean(rays["error"], rays["counted"]),
        "behind": config.behind * _mean(rays["inside_matter"], rays["is_behind"]),
        "start": config.start * rays["start"].mean(),
    }
    if motion is None:
        return terms
    cues = int(sum(name.startswith("known") for name in rays))
    for name in ("flow", "static_flow", "still"):
        terms[name] = 0.0
    for i in range(cues):
        known, moves = rays[f"known{i}"], rays[f"moves{i}"]
        scale = min(known.sum() / max(moves.sum(), 1), 20)
        error, static_error = rays[f"moving_error{i}"], rays[f"static_error{i}"]
        kept = _without_outliers(error, moves)
        terms["flow"] = terms["flow"] + motion.flow * scale * error[kept].sum() / known.sum().clamp(min=1) / cues
        kept = _without_outliers(static_error, known & ~moves)
        terms["static_flow"] = terms["static_flow"] + motion.static_flow * _mean(static_error, kept) / cues
        others = rays["inside"] & ~rays["movable"]
        still = _mean(rays["speed"], known & ~moves & rays["movable"]) + _mean(rays["speed"], others)
        terms["still"] = terms["still"] + motion.still * still / cues
    return terms


def _mean(values: Tensor, mask: Tensor) -> Tensor:
    return values[mask].sum() / mask.sum().clamp(min=1)


def _without_outliers(error: Tensor, mask: Tensor) -> Tensor:
    return mask & (error <= 100 * error[mask].detach().median()) if mask.any() else mask


def _camera(fields, grid, clip: Clip, b: int, n: int, config, beta: float, motion) -> dict[str, Tensor]:
    """Per-ray results of one camera."""
    now = clip.current
    height, width = now.images.shape[-2:]
    origin, directions, pixels = _rays(now, b, n, config.rows, config.columns)
    near, far, valid = _box(origin, directions, grid)
    edges = near[..., None] + torch.linspace(0, 1, config.samples + 1) * (far - near)[..., None]
    sdf = _sample(fields.sdf[b], grid, origin + edges[..., None] * directions[..., None, :])[..., 0]
    t = (edges[..., 1:] + edges[..., :-1]) / 2
    points = origin + t[..., None] * directions[..., None, :]
    s = torch.sigmoid(sdf / beta)
    alpha = ((s[..., :-1] - s[..., 1:]) / s[..., :-1].clamp(min=1e-12)).clamp(0, 1)
    passed = torch.cumprod(torch.cat([torch.ones_like(alpha[..., :1]), 1 - alpha[..., :-1]], -1), -1)
    weights = alpha * passed
    opacity = weights.sum(-1)
    depth = (weights * t).sum(-1) + (1 - opacity).clamp(min=0) * far
    velocity = None if motion is None else _sample(fields.flow[b], grid, points)
    target = _colours(now.images[b, n], pixels)
    out = {"start": (0.4 - sdf[..., 0]).clamp(min=0)}
    behind = t > depth.detach()[..., None] + 3
    out |= {"is_behind": behind, "inside_matter": (-sdf[..., 1:]).clamp(min=0)}
    error, counted = _photometric(
        clip, b, n, config, points, velocity, weights, opacity, (origin, directions, far), pixels, target
    )
    out |= {"error": error, "counted": counted & valid}
    out["edge"] = _edge(1 / depth.clamp(min=0.5), target, valid & (opacity.detach() > 0.5))
    if motion is not None:
        inside = valid & (opacity.detach() > 0.5)
        out["speed"] = (weights.detach()[..., None] * velocity).sum(-2).abs().sum(-1)
        u, v = pixels.round().long().unbind(-1)
        out |= {"inside": inside, "movable": now.movable[b, n][v.clamp(0, height - 1), u.clamp(0, width - 1)]}
        for i, cue in enumerate(clip.cues):
            out |= {
                f"{k}{i}": v
                for k, v in _flow(now, cue, b, n, points, velocity, weights, pixels, inside, motion).items()
            }
    return out


def _rays(now: Frame, b: int, n: int, rows: int, columns: int) -> tuple[Tensor, Tensor, Tensor]:
    height, width = now.images.shape[-2:]
    v, u = torch.meshgrid(torch.arange(rows) + 0.5, torch.arange(columns) + 0.5, indexing="ij")
    pixels = torch.stack([u * width / columns - 0.5, v * height / rows - 0.5], -1)
    homogeneous = torch.cat([pixels, torch.ones_like(pixels[..., :1])], -1)
    T = now.T_ego_cam[b, n]
    return T[:3, 3], homogeneous @ torch.linalg.inv(now.K[b, n]).T @ T[:3, :3].T, pixels


def _box(origin: Tensor, directions: Tensor, grid: GridSpec) -> tuple[Tensor, Tensor, Tensor]:
    a, b = ((torch.tensor(corner) - origin) / directions for corner in (grid.lower, grid.upper))
    near, far = torch.minimum(a, b).amax(-1).clamp(min=NEAREST), torch.maximum(a, b).amin(-1)
    return near, torch.maximum(near, far), far > near


def _sample(volume: Tensor, grid: GridSpec, points: Tensor) -> Tensor:
    lower, upper = torch.tensor(grid.lower), torch.tensor(grid.upper)
    unit = ((points - lower) / (upper - lower) * 2 - 1).flip(-1).reshape(1, 1, 1, -1, 3)
    values = F.grid_sample(volume[None], unit, padding_mode="border", align_corners=False)
    return values.reshape(len(volume), -1).T.reshape(*points.shape[:-1], len(volume))


def _colours(image: Tensor, pixels: Tensor) -> Tensor:
    height, width = image.shape[-2:]
    unit = (pixels + 0.5) / torch.tensor([width, height]) * 2 - 1
    values = F.grid_sample(image[None], unit.reshape(1, 1, -1, 2), padding_mode="border", align_corners=False)
    return values.reshape(3, -1).T.reshape(*pixels.shape[:-1], 3)


def _project(points: Tensor, velocity: Tensor | None, now: Frame, other: Frame | FlowCue, b: int, n: int):
    """Pixels and depths of samples in the same camera at another instant."""
    if velocity is not None:
        seconds = (other.stamp[b] - now.stamp[b]).item() * 1e-9
        points = points + torch.cat([velocity * seconds, torch.zeros_like(velocity[..., :1])], -1)
    T = torch.linalg.inv(other.T_ego_cam[b, n].double()) @ torch.linalg.inv(other.T_world_ego[b]) @ now.T_world_ego[b]
    points = points @ T[:3, :3].float().T + T[:3, 3].float()
    depth = points[..., 2]
    pixels = points @ other.K[b, n].T
    return pixels[..., :2] / depth.clamp(min=NEAREST)[..., None], depth


def _photometric(clip, b, n, config, points, velocity, weights, opacity, ray, pixels, target) -> tuple[Tensor, Tensor]:
    """Errors of the rays, and which of them count."""
    origin, directions, far = ray
    height, width = clip.current.images.shape[-2:]
    nearest = 1 / far.clamp(max=FAR_AWAY)
    share = torch.linspace(0, 1, config.background + 1)[1:]
    beyond = 1 / (nearest[..., None] + (1 / FAR_AWAY - nearest)[..., None] * share)
    end = (origin + far[..., None] * directions)[..., 2]
    beyond = torch.where((end < config.ground)[..., None], far[..., None], beyond)
    points = torch.cat([points, origin + beyond[..., None] * directions[..., None, :]], -2)
    if velocity is not None:
        velocity = torch.cat([velocity, torch.zeros_like(velocity[..., : config.background, :])], -2)
    seen, errors, best_sample, unwarped = [], [], [], []
    for source in clip.sources:
        there, depth = _project(points, velocity, clip.current, source, b, n)
        u, v = there.unbind(-1)
        inside = (depth > NEAREST) & (u >= -0.5) & (u <= width - 0.5) & (v >= -0.5) & (v <= height - 0.5)
        inside = inside & source.camera_valid[b, n]
        colours = _colours(source.images[b, n], there)
        cost = (colours - target[..., None, :]).abs().mean(-1)
        count = inside.sum(-1, keepdim=True).clamp(min=1)
        cost = torch.where(inside, cost, (cost * inside).sum(-1, keepdim=True) / count)
        mean_colour = (colours * inside[..., None]).sum(-2, keepdim=True) / count[..., None]
        colours = torch.where(inside[..., None], colours, mean_colour)
        chosen = F.one_hot(cost[..., config.samples :].argmin(-1), config.background)
        every = torch.cat([weights, (1 - opacity).clamp(min=0)[..., None] * chosen], -1)
        l1 = (every * cost).sum(-1)
        structure = _dssim((every[..., None] * colours).sum(-2), target)
        errors.append((1 - config.dssim) * l1 + config.dssim * structure)
        seen.append(inside.any(-1))
        best_sample.append(cost.amin(-1))
        unwarped.append((_colours(source.images[b, n], pixels) - target).abs().mean(-1))
    error = torch.where(torch.stack(seen), torch.stack(errors), math.inf).amin(0)
    counted = torch.stack(seen).any(0) & (torch.stack(best_sample).amin(0) < torch.stack(unwarped).amin(0))
    return torch.where(counted, error, 0.0), counted


def _dssim(a: Tensor, b: Tensor) -> Tensor:
    a, b = (F.pad(x.movedim(-1, 0)[None], (1, 1, 1, 1), mode="reflect") for x in (a, b))

    def mean(x):
        return F.avg_pool2d(x, 3, 1)

    mean_a, mean_b = mean(a), mean(b)
    variance_a, variance_b = mean(a**2) - mean_a**2, mean(b**2) - mean_b**2
    covariance = mean(a * b) - mean_a * mean_b
    ssim = (2 * mean_a * mean_b + 0.01**2) * (2 * covariance + 0.03**2)
    ssim = ssim / ((mean_a**2 + mean_b**2 + 0.01**2) * (variance_a + variance_b + 0.03**2))
    return ((1 - ssim) / 2).clamp(0, 1)[0].mean(0)


def _edge(values: Tensor, image: Tensor, valid: Tensor) -> Tensor:
    values = values / (values[valid].mean() + 1e-7) if valid.any() else values
    total = 0.0
    for axis in (0, 1):
        step = values.diff(dim=axis).abs() * torch.exp(-image.diff(dim=axis).abs().mean(-1))
        both = valid.narrow(axis, 0, step.shape[axis]) & valid.narrow(axis, 1, step.shape[axis])
        total = total + step[both].sum() / both.sum().clamp(min=1)
    return total


def _flow(
    now, cue: FlowCue, b, n, points, velocity, weights, pixels, inside, motion: MotionConfig
) -> dict[str, Tensor]:
    """What one flow cue says about the rays of a camera."""
    height, width = cue.valid.shape[-2:]
    u, v = pixels.round().long().unbind(-1)
    u, v = u.clamp(0, width - 1), v.clamp(0, height - 1)
    target, known = cue.flow[b, n][:, v, u].movedim(0, -1), cue.valid[b, n][v, u] & inside
    movable = now.movable[b, n][v, u]

    def rendered(weights: Tensor, velocity: Tensor | None) -> Tensor:
        there, depth = _project(points, velocity, now, cue, b, n)
        weights = weights * (depth > NEAREST)
        return ((weights / weights.sum(-1, keepdim=True).clamp(min=1e-3))[..., None] * there).sum(-2) - pixels

    static, moving = rendered(weights, None), rendered(weights.detach(), velocity)
    moves = known & movable & ((target - static.detach()).norm(dim=-1) > motion.threshold)
    return {
        "known": known,
        "moves": moves,
        "static_error": (static - target).abs().sum(-1),
        "moving_error": (moving - target).abs().sum(-1),
    }
