"""Reads any bag without ROS, and gives its messages in the types of `letocc_core.stream`.

ROS 2: MCAP or sqlite3, in one file or split, with files or messages compressed. ROS 1: `.bag` files, one or a folder.

Cameras are found by their `camera_info` topics: `/<camera>/camera_info` with an image topic below `/<camera>/`. Stamps
are those of the message headers (ns); messages come as they were recorded, constant transforms first.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from letocc_core.data.bags import pointcloud
from letocc_core.errors import DataError, LetOccError
from letocc_core.geometry import se3
from letocc_core.geometry.calibration import Calibration, from_camera_info, validate
from letocc_core.stream import images
from letocc_core.stream.stamps import require_stamp

IMAGE = "sensor_msgs/msg/Image"
COMPRESSED = "sensor_msgs/msg/CompressedImage"
CAMERA_INFO = "sensor_msgs/msg/CameraInfo"
POINTS = "sensor_msgs/msg/PointCloud2"
TRANSFORMS = ("tf2_msgs/msg/TFMessage", "tf/msg/tfMessage")  # the latter in old ROS 1 bags
ODOMETRY = "nav_msgs/msg/Odometry"

MCAP_MAGIC = b"\x89MCAP0\r\n"
PREFERRED = ("image_raw/compressed", "image_raw", "image/compressed", "image")  # below a camera's namespace


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


Message = ImageMessage | CalibrationMessage | TransformMessage | OdometryMessage | PointsMessage
Damaged = Callable[[DataError], None]  # what is told of a message that cannot be read


@dataclass(frozen=True)
class CameraTopics:
    """The topics of one camera."""

    name: str  # namespace without the leading slash
    info_topic: str
    image_topic: str

    @property
    def rectified(self) -> bool:
        """The images are rectified already: P holds their intrinsics and there is no distortion."""
        return "rect" in self.image_topic.removeprefix(f"/{self.name}")


class Bag:
    """A bag that is open for reading; a context manager (see `open_bag`)."""

    def __init__(self, path: Path):
        from rosbags.highlevel import AnyReader
        from rosbags.typesys import Stores, get_typestore

        self.path = path
        with _named(path):
            self._ros2_types = get_typestore(Stores.ROS2_KILTED)
            self._reader = AnyReader(_sources(path), default_typestore=self._ros2_types)
            self._reader.open()
        self.connections = list(self._reader.connections)
        self.cameras = {c.name: c for c in _find_cameras(self.topics(CAMERA_INFO), self.topics(IMAGE, COMPRESSED))}
        self.lidar_topics = self.topics(POINTS)
        self.odometry_topics = self.topics(ODOMETRY)

    def __enter__(self) -> "Bag":
        return self

    def __exit__(self, *error) -> None:
        self.close()

    def close(self) -> None:
        self._reader.close()

    def topics(self, *kinds: str) -> list[str]:
        """Topics of these message types that hold at least one message, sorted."""
        return sorted({c.topic for c in self.connections if c.msgtype in kinds and c.msgcount})

    def choose_cameras(self, names: Sequence[str] = ()) -> tuple[CameraTopics, ...]:
        """The cameras asked for, or all; `DataError` if one of them, or any at all, is not in the bag."""
        if not self.cameras:
            found = ", ".join(self.topics(IMAGE, COMPRESSED)) or "none"
            raise DataError(
                f"{self.path}: no camera: expected /<camera>/camera_info with an image topic below /<camera>/; "
                f"image topics found: {found}. Record camera_info as well"
            )
        missing = [name for name in names if name not in self.cameras]
        if missing:
            raise DataError(f"{self.path}: no camera '{missing[0]}'; cameras found: {', '.join(self.cameras)}")
        return tuple(self.cameras[name] for name in names or self.cameras)

    def raw(self, topics: Sequence[str]) -> Iterator[tuple[str, int, Any]]:
        """(topic, receive time in ns, deserialised message) of some topics, in recorded order."""
        for connection, received_ns, data in self._messages(topics):
            try:
                message = self._deserialize(connection, data)
            except DataError as error:
                raise DataError(f"{self.path}: {error}") from error
            yield connection.topic, received_ns, message

    def serialized(self, topics: Sequence[str]) -> Iterator[tuple[Any, int, bytes]]:
        """(connection, receive time in ns, CDR bytes) of some topics, in recorded order; nothing is deserialised."""
        for connection, received_ns, data in self._messages(topics):
            if not self._reader.is2:
                data = self._ros2_types.ros1_to_cdr(data, connection.msgtype)
            yield connection, received_ns, data

    def _messages(self, topics: Sequence[str]) -> Iterator[tuple[Any, int, bytes]]:
        """(connection, receive time in ns, bytes as recorded) of some topics."""
        connections = [c for c in self.connections if c.topic in topics]
        if connections:
            with _named(self.path):
                yield from self._reader.messages(connections)

    def _deserialize(self, connection: Any, data: bytes) -> Any:
        try:
            return self._reader.deserialize(data, connection.msgtype)
        except Exception as error:  # rosbags lets through whatever the bytes lead it to: struct.error, IndexError, ...
            raise DataError(
                f"{connection.topic}: {len(data)} bytes that are no {connection.msgtype} ({type(error).__name__}: "
                f"{error}); the message is damaged, or of another version of that type"
            ) from error

    def _decoded(
        self, topics: Sequence[str], decode: Callable[[str, Any], Message], damaged: Damaged | None
    ) -> Iterator[Message]:
        """What `decode(topic, item)` makes of the messages of some topics; those of transforms item by item."""
        for connection, _, data in self._messages(topics):
            items = []
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
                raise DataError(f"{self.path}: {error}") from error
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
                return _camera_message(by_topic[topic], topic, item)
            return _odometry(topic, item) if topic == odometry_topic else _points(topic, item)

        yield from self.transforms(static=True, damaged=damaged)
        for camera in chosen:
            yield from islice(self._decoded([camera.info_topic], decode, damaged), 1)
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
        return [topic for topic in self.topics(*TRANSFORMS) if topic.endswith("tf_static") == static]


def open_bag(path: str | Path) -> Bag:
    """Open a bag folder, or one `.mcap`, `.db3` or (ROS 1) `.bag` file of it, for reading.

    Raises `DataError`: no such bag, one that is empty, truncated or otherwise unreadable.
    """
    bag = Bag(Path(path))
    if not any(c.msgcount for c in bag.connections):
        bag.close()
        raise DataError(f"{path}: the bag holds no messages; check that the recorded topics were being published")
    return bag


def stamp_ns(header: Any) -> int:
    """Nanoseconds of a message header."""
    return header.stamp.sec * 10**9 + header.stamp.nanosec


def calibration(message: Any, topic: str, rectified: bool = False) -> Calibration:
    """`from_camera_info`; raises `CalibrationError` for what no camera can have, such as the zeros of an uncalibrated one."""
    message = message if hasattr(message, "k") else _ros1_camera_info(message)
    found = from_camera_info(message, rectified)
    validate(found, topic)
    return found


def _ros1_camera_info(message: Any) -> SimpleNamespace:
    """ROS 1 names the matrices by capital letters."""
    return SimpleNamespace(**{name.lower(): value for name, value in vars(message).items()})


def _sources(path: Path) -> list[Path]:
    """What rosbags should open: the folder with its metadata.yaml, the storage file itself, or files of ROS 1."""
    if not path.exists():
        near = ", ".join(sorted(p.name for p in path.parent.glob("*") if p.is_dir() or _is_storage(p))) or "nothing"
        raise DataError(f"{path}: no such bag; beside it: {near}")
    ros1 = [path] if path.suffix == ".bag" else sorted(path.glob("*.bag"))
    if ros1:
        for file in ros1:
            _check_complete(file)
        return ros1
    storages = [path] if path.is_file() else sorted(p for p in path.iterdir() if _is_storage(p))
    if not storages:
        raise DataError(f"{path}: no .mcap, .db3 or .bag file in it; expected the folder that `ros2 bag record` wrote")
    for storage in storages:
        _check_complete(storage)
    if path.is_file() or (path / "metadata.yaml").exists():
        return [path]
    if len(storages) > 1:
        raise DataError(f"{path}: metadata.yaml is missing; write it anew: ros2 bag reindex {path}")
    return [storages[0]]


def _is_storage(path: Path) -> bool:
    return path.is_file() and bool({".mcap", ".db3"} & set(path.suffixes))  # also of compressed files: .mcap.zstd


def _check_complete(path: Path) -> None:
    """A recorder that is killed leaves an MCAP file without its index and end marker, or an empty file."""
    size = path.stat().st_size
    if size == 0:
        raise DataError(f"{path}: an empty file; the recording was not written")
    if path.suffix != ".mcap":
        return
    with path.open("rb") as file:
        start = file.read(len(MCAP_MAGIC))
        file.seek(max(0, size - len(MCAP_MAGIC)))
        end = file.read()
    if start != MCAP_MAGIC:
        raise DataError(f"{path}: not an MCAP file; it starts with {start!r}, expected {MCAP_MAGIC!r}")
    if end != MCAP_MAGIC:
        raise DataError(
            f"{path}: truncated: {size} bytes without the end marker of MCAP, as a killed recorder or an interrupted "
            f"copy leaves it; save what is readable with: mcap recover {path.name} -o recovered.mcap"
        )


class _named:
    """Turns the errors of rosbags, and of what it reads with, into `DataError` that names the bag."""

    def __init__(self, path: Path):
        self.path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind, error, trace) -> None:
        if isinstance(error, Exception) and not isinstance(error, (LetOccError, ImportError)):
            raise DataError(
                f"{self.path}: the bag cannot be read ({type(error).__name__}: {error}); it is damaged or incomplete: "
                "copy or record it again, or try `ros2 bag reindex` (sqlite3), `mcap recover`, or `rosbag reindex` (ROS 1)"
            ) from error


def _find_cameras(info_topics: Sequence[str], image_topics: Sequence[str]) -> Iterator[CameraTopics]:
    for info_topic in info_topics:
        namespace = info_topic.rpartition("/")[0]
        below = {t.removeprefix(f"{namespace}/"): t for t in image_topics if t.startswith(f"{namespace}/")}
        usable = {name: t for name, t in below.items() if name.startswith("image") and "depth" not in name.lower()}
        rank = {name: i for i, name in enumerate(PREFERRED)}
        if usable:
            best = min(usable, key=lambda name: (rank.get(name, len(rank)), name))
            yield CameraTopics(namespace.strip("/"), info_topic, usable[best])


def _camera_message(camera: CameraTopics, topic: str, message: Any) -> ImageMessage | CalibrationMessage:
    stamp, frame_id = stamp_ns(message.header), message.header.frame_id
    if topic == camera.info_topic:
        return CalibrationMessage(camera.name, stamp, frame_id, calibration(message, topic, camera.rectified))
    require_stamp(stamp, topic)
    source = f"{topic} at {stamp} ns"
    if hasattr(message, "format"):
        image = images.decode_compressed(message.data, source)
    else:
        image = images.decode_raw(
            message.encoding,
            message.height,
            message.width,
            message.step,
            message.data,
            bool(message.is_bigendian),
            source,
        )
    return ImageMessage(camera.name, stamp, frame_id, image)


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
    stamp = stamp_ns(message.header)
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
