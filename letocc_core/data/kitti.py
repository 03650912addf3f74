"""KITTI's tracking and odometry benchmarks, in their own layout on disk, into ROS 2 bags.

`base_link` lies on the road straight under the left grey camera (camera 0): x forward along its rectified optical axis,
y left, z up. The sensor description puts the cameras 1.65 m above the road, and the rectified axes are level with it:
planes fitted to the LiDAR's road points of sequence 0012 stayed within 0.02 m and 0.3 degrees of z = 0. `odom` is
`base_link` at the first frame. The bag has the images of `camera_front` (PNG bytes as recorded), `/points` where there
are scans, `/tf` and `/tf_static`.

Velodyne scans (`.bin`) are float32 rows of x, y, z (m, forward, left, up from the scanner) and reflectance.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from letocc_core.data.bag_writer import BagWriter, optical_frame
from letocc_core.errors import CalibrationError, DataError
from letocc_core.stream import images
from letocc_core.stream.types import Calibration

CAMERA = "camera_front"
CAMERA_HEIGHT = 1.65  # m above the road (KITTI's sensor set-up)
TRACKING_RATE = 10  # frames a second; the tracking benchmark has no time stamps
START_NS = 10**9  # stamp of the first frame, since ROS 2 reads a stamp of 0 as "the latest"
EARTH_RADIUS = 6378137.0  # m, of the Mercator projection that KITTI's development kit uses

# camera 0 (x right, y down, z forward) -> base_link (x forward, y left, z up)
T_BASE_CAM0 = np.array([[0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, CAMERA_HEIGHT], [0, 0, 0, 1]], np.float64)


@dataclass(frozen=True, eq=False)
class Drive:
    """A sequence on disk, ready to be written: everything but the images and scans themselves."""

    images: tuple[Path, ...]  # PNG files
    scans: tuple[Path, ...]  # Velodyne files, one an image, or none
    stamps_ns: tuple[int, ...]
    poses: np.ndarray  # [F, 4, 4] m, rectified camera 0 at frame t -> at the first frame
    projection: np.ndarray  # [3, 4] px, of the camera whose images these are (P0 to P3)
    T_cam0_velo: np.ndarray | None  # [4, 4] m, scanner -> rectified camera 0


class SensorCalibration:
    """A calibration file of KITTI: rows of numbers by key, `P0: ...` or, in the tracking benchmark, `R_rect ...`.

    Raises `CalibrationError` for a missing file or a value that is no number.
    """

    def __init__(self, path: Path):
        if not path.is_file():
            raise CalibrationError(
                f"{path}: no such calibration file; it comes with the benchmark's calibration archive"
            )
        self.path = path
        self.rows: dict[str, np.ndarray] = {}
        for number, line in enumerate(path.read_text().splitlines(), start=1):
            key, *values = line.split() or [""]
            try:
                self.rows[key.rstrip(":")] = np.array([float(v) for v in values])
            except ValueError as error:
                raise CalibrationError(f"{path}, line {number}: {error}; expected a key and numbers") from error

    def matrix(self, rows: int, columns: int, *keys: str) -> np.ndarray:
        """The first of `keys` that is present (the benchmarks name them differently); `CalibrationError` if none is."""
        key = next((k for k in keys if k in self.rows), None)
        if key is None:
            found = ", ".join(filter(None, self.rows)) or "none"
            raise CalibrationError(f"{self.path}: no key {' or '.join(keys)}; keys found: {found}")
        if self.rows[key].size != rows * columns:
            raise CalibrationError(f"{self.path}: {key} has {self.rows[key].size} numbers, expected {rows} x {columns}")
        return self.rows[key].reshape(rows, columns)

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


def kitti_tracking_to_bag(root: str | Path, sequence: str, out: str | Path) -> Path:
    """Convert a sequence of the tracking benchmark, for example `0012`; returns the bag folder `out`.

    Reads `training/{image_02, velodyne, calib}` and the poses from `training/poses/<sequence>.txt` (3 x 4 matrices of
    rectified camera 0, one a line) or, without that file, from the benchmark's GPS/IMU packets `training/oxts/`.

    Raises:
        DataError: a folder, file or line is missing, or an image or scan is damaged.
        CalibrationError: a key of the calibration file is missing or malformed.
    """
    base = _folder(Path(root) / "training" if (Path(root) / "training").is_dir() else Path(root), "data set")
    calibration = SensorCalibration(base / "calib" / f"{sequence}.txt")
    T_velo_to_cam0 = calibration.rotation("R_rect", "R0_rect") @ calibration.rigid("Tr_velo_cam", "Tr_velo_to_cam")
    files = _frames(base / "image_02" / sequence)
    poses_file = base / "poses" / f"{sequence}.txt"
    if poses_file.exists():
        poses = read_poses(poses_file, len(files))
    else:
        T_velo_imu = calibration.rigid("Tr_imu_velo", "Tr_imu_to_velo")
        poses = read_oxts(base / "oxts" / f"{sequence}.txt", len(files), T_velo_to_cam0 @ T_velo_imu)
    stamps = tuple(START_NS + round(i * 10**9 / TRACKING_RATE) for i in range(len(files)))
    scans = _scans(base / "velodyne" / sequence, files)
    return write_drive(Drive(files, scans, stamps, poses, calibration.matrix(3, 4, "P2"), T_velo_to_cam0), Path(out))


def kitti_odometry_to_bag(root: str | Path, sequence: str, out: str | Path) -> Path:
    """Convert a sequence of the odometry benchmark, for example `06`; returns the bag folder `out`.

    Reads `sequences/<sequence>/{calib.txt, times.txt, image_2 or image_0, velodyne}` and `poses/<sequence>.txt`.
    Raises as `kitti_tracking_to_bag`.
    """
    root = _folder(Path(root), "data set")
    base = _folder(root / "sequences" / sequence, "sequence")
    calibration = SensorCalibration(base / "calib.txt")
    colour = (base / "image_2").is_dir()
    files = _frames(base / ("image_2" if colour else "image_0"))
    times = _read_times(base / "times.txt", len(files))
    poses = read_poses(root / "poses" / f"{sequence}.txt", len(files))
    stamps = tuple(START_NS + round(t * 10**9) for t in times)
    scans = _scans(base / "velodyne", files)
    T_cam0_velo = calibration.rigid("Tr") if scans else None
    projection = calibration.matrix(3, 4, "P2" if colour else "P0")
    return write_drive(Drive(files, scans, stamps, poses, projection, T_cam0_velo), Path(out))


def write_drive(drive: Drive, out: Path) -> Path:
    """Write a drive as a bag; every image is checked, since a bag with a broken one would only fail later."""
    K = drive.projection[:, :3]
    T_base_cam = T_BASE_CAM0 @ camera_from_projection(drive.projection)
    static = [("base_link", optical_frame(CAMERA), T_base_cam)]
    if drive.T_cam0_velo is not None:
        static.append(("base_link", "lidar", T_BASE_CAM0 @ drive.T_cam0_velo))
    with BagWriter(out) as bag:
        bag.write_tf_static(drive.stamps_ns[0], static)
        for i, (stamp, file) in enumerate(zip(drive.stamps_ns, drive.images, strict=True)):
            T_odom_base = T_BASE_CAM0 @ drive.poses[i] @ np.linalg.inv(T_BASE_CAM0)
            bag.write_tf(stamp, "odom", "base_link", T_odom_base)
            data = file.read_bytes()
            height, width = images.decode_compressed(data, str(file)).shape[:2]
            bag.write_camera_info(CAMERA, stamp, Calibration(width, height, K))
            bag.write_encoded_image(CAMERA, stamp, data, "png")
            if drive.scans:
                points = read_scan(drive.scans[i], columns=4)
                names = ("x", "y", "z", "intensity")
                bag.write_points(stamp, "lidar", dict(zip(names, points.T, strict=True)))
    return out


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
    """[count, 4, 4]: camera 0 relative to the first frame, from GPS/IMU packets of 30 values.

    Mercator coordinates at the first latitude's scale and roll, pitch, yaw, as the raw data's development kit does.
    """
    packets = _read_rows(path, 30, count, "GPS/IMU packets")[:count]
    latitude, longitude, altitude = packets[:, 0], packets[:, 1], packets[:, 2]
    scale = EARTH_RADIUS * np.cos(np.radians(latitude[0]))
    T_world_imu = np.tile(np.eye(4), (count, 1, 1))
    T_world_imu[:, 0, 3] = scale * np.radians(longitude)
    T_world_imu[:, 1, 3] = scale * np.log(np.tan(np.radians(90 + latitude) / 2))
    T_world_imu[:, 2, 3] = altitude
    T_world_imu[:, :3, :3] = Rotation.from_euler("xyz", packets[:, 3:6]).as_matrix()
    T_world_cam0 = T_world_imu @ np.linalg.inv(T_cam0_imu)
    return np.linalg.inv(T_world_cam0[0]) @ T_world_cam0


def read_scan(path: Path, columns: int) -> np.ndarray:
    """[P, columns] float32 of a raw binary point file; `DataError` if its size is not a whole number of points."""
    if not path.is_file():
        raise DataError(f"{path}: no such LiDAR scan")
    size = path.stat().st_size
    if size == 0 or size % (4 * columns):
        raise DataError(f"{path}: {size} bytes, expected a multiple of {4 * columns} ({columns} float32 a point)")
    return np.fromfile(path, np.float32).reshape(-1, columns)


def _folder(path: Path, what: str) -> Path:
    if not path.is_dir():
        near = ", ".join(sorted(p.name for p in path.parent.iterdir())) if path.parent.is_dir() else "not there either"
        raise DataError(f"{path}: no such {what} folder; in {path.parent}: {near}")
    return path


def _frames(folder: Path) -> tuple[Path, ...]:
    """Image files numbered 000000.png onwards without a gap."""
    files = sorted(_folder(folder, "image").glob("*.png"))
    if not files:
        raise DataError(f"{folder}: no PNG images; expected 000000.png and so on")
    expected = [f"{i:06d}.png" for i in range(len(files))]
    missing = next((name for file, name in zip(files, expected, strict=True) if file.name != name), None)
    if missing is not None:
        raise DataError(f"{folder / missing}: missing, while later images are there; extract the archive again")
    return tuple(files)


def _scans(folder: Path, frames: Sequence[Path]) -> tuple[Path, ...]:
    """One scan an image, or none at all; a scan that is missing among others is an error of `read_scan`."""
    return tuple(folder / f"{f.stem}.bin" for f in frames) if folder.is_dir() else ()


def _read_times(path: Path, count: int) -> np.ndarray:
    """[count] seconds, rising."""
    times = _read_rows(path, 1, count, "time stamps")[:count, 0]
    if (np.diff(times) <= 0).any():
        raise DataError(f"{path}: time stamps do not rise at line {int(np.argmax(np.diff(times) <= 0)) + 2}")
    return times


def _read_rows(path: Path, columns: int, count: int, what: str) -> np.ndarray:
    """At least `count` lines of `columns` numbers."""
    if not path.is_file():
        raise DataError(f"{path}: no such file with {what}; expected {count} lines of {columns} numbers")
    rows = []
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        try:
            rows.append([float(v) for v in line.split()])
        except ValueError as error:
            raise DataError(f"{path}, line {number}: {error}; expected {columns} numbers") from error
        if len(rows[-1]) != columns:
            raise DataError(f"{path}, line {number}: {len(rows[-1])} numbers, expected {columns}")
    if len(rows) < count:
        raise DataError(f"{path}: {len(rows)} lines of {what} for {count} images; expected one a frame")
    return np.array(rows)
