"""Trains an estimator of optical flow further on images alone (Let Occ Flow B.2, after Jonschkowski et al., ECCV 2020).

What is seen in both images looks the same there, by the census transform; flow is smooth where the image is, at the coarse
size at which networks find it; and what the network says of an image, it must also say of a smaller piece of it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, UInt8
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm import tqdm

from letocc_core.cues.flow import FlowEstimator
from letocc_core.cues.networks import TrainableFlow, to_tensor
from letocc_core.errors import ConfigError

Pair = tuple[UInt8[np.ndarray, "H W 3"], UInt8[np.ndarray, "H W 3"]]
PATCH = 7  # px, side of the patches that the census transform compares
COARSE = 8  # the flow is smooth at this fraction of the image's size


@dataclass(frozen=True)
class TuneConfig:
    """How long and how hard."""

    steps: int = 1000
    batch_size: int = 2  # pairs of images a step
    learning_rate: float = 1e-5
    smooth: float = 2.0  # weight of smoothness, relative to the census term
    edge: float = 150.0  # how fast smoothness gives way to image gradients (a unit is black to white)
    crop: float = 0.3  # weight of self-supervision, relative to the census term
    seed: int = 0


def tune(
    estimator: TrainableFlow | FlowEstimator,
    pair: Callable[[int], Pair],
    count: int,
    out: Path,
    config: TuneConfig = TuneConfig(),
    device: str = "cpu",
) -> Path:
    """Train the estimator's network on `count` pairs of images of one size; writes its tensors to `out`.

    Raises `ConfigError` for an estimator that cannot be trained or no pair, and what `estimator.load` does.
    """
    network = estimator.load() if hasattr(estimator, "load") else None
    if not isinstance(network, nn.Module) or count < 1:
        raise ConfigError(
            f"{type(estimator).__name__} on {count} pairs of images: expected an estimator with a network that finds flow "
            "(raft, raft_small or unimatch), and one pair or more"
        )
    network = network.to(device).train()
    freeze_statistics(network)
    optimizer = torch.optim.AdamW(network.parameters(), lr=config.learning_rate)
    generator = np.random.default_rng(config.seed)
    bar = tqdm(range(config.steps), desc="tuning", unit="step", dynamic_ncols=True)
    for _ in bar:
        numbers = generator.integers(count, size=config.batch_size)
        images, others = (to_tensor(np.stack(x)).to(device) for x in zip(*map(pair, numbers.tolist()), strict=True))
        loss = unsupervised_loss(network, images, others, config, generator)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        bar.set_postfix(loss=f"{float(loss.detach()):.4f}", refresh=False)
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f".{out.name}.tmp")
    save_file({name: t.detach().cpu().contiguous() for name, t in network.state_dict().items()}, temporary)
    return temporary.replace(out)


def unsupervised_loss(
    network: nn.Module,
    images: Float[Tensor, "B 3 H W"],
    others: Float[Tensor, "B 3 H W"],
    config: TuneConfig,
    generator: np.random.Generator,
) -> Float[Tensor, ""]:
    """Census, smoothness and self-supervision of the flow there and back."""
    there, back = network(images, others), network(others, images)
    total = images.new_zeros(())
    for a, b, flow, reverse in ((images, others, there, back), (others, images, back, there)):
        visible = ~occluded(flow.detach(), reverse.detach())  # no gradient: hiding pixels must not pay
        total = total + census_distance(a, warp(b, flow), visible)
        total = total + config.smooth * smoothness(flow, a, config.edge)
        total = total + config.crop * _self_distance(network, a, b, flow.detach(), visible, generator)
    return total / 2


def warp(image: Float[Tensor, "B c H W"], flow: Float[Tensor, "B 2 H W"]) -> Float[Tensor, "B c H W"]:
    """What lies where the flow (px) leads; zero outside of the image."""
    height, width = image.shape[-2:]
    v, u = torch.meshgrid(*(torch.arange(n, device=image.device) for n in (height, width)), indexing="ij")
    x, y = (u + flow[:, 0] + 0.5) / width * 2 - 1, (v + flow[:, 1] + 0.5) / height * 2 - 1
    return F.grid_sample(image, torch.stack([x, y], -1), align_corners=False)


def occluded(flow: Float[Tensor, "B 2 H W"], reverse: Float[Tensor, "B 2 H W"]) -> Bool[Tensor, "B H W"]:
    """Pixels that leave the image, or that do not come back (Sundaram et al., ECCV 2010)."""
    returned = warp(reverse, flow)
    apart = (flow + returned).square().sum(1)
    inside = warp(torch.ones_like(flow[:, :1]), flow)[:, 0] > 0.99
    return ~inside | (apart > 0.01 * (flow.square().sum(1) + returned.square().sum(1)) + 0.5)


def census_distance(
    image: Float[Tensor, "B 3 H W"], warped: Float[Tensor, "B 3 H W"], visible: Bool[Tensor, "B H W"]
) -> Float[Tensor, ""]:
    """Robust Hamming distance of soft census transforms, mean of the visible pixels (Meister et al., AAAI 2018)."""
    difference = (_census(image) - _census(warped)).square()
    distance = (difference / (0.1 + difference)).sum(1)
    weight = visible.float()
    border = PATCH // 2
    weight[:, :border], weight[:, -border:], weight[:, :, :border], weight[:, :, -border:] = 0, 0, 0, 0
    return ((distance + 0.01).pow(0.4) * weight).sum() / weight.sum().clamp(min=1)


def smoothness(flow: Float[Tensor, "B 2 H W"], image: Float[Tensor, "B 3 H W"], edge: float) -> Float[Tensor, ""]:
    """First differences of the coarse flow, where the coarse image has no edges."""
    size = (max(2, flow.shape[-2] // COARSE), max(2, flow.shape[-1] // COARSE))
    small, picture = (F.interpolate(x, size, mode="area") for x in (flow / COARSE, image))
    total = flow.new_zeros(())
    for axis in (-1, -2):
        weight = torch.exp(-edge * picture.diff(dim=axis).abs().mean(1, keepdim=True))
        total = total + (weight * (small.diff(dim=axis).square() + 1e-6).sqrt()).mean()
    return total / 2


def _self_distance(
    network: nn.Module,
    images: Tensor,
    others: Tensor,
    flow: Float[Tensor, "B 2 H W"],
    visible: Bool[Tensor, "B H W"],
    generator: np.random.Generator,
) -> Float[Tensor, ""]:
    """How far the flow of a random piece of the images, resized to the whole, is from that of the whole."""
    height, width = flow.shape[-2:]
    rows, columns = round(0.75 * height), round(0.75 * width)
    top, left = generator.integers(height - rows + 1), generator.integers(width - columns + 1)

    def resized(x: Tensor) -> Tensor:
        piece = x[..., top : top + rows, left : left + columns]
        return F.interpolate(piece, (height, width), mode="bilinear", align_corners=False)

    scale = flow.new_tensor([width / columns, height / rows])[:, None, None]
    found = network(resized(images), resized(others))
    apart = ((found - resized(flow) * scale).square() + 1e-6).sqrt().mean(1)
    weight = resized(visible[:, None].float())[:, 0].floor()
    return (apart * weight).sum() / weight.sum().clamp(min=1)


def _census(image: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B p H W"]:
    """Each pixel of its patch, brighter or darker, between -1 and 1."""
    grey = (image * image.new_tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True) * 255
    patches = F.unfold(F.pad(grey, (PATCH // 2,) * 4, mode="replicate"), PATCH).unflatten(2, grey.shape[-2:])
    difference = patches - grey
    return difference / (0.81 + difference.square()).sqrt()


def freeze_statistics(network: nn.Module) -> None:
    """Batch normalisation keeps the statistics that it was trained with: batches are small here."""
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
