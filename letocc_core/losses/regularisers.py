"""Terms on the SDF itself (Let Occ Flow 3.3, SelfOcc) and smoothness of rendered depth."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def gradient(sdf: Float[Tensor, "B 1 X Y Z"], voxel_size: float) -> Float[Tensor, "B 3 X Y Z"]:
    """Gradient of the grid (1) by central differences inside, one-sided at the faces."""
    return torch.cat(torch.gradient(sdf, spacing=voxel_size, dim=(2, 3, 4)), dim=1)


def eikonal(gradients: Float[Tensor, "*n 3"]) -> Float[Tensor, ""]:
    """mean (|grad f| - 1)^2: a signed distance changes by one metre a metre."""
    return ((gradients.square().sum(-1) + 1e-12).sqrt() - 1).square().mean()


def hessian(sdf: Float[Tensor, "B 1 X Y Z"], voxel_size: float) -> Float[Tensor, ""]:
    """Mean absolute second difference along the three axes (1/m): flat surfaces are preferred."""
    terms = [torch.diff(sdf, n=2, dim=axis).abs().mean() / voxel_size**2 for axis in (2, 3, 4)]
    return sum(terms) / 3


def free_where_unseen(sdf: Float[Tensor, "B 1 X Y Z"], scale: float = 1.0) -> Float[Tensor, ""]:
    """mean exp(-max(f, 0) / scale): every voxel is pushed towards free; only surfaces that rays pay for stay."""
    return torch.exp(-sdf.clamp(min=0) / scale).mean()


def free_behind(
    sdf: Float[Tensor, "*r s"], t: Float[Tensor, "*r s"], depth: Float[Tensor, "*r"], distance: float = 3.0
) -> Float[Tensor, ""]:
    """Mean of max(-f, 0) (m) at samples more than `distance` metres behind the rendered surface."""
    behind = t > (depth.detach() + distance)[..., None]
    return (sdf.neg().clamp(min=0) * behind).sum() / behind.sum().clamp(min=1)


def edge_aware(
    values: Float[Tensor, "M h w"], image: Float[Tensor, "M h w 3"], valid: Bool[Tensor, "M h w"] | None = None
) -> Float[Tensor, ""]:
    """Monodepth2's smoothness of mean-normalised values: |d values| exp(-mean |d image|), along x plus along y."""
    values = values / (values.mean((1, 2), keepdim=True) + 1e-7)
    total = values.new_zeros(())
    for axis in (1, 2):
        step = values.diff(dim=axis).abs() * torch.exp(-image.diff(dim=axis).abs().mean(-1))
        if valid is not None:
            size = step.shape[axis]
            both = valid.narrow(axis, 0, size) & valid.narrow(axis, 1, size)
            total = total + (step * both).sum() / both.sum().clamp(min=1)
        else:
            total = total + step.mean()
    return total
