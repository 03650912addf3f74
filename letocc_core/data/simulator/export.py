"""Simulated streets in the layouts of nuScenes, KITTI odometry (with SemanticKITTI's voxels) and KITTI tracking.

They hold what the loaders read, so that each loader can be tried, and tested against the truth, without a download.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from letocc_core.data import cache
from letocc_core.data.datasets.kitti import EARTH_RADIUS, TRACKING_RATE
from letocc_core.data.datasets.nuscenes import CHANNELS, LIDAR
from letocc_core.data.datasets.voxel_labels import NUSCENES_GRID, OCC3D_CLASSES, OPENOCC_CLASSES, SEMANTIC_KITTI_GRID
from letocc_core.data.simulator.rendering import rendered
from letocc_core.data.simulator.rig import Rig
from letocc_core.data.simulator.street import SimFrame
from letocc_core.data.truth import CLASS_NAMES, FREE, Truth
from letocc_core.errors import ConfigError, DataError
from letocc_core.geometry import se3
from letocc_core.geometry.grid import GridSpec
from letocc_core.stream import images

VERSION = "v1.0-mini"  # of the nuScenes tables that are written
KEYFRAME_SECONDS = 0.5  # between nuScenes' keyframes
VOXEL_STRIDE = 5  # every how many frames SemanticKITTI has voxel labels
CAMERA_0 = np.array([0.06, 0.0, 0.0])  # m, KITTI's camera 0 in the axes of camera 2, whose images are written
START_LATITUDE, START_LONGITUDE = 49.0, 8.4  # degrees, of the world's origin in GPS packets
EMPTY_TABLES = ("attribute", "category", "instance", "map", "sample_annotation", "visibility")

# The simulator's classes in those of the data sets.
OPENOCC_OF = {
    "road": "driveable_surface", "kerb": "sidewalk", "ground": "terrain", "building": "manmade",
    "vegetation": "vegetation", "pole": "manmade", "sign": "manmade", "car": "car", "lorry": "truck",
    "cyclist": "bicycle", "pedestrian": "pedestrian",
}  # fmt: skip
SEMANTIC_KITTI_OF = {
    "road": 40, "kerb": 48, "ground": 72, "building": 50, "vegetation": 70, "pole": 80, "sign": 81, "car": 10,
    "lorry": 18, "cyclist": 31, "pedestrian": 30,
}  # fmt: skip


@runtime_checkable
class DatasetWriter(Protocol):
    """Writes streets in one layout."""

    rate_hz: float  # frames a second that the layout has

    def grid(self, rig: Rig) -> GridSpec:
        """Grid of its voxel labels, in ego axes of the simulator."""

    def labelled(self, frame: int) -> bool:
        """Whether this frame has voxel labels."""

    def street(self, seed: int, rig: Rig, frames: Iterable[SimFrame]) -> Path:
        """Write one street; returns what it can be found by."""

    def close(self) -> None:
        """Write what all streets share."""


def simulate_dataset(
    out: Path,
    layout: str,
    seed: int = 0,
    scenes: int = 1,
    seconds: float = 5.0,
    rig: str | None = None,
    image_size: tuple[int, int] | None = None,
    labels: bool = True,
    workers: int = 2,
) -> list[Path]:
    """Write streets with consecutive seeds as a data set; returns one path a street.

    Args:
        out: root of the data set, which must not hold one yet.
        layout: key of `WRITERS`.
        rig: its name or YAML file; `nuscenes` or `kitti` by the layout if None.
        image_size: px, height and width; the rig's own if None.
        labels: also write voxel labels, for evaluation.
        workers: processes that render.

    Raises:
        ConfigError: no such layout or rig, or a rig that the layout cannot hold.
        DataError: there is a data set at `out` already.
    """
    if layout not in WRITERS:
        raise ConfigError(f"no layout '{layout}'; layouts: {', '.join(WRITERS)}")
    mounted = Rig.load(rig or ("nuscenes" if layout == "nuscenes" else "kitti")).require_pinholes(
        f"the layout {layout}"
    )
    mounted = mounted.resized(*image_size) if image_size else mounted
    writer = WRITERS[layout](Path(out), mounted)
    times = [i / writer.rate_hz for i in range(max(1, round(seconds * writer.rate_hz)))]
    with_truth = [labels and writer.labelled(i) for i in range(len(times))]
    paths = []
    for number in range(seed, seed + scenes):
        frames = rendered(number, mounted, writer.grid(mounted), times, with_truth, 1 / writer.rate_hz, workers)
        paths.append(writer.street(number, mounted, frames))
    writer.close()
    return paths


class NuScenesWriter:
    """`samples/`, `sweeps/`, the tables of one version, and the voxel labels of Occ3D (`gts/`) and OpenOcc (`openocc_v2/`).

    A street is the scene of the number of its seed. Every sensor has data at 12 Hz, every sixth is a keyframe.
    """

    rate_hz = 12.0

    def __init__(self, out: Path, rig: Rig):
        strange = [name for name in rig.cameras if name not in CHANNELS.values()]
        if strange or rig.lidar is None:
            raise ConfigError(
                f"the layout of nuScenes has the cameras {', '.join(CHANNELS.values())} and a LiDAR; the rig has "
                f"{', '.join(rig.cameras)} and {'no' if rig.lidar is None else 'a'} LiDAR"
            )
        self.out = out
        _require_absent(out / VERSION)
        self.tables: dict[str, list[dict[str, Any]]] = {name: [] for name in EMPTY_TABLES}
        self.tables["log"] = [{"token": _token("log"), "vehicle": "simulator", "location": "simulated"}]
        self.channels = [next(c for c, name in CHANNELS.items() if name == camera) for camera in rig.cameras] + [LIDAR]
        self.tables["sensor"] = [
            {"token": _token(c), "channel": c, "modality": "lidar" if c == LIDAR else "camera"} for c in self.channels
        ]

    def grid(self, rig: Rig) -> GridSpec:
        return NUSCENES_GRID

    def labelled(self, frame: int) -> bool:
        return frame % round(KEYFRAME_SECONDS * self.rate_hz) == 0

    def street(self, seed: int, rig: Rig, frames: Iterable[SimFrame]) -> Path:
        name = f"scene-{seed:04d}"
        self._mounts(name, rig)
        samples: list[dict[str, Any]] = []
        latest: dict[str, dict[str, Any]] = {}  # row of each channel, to be told the next one
        for i, frame in enumerate(frames):
            stamp = round(frame.stamp_ns / 1000)
            if self.labelled(i):
                samples.append({"token": _token(name, i), "timestamp": stamp, "scene_token": _token(name)})
                if frame.truth is not None:
                    self._labels(name, samples[-1]["token"], frame.truth)
            pose = {"token": _token(name, i, "pose"), "timestamp": stamp, **_pose_row(frame.T_world_ego)}
            self._table("ego_pose").append(pose)
            for position, channel in enumerate(self.channels):
                row = self._record(name, i, position, frame, samples[-1]["token"])
                if channel in latest:
                    latest[channel]["next"], row["prev"] = row["token"], latest[channel]["token"]
                latest[channel] = row
                self._table("sample_data").append(row)
        for before, after in pairwise(samples):
            before["next"], after["prev"] = after["token"], before["token"]
        self._table("sample").extend({"prev": "", "next": "", **row} for row in samples)
        self._table("scene").append(
            {
                "token": _token(name),
                "log_token": _token("log"),
                "nbr_samples": len(samples),
                "first_sample_token": samples[0]["token"],
                "last_sample_token": samples[-1]["token"],
                "name": name,
                "description": f"simulated street of seed {seed}",
            }
        )
        return self.out / name

    def close(self) -> None:
        (self.out / VERSION).mkdir(parents=True)
        for name, rows in self.tables.items():
            (self.out / VERSION / f"{name}.json").write_text(json.dumps(rows, indent=0), "utf-8")

    def _table(self, name: str) -> list[dict[str, Any]]:
        return self.tables.setdefault(name, [])

    def _mounts(self, scene: str, rig: Rig) -> None:
        lidar = np.eye(4)
        lidar[:3, 3] = rig.lidar_origin
        intrinsics = [K.tolist() for K in rig.intrinsics()] + [[]]
        for channel, T, K in zip(self.channels, [*rig.T_ego_cam(), lidar], intrinsics, strict=True):
            row = {"token": _token(scene, channel), "sensor_token": _token(channel), **_pose_row(T)}
            self._table("calibrated_sensor").append({**row, "camera_intrinsic": K})

    def _record(self, scene: str, i: int, position: int, frame: SimFrame, sample: str) -> dict[str, Any]:
        """The row of one sensor's data, whose file is written."""
        channel, stamp, key = self.channels[position], round(frame.stamp_ns / 1000), self.labelled(i)
        ending = "pcd.bin" if channel == LIDAR else "jpg"
        name = f"{'samples' if key else 'sweeps'}/{channel}/{scene}__{channel}__{stamp}.{ending}"
        if channel == LIDAR:
            points = frame.returns
            data = np.pad(points, ((0, 0), (0, 2))).astype(np.float32).tobytes()
        else:
            data = images.encode(frame.images[position], "jpeg")
        _write(self.out / name, data)
        height, width = (0, 0) if channel == LIDAR else frame.images.shape[1:3]
        return {
            "token": _token(scene, i, channel),
            "sample_token": sample,
            "ego_pose_token": _token(scene, i, "pose"),
            "calibrated_sensor_token": _token(scene, channel),
            "timestamp": stamp,
            "fileformat": ending[:3],
            "is_key_frame": key,
            "height": height,
            "width": width,
            "filename": name,
            "prev": "",
            "next": "",
        }

    def _labels(self, scene: str, sample: str, truth: Truth) -> None:
        openocc = _relabelled(truth, {c: OPENOCC_CLASSES.index(n) for c, n in OPENOCC_OF.items()}, OPENOCC_CLASSES)
        occ3d = _relabelled(truth, {c: OCC3D_CLASSES.index(n) for c, n in OPENOCC_OF.items()}, OCC3D_CLASSES)
        seen = truth.visible.astype(np.uint8)
        _save(self.out / "openocc_v2" / scene / sample, semantics=openocc, flow=truth.velocity.astype(np.float16))
        _save(self.out / "gts" / scene / sample, semantics=occ3d, mask_camera=seen, mask_lidar=seen)


