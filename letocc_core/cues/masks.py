"""Pixels of objects that could move, found in single images: Grounding DINO's boxes, filled by SAM (Let Occ Flow 3.4)."""

from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, UInt8

from letocc_core.errors import CheckpointError, MissingDependencyError

WEIGHTS = {  # what the papers' Grounded-SAM consists of
    "detector": "Grounding DINO, for example IDEA-Research/grounding-dino-tiny",
    "segmenter": "SAM, for example facebook/sam-vit-base",
}


@dataclass(frozen=True)
class GroundedSam:
    """Folders of both models' transformers checkpoints, and what is looked for."""

    detector: Path  # of Grounding DINO
    segmenter: Path  # of SAM
    prompt: str = "car. truck. bus. trailer. person. bicycle. motorcycle. train."  # what could move
    threshold: float = 0.3  # least score of a box
    text_threshold: float = 0.25  # least score of its words
    device: str = field(default="cpu", repr=False)  # cpu, cuda, cuda:1, ...

    def __call__(self, image: UInt8[np.ndarray, "H W 3"]) -> Bool[np.ndarray, "H W"]:
        """Pixels of what the prompt names.

        Raises:
            CheckpointError: a folder has no such checkpoint; says which to put there.
            MissingDependencyError: transformers is not installed.
        """
        boxes = self._boxes(image)
        if not len(boxes):
            return np.zeros(image.shape[:2], bool)
        processor, model = _load("segmenter", self.segmenter, self.device)
        inputs = processor(images=image, input_boxes=[boxes.tolist()], return_tensors="pt")
        with torch.inference_mode():
            outputs = model(**inputs.to(self.device), multimask_output=False)
        [masks] = processor.post_process_masks(
            outputs.pred_masks.cpu(), inputs["original_sizes"].cpu(), inputs["reshaped_input_sizes"].cpu()
        )
        return masks.flatten(0, 1).any(0).numpy()

    def _boxes(self, image: np.ndarray) -> torch.Tensor:
        """Boxes [n, 4] (left, top, right, bottom; px) of what the prompt names."""
        processor, model = _load("detector", self.detector, self.device)
        inputs = processor(images=image, text=self.prompt, return_tensors="pt")
        with torch.inference_mode():
            outputs = model(**inputs.to(self.device))
        [found] = processor.post_process_grounded_object_detection(
            outputs,
            inputs["input_ids"],
            threshold=self.threshold,
            text_threshold=self.text_threshold,
            target_sizes=[image.shape[:2]],
        )
        return found["boxes"]


@lru_cache(maxsize=2)
def _load(part: str, folder: Path, device: str) -> tuple[Any, Any]:
    """Processor and model of one part, once a process."""
    wanted = (
        f"put the folder of {WEIGHTS[part]}, here (config.json, model.safetensors, preprocessor_config.json and what "
        "else it has)"
    )
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"{folder}: no transformers checkpoint; {wanted}")
    try:
        from transformers import GroundingDinoForObjectDetection, GroundingDinoProcessor, SamModel, SamProcessor
    except ImportError as error:
        raise MissingDependencyError(f"masks need transformers ({error}): pip install 'letocc[hf]'") from error
    classes: dict[str, tuple[Any, Any]] = {
        "detector": (GroundingDinoProcessor, GroundingDinoForObjectDetection),
        "segmenter": (SamProcessor, SamModel),
    }
    processor, model = classes[part]
    try:
        loaded = model.from_pretrained(str(folder), local_files_only=True).eval().to(device)
        return processor.from_pretrained(str(folder), local_files_only=True), loaded
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder}: not the expected checkpoint ({error}); {wanted}") from error
