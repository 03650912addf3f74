"""Records what nodes publish into a bag, where rosbag2 is not installed."""

import threading
import time
from collections.abc import Collection, Mapping
from pathlib import Path

from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.subscription import Subscription

from letocc_core.data.bags.answers import ANSWER, OCCUPANCY_TOPIC, POINTS_TOPIC, answer_definition
from letocc_core.data.bags.writer import BagWriter
from letocc_ros.session import count_publishers, header_stamp_ns, message_class, session

SETTLE = 0.5  # s
# What `occ_flow_node` publishes unless it is told otherwise.
OUTPUTS: Mapping[str, str] = {
    OCCUPANCY_TOPIC: ANSWER,
    POINTS_TOPIC: "sensor_msgs/msg/PointCloud2",
    "/occ_flow_node/costmap": "nav_msgs/msg/OccupancyGrid",
    "/occ_flow_node/markers": "visualization_msgs/msg/MarkerArray",
}
# The transforms that RViz needs beside it; their publisher is the robot, or the player.
TRANSFORMS: Mapping[str, str] = {"/tf": "tf2_msgs/msg/TFMessage", "/tf_static": "tf2_msgs/msg/TFMessage"}
# Bytes before the first header, in messages that begin with the length of a list.
HEADER_OFFSETS = {"visualization_msgs/msg/MarkerArray": 4, "tf2_msgs/msg/TFMessage": 4}


class Recorder:
    """Records topics from entering its `with` block to leaving it; messages are stored by their own stamps.

        with Recorder(Path("out/answers"), OUTPUTS) as recorder:
            recorder.wait_for_publishers()
            play(bag, as_fast=True)
        for answer in read_answers("out/answers"): ...

    Args:
        path: bag folder to write; must not exist.
        topics: name and type of each.

    Attributes:
        received: for each topic, (stamp, time of reception) of each message, in ns; the latter of `time.time_ns`.

    Raises `DataError` if the folder exists, `ImportError` for a type that this ROS does not have.
    """

    def __init__(self, path: str | Path, topics: Mapping[str, str] = OUTPUTS):
        self.path, self.topics = Path(path), dict(topics)
        self.received: dict[str, list[tuple[int, int]]] = {topic: [] for topic in topics}
        self._subscriptions: dict[str, Subscription] = {}
        self._stopping = threading.Event()
        self._ready = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)

    def __enter__(self) -> "Recorder":
        self._thread.start()
        self._ready.wait()
        self._raise()
        return self

    def __exit__(self, *error) -> None:
        self._stopping.set()
        self._thread.join()
        self._raise()

    def wait_for_publishers(self, topics: Collection[str] = tuple(OUTPUTS), timeout: float = 30.0) -> list[str]:
        """Wait until these topics have a publisher, so that nothing is missed; returns those that have none."""
        deadline = time.monotonic() + timeout
        while (silent := self._silent(topics)) and self._thread.is_alive() and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(SETTLE)  # for the publishers to know of us as well
        return silent

    def _silent(self, topics: Collection[str]) -> list[str]:
        return [t for t, s in self._subscriptions.items() if t in topics and not count_publishers(self._node, s)]

    def wait_for(self, topic: str, count: int, timeout: float) -> bool:
        """Whether `count` messages of a topic have come, within `timeout` s."""
        deadline = time.monotonic() + timeout
        while len(self.received[topic]) < count and self._thread.is_alive() and time.monotonic() < deadline:
            time.sleep(0.01)
        return len(self.received[topic]) >= count

    def _raise(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        try:
            with BagWriter(self.path) as bag, session("letocc_recorder") as (node, executor):
                self._node = node
                bag.register(ANSWER, answer_definition())
                for topic, kind in self.topics.items():
                    latched = DurabilityPolicy.TRANSIENT_LOCAL if topic == "/tf_static" else DurabilityPolicy.VOLATILE
                    self._subscriptions[topic] = node.create_subscription(
                        message_class(kind),
                        topic,
                        lambda data, topic=topic, kind=kind: self._write(bag, topic, kind, data),
                        QoSProfile(depth=1000, durability=latched),
                        raw=True,
                    )
                self._ready.set()
                while not self._stopping.is_set():
                    executor.spin_once(timeout_sec=0.05)
        except BaseException as error:  # raised again in the caller's thread
            self._failure = error
        finally:
            self._ready.set()

    def _write(self, bag: BagWriter, topic: str, kind: str, data: bytes) -> None:
        offset = HEADER_OFFSETS.get(kind, 0)
        stamp_ns = header_stamp_ns(data, offset) if len(data) >= offset + 12 else time.time_ns()
        bag.write_raw(topic, kind, stamp_ns, data)
        self.received[topic].append((stamp_ns, time.time_ns()))
