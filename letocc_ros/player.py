"""Publishes a bag over ROS 2 with /clock, where rosbag2 is not installed: as recorded, or as fast as the node can.

Messages go out as the bytes that they were recorded as, with the QoS of the recording. To whoever begins to listen, the
`camera_info` of a camera comes with its first images, however seldom it was recorded: as in the offline replay.
"""

import sys
import time
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from rclpy.executors import Executor
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rosgraph_msgs.msg import Clock

from letocc_core.data.bags.reader import COMPRESSED, IMAGE, Bag, open_bag
from letocc_core.errors import DataError, LetOccError
from letocc_ros.conversions import from_ns
from letocc_ros.msg import OccFlowGrid
from letocc_ros.session import count_publishers, header_stamp_ns, message_class, session

CLOCK_PERIOD = 0.01  # s between two messages on /clock
SETTLE = 0.5  # s without a new subscriber after which all are taken to be there
POLL = 0.02  # s between two looks at the graph
MAX_LEAD = 10  # sets that may be out without an answer
NEW = 1.0  # s for which a subscriber is new, and may not hear us yet
WAIT = 10.0  # s for subscribers; for a node that answers, 10 times as long
NAMED = 4  # topics in a message
FIRST_PATIENCE = 10.0  # s for the first answer, for which a node may have to compile its loops


@dataclass(frozen=True)
class Played:
    """What was published."""

    messages: int
    sets: int  # images of the anchor camera
    unanswered: int  # of these, how many no answer was seen for; 0 unless played as fast as possible
    skipped_topics: tuple[str, ...]  # of types that this ROS does not know


def play(
    path: str | Path,
    rate: float = 1.0,
    as_fast: bool = False,
    loop: bool = False,
    anchor: str = "",
    wait: float | None = None,
    patience: float = 2.0,
    cameras: Sequence[str] = (),
    topics: Sequence[str] = (),
) -> Played:
    """Publish a bag.

    Args:
        path: bag folder or file.
        rate: speed relative to the recording.
        as_fast: instead, publish each image set when the one before has been answered by an `OccFlowGrid`.
        loop: start again at the end, until interrupted.
        anchor: camera that the node anchors its sets on, for `as_fast`, until its answers show it; empty: `camera_front`, or
            else the first.
        cameras: play these alone of the bag's cameras, of which the first is the anchor; empty: all.
        topics: of odometry and point clouds: play these alone of their type.
        wait: s to wait for subscribers, then it plays to nobody, or for a node that answers; None: 10 s, and 100 s for that.
        patience: s to wait for one answer, or, where answers have taken longer, twice as long as the slowest did, ten times
            `patience` at most; then the next set goes out, because the node may need it.

    Raises:
        DataError: a bag that cannot be read, or without the anchor camera.
        LetOccError: a rate that is not positive; `as_fast` without a node that answers.
    """
    if not rate > 0:
        raise LetOccError(f"rate is {rate}, expected a positive number")
    with open_bag(path) as bag, session("letocc_player") as (node, executor):
        player = _Player(node, executor, bag, _unwanted(bag, cameras, topics))
        pace = (
            _AsAnswered(player, anchor or next(iter(cameras), ""), 10 * WAIT if wait is None else wait, patience)
            if as_fast
            else _Recorded(player, rate)
        )
        player.wait_for_subscribers(WAIT if wait is None else wait)
        player.once(pace)
        while loop:
            player.once(pace)
        pace.finish()
        return Played(player.messages, pace.sets, pace.unanswered, tuple(player.skipped))


