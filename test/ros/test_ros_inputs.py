"""What the node listens to, message by message: cameras of different kinds, poses from /tf or odometry. Nothing is sent."""

import re
from collections.abc import Callable
from types import SimpleNamespace
from unittest.mock import MagicMock

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed; source scripts/env.sh")
pytest.importorskip("letocc_ros.msg", reason="the ROS package is not built; source scripts/env.sh")

from nav_msgs.msg import Odometry
from rclpy.clock import Clock
from ros_rig import CALIBRATION, CAMERAS, T_EGO_CAM, picture, pose, stamp
from sensor_msgs.msg import Image
from tf2_msgs.msg import TFMessage

from letocc_core.data.bags.writer import optical_frame
from letocc_core.frame import InputConfig
from letocc_core.stream.preprocess import rectify
from letocc_core.stream.types import Calibration, FrameSet
from letocc_ros import conversions
from letocc_ros.health import Health
from letocc_ros.inputs import Inputs, info_topics
from letocc_ros.parameters import NodeParameters


class Robot:
    """Stands in for the node: subscriptions are callbacks, and `say` calls them."""

    def __init__(self, **parameters):
        self.callbacks: dict[str, Callable] = {}
        self.waiting: dict[str, list] = {}  # messages that have come and that no callback was given yet
        self.said: list[str] = []
        self.sets: list[FrameSet] = []
        parameters = NodeParameters(**{"cameras": CAMERAS, "transport": "raw"} | parameters)
        self.health = Health("node", self.said.append)
        self.arrived: list[float] = []  # s, when the first image of each set came
        self.inputs = Inputs(self, parameters, self.health, self.take)
        self.health.clear(self.inputs.image_topics)

    def take(self, frames: FrameSet) -> None:
        self.sets.append(frames)
        self.arrived.append(frames.arrived)

    def resolve_topic_name(self, topic: str) -> str:
        return topic if topic.startswith("/") else f"/{topic}"

    def create_subscription(self, kind: type, topic: str, callback: Callable, qos, **options) -> SimpleNamespace:
        topic = self.resolve_topic_name(topic)
        self.callbacks[topic], queue = callback, self.waiting.setdefault(topic, [])
        handle = MagicMock()
        handle.take_message = lambda kind, raw: (queue.pop(0), {}) if queue else None
        return SimpleNamespace(topic=topic, callback=callback, handle=handle, msg_type=kind, raw=False)

    def destroy_subscription(self, subscription: SimpleNamespace) -> None:
        del self.callbacks[subscription.topic]

    def get_clock(self) -> Clock:
        return Clock()

    def say(self, topic: str, message: object) -> None:
        self.callbacks[topic](message)

    def mount(self, cameras: tuple[str, ...] = CAMERAS, at: int | None = None) -> None:
        """Where the cameras are on the robot; fixed, or at the stamp of a set."""
        transforms = [
            conversions.matrix_to_transform(T_EGO_CAM[c], stamp(at or 0), "base_link", optical_frame(c))
            for c in cameras
        ]
        self.say("/tf_static" if at is None else "/tf", TFMessage(transforms=transforms))

    def drive(self, index: int) -> None:
        self.say(
            "/tf",
            TFMessage(transforms=[conversions.matrix_to_transform(pose(index), stamp(index), "odom", "base_link")]),
        )

    def calibrate(self, calibration: Calibration = CALIBRATION, cameras: tuple[str, ...] = CAMERAS) -> None:
        for camera in cameras:
            info = conversions.calibration_to_camera_info(calibration, stamp(0), optical_frame(camera))
            self.say(f"/{camera}/camera_info", info)

    def see(self, index: int, cameras: tuple[str, ...] = CAMERAS) -> None:
        for camera in cameras:
            message = conversions.rgb_to_image(picture(camera, index), stamp(index), optical_frame(camera))
            self.say(f"/{camera}/image_raw", message)


def test_a_set_of_raw_images():
    robot = Robot()
    robot.mount()
    robot.calibrate()
    robot.drive(1)
    robot.see(1)
    (frames,) = robot.sets
    assert frames.stamp_ns == stamp(1)
    np.testing.assert_array_equal(frames.images[1], picture(CAMERAS[1], 1))
    np.testing.assert_allclose(frames.T_world_ego, pose(1))
    robot.inputs.destroy()
    assert not robot.callbacks
    assert not robot.said


def test_poses_that_have_come_are_taken_in_before_an_image():
    """Images of sets 1 and 2 were lost on the way, their poses wait."""
    robot = Robot()
    robot.mount()
    robot.calibrate()
    for index in range(5):
        T = conversions.matrix_to_transform(pose(index), stamp(index), "odom", "base_link")
        robot.waiting["/tf"].append(TFMessage(transforms=[T]))
        if index in (0, 3, 4):
            robot.see(index)
    assert [frames.stamp_ns for frames in robot.sets] == [stamp(i) for i in (0, 3, 4)]
    assert not robot.said


