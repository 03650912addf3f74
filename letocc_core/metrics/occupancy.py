"""Voxel IoU: occupied against free, and by class."""

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float, UInt8


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


@dataclass(frozen=True, eq=False)
class LabelCounts:
    """Voxels of all frames by class, occupied as a whole first; IoU, precision and recall from their sums.

    SelfOcc's figures: IoU, precision and recall of occupied against free; mIoU, the mean over classes (free excluded) of
    TP / (TP + FP + FN). A class that is neither in truth nor predicted is left out of that mean.
    """

    true: Float[np.ndarray, "_"] = field(default_factory=lambda: np.zeros(1))
    predicted: Float[np.ndarray, "_"] = field(default_factory=lambda: np.zeros(1))
    both: Float[np.ndarray, "_"] = field(default_factory=lambda: np.zeros(1))

    @classmethod
    def of(
        cls,
        true: UInt8[np.ndarray, "X Y Z"],
        predicted: UInt8[np.ndarray, "X Y Z"],
        counted: Bool[np.ndarray, "X Y Z"],
        free: int,
        classes: int = 0,
    ) -> "LabelCounts":
        """Counts of one frame at the `counted` voxels.

        Args:
            true, predicted: labels; `free` is empty, whatever else is occupied.
            classes: labels 0 to `classes` - 1 are counted one by one besides; 0: none of them.
        """
        t, p = true[counted], predicted[counted]

        def counts(values: np.ndarray) -> np.ndarray:
            return np.array([values.size, *np.bincount(values, minlength=256)[:classes]], np.float64)

        occupied = np.count_nonzero((t != free) & (p != free))
        matched = counts(t[(t == p) & (t != free)])
        matched[0] = occupied
        return cls(counts(t[t != free]), counts(p[p != free]), matched)

    def __add__(self, other: "LabelCounts") -> "LabelCounts":
        return LabelCounts(self.true + other.true, self.predicted + other.predicted, self.both + other.both)

    def per_class(self) -> Float[np.ndarray, "C"]:
        """IoU of each class; NaN for one that is neither in truth nor predicted."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return (self.both / (self.true + self.predicted - self.both))[1:]

    def summary(self) -> dict[str, float]:
        """`iou`, `precision`, `recall` of what is occupied, `miou` where classes were counted; without undefined ones."""
        both, true, predicted = self.both[0], self.true[0], self.predicted[0]
        values = {
            "iou": both / (true + predicted - both) if true + predicted else None,
            "precision": both / predicted if predicted else None,
            "recall": both / true if true else None,
        }
        ious = self.per_class()
        if not np.isnan(ious).all():
            values["miou"] = np.nanmean(ious)
        return {k: float(v) for k, v in values.items() if v is not None}
