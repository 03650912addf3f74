"""Images to a feature pyramid: a transformers backbone and FPN (Let Occ Flow B.1)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from letocc_core.errors import CheckpointError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class BackboneConfig:
    """A ConvNeXt (Let Occ Flow) or ResNet (SelfOcc) whose four stages feed the pyramid."""

    kind: Literal["convnext", "resnet"] = "convnext"
    widths: tuple[int, ...] = (128, 256, 512, 1024)  # channels of the stages; ConvNeXt-B's
    depths: tuple[int, ...] = (3, 3, 27, 3)  # blocks of the stages
    weights: Path | None = None  # folder of a transformers checkpoint to start from; None: random


def build_backbone(config: BackboneConfig) -> Any:
    """The transformers model that `config` describes.

    Raises:
        CheckpointError: `config.weights` is not a folder with a transformers checkpoint.
    """
    from transformers import ConvNextBackbone, ConvNextConfig, ResNetBackbone, ResNetConfig

    classes: dict[str, tuple[Any, Any]] = {
        "convnext": (ConvNextBackbone, ConvNextConfig),
        "resnet": (ResNetBackbone, ResNetConfig),
    }
    model_class, config_class = classes[config.kind]
    stages = [f"stage{i + 1}" for i in range(len(config.widths))]
    if config.weights is not None:
        if not (config.weights / "config.json").is_file():
            raise CheckpointError(
                f"{config.weights}: no transformers checkpoint (config.json and model.safetensors) there; "
                "download one on a machine with access to the hub and put its folder at this path"
            )
        return model_class.from_pretrained(str(config.weights), out_features=stages, local_files_only=True)
    sizes = {"hidden_sizes": list(config.widths), "depths": list(config.depths), "out_features": stages}
    return model_class(config_class(**sizes))


class FeaturePyramid(nn.Module):
    """Backbone and FPN (Lin et al., CVPR 2017): strides 4, 8, 16, 32, all with `dim` channels."""

    def __init__(self, config: BackboneConfig, dim: int):
        super().__init__()
        self.backbone = build_backbone(config)
        self.lateral = nn.ModuleList(nn.Conv2d(c, dim, 1) for c in self.backbone.channels)
        self.smooth = nn.ModuleList(nn.Conv2d(dim, dim, 3, padding=1) for _ in self.backbone.channels)

    def forward(self, images: Float[Tensor, "M 3 H W"]) -> list[Float[Tensor, "M dim _ _"]]:
        """RGB in [0, 1] -> one map a level, finest first."""
        mean, std = (images.new_tensor(v).view(3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
        images = ((images - mean) / std).contiguous(memory_format=torch.channels_last)
        maps = self.backbone(images).feature_maps
        levels = [lateral(m) for lateral, m in zip(self.lateral, maps, strict=True)]
        for i in range(len(levels) - 1, 0, -1):
            levels[i - 1] = levels[i - 1] + F.interpolate(levels[i], size=levels[i - 1].shape[-2:], mode="nearest")
        return [smooth(level) for smooth, level in zip(self.smooth, levels, strict=True)]
