"""Messages to frame sets: what a set waits for, what is left out and why, and that nothing is lost without a word."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from letocc_core.errors import CalibrationError, DataError, PoseError
from letocc_core.stream.assembler import AssemblerConfig, FrameAssembler
from letocc_core.stream.synchronizer import Dropped
from letocc_core.stream.types import Calibration, FrameSet

MS = 1_000_000
K = np.array([[8.0, 0, 7.5], [0, 8, 3.5], [0, 0, 1]])
CALIBRATION = Calibration(16, 8, K)


def shift(x: float) -> np.ndarray:
    T = np.eye(4)
    T[0, 3] = x
    return T


def picture(value: int = 0) -> np.ndarray:
    return np.full((8, 16, 3), value, np.uint8)


def assembler(cameras="ab", calibrated="ab", mounted="ab", moving=True, **options) -> FrameAssembler:
    """With calibrations, camera mounts, and an ego vehicle at 10 m/s from 0 to 2 s."""
    out = FrameAssembler(AssemblerConfig(tuple(cameras), **options))
    for camera in calibrated:
        out.add_calibration(camera, CALIBRATION, f"{camera}_optical")
    for i, camera in enumerate(mounted):
        out.add_transform("base_link", f"{camera}_optical", 0, shift(i + 1), static=True)
    for t in range(0, 2001, 50) if moving else ():
        out.add_transform("odom", "base_link", t * MS, shift(t / 100))
    return out


def feed(assembler: FrameAssembler, *images) -> list:
    out = []
    for camera, stamp in images:
        assembler.add_image(camera, stamp * MS, picture(stamp % 256))
        out += assembler.poll()
    return out


def test_a_set_has_images_calibrations_and_poses():
    (item,) = feed(assembler(), ("b", 100), ("a", 100))
    assert isinstance(item, FrameSet)
    assert item.stamp_ns == 100 * MS
    assert [image[0, 0, 0] for image in item.images] == [100, 100]
    assert item.calibrations == (CALIBRATION, CALIBRATION)
    np.testing.assert_array_equal(item.T_ego_cam, [shift(1), shift(2)])
    np.testing.assert_allclose(item.T_world_ego, shift(1))


def test_an_image_with_a_stamp_of_its_own_is_placed_where_the_vehicle_was_then():
    (item,) = feed(assembler(), ("a", 100), ("b", 115))
    assert item.stamp_ns == 100 * MS
    np.testing.assert_allclose(item.T_ego_cam[1], shift(2 + 0.15))  # 15 ms at 10 m/s ahead


def test_a_set_arrives_with_its_first_image():
    a = assembler("abc", "abc", "abc")
    for camera, arrived in (("b", 7.5), ("a", 7.25), ("c", 9.0)):
        a.add_image(camera, 100 * MS, picture(), arrived)
    assert [item.arrived for item in a.poll()] == [7.25]
    (recorded,) = feed(a, ("a", 200), ("b", 200), ("c", 200))
    assert recorded.arrived is None


def test_a_set_waits_for_the_pose_that_comes_later():
    a = assembler(moving=False)
    a.add_transform("odom", "base_link", 0, shift(0))
    assert feed(a, ("a", 100), ("b", 100)) == []
    assert a.pending_images == 2
    a.add_transform("odom", "base_link", 200 * MS, shift(3))
    (item,) = a.poll()
    np.testing.assert_allclose(item.T_world_ego, shift(1.5))


def test_after_the_wait_a_pose_is_extrapolated_or_the_set_is_dropped():
    a = assembler()
    decided = feed(a, ("a", 2040), ("b", 2040), ("a", 2150), ("b", 2150), ("a", 2400), ("b", 2400))
    first, second = decided
    np.testing.assert_allclose(first.T_world_ego, shift(20.4))
    assert (second.reason, second.camera, second.images) == ("no_pose", None, 2)
    assert "'base_link' to 'odom'" in second.detail
    assert [d.reason for d in a.flush()] == ["no_pose"]
    assert a.dropped_sets == {"no_pose": 2}


def test_the_pose_may_come_from_odometry():
    a = assembler(moving=False)
    a.add_odometry("odom", "base_link", 0, shift(0))
    a.add_odometry("odom", "", 200 * MS, shift(3))
    (item,) = feed(a, ("a", 100), ("b", 100))
    np.testing.assert_allclose(item.T_world_ego, shift(1.5))


def test_odometry_of_another_frame_of_the_vehicle():
    a = assembler(moving=False)
    with pytest.raises(PoseError, match="no transform from 'base_link' to 'imu'"):
        a.add_odometry("odom", "imu", 0, shift(0))
    a.add_transform("base_link", "imu", 0, shift(0.5), static=True)
    for t in (0, 200):
        a.add_odometry("odom", "imu", t * MS, shift(t / 100))
    (item,) = feed(a, ("a", 100), ("b", 100))
    np.testing.assert_allclose(item.T_world_ego, shift(0.5))  # the IMU is at 1 m, half a metre ahead


def test_a_camera_on_a_moving_mount_is_placed_at_the_stamp_of_its_image():
    a = assembler(mounted="a")
    for t in (0, 100):
        a.add_transform("base_link", "b_optical", t * MS, shift(t / 50))
    (item,) = feed(a, ("a", 50), ("b", 50))
    np.testing.assert_allclose(item.T_ego_cam[1], shift(1))


def test_a_camera_without_camera_info_is_left_out_after_the_wait_and_says_so():
    a = assembler(calibrated="a")
    decided = feed(a, ("a", 100), ("b", 100))
    assert decided == []
    dropped, item = feed(a, ("a", 300))
    assert (dropped.reason, dropped.camera) == ("no_camera_info", "b")
    assert "b: images come but no camera_info" in dropped.detail
    assert item.images[1] is None and item.calibrations[1] is None
    np.testing.assert_array_equal(item.T_ego_cam[1], np.eye(4))


def test_a_calibration_that_comes_in_time_is_used():
    a = assembler(calibrated="a")
    assert feed(a, ("a", 100), ("b", 100)) == []
    a.add_calibration("b", CALIBRATION, "b_optical")
    (item,) = a.poll()
    assert item.images[1] is not None


def test_a_camera_without_transform_is_named_with_its_frames():
    a = assembler(mounted="a")
    feed(a, ("a", 100), ("b", 100))
    dropped, item = feed(a, ("a", 300))
    assert (dropped.reason, dropped.camera) == ("no_transform", "b")
    assert "'b_optical' to 'base_link'" in dropped.detail
    assert item.images[1] is None


def test_with_all_required_or_none_left_the_set_is_dropped():
    strict = assembler(calibrated="a", require_all=True)
    (dropped,) = feed(strict, ("a", 100), ("b", 100), ("a", 300))
    assert (dropped.reason, dropped.camera, dropped.images) == ("no_camera_info", None, 2)
    alone = assembler("a", calibrated="", mounted="a")
    (dropped,) = feed(alone, ("a", 100), ("a", 300))
    assert (dropped.reason, dropped.camera, dropped.images) == ("no_camera_info", None, 1)


def test_an_image_of_another_size_than_its_calibration_is_left_out():
    a = assembler()
    a.add_image("b", 100 * MS, np.zeros((4, 4, 3), np.uint8))
    decided = feed(a, ("a", 100), ("a", 300))
    assert decided[0].reason == "bad_camera_info"
    assert "image of 4 x 4 px, but camera_info is of 16 x 8 px" in decided[0].detail


def test_a_bag_that_loops_gives_the_same_sets_again():
    a = assembler("a", "a", "a", moving=False)

    def run():
        out = []
        for t in range(0, 3000, 100):
            a.add_transform("odom", "base_link", t * MS, shift(t))
            out += feed(a, ("a", t))
        return [(s.stamp_ns, s.T_world_ego[0, 3]) for s in out if isinstance(s, FrameSet)]

    first, second = run(), run()
    assert len(first) == 30
    assert second == first


def test_wrong_input_is_refused():
    a = assembler()
    with pytest.raises(DataError, match="expected uint8"):
        a.add_image("a", 0, np.zeros((8, 16), np.uint8))
    with pytest.raises(DataError, match="camera 'z', expected one of a, b"):
        a.add_calibration("z", CALIBRATION, "z")
    with pytest.raises(CalibrationError, match="camera_info of a: focal lengths are 0 and 0"):
        a.add_calibration("a", Calibration(16, 8, np.zeros((3, 3))), "a")
    with pytest.raises(PoseError, match="loop"):
        a.add_transform("a_optical", "odom", 0, np.eye(4))


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32))
def test_every_image_ends_in_a_set_or_dropped_or_waits(seed):
    """A random mixture of images, calibrations and transforms, in any order, some never coming."""
    rng = random.Random(seed)
    events = [("image", rng.choice("abc"), rng.randrange(0, 1500, 25)) for _ in range(40)]
    events += [("info", c, 0) for c in "abc" if rng.random() < 0.8]
    events += [("mount", c, 0) for c in "abc" if rng.random() < 0.8]
    events += [("pose", "", t) for t in range(0, 1500, 50) if rng.random() < 0.8]
    rng.shuffle(events)
    a = assembler("abc", "", "", moving=False, slop=0.03, require_all=rng.random() < 0.3)
    decided = []
    for kind, camera, t in events:
        if kind == "image":
            a.add_image(camera, t * MS, picture())
        elif kind == "info":
            a.add_calibration(camera, CALIBRATION, f"{camera}_optical")
        elif kind == "mount":
            a.add_transform("base_link", f"{camera}_optical", 0, np.eye(4), static=True)
        else:
            a.add_transform("odom", "base_link", t * MS, shift(t))
        decided += a.poll()
        count = sum(d.images if isinstance(d, Dropped) else sum(i is not None for i in d.images) for d in decided)
        assert a.received_images == count + a.pending_images
    decided += a.flush()
    assert a.pending_images == 0
    assert a.emitted == sum(isinstance(d, FrameSet) for d in decided)
    assert sum(a.dropped_sets.values()) == sum(isinstance(d, Dropped) and d.camera is None for d in decided)
