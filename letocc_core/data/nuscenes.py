"""nuScenes, in its own layout on disk, into ROS 2 bags: six cameras, the top LiDAR, poses.

nuScenes' ego frame lies on the road below the rear axle (x forward, y left, z up), which is `base_link` here, and its
map frame takes the place of `odom`. Images stay the data set's JPEG bytes at the data set's time stamps (microseconds;
the six cameras fire within 50 ms, one after the other). A scan (`.pcd.bin`) is float32 rows of x, y, z (m), intensity,
ring.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from letocc_core.data.bag_writer import BagWriter, optical_frame
from letocc_core.data.kitti import read_scan
from letocc_core.errors import CalibrationError, DataError
from letocc_core.geometry import se3
from letocc_core.stream import images
from letocc_core.stream.types import Calibration

CAMERAS = ("FRONT", "FRONT_LEFT", "FRONT_RIGHT", "BACK", "BACK_LEFT", "BACK_RIGHT")
CHANNELS = {f"CAM_{name}": f"camera_{name.lower()}" for name in CAMERAS}
LIDAR = "LIDAR_TOP"
TABLES = ("scene", "sample", "sample_data", "calibrated_sensor", "ego_pose", "sensor")


def nuscenes_to_bag(root: str | Path, scene: str | None, out: str | Path, sweeps: bool = True) -> Path:
    """Convert a scene, for example `scene-0061` (None: the first one); returns the bag folder `out`.

    Args:
        root: folder with `samples/`, `sweeps/` and the tables of one version, such as `v1.0-mini/`.
        sweeps: also take the frames between the keyframes (12 Hz instead of 2 Hz) when their tables list them.

    Raises:
        DataError: a table, scene, token or file is missing or damaged.
        CalibrationError: a camera without intrinsics.
    """
    tables = Tables.read(Path(root))
    records = tables.records(tables.scene(scene), sweeps)
    with BagWriter(Path(out)) as bag:
        bag.write_tf_static(records[0]["timestamp"] * 1000, list(_mounts(tables, records)))
        for record in records:
            _write(bag, tables, record)
    return Path(out)


@dataclass(frozen=True)
class Tables:
    """The data set's JSON tables, by token."""

    root: Path
    folder: Path
    rows: dict[str, dict[str, dict]] = field(repr=False)  # table -> token -> row

    @classmethod
    def read(cls, root: Path) -> "Tables":
        """Read the one `v1.0-*` folder below `root`."""
        found = sorted(p for p in root.glob("v1.0-*") if p.is_dir()) if root.is_dir() else []
        if len(found) != 1:
            names = ", ".join(p.name for p in found) or "none"
            raise DataError(f"{root}: expected one folder of tables such as v1.0-mini, found {names}")
        rows = {}
        for name in TABLES:
            path = found[0] / f"{name}.json"
            try:
                rows[name] = {row["token"]: row for row in json.loads(path.read_text())}
            except FileNotFoundError:
                raise DataError(f"{path}: this table is missing; extract the data set's metadata archive") from None
            except (json.JSONDecodeError, TypeError, KeyError) as error:
                raise DataError(
                    f"{path}: not a table of nuScenes (a JSON list of rows with tokens): {error}"
                ) from error
        return cls(root, found[0], rows)

    def row(self, table: str, token: str) -> dict:
        """One row; `DataError` if the token is unknown."""
        try:
            return self.rows[table][token]
        except KeyError:
            raise DataError(
                f"{self.folder / table}.json: no row with token {token}, which another table names"
            ) from None

    def scene(self, name: str | None) -> dict:
        """The scene of this name, or the first."""
        scenes = {row["name"]: row for row in self.rows["scene"].values()}
        if name is None and scenes:
            return next(iter(scenes.values()))
        if name not in scenes:
            raise DataError(f"{self.folder}/scene.json: no scene '{name}'; scenes: {', '.join(scenes) or 'none'}")
        return scenes[name]

    def records(self, scene: dict, sweeps: bool) -> list[dict]:
        """Rows of `sample_data` of the scene's cameras and LiDAR in time order."""
        samples = {token for token, row in self.rows["sample"].items() if row["scene_token"] == scene["token"]}
        records = [
            row
            for row in self.rows["sample_data"].values()
            if row["sample_token"] in samples
            and (sweeps or row["is_key_frame"])
            and (self.channel(row) in CHANNELS or self.channel(row) == LIDAR)
        ]
        if not records:
            raise DataError(f"{self.folder}/sample_data.json: no camera or {LIDAR} record of scene {scene['name']}")
        return sorted(records, key=lambda row: row["timestamp"])

    def channel(self, record: dict) -> str:
        """Sensor channel of a `sample_data` row, such as CAM_FRONT."""
        mount = self.row("calibrated_sensor", record["calibrated_sensor_token"])
        return self.row("sensor", mount["sensor_token"])["channel"]

    def file(self, record: dict) -> Path:
        """Path of a record's data; `DataError` if it is not there."""
        path = self.root / record["filename"]
        if not path.is_file():
            raise DataError(f"{path}: missing, but the tables list it; extract the archive that holds it")
        return path


def pose(row: dict) -> np.ndarray:
    """[4, 4] float64 (m) of a row with `rotation` (w, x, y, z) and `translation`."""
    w, x, y, z = row["rotation"]
    return se3.from_quaternion(np.array([x, y, z, w]), np.array(row["translation"]))


def _frame(channel: str) -> str:
    return "lidar" if channel == LIDAR else optical_frame(CHANNELS[channel])


def _mounts(tables: Tables, records: list[dict]) -> Iterator[tuple[str, str, np.ndarray]]:
    """Where each sensor sits, once a channel."""
    for channel, record in {tables.channel(r): r for r in reversed(records)}.items():
        yield "base_link", _frame(channel), pose(tables.row("calibrated_sensor", record["calibrated_sensor_token"]))


def _write(bag: BagWriter, tables: Tables, record: dict) -> None:
    """The ego pose and the data of one record."""
    channel, stamp = tables.channel(record), record["timestamp"] * 1000
    path = tables.file(record)
    bag.write_tf(stamp, "odom", "base_link", pose(tables.row("ego_pose", record["ego_pose_token"])))
    if channel == LIDAR:
        points = read_scan(path, columns=5)
        bag.write_points(
            stamp, "lidar", {"x": points[:, 0], "y": points[:, 1], "z": points[:, 2], "intensity": points[:, 3]}
        )
        return
    mount = tables.row("calibrated_sensor", record["calibrated_sensor_token"])
    K = np.array(mount["camera_intrinsic"], np.float64)
    if K.shape != (3, 3):
        raise CalibrationError(
            f"{tables.folder}/calibrated_sensor.json: {channel} has intrinsics of shape {K.shape}, expected 3 x 3"
        )
    data = path.read_bytes()
    height, width = images.decode_compressed(data, str(path)).shape[:2]
    bag.write_camera_info(CHANNELS[channel], stamp, Calibration(width, height, K))
    bag.write_encoded_image(CHANNELS[channel], stamp, data, "jpeg")
