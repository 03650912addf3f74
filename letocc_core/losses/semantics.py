"""Semantics from 2D pseudo-labels: cross-entropy on rendered class probabilities (SelfOcc section 3.4)."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from letocc_core.errors import DataError
from letocc_core.losses.mean import mean_over

IGNORE = 255  # label of pixels that teach nothing


def semantic_cross_entropy(
    probabilities: Float[Tensor, "B *r k"], labels: Int[Tensor, "B *r"], valid: Bool[Tensor, "B *r"] | None = None
) -> Float[Tensor, ""]:
    """Mean of -log p(label), p = sum w softmax(logits) made to sum to 1; rays labelled `IGNORE` or not valid left out.

    Raises `DataError` for a label beyond the number of classes k.
    """
    counted = labels != IGNORE
    if valid is not None:
        counted = counted & valid
    classes = probabilities.shape[-1]
    highest = int(torch.where(counted, labels, 0).max())
    if highest >= classes:
        raise DataError(f"semantic label {highest} found, expected below {classes} (the model's classes) or {IGNORE}")
    share = probabilities / probabilities.sum(-1, keepdim=True).clamp(min=1e-6)
    chosen = share.gather(-1, torch.where(counted, labels, 0).long()[..., None])[..., 0]
    return mean_over(-chosen.clamp(min=1e-6).log(), counted)
