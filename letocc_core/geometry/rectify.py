"""Raw camera images to the network's size: undistort, resize and crop, with one lookup table per camera."""

from collections import OrderedDict

import cv2
import numpy as np

from letocc_core.errors import CalibrationError
from letocc_core.geometry.calibration import Calibration, validate
from letocc_core.geometry.camera import covering_size, resize_and_crop, scale_intrinsics

CACHED = 64  # lookup tables that are kept


class Rectifier:
    """Raw images -> undistorted images of one size, with their intrinsics. Keeps the tables of the cameras it saw."""

    def __init__(self, height: int, width: int):
        self.height, self.width = height, width
        self._tables: OrderedDict[bytes, tuple[np.ndarray, np.ndarray, np.ndarray]] = OrderedDict()

    def __call__(self, image: np.ndarray, calibration: Calibration, source: str) -> tuple[np.ndarray, np.ndarray]:
        """The image [height, width, 3] as a pinhole camera would see it, and its intrinsics (3 x 3 float64, px).

        Without distortion this is `resize_and_crop`, and an image of the right size comes back as it is. Pixels that
        the raw image does not reach are black.

        Raises `CalibrationError`, headed by `source`, if the calibration is impossible or of another image size.
        """
        if image.shape[:2] != (calibration.height, calibration.width):
            raise CalibrationError(
                f"{source}: image of {image.shape[1]} x {image.shape[0]} px, but its calibration is of "
                f"{calibration.width} x {calibration.height} px; they must describe the same image"
            )
        if not calibration.D.any():
            validate(calibration, source)
            return resize_and_crop(image, calibration.K, self.height, self.width)
        x, y, K = self._table(calibration, source)
        shrunk = covering_size(calibration.height, calibration.width, self.height, self.width)
        if shrunk[0] < image.shape[0]:  # average first: a lookup that skips pixels would alias
            image = cv2.resize(image, shrunk[::-1], interpolation=cv2.INTER_AREA)
        return cv2.remap(image, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT), K.copy()

    def _table(self, calibration: Calibration, source: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Where each output pixel lies in the shrunk raw image (two maps for `cv2.remap`), and the output's K."""
        D = np.asarray(calibration.D, np.float64).ravel()
        head = f"{calibration.width} {calibration.height} {calibration.distortion_model} "
        key = head.encode() + np.asarray(calibration.K, np.float64).tobytes() + D.tobytes()
        if key in self._tables:
            self._tables.move_to_end(key)
            return self._tables[key]
        validate(calibration, source)
        h, w = calibration.height, calibration.width
        _, K_out = resize_and_crop(np.zeros((h, w), np.uint8), calibration.K, self.height, self.width)
        new_h, new_w = covering_size(h, w, self.height, self.width)
        shrinks = new_h < h
        K_in = scale_intrinsics(calibration.K, new_w / w, new_h / h) if shrinks else np.array(calibration.K, np.float64)
        fisheye = calibration.distortion_model == "equidistant"
        maps = cv2.fisheye.initUndistortRectifyMap if fisheye else cv2.initUndistortRectifyMap
        x, y = maps(K_in, D, np.eye(3), K_out, (self.width, self.height), cv2.CV_16SC2)
        self._tables[key] = (x, y, K_out)
        if len(self._tables) > CACHED:
            self._tables.popitem(last=False)
        return self._tables[key]
