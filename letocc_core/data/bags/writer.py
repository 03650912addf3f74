"""Writes ROS 2 bags (MCAP or sqlite3) without ROS: camera images, camera_info, transforms, point clouds.

Topics follow image_transport: `/<camera>/image_raw/compressed` (or `/image_raw`) and `/<camera>/camera_info`; the
camera's frame is `<camera>_optical`. Every message is received at its stamp, so that a replay keeps the timing.
"""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np

from letocc_core.data.bags import pointcloud
from letocc_core.errors import DataError
from letocc_core.geometry import se3
from letocc_core.stream import images
from letocc_core.stream.types import Calibration

BAG_VERSION: Literal[8] = 8  # of rosbag2's metadata; version 9 writes QoS in a way that Humble does not read


def optical_frame(camera: str) -> str:
    """TF frame of a camera's images."""
    return f"{camera}_optical"


class BagWriter:
    """A bag being written; a context manager. At `path` stands a whole bag or none.

    It is written in a folder `.<name>.part` beside, which an exception removes, and the next attempt after a kill.

        with BagWriter(Path("out/street")) as bag:
            bag.write_tf_static(0, [("base_link", optical_frame("camera_front"), T_base_camera)])
            bag.write_image("camera_front", stamp_ns, rgb)

    Raises `DataError` if `path` exists already.
    """

    def __init__(self, path: str | Path, storage: Literal["mcap", "sqlite3"] = "mcap"):
        from rosbags.rosbag2 import StoragePlugin, Writer
        from rosbags.typesys import Stores, get_typestore

        self.path = Path(path)
        if self.path.exists():
            raise DataError(f"{self.path}: exists already; delete it or choose another folder for the bag")
        self.typestore = get_typestore(Stores.ROS2_KILTED)
        plugin = {"mcap": StoragePlugin.MCAP, "sqlite3": StoragePlugin.SQLITE3}[storage]
        self._part = self.path.with_name(f".{self.path.name}.part")
        shutil.rmtree(self._part, ignore_errors=True)
        self._writer = Writer(self._part / self.path.name, version=BAG_VERSION, storage_plugin=plugin)
        self._connections: dict[str, Any] = {}

    def __enter__(self) -> "BagWriter":
        self._writer.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._writer.close()
                (self._part / self.path.name).rename(self.path)
            else:
                self._writer.abort()
        finally:
            shutil.rmtree(self._part, ignore_errors=True)

    def write_image(
        self,
        camera: str,
        stamp_ns: int,
        rgb: np.ndarray,
        kind: Literal["jpeg", "png", "raw"] = "jpeg",
        quality: int = 95,
    ) -> None:
        """An RGB uint8 [h, w, 3] image on `/<camera>/image_raw/compressed`, or on `/<camera>/image_raw` if raw."""
        if kind != "raw":
            self.write_encoded_image(camera, stamp_ns, images.encode(rgb, kind, quality), kind)
            return
        height, width = rgb.shape[:2]
        self.write(
            f"/{camera}/image_raw",
            "sensor_msgs/msg/Image",
            stamp_ns,
            header=self.header(stamp_ns, optical_frame(camera)),
            height=height,
            width=width,
            encoding="rgb8",
            is_bigendian=0,
            step=3 * width,
            data=np.ascontiguousarray(rgb).reshape(-1),
        )

    def write_encoded_image(self, camera: str, stamp_ns: int, data: bytes, kind: Literal["jpeg", "png"]) -> None:
        """The bytes of a JPEG or PNG file, as they are, on `/<camera>/image_raw/compressed`."""
        self.write(
            f"/{camera}/image_raw/compressed",
            "sensor_msgs/msg/CompressedImage",
            stamp_ns,
            header=self.header(stamp_ns, optical_frame(camera)),
            format=kind,
            data=np.frombuffer(data, np.uint8),
        )

    def write_camera_info(self, camera: str, stamp_ns: int, calibration: Calibration) -> None:
        """Intrinsics on `/<camera>/camera_info`; no rectification (R = identity, P = [K | 0])."""
        K = np.asarray(calibration.K, np.float64)
        self.write(
            f"/{camera}/camera_info",
            "sensor_msgs/msg/CameraInfo",
            stamp_ns,
            header=self.header(stamp_ns, optical_frame(camera)),
            height=calibration.height,
            width=calibration.width,
            distortion_model=calibration.distortion_model,
            d=np.asarray(calibration.D, np.float64),
            k=K.reshape(-1),
            r=np.eye(3).reshape(-1),
            p=np.hstack([K, np.zeros((3, 1))]).reshape(-1),
            binning_x=0,
            binning_y=0,
            roi=self.message(
                "sensor_msgs/msg/RegionOfInterest", x_offset=0, y_offset=0, height=0, width=0, do_rectify=False
            ),
        )

    def write_tf(self, stamp_ns: int, parent: str, child: str, T_parent_child: np.ndarray) -> None:
        """One moving transform on `/tf`."""
        self._write_transforms("/tf", stamp_ns, [(parent, child, T_parent_child)])

    def write_tf_static(self, stamp_ns: int, transforms: Sequence[tuple[str, str, np.ndarray]]) -> None:
        """Constant transforms (parent, child, T_parent_child) on `/tf_static`, recorded as transient local."""
        self._write_transforms("/tf_static", stamp_ns, transforms)

    def write_odometry(self, topic: str, stamp_ns: int, parent: str, child: str, T_parent_child: np.ndarray) -> None:
        """The pose of `child` in `parent` (m) as nav_msgs/Odometry; its twist is zero and its covariances unknown (zero)."""
        quaternion, translation = se3.to_quaternion(T_parent_child)

        def vector(values: np.ndarray, kind: str = "Vector3") -> Any:
            return self.message(f"geometry_msgs/msg/{kind}", **dict(zip("xyzw", values, strict=False)))

        pose = self.message(
            "geometry_msgs/msg/Pose",
            position=vector(translation, "Point"),
            orientation=vector(quaternion, "Quaternion"),
        )
        twist = self.message("geometry_msgs/msg/Twist", linear=vector(np.zeros(3)), angular=vector(np.zeros(3)))
        self.write(
            topic,
            "nav_msgs/msg/Odometry",
            stamp_ns,
            header=self.header(stamp_ns, parent),
            child_frame_id=child,
            pose=self.message("geometry_msgs/msg/PoseWithCovariance", pose=pose, covariance=np.zeros(36)),
            twist=self.message("geometry_msgs/msg/TwistWithCovariance", twist=twist, covariance=np.zeros(36)),
        )

    def write_points(
        self, stamp_ns: int, frame_id: str, columns: Mapping[str, np.ndarray], topic: str = "/points"
    ) -> None:
        """A point cloud: columns of equal length, at least x, y, z (float32, m, in `frame_id`)."""
        fields, point_step, data = pointcloud.pack(columns)
        count = len(data) // point_step
        self.write(
            topic,
            "sensor_msgs/msg/PointCloud2",
            stamp_ns,
            header=self.header(stamp_ns, frame_id),
            height=1,
            width=count,
            fields=[
                self.message("sensor_msgs/msg/PointField", name=name, offset=offset, datatype=datatype, count=1)
                for name, offset, datatype in fields
            ],
            is_bigendian=False,
            point_step=point_step,
            row_step=point_step * count,
            data=data,
            is_dense=True,
        )

    def write(self, topic: str, kind: str, stamp_ns: int, **fields: Any) -> None:
        """A message of any type that the writer knows, given by its fields; kind like `std_msgs/msg/String`."""
        self.write_raw(topic, kind, stamp_ns, self.typestore.serialize_cdr(self.message(kind, **fields), kind))

    def write_raw(self, topic: str, kind: str, stamp_ns: int, data: bytes | memoryview) -> None:
        """A message that is serialised (CDR) already."""
        if topic not in self._connections:
            self._connections[topic] = self._writer.add_connection(
                topic, kind, typestore=self.typestore, offered_qos_profiles=[_qos(latched=topic == "/tf_static")]
            )
        self._writer.write(self._connections[topic], int(stamp_ns), data)

    def copy(self, connection: Any, types: Any, stamp_ns: int, data: bytes | memoryview) -> None:
        """A message of another bag as it is (CDR), on its topic, offered as there.

        Args:
            connection: of rosbags.
            types: its store of types that knows this one.
        """
        if connection.topic not in self._connections:
            offered = getattr(connection.ext, "offered_qos_profiles", None)
            self._connections[connection.topic] = self._writer.add_connection(
                connection.topic,
                connection.msgtype,
                typestore=types,
                offered_qos_profiles=offered or [_qos(latched=connection.topic.endswith("/tf_static"))],
            )
        self._writer.write(self._connections[connection.topic], int(stamp_ns), data)

    def register(self, kind: str, definition: str) -> None:
        """Teach the writer a message type by the text of its `.msg` file; kind like `my_package/msg/Thing`."""
        from rosbags.typesys import get_types_from_msg

        self.typestore.register(get_types_from_msg(definition, kind))

    def message(self, kind: str, **fields: Any) -> Any:
        """A message object of type `kind`."""
        return self.typestore.types[kind](**fields)

    def header(self, stamp_ns: int, frame_id: str) -> Any:
        """A `std_msgs/Header`."""
        seconds, nanoseconds = divmod(int(stamp_ns), 10**9)
        stamp = self.message("builtin_interfaces/msg/Time", sec=seconds, nanosec=nanoseconds)
        return self.message("std_msgs/msg/Header", stamp=stamp, frame_id=frame_id)

    def _write_transforms(self, topic: str, stamp_ns: int, transforms: Sequence[tuple[str, str, np.ndarray]]) -> None:
        def convert(parent: str, child: str, T: np.ndarray) -> Any:
            quaternion, translation = se3.to_quaternion(T)
            return self.message(
                "geometry_msgs/msg/TransformStamped",
                header=self.header(stamp_ns, parent),
                child_frame_id=child,
                transform=self.message(
                    "geometry_msgs/msg/Transform",
                    translation=self.message("geometry_msgs/msg/Vector3", **dict(zip("xyz", translation, strict=True))),
                    rotation=self.message("geometry_msgs/msg/Quaternion", **dict(zip("xyzw", quaternion, strict=True))),
                ),
            )

        self.write(topic, "tf2_msgs/msg/TFMessage", stamp_ns, transforms=[convert(*t) for t in transforms])


def _qos(latched: bool) -> Any:
    """Reliable, as recorded from an ordinary publisher; `latched` = transient local, for late subscribers."""
    from rosbags.interfaces import Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime

    forever = QosTime(9223372036, 854775807)
    return Qos(
        history=QosHistory.KEEP_LAST,
        depth=1 if latched else 10,
        reliability=QosReliability.RELIABLE,
        durability=QosDurability.TRANSIENT_LOCAL if latched else QosDurability.VOLATILE,
        deadline=forever,
        lifespan=forever,
        liveliness=QosLiveliness.AUTOMATIC,
        liveliness_lease_duration=forever,
        avoid_ros_namespace_conventions=False,
    )
