"""Sequences of KITTI and nuScenes as ROS 2 bags, for replay and the live node: images keep their bytes.

A bag has `/<camera>/image_raw/compressed` and `camera_info`, `/points` where there are scans, `/tf` (`odom` to `base_link`)
and `/tf_static`. nuScenes' map takes the place of `odom`; its images and sweeps keep their own stamps, cameras firing
one after the other within 50 ms.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from letocc_core.data.bags.writer import BagWriter, optical_frame
from letocc_core.data.datasets import kitti
from letocc_core.data.datasets.drive import Drive, read_bytes, read_scan
from letocc_core.data.datasets.nuscenes import CHANNELS, LIDAR, SENSORS, NuScenes, poses
from letocc_core.errors import DataError
from letocc_core.processes import in_order
from letocc_core.stream import images
from letocc_core.stream.types import Calibration


def parts_to_bags(
    convert: Callable[[Path, Any, Path], Path], root: Path, parts: Sequence[str | None], out: Path, workers: int = 0
) -> Iterator[Path]:
    """Bags of sequences, drives or scenes, in their order: `out` itself of one, `out/<part>` of several.

    Args:
        convert: one of the functions below.
        workers: processes that share the parts of several; within `processes.on_ray`, Ray's.

    Raises `DataError` if a part is named twice, and what `convert` raises; the bags that were whole by then stay.
    """
    twice = [part for part, count in Counter(parts).items() if count > 1]
    if twice:
        raise DataError(f"{root}: '{twice[0]}' is named twice; expected each part once, as each has a bag of its own")
    if len(parts) == 1:
        yield convert(root, parts[0], out)
        return
    yield from in_order(convert, [(root, part, out / str(part)) for part in parts], workers)


def kitti_tracking_to_bag(root: str | Path, sequence: str, out: str | Path) -> Path:
    """A sequence of the tracking benchmark, for example `0012`, of its training half; see `kitti.tracking_drive`."""
    return drive_to_bag(kitti.tracking_drive(Path(root), sequence), Path(out))


def kitti_odometry_to_bag(root: str | Path, sequence: str, out: str | Path) -> Path:
    """A sequence of the odometry benchmark, for example `06`; see `kitti.odometry_drive`."""
    return drive_to_bag(kitti.odometry_drive(Path(root), sequence), Path(out))


def kitti_raw_to_bag(root: str | Path, drive: str, out: str | Path) -> Path:
    """A drive of the raw recordings, for example `2011_09_26_drive_0002`; see `kitti.raw_drive`."""
    return drive_to_bag(kitti.raw_drive(Path(root), drive), Path(out))


def drive_to_bag(drive: Drive, out: Path) -> Path:
    """Write a drive whose cameras fire together; returns the bag folder.

    Every image is decoded, since a bag with a broken one would only fail later. Raises `DataError` for a file that is
    missing or damaged, and leaves nothing behind then.
    """
    static = [("base_link", optical_frame(name), T) for name, T in zip(drive.cameras, drive.T_ego_cam[0], strict=True)]
    if (drive.scans != b"").any():
        static.append(("base_link", "lidar", drive.T_ego_lidar[0]))
    with BagWriter(out) as bag:
        bag.write_tf_static(int(drive.stamps_ns[0]), static)
        for i, stamp in enumerate(drive.stamps_ns.tolist()):
            bag.write_tf(stamp, "odom", "base_link", drive.T_world_ego[i])
            for n, camera in enumerate(drive.cameras):
                _write_image(bag, camera, stamp, drive.path(drive.images[i, n]), drive.K[i, n])
            if drive.scans[i]:
                _write_scan(bag, stamp, drive.path(drive.scans[i]), drive.scan_columns)
    return out


def nuscenes_to_bag(root: str | Path, scene: str | None, out: str | Path, sweeps: bool = True) -> Path:
    """A scene of nuScenes, for example `scene-0061` (None: the first one); returns the bag folder `out`.

    Args:
        sweeps: also take the frames between the keyframes (12 Hz instead of 2 Hz) when their tables list them.

    Raises as `NuScenes`, and `DataError` for a file that is missing or damaged.
    """
    data = NuScenes(root)
    index, rows = data.index, data.records(data.scenes[0] if scene is None else scene)
    files = data.drive(data.scenes[0] if scene is None else scene)
    rows = rows if sweeps else rows[index.keyframe[rows]]
    with BagWriter(Path(out)) as bag:
        bag.write_tf_static(int(index.stamp_us[rows[0]]) * 1000, list(_mounts(data, rows)))
        for row, T_world_ego in zip(rows, poses(index.pose[rows]), strict=True):
            stamp, channel = int(index.stamp_us[row]) * 1000, SENSORS[index.sensor[row]]
            path = files.path(index.file[row])
            bag.write_tf(stamp, "odom", "base_link", T_world_ego)
            if channel == LIDAR:
                _write_scan(bag, stamp, path, files.scan_columns)
            else:
                _write_image(bag, CHANNELS[channel], stamp, path, index.intrinsics[index.mount[row]])
    return Path(out)


def _mounts(data: NuScenes, rows: np.ndarray) -> Iterator[tuple[str, str, np.ndarray]]:
    """Where each sensor sits, once a channel."""
    for sensor, first in zip(*np.unique(data.index.sensor[rows], return_index=True), strict=True):
        channel = SENSORS[sensor]
        frame = "lidar" if channel == LIDAR else optical_frame(CHANNELS[channel])
        yield "base_link", frame, poses(data.index.mount_poses[[data.index.mount[rows[first]]]])[0]


def _write_image(bag: BagWriter, camera: str, stamp: int, path: Path, K: np.ndarray) -> None:
    data = read_bytes(path, "image")
    height, width = images.decode_compressed(data, str(path)).shape[:2]
    bag.write_camera_info(camera, stamp, Calibration(width, height, K))
    bag.write_encoded_image(camera, stamp, data, "png" if path.suffix == ".png" else "jpeg")


def _write_scan(bag: BagWriter, stamp: int, path: Path, columns: int) -> None:
    points = read_scan(path, columns)
    bag.write_points(stamp, "lidar", dict(zip(("x", "y", "z", "intensity"), points.T[:4], strict=True)))
