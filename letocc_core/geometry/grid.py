"""The voxel grid: the only place that turns metres into indices."""

import itertools
import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from letocc_core.compiled.threads import exporting, serves
from letocc_core.errors import ConfigError


@dataclass(frozen=True)
class GridSpec:
    """A box in ego axes (x forward, y left, z up) cut into cubic voxels. Voxel tensors are [X, Y, Z]."""

    lower: tuple[float, float, float] = (-20.0, -20.0, -1.0)  # m, corner of voxel (0, 0, 0)
    upper: tuple[float, float, float] = (20.0, 20.0, 5.4)  # m, far corner of the last voxel
    voxel_size: float = 0.4  # m, edge of a voxel

    def __post_init__(self):
        if not all(map(math.isfinite, (*self.lower, *self.upper, self.voxel_size))):
            raise ConfigError(f"grid is {self.lower} to {self.upper} m by {self.voxel_size} m, expected finite numbers")
        if not self.voxel_size > 0:
            raise ConfigError(f"grid.voxel_size is {self.voxel_size} m, expected a positive length")
        for axis, lo, hi in zip("xyz", self.lower, self.upper, strict=True):
            cells = (hi - lo) / self.voxel_size
            if cells < 1 or abs(cells - round(cells)) > 1e-4:
                raise ConfigError(
                    f"grid: {axis} from {lo} to {hi} m holds {cells:.3f} voxels of {self.voxel_size} m, expected a whole number >= 1"
                )

    @cached_property
    def shape(self) -> tuple[int, int, int]:
        """Number of voxels along x, y, z."""
        x, y, z = (round((hi - lo) / self.voxel_size) for lo, hi in zip(self.lower, self.upper, strict=True))
        return x, y, z

    def coarser(self, factor: int) -> "GridSpec":
        """The same box with voxels `factor` times as long."""
        return GridSpec(self.lower, self.upper, self.voxel_size * factor)

    def axes(self, device: torch.device | str = "cpu") -> list[Float[Tensor, "_"]]:
        """x, y and z (m) of the voxel centres: lower + (i + 0.5) * voxel_size."""
        return [
            lo + (torch.arange(n, device=device, dtype=torch.float32) + 0.5) * self.voxel_size
            for lo, n in zip(self.lower, self.shape, strict=True)
        ]

    def centres(self, device: torch.device | str = "cpu") -> Float[Tensor, "X Y Z 3"]:
        """Voxel centres in ego axes (m)."""
        return torch.stack(torch.meshgrid(*self.axes(device), indexing="ij"), dim=-1)

    def centres_of(self, index: Int[np.ndarray, "*n 3"]) -> Float[np.ndarray, "*n 3"]:
        """Centres (m, ego axes, float64) of the voxels with these indices."""
        return np.asarray(self.lower) + (index + 0.5) * self.voxel_size

    def to_index(self, points: Float[Tensor, "*n 3"]) -> Float[Tensor, "*n 3"]:
        """Continuous index: i at the centre of voxel i, i - 0.5 at its lower face."""
        lower = torch.as_tensor(self.lower, dtype=points.dtype, device=points.device)
        return (points - lower) / self.voxel_size - 0.5

    def to_voxel(self, points: Float[Tensor, "*n 3"]) -> tuple[Int[Tensor, "*n 3"], Bool[Tensor, "*n"]]:
        """Index of the voxel that holds each point (m), and whether it is inside the box."""
        index = torch.floor(self.to_index(points) + 0.5).long()
        shape = torch.as_tensor(self.shape, device=points.device)
        return index, ((index >= 0) & (index < shape)).all(-1)

    def voxels_of(self, points: Float[np.ndarray, "n 3"]) -> tuple[Int[np.ndarray, "n 3"], Bool[np.ndarray, "n"]]:
        """Index of the voxel that holds each point (m, ego axes), and whether it is inside the box.

        Of points outside, and of those that are not finite, the index is that of voxel (0, 0, 0).
        """
        index = np.floor((points.astype(np.float64) - self.lower) / self.voxel_size)
        inside = np.logical_and.reduce((index >= 0) & (index < self.shape), axis=1)
        return np.where(inside[:, None], index, 0).astype(np.int64), inside

    def holding(self, points: Float[np.ndarray, "n 3"]) -> Bool[np.ndarray, "X Y Z"]:
        """The voxels that hold at least one of the points (m, ego axes); those outside or not finite are left out."""
        voxel, inside = self.voxels_of(points)
        held = np.zeros(self.shape, bool)
        held[tuple(voxel[inside].T)] = True
        return held

    def to_unit(self, points: Float[Tensor, "*n 3"]) -> Float[Tensor, "*n 3"]:
        """Points (m) as (x, y, z) in [-1, 1] across the box (faces, `align_corners=False`); outside is beyond that."""
        lower = torch.as_tensor(self.lower, dtype=points.dtype, device=points.device)
        upper = torch.as_tensor(self.upper, dtype=points.dtype, device=points.device)
        scale = 2 / (upper - lower)
        return torch.addcmul(-1 - lower * scale, points, scale)

    def crossing(
        self,
        origins: Float[Tensor, "*n 3"],
        directions: Float[Tensor, "*n 3"],
        heights: tuple[float, float] | None = None,
    ) -> tuple[Float[Tensor, "*n"], Float[Tensor, "*n"]]:
        """t at which rays (ego axes, m) enter and leave the box, or its part between two heights (m).

        By the slab method, on both sides of the origin; a ray that misses leaves before it enters.
        """
        lower, upper = list(self.lower), list(self.upper)
        if heights is not None:
            lower[2], upper[2] = max(lower[2], heights[0]), min(upper[2], heights[1])
        tiny = torch.finfo(origins.dtype).eps
        slope = torch.where(directions.abs() < tiny, torch.full_like(directions, tiny), directions)
        a, b = ((origins.new_tensor(corner) - origins) / slope for corner in (lower, upper))
        return torch.minimum(a, b).amax(-1), torch.maximum(a, b).amin(-1)


