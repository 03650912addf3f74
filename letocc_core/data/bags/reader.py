"""Reads any bag without ROS, and gives its messages in the types of `letocc_core.stream`.

ROS 2: MCAP or sqlite3, in one file or split, with files or messages compressed. ROS 1: `.bag` files, one or a folder, or
MCAP. Channels of another encoding are left out, and named in `Bag.skipped`.

Cameras are found by the conventions of image_transport (`letocc_core.stream.topics`). Stamps are those of the message
headers (ns); messages come as they were recorded, constant transforms first.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache, partial
from heapq import merge
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace, TracebackType
from typing import Any, TypeVar

import numpy as np

from letocc_core.data.bags import pointcloud, storage
from letocc_core.errors import DataError, LetOccError, show
from letocc_core.geometry import se3
from letocc_core.geometry.calibration import Calibration, from_camera_info, validate
from letocc_core.stream import images
from letocc_core.stream.topics import BY_NAME, CameraTopics, find_cameras, image_of, no_picture, require_stamp

IMAGE = "sensor_msgs/msg/Image"
COMPRESSED = "sensor_msgs/msg/CompressedImage"
CAMERA_INFO = "sensor_msgs/msg/CameraInfo"
POINTS = "sensor_msgs/msg/PointCloud2"
TRANSFORMS = ("tf2_msgs/msg/TFMessage", "tf/msg/tfMessage")  # the latter in old ROS 1 bags
ODOMETRY = "nav_msgs/msg/Odometry"
VIDEOS = ("foxglove_msgs/msg/CompressedVideo", "ffmpeg_image_transport_msgs/msg/FFMPEGPacket")
THEORA = "theora_image_transport/msg/Packet"

ENCODINGS = ("cdr", "ros1")  # of messages, that are read
WHOLE = 0.9  # share of the messages of another transport that an image topic should have


@dataclass(frozen=True, eq=False)
class ImageMessage:
    """An image of one camera."""

    camera: str
    stamp_ns: int
    frame_id: str  # TF frame of the camera's optical axes
    image: np.ndarray  # uint8 RGB [h, w, 3]


@dataclass(frozen=True, eq=False)
class CalibrationMessage:
    """Intrinsics of one camera."""

    camera: str
    stamp_ns: int
    frame_id: str
    calibration: Calibration


@dataclass(frozen=True, eq=False)
class TransformMessage:
    """One transform of the tree."""

    parent: str
    child: str
    stamp_ns: int
    T: np.ndarray  # [4, 4] float64 m, child -> parent
    static: bool


@dataclass(frozen=True, eq=False)
class OdometryMessage:
    """One pose of the vehicle by odometry."""

    parent: str
    child: str
    stamp_ns: int
    T: np.ndarray  # [4, 4] float64 m, child -> parent


@dataclass(frozen=True, eq=False)
class PointsMessage:
    """One LiDAR sweep."""

    topic: str
    stamp_ns: int
    frame_id: str
    points: np.ndarray  # [P, 3] float32 m, in `frame_id`


Decoded = TypeVar("Decoded")
Message = ImageMessage | CalibrationMessage | TransformMessage | OdometryMessage | PointsMessage
Damaged = Callable[[DataError], None]  # what is told of a message that cannot be read


class Bag:
    """A bag that is open for reading; a context manager (see `open_bag`)."""

    def __init__(self, path: Path):
        self.path = path
        self._temporary = TemporaryDirectory(prefix="letocc_bag_")
        self._storages: list[storage.Storage] = []
        self._types: dict[tuple[str, str], Any] = {}
        self.bit_depths: defaultdict[str, images.BitDepth] = defaultdict(images.BitDepth)  # by image topic, so far
        try:
            with _named(path):
                files, self.remarks = storage.files_of(path)
                for file in files:
                    self._storages.append(storage.open_storage(file, Path(self._temporary.name)))
        except BaseException:
            self.close()
            raise
        everything = [c for file in self._storages for c in file.connections]
        readable = [c for c in everything if encoding_of(c) in ENCODINGS]
        self._type_of = _usual_types(readable)
        self.connections = [c for c in readable if self._is_usual(c)]
        self.skipped = {c.topic: f"encoded as {encoding_of(c)}" for c in everything if encoding_of(c) not in ENCODINGS}
        for c in readable:
            if c.msgcount and not self._is_usual(c):
                self.skipped[f"{c.topic} of type {c.msgtype}"] = f"a topic of {self._type_of[c.topic]}"
        self.odometry_topics = self.topics(ODOMETRY)

    def __enter__(self) -> "Bag":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Free files and what was unpacked."""
        while self._storages:
            self._storages.pop().close()
        self._temporary.cleanup()

    def topics(self, *kinds: str) -> list[str]:
        """Topics of these message types that hold at least one message, sorted."""
        return sorted({c.topic for c in self.connections if c.msgtype in kinds and c.msgcount})

    @cached_property
    def no_lidars(self) -> dict[str, str]:
        """Topics of point clouds that hold no points, and why."""
        return {topic: reason for topic in self.topics(POINTS) if (reason := self._no_points(topic))}

    @property
    def lidar_topics(self) -> list[str]:
        """Topics of point clouds with points, sorted."""
        return [topic for topic in self.topics(POINTS) if topic not in self.no_lidars]

    def _no_points(self, topic: str) -> str:
        """Why no cloud of a topic has points; empty if one has."""
        reason = ""
        for connection, _, data in self._messages([topic]):
            try:
                if len(pointcloud.to_xyz(self._deserialize(connection, data), topic)):
                    return ""
                reason = reason or "its clouds are empty"
            except DataError as error:
                reason = str(error)
        return reason

    @cached_property
    def no_transforms(self) -> dict[str, str]:
        """Topics of transforms that are left out, and why: another, `/tf` and `/tf_static` before all, places the same frames.

        Such are those of a second robot, or of a ground truth. Constant transforms may be repeated as they are.
        """
        found = {}
        for static in (True, False):
            topics = sorted(self._transforms_named(static), key=lambda t: (t not in ("/tf", "/tf_static"), t))
            known: dict[str, tuple[str, str, bytes]] = {}  # of each child: topic, parent, place
            for topic in topics if len(topics) > 1 else ():
                own: dict[str, tuple[str, str, bytes]] = {}
                for m in self._decoded([topic], partial(_transform, static=static), lambda error: None):
                    own[m.child] = (topic, m.parent, m.T.round(6).tobytes() if static else b"")
                other = {c for c in own.keys() & known.keys() if not static or own[c][1:] != known[c][1:]}
                if other:
                    child = min(other)
                    found[topic] = f"transforms of frames such as '{child}', whose place {known[child][0]} gives"
                else:
                    known |= own
        return found

    @property
    def videos(self) -> dict[str, str]:
        """Topics of types that carry a video, and what to do with them."""
        found = {topic: f"a video; {images.VIDEO_REMEDY}" for topic in self.topics(*VIDEOS)}
        theora = "a video of Theora, which is not read; record the camera's raw or compressed images"
        return found | {topic: theora for topic in self.topics(THEORA)}

    @cached_property
    def video_topics(self) -> list[str]:
        """Topics whose messages are pieces of a video: by their type, or, of compressed images, by their first message."""
        first = {topic: next((m for _, m in self.readable([topic])), None) for topic in self.topics(COMPRESSED)}
        compressed = [t for t, m in first.items() if m is not None and images.video_of(bytes(m.data[:8]), m.format)]
        return [*compressed, *self.topics(*VIDEOS)]

    @cached_property
    def no_pictures(self) -> dict[str, str]:
        """Image topics that are no pictures of a camera, and what they are: depth, masks, disparities."""
        found = {}
        for topic in self.topics(IMAGE, COMPRESSED):
            if (reason := no_picture(topic, self._first_encoding(topic))) is not None:
                found[topic] = reason
        return found

    @cached_property
    def cameras(self) -> dict[str, CameraTopics]:
        """The cameras, by name."""
        counts = Counter({c.topic: c.msgcount for c in self.connections})
        images = [t for t in self.topics(IMAGE, COMPRESSED) if t not in self.no_pictures]
        most = {image_of(t): max(counts[u] for u in images if image_of(u) == image_of(t)) for t in images}
        whole = [t for t in images if counts[t] >= WHOLE * most[image_of(t)]]  # of several transports
        return {camera.name: camera for camera in find_cameras(self.topics(CAMERA_INFO), whole)}

    def choose_cameras(self, names: Sequence[str] = ()) -> tuple[CameraTopics, ...]:
        """The cameras asked for, or all; `DataError` if one of them, or any at all, is not in the bag.

        What is left out by its name alone, such as a mask, is a camera when it is asked for.
        """
        known = self.cameras
        if any(name not in known for name in names):
            by_name = [t for t, reason in self.no_pictures.items() if reason.endswith(BY_NAME)]
            known = {c.name: c for c in find_cameras(self.topics(CAMERA_INFO), by_name)} | known
        left_out = "".join(f"; {topic} is {reason}" for topic, reason in self.no_pictures.items())
        if not known and not names:
            found = ", ".join(self.topics(IMAGE, COMPRESSED)) or "none"
            infos = ", ".join(self.topics(CAMERA_INFO)) or "none"
            skipped = "".join(f"; {topic}: {reason}, which is not read" for topic, reason in self.skipped.items())
            raise DataError(
                f"{show(self.path)}: no camera: expected /<camera>/camera_info with an image topic below /<camera>/; "
                f"image topics found: {found}; CameraInfo topics found: {infos}{left_out}{skipped}. Record both, so named"
            )
        missing = [name for name in names if name not in known]
        if missing:
            raise DataError(
                f"{show(self.path)}: no camera '{missing[0]}'; cameras found: {', '.join(known) or 'none'}{left_out}; "
                "name those to use: --cameras NAME,NAME (data.bag.cameras, parameter 'cameras')"
            )
        return tuple(known[name] for name in names or known)

    def _first_encoding(self, topic: str) -> str:
        """What the first message of an image topic says of itself; empty where it cannot be read."""
        for connection, _, data in self._messages([topic]):
            try:
                message = self._deserialize(connection, data)
            except DataError:
                return ""
            return message.format if hasattr(message, "format") else message.encoding
        return ""

    def raw(self, topics: Sequence[str]) -> Iterator[tuple[str, int, Any]]:
        """(topic, receive time in ns, deserialised message) of some topics, in recorded order."""
        for connection, received_ns, data in self._messages(topics):
            try:
                message = self._deserialize(connection, data)
            except DataError as error:
                raise DataError(f"{show(self.path)}: {error}") from error
            yield connection.topic, received_ns, message

    def readable(
        self, topics: Sequence[str], damaged: Callable[[str, DataError], None] | None = None
    ) -> Iterator[tuple[str, Any]]:
        """(topic, message) of some topics, in recorded order, without what cannot be read; `damaged` is told of that."""
        for topic, _, message in self.received(topics, damaged):
            yield topic, message

    def received(
        self, topics: Sequence[str], damaged: Callable[[str, DataError], None] | None = None
    ) -> Iterator[tuple[str, int, Any]]:
        """(topic, receive time in ns, message), as `readable`."""
        for connection, received_ns, data in self._messages(topics):
            try:
                message = self._deserialize(connection, data)
            except DataError as error:
                if damaged is not None:
                    damaged(connection.topic, error)
                continue
            yield connection.topic, received_ns, message

    def picture(self, topic: str, message: Any) -> np.ndarray:
        """uint8 RGB [h, w, 3] of a message of an image topic; raises `DataError`."""
        return images.decode(message, f"{topic} at {stamp_ns(message.header)} ns", self.bit_depths[topic])

    def serialized(self, topics: Sequence[str]) -> Iterator[tuple[Any, int, bytes]]:
        """(connection, receive time in ns, CDR bytes) of some topics, in recorded order; nothing is deserialised."""
        for connection, received_ns, data in self._messages(topics):
            if encoding_of(connection) == "ros1":
                data = bytes(_library("cdr").ros1_to_cdr(data, connection.msgtype))
            yield connection, received_ns, data

    def _messages(self, topics: Sequence[str]) -> Iterator[tuple[Any, int, bytes]]:
        """(connection, receive time in ns, bytes as recorded) of some topics."""
        streams = []
        for file in self._storages:
            connections = [
                c for c in file.connections if c.topic in topics and encoding_of(c) in ENCODINGS and self._is_usual(c)
            ]
            if connections:
                streams.append(file.messages(connections))
        with _named(self.path):
            for connection, received_ns, data in merge(*streams, key=lambda item: item[1]):
                if data[:4] == storage.ZSTD_MAGIC:  # rosbag2 compresses message by message; CDR begins with a zero
                    data = storage.zstd().decompress(data)
                yield connection, received_ns, data

    def _is_usual(self, connection: Any) -> bool:
        return self._type_of.get(connection.topic) == connection.msgtype

    def _deserialize(self, connection: Any, data: bytes) -> Any:
        types = self._types_of(connection)
        try:
            if encoding_of(connection) == "ros1":
                return types.deserialize_ros1(data, connection.msgtype)
            return types.deserialize_cdr(data, connection.msgtype)
        except Exception as error:  # rosbags lets through whatever the bytes lead it to: struct.error, IndexError, ...
            raise DataError(
                f"{connection.topic}: {len(data)} bytes that are no {connection.msgtype} ({type(error).__name__}: "
                f"{error}); the message is damaged, or of another version of that type"
            ) from error

    def written_types(self, connection: Any) -> Any:
        """What knows the type of a connection's messages as `serialized` gives them; raises `DataError` if nothing does."""
        if encoding_of(connection) != "ros1":
            return self._types_of(connection)
        if connection.msgtype not in _library("cdr").types:
            raise DataError(f"{connection.topic}: ROS 2 has no type {connection.msgtype}")
        return _library("cdr")

    def _types_of(self, connection: Any) -> Any:
        """What knows a connection's type: by the definition in the bag, or where that is empty or wrong, by ROS's own."""
        key = (encoding_of(connection), connection.msgtype)
        if key not in self._types:
            definition = connection.msgdef
            self._types[key] = _defined(connection.msgtype, definition.format, definition.data) or _library(key[0])
        if connection.msgtype not in self._types[key].types:
            raise DataError(f"{connection.topic}: the bag has no definition of its type {connection.msgtype}")
        return self._types[key]

    def _decoded(
        self, topics: Sequence[str], decode: Callable[[str, Any], Decoded], damaged: Damaged | None
    ) -> Iterator[Decoded]:
        """What `decode(topic, item)` makes of the messages of some topics; those of transforms item by item."""
        for connection, _, data in self._messages(topics):
            items: Sequence[Any] = []
            with self._tolerating(damaged):
                message = self._deserialize(connection, data)
                items = message.transforms if connection.msgtype in TRANSFORMS else [message]
            for item in items:
                with self._tolerating(damaged):
                    yield decode(connection.topic, item)

    @contextmanager
    def _tolerating(self, damaged: Damaged | None) -> Iterator[None]:
        try:
            yield
        except DataError as error:
            if damaged is None:
                raise DataError(f"{show(self.path)}: {error}") from error
            damaged(error)

    def messages(
        self,
        cameras: Sequence[str] = (),
        lidar_topics: Sequence[str] = (),
        odometry_topic: str = "",
        damaged: Damaged | None = None,
    ) -> Iterator[Message]:
        """Core messages in recorded order; what does not change comes first, whenever it was recorded: constant transforms,
        and the first calibration of each camera.

        Args:
            cameras: names; empty for all.
            lidar_topics: point clouds to read as well.
            odometry_topic: poses to read as well.
            damaged: called with the error for each message that cannot be decoded, which is then left out, as the live
                node does; without it the error is raised.
        """
        chosen = self.choose_cameras(cameras)
        moving = self._transform_topics(static=False)
        by_topic = {c.image_topic: c for c in chosen} | {c.info_topic: c for c in chosen}

        def decode(topic: str, item: Any) -> Message:
            if topic in moving:
                return _transform(topic, item, static=False)
            if topic in by_topic:
                return _camera_message(by_topic[topic], topic, item, self.bit_depths[topic])
            return _odometry(topic, item) if topic == odometry_topic else _points(topic, item)

        yield from self.transforms(static=True, damaged=damaged)
        for camera in chosen:
            yield from islice(self._decoded([camera.info_topic], decode, damaged and (lambda error: None)), 1)
        odometry = [odometry_topic] if odometry_topic else []
        yield from self._decoded([*by_topic, *lidar_topics, *odometry, *moving], decode, damaged)

    def transforms(self, static: bool | None = None, damaged: Damaged | None = None) -> Iterator[TransformMessage]:
        """Constant transforms (static), moving ones, or both (None), in recorded order; `damaged` as in `messages`."""
        for kind in (True, False) if static is None else (static,):
            yield from self._decoded(self._transform_topics(kind), partial(_transform, static=kind), damaged)

    def odometry(self, topic: str, damaged: Damaged | None = None) -> Iterator[OdometryMessage]:
        """The poses of an odometry topic, in recorded order; `damaged` as in `messages`."""
        yield from self._decoded([topic], _odometry, damaged)

    def _transform_topics(self, static: bool) -> list[str]:
        return [topic for topic in self._transforms_named(static) if topic not in self.no_transforms]

    def _transforms_named(self, static: bool) -> list[str]:
        return [topic for topic in self.topics(*TRANSFORMS) if topic.endswith("tf_static") == static]


