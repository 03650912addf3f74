"""Hessian term: flat surfaces are preferred (SelfOcc eq. 8, on the grid)."""

import torch
from jaxtyping import Float
from torch import Tensor


def hessian(sdf: Float[Tensor, "B 1 X Y Z"], voxel_size: float) -> Float[Tensor, ""]:
    """Mean absolute second difference (1/m) along the axes that have at least three voxels; 0 if none has."""
    axes = [axis for axis in (2, 3, 4) if sdf.shape[axis] > 2]
    if not axes:
        return sdf.new_zeros(())
    bends = (torch.diff(sdf, n=2, dim=axis).abs().mean() for axis in axes)
    return sum(bends, start=sdf.new_zeros(())) / (len(axes) * voxel_size**2)
