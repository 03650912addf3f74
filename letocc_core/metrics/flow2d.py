"""End-point error of the optical flow that depth and velocity imply."""

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float

from letocc_core.metrics.motion import Mean


@dataclass(frozen=True)
class FlowScore:
    """The `flow2d` group of the results format; add the scores of all frames."""

    every: Mean = field(default_factory=Mean)
    foreground: Mean = field(default_factory=Mean)

    @classmethod
    def of(
        cls,
        true: Float[np.ndarray, "*n 2"],
        predicted: Float[np.ndarray, "*n 2"],
        valid: Bool[np.ndarray, "*n"],
        foreground: Bool[np.ndarray, "*n"],
    ) -> "FlowScore":
        """Errors (px) at valid pixels whose true flow is known (finite), and at those of movable objects."""
        valid = valid & np.isfinite(true).all(-1) & np.isfinite(predicted).all(-1)
        error = np.linalg.norm(predicted - true, axis=-1)
        return cls(Mean.of(error[valid]), Mean.of(error[valid & foreground]))

    def __add__(self, other: "FlowScore") -> "FlowScore":
        return FlowScore(self.every + other.every, self.foreground + other.foreground)

    def summary(self) -> dict[str, float]:
        """`epe` and `epe_fg`, px; without those never seen."""
        values = {"epe": self.every.value(), "epe_fg": self.foreground.value()}
        return {k: v for k, v in values.items() if v is not None}
