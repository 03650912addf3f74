"""A sequence of a data set as it lies on disk: which files, calibrations and poses belong to each image set.

Loaders (`kitti`, `nuscenes`) only index: images and scans are read when a set is asked for. What is read here is what
training (`DriveFrames`), evaluation (iterating over a `Drive`) and the conversion to bags start from.
"""

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8

from letocc_core.data.bags.recording import RecordedSet, Sweep
from letocc_core.data.datasets.voxel_labels import VoxelLabels
from letocc_core.errors import DataError
from letocc_core.frame import Frame, InputConfig
from letocc_core.geometry.camera import fitted_intrinsics
from letocc_core.stream import images
from letocc_core.stream.preprocess import rectifier_of, to_frame
from letocc_core.stream.types import Calibration, FrameSet


@dataclass(frozen=True, eq=False)
class Drive:
    """F image sets of N cameras in time order. Files are bytes relative to `root`; an empty name: there is none."""

    name: str  # data set and sequence, for messages
    root: Path
    cameras: tuple[str, ...]
    stamps_ns: Int[np.ndarray, "F"]  # rising
    T_world_ego: Float[np.ndarray, "F 4 4"]  # m, at the stamps
    T_ego_cam: Float[np.ndarray, "F N 4 4"]  # m, each camera where it was when its image was taken
    K: Float[np.ndarray, "F N 3 3"]  # px, of the images as they are on disk
    sizes: Int[np.ndarray, "N 2"]  # px, width and height of each camera's images
    images: np.ndarray  # bytes [F, N]: JPEG or PNG files
    scans: np.ndarray  # bytes [F]: float32 rows of x, y, z (m, scanner's axes) and more
    scan_columns: int  # numbers a point
    T_ego_lidar: Float[np.ndarray, "F 4 4"]  # m, the scanner when its scan was taken
    current: Bool[np.ndarray, "F"]  # sets that may be current frames, such as keyframes
    labels: np.ndarray  # bytes [F]: voxel labels
    read_labels: Callable[[Path], VoxelLabels] | None = None

    def __post_init__(self):
        falls = np.flatnonzero(np.diff(self.stamps_ns) <= 0)
        if len(falls):
            before, after = self.stamps_ns[falls[0] : falls[0] + 2]
            raise DataError(
                f"{self.name}: image set {falls[0] + 1} is stamped {after} ns, set {falls[0]} {before} ns; expected rising "
                "stamps: extract the data set's tables or time stamps again"
            )

    def __len__(self) -> int:
        return len(self.stamps_ns)

    def __iter__(self) -> Iterator[RecordedSet]:
        """All sets with their sweeps, as `Recording` gives those of a bag."""
        return (RecordedSet(self.frame_set(i), self.sweep(i)) for i in range(len(self)))

    def frame_set(self, i: int) -> FrameSet:
        """Image set i, decoded. Raises `DataError` for a file that is missing, damaged, or of another size."""
        present = [bool(name) for name in self.images[i]]
        return FrameSet(
            stamp_ns=int(self.stamps_ns[i]),
            images=tuple(self._image(i, n) if there else None for n, there in enumerate(present)),
            calibrations=tuple(
                Calibration(int(w), int(h), self.K[i, n]) if present[n] else None for n, (w, h) in enumerate(self.sizes)
            ),
            T_ego_cam=self.T_ego_cam[i],
            T_world_ego=self.T_world_ego[i],
        )

    def sweep(self, i: int) -> Sweep | None:
        """The LiDAR sweep of set i in its ego axes; None where there is none. Raises `DataError` as `read_scan`."""
        if not self.scans[i]:
            return None
        points = read_scan(self.path(self.scans[i]), self.scan_columns)[:, :3]
        T = self.T_ego_lidar[i]
        moved = points @ T[:3, :3].T.astype(np.float32) + T[:3, 3].astype(np.float32)
        return Sweep(moved, T[:3, 3].astype(np.float32))

    def voxel_labels(self, i: int) -> VoxelLabels | None:
        """Voxel labels of set i; None where there are none. Raises `DataError` for a damaged file."""
        return self.read_labels(self.path(self.labels[i])) if self.read_labels and self.labels[i] else None

    def path(self, name: bytes) -> Path:
        """A file of this drive; `DataError` for a name that leads out of the data set's folder."""
        relative = PurePosixPath(os.fsdecode(name))
        if relative.is_absolute() or ".." in relative.parts:
            raise DataError(
                f"{self.name}: the tables name the file '{relative}', which lies outside of {self.root}; it is not "
                "read: use the data set's own tables"
            )
        return self.root / relative

    def _image(self, i: int, camera: int) -> UInt8[np.ndarray, "h w 3"]:
        image = read_image(self.path(self.images[i, camera]))
        width, height = self.sizes[camera]
        if image.shape[:2] != (height, width):
            raise DataError(
                f"{self.path(self.images[i, camera])}: {image.shape[1]} x {image.shape[0]} px, but the calibration of "
                f"{self.cameras[camera]} is of {width} x {height} px; extract the file again"
            )
        return image


