"""Eikonal term: a signed distance changes by one metre a metre (Let Occ Flow 3.3, after IGR)."""

import torch
from jaxtyping import Float
from torch import Tensor


def gradient(sdf: Float[Tensor, "B 1 X Y Z"], voxel_size: float) -> Float[Tensor, "B 3 X Y Z"]:
    """Gradient of the grid (m a metre): central differences inside, one-sided at the faces."""
    return torch.cat(torch.gradient(sdf, spacing=voxel_size, dim=(2, 3, 4)), dim=1)


def eikonal(gradients: Float[Tensor, "*n 3"]) -> Float[Tensor, ""]:
    """mean (|grad f| - 1)^2; the norm is smoothed at 0, where it has no slope."""
    return ((gradients.square().sum(-1) + 1e-12).sqrt() - 1).square().mean()