def sample_volume(
    volume: Float[Tensor, "B C X Y Z"], grid: GridSpec, points: Float[Tensor, "B *n 3"], padding: str = "zeros"
) -> Float[Tensor, "B *n C"]:
    """Trilinear interpolation of a voxel volume at points (m, ego axes). `padding`: zeros or border."""
    return sample_unit(volume, grid.to_unit(points), padding)


def sample_unit(
    volume: Float[Tensor, "B C X Y Z"], points: Float[Tensor, "B *n 3"], padding: str = "zeros"
) -> Float[Tensor, "B *n C"]:
    """The same at points in unit coordinates (`GridSpec.to_unit`)."""
    B, C = volume.shape[:2]
    if serves(volume, points) and not points.requires_grad:
        from letocc_core.compiled.sampling import Trilinear

        return Trilinear.apply(volume, points.reshape(B, -1, 3), padding == "border").view(*points.shape[:-1], C)
    if exporting():  # hardly an engine reads volumes by an operator of its own
        return _sample_by_rows(volume, points.reshape(B, -1, 3), padding).reshape(*points.shape[:-1], C)
    where = points.reshape(B, -1, 1, 1, 3)
    volume = volume.transpose(2, 4)  # grid_sample wants [Z, Y, X] for (x, y, z)
    out = torch.nn.functional.grid_sample(volume, where, mode="bilinear", padding_mode=padding, align_corners=False)
    return out.reshape(B, C, -1).transpose(1, 2).reshape(*points.shape[:-1], C)


def _sample_by_rows(
    volume: Float[Tensor, "B C X Y Z"], points: Float[Tensor, "B n 3"], padding: str
) -> Float[Tensor, "B n C"]:
    """The same by picking the rows of channels of the eight voxels around each point."""
    B, C, *shape = volume.shape
    rows = volume.permute(0, 2, 3, 4, 1).reshape(-1, C)
    last = points.new_tensor(shape) - 1
    index = (points + 1) * ((last + 1) / 2) - 0.5
    if padding == "border":
        index = torch.minimum(index.clamp(min=0), last)
    low = index.floor()
    part = index - low
    first = torch.arange(B, device=volume.device).view(-1, 1) * (shape[0] * shape[1] * shape[2])
    total = torch.zeros((), device=volume.device)
    for corner in itertools.product((0.0, 1.0), repeat=3):
        step = points.new_tensor(corner)
        at = low + step
        share = torch.where(step > 0, part, 1 - part).prod(-1) * ((at >= 0) & (at <= last)).all(-1)
        x, y, z = torch.minimum(at.clamp(min=0), last).long().unbind(-1)
        picked = rows[(first + (x * shape[1] + y) * shape[2] + z).flatten()].view(B, -1, C)
        total = total + share[..., None] * picked
    return total
