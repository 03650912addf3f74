"""ROS messages <-> the arrays of `letocc_core`. The only module that knows how either is laid out.

Images are decoded by `letocc_core.stream.images`, which the bag reader uses too, so that the live node and the offline
replay see the same pixels; `cv_bridge`, where installed, adds the encodings which that does not know.
"""

import array
import sys
from collections.abc import Sequence

import numpy as np
from builtin_interfaces.msg import Time
from geometry_msgs.msg import Point, Pose, Quaternion, TransformStamped, Vector3
from jaxtyping import Bool
from nav_msgs.msg import OccupancyGrid
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2, PointField
from std_msgs.msg import Header

from letocc_core.errors import DataError
from letocc_core.geometry import se3
from letocc_core.stream import images
from letocc_core.stream.consumers.costmap import Band, column_costs, costs_in_fixed_frame, free_ends
from letocc_core.stream.packing import pack, unpack
from letocc_core.stream.types import Calibration, OccFlow
from letocc_ros.msg import OccFlowGrid

POINT_FIELDS = ("x", "y", "z", "probability", "vx", "vy")


def to_ns(stamp: Time) -> int:
    """`builtin_interfaces/Time` -> ns."""
    return stamp.sec * 10**9 + stamp.nanosec


def from_ns(stamp_ns: int) -> Time:
    """ns -> `builtin_interfaces/Time`."""
    seconds, nanoseconds = divmod(int(stamp_ns), 10**9)
    return Time(sec=seconds, nanosec=nanoseconds)


def image_to_rgb(message: Image | CompressedImage, topic: str, depth: images.BitDepth | None = None) -> np.ndarray:
    """uint8 RGB [h, w, 3] of a raw or compressed image; raises `DataError` that names the topic and the stamp.

    Args:
        depth: of the images of this topic so far; see `letocc_core.stream.images`.
    """
    source = f"{topic} at {to_ns(message.header.stamp)} ns"
    if isinstance(message, Image) and message.encoding not in images.SUPPORTED:
        bridged = _bridge_to_rgb(message, source)
        if bridged is not None:
            return bridged
    return images.decode(message, source, depth)


def rgb_to_image(image: np.ndarray, stamp_ns: int, frame_id: str) -> Image:
    """A raw `rgb8` message of a uint8 RGB [h, w, 3] image."""
    height, width = image.shape[:2]
    return Image(
        header=make_header(stamp_ns, frame_id),
        height=height,
        width=width,
        encoding="rgb8",
        step=3 * width,
        data=_bytes(image),
    )


def rgb_to_compressed(image: np.ndarray, stamp_ns: int, frame_id: str, kind: str = "jpeg") -> CompressedImage:
    """A compressed message (`kind` jpeg or png) of a uint8 RGB [h, w, 3] image."""
    return CompressedImage(
        header=make_header(stamp_ns, frame_id), format=kind, data=array.array("B", images.encode(image, kind))
    )


def calibration_to_camera_info(calibration: Calibration, stamp_ns: int, frame_id: str) -> CameraInfo:
    """Intrinsics without rectification (R = identity, P = [K | 0])."""
    K = np.asarray(calibration.K, np.float64)
    return CameraInfo(
        header=make_header(stamp_ns, frame_id),
        width=calibration.width,
        height=calibration.height,
        distortion_model=calibration.distortion_model,
        d=np.asarray(calibration.D, np.float64).tolist(),
        k=K.reshape(-1).tolist(),
        r=np.eye(3).reshape(-1).tolist(),
        p=np.hstack([K, np.zeros((3, 1))]).reshape(-1).tolist(),
    )


def transform_to_matrix(message: TransformStamped) -> np.ndarray:
    """[4, 4] float64 (m), child -> parent; raises `DataError` for numbers that are no transform."""
    return _matrix(message.transform.rotation, message.transform.translation)


def pose_to_matrix(message: Pose) -> np.ndarray:
    """[4, 4] float64 (m), the posed frame -> the frame that the pose is in; raises as `transform_to_matrix`."""
    return _matrix(message.orientation, message.position)


def matrix_to_transform(T: np.ndarray, stamp_ns: int, parent: str, child: str) -> TransformStamped:
    """`TransformStamped` of a [4, 4] matrix (m) that maps child -> parent."""
    quaternion, translation = se3.to_quaternion(T)
    message = TransformStamped(header=make_header(stamp_ns, parent), child_frame_id=child)
    message.transform.translation = Vector3(**dict(zip("xyz", translation.tolist(), strict=True)))
    for axis, value in zip("xyzw", quaternion.tolist(), strict=True):
        setattr(message.transform.rotation, axis, value)
    return message


