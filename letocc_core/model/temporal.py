"""Past volumes into the current one (Let Occ Flow 3.2, eqs. 4 to 6, and B.4)."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from letocc_core.geometry import se3
from letocc_core.geometry.grid import GridSpec, sample_volume
from letocc_core.model.deformable_attention import DeformableAttention


@dataclass(frozen=True)
class TemporalConfig:
    """How past volumes are fused; the variants are those of the paper's Table 4."""

    kind: Literal["bfam", "bev_forward", "concat_conv3d", "none"] = "bfam"
    frames: int = 2  # past frames
    points: int = 8  # points of a deformable attention
    heads: int = 6


def warp(
    volume: Float[Tensor, "B D x y z"], grid: GridSpec, T_past_now: Float[Tensor, "B 4 4"]
) -> tuple[Float[Tensor, "B D x y z"], Bool[Tensor, "B x y z"]]:
    """A past volume in the current ego axes (eq. 4): trilinear, zero outside, with the mask of what was inside."""
    B = len(volume)
    centres = grid.centres(volume.device).view(1, -1, 3).expand(B, -1, -1)
    points = se3.transform(T_past_now, centres)
    inside = (grid.to_unit(points).abs() <= 1).all(-1).view(B, *grid.shape)
    warped = sample_volume(volume, grid, points).transpose(1, 2).reshape(volume.shape)
    return warped * inside[:, None], inside


class PairAttention(nn.Module):
    """One step of eq. 5: a BEV attends to its fused neighbour and to itself; both predict where, the mean counts."""

    def __init__(self, dim: int, config: TemporalConfig):
        super().__init__()
        self.attention = DeformableAttention(dim, config.heads, 2, config.points, query_dim=2 * dim, average=True)
        self.scale = nn.Parameter(torch.ones(()))

    def forward(
        self,
        bev: Float[Tensor, "M Q D"],
        neighbour: Float[Tensor, "M Q D"],
        reference: Float[Tensor, "1 Q 1 1 2"],
        shape: tuple[int, int],
    ) -> Float[Tensor, "M Q D"]:
        query, value = torch.cat([neighbour, bev], dim=2), torch.cat([neighbour, bev], dim=1)
        reference = reference.expand(len(bev), -1, -1, -1, -1)
        return torch.addcmul(bev, self.scale, self.attention(query, reference, value, [shape, shape]))


class TemporalFusion(nn.Module):
    """Past volumes, warped into the current ego axes, and the current one become one volume."""

    def __init__(self, config: TemporalConfig, grid: GridSpec, dim: int):
        super().__init__()
        self.config, self.grid = config, grid
        X, Y, _ = grid.shape
        x, y = torch.meshgrid((torch.arange(X) + 0.5) / X, (torch.arange(Y) + 0.5) / Y, indexing="ij")
        self.register_buffer("reference", torch.stack([y, x], -1).view(1, X * Y, 1, 1, 2), persistent=False)
        if config.kind == "concat_conv3d":
            self.fuse = nn.Sequential(
                nn.Conv3d(dim * (config.frames + 1), dim, 3, padding=1),
                nn.GroupNorm(1, dim),
                nn.ReLU(),
                nn.Conv3d(dim, dim, 3, padding=1),
            )
        elif config.kind != "none":
            self.forward_steps = nn.ModuleList(PairAttention(dim, config) for _ in range(config.frames))
        if config.kind == "bfam":
            self.backward_steps = nn.ModuleList(PairAttention(dim, config) for _ in range(config.frames))
            self.gate = nn.Conv3d(dim, dim, 3, padding=1)

    def forward(
        self,
        current: Float[Tensor, "B D x y z"],
        history: Sequence[Float[Tensor, "B D x y z"]],
        T_past_now: Sequence[Float[Tensor, "B 4 4"]],
    ) -> Float[Tensor, "B D x y z"]:
        """Fused volume of the current frame; `history` newest first, as many as configured."""
        if self.config.kind == "none":
            return current
        volumes = [current, *(warp(v, self.grid, T)[0] for v, T in zip(history, T_past_now, strict=True))]
        if self.config.kind == "concat_conv3d":
            return current + self.fuse(torch.cat(volumes, dim=1))
        pooled = [volume.mean(-1, keepdim=True) for volume in volumes]
        if self.config.kind == "bev_forward":
            return current + self._attend(pooled, [])
        # Slices with the global BEV feature, backward and forward attention, then BEV-Volume fusion (eq. 6)
        fused = self._attend([v + bev for v, bev in zip(volumes, pooled, strict=True)], self.backward_steps)
        return fused + torch.sigmoid(self.gate(fused)) * fused.mean(-1, keepdim=True)

    def _attend(
        self, volumes: Sequence[Float[Tensor, "B D x y s"]], backward_steps: Iterable[nn.Module]
    ) -> Float[Tensor, "B D x y s"]:
        """Backward pass current -> past, forward pass past -> current, slice by slice (eq. 5); the current frame's."""
        B, D, X, Y, slices = volumes[0].shape
        bevs = [v.permute(0, 4, 2, 3, 1).reshape(B * slices, X * Y, D) for v in volumes]
        for i, step in enumerate(backward_steps):
            bevs[i + 1] = step(bevs[i + 1], bevs[i], self.reference, (X, Y))
        fused = bevs[-1]
        for bev, step in zip(reversed(bevs[:-1]), self.forward_steps, strict=True):
            fused = step(bev, fused, self.reference, (X, Y))
        return fused.view(B, slices, X, Y, D).permute(0, 4, 2, 3, 1)
