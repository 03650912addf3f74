"""Voxel IoU."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool


@dataclass(frozen=True)
class VoxelCounts:
    """Voxels of all frames; `iou` is TP / (TP + FP + FN)."""

    both: int = 0  # occupied in truth and prediction
    either: int = 0  # occupied in truth or prediction

    @classmethod
    def of(
        cls,
        true: Bool[np.ndarray, "X Y Z"],
        predicted: Bool[np.ndarray, "X Y Z"],
        visible: Bool[np.ndarray, "X Y Z"],
    ) -> "VoxelCounts":
        """Counts of one frame, among the voxels that a sensor could see."""
        return cls(int((true & predicted & visible).sum()), int(((true | predicted) & visible).sum()))

    def __add__(self, other: "VoxelCounts") -> "VoxelCounts":
        return VoxelCounts(self.both + other.both, self.either + other.either)

    def summary(self) -> dict[str, float]:
        """`mean`: the IoU over all voxels of all frames; nothing where none was occupied."""
        return {"mean": self.both / self.either} if self.either else {}
