"""Where rays first meet matter: the zero of the signed distance, without rendering."""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from letocc_core.compiled.threads import serves
from letocc_core.geometry.grid import GridSpec, sample_volume

NEAREST = 0.5  # m, at which the search along a ray begins


@torch.no_grad()
def first_surface(
    sdf: Float[Tensor, "B 1 X Y Z"],
    grid: GridSpec,
    origins: Float[Tensor, "B N p 3"],
    directions: Float[Tensor, "B N p 3"],
    step: float,
    heights: tuple[float, float],
) -> Float[Tensor, "B N p"]:
    """t (m) at which rays from `origins` first meet a negative SDF (m).

    Infinite where they meet none before they have left the box or the heights (m), or meet it beyond these.

    Args:
        directions: m per unit of t.
        step: m of t between the samples.
    """
    if serves(sdf, origins, directions):
        t = _first_zero(sdf, grid, origins, directions, step, heights)
        height = origins[..., 2] + t * directions[..., 2]
        return torch.where((height > heights[0]) & (height < heights[1]), t, torch.inf)
    clips = zip(sdf, origins, directions, strict=True)
    first = torch.stack([_first_step(*clip, grid, step, heights) for clip in clips])
    matter, first = first >= 0, first.clamp(min=1)
    t = NEAREST + step * torch.stack([first - 1, first], dim=-1)
    around = origins[..., None, :] + t[..., None] * directions[..., None, :]
    before, behind = sample_volume(sdf, grid, around, padding="border")[..., 0].unbind(-1)
    before, behind = before.clamp(min=0), behind.clamp(max=-1e-6)
    t = t[..., 1] + step * behind / (before - behind)  # where it is 0
    height = origins[..., 2] + t * directions[..., 2]
    return torch.where(matter & (height > heights[0]) & (height < heights[1]), t, torch.inf)


def _first_zero(
    sdf: Tensor, grid: GridSpec, origins: Tensor, directions: Tensor, step: float, heights: tuple[float, float]
) -> Float[Tensor, "B N p"]:
    """The same before the heights are looked at; a ray on a CPU stops where it first meets matter."""
    from letocc_core.compiled.surfaces import first_zero

    near, far = _reach(grid, origins, directions, step, heights)
    where, along = grid.to_index(origins), directions / grid.voxel_size
    starts, ways, first, last = (x.flatten(1, 2) for x in (where, along, near, far))
    return first_zero(sdf, starts, ways, first, last, NEAREST, step).view_as(near)


def _reach(
    grid: GridSpec, origins: Tensor, directions: Tensor, step: float, heights: tuple[float, float]
) -> tuple[Float[Tensor, "*n"], Float[Tensor, "*n"]]:
    """t (m) between which a ray is in the box and has not left the heights for more than a step."""
    near, far = grid.crossing(origins, directions)
    far = torch.minimum(far, grid.crossing(origins, directions, heights)[1] + step)  # the step after a surface is in it
    return near, torch.where(far > near, far, 0.0)


def _first_step(
    sdf: Float[Tensor, "1 X Y Z"],
    origins: Float[Tensor, "N p 3"],
    directions: Float[Tensor, "N p 3"],
    grid: GridSpec,
    step: float,
    heights: tuple[float, float],
) -> Int[Tensor, "N p"]:
    """Number of the first step along each ray of a clip that is in matter; -1: none before the ray leaves the heights."""
    near, far = _reach(grid, origins, directions, step, heights)
    number = torch.arange(max(math.ceil((float(far.max()) - NEAREST) / step), 1), device=sdf.device)
    t = NEAREST + step * number
    ray, reached = ((t > near[..., None]) & (t < far[..., None])).flatten(0, 1).nonzero().unbind(-1)
    points = torch.addcmul(origins.flatten(0, 1)[ray], directions.flatten(0, 1)[ray], t[reached][:, None])
    matter = sample_volume(sdf[None], grid, points[None], padding="border")[0, :, 0] < 0
    first = torch.full_like(near, len(number), dtype=torch.long).flatten()
    first = first.scatter_reduce(0, ray[matter], reached[matter], "amin").view_as(near)
    return torch.where(first < len(number), first, -1)
