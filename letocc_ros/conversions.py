"""ROS messages <-> the arrays of `letocc_core`. The only module that knows how either is laid out.

Images are decoded by `letocc_core.stream.images`, which the bag reader uses too, so that the live node and the offline
replay see the same pixels; `cv_bridge`, where installed, adds the encodings which that does not know. Clouds and
rotations come from `sensor_msgs_py` and `tf_transformations` where those are installed, with the same numbers.
"""

import array
import functools
import importlib
import math
import sys
from collections.abc import Sequence
from types import ModuleType

import numpy as np
from builtin_interfaces.msg import Time
from geometry_msgs.msg import Point, Pose, Quaternion, TransformStamped, Vector3
from nav_msgs.msg import OccupancyGrid
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2, PointField
from std_msgs.msg import ColorRGBA, Header
from visualization_msgs.msg import Marker, MarkerArray

from letocc_core.errors import ConfigError, DataError
from letocc_core.geometry import se3
from letocc_core.geometry.grid import GridSpec
from letocc_core.stream import images
from letocc_core.stream.objects import MovingObject
from letocc_core.stream.packing import PROBABILITY_STEPS, pack
from letocc_core.stream.types import Calibration, OccFlow
from letocc_ros.msg import OccFlowGrid

UNKNOWN, OCCUPIED = -1, 100  # of `nav_msgs/OccupancyGrid`
POINT_FIELDS = ("x", "y", "z", "probability", "vx", "vy")
FULL_SPEED = 10.0  # m/s at the end of the colour ramp
COLOUR_STEPS = 64
# Blue, cyan, green, yellow, red (RGB in [0, 1]).
RAMP = np.array([[0.1, 0.2, 0.7], [0.1, 0.7, 0.8], [0.3, 0.8, 0.3], [0.95, 0.85, 0.2], [0.9, 0.2, 0.15]])


def to_ns(stamp: Time) -> int:
    """`builtin_interfaces/Time` -> ns."""
    return stamp.sec * 10**9 + stamp.nanosec


def from_ns(stamp_ns: int) -> Time:
    """ns -> `builtin_interfaces/Time`."""
    seconds, nanoseconds = divmod(int(stamp_ns), 10**9)
    return Time(sec=seconds, nanosec=nanoseconds)


def image_to_rgb(message: Image | CompressedImage, topic: str) -> np.ndarray:
    """uint8 RGB [h, w, 3] of a raw or compressed image; raises `DataError` that names the topic and the stamp."""
    source = f"{topic} at {to_ns(message.header.stamp)} ns"
    if isinstance(message, CompressedImage):
        return images.decode_compressed(message.data, source)
    if message.encoding not in images.ENCODINGS and (bridged := _bridge_to_rgb(message, source)) is not None:
        return bridged
    return images.decode_raw(
        message.encoding,
        message.height,
        message.width,
        message.step,
        message.data,
        bool(message.is_bigendian),
        source,
    )


def rgb_to_image(image: np.ndarray, stamp_ns: int, frame_id: str) -> Image:
    """A raw `rgb8` message of a uint8 RGB [h, w, 3] image."""
    height, width = image.shape[:2]
    return Image(
        header=_header(stamp_ns, frame_id),
        height=height,
        width=width,
        encoding="rgb8",
        step=3 * width,
        data=_bytes(image),
    )


def rgb_to_compressed(image: np.ndarray, stamp_ns: int, frame_id: str, kind: str = "jpeg") -> CompressedImage:
    """A compressed message (`kind` jpeg or png) of a uint8 RGB [h, w, 3] image."""
    return CompressedImage(
        header=_header(stamp_ns, frame_id), format=kind, data=array.array("B", images.encode(image, kind))
    )


