"""Past volumes into the current one (Let Occ Flow 3.2, eqs. 4 to 6, and B.4)."""

from collections.abc import Sequence
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
    """One step of eq. 5: a BEV attends to the pair (fused neighbour, itself), predicted from both; the mean of the two."""

    def __init__(self, dim: int, config: TemporalConfig):
        super().__init__()
        self.attention = DeformableAttention(dim, config.heads, 1, config.points, query_dim=2 * dim)
        self.scale = nn.Parameter(torch.ones(()))

    def forward(
        self, bev: Float[Tensor, "M Q D"], neighbour: Float[Tensor, "M Q D"], reference: Tensor, shape: tuple[int, int]
    ) -> Float[Tensor, "M Q D"]:
        pair = torch.cat([neighbour, bev])
        query = torch.cat([neighbour, bev], dim=-1).repeat(2, 1, 1)
        attended = self.attention(query, reference.expand(len(pair), -1, -1, -1, -1), pair, [shape])
        return bev + self.scale * (attended[: len(bev)] + attended[len(bev) :]) / 2


class TemporalFusion(nn.Module):
    """Backward-Forward Attention over BEV slices, then BEV-Volume fusion; or one of its ablations."""

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
            backward = config.frames if config.kind == "bfam" else 0
            self.backward_steps = nn.ModuleList(PairAttention(dim, config) for _ in range(backward))
            self.forward_steps = nn.ModuleList(PairAttention(dim, config) for _ in range(config.frames))
            self.norm = nn.LayerNorm(dim)
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
        slices = [self._slices(v) for v in volumes]
        fused = self._attend(slices)
        return self._merge(current, fused)

    def _slices(self, volume: Float[Tensor, "B D x y z"]) -> Float[Tensor, "M Q D"]:
        """BEV slices with the global BEV feature added (bfam), or that global feature alone (bev_forward)."""
        pooled = volume.mean(-1, keepdim=True)
        bev = volume + pooled if self.config.kind == "bfam" else pooled
        return self.norm(bev.permute(0, 4, 2, 3, 1).flatten(2, 3).flatten(0, 1))

    def _attend(self, slices: list[Float[Tensor, "M Q D"]]) -> Float[Tensor, "M Q D"]:
        """Backward pass current -> past, forward pass past -> current (eq. 5); returns the current frame's slices."""
        shape = self.grid.shape[:2]
        for i, step in enumerate(self.backward_steps):
            slices[i + 1] = step(slices[i + 1], slices[i], self.reference, shape)
        fused = slices[-1]
        for bev, step in zip(reversed(slices[:-1]), self.forward_steps, strict=True):
            fused = step(bev, fused, self.reference, shape)
        return fused

    def _merge(self, current: Float[Tensor, "B D x y z"], fused: Float[Tensor, "M Q D"]) -> Float[Tensor, "B D x y z"]:
        """Slices back to a volume, and BEV-Volume fusion (eq. 6)."""
        B, D, X, Y, _ = current.shape
        volume = fused.view(B, -1, X, Y, D).permute(0, 4, 2, 3, 1)
        bev = volume.mean(-1, keepdim=True)
        volume = current + volume
        return volume + torch.sigmoid(self.gate(volume)) * bev
