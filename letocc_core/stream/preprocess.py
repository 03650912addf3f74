"""A set of raw images -> the `Frame` that the network takes, the same in training, replay and the live node."""

import numpy as np
import torch

from letocc_core.errors import DataError
from letocc_core.frame import Frame, InputConfig
from letocc_core.geometry.rectify import Rectifier
from letocc_core.stream.types import FrameSet


def to_frame(frames: FrameSet, input: InputConfig, rectifier: Rectifier | None = None) -> Frame:
    """Undistort, resize and crop every image; cameras without an image become zeros with `camera_valid` False.

    Args:
        rectifier: of `input.image_size`, kept from call to call so that its lookup tables are made once.

    Raises:
        CalibrationError: a calibration that is impossible or of another image size than its image.
        DataError: the set has no image at all, or poses that are not finite.
    """
    count = len(frames.images)
    height, width = input.image_size
    rectifier = rectifier or Rectifier(height, width)
    if all(image is None for image in frames.images):
        raise DataError(f"frame set at {frames.stamp_ns} ns: none of its {count} cameras has an image")
    if not (np.isfinite(frames.T_ego_cam).all() and np.isfinite(frames.T_world_ego).all()):
        raise DataError(f"frame set at {frames.stamp_ns} ns: a pose holds numbers that are not finite")
    images = np.zeros((count, height, width, 3), np.uint8)
    K = np.tile(np.eye(3), (count, 1, 1))
    for i, (image, calibration) in enumerate(zip(frames.images, frames.calibrations, strict=True)):
        if image is not None:
            images[i], K[i] = rectifier(image, calibration, f"camera {i} at {frames.stamp_ns} ns")
    return Frame(
        stamp=torch.tensor(frames.stamp_ns, dtype=torch.int64),
        images=torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255,
        camera_valid=torch.tensor([image is not None for image in frames.images]),
        K=torch.from_numpy(K).float(),
        T_ego_cam=torch.from_numpy(np.asarray(frames.T_ego_cam, np.float64)).float(),
        T_world_ego=torch.from_numpy(np.array(frames.T_world_ego, np.float64)),
    )