def open_bag(path: str | Path) -> Bag:
    """Open a bag folder, or one `.mcap`, `.db3` or (ROS 1) `.bag` file of it, for reading.

    Raises `DataError`: no such bag, one that is empty, truncated or otherwise unreadable.
    """
    bag = Bag(Path(path))
    if any(c.msgcount for c in bag.connections):
        return bag
    bag.close()
    if bag.skipped:
        found = "; ".join(f"{topic} is {reason}" for topic, reason in bag.skipped.items())
        raise DataError(
            f"{show(path)}: none of its topics can be read: {found}; expected messages of ROS, encoded as {' or '.join(ENCODINGS)}: "
            "record or convert the drive as a ROS bag"
        )
    raise DataError(f"{show(path)}: the bag holds no messages; check that the recorded topics were being published")


def stamp_ns(header: Any) -> int:
    """Nanoseconds of a message header."""
    return header.stamp.sec * 10**9 + header.stamp.nanosec


def header(stamp: Any, frame_id: str) -> Any:
    """A `std_msgs/Header`."""
    return _library("cdr").types["std_msgs/msg/Header"](stamp, frame_id)


def calibration(message: Any, topic: str, rectified: bool = False) -> Calibration:
    """`from_camera_info`; raises `CalibrationError` for what no camera can have, such as the zeros of an uncalibrated one."""
    message = message if hasattr(message, "k") else _ros1_camera_info(message)
    found = from_camera_info(message, rectified)
    validate(found, f"{topic}: P, of rectified images" if rectified else topic)
    return found


