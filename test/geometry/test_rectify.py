"""Undistortion against OpenCV's own point functions, and what a calibration may not be."""

import cv2
import numpy as np
import pytest

from letocc_core.errors import CalibrationError
from letocc_core.geometry import lens
from letocc_core.geometry.calibration import Calibration, validate
from letocc_core.geometry.camera import pinhole_intrinsics, resize_and_crop
from letocc_core.geometry.lens import project_fisheye
from letocc_core.geometry.rectify import Rectifier

K = np.array([[300.0, 0, 199.5], [0, 300, 149.5], [0, 0, 1]])
DISTORTIONS = {
    "plumb_bob": np.array([-0.25, 0.06, 0.001, -0.002, 0.01]),
    "rational_polynomial": np.array([0.1, -0.2, 0.001, 0.0005, 0.02, 0.4, -0.1, 0.03]),
    "equidistant": np.array([0.05, -0.01, 0.004, -0.001]),
}


def blobs(points: np.ndarray, height: int, width: int, sigma: float) -> np.ndarray:
    """An image with a soft white spot at each of some pixels."""
    v, u = np.mgrid[:height, :width]
    image = sum(np.exp(-((u - x) ** 2 + (v - y) ** 2) / (2 * sigma**2)) for x, y in points)
    return np.repeat((255 * np.clip(image, 0, 1)).astype(np.uint8)[..., None], 3, axis=2)


def centroid(image: np.ndarray, near: np.ndarray, radius: int) -> np.ndarray:
    x, y = np.round(near).astype(int)
    patch = image[y - radius : y + radius + 1, x - radius : x + radius + 1, 0].astype(float)
    v, u = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    return np.array([x + (patch * u).sum() / patch.sum(), y + (patch * v).sum() / patch.sum()])


@pytest.mark.parametrize("size", [(300, 400), (150, 200), (120, 200)], ids=["same size", "half", "half, cropped"])
@pytest.mark.parametrize("model", DISTORTIONS)
def test_points_land_where_a_pinhole_camera_sees_them(model, size):
    D = DISTORTIONS[model]
    rays = np.array([[[x, y, 1.0]] for x in (-0.4, -0.1, 0.3) for y in (-0.1, 0.2)])
    if model == "equidistant":
        raw, _ = cv2.fisheye.distortPoints(rays[:, :, :2].copy(), K, D), None
    else:
        raw, _ = cv2.projectPoints(rays, np.zeros(3), np.zeros(3), K, D)
    image = blobs(raw[:, 0], 300, 400, sigma=3)
    [view] = Rectifier(*size, fisheye_fov=80)(image, Calibration(400, 300, K, D, model), "test")
    assert view.image.shape == (*size, 3) and np.array_equal(view.T_cam_view, np.eye(4))
    K_out = pinhole_intrinsics(*size, 80) if model == "equidistant" else resize_and_crop(image, K, *size)[1]
    np.testing.assert_allclose(view.K, K_out)
    expected = (rays[:, 0] @ K_out.T)[:, :2]
    for pixel in expected:
        np.testing.assert_allclose(centroid(view.image, pixel, round(9 * size[1] / 400)), pixel, atol=0.25)


def test_views_of_a_fisheye_camera_look_where_they_should():
    """Spots in directions up to 95 degrees off the axis, left ones in the left view, each where its pinhole draws it."""
    D = np.array([0.02, -0.003, 0.0, 0.0])
    camera = Calibration(400, 300, np.array([[108.0, 0, 199.5], [0, 108, 149.5], [0, 0, 1]]), D, "equidistant")
    azimuth = np.radians([-95, -60, -20, 20, 60, 95])  # left is negative x
    rays = np.stack([np.sin(azimuth), np.full(6, 0.1), np.cos(azimuth)], -1)
    image = blobs(project_fisheye(rays, camera.K, D), 300, 400, sigma=2)
    views = Rectifier(150, 260, fisheye_views=(55, -55), fisheye_fov=95)(image, camera, "test")
    for view, chosen in zip(views, (rays[:3], rays[3:]), strict=True):
        local = chosen @ view.T_cam_view[:3, :3]
        pixels = (local / local[:, 2:]) @ view.K.T
        for pixel in pixels[:, :2]:
            np.testing.assert_allclose(centroid(view.image, pixel, 9), pixel, atol=0.6)
    assert views[0].T_cam_view[0, 2] < 0  # the first one looks to the left


