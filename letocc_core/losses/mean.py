"""How terms are averaged: a batch is the mean of its clips, however it is shared out among processes."""

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor


def mean_over(values: Float[Tensor, "B *r"], counted: Bool[Tensor, "B *r"]) -> Float[Tensor, ""]:
    """Mean over the counted entries of each clip (0 if it has none), then over the B clips.

    A clip of few rays weighs as much as one of many, as where every process holds one clip. So the mean of the losses
    of the parts of a batch is the loss of the whole.
    """
    return (total(torch.where(counted, values, 0.0)) / total(counted).clamp(min=1)).mean()


def weighted_mean(values: Float[Tensor, "B *r"], weights: Float[Tensor, "B *r"]) -> Float[Tensor, ""]:
    """The same with weights of 0 or more, of values that are finite everywhere."""
    return (total(values * weights) / total(weights).clamp(min=1e-6)).mean()


def total(values: Shaped[Tensor, "B *r"]) -> Shaped[Tensor, "B"]:
    """Sum of the entries [B, ...] of each clip."""
    return values.reshape(len(values), -1).sum(1)