class _Player:
    """A publisher for every topic of a bag whose type this ROS knows, but those that are not wanted."""

    def __init__(self, node: Node, executor: Executor, bag: Bag, unwanted: Collection[str]):
        self.node, self.executor, self.bag = node, executor, bag
        self.messages = 0
        self.skipped: list[str] = []
        self.publishers: dict[str, Publisher] = {}
        self._clock = node.create_publisher(Clock, "/clock", QoSProfile(depth=1))
        self._calibrations = _Calibrations(bag)
        for topic, reason in bag.skipped.items():
            self.skipped.append(topic)
            print(f"not played: {topic}: {reason}", file=sys.stderr)
        known = {"/clock", *unwanted}
        for connection in bag.connections:
            if connection.msgcount and connection.topic not in known:
                known.add(connection.topic)
                self._announce(connection)

    def _announce(self, connection: Any) -> None:
        try:
            kind = message_class(connection.msgtype)
        except (ImportError, AttributeError):
            self.skipped.append(connection.topic)
            print(f"not played: {connection.topic}: this ROS has no {connection.msgtype}", file=sys.stderr)
            return
        count = sum(c.msgcount for c in self.bag.connections if c.topic == connection.topic)
        self.publishers[connection.topic] = self.node.create_publisher(kind, connection.topic, _qos(connection, count))

    def wait_for_subscribers(self, seconds: float) -> None:
        """Until something listens to a camera and its `camera_info`, which who only shows images does not, or, where nobody
        listens to images, to anything else but transforms; and no more join in."""
        begin = since = time.monotonic()
        deadline, before, said = begin + seconds, -1, False
        topics = _some([topic for topic in self.publishers if not topic.startswith("/tf")]) or "this bag"
        while time.monotonic() < deadline:
            if not said and time.monotonic() > begin + WAIT:
                said = True
                print(f"nobody listens to {topics} yet; waiting {seconds - WAIT:g} s more", file=sys.stderr)
            counts = {t: p.get_subscription_count() for t, p in self.publishers.items() if not t.startswith("/tf")}
            if sum(counts.values()) != before:
                before, since = sum(counts.values()), time.monotonic()
            if self._awaited(counts) and time.monotonic() - since >= SETTLE:
                return
            time.sleep(POLL)
        print(f"nobody listens to {topics}; playing all the same", file=sys.stderr)

    def _awaited(self, listeners: dict[str, int]) -> bool:
        pairs = [(listeners.get(image), listeners.get(info)) for image, info in self._calibrations.of_image.items()]
        if any(image for image, _ in pairs):
            return any(image and info for image, info in pairs)
        return any(listeners.values())

    def once(self, pace: "_Recorded | _AsAnswered") -> None:
        """The bag from its beginning to its end."""
        pace.begin()
        for connection, received_ns, data in self.bag.serialized(tuple(self.publishers)):
            pace.before(connection, received_ns, data)
            self._send_calibration(connection.topic, data)
            self.publishers[connection.topic].publish(data)
            self.messages += 1

    def _send_calibration(self, topic: str, data: bytes) -> None:
        """Before an image, its `camera_info`, if somebody new may lack it."""
        known = self._calibrations
        known.note(topic, data)
        info = known.of_image.get(topic, "")
        if info in self.publishers and known.due(info, self.publishers[info].get_subscription_count()):
            self.publishers[info].publish(known.latest[info])

    def publish_clock(self, now_ns: int) -> None:
        self._clock.publish(Clock(clock=from_ns(now_ns)))


def _some(topics: Sequence[str]) -> str:
    """The first of them, and how many more there are."""
    return ", ".join(topics[:NAMED]) + (f" and {len(topics) - NAMED} more" if len(topics) > NAMED else "")


class _Calibrations:
    """The `camera_info` of each camera as it was last sent, or will be first, and when it is due again.

    Attributes:
        of_image: topic of the `camera_info` that belongs to an image topic.
        latest: serialised message of each of these.
    """

    def __init__(self, bag: Bag):
        self.of_image = {camera.image_topic: camera.info_topic for camera in bag.cameras.values()}
        topics = set(self.of_image.values())
        self.latest = {topic: data for topic in topics for _, _, data in islice(bag.serialized([topic]), 1)}
        self._listeners: dict[str, int] = {}
        self._since: dict[str, float] = {}  # s, when there were last more of them

    def note(self, topic: str, data: bytes) -> None:
        """A message goes out."""
        if topic in self.latest:
            self.latest[topic] = data

    def due(self, topic: str, listeners: int) -> bool:
        """Whether there are more listeners of a `camera_info` than a short while ago."""
        if listeners > self._listeners.get(topic, 0):
            self._since[topic] = time.monotonic()
        self._listeners[topic] = listeners
        return topic in self._since and time.monotonic() - self._since[topic] < NEW