def calibration_to_camera_info(calibration: Calibration, stamp_ns: int, frame_id: str) -> CameraInfo:
    """Intrinsics without rectification (R = identity, P = [K | 0])."""
    K = np.asarray(calibration.K, np.float64)
    return CameraInfo(
        header=_header(stamp_ns, frame_id),
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
    message = TransformStamped(header=_header(stamp_ns, parent), child_frame_id=child)
    message.transform.translation = Vector3(**dict(zip("xyz", translation.tolist(), strict=True)))
    for axis, value in zip("xyzw", quaternion.tolist(), strict=True):
        setattr(message.transform.rotation, axis, value)
    return message


def to_grid_message(answer: OccFlow, frame_id: str) -> OccFlowGrid:
    """`OccFlowGrid`: every probability, and the occupied voxels' velocities."""
    grid, packed = answer.grid, pack(answer)
    return OccFlowGrid(
        header=_header(answer.stamp_ns, frame_id),
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
    )


def from_grid_message(message: OccFlowGrid) -> OccFlow:
    """What a subscriber knows of an answer: probabilities in steps of 1 / 254, velocities of occupied voxels only.

    Raises `DataError` for arrays whose sizes contradict the grid.
    """
    shape = (message.size_x, message.size_y, message.size_z)
    source = f"OccFlowGrid at {to_ns(message.header.stamp)} ns"
    stored = np.frombuffer(message.probability, np.uint8)
    occupied = np.frombuffer(message.occupied, np.uint32)
    if len(stored) != math.prod(shape):
        raise DataError(f"{source}: {len(stored)} probabilities, expected {' x '.join(map(str, shape))}")
    if not len(occupied) == len(message.vx) == len(message.vy) or (occupied >= len(stored)).any():
        raise DataError(
            f"{source}: {len(occupied)} occupied voxels, {len(message.vx)} vx, {len(message.vy)} vy; "
            f"expected as many of each, and indices below {len(stored)}"
        )
    if message.class_names and len(message.labels) != len(occupied):
        raise DataError(f"{source}: {len(message.labels)} labels of {len(occupied)} occupied voxels, expected as many")
    stored = stored.reshape(shape)
    velocity = np.zeros((stored.size, 2), np.float32)
    velocity[occupied] = np.stack([np.frombuffer(message.vx, np.float32), np.frombuffer(message.vy, np.float32)], -1)
    return OccFlow(
        stamp_ns=to_ns(message.header.stamp),
        grid=_grid_of(message, source),
        probability=np.where(stored == OccFlowGrid.NOT_SEEN, 0, stored).astype(np.float32) / PROBABILITY_STEPS,
        velocity=velocity.reshape(*shape, 2),
        observed=stored != OccFlowGrid.NOT_SEEN,
        threshold=message.threshold,
        labels=_labels_of(message, occupied, shape),
        class_names=tuple(message.class_names),
    )


def to_point_cloud(answer: OccFlow, frame_id: str, lowest: float = -np.inf, highest: float = np.inf) -> PointCloud2:
    """Centres (m) of the occupied voxels with probability and velocity (m/s): float32 x, y, z, probability, vx, vy.

    Only those between two heights (m, in the ego frame).
    """
    band = _between(answer.grid, lowest, highest)
    index = np.argwhere(answer.occupied & band)
    rows = np.column_stack(
        [answer.grid.centres_of(index), answer.probability[tuple(index.T)], answer.velocity[tuple(index.T)]]
    ).astype(np.float32)
    fields = [
        PointField(name=name, offset=4 * i, datatype=PointField.FLOAT32, count=1) for i, name in enumerate(POINT_FIELDS)
    ]
    cloud = _cloud(_header(answer.stamp_ns, frame_id), fields, rows)
    cloud.is_dense = True
    return cloud


def _cloud(header: Header, fields: list[PointField], rows: np.ndarray) -> PointCloud2:
    """A cloud of points [n, len(fields)], float32; made by sensor_msgs_py where that is installed."""
    if (library := _installed("sensor_msgs_py.point_cloud2")) is not None:
        points = np.ascontiguousarray(rows).view([(field.name, np.float32) for field in fields]).reshape(-1)
        return library.create_cloud(header, fields, points)
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
    )


def to_costmap(answer: OccFlow, frame_id: str, lowest: float, highest: float) -> OccupancyGrid:
    """Bird's-eye view of what stands between two heights (m, in the ego frame), as Nav2's static layer reads it.

    100 where a voxel is occupied, below that 99 times the largest probability, -1 where no camera sees any voxel of the
    column between these heights.
    """
    grid = answer.grid
    band = _between(grid, lowest, highest)
    observed = answer.observed[:, :, band]
    likely = np.where(observed, answer.probability[:, :, band], 0).max(-1, initial=0)
    cost = np.rint(99 * likely).astype(np.int8)
    cost[answer.occupied[:, :, band].any(-1)] = OCCUPIED
    cost[~observed.any(-1)] = UNKNOWN
    message = OccupancyGrid(header=_header(answer.stamp_ns, frame_id), data=_array("b", cost.T))  # rows along x
    message.info.map_load_time = message.header.stamp
    message.info.resolution = grid.voxel_size
    message.info.width, message.info.height = grid.shape[:2]
    message.info.origin.position.x, message.info.origin.position.y = map(float, grid.lower[:2])
    return message


