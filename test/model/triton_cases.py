"""Deformable attention by Triton against plain PyTorch; run by `test_triton.py` in a process of its own, on the device given.

Prints a JSON object: by case, the largest difference of the result and of each gradient, and the largest number itself.
"""

import json
import sys

import torch

from letocc_core.compiled.attention_gpu import SumSamples
from letocc_core.model.deformable_attention import _attend

CASES = {  # batch, queries, heads, channels of a head, maps, points, type of the values
    "three maps, odd sizes": (2, 41, 3, 5, [(7, 5), (4, 9), (1, 1)], 3, torch.float32),
    "one channel": (1, 3, 1, 1, [(2, 3)], 2, torch.float32),
    "many channels": (1, 33, 2, 32, [(6, 4)], 2, torch.float32),
    "bfloat16": (1, 20, 2, 8, [(5, 3), (3, 2)], 4, torch.bfloat16),
}
NAMES = ("result", "value", "places", "weights")


def main(device: str) -> None:
    found = {name: compare(*case, device=device) for name, case in CASES.items()}
    print(json.dumps(found | {"by hand": by_hand(device)}))


def compare(
    batch: int,
    queries: int,
    heads: int,
    dim: int,
    maps: list[tuple[int, int]],
    points: int,
    kind: torch.dtype,
    device: str,
) -> dict[str, tuple[float, float]]:
    """A third of the places lie beyond the borders, and some at a border's pixel or half of one beyond it."""
    generator = torch.Generator().manual_seed(0)
    value = torch.randn(batch, sum(h * w for h, w in maps), heads, dim, generator=generator)
    places = torch.rand(batch, queries, heads, len(maps), points, 2, generator=generator) * 1.6 - 0.3
    height, width = maps[0]
    places[:, 0, :, 0, 0] = torch.tensor([0.25 / width, 1 - 0.25 / height])
    places[:, 1, :, 0, 0] = torch.tensor([1 + 0.25 / width, -0.25 / height])
    places[:, 2, :, 0, 0] = torch.tensor([1e30, -1e30])
    weights = torch.rand(batch, queries, heads, len(maps), points, generator=generator)
    toward = torch.randn(batch, queries, heads * dim, generator=generator)
    given = [t.to(device, kind).requires_grad_() for t in (value, places, weights)]
    plain = [t.detach().float().requires_grad_() for t in given]
    ours = run(SumSamples.apply, given, maps, toward.to(device, kind))
    reference = run(_attend, plain, maps, toward.to(device, kind).float())
    return {
        name: (float((a.float() - b).abs().max()), float(b.abs().max()))
        for name, a, b in zip(NAMES, ours, reference, strict=True)
    }


def run(function, given, maps, toward) -> list[torch.Tensor]:
    value, places, weights = given
    out = function(value, maps, places, weights)
    return [out.detach(), *torch.autograd.grad((out * toward).sum(), given)]


def by_hand(device: str) -> dict[str, list[float]]:
    """A map of 2 x 3, 0 1 2 / 3 4 5: its second pixel; between the last four; far beyond; a quarter of a pixel beyond a corner."""
    value = torch.arange(6.0, device=device).view(1, 6, 1, 1)
    at = torch.tensor([[1.5 / 3, 0.5 / 2], [2.0 / 3, 1.0 / 2], [2.0, 2.0], [1 - 0.25 / 3, 1 - 0.25 / 2]], device=device)
    at = at.view(1, 4, 1, 1, 1, 2).requires_grad_()
    out = SumSamples.apply(value, [(2, 3)], at, torch.ones(1, 4, 1, 1, 1, device=device))
    (slope,) = torch.autograd.grad(out.sum(), at)
    return {"result": out[0, :, 0].tolist(), "places": slope[0, :, 0, 0, 0].tolist()}


if __name__ == "__main__":
    main(sys.argv[1])
