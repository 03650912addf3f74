"""Edge-aware smoothness: values may jump only where the image does (Monodepth2 section 3.2; Let Occ Flow 3.3)."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from letocc_core.losses.mean import mean_over


def edge_aware(
    values: Float[Tensor, "M h w"],
    image: Float[Tensor, "M h w 3"],
    valid: Bool[Tensor, "M h w"] | None = None,
    eps: float = 1e-7,
) -> Float[Tensor, ""]:
    """|d values| exp(-mean |d image|) of mean-normalised values: mean along x plus mean along y, over the M images.

    Monodepth2 gives it disparities, SelfOcc depths (eps 1e-6) on the lattice of rays.

    Args:
        valid: only steps between two valid entries count, and only those enter the mean.
    """
    valid = torch.ones_like(values, dtype=torch.bool) if valid is None else valid
    count = valid.sum((1, 2), keepdim=True).clamp(min=1)
    values = values / ((values * valid).sum((1, 2), keepdim=True) / count + eps)
    return steps(values[..., None], image, valid)


def steps(
    values: Float[Tensor, "M h w c"], image: Float[Tensor, "M h w 3"], valid: Bool[Tensor, "M h w"]
) -> Float[Tensor, ""]:
    """sum over c of |d values| exp(-mean |d image|), in the values' unit: mean along x plus mean along y."""
    return _along(values, image, valid, 2) + _along(values, image, valid, 1)


def _along(values: Tensor, image: Tensor, valid: Tensor, axis: int) -> Tensor:
    step = values.diff(dim=axis).abs().sum(-1) * torch.exp(-image.diff(dim=axis).abs().mean(-1))
    count = values.shape[axis] - 1
    both = valid.narrow(axis, 0, count) & valid.narrow(axis, 1, count)
    return mean_over(step, both)
