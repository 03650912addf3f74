"""Intrinsics of a raw camera, as `sensor_msgs/CameraInfo` has them.

Distortion models: plumb_bob (4 or 5 coefficients), rational_polynomial (8, 12 or 14), equidistant (4, fisheye; without
coefficients, an ideal fisheye).
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from letocc_core.errors import CalibrationError
from letocc_core.geometry.camera import scale_intrinsics

COEFFICIENTS = {"plumb_bob": (4, 5), "rational_polynomial": (8, 12, 14), "equidistant": (4,)}


@dataclass(frozen=True, eq=False)
class Calibration:
    """One camera. Equal if every number is."""

    width: int  # px
    height: int  # px
    K: np.ndarray  # [3, 3] px, of the raw image
    D: np.ndarray = field(default_factory=lambda: np.zeros(0))  # distortion coefficients, of `distortion_model`
    distortion_model: str = "plumb_bob"  # plumb_bob, rational_polynomial or equidistant

    @property
    def fisheye(self) -> bool:
        """Sees what no single pinhole image can hold; its images become views (`InputConfig.fisheye_views`)."""
        return self.distortion_model == "equidistant"

    @property
    def distorted(self) -> bool:
        """Its images are not those of a pinhole camera."""
        return self.fisheye or bool(np.any(self.D))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Calibration) and (
            (self.width, self.height, self.distortion_model) == (other.width, other.height, other.distortion_model)
            and np.array_equal(self.K, other.K)
            and np.array_equal(self.D, other.D)
        )


def from_camera_info(message: Any, rectified: bool = False) -> Calibration:
    """Intrinsics of the image that a `sensor_msgs/CameraInfo` comes with, of rclpy or of rosbags; `validate` checks them.

    The message describes the whole sensor: its region of interest and binning, where set, are applied.

    Args:
        rectified: the image is rectified already: P holds its intrinsics, and there is no distortion.
    """
    full = np.array(message.p, np.float64).reshape(3, 4)[:, :3] if rectified else np.reshape(message.k, (3, 3))
    K, roi = np.array(full, np.float64), message.roi
    K[:2, 2] -= roi.x_offset, roi.y_offset
    bin_x, bin_y = max(message.binning_x, 1), max(message.binning_y, 1)
    K = scale_intrinsics(K, 1 / bin_x, 1 / bin_y)
    width, height = (roi.width or message.width) // bin_x, (roi.height or message.height) // bin_y
    if rectified:
        return Calibration(width, height, K)
    return Calibration(width, height, K, np.array(message.d, np.float64), message.distortion_model or "plumb_bob")


def validate(calibration: Calibration, source: str) -> None:
    """Raise `CalibrationError`, headed by `source` (a topic or file), if no camera can have this calibration."""
    K, D = np.asarray(calibration.K), np.asarray(calibration.D)
    if calibration.width < 1 or calibration.height < 1:
        raise CalibrationError(
            f"{source}: size is {calibration.width} x {calibration.height} px, expected 1 x 1 or more"
        )
    if K.shape != (3, 3) or not np.isfinite(K).all():
        raise CalibrationError(f"{source}: K is {K.tolist()}, expected 3 x 3 finite numbers")
    if K[0, 0] <= 0 or K[1, 1] <= 0:
        raise CalibrationError(
            f"{source}: focal lengths are {K[0, 0]:g} and {K[1, 1]:g} px, expected positive ones; a driver without a "
            "calibration publishes zeros: calibrate the camera"
        )
    if calibration.distortion_model not in COEFFICIENTS and D.any():
        raise CalibrationError(
            f"{source}: distortion_model is '{calibration.distortion_model}', expected one of {', '.join(COEFFICIENTS)}"
        )
    if not np.isfinite(D).all():
        raise CalibrationError(f"{source}: D is {D.tolist()}, expected finite numbers")
    if D.any() and D.size not in COEFFICIENTS[calibration.distortion_model]:
        expected = " or ".join(map(str, COEFFICIENTS[calibration.distortion_model]))
        raise CalibrationError(
            f"{source}: {D.size} distortion coefficients for '{calibration.distortion_model}', expected {expected}"
        )