def read_image(path: Path) -> UInt8[np.ndarray, "h w 3"]:
    """RGB of a JPEG or PNG file; `DataError` if it is missing, cut off or damaged."""
    return images.decode_compressed(read_bytes(path, "image"), str(path))


def read_scan(path: Path, columns: int) -> Float[np.ndarray, "P columns"]:
    """float32 rows of a raw binary point file; `DataError` if it is missing or no whole number of points."""
    data = read_bytes(path, "LiDAR scan")
    if not data or len(data) % (4 * columns):
        raise DataError(
            f"{path}: {len(data)} bytes, expected a multiple of {4 * columns} ({columns} float32 a point); it was cut "
            "off: extract it again"
        )
    return np.frombuffer(data, np.float32).reshape(-1, columns)


def read_bytes(path: Path, what: str) -> bytes:
    """The whole file; `DataError` that names it where it is missing."""
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(f"{path}: no such {what}; extract the archive that holds it, or check data.*.root") from None


class DriveFrames:
    """The frames of a drive at the network's size, decoded whenever they are asked for: a `FrameStore`.

    Args:
        lidar: also give sweeps; then only frames with one are current frames, where the drive has any.
        cache: folder below which cues of these frames are kept.
    """

    def __init__(self, drive: Drive, input: InputConfig, lidar: bool, cache: Path):
        self.drive, self.input, self.lidar = drive, input, lidar
        self.name, self.stamps_ns, self.T_world_ego = drive.name, drive.stamps_ns, drive.T_world_ego
        self.T_ego_cam, self.camera_valid = drive.T_ego_cam, drive.images != b""
        self.folder = cache / "cues" / f"{drive.name.replace('/', '_')}-{self._key()}"
        self.K = _fitted_intrinsics(drive, input.image_size)
        self._rectifier = rectifier_of(input)

    def __len__(self) -> int:
        return len(self.drive)

    @property
    def has_sweep(self) -> Bool[np.ndarray, "F"]:
        """Frames with a sweep that is used."""
        return (self.drive.scans != b"") & self.lidar

    @property
    def complete(self) -> Bool[np.ndarray, "F"]:
        """Frames that may be current frames."""
        return self.drive.current & (self.has_sweep | (not self.has_sweep.any()))

    def frame(self, i: int, lidar: bool = True) -> Frame:
        """Frame i; with `lidar` its sweep, if it has one and sweeps are used."""
        frame = to_frame(self.drive.frame_set(i), self.input, self._rectifier)
        sweep = self.drive.sweep(i) if lidar and self.lidar else None
        if sweep is None:
            return frame
        return replace(frame, lidar=torch.from_numpy(sweep.points), lidar_origin=torch.from_numpy(sweep.origin))

    def pictures(self, i: int) -> UInt8[np.ndarray, "N H W 3"]:
        """The images of frame i alone; zeros where a camera is absent."""
        frame = to_frame(self.drive.frame_set(i), self.input, self._rectifier)
        return (frame.images * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()

    def _key(self) -> str:
        about = (
            str(self.drive.root.resolve()),
            self.drive.cameras,
            self.input.image_size,
            self.drive.stamps_ns.tobytes(),
        )
        return hashlib.sha256(repr(about).encode()).hexdigest()[:12]


def _fitted_intrinsics(drive: Drive, image_size: tuple[int, int]) -> Float[np.ndarray, "F N 3 3"]:
    """Intrinsics (px) of the images at the network's size."""
    out = np.empty_like(drive.K)
    for n, (width, height) in enumerate(drive.sizes):
        kinds, kind = np.unique(drive.K[:, n].reshape(len(drive), 9), axis=0, return_inverse=True)
        fitted = np.stack([fitted_intrinsics(K.reshape(3, 3), int(height), int(width), *image_size) for K in kinds])
        out[:, n] = fitted[kind.reshape(-1)]
    return out
