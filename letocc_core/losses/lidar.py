"""Range loss on LiDAR rays: scale-invariant logarithmic error (Eigen et al., 2014; Let Occ Flow 3.3)."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def silog(
    predicted: Float[Tensor, "*n"], measured: Float[Tensor, "*n"], valid: Bool[Tensor, "*n"], focus: float = 0.85
) -> Float[Tensor, ""]:
    """sqrt(mean d^2 - focus mean(d)^2), d = log predicted - log measured (ranges in m); 0 where nothing is valid."""
    count = valid.sum().clamp(min=1)
    d = torch.where(valid, predicted.clamp(min=1e-3).log() - measured.clamp(min=1e-3).log(), 0.0)
    variance = (d**2).sum() / count - focus * (d.sum() / count) ** 2
    return variance.clamp(min=1e-10).sqrt()  # the root's slope is infinite at a perfect prediction
