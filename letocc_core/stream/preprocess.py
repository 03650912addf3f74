"""A set of raw images -> the `Frame` that the network takes, the same in training, replay and the live node."""

from dataclasses import replace

import numpy as np
import torch

from letocc_core.errors import DataError
from letocc_core.frame import Frame, InputConfig
from letocc_core.geometry.rectify import Rectifier
from letocc_core.stream.types import Calibration, FrameSet


def rectifier_of(input: InputConfig) -> Rectifier:
    """Makes images as `input` wants them."""
    return Rectifier(*input.image_size, input.fisheye_views, input.fisheye_fov)


def to_frame(frames: FrameSet, input: InputConfig, rectifier: Rectifier | None = None) -> Frame:
    """`rectify`, then `to_tensors`; raises what `rectify` does."""
    return to_tensors(rectify(frames, input, rectifier))


def rectify(frames: FrameSet, input: InputConfig, rectifier: Rectifier | None = None) -> FrameSet:
    """Undistort, resize and crop every image: the same set as pinhole cameras of `input.image_size` would have seen it.

    A fisheye camera becomes as many cameras as `input.fisheye_views` says, one after the other. A set that has been
    rectified comes back as it is.

    Args:
        rectifier: `rectifier_of(input)`, kept from call to call so that its lookup tables are made once.

    Raises:
        CalibrationError: a calibration that is impossible or of another image size than its image.
        DataError: the set has no image at all, or poses that are not finite.
    """
    height, width = input.image_size
    rectifier = rectifier or rectifier_of(input)
    if all(image is None for image in frames.images):
        raise DataError(f"frame set at {frames.stamp_ns} ns: none of its {len(frames.images)} cameras has an image")
    if not (np.isfinite(frames.T_ego_cam).all() and np.isfinite(frames.T_world_ego).all()):
        raise DataError(f"frame set at {frames.stamp_ns} ns: a pose holds numbers that are not finite")
    images: list[np.ndarray | None] = []
    calibrations: list[Calibration | None] = []
    poses: list[np.ndarray] = []
    masks: list[np.ndarray | None] = []
    for i, image in enumerate(frames.images):
        if image is None:
            count = rectifier.count(frames.calibrations[i])
            images += [None] * count
            calibrations += [None] * count
            poses += [np.eye(4)] * count
            masks += [None] * count
            continue
        views = rectifier(image, frames.calibration(i), f"camera {i} at {frames.stamp_ns} ns")
        masked = _masked_views(frames, i, rectifier)
        masks += [*masked] if masked else [None] * len(views)
        for number, view in enumerate(views):
            image = np.where(masked[number][..., None], np.uint8(0), view.image) if masked else view.image
            images.append(np.ascontiguousarray(image))
            calibrations.append(Calibration(width, height, view.K))
            poses.append(frames.T_ego_cam[i] @ view.T_cam_view)
    return replace(
        frames,
        images=tuple(images),
        calibrations=tuple(calibrations),
        T_ego_cam=np.stack(poses),
        masks=tuple(masks) if any(mask is not None for mask in frames.masks) else (),
    )


def _masked_views(frames: FrameSet, i: int, rectifier: Rectifier) -> list[np.ndarray]:
    """Of the views of camera i, the pixels that its mask touches; empty where it has none."""
    mask = frames.masks[i] if frames.masks else None
    if mask is None:
        return []
    picture = np.repeat(mask.astype(np.uint8)[..., None] * 255, 3, axis=2)
    what = f"mask of the vehicle's body in camera {i}"
    return [view.image[..., 0] > 0 for view in rectifier(picture, frames.calibration(i), what)]


def to_tensors(rectified: FrameSet) -> Frame:
    """The network's input; cameras without an image become zeros with `camera_valid` False."""
    shape = next(image.shape for image in rectified.images if image is not None)
    images = np.stack([np.zeros(shape, np.uint8) if image is None else image for image in rectified.images])
    masked = None
    if rectified.masks:
        masked = torch.from_numpy(np.stack([np.zeros(shape[:2], bool) if m is None else m for m in rectified.masks]))
    K = np.stack([np.eye(3) if calibration is None else calibration.K for calibration in rectified.calibrations])
    return Frame(
        stamp=torch.tensor(rectified.stamp_ns, dtype=torch.int64),
        images=torch.from_numpy(images).permute(0, 3, 1, 2).float().div_(255),
        camera_valid=torch.tensor([image is not None for image in rectified.images]),
        K=torch.from_numpy(K).float(),
        T_ego_cam=torch.from_numpy(np.asarray(rectified.T_ego_cam, np.float64)).float(),
        T_world_ego=torch.from_numpy(np.array(rectified.T_world_ego, np.float64)),
        masked=masked,
        own=masked,
    )
