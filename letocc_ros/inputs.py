"""What the node listens to while it is active: messages go to the assembler, complete sets come back."""

import copy
import time
import traceback
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

from geometry_msgs.msg import TransformStamped
from nav_msgs.msg import Odometry
from rclpy.node import Node
from rclpy.qos import (
    DurabilityPolicy,
    QoSCompatibility,
    QoSProfile,
    ReliabilityPolicy,
    qos_check_compatible,
    qos_profile_sensor_data,
)
from rclpy.subscription import Subscription
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from tf2_msgs.msg import TFMessage

from letocc_core.errors import DataError, LetOccError
from letocc_core.geometry.body_masks import Masks
from letocc_core.geometry.calibration import from_camera_info
from letocc_core.stream.assembler import FrameAssembler
from letocc_core.stream.images import BitDepth
from letocc_core.stream.synchronizer import Dropped
from letocc_core.stream.topics import info_names, require_stamp
from letocc_core.stream.types import FrameSet
from letocc_ros import conversions
from letocc_ros.health import Health
from letocc_ros.parameters import NodeParameters
from letocc_ros.session import overridable, pending


@dataclass(frozen=True, eq=False)
class Listener:
    """What is done with the messages of one topic."""

    topic: str  # as resolved
    handle: Callable  # called with `about`, the topic and the message
    about: object