def test_fisheye_projection_is_opencvs_in_front_and_goes_on_behind():
    D = DISTORTIONS["equidistant"]
    rays = np.random.default_rng(0).uniform(-1.5, 1.5, (50, 3)) * [1, 1, 0] + [0, 0, 1]
    expected = cv2.fisheye.distortPoints(rays[:, None, :2].copy(), K, D)[:, 0]
    np.testing.assert_allclose(project_fisheye(rays, K, D), expected, atol=1e-9)
    beside, behind = project_fisheye(np.array([[1.0, 0, 0], [1.0, 0, -1]]), K, np.zeros(4))
    np.testing.assert_allclose(beside, [300 * np.pi / 2 + 199.5, 149.5])
    np.testing.assert_allclose(behind, [300 * np.pi * 3 / 4 + 199.5, 149.5])
    assert np.array_equal(project_fisheye(np.array([[0.0, 0, 2]]), K, D), [[199.5, 149.5]])


def test_a_fisheye_calibration_ends_where_its_series_turns_around():
    """a - a^3 / 3 grows until 1 radian."""
    pixels = project_fisheye(np.array([[np.tan(0.99), 0, 1], [np.tan(1.01), 0, 1]]), K, np.array([-1 / 3, 0, 0, 0]))
    assert np.isfinite(pixels[0]).all() and np.isnan(pixels[1]).all()


def test_a_fisheye_without_coefficients_is_a_fisheye():
    image = np.full((300, 400, 3), 200, np.uint8)
    [view] = Rectifier(120, 160, fisheye_fov=170)(image, Calibration(400, 300, K, np.zeros(0), "equidistant"), "test")
    assert (view.image[0, 0] == 0).all() and (view.image[60, 80] == 200).all()  # the corner is out of its sight


def test_without_distortion_an_image_of_the_right_size_is_unchanged():
    image = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    [view] = Rectifier(48, 64)(image, Calibration(64, 48, K, np.zeros(5), "plumb_bob"), "test")
    np.testing.assert_array_equal(view.image, image)
    np.testing.assert_array_equal(view.K, K)


def test_tables_are_made_once_a_camera():
    rectify = Rectifier(48, 64)
    image = np.zeros((60, 80, 3), np.uint8)
    for _ in range(3):
        for model, D in DISTORTIONS.items():
            rectify(image, Calibration(80, 60, K, D, model), "test")
    assert len(rectify._tables) == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"K": np.zeros((3, 3))}, "focal lengths are 0 and 0 px, expected positive"),
        ({"K": np.full((3, 3), np.nan)}, "expected 3 x 3 finite"),
        ({"width": 0}, "size is 0 x 48 px"),
        ({"D": np.array([0.1, 0.2])}, "2 distortion coefficients for 'plumb_bob', expected 4 or 5"),
        ({"D": np.full(5, np.inf)}, "expected finite numbers"),
        ({"D": np.ones(4), "distortion_model": "omni"}, "'omni', expected one of plumb_bob, rational_polynomial"),
    ],
)
def test_impossible_calibrations_are_refused(change, message):
    values = {"width": 64, "height": 48, "K": K} | change
    with pytest.raises(CalibrationError, match=f"^/front/camera_info: .*{message}"):
        validate(Calibration(**values), "/front/camera_info")


def test_an_image_of_another_size_is_refused():
    with pytest.raises(CalibrationError, match="image of 10 x 20 px, but its calibration is of 64 x 48 px"):
        Rectifier(48, 64)(np.zeros((20, 10, 3), np.uint8), Calibration(64, 48, K), "front")


@pytest.mark.parametrize(
    ("D", "model"),
    [
        ([], "plumb_bob"),
        ([-0.2, 0.05, 0.001, 0, 0], "plumb_bob"),
        ([0.0] * 4, "equidistant"),
        ([-0.02, 0.01, 0, 0], "equidistant"),
    ],
)
def test_rays_of_pixels_meet_them_again(D, model):
    camera = Calibration(160, 96, pinhole_intrinsics(96, 160, 90.0), np.array(D, float), model)
    rays = lens.directions(camera)
    pixels = lens.project(3.0 * rays, camera)
    v, u = np.mgrid[:96, :160]
    assert np.abs(pixels - np.stack([u, v], -1)).max() < 0.05
    np.testing.assert_allclose(np.linalg.norm(rays, axis=-1), 1, atol=1e-6)
