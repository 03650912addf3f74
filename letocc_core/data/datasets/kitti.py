"""KITTI's tracking, odometry (SemanticKITTI) and raw recordings, in their own layouts on disk, as `Drive`s.

The ego frame is a choice. `road`: `base_link` lies on the road straight under the left grey camera (camera 0), x forward
along its rectified optical axis, y left, z up. The sensor description puts the cameras 1.65 m above the road, and the
rectified axes are level with it: planes fitted to the LiDAR's road points of tracking sequence 0012 stayed within 0.02 m
and 0.3 degrees of z = 0. `lidar`: the scanner's own axes, in which the papers' box and SemanticKITTI's voxels are given.
The world is the ego frame at the first image.

Velodyne scans (`.bin`) are float32 rows of x, y, z (m, forward, left, up from the scanner) and reflectance.
"""

import os
import re
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Literal

import numpy as np
from scipy.spatial.transform import Rotation

from letocc_core.data.datasets import splits
from letocc_core.data.datasets.drive import Drive, read_image
from letocc_core.data.datasets.voxel_labels import VoxelLabels, read_semantic_kitti
from letocc_core.errors import CalibrationError, DataError

EgoFrame = Literal["road", "lidar"]
IMAGES = (".png", ".jpg", ".jpeg")  # of which a folder has one

CAMERA = "camera_front"
CAMERA_HEIGHT = 1.65  # m above the road (KITTI's sensor set-up)
TRACKING_RATE = 10  # frames a second; the tracking benchmark has no time stamps
START_NS = 10**9  # stamp of the first frame, since ROS 2 reads a stamp of 0 as "the latest"
EARTH_RADIUS = 6378137.0  # m, of the Mercator projection that KITTI's development kit uses

# camera 0 (x right, y down, z forward) -> base_link (x forward, y left, z up)
T_BASE_CAM0 = np.array([[0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, CAMERA_HEIGHT], [0, 0, 0, 1]], np.float64)


class SensorCalibration:
    """A calibration file of KITTI: rows of numbers by key, `P0: ...` or, in the tracking benchmark, `R_rect ...`.

    Raises `CalibrationError` for a missing file, and for a row that is asked for and is not there or malformed.
    """

    def __init__(self, path: Path):
        if not path.is_file():
            raise CalibrationError(
                f"{path}: no such calibration file; it comes with the benchmark's calibration archive"
            )
        self.path = path
        lines = enumerate(path.read_text("utf-8-sig").splitlines(), start=1)
        self.rows = {
            key.rstrip(":"): (i, values) for i, line in lines if line.strip() for key, *values in [line.split()]
        }

    def matrix(self, rows: int, columns: int, *keys: str) -> np.ndarray:
        """The first of `keys` that is present (the benchmarks name them differently); `CalibrationError` if none is."""
        key = next((k for k in keys if k in self.rows), None)
        if key is None:
            raise CalibrationError(
                f"{self.path}: no key {' or '.join(keys)}; keys found: {', '.join(self.rows) or 'none'}; it comes with the "
                "benchmark's calibration archive"
            )
        line, texts = self.rows[key]
        try:
            values = np.array([float(text) for text in texts])
        except ValueError as error:
            raise CalibrationError(f"{self.path}, line {line}: {error}; expected a key and numbers") from error
        if values.size != rows * columns:
            raise CalibrationError(f"{self.path}: {key} has {values.size} numbers, expected {rows} x {columns}")
        return values.reshape(rows, columns)

    def rigid(self, *keys: str) -> np.ndarray:
        """[4, 4] from a 3 x 4 matrix."""
        T = np.eye(4)
        T[:3] = self.matrix(3, 4, *keys)
        return T

    def rotation(self, *keys: str) -> np.ndarray:
        """[4, 4] from a 3 x 3 rotation."""
        T = np.eye(4)
        T[:3, :3] = self.matrix(3, 3, *keys)
        return T

    def rigid_pair(self) -> np.ndarray:
        """[4, 4] from a rotation `R` and a translation `T`, as the raw recordings have them."""
        T = self.rotation("R")
        T[:3, 3] = self.matrix(3, 1, "T")[:, 0]
        return T


def tracking_sequences(root: Path, split: str) -> list[tuple[str, str]]:
    """(folder, sequence) pairs such as (`training`, `0012`) of a split: train and val of KITTI-MOT, or all on disk."""
    if split in splits.KITTI_TRACKING:
        folder, names = splits.KITTI_TRACKING[split]
        return [(folder, name) for name in names]
    folders = [f for f in ("training", "testing") if (root / f).is_dir()]
    return [(f, p.name) for f in folders for p in sorted(_folder(root / f / "image_02", "image").iterdir())]


