"""What an evaluation measures, and where."""

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

from letocc_core.metrics.depth import DepthRange


@dataclass(frozen=True)
class EvaluationConfig:
    """What is measured, and where."""

    interval: float = 0.2  # s between the image sets of a simulated street
    seconds: float = 4.0  # s of each simulated street
    depth_stride: int = 4  # px between the pixels whose depth is compared
    depth_limits: DepthRange = field(default_factory=DepthRange)
    samples: int = 192  # points along a ray when depth is read or rendered
    beta: float = 0.05  # m, sharpness of a surface when depth is rendered
    training_streets: int = 40  # streets of which the mean_occupancy baseline is the mean

    def times(self) -> Float[np.ndarray, "n"]:
        """Of the image sets of a simulated street (s)."""
        return np.arange(round(self.seconds / self.interval) + 1) * self.interval
