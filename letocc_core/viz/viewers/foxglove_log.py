"""Answers over time in an MCAP file that Foxglove and Lichtblick open without ROS (extra `view`).

    with FoxgloveLog(Path("run.mcap")) as log:
        log.add(scene)

| topic | schema | what |
| --- | --- | --- |
| `/tf` | `foxglove.FrameTransforms` | vehicle in the fixed frame, cameras on the vehicle |
| `/CAMERA/image_raw/compressed`, `/CAMERA/camera_info` | `foxglove.CompressedImage`, `foxglove.CameraCalibration` | images |
| `/occ_flow_node/voxels` | `foxglove.VoxelGrid` | every voxel: colour by height, transparent where free, faint where only guessed; probability and speed besides |
| `/occ_flow_node/points` | `foxglove.PointCloud` | occupied voxels: x, y, z, probability, vx, vy, as the node's cloud |
| `/occ_flow_node/objects` | `foxglove.SceneUpdate` | boxes and arrows of what moves |
| `/points` | `foxglove.PointCloud` | LiDAR, where there is one |
| `/occ_flow_node/figures` | JSON | `latency_ms`, `dropped`, `scores` |

Topics are those of the node where it has the same, so that `config/foxglove_layout.json` shows either.
"""

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from letocc_core.errors import DataError, MissingDependencyError
from letocc_core.geometry import se3
from letocc_core.stream import images
from letocc_core.stream.consumers.objects import MovingObject
from letocc_core.stream.types import FrameSet, OccFlow
from letocc_core.viz import colours
from letocc_core.viz.viewers.scene import Scene, guessed, reduced, surface
from letocc_core.viz.voxels import voxel_heights

NODE = "/occ_flow_node"
JPEG_QUALITY = 85
FAINT = 40  # alpha of what is only guessed, of 255
SPEED_STEP = 0.1  # m/s in one step of the voxels' `speed`
VOXEL = np.dtype([(name, np.uint8) for name in ("red", "green", "blue", "alpha", "probability", "speed")])
POINT = np.dtype([(name, np.float32) for name in ("x", "y", "z", "probability", "vx", "vy")])
RETURN = np.dtype([(name, np.float32) for name in ("x", "y", "z")])
FIGURES = {
    "type": "object",
    "properties": {name: {"type": "object"} for name in ("latency_ms", "dropped", "scores")},
}


def foxglove_sdk() -> ModuleType:
    """The package `foxglove`. Raises `MissingDependencyError` with the line that installs it."""
    try:
        import foxglove
        import foxglove.channels
        import foxglove.messages
    except ImportError as error:
        raise MissingDependencyError(
            f"MCAP files for Foxglove need foxglove-sdk ({error}): pip install 'letocc[view]'"
        ) from error
    return foxglove


