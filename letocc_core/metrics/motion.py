"""How well the velocity of matter is known.

Speed is judged along RayIoU's rays, at true positives within 2 m: the velocity of the voxel that the prediction hits
against that of the voxel hit in truth (OpenOcc's mAVE). Direction and false motion are judged voxel by voxel.
"""

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float, Integer, Shaped

MATCH_DISTANCE = 2.0  # m, largest (exclusive) distance error of a true positive
MOVING_SPEED = 0.5  # m/s above which something moves


@dataclass(frozen=True, eq=False)
class VelocityErrors:
    """Sums of velocity errors by class over all frames; `mave` is the mean over classes of the mean over rays."""

    error: Float[np.ndarray, "C"]  # m/s, summed
    rays: Float[np.ndarray, "C"]

    @classmethod
    def none(cls, classes: int) -> "VelocityErrors":
        """Of no ray."""
        return cls(np.zeros(classes), np.zeros(classes))

    @classmethod
    def of(
        cls,
        label: Integer[np.ndarray, "R"],
        true: Float[np.ndarray, "R 2"],
        predicted: Float[np.ndarray, "R 2"],
        classes: int,
    ) -> "VelocityErrors":
        """L2 errors of the given rays (true positives), each counted in its true class."""
        error = np.linalg.norm(predicted.astype(np.float64) - true, axis=1)
        return cls(
            np.bincount(label, error, minlength=classes).astype(np.float64),
            np.bincount(label, minlength=classes).astype(np.float64),
        )

    def __add__(self, other: "VelocityErrors") -> "VelocityErrors":
        return VelocityErrors(self.error + other.error, self.rays + other.rays)

    def per_class(self) -> Float[np.ndarray, "C"]:
        """Mean error, m/s; NaN for a class without rays."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return self.error / self.rays

    def mave(self) -> float | None:
        """Mean over the classes that have rays, m/s; None where no class has."""
        return float(np.nanmean(self.per_class())) if self.rays.any() else None

    def summary(self) -> dict[str, float]:
        """`mave`, m/s; nothing where no class has rays."""
        mave = self.mave()
        return {} if mave is None else {"mave": mave}


@dataclass(frozen=True)
class Mean:
    """A mean that can be continued."""

    sum: float = 0.0
    count: int = 0

    @classmethod
    def of(cls, values: Shaped[np.ndarray, "*n"]) -> "Mean":
        return cls(float(np.sum(values, dtype=np.float64)), int(np.size(values)))

    def __add__(self, other: "Mean") -> "Mean":
        return Mean(self.sum + other.sum, self.count + other.count)

    def value(self) -> float | None:
        return self.sum / self.count if self.count else None


@dataclass(frozen=True, eq=False)
class Median:
    """A median that can be continued: it keeps all values."""

    values: Float[np.ndarray, "n"] = field(default_factory=lambda: np.zeros(0, np.float32))

    def __add__(self, other: "Median") -> "Median":
        return Median(np.concatenate([self.values, other.values]))

    def value(self) -> float | None:
        return float(np.median(self.values)) if len(self.values) else None


@dataclass(frozen=True, eq=False)
class MotionScore:
    """The `motion` group of the results format; add what rays and voxels say, and the scores of all frames."""

    moving: VelocityErrors
    supervised: VelocityErrors
    direction: Median = field(default_factory=Median)
    false_motion: Mean = field(default_factory=Mean)
    found: Mean = field(default_factory=Mean)

    @classmethod
    def of_rays(
        cls,
        label: Integer[np.ndarray, "R"],
        true: Float[np.ndarray, "R 2"],
        predicted: Float[np.ndarray, "R 2"],
        supervised: Bool[np.ndarray, "R"],
        classes: int,
    ) -> "MotionScore":
        """Velocity errors at the rays of one frame that are true positives within 2 m and whose truth moves.

        Args:
            label: true class of the voxel hit.
            true, predicted: velocity of the voxel hit in truth and in prediction, m/s in ego axes.
            supervised: the ray's truth is seen by a camera in a way that an optical-flow cue can measure.
        """
        moves = np.linalg.norm(true, axis=1) > MOVING_SPEED
        chosen = moves & supervised
        return cls(
            VelocityErrors.of(label[moves], true[moves], predicted[moves], classes),
            VelocityErrors.of(label[chosen], true[chosen], predicted[chosen], classes),
        )

    @classmethod
    def of_voxels(
        cls,
        true: Float[np.ndarray, "V 2"],
        predicted: Float[np.ndarray, "V 2"],
        found: Bool[np.ndarray, "V"],
        classes: int,
    ) -> "MotionScore":
        """How much of what moves is found, its direction errors, and false motion of what does not.

        Args:
            true, predicted: velocities (m/s, ego axes) of the voxels of one frame that are occupied in truth.
            found: those that are occupied in the prediction; velocities count there alone.
        """
        moves = np.linalg.norm(true, axis=1) > MOVING_SPEED
        moving, still = moves & found, ~moves & found
        return cls(
            VelocityErrors.none(classes),
            VelocityErrors.none(classes),
            Median(direction_error_deg(true[moving], predicted[moving]).astype(np.float32)),
            Mean.of(np.linalg.norm(predicted[still], axis=1) > MOVING_SPEED),
            Mean.of(found[moves]),
        )

    def __add__(self, other: "MotionScore") -> "MotionScore":
        return MotionScore(
            self.moving + other.moving,
            self.supervised + other.supervised,
            self.direction + other.direction,
            self.false_motion + other.false_motion,
            self.found + other.found,
        )

    def summary(self) -> dict[str, float]:
        """`mave`, `mave_supervised` (m/s), `direction_error_deg`, `false_motion`, `found` (shares); without those never seen."""
        values = {
            "mave": self.moving.mave(),
            "mave_supervised": self.supervised.mave(),
            "direction_error_deg": self.direction.value(),
            "false_motion": self.false_motion.value(),
            "found": self.found.value(),
        }
        return {k: v for k, v in values.items() if v is not None}


def direction_error_deg(true: Float[np.ndarray, "R 2"], predicted: Float[np.ndarray, "R 2"]) -> Float[np.ndarray, "R"]:
    """Angle between velocities in [0, 180] degrees; 90 where the prediction stands still (< 1 mm/s)."""
    cross = true[:, 0] * predicted[:, 1] - true[:, 1] * predicted[:, 0]
    angle = np.abs(np.degrees(np.arctan2(cross, (true * predicted).sum(1))))
    return np.where(np.linalg.norm(predicted, axis=1) < 1e-3, 90.0, angle)
