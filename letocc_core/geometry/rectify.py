"""Raw camera images to pinhole images of the network's size: undistort, resize and crop, with one lookup table a camera."""

import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from letocc_core.errors import CalibrationError
from letocc_core.geometry.calibration import Calibration, validate
from letocc_core.geometry.camera import (
    covering_size,
    fitted_intrinsics,
    pinhole_intrinsics,
    resize_and_crop,
    scale_intrinsics,
)
from letocc_core.geometry.lens import project

CACHED = 64  # cameras whose lookup tables are kept


@dataclass(frozen=True, eq=False)
class View:
    """A pinhole image made of a raw one."""

    image: np.ndarray  # [height, width, 3]
    K: np.ndarray  # [3, 3] float64 px
    T_cam_view: (
        np.ndarray
    )  # [4, 4], from this view's optical frame to the raw camera's; identity unless it is a fisheye


@dataclass(frozen=True, eq=False)
class _Table:
    """How one view is looked up in the raw image, shrunk to `shrunk` (height, width)."""

    shrunk: tuple[int, int]
    x: np.ndarray
    y: np.ndarray
    K: np.ndarray
    T_cam_view: np.ndarray


class Rectifier:
    """Raw images -> pinhole images of one size, with their intrinsics. Keeps the tables of the cameras it saw.

    Args:
        height, width: px, of the pinhole images.
        fisheye_views: degrees left of a fisheye camera's axis, in which it looks down: one image each.
        fisheye_fov: degrees that each of those sees horizontally, less than 180.
    """

    def __init__(self, height: int, width: int, fisheye_views: Sequence[float] = (0.0,), fisheye_fov: float = 90.0):
        self.height, self.width = height, width
        self.fisheye_views, self.fisheye_fov = tuple(fisheye_views), fisheye_fov
        self._tables: OrderedDict[bytes, list[_Table]] = OrderedDict()

    def count(self, calibration: Calibration | None) -> int:
        """How many images are made of one of this camera's."""
        return len(self.fisheye_views) if calibration is not None and calibration.fisheye else 1

    def __call__(self, image: np.ndarray, calibration: Calibration, source: str) -> list[View]:
        """The image as pinhole cameras of the size height x width would have seen it: one, or `fisheye_views`.

        Without distortion this is `resize_and_crop`, and an image of the right size comes back as it is. Pixels that
        the raw image does not reach are black.

        Raises `CalibrationError`, headed by `source`, if the calibration is impossible or of another image size.
        """
        if image.shape[:2] != (calibration.height, calibration.width):
            raise CalibrationError(
                f"{source}: image of {image.shape[1]} x {image.shape[0]} px, but its calibration is of "
                f"{calibration.width} x {calibration.height} px; they must describe the same image"
            )
        if not calibration.distorted:
            validate(calibration, source)
            return [View(*resize_and_crop(image, calibration.K, self.height, self.width), np.eye(4))]
        return [_look_up(image, table) for table in self._tables_of(calibration, source)]

    def _tables_of(self, calibration: Calibration, source: str) -> list[_Table]:
        D = np.asarray(calibration.D, np.float64).ravel()
        head = f"{calibration.width} {calibration.height} {calibration.distortion_model} "
        key = head.encode() + np.asarray(calibration.K, np.float64).tobytes() + D.tobytes()
        if key not in self._tables:
            validate(calibration, source)
            if calibration.fisheye:
                self._tables[key] = [self._fisheye_table(calibration, degrees) for degrees in self.fisheye_views]
            else:
                self._tables[key] = [self._undistortion_table(calibration, D)]
        self._tables.move_to_end(key)
        if len(self._tables) > CACHED:
            self._tables.popitem(last=False)
        return self._tables[key]

    def _undistortion_table(self, calibration: Calibration, D: np.ndarray) -> _Table:
        """The view keeps the camera's focal length, as `resize_and_crop` changes it."""
        h, w = calibration.height, calibration.width
        K = fitted_intrinsics(calibration.K, h, w, self.height, self.width)
        shrunk = _at_most((h, w), covering_size(h, w, self.height, self.width))
        K_in = scale_intrinsics(calibration.K, shrunk[1] / w, shrunk[0] / h)
        x, y = cv2.initUndistortRectifyMap(K_in, D, np.eye(3), K, (self.width, self.height), cv2.CV_16SC2)
        return _Table(shrunk, x, y, K, np.eye(4))

    def _fisheye_table(self, calibration: Calibration, degrees: float) -> _Table:
        """The view turns about the camera's vertical axis."""
        K = pinhole_intrinsics(self.height, self.width, self.fisheye_fov)
        T_cam_view = np.eye(4)
        T_cam_view[:3, :3] = cv2.Rodrigues(np.array([0.0, -math.radians(degrees), 0.0]))[0]
        h, w = calibration.height, calibration.width
        scale = min(K[0, 0] / min(calibration.K[0, 0], calibration.K[1, 1]), 1)  # both are px a radian, on the axis
        shrunk = max(1, round(h * scale)), max(1, round(w * scale))
        K_in = scale_intrinsics(calibration.K, shrunk[1] / w, shrunk[0] / h)
        v, u = np.mgrid[: self.height, : self.width].astype(np.float64)
        rays = np.stack([u, v, np.ones_like(u)], -1) @ (T_cam_view[:3, :3] @ np.linalg.inv(K)).T
        pixels = np.nan_to_num(project(rays, replace(calibration, K=K_in)), nan=-1e4)  # outside of the image
        u, v = np.moveaxis(pixels.astype(np.float32), -1, 0)
        x, y = cv2.convertMaps(u, v, cv2.CV_16SC2)
        return _Table(shrunk, x, y, K, T_cam_view)


def _at_most(size: tuple[int, int], wanted: tuple[int, int]) -> tuple[int, int]:
    """The size to shrink an image to before a lookup, which would alias if it skipped pixels; never larger than it is."""
    return wanted if wanted[0] < size[0] else size


def _look_up(image: np.ndarray, table: _Table) -> View:
    if table.shrunk != image.shape[:2]:
        image = cv2.resize(image, table.shrunk[::-1], interpolation=cv2.INTER_AREA)
    image = cv2.remap(image, table.x, table.y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
    return View(image, table.K.copy(), table.T_cam_view.copy())
