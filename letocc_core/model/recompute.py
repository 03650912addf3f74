"""Less memory for more time: activations that are computed again in the backward pass."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


def recompute_activations(modules: Iterable[nn.Module]) -> None:
    """Keep only the inputs of each of these modules for the backward pass, which runs them a second time."""
    for module in modules:
        module.forward = partial(_recomputed, module.forward)


def _recomputed(forward: Callable[..., Any], *arguments: Any) -> Any:
    return checkpoint(forward, *arguments, use_reentrant=False) if torch.is_grad_enabled() else forward(*arguments)
