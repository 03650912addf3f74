"""Depth as a picture, for watching a training run."""

from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import UInt8

from letocc_core.frame import Frame
from letocc_core.geometry.grid import GridSpec
from letocc_core.viz import colours

if TYPE_CHECKING:
    from letocc_core.rendering.render import SceneFields


@runtime_checkable
class Objective(Protocol):
    """What of a training objective says how to render."""

    @property
    def samples(self) -> int:
        """Points along a ray."""

    def beta(self, progress: float) -> float:
        """Width of a surface (m) at this share of the training."""


@torch.no_grad()
def depth_strip(
    fields: "SceneFields", grid: GridSpec, frame: Frame, objective: Objective, progress: float, stride: int = 2
) -> UInt8[np.ndarray, "h w 3"]:
    """Images of the first sample of a batch, side by side, above the depth rendered from its fields.

    Args:
        fields: of the batch, as `LetOccFlow` gives them.
        progress: share of the training stage that is done; the depth is rendered as sharp as it is trained then.
        stride: px between the rays.
    """
    from letocc_core.rendering.rays import pixel_rays
    from letocc_core.rendering.render import render

    rays = pixel_rays(frame, grid, stride)
    seen = render(fields, grid, rays, objective.samples, objective.beta(progress))
    depth = seen.depth.where(rays.valid & (seen.opacity > 0.5), torch.nan)[0].cpu().numpy()
    rgb = (frame.images[0] * 255).byte().permute(0, 2, 3, 1).cpu().numpy()
    rows, columns = (n * stride for n in depth.shape[1:])
    painted = colours.depth_colours(depth).repeat(stride, axis=1).repeat(stride, axis=2)
    return np.concatenate([np.concatenate(list(p), axis=1) for p in (rgb[:, :rows, :columns], painted)], axis=0)
