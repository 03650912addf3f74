"""Deformable attention as one pass on a GPU, by Triton, and its gradient as another. No sample is stored between them."""

from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from letocc_core.compiled.threads import recorded

QUERIES_AT_ONCE = 32  # of one head, by one program


@cache
def installed() -> bool:
    """Whether Triton can be imported; PyTorch for CUDA brings it along."""
    return find_spec("triton") is not None


def serves(*tensors: Tensor) -> bool:
    """Whether Triton can take these tensors: all on a GPU, and nobody records the operations."""
    return all(t.is_cuda for t in tensors) and installed() and not recorded(*tensors)


class SumSamples(torch.autograd.Function):
    """What `ms_deform_attn` returns. Sums are in float32, whatever the inputs are."""

    @staticmethod
    def forward(
        context: Any,
        value: Float[Tensor, "B S heads dim"],
        spatial_shapes: Sequence[tuple[int, int]],
        sampling_locations: Float[Tensor, "B Q heads levels points 2"],
        attention_weights: Float[Tensor, "B Q heads levels points"],
    ) -> Float[Tensor, "B Q heads*dim"]:
        """Arguments as of `ms_deform_attn`; fastest if channels of values, and queries of all else, are neighbours."""
        from letocc_core.compiled.triton_kernels import attend

        value = value.contiguous()
        places = sampling_locations.permute(0, 2, 3, 4, 5, 1).contiguous()  # [B, heads, levels, points, 2, Q]
        weights = attention_weights.permute(0, 2, 3, 4, 1).contiguous()
        maps = _maps(tuple(map(tuple, spatial_shapes)), value.device)
        context.save_for_backward(value, places, weights, maps)
        B, heads, _, _, _, Q = places.shape
        kind = torch.promote_types(value.dtype, weights.dtype)
        out = torch.empty(B, Q, heads * value.shape[3], dtype=kind, device=value.device)
        attend[_programs(places)](value, places, weights, maps, out, **_sizes(value, places))
        return out

    @staticmethod
    @once_differentiable
    def backward(context: Any, slope: Float[Tensor, "B Q heads*dim"]) -> tuple[Tensor | None, ...]:
        from letocc_core.compiled.triton_kernels import attend_backwards

        value, places, weights, maps = context.saved_tensors
        value_slope = torch.zeros_like(value, dtype=torch.float32)  # programs add to it in any order
        place_slope, weight_slope = torch.empty_like(places), torch.empty_like(weights)
        attend_backwards[_programs(places)](
            value, places, weights, maps, slope.contiguous(),
            value_slope, place_slope, weight_slope, **_sizes(value, places),
        )  # fmt: skip
        return value_slope.to(value.dtype), None, place_slope.permute(0, 5, 1, 2, 3, 4), weight_slope.movedim(-1, 1)


@cache
def _maps(spatial_shapes: tuple[tuple[int, int], ...], device: torch.device) -> Int[Tensor, "levels 3"]:
    """Height, width and first pixel of each level's map; kept, so that the GPU need not wait for it again."""
    first, rows = 0, []
    for height, width in spatial_shapes:
        rows.append((height, width, first))
        first += height * width
    return torch.tensor(rows, dtype=torch.int32, device=device)


def _programs(places: Tensor) -> tuple[int, int]:
    """Blocks of queries, and heads of all of the batch."""
    return -(-places.shape[5] // QUERIES_AT_ONCE), places.shape[0] * places.shape[1]


def _sizes(value: Tensor, places: Tensor) -> dict[str, int]:
    _, pixels, heads, dim = value.shape
    levels, points, _, queries = places.shape[2:]
    return {
        "queries": queries, "pixels": pixels, "heads": heads, "levels": levels, "points": points, "dim": dim,
        "row": 1 << (dim - 1).bit_length(), "block": QUERIES_AT_ONCE,
    }  # fmt: skip
