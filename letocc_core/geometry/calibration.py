"""Intrinsics of a raw camera, as `sensor_msgs/CameraInfo` has them.

Distortion models: plumb_bob (4 or 5 coefficients), rational_polynomial (8, 12 or 14; with 4 or 5 it is plumb_bob),
equidistant (4, fisheye; without coefficients, an ideal fisheye). Drivers' other names for them are in `ALIASES`; coefficients
beyond those of a model are left off where they are zero.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from letocc_core.errors import CalibrationError
from letocc_core.geometry.camera import scale_intrinsics

COEFFICIENTS = {"plumb_bob": (4, 5), "rational_polynomial": (4, 5, 8, 12, 14), "equidistant": (4,)}
WIDE = {"equidistant"}  # models of fisheye and omnidirectional cameras
ALIASES = {
    "": "plumb_bob",
    "radtan": "plumb_bob",
    "fisheye": "equidistant",
    "kannala_brandt": "equidistant",
    "kannala_brandt4": "equidistant",
}
OFF_CENTRE = 0.25  # of the image's size: a principal point further from its middle is suspicious


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
        return self.distortion_model in WIDE

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
    D = np.array(message.d, np.float64)
    K, roi = np.reshape(np.array(message.k, np.float64), (3, 3)), message.roi
    if rectified and (
        np.any(message.p) or np.any(D)
    ):  # drivers of rectified cameras may leave P empty: then K is the same
        K = np.array(message.p, np.float64).reshape(3, 4)[:, :3]
    K[:2, 2] -= roi.x_offset, roi.y_offset
    bin_x, bin_y = max(message.binning_x, 1), max(message.binning_y, 1)
    K = scale_intrinsics(K, 1 / bin_x, 1 / bin_y)
    width, height = (roi.width or message.width) // bin_x, (roi.height or message.height) // bin_y
    if rectified:
        return Calibration(width, height, K)
    model = ALIASES.get(message.distortion_model.lower(), message.distortion_model)
    return Calibration(width, height, K, _without_zeros(D, COEFFICIENTS.get(model, ())), model)


def _without_zeros(D: np.ndarray, counts: tuple[int, ...]) -> np.ndarray:
    """D without the zeros that follow the coefficients of its model, of which there may be so many."""
    if len(D) in counts or not D.any():
        return D
    fitting = [n for n in counts if n < len(D) and not D[n:].any()]
    return D[: max(fitting)] if fitting else D


def off_centre(calibration: Calibration) -> str | None:
    """A sentence if the principal point lies far off the middle of the image, as if it were of an image of another size."""
    x, y = calibration.K[0, 2] + 0.5, calibration.K[1, 2] + 0.5
    if abs(x / calibration.width - 0.5) <= OFF_CENTRE and abs(y / calibration.height - 0.5) <= OFF_CENTRE:
        return None
    return (
        f"the principal point ({x:.0f}, {y:.0f}) px lies far off the middle of the image of {calibration.width} x "
        f"{calibration.height} px: is K of an image of another size, or is binning or the region of interest missing?"
    )


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
        hint = ""
        if calibration.distortion_model == "plumb_bob" and D.size in COEFFICIENTS["rational_polynomial"]:
            hint = (
                "; so many that are not zero are those of 'rational_polynomial': correct distortion_model in the driver"
            )
        raise CalibrationError(
            f"{source}: {D.size} distortion coefficients for '{calibration.distortion_model}', expected {expected}{hint}"
        )