def test_latencies_are_of_this_round_of_a_bag_that_loops(monkeypatch: pytest.MonkeyPatch):
    """Also of images that came into no set the round before."""
    now = [100.0]
    monkeypatch.setattr("letocc_ros.inputs.time", SimpleNamespace(monotonic=lambda: now[0]))
    robot = Robot(max_wait=0.05)
    robot.mount()
    robot.calibrate()
    for begun in (100.0, 200.0, 300.0):
        for index in range(1, 11):  # 2 s
            now[0] = begun + index
            robot.drive(index)
            robot.see(index, CAMERAS if index < 10 else CAMERAS[:1])  # the last set waits for its other camera
    assert robot.arrived[-9:] == [300.0 + index for index in range(1, 10)]
    assert [frames.stamp_ns for frames in robot.sets[-9:]] == [stamp(index) for index in range(1, 10)]


def test_the_pose_comes_from_odometry():
    robot = Robot(odometry_topic="/odometry/filtered")
    robot.mount()
    robot.calibrate()
    for index in (0, 2):
        message = Odometry(child_frame_id="base_link")
        message.header.frame_id, message.header.stamp = "odom", conversions.from_ns(stamp(index))
        message.pose.pose.position.x = float(pose(index)[0, 3])
        message.pose.pose.orientation.w = 1.0
        robot.say("/odometry/filtered", message)
    robot.see(1)
    np.testing.assert_allclose(robot.sets[0].T_world_ego, pose(1))  # interpolated
    message.pose.pose.orientation.w = 0.0
    robot.say("/odometry/filtered", message)
    assert "length 0" in robot.said[-1]  # a quaternion of zeros is no rotation


def test_a_camera_on_a_mount_that_moves():
    robot = Robot()
    robot.mount(CAMERAS[:1])
    robot.calibrate()
    for index in (0, 2):
        robot.mount(CAMERAS[1:], at=index)
        robot.drive(index)
    robot.see(1)
    np.testing.assert_allclose(robot.sets[0].T_ego_cam[1], T_EGO_CAM[CAMERAS[1]], atol=1e-12)


def test_cameras_of_different_kinds_and_sizes_enter_the_network_alike():
    """One grey and 16 bits deep and twice as large, one distorted."""
    first, second = CAMERAS
    robot = Robot()
    robot.mount()
    K = CALIBRATION.K * [[2], [2], [1]]
    robot.calibrate(Calibration(112, 64, K), (first,))
    robot.calibrate(Calibration(56, 32, CALIBRATION.K, np.array([-0.2, 0.05, 0, 0, 0])), (second,))
    robot.drive(1)
    deep = cv2.resize(picture(first, 1)[..., 0], (112, 64)).astype(np.uint16) << 8
    message = Image(encoding="mono16", height=64, width=112, step=224, data=deep.view(np.uint8).ravel().tolist())
    message.header.stamp, message.header.frame_id = conversions.from_ns(stamp(1)), optical_frame(first)
    robot.say(f"/{first}/image_raw", message)
    robot.see(1, (second,))
    rectified = rectify(robot.sets[0], InputConfig(image_size=(32, 56)))
    assert [image.shape for image in rectified.images] == [(32, 56, 3)] * 2
    assert np.ptp(rectified.images[0].astype(int), axis=-1).max() == 0  # grey
    assert not robot.said


def test_rectified_images_have_the_intrinsics_of_the_rectified_image():
    robot = Robot(image_topic="image_rect", cameras=CAMERAS[:1])
    robot.mount()
    info = conversions.calibration_to_camera_info(CALIBRATION, stamp(0), optical_frame(CAMERAS[0]))
    info.d, info.p[0], info.p[5] = [-0.3, 0.1, 0.0, 0.0, 0.0], 30.0, 30.0
    robot.say(f"/{CAMERAS[0]}/camera_info", info)
    robot.drive(1)
    message = conversions.rgb_to_image(picture(CAMERAS[0], 1), stamp(1), optical_frame(CAMERAS[0]))
    robot.say(f"/{CAMERAS[0]}/image_rect", message)
    (calibration,) = robot.sets[0].calibrations
    assert (calibration.K[0, 0], calibration.D.size) == (30.0, 0)


def test_a_camera_that_stays_away_is_replaced_by_its_mask():
    second = CAMERAS[1]
    robot = Robot(camera_timeout=0.5)  # 2.5 sets
    robot.mount()
    robot.calibrate()
    for index in range(8):
        robot.drive(index)
        robot.see(index, CAMERAS if index < 2 else (second,))
    masked = [frames for frames in robot.sets if frames.images[0] is None]
    assert [frames.stamp_ns for frames in masked] == [stamp(i) for i in (3, 4, 5, 6, 7)]
    robot.drive(8)
    robot.see(8)
    assert all(image is not None for image in robot.sets[-1].images)


def test_cameras_of_different_rates_are_no_problem():
    second = CAMERAS[1]
    robot = Robot()
    robot.mount()
    robot.calibrate()
    for index in range(10):
        robot.drive(index)
        robot.see(index, CAMERAS if index % 2 == 0 else (second,))
    assert len(robot.sets) == 5
    assert not robot.said
    values = {pair.key: pair.value for pair in robot.health.statuses("active")[0].values}
    assert int(values["dropped: unmatched"]) >= 4