class MarkerMaker:
    """Markers for RViz. Python message objects are slow to make: a voxel's point is made once, colours are few."""

    def __init__(self, grid: GridSpec):
        self._grid = grid
        self._points: dict[int, Point] = {}
        self._colours = colour_ramp()

    def __call__(
        self, answer: OccFlow, frame_id: str, coloured_by: str, motion_colour: Sequence[float], min_speed: float
    ) -> MarkerArray:
        """Two markers: namespace `voxels` (CUBE_LIST) and `motion` (LINE_LIST, the way in one second).

        Args:
            coloured_by: what a voxel's colour shows: height, probability, or speed up to `FULL_SPEED`.
            motion_colour: RGB in [0, 1].
            min_speed: m/s, motion below it is not drawn.
        """
        header = _header(answer.stamp_ns, frame_id)
        voxels = self._voxels(answer, header, coloured_by)
        return MarkerArray(markers=[voxels, self._motion(answer, header, _colour(motion_colour), min_speed)])

    def _voxels(self, answer: OccFlow, header: Header, coloured_by: str) -> Marker:
        occupied = np.flatnonzero(answer.occupied)
        self._keep(occupied)
        steps = np.rint(_shown(answer, occupied, coloured_by).clip(0, 1) * (COLOUR_STEPS - 1)).astype(int)
        size = float(self._grid.voxel_size)
        return _marker(
            header,
            "voxels",
            Marker.CUBE_LIST,
            Vector3(x=size, y=size, z=size),
            [self._points[i] for i in occupied.tolist()],
            [self._colours[step] for step in steps.tolist()],
        )

    def _motion(self, answer: OccFlow, header: Header, colour: ColorRGBA, min_speed: float) -> Marker:
        moving = answer.occupied & (np.linalg.norm(answer.velocity, axis=-1) > min_speed)
        starts = self._grid.centres_of(np.argwhere(moving))
        ends = starts.copy()
        ends[:, :2] += answer.velocity[moving]
        lines = np.stack([starts, ends], 1).reshape(-1, 3).tolist()
        points = [Point(x=x, y=y, z=z) for x, y, z in lines]
        return _marker(header, "motion", Marker.LINE_LIST, Vector3(x=0.08), points, [colour] * len(points))

    def _keep(self, occupied: np.ndarray) -> None:
        """Make the points of voxels that were never occupied before."""
        new = [i for i in occupied.tolist() if i not in self._points]
        centres = self._grid.centres_of(np.stack(np.unravel_index(new, self._grid.shape), -1)) if new else np.zeros(0)
        for i, (x, y, z) in zip(new, centres.tolist(), strict=True):
            self._points[i] = Point(x=x, y=y, z=z)


def to_object_markers(
    objects: Sequence[MovingObject], stamp_ns: int, frame_id: str, colour: Sequence[float]
) -> MarkerArray:
    """For each object a CUBE (namespace `boxes`: its place, size and heading) and an ARROW (`velocities`: m in 1 s).

    The first marker takes away those of the answer before.
    """
    header = _header(stamp_ns, frame_id)
    markers = [Marker(header=header, action=Marker.DELETEALL)]
    for i, item in enumerate(objects):
        markers.append(_box_marker(item, i, header, _colour(colour, alpha=0.5)))
        markers.append(_velocity_marker(item, i, header, _colour(colour)))
    return MarkerArray(markers=markers)


def _box_marker(item: MovingObject, number: int, header: Header, colour: ColorRGBA) -> Marker:
    marker = Marker(header=header, ns="boxes", id=number, type=Marker.CUBE, action=Marker.ADD)
    marker.pose.position = Point(**dict(zip("xyz", item.position, strict=True)))
    marker.pose.orientation.z, marker.pose.orientation.w = np.sin(item.heading / 2), np.cos(item.heading / 2)
    marker.scale = Vector3(**dict(zip("xyz", item.size, strict=True)))
    marker.color = colour
    return marker


def _velocity_marker(item: MovingObject, number: int, header: Header, colour: ColorRGBA) -> Marker:
    x, y, z = item.position
    start, end = Point(x=x, y=y, z=z), Point(x=x + item.velocity[0], y=y + item.velocity[1], z=z)
    marker = Marker(
        header=header, ns="velocities", id=number, type=Marker.ARROW, action=Marker.ADD, points=[start, end]
    )
    marker.scale = Vector3(x=0.15, y=0.35, z=0.0)  # m: diameter of shaft and head
    marker.pose.orientation.w = 1.0
    marker.color = colour
    return marker