def _ros1_camera_info(message: Any) -> SimpleNamespace:
    """ROS 1 names the matrices by capital letters."""
    return SimpleNamespace(**{name.lower(): value for name, value in vars(message).items()})


def _usual_types(connections: Sequence[Any]) -> dict[str, str]:
    """Of each topic the type of most of its messages: a name may have been used for something else for a while."""
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for c in connections:
        counts[c.topic][c.msgtype] += c.msgcount
    return {topic: kinds.most_common(1)[0][0] for topic, kinds in counts.items()}


def encoding_of(connection: Any) -> str:
    """How the messages of a connection are serialised: cdr (ROS 2), ros1, or what we do not read."""
    return getattr(connection.ext, "serialization_format", "ros1")


@lru_cache(maxsize=64)
def _defined(name: str, kind: Any, text: str) -> Any | None:
    """A store of the types that the definition of a type describes; None if it describes none."""
    from rosbags.interfaces import MessageDefinitionFormat
    from rosbags.typesys import Stores, get_types_from_idl, get_types_from_msg, get_typestore

    if kind == MessageDefinitionFormat.NONE or not text.strip():
        return None
    store = get_typestore(Stores.EMPTY)
    try:
        if kind == MessageDefinitionFormat.MSG:
            store.register(get_types_from_msg(text, name))
        else:
            for part in re.split(r"^=+\n(?:IDL: .*\n)?", text, flags=re.MULTILINE):
                if part.strip():
                    store.register(get_types_from_idl(part))
        store.get_msgdef(name)
    except Exception:  # a text that nobody checked: the parser lets through whatever it leads it to
        return None
    return store