class _KittiWriter:
    """What KITTI's layouts share: one camera, camera 2, and a scanner."""

    rate_hz = float(TRACKING_RATE)

    def __init__(self, out: Path, rig: Rig):
        if len(rig.cameras) != 1 or rig.lidar is None:
            raise ConfigError(
                f"KITTI's layouts have one camera and a LiDAR; the rig has {len(rig.cameras)} cameras and "
                f"{'no' if rig.lidar is None else 'a'} LiDAR"
            )
        self.out = out
        self.T_ego_cam0 = rig.T_ego_cam()[0] @ _shift(CAMERA_0)
        self.T_ego_lidar = _shift(rig.lidar_origin)
        K = rig.intrinsics()[0]
        self.projections = {"P0": np.hstack([K, np.zeros((3, 1))]), "P2": np.hstack([K, (K @ CAMERA_0)[:, None]])}

    @property
    def T_cam0_lidar(self) -> np.ndarray:
        return np.linalg.inv(self.T_ego_cam0) @ self.T_ego_lidar

    def close(self) -> None:
        """Nothing is shared between sequences."""

    def _write_frame(self, i: int, frame: SimFrame, image_folder: Path, scan_folder: Path) -> None:
        _write(image_folder / f"{i:06d}.png", images.encode(frame.images[0], "png"))
        points = frame.returns
        reflectance = np.full((len(points), 1), 0.5)
        _write(scan_folder / f"{i:06d}.bin", np.hstack([points, reflectance]).astype(np.float32).tobytes())


