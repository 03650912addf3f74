"""nuScenes in its own layout on disk: an index of its tables, and each scene as a `Drive`.

nuScenes' ego frame lies on the road below the rear axle (x forward, y left, z up) and is the ego frame here, with the
map as the world. A set is a keyframe (2 Hz), at the stamp and the ego pose of its LiDAR sweep, as the labels of Occ3D
and OpenOcc are; each camera is placed where the vehicle was when it fired, within 50 ms. With `sweeps`, the images between
keyframes are sets too (12 Hz), at the stamp of the first camera. A scan (`.pcd.bin`) is float32 rows of x, y, z (m),
intensity, ring.

The tables of v1.0-trainval are 2 GB of JSON. They are read block by block into a few arrays, which are kept on disk.
"""

import codecs
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from types import GenericAlias
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.spatial.transform import Rotation

from letocc_core.data.cache import complete_folder
from letocc_core.data.datasets.drive import Drive, read_bytes
from letocc_core.data.datasets.splits import nuscenes_split
from letocc_core.data.datasets.voxel_labels import read_occ3d, read_openocc
from letocc_core.errors import CalibrationError, DataError, MissingDependencyError

CAMERAS = ("FRONT", "FRONT_LEFT", "FRONT_RIGHT", "BACK", "BACK_LEFT", "BACK_RIGHT")
CHANNELS = {f"CAM_{name}": f"camera_{name.lower()}" for name in CAMERAS}
LIDAR = "LIDAR_TOP"
SENSORS = (*CHANNELS, LIDAR)  # what the index holds
BLOCK = 1 << 24  # bytes of a table read at a time
INDEX_VERSION = 1  # raise it when the arrays below change
LABELS = {"occ3d": ("gts", read_occ3d), "openocc": ("openocc_v2", read_openocc)}  # folder and reader


@dataclass(frozen=True, eq=False)
class Index:
    """What is needed of the tables: S scenes, K keyframes, M mounts, R records of `SENSORS` in order of scene and time."""

    scene_names: np.ndarray  # bytes [S]
    sample_tokens: np.ndarray  # bytes [K]
    mount_poses: Float[np.ndarray, "M 7"]  # m, sensor in the ego frame: quaternion w, x, y, z and translation
    intrinsics: Float[np.ndarray, "M 3 3"]  # px; NaN of a LiDAR
    scene: Int[np.ndarray, "R"]
    sample: Int[np.ndarray, "R"]
    sensor: Int[np.ndarray, "R"]  # position in SENSORS
    mount: Int[np.ndarray, "R"]
    stamp_us: Int[np.ndarray, "R"]
    keyframe: Bool[np.ndarray, "R"]
    size: Int[np.ndarray, "R 2"]  # px, width and height
    pose: Float[np.ndarray, "R 7"]  # m, ego frame in the map, as `mount_poses`
    file: np.ndarray  # bytes [R], relative to the data set's folder

    def save(self, folder: Path) -> None:
        """One .npy file an array."""
        for field in fields(self):
            np.save(folder / f"{field.name}.npy", getattr(self, field.name))

    @classmethod
    def load(cls, folder: Path) -> "Index":
        """Mapped from the files of `save`, so that processes share them."""
        return cls(**{f.name: np.load(folder / f"{f.name}.npy", mmap_mode="r") for f in fields(cls)})


