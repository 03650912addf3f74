"""Scene flow of a camera as Let Occ Flow measures it on KITTI (Table 2, C.3): errors of disparity and of optical flow.

Disparity is that of a stereo camera of KITTI's baseline. An outlier is off by more than a number of pixels *and* by more
than a share of the truth, as in KITTI's benchmark: D1 by 4 px and 5 %, F1 by 8 px and 10 %; SF1 is an outlier by 8 px and
10 % in disparity or in flow. (The paper's sentence names the opposite, "smaller than"; these are what its released
evaluation counts.) Shares and errors are means over the pixels of an image, then over images.
"""

from dataclasses import dataclass, field, fields

import numpy as np
from jaxtyping import Bool, Float

from letocc_core.metrics.motion import Mean

BASELINE = 0.5327  # m between KITTI's two colour cameras
MAX_DEPTH = 51.2  # m, farther truth is left out: where the papers' box for KITTI ends
FINE = (4.0, 0.05)  # px, share: both must be exceeded
COARSE = (8.0, 0.10)
MOVES = 8.0  # px that the true flow is off from that of a still world, beyond which a pixel moves (eq. 10)


@dataclass(frozen=True)
class SceneFlowScore:
    """The `scene_flow` group of the results format; add the scores of all images."""

    de: Mean = field(default_factory=Mean)  # px
    epe: Mean = field(default_factory=Mean)  # px
    de_fg: Mean = field(default_factory=Mean)  # px, on objects that could move
    epe_fg: Mean = field(default_factory=Mean)  # px
    d1: Mean = field(default_factory=Mean)  # share of outliers
    f1: Mean = field(default_factory=Mean)
    sf1: Mean = field(default_factory=Mean)
    epe_moving: Mean = field(default_factory=Mean)  # px, where more moves than the camera
    epe_still: Mean = field(default_factory=Mean)  # px, elsewhere

    @classmethod
    def of_image(
        cls,
        true_depth: Float[np.ndarray, "M"],
        depth: Float[np.ndarray, "M"],
        true_flow: Float[np.ndarray, "M 2"],
        flow: Float[np.ndarray, "M 2"],
        foreground: Bool[np.ndarray, "M"] | None,
        still_flow: Float[np.ndarray, "M 2"],
        focal: float,
        baseline: float = BASELINE,
    ) -> "SceneFlowScore":
        """Score of M pixels of one image. A figure for which no pixel counts leaves this image out.

        Args:
            true_depth, depth: m along the optical axis; truth that is not finite, not positive or beyond `MAX_DEPTH` is
                left out.
            true_flow, flow: px to the next frame, at the image size that `focal` belongs to; truth is NaN where unknown.
                Flow counts only where depth does, as in the release.
            foreground: pixels of objects that could move; None where no mask is known: no figure for them.
            still_flow: px, that of the true depth if the world stands still; tells which pixels move.
            focal: px.
        """
        with np.errstate(invalid="ignore"):
            measured = np.isfinite(true_depth) & (true_depth > 0) & (true_depth < MAX_DEPTH)
        known = measured & np.isfinite(true_flow).all(-1)
        disparity = focal * baseline / np.where(measured, true_depth, 1.0)
        off = np.abs(focal * baseline / np.maximum(depth, 1e-3) - disparity)
        length = np.linalg.norm(true_flow, axis=-1)
        error = np.linalg.norm(flow - true_flow, axis=-1)
        objects = np.zeros_like(measured) if foreground is None else foreground
        with np.errstate(invalid="ignore"):
            moves = np.linalg.norm(true_flow - still_flow, axis=-1) > MOVES
        wrong = outliers(off, disparity, *COARSE), outliers(error, length, *COARSE)
        return cls(
            _mean(off, measured),
            _mean(error, known),
            _mean(off, measured & objects),
            _mean(error, known & objects),
            _mean(outliers(off, disparity, *FINE), measured),
            _mean(wrong[1], known),
            _mean(wrong[0] | wrong[1], known),
            _mean(error, known & moves),
            _mean(error, known & ~moves),
        )

    def __add__(self, other: "SceneFlowScore") -> "SceneFlowScore":
        return SceneFlowScore(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def summary(self) -> dict[str, float]:
        """`de`, `epe`, each also `_fg`, `epe_moving`, `epe_still` (px), `d1`, `f1`, `sf1` (shares); without those never seen."""
        values = {f.name: getattr(self, f.name).value() for f in fields(self)}
        return {k: v for k, v in values.items() if v is not None}


def outliers(
    error: Float[np.ndarray, "M"], truth: Float[np.ndarray, "M"], pixels: float, share: float
) -> Bool[np.ndarray, "M"]:
    """Errors (px) of more than `pixels` and more than `share` of the truth (px)."""
    with np.errstate(invalid="ignore"):
        return (error > pixels) & (error > share * truth)


def _mean(values: np.ndarray, counted: np.ndarray) -> Mean:
    """The mean of one image, as one entry of the mean over images."""
    return Mean(float(values[counted].mean()), 1) if counted.any() else Mean()