class _Recorded:
    """The recording's own timing, times a rate."""

    sets = 0
    unanswered = 0

    def __init__(self, player: _Player, rate: float):
        self.player, self.rate = player, rate
        self.images = set(player.bag.topics(IMAGE, COMPRESSED)[:1])

    def begin(self) -> None:
        self.start, self.first_ns = time.monotonic(), None

    def before(self, connection: Any, received_ns: int, data: bytes) -> None:
        """Sleep until it is time for this message; the clock goes on meanwhile."""
        if self.first_ns is None:
            self.first_ns = received_ns
            self.player.publish_clock(received_ns)
        self.sets += connection.topic in self.images
        due = self.start + (received_ns - self.first_ns) * 1e-9 / self.rate
        while (left := due - time.monotonic()) > 0:
            time.sleep(min(left, CLOCK_PERIOD))
            elapsed = min(time.monotonic(), due) - self.start
            self.player.publish_clock(self.first_ns + round(elapsed * self.rate * 1e9))

    def finish(self) -> None:
        """Nothing to wait for."""


class _AsAnswered:
    """A set at a time: the next goes out when the node has answered.

    A node that needs later messages to decide about a set (a camera is late, transforms come afterwards) gets them:
    when no answer comes for `patience`, one more set is let out. An answer shows how many it takes: as many as are out then.
    It also shows on which camera the node anchors its sets, by its stamp.
    """

    def __init__(self, player: _Player, anchor: str, wait: float, patience: float):
        self.player, self.patience = player, patience
        self.topic = _anchor_topic(player.bag, anchor)
        self.sets = self.unanswered = 0
        # of each camera, the images since the last answer: stamp (ns), and when they went out (s)
        self._out: dict[str, deque[tuple[int, float]]] = {
            camera.image_topic: deque(maxlen=4 * MAX_LEAD) for camera in player.bag.choose_cameras()
        }
        self._slowest: float | None = None  # s that an answer took; None before the first one
        self._lead = 1
        topic = self._find_answers(wait)
        qos = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)
        self._subscription = player.node.create_subscription(OccFlowGrid, topic, self._on_answer, qos, raw=True)
        self._wait_for_match(wait)

    @property
    def _open(self) -> deque[tuple[int, float]]:
        """Sets without an answer, by their image of the anchor camera."""
        return self._out[self.topic]

    def begin(self) -> None:
        self.unanswered += len(self._open)
        for images in self._out.values():
            images.clear()
        self._clock_ns = 0

    def before(self, connection: Any, received_ns: int, data: bytes) -> None:
        """Wait for the answers that are due; an image of the anchor camera opens a new set."""
        if connection.topic == self.topic:
            self._wait_for_answers(self._lead - 1)
            self.sets += 1
        if connection.topic in self._out:
            self._out[connection.topic].append((header_stamp_ns(data), time.monotonic()))
        if received_ns - self._clock_ns >= CLOCK_PERIOD * 1e9:
            self._clock_ns = received_ns
            self.player.publish_clock(received_ns)

    def finish(self) -> None:
        self._wait_for_answers(0)
        self.unanswered += len(self._open)

    def _wait_for_answers(self, allowed: int) -> None:
        """Until at most `allowed` sets have no answer, or patience ends."""
        seconds = FIRST_PATIENCE if self._slowest is None else 2 * self._slowest
        deadline = time.monotonic() + min(max(self.patience, seconds), 10 * self.patience)
        anchor = self.topic
        while self.topic == anchor and len(self._open) > allowed and time.monotonic() < deadline:
            self.player.executor.spin_once(timeout_sec=POLL)
        if self.topic != anchor:
            return  # in the middle of a set, which is to become whole
        if not self._open:
            self._lead = 1
        elif len(self._open) > allowed:
            self._lead = min(self._lead + 1, MAX_LEAD)
            if self._lead == MAX_LEAD:
                self.unanswered += 1
                self._open.popleft()

    def _on_answer(self, data: bytes) -> None:
        stamp_ns = header_stamp_ns(data)
        anchors = [t for t, images in self._out.items() if any(stamp == stamp_ns for stamp, _ in images)]
        if anchors and self.topic not in anchors:
            self.topic = anchors[0]
        for topic, images in self._out.items():
            while images and images[0][0] <= stamp_ns:
                stamp, sent = images.popleft()
                if topic == self.topic:
                    self.unanswered += stamp < stamp_ns  # answers come in order: this one was dropped
                    self._slowest = max(self._slowest or 0.0, time.monotonic() - sent)
        self._lead = min(self._lead, len(self._open) + 1)

    def _find_answers(self, seconds: float) -> str:
        """The topic on which a node publishes `OccFlowGrid`."""
        for _ in _until(seconds):
            found = [
                topic
                for topic, kinds in self.player.node.get_topic_names_and_types()
                if "letocc_ros/msg/OccFlowGrid" in kinds and topic not in self.player.publishers
            ]
            if found and self.player.node.count_publishers(found[0]):
                return found[0]
        raise LetOccError(
            f"no node publishes letocc_ros/msg/OccFlowGrid after {seconds:g} s, so none could answer; start one "
            "(ros2 run letocc_ros occ_flow_node) in the same ROS_DOMAIN_ID, or play at a rate"
        )

    def _wait_for_match(self, seconds: float) -> None:
        """Until we know the publisher of the answers, and a little longer, for it to know us."""
        for _ in _until(seconds):
            if count_publishers(self.player.node, self._subscription):
                time.sleep(SETTLE)
                return


