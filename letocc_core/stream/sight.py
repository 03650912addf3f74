"""What the cameras of a set look at, and what of it is hidden behind a surface of the answer."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from letocc_core.frame import Frame
from letocc_core.geometry import camera
from letocc_core.geometry.grid import GridSpec
from letocc_core.geometry.visibility import add_ends, add_seen


@dataclass(frozen=True, eq=False)
class View:
    """The part of the box that one camera looks at."""

    covered: Bool[np.ndarray, "X Y Z"]  # voxels whose centre projects into the image, on no masked pixel
    voxels: Int[np.ndarray, "n"]  # the same as flat indices
    eye: np.ndarray  # [3] m, ego axes


class Sight:
    """Which voxels the cameras of a set look at, and which of these are hidden. Views are kept by camera."""

    def __init__(self, grid: GridSpec):
        self.grid = grid
        self._views: dict[bytes, View] = {}

    def looked_at(
        self, frame: Frame, occupied: Bool[np.ndarray, "X Y Z"]
    ) -> tuple[Bool[np.ndarray, "X Y Z"], Bool[np.ndarray, "X Y Z"]]:
        """Voxels that some camera of the set (a batch of one frame) looks at, and those of them that none sees.

        Args:
            occupied: what hides, wherever it is.
        """
        views = self._of(frame)
        observed, seen = np.zeros(self.grid.shape, bool), np.zeros(self.grid.shape, bool)
        for view in views:
            observed |= view.covered
            add_seen(seen, occupied, self.grid, view.eye, view.voxels)
        return observed, observed & ~seen

    def ends(
        self, frame: Frame, probability: Float[np.ndarray, "X Y Z"], least: float, most: float
    ) -> Bool[np.ndarray, "X Y Z"]:
        """Voxels between two probabilities in which rays of a camera of the set most probably end (`add_ends`)."""
        ends = np.zeros(self.grid.shape, bool)
        between = ((probability > least) & (probability <= most)).reshape(-1)
        for view in self._of(frame):
            add_ends(ends, probability, least, most, self.grid, view.eye, view.voxels[between[view.voxels]])
        return ends

    def _of(self, frame: Frame) -> list[View]:
        """The views of the cameras that have an image; those of other cameras are forgotten."""
        found = {}
        for i in torch.nonzero(frame.camera_valid[0])[:, 0].tolist():
            K, T_ego_cam = frame.K[0, i].cpu(), frame.T_ego_cam[0, i].cpu()
            masked = None if frame.masked is None else frame.masked[0, i].cpu()
            key = K.numpy().tobytes() + T_ego_cam.numpy().tobytes()
            key += b"" if masked is None else np.packbits(masked.numpy()).tobytes()
            view = self._views.get(key)
            found[key] = self._view(K, T_ego_cam, masked, *frame.images.shape[-2:]) if view is None else view
        self._views = found
        return list(found.values())

    def _view(self, K: Tensor, T_ego_cam: Tensor, masked: Tensor | None, height: int, width: int) -> View:
        pixels, depth = camera.project_lattice(self.grid.axes(), K, T_ego_cam)
        shown = camera.in_image(pixels, depth, height, width)
        if masked is not None:
            pixels = pixels.nan_to_num(0.0).clamp(-1, max(height, width))
            shown &= ~camera.at_nearest(masked[None, None], pixels[None, None])[0, 0]
        covered = shown.numpy()
        return View(covered, np.flatnonzero(covered), T_ego_cam[:3, 3].double().numpy())