def tracking_drive(root: Path, sequence: str, folder: str = "training", ego: EgoFrame = "road") -> Drive:
    """A sequence of the tracking benchmark, for example `0012`.

    Reads `<folder>/{image_02, velodyne, calib}` and the poses from `<folder>/poses/<sequence>.txt` (3 x 4 matrices of
    rectified camera 0, one a line) or, without that file, from the benchmark's GPS/IMU packets `<folder>/oxts/`.

    Raises:
        DataError: a folder, file or line is missing.
        CalibrationError: a key of the calibration file is missing or malformed.
    """
    base = _folder(root / folder, "benchmark")
    calibration = SensorCalibration(base / "calib" / f"{sequence}.txt")
    T_cam0_velo = calibration.rotation("R_rect", "R0_rect") @ calibration.rigid("Tr_velo_cam", "Tr_velo_to_cam")
    files = _frames(base / "image_02" / sequence, digits=6)
    poses_file = base / "poses" / f"{sequence}.txt"
    if poses_file.exists():
        poses = read_poses(poses_file, len(files))
    else:
        T_velo_imu = calibration.rigid("Tr_imu_velo", "Tr_imu_to_velo")
        poses = read_oxts(base / "oxts" / f"{sequence}.txt", len(files), T_cam0_velo @ T_velo_imu)
    return _drive(
        f"kitti_tracking/{folder}/{sequence}",
        base,
        files,
        START_NS + np.arange(len(files)) * (10**9 // TRACKING_RATE),
        poses,
        calibration.matrix(3, 4, "P2"),
        T_cam0_velo,
        base / "velodyne" / sequence,
        ego,
    )


def odometry_sequences(root: Path, split: str) -> list[str]:
    """Sequences of a split: train and val of SemanticKITTI, or all on disk."""
    if split in splits.KITTI_ODOMETRY:
        return list(splits.KITTI_ODOMETRY[split])
    return sorted(p.name for p in _folder(root / "sequences", "sequences").iterdir() if p.is_dir())


def odometry_drive(root: Path, sequence: str, ego: EgoFrame = "road") -> Drive:
    """A sequence of the odometry benchmark, for example `06`, with SemanticKITTI's voxel labels where they are.

    Reads `sequences/<sequence>/{calib.txt, times.txt, image_2 or image_0, velodyne, voxels}` and the poses of
    `poses/<sequence>.txt` or, without that file, SemanticKITTI's `sequences/<sequence>/poses.txt`.
    Labels are read where the ego frame is `lidar`, the one they are given in. Raises as `tracking_drive`.
    """
    base = _folder(_folder(root, "data set") / "sequences" / sequence, "sequence")
    calibration = SensorCalibration(base / "calib.txt")
    colour = (base / "image_2").is_dir()
    files = _frames(base / ("image_2" if colour else "image_0"), digits=6)
    times = _read_times(base / "times.txt", len(files))
    own_poses = base / "poses.txt"
    benchmark_poses = root / "poses" / f"{sequence}.txt"
    poses = read_poses(benchmark_poses if benchmark_poses.exists() or not own_poses.exists() else own_poses, len(files))
    scans = base / "velodyne"
    labels = [f"sequences/{sequence}/voxels/{file.stem}.label" for file in files]
    there = {p.name for p in (base / "voxels").glob("*.label")} if ego == "lidar" else set()
    return _drive(
        f"kitti_odometry/{sequence}",
        root,
        files,
        START_NS + np.round(times * 1e9).astype(np.int64),
        poses,
        calibration.matrix(3, 4, "P2" if colour else "P0"),
        calibration.rigid("Tr") if scans.is_dir() or ego == "lidar" else None,
        scans,
        ego,
        labels=np.array([os.fsencode(name) if Path(name).name in there else b"" for name in labels]),
        read_labels=read_semantic_kitti,
    )


def raw_drives(root: Path, split: str) -> list[str]:
    """Drives of a split: train and val of Eigen et al., or all on disk."""
    if split != "all":
        return splits.eigen_drives(split)
    return sorted(p.name.removesuffix("_sync") for p in _folder(root, "data set").glob("*/*_drive_*_sync"))


def raw_drive(root: Path, drive: str, ego: EgoFrame = "road") -> Drive:
    """A drive of the raw recordings (synchronised and rectified), for example `2011_09_26_drive_0002`.

    Reads `<date>/calib_*.txt` and `<date>/<drive>_sync/{image_02, velodyne_points, oxts}`. Of a drive that the Eigen
    split measures only the measured frames are current frames. Raises as `tracking_drive`.
    """
    date = root / drive[:10]
    base = _folder(date / f"{drive}_sync", "drive")
    cameras = SensorCalibration(date / "calib_cam_to_cam.txt")
    T_cam0_velo = cameras.rotation("R_rect_00") @ SensorCalibration(date / "calib_velo_to_cam.txt").rigid_pair()
    T_velo_imu = SensorCalibration(date / "calib_imu_to_velo.txt").rigid_pair()
    files = _frames(base / "image_02/data", digits=10)
    packets = [base / "oxts/data" / f"{file.stem}.txt" for file in files]
    rows = np.concatenate([_read_rows(packet, 30, 1, "GPS/IMU packets") for packet in packets])
    measured = splits.eigen_test_frames(drive)
    current = np.isin(np.arange(len(files)), measured) if measured else np.ones(len(files), bool)
    return _drive(
        f"kitti_raw/{drive}",
        root,
        files,
        _read_date_times(base / "image_02/timestamps.txt", len(files)),
        poses_of_packets(rows, T_cam0_velo @ T_velo_imu),
        cameras.matrix(3, 4, "P_rect_02"),
        T_cam0_velo,
        base / "velodyne_points/data",
        ego,
        current=current,
    )


def _drive(
    name: str,
    root: Path,
    files: Sequence[Path],
    stamps_ns: np.ndarray,
    poses: np.ndarray,
    projection: np.ndarray,
    T_cam0_velo: np.ndarray | None,
    scans: Path,
    ego: EgoFrame,
    current: np.ndarray | None = None,
    labels: np.ndarray | None = None,
    read_labels: Callable[[Path], VoxelLabels] | None = None,
) -> Drive:
    """One camera's images with the scans that are there: a few of the benchmarks' scans are missing."""
    count = len(files)
    if ego == "lidar" and T_cam0_velo is None:
        raise CalibrationError(f"{name}: no pose of the LiDAR, whose axes are to be the ego frame; expected ego: road")
    T_ego_cam0 = T_BASE_CAM0 if ego == "road" or T_cam0_velo is None else np.linalg.inv(T_cam0_velo)
    T_ego_lidar = np.eye(4) if T_cam0_velo is None else T_ego_cam0 @ T_cam0_velo
    height, width = read_image(files[0]).shape[:2]
    there = {p.name for p in scans.glob("*.bin")}

    def relative(path: Path) -> bytes:
        return os.fsencode(path.relative_to(root).as_posix())

    return Drive(
        name=name,
        root=root,
        cameras=(CAMERA,),
        stamps_ns=stamps_ns,
        T_world_ego=T_ego_cam0 @ poses @ np.linalg.inv(T_ego_cam0),
        T_ego_cam=np.tile(T_ego_cam0 @ camera_from_projection(projection), (count, 1, 1, 1)),
        K=np.tile(projection[:, :3], (count, 1, 1, 1)),
        sizes=np.array([[width, height]]),
        images=np.array([[relative(f)] for f in files]),
        scans=np.array([relative(scans / f"{f.stem}.bin") if f"{f.stem}.bin" in there else b"" for f in files]),
        scan_columns=4,
        T_ego_lidar=np.tile(T_ego_lidar, (count, 1, 1)),
        current=np.ones(count, bool) if current is None else current,
        labels=np.full(count, b"") if labels is None else labels,
        read_labels=read_labels,
    )


def camera_from_projection(P: np.ndarray) -> np.ndarray:
    """`T_cam0_cam`: KITTI writes P = K [I | t] with t = origin of camera 0 in this camera, so K^-1 P[:, 3] = t."""
    T = np.eye(4)
    T[:3, 3] = -np.linalg.solve(P[:, :3], P[:, 3])
    return T


def read_poses(path: Path, count: int) -> np.ndarray:
    """[count, 4, 4] float64 (m) from lines of 12 numbers, a row-major 3 x 4 matrix each.

    Raises `DataError` for a missing file, a malformed line, or fewer lines than images.
    """
    rows = _read_rows(path, 12, count, "poses")
    poses = np.tile(np.eye(4), (count, 1, 1))
    poses[:, :3] = rows[:count].reshape(count, 3, 4)
    return poses


def read_oxts(path: Path, count: int, T_cam0_imu: np.ndarray) -> np.ndarray:
    """[count, 4, 4]: camera 0 relative to the first frame, from a file of GPS/IMU packets; see `poses_of_packets`."""
    return poses_of_packets(_read_rows(path, 30, count, "GPS/IMU packets")[:count], T_cam0_imu)


def poses_of_packets(packets: np.ndarray, T_cam0_imu: np.ndarray) -> np.ndarray:
    """[F, 4, 4]: camera 0 relative to the first frame, from GPS/IMU packets [F, 30].

    Mercator coordinates at the first latitude's scale and roll, pitch, yaw, as the raw data's development kit does.
    """
    latitude, longitude, altitude = packets[:, 0], packets[:, 1], packets[:, 2]
    scale = EARTH_RADIUS * np.cos(np.radians(latitude[0]))
    T_world_imu = np.tile(np.eye(4), (len(packets), 1, 1))
    T_world_imu[:, 0, 3] = scale * np.radians(longitude)
    T_world_imu[:, 1, 3] = scale * np.log(np.tan(np.radians(90 + latitude) / 2))
    T_world_imu[:, 2, 3] = altitude
    T_world_imu[:, :3, :3] = Rotation.from_euler("xyz", packets[:, 3:6]).as_matrix()
    T_world_cam0 = T_world_imu @ np.linalg.inv(T_cam0_imu)
    return np.linalg.inv(T_world_cam0[0]) @ T_world_cam0


def _folder(path: Path, what: str) -> Path:
    if not path.is_dir():
        near = ", ".join(sorted(p.name for p in path.parent.iterdir())) if path.parent.is_dir() else "not there either"
        raise DataError(f"{path}: no such {what} folder; in {path.parent}: {near}")
    return path


def _frames(folder: Path, digits: int) -> tuple[Path, ...]:
    """PNG files, or JPEG files that they were made into, numbered from 0 onwards without a gap."""
    every = sorted(_folder(folder, "image").iterdir())
    files = next((f for suffix in IMAGES if (f := [p for p in every if p.suffix == suffix])), [])
    if not files:
        raise DataError(f"{folder}: no PNG images; expected {0:0{digits}d}.png and so on, or the same as JPEG")
    expected = [f"{i:0{digits}d}{files[0].suffix}" for i in range(len(files))]
    missing = next((name for file, name in zip(files, expected, strict=True) if file.name != name), None)
    if missing is not None:
        raise DataError(f"{folder / missing}: missing, while later images are there; extract the archive again")
    return tuple(files)


def _read_times(path: Path, count: int) -> np.ndarray:
    """[count] seconds, rising."""
    return _rising(path, _read_rows(path, 1, count, "time stamps")[:count, 0])


def _read_date_times(path: Path, count: int) -> np.ndarray:
    """[count] ns, rising, from lines such as `2011-09-26 13:02:25.964389445`."""
    if not path.is_file():
        raise DataError(f"{path}: no such file with time stamps; expected {count} lines")
    lines = path.read_text("utf-8-sig").splitlines()
    if len(lines) < count:
        raise DataError(f"{path}: {len(lines)} lines of time stamps for {count} images; expected one a frame")
    stamps = []
    for number, line in enumerate(lines[:count], start=1):
        found = re.fullmatch(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)\.(\d{1,9})\s*", line)
        if found is None:
            raise DataError(f"{path}, line {number}: '{line}', expected a time such as 2011-09-26 13:02:25.964389445")
        seconds = datetime.fromisoformat(found[1]).replace(tzinfo=timezone.utc).timestamp()
        stamps.append(round(seconds) * 10**9 + int(found[2].ljust(9, "0")))
    return _rising(path, np.array(stamps))


def _rising(path: Path, times: np.ndarray) -> np.ndarray:
    falls = np.flatnonzero(np.diff(times) <= 0)
    if len(falls):
        raise DataError(
            f"{path}, line {falls[0] + 2}: time stamps do not rise there; frames would be out of order: use the file "
            "of the data set"
        )
    return times


def _read_rows(path: Path, columns: int, count: int, what: str) -> np.ndarray:
    """At least `count` lines of `columns` numbers."""
    if not path.is_file():
        raise DataError(f"{path}: no such file with {what}; expected {count} lines of {columns} numbers")
    rows = []
    for number, line in enumerate(path.read_text("utf-8-sig").splitlines(), start=1):
        try:
            rows.append([float(v) for v in line.split()])
        except ValueError as error:
            raise DataError(f"{path}, line {number}: {error}; expected {columns} numbers") from error
        if len(rows[-1]) != columns:
            raise DataError(f"{path}, line {number}: {len(rows[-1])} numbers, expected {columns}")
    if len(rows) < count:
        raise DataError(f"{path}: {len(rows)} lines of {what} for {count} images; expected one a frame")
    return np.array(rows)