class NuScenes:
    """One version of the data set.

    Args:
        root: folder with `samples/`, `sweeps/` and the tables of a version, such as `v1.0-mini/`.
        version: which tables; None if there is one folder of them.
        cache: folder to keep the index in; None: read the tables anew.

    Raises `DataError` if a table is missing, no table of nuScenes, or names a row that another table lacks.
    """

    def __init__(self, root: str | Path, version: str | None = None, cache: Path | None = None):
        self.root = Path(root)
        self.tables = _find_tables(self.root, version)
        self.version = self.tables.name
        if cache is None:
            self.index = read_tables(self.tables)
            return
        folder = cache / "nuscenes" / f"{self.version}-{self._key()}"
        if not folder.is_dir():
            with complete_folder(folder) as temporary:
                read_tables(self.tables).save(temporary)
        self.index = Index.load(folder)

    @property
    def scenes(self) -> list[str]:
        """Names of all scenes, such as `scene-0061`."""
        return [name.decode() for name in self.index.scene_names]

    def split(self, split: str) -> list[str]:
        """Scenes of the official split `train`, `val` or `test`, or `all`."""
        return [name for name in self.scenes if split in ("all", nuscenes_split(name, self.version))]

    def records(self, scene: str) -> Int[np.ndarray, "n"]:
        """Positions in the index of a scene's records, in order of time; `DataError` for an unknown scene."""
        if scene not in self.scenes:
            raise DataError(
                f"{self.tables}/scene.json: no scene '{scene}'; scenes: {', '.join(self.scenes[:20]) or 'none'}"
                + (f" and {len(self.scenes) - 20} more" if len(self.scenes) > 20 else "")
            )
        first, last = np.searchsorted(self.index.scene, [self.scenes.index(scene), self.scenes.index(scene) + 1])
        if first == last:
            raise DataError(f"{self.tables}/sample_data.json: no camera or {LIDAR} record of {scene}")
        return np.arange(first, last)

    def drive(
        self,
        scene: str,
        cameras: Sequence[str] = tuple(CHANNELS.values()),
        sweeps: bool = False,
        labels: Literal["none", "occ3d", "openocc"] = "none",
    ) -> Drive:
        """A scene, for example `scene-0061`.

        Args:
            cameras: names such as `camera_front`; the first one sets the pace between keyframes.
            sweeps: also the image sets between the keyframes; keyframes alone may be current frames.
            labels: which voxel labels go with the keyframes.

        Raises:
            DataError: no such scene or camera. CalibrationError: a camera without intrinsics.
        """
        unknown = [name for name in cameras if name not in CHANNELS.values()]
        if unknown or not cameras:
            raise DataError(
                f"{self.root}: no camera '{', '.join(unknown)}' in nuScenes; expected some of {', '.join(CHANNELS.values())}"
            )
        channels = [list(CHANNELS.values()).index(name) for name in cameras]
        sets, anchor, key = self._sets(scene, [*channels, len(CHANNELS)], sweeps)
        index, count = self.index, len(sets)
        T_world_ego = poses(index.pose[anchor])
        T_ego_sensor = self._placed(sets, T_world_ego)
        present = sets[:, :-1] >= 0
        mounts = index.mount[sets[:, :-1]]
        self._check_intrinsics(scene, mounts[present], sets[:, :-1][present])
        tokens = index.sample_tokens[index.sample[anchor]]
        folder, reader = LABELS.get(labels, ("", None))
        named = [f"{folder}/{scene}/{token.decode()}/labels.npz".encode() for token in tokens]
        return Drive(
            name=f"nuscenes/{self.version}/{scene}",
            root=self.root,
            cameras=tuple(cameras),
            stamps_ns=index.stamp_us[anchor].astype(np.int64) * 1000,
            T_world_ego=T_world_ego,
            T_ego_cam=np.where(present[..., None, None], T_ego_sensor[:, :-1], np.eye(4)),
            K=np.where(present[..., None, None], index.intrinsics[mounts], np.eye(3)),
            sizes=np.stack([index.size[column[column >= 0]].max(axis=0, initial=1) for column in sets[:, :-1].T]),
            images=np.where(present, index.file[sets[:, :-1]], b""),
            scans=np.where(sets[:, -1] >= 0, index.file[sets[:, -1]], b""),
            scan_columns=5,
            T_ego_lidar=T_ego_sensor[:, -1],
            current=key,
            labels=np.where(key, named, b"") if reader else np.full(count, b""),
            read_labels=reader,
        )

    def _sets(self, scene: str, sensors: list[int], sweeps: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Records [F, sensors] of each set in order of time, -1 where a sensor has none; those that give its stamp
        and pose [F]; and which sets are keyframes [F]. The LiDAR is the last of the sensors."""
        index, rows = self.index, self.records(scene)
        keys = rows[index.keyframe[rows]]
        samples, place = np.unique(index.sample[keys], return_inverse=True)
        sets = np.full((len(samples), len(SENSORS)), -1)
        sets[place, index.sensor[keys]] = keys
        sets = sets[:, sensors]
        sets = sets[(sets[:, :-1] >= 0).any(axis=1)]
        key = np.ones(len(sets), bool)
        if sweeps:
            between = self._between(rows, sensors)
            sets, key = np.concatenate([sets, between]), np.append(key, np.zeros(len(between), bool))
        first_camera = sets[np.arange(len(sets)), (sets[:, :-1] >= 0).argmax(axis=1)]
        anchor = np.where(key & (sets[:, -1] >= 0), sets[:, -1], first_camera)
        order = np.argsort(index.stamp_us[anchor], kind="stable")
        return sets[order], anchor[order], key[order]

    def _between(self, rows: np.ndarray, sensors: list[int], tolerance_us: int = 50_000) -> np.ndarray:
        """Records [n, sensors] of the images that the first camera took between keyframes, others nearest to them."""
        index = self.index
        of = [rows[index.sensor[rows] == sensor] for sensor in sensors]
        anchors = of[0][~index.keyframe[of[0]]]
        stamps = index.stamp_us[anchors]
        out = np.full((len(anchors), len(sensors)), -1)
        out[:, 0] = anchors
        for column, records in enumerate(of[1:], start=1):
            if not len(records):
                continue
            times = index.stamp_us[records]
            after = np.searchsorted(times, stamps).clip(1, max(len(times) - 1, 1)).clip(max=len(times) - 1)
            before = (after - 1).clip(min=0)
            nearest = np.where(np.abs(times[before] - stamps) <= np.abs(times[after] - stamps), before, after)
            near = np.abs(times[nearest] - stamps) <= tolerance_us
            out[near, column] = records[nearest[near]]
        return out

    def _placed(self, sets: np.ndarray, T_world_ego: np.ndarray) -> Float[np.ndarray, "F sensors 4 4"]:
        """Each sensor, where it was at its own stamp, in the ego axes of its set."""
        T_world_then = poses(self.index.pose[sets.ravel()]).reshape(*sets.shape, 4, 4)
        T_then_sensor = poses(self.index.mount_poses)[self.index.mount[sets]]
        return np.linalg.inv(T_world_ego)[:, None] @ T_world_then @ T_then_sensor

    def _check_intrinsics(self, scene: str, mounts: np.ndarray, records: np.ndarray) -> None:
        bad = ~np.isfinite(self.index.intrinsics[mounts]).all(axis=(1, 2))
        if bad.any():
            channel = SENSORS[self.index.sensor[records[bad][0]]]
            raise CalibrationError(
                f"{self.tables}/calibrated_sensor.json: {channel} of {scene} has no 3 x 3 camera_intrinsic; extract the "
                "data set's metadata archive again"
            )

    def _key(self) -> str:
        files = [(p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in sorted(self.tables.glob("*.json"))]
        about = (INDEX_VERSION, str(self.tables.resolve()), files)
        return hashlib.sha256(json.dumps(about).encode()).hexdigest()[:12]


def poses(rows: Float[np.ndarray, "n 7"]) -> Float[np.ndarray, "n 4 4"]:
    """Matrices (m) of quaternions w, x, y, z with translations."""
    T = np.tile(np.eye(4), (len(rows), 1, 1))
    T[:, :3, :3] = Rotation.from_quat(np.asarray(rows)[:, [1, 2, 3, 0]]).as_matrix()
    T[:, :3, 3] = rows[:, 4:]
    return T


def read_tables(tables: Path) -> Index:
    """The index of a folder of tables; raises `DataError` as `NuScenes`."""
    sensors = {row["token"]: row["channel"] for row in _rows(tables / "sensor.json", token=str, channel=str)}
    mounts = _read_mounts(tables, sensors)
    scenes = {row["token"]: row["name"] for row in _rows(tables / "scene.json", token=str, name=str)}
    scene_numbers = {token: i for i, token in enumerate(scenes)}
    samples = {r["token"]: r["scene_token"] for r in _rows(tables / "sample.json", token=str, scene_token=str)}
    sample_scenes = [_known(scene_numbers, token, tables / "scene.json") for token in samples.values()]
    records, pose_tokens = _read_records(tables, mounts.sensors, {token: i for i, token in enumerate(samples)})
    scene = np.array(sample_scenes, np.int32)[records["sample"]]
    order = np.lexsort((records["stamp_us"], scene))
    pose = _read_poses(tables, pose_tokens)
    return Index(
        scene_names=np.array([name.encode() for name in scenes.values()]),
        sample_tokens=np.array([token.encode() for token in samples]),
        mount_poses=mounts.poses,
        intrinsics=mounts.intrinsics,
        scene=scene[order],
        pose=pose[order],
        **{name: values[order] for name, values in records.items()},
    )


@dataclass(frozen=True, eq=False)
class _Mounts:
    """Rows of `calibrated_sensor` that are of `SENSORS`."""

    sensors: dict[str, tuple[int, int]]  # token -> (position of the row, position in SENSORS)
    poses: np.ndarray  # [M, 7]
    intrinsics: np.ndarray  # [M, 3, 3]


def _read_mounts(tables: Path, sensors: dict[str, str]) -> _Mounts:
    path = tables / "calibrated_sensor.json"
    kinds = {"token": str, "sensor_token": str, "rotation": list[float], "translation": list[float]}
    tokens: dict[str, tuple[int, int]] = {}
    rows: list[list[float]] = []
    intrinsics: list[np.ndarray] = []
    for row in _rows(path, **kinds, camera_intrinsic=list[list[float]]):
        channel = _known(sensors, row["sensor_token"], tables / "sensor.json")
        if channel not in SENSORS:
            continue
        tokens[row["token"]] = (len(rows), SENSORS.index(channel))
        rows.append(_seven(row, path))
        K = np.full((3, 3), np.nan)
        if [len(line) for line in row["camera_intrinsic"]] == [3, 3, 3]:
            K[:] = row["camera_intrinsic"]
        intrinsics.append(K)
    return _Mounts(tokens, np.reshape(rows, (-1, 7)), np.reshape(intrinsics, (-1, 3, 3)))


def _read_records(
    tables: Path, mounts: dict[str, tuple[int, int]], samples: dict[str, int]
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Columns of `sample_data` of the cameras and the LiDAR, and the tokens of their ego poses."""
    kinds = {"sample_token": str, "ego_pose_token": str, "calibrated_sensor_token": str, "filename": str}
    numbers = {"timestamp": int, "is_key_frame": bool, "width": int, "height": int}
    parts: dict[str, list[np.ndarray]] = {}
    pose_tokens: list[str] = []
    for block in _blocks(tables / "sample_data.json", **kinds, **numbers):
        rows = [r for r in block if r.calibrated_sensor_token in mounts]
        pose_tokens += [r.ego_pose_token for r in rows]
        placed = np.array([mounts[r.calibrated_sensor_token] for r in rows], np.int32).reshape(-1, 2)
        part: dict[str, np.ndarray] = {
            "sample": np.array([samples.get(r.sample_token, -1) for r in rows], np.int32),
            "sensor": placed[:, 1].astype(np.int8),
            "mount": placed[:, 0],
            "stamp_us": np.array([r.timestamp for r in rows], np.int64),
            "keyframe": np.array([r.is_key_frame for r in rows], bool),
            "size": np.stack(
                [np.array([r.width for r in rows], np.int32), np.array([r.height for r in rows], np.int32)], 1
            ),
            "file": np.array([os.fsencode(r.filename) for r in rows], np.bytes_),
        }
        if (part["sample"] < 0).any():
            _known(samples, rows[int(part["sample"].argmin())].sample_token, tables / "sample.json")
        for name, values in part.items():
            parts.setdefault(name, []).append(values)
    if not pose_tokens:
        raise DataError(f"{tables}/sample_data.json: no record of a camera or of {LIDAR}")
    return {name: np.concatenate(values) for name, values in parts.items()}, pose_tokens


def _read_poses(tables: Path, tokens: list[str]) -> Float[np.ndarray, "R 7"]:
    """The ego pose of each token."""
    path = tables / "ego_pose.json"
    numbers: dict[str, int] = {}
    where = np.array([numbers.setdefault(token, len(numbers)) for token in tokens], np.int32)
    out = np.full((len(numbers), 7), np.nan)
    for block in _blocks(
        path, token=str, rotation=tuple[float, float, float, float], translation=tuple[float, float, float]
    ):
        rows = [r for r in block if r.token in numbers]
        values = np.array([(*r.rotation, *r.translation) for r in rows]).reshape(-1, 7)
        out[[numbers[r.token] for r in rows]] = values
    lost = np.isnan(out).any(axis=1)
    if lost.any():
        raise DataError(f"{path}: no row with token {list(numbers)[int(lost.argmax())]}, which sample_data.json names")
    if (np.abs(np.linalg.norm(out[:, :4], axis=1) - 1) > 0.01).any():
        raise DataError(f"{path}: a rotation is not a unit quaternion; extract it again")
    return out[where]


def _find_tables(root: Path, version: str | None) -> Path:
    """The folder of tables of a version."""
    found = sorted(p for p in root.glob("v1.0-*") if p.is_dir()) if root.is_dir() else []
    names = ", ".join(p.name for p in found) or "none"
    if version is not None and root / version not in found:
        raise DataError(f"{root}: no tables of {version}; found: {names}")
    if version is None and len(found) != 1:
        raise DataError(
            f"{root}: expected one folder of tables such as v1.0-mini, found {names}; say which one (data.nuscenes.version)"
        )
    return found[0] if version is None else root / version


def _rows(path: Path, **kinds: Any) -> Iterator[dict[str, Any]]:
    """Rows of a small table, as dictionaries of the fields asked for."""
    for row in _decode(read_bytes(path, "table").removeprefix(codecs.BOM_UTF8), path, kinds):
        yield {name: getattr(row, name) for name in kinds}


def _blocks(path: Path, **kinds: Any) -> Iterator[list[Any]]:
    """Rows of a large table of flat rows, some thousands at a time, as objects with the fields asked for."""
    if not path.is_file():
        read_bytes(path, "table")
    separators = b" \t\r\n,"
    rest = b""  # of a row that the last block cut through
    with path.open("rb") as file:
        if file.read(len(codecs.BOM_UTF8)) != codecs.BOM_UTF8:
            file.seek(0)
        start = file.read(1)
        while start.isspace():
            start = file.read(1)
        while chunk := file.read(BLOCK):
            rows = bytearray(start)
            rows += rest
            rows += chunk if rest else chunk.lstrip(separators)
            end = rows.rfind(b"}") + 1
            rest = bytes(rows[max(end, 1) :]).lstrip(separators)
            if end:
                rows[end:] = b"]"
                yield _decode(rows, path, kinds)
                start = b"["
    if rest.strip() != b"]":
        raise DataError(f"{path}: cut off, or no table of nuScenes (a JSON list of rows); extract it again")


def _decode(data: bytes | bytearray, path: Path, kinds: dict[str, Any]) -> list[Any]:
    """A JSON list of rows with at least the fields of `kinds`."""
    try:
        import msgspec
    except ImportError as error:
        raise MissingDependencyError(f"nuScenes needs msgspec ({error}): pip install msgspec") from error

    try:
        row: Any = msgspec.defstruct("Row", list(kinds.items()), gc=False)
        return msgspec.json.decode(data, type=GenericAlias(list, (row,)))
    except msgspec.MsgspecError as error:
        raise DataError(f"{path}: not a table of nuScenes (a JSON list of rows): {error}; extract it again") from error


def _known(known: dict[str, Any], token: str, path: Path) -> Any:
    try:
        return known[token]
    except KeyError:
        raise DataError(f"{path}: no row with token {token}, which another table names") from None


def _seven(row: dict[str, Any], path: Path) -> list[float]:
    values = [*row["rotation"], *row["translation"]]
    if len(values) != 7 or abs(np.linalg.norm(values[:4]) - 1) > 0.01:
        raise DataError(
            f"{path}: row {row['token']} has rotation and translation {values}, expected a unit quaternion and 3 m"
        )
    return values
