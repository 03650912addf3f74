"""Less time and memory on GPUs: matrix products of learned parts in bfloat16."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn


def multiply_in_bfloat16(modules: Iterable[nn.Module], device_type: str) -> None:
    """Run these modules under autocast from now on; what they return is float32 again.

    Weights stay in float32. Give it modules that hold no geometry: poses and projections need more than 8 bits.
    """
    for module in modules:
        module.forward = _Autocast(module.forward, device_type)


class _Autocast:
    """A forward method in bfloat16."""

    def __init__(self, forward: Callable[..., Any], device_type: str):
        self.forward, self.device_type = forward, device_type

    def __call__(self, *arguments: Any) -> Tensor | list[Tensor]:
        with torch.autocast(self.device_type, torch.bfloat16):
            result = self.forward(*arguments)
        return result.float() if isinstance(result, Tensor) else [part.float() for part in result]
