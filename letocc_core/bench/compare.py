"""Others beside a set in the same run, in turns: each is as lucky with the machine as the next."""

from collections.abc import Callable, Mapping
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor

from letocc_core.bench.parts import Parts
from letocc_core.compiled import threads
from letocc_core.errors import MissingDependencyError
from letocc_core.model.deformable_attention import DeformableAttention

Turn = Callable[[], float]  # runs once; returns the time that it took (s)
DEPTH_SIZES = ((126, 224), (280, 504))  # px, height and width: about that of `street`, and that of a common depth node
PLANE = {"street": (50, 8, 32, 2, 4), "nuscenes": (100, 8, 192, 6, 8)}  # side, slices, channels, heads, points


def alternate(turns: Mapping[str, Turn], rounds: int) -> dict[str, float]:
    """The least time (s) of each in a number of rounds; one that takes very long has a single turn."""
    found = {name: turn() for name, turn in turns.items()}
    ours = next(iter(found.values()))
    for _ in range(rounds - 1):
        for name, turn in turns.items():
            if found[name] < 4 * ours:
                found[name] = min(found[name], turn())
    return found


def timed(function: Callable[[], object], parts: Parts) -> Turn:
    """A function as a turn, after a call that warms it up."""
    function()

    def turn() -> float:
        begin = parts.clock()
        function()
        return parts.clock() - begin

    return turn


def depth_anything(cameras: int, size: tuple[int, int], parts: Parts, device: torch.device) -> Turn:
    """Depth Anything V2 Small (random weights, 24.8 M parameters): images to depth alone.

    Args:
        size: px, height and width, multiples of its patches of 14.

    Raises `MissingDependencyError` without transformers.
    """
    try:
        from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation, Dinov2Config
    except ImportError as error:
        raise MissingDependencyError("--compare depth-anything needs transformers: pip install 'letocc[hf]'") from error

    backbone = Dinov2Config(  # type: ignore[call-arg]  # the stubs know out_indices by its private name
        hidden_size=384, num_attention_heads=6, num_hidden_layers=12, image_size=518, patch_size=14,
        out_indices=[3, 6, 9, 12], reshape_hidden_states=False, apply_layernorm=True,
    )  # fmt: skip
    config = DepthAnythingConfig(
        backbone_config=backbone, reassemble_hidden_size=384, neck_hidden_sizes=[48, 96, 192, 384],
        fusion_hidden_size=64,
    )  # fmt: skip
    model = DepthAnythingForDepthEstimation(config).eval().to(device)
    images = torch.rand(cameras, 3, *size, device=device)

    def run() -> None:
        with torch.inference_mode():
            model(pixel_values=images)

    return timed(run, parts)


def attention(side: int, slices: int, dim: int, heads: int, points: int, parts: Parts) -> dict[str, Turn]:
    """Deformable attention as the temporal fusion has it, in four formulations that give the same.

    Args:
        side: px, of the two square maps; slices: sets of maps.
    """
    torch.manual_seed(0)
    layer = DeformableAttention(dim, heads, 2, points, query_dim=2 * dim, average=True).eval()
    torch.nn.init.normal_(layer.offsets.weight, std=0.1 / dim**0.5)
    query, value = torch.randn(slices, side * side, 2 * dim), torch.randn(slices, 2 * side * side, dim)
    x, y = torch.meshgrid(*[(torch.arange(side) + 0.5) / side] * 2, indexing="ij")
    reference = torch.stack([y, x], -1).view(1, -1, 1, 1, 2).expand(slices, -1, -1, -1, -1)
    shapes = [(side, side)] * 2

    def ours(eager: bool) -> Callable[[], Tensor]:
        def run() -> Tensor:
            with threads.plain_passes() if eager else nullcontext(), torch.inference_mode():
                return layer(query, reference, value, shapes)

        return run

    def of_values(function: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Callable[[], Tensor]:
        @torch.inference_mode()
        def run() -> Tensor:
            offsets = layer.offsets(query).view(slices, -1, heads, 2, points, 2) / side
            weights = layer.weights(query).view(slices, -1, heads, 2, points).softmax(-1) / 2
            values = layer.value(value).view(slices, -1, heads, dim // heads)
            return layer.output(function(values, reference[:, :, None] + offsets, weights))

        return run

    ways = {
        "compiled loops": ours(eager=False),
        "grid_sample, queries last": ours(eager=True),
        "gather": of_values(lambda v, at, w: gathered(v, shapes, at, w)),
        "transformers": of_values(_of_transformers(shapes)),
    }
    with torch.inference_mode():
        expected = ways["transformers"]()
        for name, way in ways.items():
            assert (way() - expected).abs().max() < 1e-4 * expected.abs().max(), f"{name} disagrees with transformers"
    return {name: timed(way, parts) for name, way in ways.items()}


def _of_transformers(shapes: list[tuple[int, int]]) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    from transformers.models.deformable_detr.modeling_deformable_detr import MultiScaleDeformableAttention

    theirs = MultiScaleDeformableAttention()
    starts = torch.tensor([0, shapes[0][0] * shapes[0][1]])
    return lambda v, at, w: theirs(v, torch.tensor(shapes), shapes, starts, at, w, 64)


def gathered(value: Tensor, shapes: list[tuple[int, int]], locations: Tensor, weights: Tensor) -> Tensor:
    """`ms_deform_attn` by reading the four pixels around each place, rows of a head's channels."""
    B, _, heads, dim = value.shape
    queries = weights.shape[1]
    out, start = value.new_zeros(B, heads, queries, dim), 0
    rows = value.transpose(1, 2).reshape(B * heads, -1, dim)
    for level, (h, w) in enumerate(shapes):
        image = F.pad(rows[:, start : start + h * w].view(-1, h, w, dim), (0, 0, 1, 1, 1, 1)).flatten(1, 2)
        start += h * w
        at = locations[:, :, :, level].permute(0, 2, 1, 3, 4).flatten(0, 1)  # [B heads, Q, points, 2]
        x = (at[..., 0] * w + 0.5).clamp(0, w + 1)  # the first pixel of the padded map is 1
        y = (at[..., 1] * h + 0.5).clamp(0, h + 1)
        x0, y0 = x.floor().clamp(max=w), y.floor().clamp(max=h)
        right, bottom = x - x0, y - y0
        corner = (y0 * (w + 2) + x0).long()
        share = weights[:, :, :, level].transpose(1, 2).flatten(0, 1)
        for step, part in (
            (0, (1 - right) * (1 - bottom)), (1, right * (1 - bottom)),
            (w + 2, (1 - right) * bottom), (w + 3, right * bottom),
        ):  # fmt: skip
            index = (corner + step).flatten(1)[..., None].expand(-1, -1, dim)
            read = image.gather(1, index).view(B, heads, queries, -1, dim)
            out += torch.einsum("bhqpd,bhqp->bhqd", read, (part * share).view(B, heads, queries, -1))
    return out.transpose(1, 2).flatten(2)