def _unwanted(bag: Bag, cameras: Sequence[str], topics: Sequence[str]) -> set[str]:
    """Topics that are not to be played. Raises `DataError` for a camera or topic that is not in the bag."""
    known = {c.topic for c in bag.connections}
    missing = [topic for topic in topics if topic not in known]
    if missing:
        raise DataError(f"{bag.path}: no topic {missing[0]}; topics found: {', '.join(sorted(known))}")
    chosen = {camera.name for camera in bag.choose_cameras(cameras)} if cameras else set(bag.cameras)
    others = [camera for name, camera in bag.cameras.items() if name not in chosen]
    out = {topic for camera in others for topic in (camera.image_topic, camera.info_topic)}
    kinds = {c.msgtype for c in bag.connections if c.topic in topics}
    return out | {c.topic for c in bag.connections if c.msgtype in kinds and c.topic not in topics}


def _anchor_topic(bag: Bag, anchor: str) -> str:
    cameras = {camera.name: camera for camera in bag.choose_cameras()}
    name = anchor or ("camera_front" if "camera_front" in cameras else next(iter(cameras)))
    if name not in cameras:
        raise DataError(f"{bag.path}: no camera '{name}'; cameras found: {', '.join(cameras)}")
    return cameras[name].image_topic


def _qos(connection: Any, count: int) -> QoSProfile:
    """As the topic was offered when it was recorded; a latched topic keeps all its messages."""
    offered = getattr(connection.ext, "offered_qos_profiles", None) or []
    latched = connection.topic.endswith("/tf_static") or any(q.durability.name == "TRANSIENT_LOCAL" for q in offered)
    best_effort = bool(offered) and all(q.reliability.name == "BEST_EFFORT" for q in offered)
    return QoSProfile(
        depth=max(count, 1) if latched else max([10, *(q.depth for q in offered)]),
        reliability=ReliabilityPolicy.BEST_EFFORT if best_effort else ReliabilityPolicy.RELIABLE,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
    )


def _until(seconds: float) -> Iterator[None]:
    """Turns of a polling loop, one every `POLL` seconds."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        yield
        time.sleep(POLL)