class KittiOdometryWriter(_KittiWriter):
    """`sequences/NN/{calib.txt, times.txt, image_2, velodyne, voxels}` and `poses/NN.txt`."""

    def grid(self, rig: Rig) -> GridSpec:
        (x, y, z), (far_x, far_y, far_z) = (
            np.add(corner, rig.lidar_origin).tolist()
            for corner in (SEMANTIC_KITTI_GRID.lower, SEMANTIC_KITTI_GRID.upper)
        )
        return GridSpec((x, y, z), (far_x, far_y, far_z), SEMANTIC_KITTI_GRID.voxel_size)

    def labelled(self, frame: int) -> bool:
        return frame % VOXEL_STRIDE == 0

    def street(self, seed: int, rig: Rig, frames: Iterable[SimFrame]) -> Path:
        base = self.out / "sequences" / f"{seed:02d}"
        _require_absent(base)
        stamps, T_world_cam0 = [], []
        for i, frame in enumerate(frames):
            self._write_frame(i, frame, base / "image_2", base / "velodyne")
            stamps.append(frame.stamp_ns)
            T_world_cam0.append(frame.T_world_ego @ self.T_ego_cam0)
            if frame.truth is not None:
                self._labels(base / "voxels" / f"{i:06d}.label", frame.truth)
        rows = {**self.projections, "Tr": self.T_cam0_lidar[:3]}
        _write_text(base / "calib.txt", [_line(value, f"{key}: ") for key, value in rows.items()])
        _write_text(base / "times.txt", [f"{(stamp - stamps[0]) * 1e-9:.9f}" for stamp in stamps])
        _write_text(self.out / "poses" / f"{seed:02d}.txt", [_line(T[:3]) for T in _since_first(T_world_cam0)])
        return base

    def _labels(self, path: Path, truth: Truth) -> None:
        table = np.zeros(256, "<u2")
        for name, raw in SEMANTIC_KITTI_OF.items():
            table[CLASS_NAMES.index(name)] = raw
        table[FREE] = 0
        _write(path, table[truth.occupancy].tobytes())
        _write(path.with_suffix(".invalid"), np.packbits(~truth.visible).tobytes())


