"""Rays through a voxel grid: a jittered lattice per camera for training, every pixel for evaluation, LiDAR returns."""

import dataclasses
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from letocc_core.errors import DataError
from letocc_core.frame import Frame
from letocc_core.geometry.camera import MIN_DEPTH, at_nearest, ray_directions
from letocc_core.geometry.grid import GridSpec
from letocc_core.rendering.draws import Draws


@dataclass(frozen=True)
class Rays:
    """Rays in ego axes, `origins + t * directions`; `*r` is [B, N, ...] for cameras, [B, R] for LiDAR.

    LiDAR rays have unit directions, so that t is the range (m).
    """

    origins: Float[Tensor, "*r 3"]  # m
    directions: Float[Tensor, "*r 3"]  # m per unit of t
    near: Float[Tensor, "*r"]  # m, t at which the ray enters the box (at least `MIN_DEPTH`)
    far: Float[Tensor, "*r"]  # m, t at which it leaves the box; equals `near` where it misses
    valid: Bool[Tensor, "*r"]  # the ray crosses the box and belongs to a camera or return that is there

    def at(self, t: Float[Tensor, "*r s"]) -> Float[Tensor, "*r s 3"]:
        """Points (m, ego axes) at `t` along each ray; coordinates lie apart in memory, each by itself."""
        origins, directions = (x.movedim(-1, 0).contiguous()[..., None] for x in (self.origins, self.directions))
        return torch.addcmul(origins, directions, t).movedim(0, -1)

    def in_units(self, grid: GridSpec) -> "Rays":
        """The same rays in the unit coordinates of a grid's box (`GridSpec.to_unit`)."""
        zero = torch.zeros(3, dtype=self.origins.dtype, device=self.origins.device)
        directions = grid.to_unit(self.directions) - grid.to_unit(zero)
        return dataclasses.replace(self, origins=grid.to_unit(self.origins), directions=directions)


@dataclass(frozen=True)
class CameraRays(Rays):
    """Rays through pixels. Their directions have depth 1, so that t is the depth (m) along the optical axis."""

    pixels: Float[Tensor, "*r 2"]  # px (u, v)


def channels(values: Float[Tensor, "*r s c"]) -> tuple[Tensor, ...]:
    """The entries [*r, s] of what samples have, one by one: they lie apart in memory, and then so do their gradients."""
    return values.movedim(-1, 0).unbind(0)


def rays_through(
    pixels: Float[Tensor, "B N *p 2"], K: Float[Tensor, "B N 3 3"], T_ego_cam: Float[Tensor, "B N 4 4"], grid: GridSpec
) -> CameraRays:
    """Rays [B, N, *p] through pixels (u, v) of N cameras with intrinsics `K` (px) and poses `T_ego_cam` (m)."""
    flat = pixels.flatten(2, -2)
    directions = ray_directions(flat, K) @ T_ego_cam[..., :3, :3].transpose(-1, -2)
    directions = directions.reshape(*pixels.shape[:-1], 3)
    origins = T_ego_cam[..., :3, 3].reshape(*pixels.shape[:2], *[1] * (pixels.dim() - 3), 3).expand_as(directions)
    return CameraRays(*_in_box(origins, directions, grid), pixels)


def camera_rays(frame: Frame, grid: GridSpec, rows: int, columns: int, draws: Draws | None = None) -> CameraRays:
    """Rays [B, N, rows, columns] on a lattice over each image of a batched frame (Let Occ Flow B.5).

    The image is cut into rows x columns cells with a ray at the same place of each: the middle, or with `draws` a
    random place drawn once a camera. The lattice stays regular, so neighbouring rays can be compared as a small image.
    """
    batch, cameras, _, height, width = _batched(frame).images.shape
    device = frame.images.device
    place = torch.full((batch, cameras, 1, 1, 2), 0.5, device=device)
    if draws is not None:
        place = draws.uniform(*place.shape[1:])
    cells = torch.stack(_mesh(rows, columns, device), dim=-1)
    size = torch.tensor([width / columns, height / rows], device=device)
    pixels = (cells + place) * size - 0.5
    return _where_evidence(rays_through(pixels, frame.K, frame.T_ego_cam, grid), frame)