def test_publishers_whose_messages_never_come_are_named_with_the_parameter():
    """Over DDS: a volatile /tf_static, a best-effort /tf, images that only exist raw; a good publisher is not named."""
    import rclpy
    import ros_rig as rig
    from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
    from sensor_msgs.msg import CompressedImage, Image
    from tf2_msgs.msg import TFMessage

    rig.isolate_ros()
    context = rclpy.Context()
    rclpy.init(context=context)
    try:
        node, driver = (rclpy.create_node(name, context=context) for name in ("listener", "driver"))
        volatile = QoSProfile(depth=1, durability=DurabilityPolicy.VOLATILE)
        best_effort = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
        kept = [
            driver.create_publisher(TFMessage, "/tf_static", volatile),
            driver.create_publisher(TFMessage, "/tf", best_effort),
            driver.create_publisher(Image, "/left/image_raw", best_effort),
            driver.create_publisher(CompressedImage, "/right/image_raw/compressed", best_effort),
        ]
        parameters = NodeParameters(cameras=("left", "right"), image_reliability="reliable")
        inputs = Inputs(node, parameters, Health("node", print), lambda frames: None)
        found = rig.until(lambda: len(m := inputs.mismatches()) == 4 and m, rig.DEADLINE, "four mismatches")
        static, moving = found["qos", "/tf_static"], found["qos", "/tf"]
        assert "from driver on /tf_static: its durability is volatile, this node asks for transient_local" in static
        assert "'qos_overrides./tf_static.subscription.durability' to volatile" in static
        assert "its reliability is best_effort" in moving and "'qos_overrides./tf.subscription.reliability'" in moving
        raw = found["transport", "/left/image_raw/compressed"]
        assert "but /left/image_raw is published" in raw and "transport:=raw" in raw
        assert "'image_reliability' to best_effort" in found["qos", "/right/image_raw/compressed"]
        inputs.destroy()
        assert len(kept) == 4
    finally:
        rclpy.shutdown(context=context)


def test_a_camera_info_that_was_sent_once_before_is_named_and_comes_with_the_parameters_that_are_named():
    import rclpy
    import ros_rig as rig
    from rclpy.executors import SingleThreadedExecutor
    from rclpy.parameter import Parameter
    from rclpy.qos import DurabilityPolicy, QoSProfile
    from sensor_msgs.msg import CameraInfo

    rig.isolate_ros()
    camera, topic = CAMERAS[0], f"/{CAMERAS[0]}/camera_info"
    context = rclpy.Context()
    rclpy.init(context=context)
    executor = SingleThreadedExecutor(context=context)
    try:
        driver = rclpy.create_node("driver", context=context)
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        publisher = driver.create_publisher(CameraInfo, topic, latched)
        publisher.publish(conversions.calibration_to_camera_info(CALIBRATION, stamp(0), optical_frame(camera)))

        def listener(name: str, overrides: list[Parameter]) -> Inputs:
            node = rclpy.create_node(name, context=context, parameter_overrides=overrides)
            executor.add_node(node)
            return Inputs(node, NodeParameters(cameras=(camera,)), Health(name, print), lambda frames: None)

        inputs = listener("deaf", [])
        text = rig.until(lambda: inputs.mismatches().get(("qos", topic)), rig.DEADLINE, "a mismatch")
        named = dict(re.findall(r"'(qos_overrides\S+)' to (\w+)", text))
        assert len(named) == 2 and "nothing came from driver" in text
        inputs.destroy()
        inputs = listener("hearing", [Parameter(name, value=value) for name, value in named.items()])
        rig.until(
            lambda: executor.spin_once(timeout_sec=0.05) or camera in inputs._assembler._calibrations,
            rig.DEADLINE,
            "the camera_info of before",
        )
        assert not inputs.mismatches()
        inputs.destroy()
    finally:
        executor.shutdown()
        rclpy.shutdown(context=context)


def test_a_camera_info_of_its_own_counts_whatever_comes_first():
    robot = Robot(image_topic="image_rect", cameras=CAMERAS[:1])
    topics = [topic for topic in robot.callbacks if "camera_info" in topic]
    assert topics == [f"/{CAMERAS[0]}/camera_info_rect", f"/{CAMERAS[0]}/camera_info"]
    assert info_topics("a/b", "image_raw") == ["a/b/camera_info_raw", "a/b/camera_info"]
    assert info_topics("a", "left/image_rect_color")[-2:] == ["a/left/camera_info", "a/camera_info"]
    for topics_in_order in (topics, topics[::-1]):
        robot = Robot(image_topic="image_rect", cameras=CAMERAS[:1])
        for topic in topics_in_order:
            scale = 2.0 if topic.endswith("rect") else 1.0
            info = conversions.calibration_to_camera_info(CALIBRATION, 1, f"{CAMERAS[0]}_optical")
            info.p = [scale * value for value in info.p[:10]] + list(info.p[10:])
            robot.say(topic, info)
        (found, _) = robot.inputs._assembler._calibrations[CAMERAS[0]]
        assert found.K[0, 0] == 2 * CALIBRATION.K[0, 0]