@cache
def _library(encoding: str) -> Any:
    """The types that ROS itself has."""
    from rosbags.typesys import Stores, get_typestore

    return get_typestore(Stores.ROS2_KILTED if encoding == "cdr" else Stores.ROS1_NOETIC)


class _named:
    """Turns the errors of rosbags, and of what it reads with, into `DataError` that names the bag."""

    def __init__(self, path: Path):
        self.path = path

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, (LetOccError, ImportError, MemoryError)) or not isinstance(error, Exception):
            return
        if isinstance(error, OSError):
            at = show(error.filename or self.path)
            raise DataError(
                f"{at}: {error.strerror or error}; the file cannot be read: check its permissions and the disk"
            ) from error
        raise DataError(
            f"{show(self.path)}: the bag cannot be read ({type(error).__name__}: {error}); it is damaged or incomplete: "
            "copy or record it again, or try `ros2 bag reindex` (sqlite3), `mcap recover`, or `rosbag reindex` (ROS 1)"
        ) from error


def _camera_message(
    camera: CameraTopics, topic: str, message: Any, depth: images.BitDepth
) -> ImageMessage | CalibrationMessage:
    stamp, frame_id = stamp_ns(message.header), message.header.frame_id
    if topic == camera.info_topic:
        return CalibrationMessage(camera.name, stamp, frame_id, calibration(message, topic, camera.rectified))
    require_stamp(stamp, topic)
    return ImageMessage(camera.name, stamp, frame_id, images.decode(message, f"{topic} at {stamp} ns", depth))