def object_rays(frame: Frame, grid: GridSpec, count: int, draws: Draws | None = None) -> CameraRays:
    """Rays [B, N, count] through pixels of each image: half on objects that could move, while there are any, half anywhere.

    Without `draws` the first pixels of either kind. A frame without masks has all rays anywhere.
    """
    batch, cameras, _, height, width = _batched(frame).images.shape
    order = torch.linspace(0, 0.5, height * width, device=frame.images.device).expand(2, batch, cameras, -1)
    if draws is not None:
        order = torch.stack([draws.uniform(cameras, height * width) for _ in range(2)])
    on_objects, anywhere = order
    if frame.movable is not None:
        on_objects = on_objects + ~frame.movable.flatten(2)
    kinds = ((on_objects, count // 2), (anywhere, count - count // 2))
    chosen = torch.cat([x.topk(min(n, x.shape[-1]), largest=False).indices for x, n in kinds], dim=-1)
    pixels = torch.stack([chosen % width, chosen // width], dim=-1).to(frame.K)
    return _where_evidence(rays_through(pixels, frame.K, frame.T_ego_cam, grid), frame)


def pixel_rays(frame: Frame, grid: GridSpec, stride: int = 1) -> CameraRays:
    """Rays [B, N, H // stride, W // stride] through the centres of stride x stride blocks of pixels."""
    _, _, _, height, width = _batched(frame).images.shape
    u, v = _mesh(height // stride, width // stride, frame.images.device)
    pixels = torch.stack([u, v], dim=-1) * stride + (stride - 1) / 2
    pixels = pixels.expand(*frame.images.shape[:2], *pixels.shape)
    return _where_evidence(rays_through(pixels, frame.K, frame.T_ego_cam, grid), frame)


def lidar_rays(
    frame: Frame, grid: GridSpec, count: int, draws: Draws | None = None
) -> tuple[Rays, Float[Tensor, "B R"]]:
    """At most `count` rays [B, R] from the LiDAR to its returns inside the box, and their ranges (m).

    Returns are drawn without replacement (the first ones without `draws`); where a sweep has fewer inside the
    box, the rest is not `valid`. Raises `DataError` for a frame without LiDAR.
    """
    lidar, origin = _batched(frame).lidar, frame.lidar_origin
    if lidar is None or origin is None:
        raise DataError(
            "this frame holds no LiDAR sweep with its origin; leave out the LiDAR loss (weight 0) or record it"
        )
    inside = torch.isfinite(lidar).all(-1) & grid.to_voxel(lidar.nan_to_num(nan=torch.inf))[1]
    order = torch.zeros(inside.shape, device=inside.device)
    if draws is not None:
        order = draws.uniform(inside.shape[1])
    chosen = (order + (~inside) * 2).argsort(dim=1, stable=True)[:, :count]
    points = lidar.gather(1, chosen[..., None].expand(-1, -1, 3))
    valid = inside.gather(1, chosen)
    offsets = torch.where(valid[..., None], points - origin[:, None], torch.ones_like(points))
    ranges = offsets.norm(dim=-1).clamp(min=MIN_DEPTH)
    origins = origin[:, None].expand_as(offsets)
    rays = Rays(*_in_box(origins, offsets / ranges[..., None], grid))
    return dataclasses.replace(rays, valid=rays.valid & valid), ranges


def sample_edges(rays: Rays, samples: int, draws: Draws | None = None) -> Float[Tensor, "*r edges"]:
    """t of the ends of `samples` intervals from near to far: uniform, or each inner end moved within its stratum."""
    number = torch.arange(samples + 1, device=rays.near.device, dtype=rays.near.dtype)
    step = (rays.far - rays.near) / samples
    if draws is not None:
        inner = (number > 0) & (number < samples)
        number = draws.uniform(*rays.near.shape[1:], samples + 1).sub_(0.5).mul_(inner).add_(number)
    return torch.addcmul(rays.near[..., None], step[..., None], number)


def _in_box(origins: Tensor, directions: Tensor, grid: GridSpec) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The fields of `Rays`, with where they cross the grid's box."""
    near, far = grid.crossing(origins, directions)
    near = near.clamp(min=MIN_DEPTH)
    valid = far > near
    return origins, directions, near, torch.where(valid, far, near), valid


def _batched(frame: Frame) -> Frame:
    if frame.images.dim() != 5:
        raise DataError(
            f"frame.images has shape {list(frame.images.shape)}, expected [B, N, 3, H, W]; use frame.unsqueeze()"
        )
    return frame


def _where_evidence(rays: CameraRays, frame: Frame) -> CameraRays:
    """Without the rays of absent cameras, and those that meet the vehicle itself."""
    valid = rays.valid & frame.camera_valid[(...,) + (None,) * (rays.valid.dim() - 2)]
    if frame.own is not None:
        valid = valid & ~at_nearest(frame.own, rays.pixels)
    return dataclasses.replace(rays, valid=valid)


def _mesh(rows: int, columns: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Column and row numbers [rows, columns]."""
    v, u = torch.meshgrid(
        torch.arange(rows, device=device, dtype=torch.float32),
        torch.arange(columns, device=device, dtype=torch.float32),
        indexing="ij",
    )
    return u, v
