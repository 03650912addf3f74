"""A sample and its answer, ready for a picture."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from letocc_core.data.truth import FREE, Truth
from letocc_core.evaluation.depth import depth_images
from letocc_core.evaluation.samples import Sample
from letocc_core.geometry.grid import GridSpec
from letocc_core.metrics.frame_score import DepthTruth
from letocc_core.stream.types import FrameSet, OccFlow
from letocc_core.viz.viewers.scene import Scene

if TYPE_CHECKING:
    from letocc_core.viz.overview import Moment


def moment_of(sample: Sample, output: OccFlow, cameras: Sequence[str], depth: bool = True) -> "Moment":
    """A sample and its output as a `viz.overview.Moment`, ready for a picture.

    Args:
        cameras: names, in the order of the sample's images.
        depth: render depth from the output; without it the picture has no depth rows (faster).
    """
    from letocc_core.viz.overview import Moment, left_to_right

    truth, frame_set, grid = sample.truth, sample.frame_set, output.grid
    known: dict[str, Any] = {}
    if truth is not None:
        known = {
            "true_occupied": truth.occupancy != FREE,
            "true_velocity": truth.velocity,
            "true_seen": truth.visible,
        }
    elif sample.lidar is not None:
        known["true_occupied"] = grid.holding(sample.lidar)
    if depth:
        known["depth"] = depth_images(output.probability, grid, frame_set)
        if truth is not None:
            known["true_depth"] = _true_depth_images(truth, frame_set, grid)
    return Moment(output, frame_set.images, cameras, order=left_to_right(frame_set.T_ego_cam), **known)


def scene_of(
    sample: Sample,
    output: OccFlow,
    cameras: Sequence[str],
    figures: Mapping[str, float] | None = None,
    dropped: Mapping[str, int] | None = None,
) -> Scene:
    """A sample and its output, ready for a viewer.

    Args:
        cameras: names, in the order of the sample's images.
        figures: scores of this set, by name.
        dropped: what was dropped until now, by reason.
    """
    truth, frame_set, true = sample.truth, sample.frame_set, None
    if truth is not None:
        occupied = (truth.occupancy != FREE).astype(np.float32)
        true = replace(output, probability=occupied, velocity=truth.velocity, observed=truth.visible, threshold=0.5)
    return Scene(
        output, frame_set.T_world_ego, frame_set, tuple(cameras), sample.lidar, true, figures or {}, dict(dropped or {})
    )


def _true_depth_images(truth: Truth, frame_set: FrameSet, grid: GridSpec) -> list[Float[np.ndarray, "h w"] | None]:
    """True depth (m) of each camera where the point seen lies in the box; NaN elsewhere."""
    out: list[np.ndarray | None] = []
    for i, image in enumerate(frame_set.images):
        if image is None:
            out.append(None)
            continue
        v, u = np.indices(truth.depth[i].shape)
        pixels = np.stack([u, v], axis=-1).reshape(1, -1, 2).astype(np.float64)
        depth = np.where(np.isfinite(truth.depth[i]), truth.depth[i], np.nan).reshape(1, -1)
        target = DepthTruth(frame_set.calibration(i).K[None], frame_set.T_ego_cam[i][None], pixels, depth)
        out.append(np.where(target.inside(grid), depth, np.nan).reshape(truth.depth[i].shape))
    return out