class FoxgloveLog:
    """An MCAP file being written; a context manager.

    Args:
        path: file to write; one that is there is replaced.

    Raises `MissingDependencyError` without foxglove-sdk, `DataError` for a file that cannot be written.
    """

    def __init__(self, path: Path, base_frame: str = "base_link", fixed_frame: str = "odom"):
        self._sdk = foxglove_sdk()
        self._base, self._fixed = base_frame, fixed_frame
        self._context = self._sdk.Context()
        self._channels: dict[str, Any] = {}
        try:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            self._file = self._sdk.open_mcap(path, allow_overwrite=True, context=self._context)
        except (OSError, RuntimeError) as error:
            raise DataError(f"{path}: cannot be written: {error}") from error

    def __enter__(self) -> "FoxgloveLog":
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def add(self, scene: Scene) -> None:
        """Write one set at its stamp."""
        answer, stamp_ns = scene.answer, scene.answer.stamp_ns
        m = self._sdk.messages
        stamp = m.Timestamp(sec=stamp_ns // 10**9, nsec=stamp_ns % 10**9)
        self._log_transforms(scene, stamp)
        if scene.frame_set is not None:
            self._log_images(scene, scene.frame_set, stamp)
        self._log(f"{NODE}/voxels", "VoxelGridChannel", self._voxels(answer, stamp), stamp_ns)
        self._log(f"{NODE}/points", "PointCloudChannel", self._cloud(occupied_points(answer), stamp), stamp_ns)
        self._log(f"{NODE}/objects", "SceneUpdateChannel", self._objects(scene.objects, stamp), stamp_ns)
        if scene.lidar is not None:
            returns = np.ascontiguousarray(scene.lidar, np.float32).view(RETURN)[:, 0]
            self._log("/points", "PointCloudChannel", self._cloud(returns, stamp), stamp_ns)
        figures = {
            "latency_ms": {stage: 1e3 * seconds for stage, seconds in answer.seconds.items()},
            "dropped": dict(scene.dropped),
            "scores": dict(scene.figures),
        }
        if (topic := f"{NODE}/figures") not in self._channels:
            self._channels[topic] = self._sdk.Channel(topic, schema=FIGURES, context=self._context)
        self._channels[topic].log(figures, log_time=stamp_ns)

    def _log(self, topic: str, channel: str, message: Any, stamp_ns: int) -> None:
        if topic not in self._channels:
            self._channels[topic] = getattr(self._sdk.channels, channel)(topic, context=self._context)
        self._channels[topic].log(message, log_time=stamp_ns)

    def _log_transforms(self, scene: Scene, stamp: Any) -> None:
        placed = [(self._fixed, self._base, scene.T_world_ego)]
        if scene.frame_set is not None:
            cameras = zip(scene.cameras, scene.frame_set.images, scene.frame_set.T_ego_cam, strict=True)
            placed += [(self._base, f"{name}_optical", T) for name, image, T in cameras if image is not None]
        m, transforms = self._sdk.messages, []
        for parent, child, T in placed:
            rotation, translation = se3.to_quaternion(T)
            transforms.append(
                m.FrameTransform(
                    timestamp=stamp,
                    parent_frame_id=parent,
                    child_frame_id=child,
                    translation=_vector(m, translation),
                    rotation=m.Quaternion(**dict(zip("xyzw", rotation.tolist(), strict=True))),
                )
            )
        message = m.FrameTransforms(transforms=transforms)
        self._log("/tf", "FrameTransformsChannel", message, scene.answer.stamp_ns)

    def _log_images(self, scene: Scene, frame_set: FrameSet, stamp: Any) -> None:
        m, stamp_ns, small = self._sdk.messages, scene.answer.stamp_ns, reduced(frame_set)
        for name, image, calibration in zip(scene.cameras, small.images, small.calibrations, strict=True):
            if image is None or calibration is None:
                continue
            K = np.asarray(calibration.K, np.float64)
            data, frame = images.encode(image, "jpeg", JPEG_QUALITY), f"{name}_optical"
            picture = m.CompressedImage(timestamp=stamp, frame_id=frame, data=data, format="jpeg")
            self._log(f"/{name}/image_raw/compressed", "CompressedImageChannel", picture, stamp_ns)
            info = m.CameraCalibration(
                timestamp=stamp,
                frame_id=frame,
                width=calibration.width,
                height=calibration.height,
                K=K.reshape(-1).tolist(),
                R=np.eye(3).reshape(-1).tolist(),
                P=np.hstack([K, np.zeros((3, 1))]).reshape(-1).tolist(),
            )
            self._log(f"/{name}/camera_info", "CameraCalibrationChannel", info, stamp_ns)

    def _voxels(self, answer: OccFlow, stamp: Any) -> Any:
        m, grid = self._sdk.messages, answer.grid
        cells = voxel_cells(answer)
        nx, ny, _ = grid.shape
        return m.VoxelGrid(
            timestamp=stamp,
            frame_id=self._base,
            pose=m.Pose(position=_vector(m, grid.lower), orientation=m.Quaternion(w=1.0)),
            row_count=ny,
            column_count=nx,
            cell_size=_vector(m, (grid.voxel_size,) * 3),
            slice_stride=nx * ny * VOXEL.itemsize,
            row_stride=nx * VOXEL.itemsize,
            cell_stride=VOXEL.itemsize,
            fields=self._fields(VOXEL),
            data=cells.tobytes(),
        )

    def _cloud(self, points: np.ndarray, stamp: Any) -> Any:
        m = self._sdk.messages
        return m.PointCloud(
            timestamp=stamp,
            frame_id=self._base,
            pose=m.Pose(position=m.Vector3(), orientation=m.Quaternion(w=1.0)),
            point_stride=points.dtype.itemsize,
            fields=self._fields(points.dtype),
            data=points.tobytes(),
        )

    def _fields(self, kind: np.dtype) -> list[Any]:
        m = self._sdk.messages
        numeric = m.PackedElementFieldNumericType
        codes = {np.dtype(np.uint8): numeric.Uint8, np.dtype(np.float32): numeric.Float32}
        return [
            m.PackedElementField(name=name, offset=offset, type=codes[part])
            for name, (part, offset, *_) in (kind.fields or {}).items()
        ]

    def _objects(self, objects: list[MovingObject], stamp: Any) -> Any:
        """One entity with everything, which replaces that of the set before."""
        m = self._sdk.messages
        cubes, arrows = [], []
        for item in objects:
            turn = m.Quaternion(z=float(np.sin(item.heading / 2)), w=float(np.cos(item.heading / 2)))
            r, g, b = (colours.direction_colours(np.array(item.velocity)) / 255).tolist()
            pose = m.Pose(position=_vector(m, item.position), orientation=turn)
            cubes.append(m.CubePrimitive(pose=pose, size=_vector(m, item.size), color=m.Color(r=r, g=g, b=b, a=0.4)))
            speed = float(np.hypot(*item.velocity))
            arrows.append(
                m.ArrowPrimitive(
                    pose=pose,
                    shaft_length=0.8 * speed,  # with its head, the way in one second
                    shaft_diameter=0.15,
                    head_length=0.2 * speed,
                    head_diameter=0.4,
                    color=m.Color(r=r, g=g, b=b, a=1.0),
                )
            )
        entity = m.SceneEntity(timestamp=stamp, frame_id=self._base, id="objects", cubes=cubes, arrows=arrows)
        return m.SceneUpdate(entities=[entity])


def voxel_cells(answer: OccFlow) -> np.ndarray:
    """[Z, Y, X] of `VOXEL`: the cells of a `foxglove.VoxelGrid`, x fastest."""
    cells = np.zeros(answer.grid.shape, VOXEL)
    rgb = colours.height_colours(voxel_heights(answer.grid))
    for channel, name in enumerate(("red", "green", "blue")):
        cells[name] = rgb[..., channel]
    cells["alpha"] = np.where(surface(answer), 255, np.where(guessed(answer), FAINT, 0))
    cells["probability"] = np.rint(100 * answer.probability)
    speed = np.linalg.norm(answer.velocity, axis=-1) / SPEED_STEP
    cells["speed"] = np.where(answer.occupied, np.rint(speed.clip(0, 255)), 0)
    return np.ascontiguousarray(cells.transpose(2, 1, 0))


def occupied_points(answer: OccFlow) -> np.ndarray:
    """[n] of `POINT`: the centres (m, ego axes) of the occupied voxels with probability and velocity (m/s)."""
    index = np.argwhere(answer.occupied)
    at = tuple(index.T)
    points = np.zeros(len(index), POINT)
    points["x"], points["y"], points["z"] = answer.grid.centres_of(index).T
    points["probability"] = answer.probability[at]
    points["vx"], points["vy"] = answer.velocity[at].T
    return points


def _vector(m: Any, values: Any) -> Any:
    return m.Vector3(**dict(zip("xyz", map(float, values), strict=True)))
