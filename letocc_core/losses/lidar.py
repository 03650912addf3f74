"""Range loss on LiDAR rays: scale-invariant logarithmic error (Eigen et al., 2014; Let Occ Flow 3.3)."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def silog(
    predicted: Float[Tensor, "*n"], measured: Float[Tensor, "*n"], valid: Bool[Tensor, "*n"], focus: float = 0.85
) -> Float[Tensor, ""]:
    """sqrt(mean d^2 - focus mean(d)^2), d = log predicted - log measured (m); 0 where nothing is valid."""
    d = torch.where(valid, predicted.clamp(min=1e-3).log() - measured.clamp(min=1e-3).log(), 0.0)
    count = valid.sum().clamp(min=1)
    mean_square, mean = (d**2).sum() / count, d.sum() / count
    return (mean_square - focus * mean**2 + 1e-12).sqrt()
