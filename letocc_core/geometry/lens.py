"""Lenses: where each distortion model draws what, and what each of its pixels sees."""

import cv2
import numpy as np
from jaxtyping import Float

from letocc_core.geometry.calibration import Calibration


def project(points: Float[np.ndarray, "*n 3"], camera: Calibration) -> Float[np.ndarray, "*n 2"]:
    """Pixels of points (m, optical frame) in the raw image of a camera; NaN where it does not see them."""
    if camera.fisheye:
        return project_fisheye(points, camera.K, camera.D)
    ahead = points[..., 2] > 0.1
    safe = np.where(ahead[..., None], points, [0.0, 0, 1]).reshape(-1, 3)
    drawn = cv2.projectPoints(safe, np.zeros(3), np.zeros(3), camera.K, _coefficients(camera))[0]
    return np.where(ahead[..., None], drawn.reshape(*ahead.shape, 2), np.nan)


def directions(camera: Calibration) -> Float[np.ndarray, "h w 3"]:
    """Direction of each pixel of a camera's raw image, of length 1, in its optical frame; NaN beyond what a fisheye sees."""
    v, u = np.mgrid[: camera.height, : camera.width].astype(np.float64)
    pixels = np.stack([u, v], -1)
    if camera.fisheye:
        offset = (pixels - camera.K[:2, 2]) / [camera.K[0, 0], camera.K[1, 1]]
        radius = np.hypot(*np.moveaxis(offset, -1, 0))
        angles = np.linspace(0, np.pi, 4096)[:-1]  # straight back, a ray has no side on which it is drawn
        drawn = project_fisheye(np.stack([np.sin(angles), 0 * angles, np.cos(angles)], -1), np.eye(3), camera.D)[:, 0]
        known = np.isfinite(drawn)
        angle = np.interp(radius, drawn[known], angles[known], right=np.nan)
        across = np.sin(angle) / np.maximum(radius, 1e-12)
        return np.concatenate([offset * across[..., None], np.cos(angle)[..., None]], -1)
    straight = cv2.undistortPoints(pixels.reshape(-1, 1, 2), camera.K, _coefficients(camera)).reshape(pixels.shape)
    rays = np.concatenate([straight, np.ones_like(u)[..., None]], -1)
    return rays / np.linalg.norm(rays, axis=-1, keepdims=True)


def describe(camera: Calibration) -> str:
    """A lens in a few words."""
    if camera.fisheye:
        return f"fisheye ({camera.distortion_model}) of about {np.degrees(camera.width / camera.K[0, 0]):.0f} degrees"
    return camera.distortion_model if camera.D.any() else "no distortion"


def project_fisheye(
    points: Float[np.ndarray, "*n 3"], K: Float[np.ndarray, "3 3"], D: Float[np.ndarray, "_"]
) -> Float[np.ndarray, "*n 2"]:
    """Pixels of points in the optical frame of a fisheye camera, also of those beside and behind it.

    NaN for angles at which the distortion has turned around: no lens does that, so the calibration does not reach there.

    The equidistant model of `sensor_msgs/CameraInfo` and OpenCV: the angle a from the optical axis is drawn at the
    radius a (1 + D0 a^2 + D1 a^4 + D2 a^6 + D3 a^8), times the focal length.
    """
    x, y, z = np.moveaxis(np.asarray(points, np.float64), -1, 0)
    across = np.hypot(x, y)
    angle = np.arctan2(across, z)
    series = np.polynomial.Polynomial([0, 1, *(c for d in np.ravel(D) for c in (0, d))])
    turns = np.asarray(series.deriv().roots(), complex).tolist()
    reach = min((r.real for r in turns if abs(r.imag) < 1e-9 and r.real > 0), default=np.pi)
    radius = np.where(angle <= reach, series(angle), np.nan)
    scale = np.where(across > 0, radius / np.maximum(across, 1e-12), 1.0)
    return np.stack([K[0, 0] * x * scale + K[0, 2], K[1, 1] * y * scale + K[1, 2]], -1)


def _coefficients(camera: Calibration) -> np.ndarray:
    return np.asarray(camera.D, np.float64) if np.any(camera.D) else np.zeros(5)
