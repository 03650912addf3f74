"""3D refinement: residual 3D CNN over three scales, 3D FPN, transposed convolution to the output grid (3.2, B.1)."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


@dataclass(frozen=True)
class RefinementConfig:
    """Residual blocks at the TPV's resolution and below."""

    blocks: tuple[int, ...] = (1, 2, 4)  # residual blocks a scale, finest first; channels D, 2 D, 4 D
    groups: int = 8  # of the group normalisation (batch normalisation would tie samples together)


def convolution(inputs: int, outputs: int, groups: int, stride: int = 1) -> nn.Sequential:
    """3 x 3 x 3 convolution and normalisation."""
    return nn.Sequential(
        nn.Conv3d(inputs, outputs, 3, stride=stride, padding=1, bias=False), nn.GroupNorm(groups, outputs)
    )


class ResidualBlock(nn.Module):
    """Two convolutions and a shortcut (ResNet's basic block in 3D)."""

    def __init__(self, inputs: int, outputs: int, groups: int, stride: int = 1):
        super().__init__()
        self.first = convolution(inputs, outputs, groups, stride)
        self.second = convolution(outputs, outputs, groups)
        same = inputs == outputs and stride == 1
        self.shortcut = nn.Identity() if same else nn.Conv3d(inputs, outputs, 1, stride=stride)

    def forward(self, x: Float[Tensor, "B C x y z"]) -> Float[Tensor, "B D u v w"]:
        return F.relu(self.second(F.relu(self.first(x))) + self.shortcut(x))


class Refinement(nn.Module):
    """Volume at the TPV's resolution -> volume at twice that, with D / 2 channels."""

    def __init__(self, config: RefinementConfig, dim: int, extra_coarse: int = 0, extra_fine: int = 0):
        """
        Args:
            extra_coarse, extra_fine: channels of further evidence joined at the input's and the output's resolution.
        """
        super().__init__()
        widths = [dim * 2**i for i in range(len(config.blocks))]
        scales, inputs = [], dim + extra_coarse
        for i, (width, count) in enumerate(zip(widths, config.blocks, strict=True)):
            blocks = [ResidualBlock(inputs if b == 0 else width, width, config.groups, 2 if i and b == 0 else 1)
                      for b in range(count)]  # fmt: skip
            scales.append(nn.Sequential(*blocks))
            inputs = width
        self.scales = nn.ModuleList(scales)
        self.lateral = nn.ModuleList(nn.Conv3d(w, dim, 1) for w in widths)
        self.smooth = convolution(dim, dim, config.groups)
        self.upsample = nn.ConvTranspose3d(dim, dim // 2, 2, stride=2)
        self.join = nn.Conv3d(dim // 2 + extra_fine, dim // 2, 3, padding=1) if extra_fine else None

    def forward(
        self,
        volume: Float[Tensor, "B C x y z"],
        fine: Float[Tensor, "B E X Y Z"] | None = None,
    ) -> Float[Tensor, "B H X Y Z"]:
        """`volume` holds D and the extra coarse channels, `fine` is joined at the output's resolution; H = D / 2."""
        volume = _channels_last(volume)
        levels = []
        for scale in self.scales:
            volume = scale(volume)
            levels.append(volume)
        merged = _channels_last(self.lateral[-1](levels[-1]))
        for lateral, level in zip(list(self.lateral)[-2::-1], levels[-2::-1], strict=True):
            coarse = F.interpolate(merged, size=level.shape[-3:], mode="trilinear", align_corners=False)
            merged = _channels_last(lateral(level)) + coarse
        out = F.relu(self.upsample(F.relu(self.smooth(merged), inplace=True)), inplace=True)
        if self.join is None:
            return out
        assert fine is not None, "built with extra_fine channels, called without them"
        return out + F.relu(self.join(torch.cat([out, fine], dim=1)))


def _channels_last(volume: Float[Tensor, "B C x y z"]) -> Float[Tensor, "B C x y z"]:
    """A third of the time of convolutions and MLPs; those of 1 x 1 x 1 do not keep it."""
    return volume.contiguous(memory_format=torch.channels_last_3d)