def to_grid_message(answer: OccFlow, frame_id: str) -> OccFlowGrid:
    """`OccFlowGrid`: every probability, and the occupied voxels' velocities."""
    grid, packed = answer.grid, pack(answer)
    return OccFlowGrid(
        header=make_header(answer.stamp_ns, frame_id),
        voxel_size=grid.voxel_size,
        origin=Point(**dict(zip("xyz", map(float, grid.lower), strict=True))),
        size_x=grid.shape[0],
        size_y=grid.shape[1],
        size_z=grid.shape[2],
        probability=_bytes(packed.probability),
        threshold=float(answer.threshold),
        occupied=_array("I", packed.occupied),
        vx=_array("f", packed.velocity[:, 0]),
        vy=_array("f", packed.velocity[:, 1]),
        class_names=list(answer.class_names),
        labels=_bytes(packed.labels),
        visibility=_bytes(packed.visibility),
    )


def from_grid_message(message: OccFlowGrid) -> OccFlow:
    """What a subscriber knows of an answer: probabilities in steps of 1 / 254, velocities of occupied voxels only.

    Raises `DataError` for arrays whose sizes contradict the grid.
    """
    return unpack(message)


def to_point_cloud(answer: OccFlow, frame_id: str, lowest: float = -np.inf, highest: float = np.inf) -> PointCloud2:
    """Centres (m) of the occupied voxels with probability and velocity (m/s): float32 x, y, z, probability, vx, vy.

    Only those between two heights (m, in the ego frame), and none that is hidden.
    """
    shown = np.flatnonzero(answer.surfaces & Band(lowest, highest).layers(answer))
    rows = np.empty((len(shown), len(POINT_FIELDS)), np.float32)
    rows[:, :3] = answer.grid.centres_of(np.stack(np.unravel_index(shown, answer.grid.shape), axis=-1))
    rows[:, 3], rows[:, 4:] = answer.probability.reshape(-1)[shown], answer.velocity.reshape(-1, 2)[shown]
    return _cloud(make_header(answer.stamp_ns, frame_id), POINT_FIELDS, rows)


def _cloud(header: Header, names: Sequence[str], rows: np.ndarray) -> PointCloud2:
    """A cloud of finite points [n, len(names)], float32."""
    fields = [PointField(name=name, offset=4 * i, datatype=PointField.FLOAT32, count=1) for i, name in enumerate(names)]
    rows = np.ascontiguousarray(rows, np.float32)
    width = rows.itemsize * len(fields)
    return PointCloud2(
        header=header,
        height=1,
        width=len(rows),
        fields=fields,
        is_bigendian=sys.byteorder == "big",
        point_step=width,
        row_step=width * len(rows),
        data=_bytes(rows),
        is_dense=True,
    )


def to_costmap(
    answer: OccFlow,
    frame_id: str,
    band: Band,
    without: Bool[np.ndarray, "X Y Z"] | None = None,
    T_fixed_ego: np.ndarray | None = None,
) -> OccupancyGrid:
    """Bird's-eye view of what stands in a band of heights (`column_costs`), as Nav2's static layer reads it.

    Args:
        frame_id: of the ego frame or, with `T_fixed_ego` ([4, 4], m), of the fixed one (`costs_in_fixed_frame`).
    """
    grid, cost = answer.grid, column_costs(answer, band, without)
    corner = tuple(map(float, grid.lower[:2]))
    if T_fixed_ego is not None:
        cost, corner = costs_in_fixed_frame(cost, grid, T_fixed_ego)
    message = OccupancyGrid(header=make_header(answer.stamp_ns, frame_id), data=_array("b", cost.T))  # rows along x
    message.info.map_load_time = message.header.stamp
    message.info.resolution = grid.voxel_size
    message.info.width, message.info.height = cost.shape
    message.info.origin.position.x, message.info.origin.position.y = corner
    return message


def to_clearing(answer: OccFlow, frame_id: str, band: Band, blind: float) -> PointCloud2:
    """Where free space ends as seen from the frame's origin (`free_ends`), for layers that clear along rays."""
    return _cloud(make_header(answer.stamp_ns, frame_id), ("x", "y", "z"), free_ends(answer, band, blind))


def _bridge_to_rgb(message: Image, source: str) -> np.ndarray | None:
    """The image through cv_bridge, or None where that is not installed."""
    try:
        import cv_bridge
    except ImportError:
        return None
    try:
        return cv_bridge.CvBridge().imgmsg_to_cv2(message, desired_encoding="rgb8")
    except cv_bridge.CvBridgeError as error:
        raise DataError(f"{source}: cv_bridge cannot turn encoding '{message.encoding}' into rgb8: {error}") from error


def _matrix(q: Quaternion, t: Vector3 | Point) -> np.ndarray:
    return se3.from_quaternion(np.array([q.x, q.y, q.z, q.w]), np.array([t.x, t.y, t.z]))


def make_header(stamp_ns: int, frame_id: str) -> Header:
    return Header(stamp=from_ns(stamp_ns), frame_id=frame_id)


def _array(code: str, values: np.ndarray) -> array.array:
    """What message fields take without looking at every number."""
    out = array.array(code)
    out.frombytes(np.ascontiguousarray(values).tobytes())
    return out


def _bytes(values: np.ndarray) -> array.array:
    return _array("B", values)
