"""Multi-scale deformable attention (Zhu et al., Deformable DETR, ICLR 2021, eq. 2): plain PyTorch, and what is faster."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from letocc_core.compiled import attention_gpu
from letocc_core.compiled.threads import serves

MOST_SAMPLED = (
    2**26
)  # numbers sampled from a level at once (256 MiB); more is done in parts and recomputed for the gradient


def ms_deform_attn(
    value: Float[Tensor, "B S heads dim"],
    spatial_shapes: Sequence[tuple[int, int]],
    sampling_locations: Float[Tensor, "B Q heads levels points 2"],
    attention_weights: Float[Tensor, "B Q heads levels points"],
) -> Float[Tensor, "B Q heads*dim"]:
    """Weighted sum of bilinear samples of every level's feature map; by Triton on a GPU, where it is installed.

    Args:
        value: the levels' maps, flattened row by row and concatenated: S = sum of H * W.
        spatial_shapes: (H, W) of each level.
        sampling_locations: (x, y) in [0, 1] across a map, faces included (pixel = loc * size - 0.5); zero outside.
        attention_weights: summing to 1 over levels and points.
    """
    if attention_gpu.serves(value, sampling_locations, attention_weights):
        return attention_gpu.SumSamples.apply(value, spatial_shapes, sampling_locations, attention_weights)
    B, Q, heads, _, points = attention_weights.shape
    parts = min(B, math.ceil(B * Q * heads * points * value.shape[3] / MOST_SAMPLED))
    if parts <= 1:
        return _attend(value, spatial_shapes, sampling_locations, attention_weights)
    chunks = zip(*(t.chunk(parts) for t in (value, sampling_locations, attention_weights)), strict=True)
    return torch.cat([checkpoint(_attend, v, spatial_shapes, x, a, use_reentrant=False) for v, x, a in chunks])


def _attend(
    value: Tensor, spatial_shapes: Sequence[tuple[int, int]], sampling_locations: Tensor, attention_weights: Tensor
) -> Tensor:
    """The same at once. Queries come last here: views of what `DeformableAttention` gives, copies of anything else."""
    B, _, heads, dim = value.shape
    queries = attention_weights.shape[1]
    locations = (2 * sampling_locations - 1).permute(3, 0, 2, 4, 1, 5)  # [levels, B, heads, points, Q, 2]
    weights = attention_weights.permute(3, 0, 2, 4, 1)
    maps = value.permute(0, 2, 3, 1).split([h * w for h, w in spatial_shapes], dim=3)
    out = value.new_zeros(B * heads, dim, queries)
    for image, (h, w), at, weight in zip(maps, spatial_shapes, locations, weights, strict=True):
        image = image.reshape(B * heads, dim, h, w)
        sampled = F.grid_sample(image, at.flatten(0, 1), mode="bilinear", padding_mode="zeros", align_corners=False)
        out = out + (sampled * weight.flatten(0, 1)[:, None]).sum(2)
    return out.view(B, heads * dim, queries).transpose(1, 2)


def _queries_last(linear: nn.Linear, x: Float[Tensor, "B Q C"]) -> Float[Tensor, "B D Q"]:
    """A linear layer's output, laid out as images are: neighbouring queries are neighbours in memory."""
    return torch.baddbmm(linear.bias[:, None], linear.weight.expand(len(x), -1, -1), x.transpose(1, 2))


class DeformableAttention(nn.Module):
    """Predicts offsets and weights from a query and attends to feature maps around its reference points."""

    def __init__(
        self, dim: int, heads: int, levels: int, points: int, query_dim: int | None = None, average: bool = False
    ):
        """
        Args:
            dim: channels of values and output.
            points: samples per head and level.
            query_dim: channels of the query, `dim` if not given.
            average: attend to each level by itself and take the mean, instead of sharing the attention among levels.
        """
        super().__init__()
        self.heads, self.levels, self.points, self.average = heads, levels, points, average
        self.offsets = nn.Linear(query_dim or dim, heads * levels * points * 2)
        self.weights = nn.Linear(query_dim or dim, heads * levels * points)
        self.value = nn.Linear(dim, dim)
        self.output = nn.Linear(dim, dim)
        self._initialise()

    def _initialise(self) -> None:
        """Deformable DETR's start: head h looks in direction 2 pi h / heads, its k-th point k + 1 pixels away."""
        nn.init.zeros_(self.offsets.weight)
        nn.init.zeros_(self.weights.weight)
        nn.init.zeros_(self.weights.bias)
        angle = torch.arange(self.heads) * (2 * math.pi / self.heads)
        direction = torch.stack([angle.cos(), angle.sin()], -1)
        direction = direction / direction.abs().amax(-1, keepdim=True)
        reach = torch.arange(1, self.points + 1).view(1, 1, -1, 1)
        bias = direction[:, None, None] * reach * torch.ones(1, self.levels, 1, 1)
        self.offsets.bias.data = bias.flatten()
        nn.init.xavier_uniform_(self.value.weight)
        nn.init.xavier_uniform_(self.output.weight)

    def forward(
        self,
        query: Float[Tensor, "B Q C"],
        reference: Float[Tensor, "B Q levels anchors 2"],
        value: Float[Tensor, "B S dim"],
        spatial_shapes: Sequence[tuple[int, int]],
    ) -> Float[Tensor, "B Q dim"]:
        """Attend around `reference`, (x, y) in [0, 1] for each level or for all of them (levels = 1).

        A query's points are shared out among its anchors.
        """
        B, Q, _, anchors = reference.shape[:4]
        heads, levels, points = self.heads, self.levels, self.points
        if serves(query, value, reference):
            from letocc_core.compiled.sampling import Attend

            offsets = self.offsets(query).view(B, Q, heads, levels, points, 2).float()
            logits = self.weights(query).view(B, Q, heads, levels, points).float()
            rows = self.value(value).unflatten(-1, (heads, -1)).float()
            return self.output(Attend.apply(rows, spatial_shapes, reference, offsets, logits, self.average))
        size = value.new_tensor([[w, h] for h, w in spatial_shapes]).view(levels, 1, 1, 2, 1)
        offsets = _queries_last(self.offsets, query).view(B, heads, levels, points // anchors, anchors, 2, Q) / size
        locations = (reference.permute(0, 2, 3, 4, 1)[:, None, :, None] + offsets).flatten(3, 4)
        weights = _queries_last(self.weights, query).view(B, heads, levels, points, Q)
        weights = weights.softmax(3) / levels if self.average else weights.flatten(2, 3).softmax(2).view_as(weights)
        value = _queries_last(self.value, value).view(B, heads, -1, value.shape[1]).permute(0, 3, 1, 2)
        attended = ms_deform_attn(value, spatial_shapes, locations.permute(0, 5, 1, 2, 3, 4), weights.movedim(-1, 1))
        return self.output(attended)
