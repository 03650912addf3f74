"""Multi-scale deformable attention by hand and against a plain-loop implementation (reference numbers: test_golden.py)."""

import pytest
import torch

from letocc_core.model import deformable_attention
from letocc_core.model.deformable_attention import DeformableAttention, ms_deform_attn


def test_one_sample_by_hand():
    value = torch.arange(6.0).view(1, 6, 1, 1)  # a map of 2 x 3: 0 1 2 / 3 4 5
    at = torch.tensor([[1.5 / 3, 0.5 / 2], [2.0 / 3, 1.0 / 2], [2.0, 2.0]]).view(1, 3, 1, 1, 1, 2)
    out = ms_deform_attn(value, [(2, 3)], at, torch.ones(1, 3, 1, 1, 1))
    assert torch.allclose(out[0, :, 0], torch.tensor([1.0, (1 + 2 + 4 + 5) / 4, 0.0]))


def test_parts_give_the_same_as_the_whole(monkeypatch: pytest.MonkeyPatch):
    generator = torch.Generator().manual_seed(0)
    value = torch.randn(4, 20, 2, 3, generator=generator, requires_grad=True)
    locations = torch.rand(4, 5, 2, 1, 6, 2, generator=generator)
    weights = torch.rand(4, 5, 2, 1, 6, generator=generator)
    whole = ms_deform_attn(value, [(4, 5)], locations, weights)
    (expected,) = torch.autograd.grad(whole.square().sum(), value)
    monkeypatch.setattr(deformable_attention, "MOST_SAMPLED", 400)
    parts = ms_deform_attn(value, [(4, 5)], locations, weights)
    (found,) = torch.autograd.grad(parts.square().sum(), value)
    assert torch.equal(parts, whole) and torch.allclose(found, expected)


def test_averaged_levels_are_the_mean_of_separate_attention():
    generator = torch.Generator().manual_seed(1)
    attention = DeformableAttention(8, heads=2, levels=2, points=3, average=True)
    for parameter in attention.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3
    query, value = torch.randn(1, 4, 8, generator=generator), torch.randn(1, 24, 8, generator=generator)
    reference = torch.rand(1, 4, 1, 1, 2, generator=generator)
    both = attention(query, reference, value, [(3, 4), (3, 4)])
    weights = attention.weights(query).view(1, 4, 2, 2, 3).softmax(-1)
    offsets = attention.offsets(query).view(1, 4, 2, 2, 3, 2) / torch.tensor([4, 3])
    maps = attention.value(value).view(1, 24, 2, 4)
    single = [
        ms_deform_attn(
            maps[:, 12 * level : 12 * (level + 1)],
            [(3, 4)],
            (reference[:, :, None] + offsets)[:, :, :, level : level + 1],
            weights[:, :, :, level : level + 1],
        )
        for level in range(2)
    ]
    assert torch.allclose(both, attention.output((single[0] + single[1]) / 2), atol=1e-6)
