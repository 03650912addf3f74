"""Depth error metrics, in the order that monodepth2 fixed: mask, scale, clip, measure, mean over images."""

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float

from letocc_core.errors import DataError

METRICS = ("abs_rel", "sq_rel", "rmse", "rmse_log", "a1", "a2", "a3")


@dataclass(frozen=True)
class DepthRange:
    """What counts as a measurement, and how far predictions may go."""

    lower: float = 0.1  # m; truth at or below is ignored, predictions are raised to it
    upper: float = 80.0  # m; truth at or above is ignored, predictions are lowered to it


def depth_errors(
    true: Float[np.ndarray, "*n"],
    predicted: Float[np.ndarray, "*n"],
    valid: Bool[np.ndarray, "*n"] | None = None,
    limits: DepthRange = DepthRange(),
    median_scaling: bool = False,
) -> Float[np.ndarray, "7"] | None:
    """The seven metrics of one image, in the order of `METRICS`; None where no pixel has a true depth.

    `sq_rel` is in m, `rmse` in m, the rest without unit. a1, a2, a3: share of pixels with max ratio below 1.25^k.

    Args:
        true, predicted: m; true may hold 0, inf or NaN where there is no measurement.
        valid: more pixels to leave out.
        median_scaling: multiply the prediction by median(true) / median(predicted) of the valid pixels first.

    Raises:
        DataError: a prediction at a valid pixel is not finite.
    """
    mask = (true > limits.lower) & (true < limits.upper)
    if valid is not None:
        mask &= valid
    if not mask.any():
        return None
    t, p = true[mask].astype(np.float64), predicted[mask].astype(np.float64)
    if not np.isfinite(p).all():
        raise DataError(f"predicted depth is not finite at {np.count_nonzero(~np.isfinite(p))} of {len(p)} pixels")
    if median_scaling:
        p = p * (np.median(t) / np.median(p))
    p = np.clip(p, limits.lower, limits.upper)
    ratio = np.maximum(t / p, p / t)
    return np.array(
        [
            np.mean(np.abs(t - p) / t),
            np.mean((t - p) ** 2 / t),
            np.sqrt(np.mean((t - p) ** 2)),
            np.sqrt(np.mean((np.log(t) - np.log(p)) ** 2)),
            *(np.mean(ratio < 1.25**k) for k in (1, 2, 3)),
        ]
    )


@dataclass(frozen=True, eq=False)
class DepthScore:
    """Mean over images of the per-image metrics; add the scores of all frames."""

    errors: Float[np.ndarray, "7"] = field(default_factory=lambda: np.zeros(7))  # summed over images
    images: int = 0

    @classmethod
    def of_images(
        cls,
        true: Float[np.ndarray, "N *n"],
        predicted: Float[np.ndarray, "N *n"],
        valid: Bool[np.ndarray, "N *n"],
        limits: DepthRange = DepthRange(),
        median_scaling: bool = False,
    ) -> "DepthScore":
        """Score of N images; those without a valid pixel are left out."""
        images = zip(true, predicted, valid, strict=True)
        rows = [r for t, p, v in images if (r := depth_errors(t, p, v, limits, median_scaling)) is not None]
        return cls(np.sum(rows, axis=0), len(rows)) if rows else cls()

    def __add__(self, other: "DepthScore") -> "DepthScore":
        return DepthScore(self.errors + other.errors, self.images + other.images)

    def summary(self) -> dict[str, float]:
        """The seven metrics by name; nothing where no image counted."""
        if not self.images:
            return {}
        return dict(zip(METRICS, (self.errors / self.images).tolist(), strict=True))