class KittiTrackingWriter(_KittiWriter):
    """`training/{image_02, velodyne, calib, oxts}`; poses as GPS/IMU packets, the unit sitting at `base_link`."""

    def grid(self, rig: Rig) -> GridSpec:
        return GridSpec()

    def labelled(self, frame: int) -> bool:
        return False

    def street(self, seed: int, rig: Rig, frames: Iterable[SimFrame]) -> Path:
        base, name = self.out / "training", f"{seed:04d}"
        _require_absent(base / "image_02" / name)
        packets = []
        for i, frame in enumerate(frames):
            self._write_frame(i, frame, base / "image_02" / name, base / "velodyne" / name)
            packets.append(_packet(frame.T_world_ego))
        rows = {
            **{f"{key}:": value for key, value in self.projections.items()},
            "R_rect": np.eye(3),
            "Tr_velo_cam": self.T_cam0_lidar[:3],
            "Tr_imu_velo": np.linalg.inv(self.T_ego_lidar)[:3],
        }
        _write_text(base / "calib" / f"{name}.txt", [_line(value, f"{key} ") for key, value in rows.items()])
        _write_text(base / "oxts" / f"{name}.txt", [_line(packet) for packet in packets])
        return base / "image_02" / name


WRITERS: dict[str, Callable[[Path, Rig], DatasetWriter]] = {
    "nuscenes": NuScenesWriter,
    "kitti-odometry": KittiOdometryWriter,
    "kitti-tracking": KittiTrackingWriter,
}


def _packet(T_world_ego: np.ndarray) -> np.ndarray:
    """GPS/IMU packet of 30 values: latitude, longitude (degrees), altitude (m), roll, pitch, yaw (rad), then zeros.

    The inverse of the Mercator projection that `kitti.poses_of_packets` uses. That takes its scale from the first
    packet, so the metres fit to the first few hundred metres only: 1e-5 for each km to the north.
    """
    from scipy.spatial.transform import Rotation

    scale = EARTH_RADIUS * np.cos(np.radians(START_LATITUDE))
    x, y, z = T_world_ego[:3, 3]
    north = y / scale + np.log(np.tan(np.radians(90 + START_LATITUDE) / 2))
    out = np.zeros(30)
    out[:3] = np.degrees(2 * np.arctan(np.exp(north))) - 90, START_LONGITUDE + np.degrees(x / scale), z
    out[3:6] = Rotation.from_matrix(T_world_ego[:3, :3]).as_euler("xyz")
    return out


def _relabelled(truth: Truth, ids: Mapping[str, int], classes: Sequence[str]) -> np.ndarray:
    """The occupancy in another data set's class ids, uint8 [X, Y, Z]."""
    table = np.full(256, classes.index("free"), np.uint8)
    for name, number in ids.items():
        table[CLASS_NAMES.index(name)] = number
    return table[truth.occupancy]


def _since_first(T_world: Sequence[np.ndarray]) -> list[np.ndarray]:
    first = np.linalg.inv(T_world[0])
    return [first @ T for T in T_world]


def _shift(translation: np.ndarray) -> np.ndarray:
    T = np.eye(4)
    T[:3, 3] = translation
    return T


def _pose_row(T: np.ndarray) -> dict[str, list[float]]:
    (x, y, z, w), translation = se3.to_quaternion(T)
    return {"rotation": [w, x, y, z], "translation": translation.tolist()}


def _token(*parts: object) -> str:
    return hashlib.md5(repr(parts).encode()).hexdigest()


def _line(values: np.ndarray, head: str = "") -> str:
    return head + " ".join(f"{v:.17g}" for v in np.ravel(values))


def _require_absent(path: Path) -> None:
    if path.exists():
        raise DataError(f"{path}: exists already; delete it, or choose another folder or another seed")


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def _write_text(path: Path, lines: Sequence[str]) -> None:
    _write(path, ("\n".join(lines) + "\n").encode())


def _save(folder: Path, **arrays: np.ndarray) -> None:
    folder.mkdir(parents=True)
    cache.save(folder / "labels.npz", arrays, compressed=True)