def _odometry(topic: str, message: Any) -> OdometryMessage:
    header, pose = message.header, message.pose.pose
    stamp = require_stamp(stamp_ns(header), topic)
    q, t = pose.orientation, pose.position
    try:
        T = se3.from_quaternion(np.array([q.x, q.y, q.z, q.w]), np.array([t.x, t.y, t.z]))
    except DataError as error:
        raise DataError(f"{topic} at {stamp} ns: {error}") from error
    return OdometryMessage(header.frame_id.strip("/"), message.child_frame_id.strip("/"), stamp, T)


def _points(topic: str, message: Any) -> PointsMessage:
    stamp = require_stamp(stamp_ns(message.header), topic)
    return PointsMessage(topic, stamp, message.header.frame_id, pointcloud.to_xyz(message, f"{topic} at {stamp} ns"))


def _transform(topic: str, item: Any, static: bool) -> TransformMessage:
    q, t = item.transform.rotation, item.transform.translation
    parent, child = item.header.frame_id.strip("/"), item.child_frame_id.strip("/")
    source = f"{topic}: transform from '{child}' to '{parent}'"
    stamp = stamp_ns(item.header) if static else require_stamp(stamp_ns(item.header), source)
    try:
        T = se3.from_quaternion(np.array([q.x, q.y, q.z, q.w]), np.array([t.x, t.y, t.z]))
    except DataError as error:
        raise DataError(f"{source}: {error}") from error
    return TransformMessage(parent, child, stamp, T, static)
