"""Classes of pixels by a semantic segmentation model of transformers: pseudo-labels for the semantic field (SelfOcc)."""

from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8

from letocc_core.errors import CheckpointError, ConfigError, MissingDependencyError

IGNORE = 255  # class of pixels that are none of ours


@dataclass(frozen=True)
class Segmenter:
    """Folder of a transformers checkpoint (SegFormer, UperNet, Mask2Former, ...), and what its labels are called here."""

    model: Path
    classes: dict[str, tuple[str, ...]]  # our class -> the model's labels; numbered in this order
    device: str = field(default="cpu", repr=False)  # cpu, cuda, cuda:1, ...

    def __call__(self, image: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "H W"]:
        """Class of each pixel, or 255.

        Raises:
            CheckpointError: the folder has no such checkpoint.
            ConfigError: a label that the model does not know; lists those that it knows.
            MissingDependencyError: transformers is not installed.
        """
        processor, model = _load(self.model, self.device)
        inputs = processor(images=image, return_tensors="pt").to(self.device)
        with torch.inference_mode():
            outputs = model(**inputs)
        [labels] = processor.post_process_semantic_segmentation(outputs, target_sizes=[image.shape[:2]])
        return self._numbers(model.config.id2label)[labels.cpu().numpy()]

    def _numbers(self, names: dict[int, str]) -> UInt8[np.ndarray, "_"]:
        """Our class of each of the model's."""
        out = np.full(max(names) + 1, IGNORE, np.uint8)
        places = {name: i for i, name in names.items()}
        for number, (ours, theirs) in enumerate(self.classes.items()):
            for name in theirs:
                if name not in places:
                    raise ConfigError(
                        f"semantics.classes.{ours}: {self.model} has no label '{name}'; it has: {', '.join(places)}"
                    )
                out[places[name]] = number
        return out


@lru_cache(maxsize=1)
def _load(folder: Path, device: str) -> tuple[Any, Any]:
    """Image processor and model, once a process."""
    wanted = (
        "put the folder of a semantic segmentation model of transformers, for example "
        "nvidia/segformer-b5-finetuned-cityscapes-1024-1024, here (config.json, model.safetensors, preprocessor_config.json)"
    )
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"{folder}: no transformers checkpoint; {wanted}")
    try:
        import transformers
    except ImportError as error:
        raise MissingDependencyError(f"semantics need transformers ({error}): pip install 'letocc[hf]'") from error
    try:
        config = transformers.AutoConfig.from_pretrained(str(folder), local_files_only=True)
        dense = type(config) in transformers.MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING
        kind = (
            transformers.AutoModelForSemanticSegmentation if dense else transformers.AutoModelForUniversalSegmentation
        )
        model = kind.from_pretrained(str(folder), local_files_only=True).eval().to(device)
        return transformers.AutoImageProcessor.from_pretrained(str(folder), local_files_only=True), model
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder}: not the expected checkpoint ({error}); {wanted}") from error
