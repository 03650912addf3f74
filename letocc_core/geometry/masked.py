"""The entries that a mask picks, packed to the front."""

import torch
from jaxtyping import Bool, Int, Shaped
from torch import Tensor


def packed(mask: Bool[Tensor, "*b p"]) -> tuple[Int[Tensor, "*b q"], Bool[Tensor, "*b q"]]:
    """Where each row is true, in order, and which of these indices are not padding; q is the most of a row, at least 1."""
    most = max(int(mask.sum(-1).max()), 1)
    index = mask.to(torch.uint8).argsort(dim=-1, descending=True, stable=True)[..., :most]
    return index, mask.gather(-1, index)


def take(values: Shaped[Tensor, "*values"], index: Int[Tensor, "*b q"]) -> Shaped[Tensor, "*taken"]:
    """Values [*b, p, ...] at the indices of each row: [*b, q, ...]."""
    rest = values.dim() - index.dim()
    wide = index.view(*index.shape, *[1] * rest).expand(*index.shape, *values.shape[index.dim() :])
    return values.gather(index.dim() - 1, wide)