@functools.cache
def _installed(name: str) -> ModuleType | None:
    """A module that comes with a ROS installation, or None where it does not."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def _bridge_to_rgb(message: Image, source: str) -> np.ndarray | None:
    """The image through cv_bridge, or None where that is not installed."""
    if (library := _installed("cv_bridge")) is None:
        return None
    try:
        return library.CvBridge().imgmsg_to_cv2(message, desired_encoding="rgb8")
    except library.CvBridgeError as error:
        raise DataError(f"{source}: cv_bridge cannot turn encoding '{message.encoding}' into rgb8: {error}") from error


def _marker(
    header: Header, namespace: str, kind: int, scale: Vector3, points: list[Point], colours: list[ColorRGBA]
) -> Marker:
    """A list of shapes; without any it takes the last one away, because RViz complains about empty lists."""
    marker = Marker(header=header, ns=namespace, type=kind, scale=scale, points=points, colors=colours)
    marker.action = Marker.ADD if points else Marker.DELETE
    marker.pose.orientation.w = 1.0
    marker.color.a = 1.0
    return marker


def _shown(answer: OccFlow, occupied: np.ndarray, coloured_by: str) -> np.ndarray:
    """[n] in [0, 1]: where on the colour ramp each of n occupied voxels (flat indices) lies."""
    if coloured_by == "probability":
        return answer.probability.reshape(-1)[occupied]
    if coloured_by == "speed":
        return np.linalg.norm(answer.velocity.reshape(-1, 2)[occupied], axis=-1) / FULL_SPEED
    layers = answer.grid.shape[2]
    return (occupied % layers) / max(layers - 1, 1)


def colour_ramp() -> list[ColorRGBA]:
    """The `COLOUR_STEPS` colours from blue to red."""
    at = np.linspace(0, len(RAMP) - 1, COLOUR_STEPS)
    return [_colour(rgb) for rgb in np.stack([np.interp(at, range(len(RAMP)), c) for c in RAMP.T], -1).tolist()]


def _colour(rgb: Sequence[float], alpha: float = 1.0) -> ColorRGBA:
    return ColorRGBA(r=rgb[0], g=rgb[1], b=rgb[2], a=alpha)


def _grid_of(message: OccFlowGrid, source: str) -> GridSpec:
    size = float(f"{message.voxel_size:.6g}")  # it travels as float32
    lower = (message.origin.x, message.origin.y, message.origin.z)
    counts = (message.size_x, message.size_y, message.size_z)
    try:
        return GridSpec(lower, tuple(lo + n * size for lo, n in zip(lower, counts, strict=True)), size)
    except ConfigError as error:
        raise DataError(f"{source}: {error}") from error


def _labels_of(message: OccFlowGrid, occupied: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray | None:
    if not message.class_names:
        return None
    labels = np.zeros(int(np.prod(shape)), np.uint8)
    labels[occupied] = np.frombuffer(message.labels, np.uint8)
    return labels.reshape(shape)


def _matrix(q: Quaternion, t: Vector3 | Point) -> np.ndarray:
    """[4, 4]; its rotation by tf_transformations where that is installed."""
    quaternion = np.array([q.x, q.y, q.z, q.w])
    T = se3.from_quaternion(quaternion, np.array([t.x, t.y, t.z]))  # refuses what is no rotation
    if (library := _installed("tf_transformations")) is not None:
        T[:3, :3] = library.quaternion_matrix(quaternion)[:3, :3]
    return T


def _between(grid: GridSpec, lowest: float, highest: float) -> np.ndarray:
    """bool [Z]: layers whose centre lies between two heights (m)."""
    heights = grid.lower[2] + (np.arange(grid.shape[2]) + 0.5) * grid.voxel_size
    return (heights >= lowest) & (heights <= highest)


def _header(stamp_ns: int, frame_id: str) -> Header:
    return Header(stamp=from_ns(stamp_ns), frame_id=frame_id)


def _array(code: str, values: np.ndarray) -> array.array:
    """What message fields take without looking at every number."""
    out = array.array(code)
    out.frombytes(np.ascontiguousarray(values).tobytes())
    return out


def _bytes(values: np.ndarray) -> array.array:
    return _array("B", values)