class Inputs:
    """The subscriptions of an active node. What cannot be used is counted and named in `health`.

    Args:
        masks: of the vehicle's own body, by camera.
        submit: called with each set.

    Attributes:
        image_topics: of each camera, as resolved.
    """

    def __init__(
        self,
        node: Node,
        parameters: NodeParameters,
        health: Health,
        submit: Callable[[FrameSet], None],
        masks: Masks | None = None,
    ):
        self._node, self._health, self._submit = node, health, submit
        self._max_lead = parameters.max_clock_lead
        self._assembler = FrameAssembler(parameters.assembler, masks)
        self._subscriptions: list[Subscription] = []
        self._poses: list[tuple[Subscription, Listener]] = []  # those of them that say where things are
        self._info_topics: dict[str, str] = {}
        self._infos: dict[str, str] = {}  # camera of each topic of a camera_info
        self._info_ranks: dict[str, int] = {}  # by camera, of the best camera_info that came: `info_topics`
        self._depths: defaultdict[str, BitDepth] = defaultdict(BitDepth)  # by image topic
        self._said: dict[str, str] = {}  # about them
        self.image_topics: dict[str, str] = {}
        self._rectified = parameters.rectified
        try:
            self._listen_to_poses(parameters)
            self._listen_to_cameras(parameters)
        except BaseException:  # such as an override of the quality of service that is none
            self.destroy()
            raise

    def destroy(self) -> None:
        """Listen no more."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self._subscriptions, self._poses = [], []

    def _listen_to_cameras(self, p: NodeParameters) -> None:
        images = QoSProfile(depth=5, reliability=ReliabilityPolicy[p.image_reliability.upper()])
        kind = CompressedImage if p.transport == "compressed" else Image
        for camera in p.cameras:
            topic = p.images_of(camera)
            self.image_topics[camera] = self._listen(kind, topic, images, self._on_image, camera)[1].topic
            for rank, topic in enumerate(info_topics(camera, p.image_topic)):  # the last one is for all images
                self._info_topics[camera] = self._listen(
                    CameraInfo, topic, qos_profile_sensor_data, self._on_camera_info, (camera, rank)
                )[1].topic
                self._infos[self._info_topics[camera]] = camera

    def _listen_to_poses(self, p: NodeParameters) -> None:
        static = QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self._poses.append(self._listen(TFMessage, "/tf", QoSProfile(depth=100), self._on_transforms, False))
        self._poses.append(self._listen(TFMessage, "/tf_static", static, self._on_transforms, True))
        if p.odometry_topic:
            fast = QoSProfile(depth=100, reliability=ReliabilityPolicy.BEST_EFFORT)
            self._poses.append(self._listen(Odometry, p.odometry_topic, fast, self._on_odometry, None))

    def mismatches(self) -> dict[tuple[str, ...], str]:
        """Sentences about publishers whose messages never come, and the parameter that mends it; by topic.

        A quality of service that does not go with what this node asks for, images that come by another transport, or a
        camera_info that was sent once, before this node listened.
        """
        found: dict[tuple[str, ...], str] = {}
        for subscription in self._subscriptions:
            topic = subscription.topic_name
            publishers = self._node.get_publishers_info_by_topic(topic)
            for publisher in publishers:
                text = mismatch(topic, publisher.node_name, publisher.qos_profile, subscription.qos_profile)
                if text is None and self._infos.get(topic, "") not in ("", *self._info_ranks):
                    text = kept(topic, publisher.node_name, publisher.qos_profile, subscription.qos_profile)
                if text is not None:
                    found["qos", topic] = text
            if topic in self.image_topics.values() and not publishers:
                found |= self._other_transport(topic)
        return found

    def _other_transport(self, topic: str) -> dict[tuple[str, ...], str]:
        raw = topic.removesuffix("/compressed")
        other, name = (raw, "raw") if raw != topic else (f"{topic}/compressed", "compressed")
        if not self._node.count_publishers(other):
            return {}
        return {
            ("transport", topic): f"nobody publishes {topic}, but {other} is published: set parameter 'transport' to "
            f"{name} (transport:={name})"
        }

    def _listen(
        self, kind: type, topic: str, qos: QoSProfile, handle: Callable, about: object
    ) -> tuple[Subscription, Listener]:
        """Subscribe `handle(about, resolved topic, message)`."""
        resolved, own = self._node.resolve_topic_name(topic), copy.copy(qos)  # rclpy writes what overrides it into it
        listener = Listener(resolved, handle, about)
        subscription = self._node.create_subscription(
            kind,
            topic,
            lambda message: self._take_in(listener, message),
            own,
            qos_overriding_options=overridable(self._node, own, f"{resolved}.subscription"),
        )
        self._subscriptions.append(subscription)
        return subscription, listener

    def _take_in(self, listener: Listener, message: object) -> None:
        """Give a message to the assembler, see what that decides, and hand it on: once a call of the executor."""
        if listener.handle == self._on_image:
            self._read_poses()
        self._read(listener, message)
        for item in self._assembler.poll():
            if isinstance(item, Dropped):
                self._report(item)
            else:
                self._submit(item)

    def _read(self, listener: Listener, message: object) -> None:
        """Give a message to the assembler; a bad one is counted and named."""
        self._health.arrived(listener.topic)
        try:
            listener.handle(listener.about, listener.topic, message)
        except LetOccError as error:
            self._refuse(listener.topic, error)
        except Exception as error:  # a message that nobody thought of must not end the node
            self._node.get_logger().error(traceback.format_exc(), throttle_duration_sec=10.0)
            self._refuse(listener.topic, DataError(f"{listener.topic}: {type(error).__name__}: {error}"))

    def _read_poses(self) -> None:
        """All poses that have come. The executor takes one message of each topic in turn. Under load, images would
        overtake the poses, because the oldest images are lost."""
        for subscription, listener in self._poses:
            for message in pending(subscription):
                self._read(listener, message)

    def _on_image(self, camera: str, topic: str, message: Image | CompressedImage) -> None:
        arrived = time.monotonic()
        stamp_ns = require_stamp(conversions.to_ns(message.header.stamp), topic)
        self._check_clock(stamp_ns, topic)
        image = conversions.image_to_rgb(message, topic, self._depths[topic])
        self._say_depth(topic)
        self._assembler.add_image(camera, stamp_ns, image, arrived)

    def _say_depth(self, topic: str) -> None:
        """How many of 16 bits the images are taken to use, whenever that changes."""
        remark = str(self._depths[topic])
        if remark != self._said.get(topic, ""):
            self._said[topic] = remark
            self._node.get_logger().info(f"{topic}: {remark or '16-bit images that use all bits'}")

    def _on_camera_info(self, about: tuple[str, int], topic: str, message: CameraInfo) -> None:
        camera, rank = about
        if rank > self._info_ranks.get(camera, rank):
            return  # the images have a camera_info of their own
        self._info_ranks[camera] = rank
        calibration = from_camera_info(message, self._rectified)
        self._assembler.add_calibration(camera, calibration, message.header.frame_id)

    def _on_transforms(self, static: bool, topic: str, message: TFMessage) -> None:
        for item in message.transforms:
            try:
                self._take_transform(topic, item, static)
            except LetOccError as error:  # the others of the message are good all the same
                self._refuse(topic, error)

    def _take_transform(self, topic: str, item: TransformStamped, static: bool) -> None:
        parent, child = item.header.frame_id, item.child_frame_id
        stamp_ns = conversions.to_ns(item.header.stamp)
        source = f"{topic}: transform from '{child}' to '{parent}'"
        if not static:
            require_stamp(stamp_ns, source)
        try:
            T = conversions.transform_to_matrix(item)
        except DataError as error:
            raise DataError(f"{source}: {error}") from error
        self._assembler.add_transform(parent, child, stamp_ns, T, static)

    def _check_clock(self, stamp_ns: int, topic: str) -> None:
        """Images of the future would hold up, or push out, all others."""
        now_ns = self._node.get_clock().now().nanoseconds
        lead = (stamp_ns - now_ns) * 1e-9
        if now_ns and lead > self._max_lead:  # 0: simulated time has not begun
            raise DataError(
                f"{topic}: stamped {lead:.1f} s ahead of this node's clock, expected at most {self._max_lead:g} s "
                "(parameter 'max_clock_lead'); synchronise the clocks of the computers"
            )

    def _refuse(self, topic: str, error: LetOccError) -> None:
        images = int(topic in self.image_topics.values())
        self._health.drop("unusable message", (topic,), str(error), images)

    def _on_odometry(self, _: None, topic: str, message: Odometry) -> None:
        stamp_ns = require_stamp(conversions.to_ns(message.header.stamp), topic)
        try:
            T = conversions.pose_to_matrix(message.pose.pose)
        except DataError as error:
            raise DataError(f"{topic} at {stamp_ns} ns: {error}") from error
        self._assembler.add_odometry(message.header.frame_id, message.child_frame_id, stamp_ns, T)

    def _report(self, item: Dropped) -> None:
        if item.reason == "unmatched":
            self._health.drop_unmatched(item.camera, item.detail)
            return
        text = item.detail
        if item.reason in ("no_camera_info", "bad_camera_info") and item.camera is not None:
            text = f"{text} (topic {self._info_topics[item.camera]})"
        self._health.drop(item.reason, (item.camera or "set",), text, item.images)


def info_topics(camera: str, image: str) -> list[str]:
    """Topics of the `camera_info` that may belong to the images `<camera>/<image>`, the best first; by `stream.topics`."""
    namespace, _, leaf = f"{camera}/{image}".rpartition("/")
    return list(dict.fromkeys([*(f"{namespace}/{name}" for name in info_names(leaf)), f"{camera}/camera_info"]))


def mismatch(topic: str, publisher: str, offered: QoSProfile, asked: QoSProfile) -> str | None:
    """A sentence if what a publisher offers is less than what a subscription asks for, so that nothing comes."""
    if qos_check_compatible(offered, asked)[0] != QoSCompatibility.ERROR:
        return None
    policy = "reliability" if weaker_reliability(offered, asked) else "durability"
    has, wants = (getattr(qos, policy).name.lower() for qos in (offered, asked))
    remedy = f"set parameter 'qos_overrides.{topic}.subscription.{policy}' to {has}"
    if "image" in topic and policy == "reliability":
        remedy = f"set parameter 'image_reliability' to {has}, or " + remedy.removeprefix("set ")
    return (
        f"nothing comes from {publisher} on {topic}: its {policy} is {has}, this node asks for {wants}; make the publisher's "
        f"{wants}, or {remedy}"
    )


def kept(topic: str, publisher: str, offered: QoSProfile, asked: QoSProfile) -> str | None:
    """A sentence if a publisher keeps its last message for who comes later, and a subscription does not ask for it."""
    latched = DurabilityPolicy.TRANSIENT_LOCAL
    if offered.durability != latched or asked.durability == latched:
        return None
    name = f"qos_overrides.{topic}.subscription"
    return (
        f"nothing came from {publisher} on {topic} yet: it keeps what it has sent for those who come later (transient_local), "
        f"but this node does not ask for it; set parameters '{name}.durability' to transient_local and '{name}.reliability' to "
        "reliable, or let it publish with every image"
    )


def weaker_reliability(offered: QoSProfile, asked: QoSProfile) -> bool:
    """Best effort where reliable is asked for."""
    return (offered.reliability, asked.reliability) == (ReliabilityPolicy.BEST_EFFORT, ReliabilityPolicy.RELIABLE)
