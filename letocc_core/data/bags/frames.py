"""The frames of ROS bags for training: decoded once, at the network's size, into a cache on disk."""

import dataclasses
import hashlib
import json
import re
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import UInt8

from letocc_core.data.bags.recording import RecordedSet, Recording
from letocc_core.data.recorded_clips import RecordedClips
from letocc_core.errors import ConfigError, DataError, show
from letocc_core.frame import Frame, InputConfig
from letocc_core.geometry.body_masks import to_text
from letocc_core.stream.preprocess import rectifier_of, to_frame

if TYPE_CHECKING:
    from letocc_core.data.config import BagData, InstantsConfig

CACHE_VERSION = 3  # raise it when the files below change


class BagClips(RecordedClips):
    """Clips of one or more bags; see `RecordedClips`.

    Args:
        data: which bags, cameras and frames, and how source frames are chosen.
        cache: folder for decoded frames and their cues (`write_flow`, `write_masks`).

    Raises `DataError` if a bag gives no clip at all or has other cameras than the first one, and for whatever `Recording`
    refuses.
    """

    def __init__(
        self,
        data: "BagData",
        input: InputConfig,
        past_frames: int,
        cache: Path,
        instants: "InstantsConfig | None" = None,
    ):
        if not data.bags:
            raise ConfigError("data.bag.bags: no bag to train on; name one: letocc train CONFIG data=BAG")
        recordings = [recording_of(path, data) for path in data.bags]
        self.cameras, self.body_masks = recordings[0].cameras, recordings[0].masks
        for recording in recordings:
            if recording.cameras != self.cameras:
                raise DataError(
                    f"{recording.path}: its cameras are {', '.join(recording.cameras)}, but those of "
                    f"{recordings[0].path} are {', '.join(self.cameras)}; name those of both in data.bag.cameras"
                )
        super().__init__([BagFrames.open(r, input, cache) for r in recordings], data, input, past_frames, instants)


def recording_of(path: Path, data: "BagData") -> Recording:
    """A bag, read as `data` says."""
    return Recording(
        path,
        data.cameras,
        data.base_frame,
        data.fixed_frame,
        data.lidar is not False,
        data.lidar_topic,
        data.odometry_topic,
        data.slop,
        data.body_masks,
    )


@dataclass(frozen=True, eq=False)
class BagFrames:
    """The decoded frames of one recording, F of N cameras, mapped from files so that loader processes share them."""

    name: str  # the bag's path
    folder: Path  # with an .npy file for each of the following
    stamps_ns: np.ndarray  # [F] int64
    T_world_ego: np.ndarray  # [F, 4, 4] float64 m
    T_ego_cam: np.ndarray  # [F, N, 4, 4] float32 m
    K: np.ndarray  # [F, N, 3, 3] float32 px
    camera_valid: np.ndarray  # [F, N] bool
    images: np.ndarray  # [F, N, 3, H, W] uint8
    points: np.ndarray  # [sum of P, 3] float32 m, ego axes of their frame
    point_ends: np.ndarray  # [F] int64, end of each frame's points
    lidar_origin: np.ndarray  # [F, 3] float32 m, NaN where there is no sweep
    masked: np.ndarray  # [N, H, W] bool, pixels of the vehicle's own body; [0, H, W] without masks

    @classmethod
    def open(cls, recording: Recording, input: InputConfig, cache: Path) -> "BagFrames":
        """From the cache, filled first if it does not hold this recording in this form."""
        folder = cache / "bags" / f"{_file_name(recording.path)}-{_key(recording, input)}"
        if not folder.is_dir():
            _fill(folder, recording, input)
        frames = cls.load(show(recording.path), folder)
        report = (folder / "report.txt").read_text("utf-8")
        print(report, file=sys.stderr)
        if recording.lidar_topics and not frames.has_sweep.any():
            raise DataError(
                f"{report}\nits LiDAR {recording.lidar_topics[0]} gives no sweep for any image set, so that it would teach "
                "nothing; mend that, or go on without it: data.bag.lidar=false"
            )
        return frames

    @classmethod
    def load(cls, name: str, folder: Path) -> "BagFrames":
        """From a filled folder."""
        arrays = [f.name for f in dataclasses.fields(cls) if f.name not in ("name", "folder")]
        return cls(name, folder, **{array: np.load(folder / f"{array}.npy", mmap_mode="r") for array in arrays})

    def __reduce__(self):
        return BagFrames.load, (self.name, self.folder)

    def __len__(self) -> int:
        return len(self.stamps_ns)

    @property
    def has_sweep(self) -> np.ndarray:
        """[F] bool: this frame has a LiDAR sweep."""
        return np.isfinite(self.lidar_origin).all(-1)

    @property
    def complete(self) -> np.ndarray:
        """[F] bool: frames that may be current frames, those with a sweep where the recording has any."""
        return self.has_sweep | ~self.has_sweep.any()

    def frame(self, i: int, lidar: bool = True) -> Frame:
        """Frame i; with `lidar` its sweep, if it has one."""
        points = origin = None
        if lidar and self.has_sweep[i]:
            start = self.point_ends[i - 1] if i else 0
            points = torch.tensor(self.points[start : self.point_ends[i]])
            origin = torch.tensor(self.lidar_origin[i])
        masked = torch.tensor(self.masked) if len(self.masked) else None
        return Frame(
            masked=masked,
            own=masked,
            stamp=torch.tensor(self.stamps_ns[i]),
            images=torch.tensor(self.images[i]).float() / 255,
            camera_valid=torch.tensor(self.camera_valid[i]),
            K=torch.tensor(self.K[i]),
            T_ego_cam=torch.tensor(self.T_ego_cam[i]),
            T_world_ego=torch.tensor(self.T_world_ego[i]),
            lidar=points,
            lidar_origin=origin,
        )

    def pictures(self, i: int) -> UInt8[np.ndarray, "N H W 3"]:
        """The images of frame i alone; zeros where a camera is absent."""
        return np.ascontiguousarray(self.images[i].transpose(0, 2, 3, 1))


def _file_name(path: Path) -> str:
    """The name of a recording without its ending, of characters that every file system takes."""
    return re.sub(r"[^\w.-]", "_", show(path.stem), flags=re.ASCII)


def _key(recording: Recording, input: InputConfig) -> str:
    """Changes with the recording's files and with everything that decides what a decoded frame looks like."""
    path = recording.path.resolve()
    files = [path] if path.is_file() else sorted(p for p in path.iterdir() if p.is_file())
    about = {
        "version": CACHE_VERSION,
        "files": [(show(p), p.stat().st_size, p.stat().st_mtime_ns) for p in files],
        "assembler": dataclasses.asdict(recording.config),
        "lidar": recording.lidar_topics,
        "odometry": recording.odometry_topic,
        "masks": to_text(recording.masks),
        "views": (input.image_size, input.fisheye_views, input.fisheye_fov),
    }
    return hashlib.sha256(json.dumps(about).encode()).hexdigest()[:12]


def _fill(folder: Path, recording: Recording, input: InputConfig) -> None:
    """Decode a recording into `folder`; a kill on the way leaves nothing under that name."""
    from tqdm import tqdm

    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f"{folder.name}.", suffix=".tmp"))
    temporary.chmod(0o755)
    try:
        columns: dict[str, list[np.ndarray]] = {}
        rectifier = rectifier_of(input)
        raw = {name: (temporary / f"{name}.bin").open("wb") for name in ("images", "points")}
        points, masked = 0, np.zeros((0, *input.image_size), bool)
        for item in tqdm(recording, desc=f"decoding {show(recording.path.name)}", unit="set", dynamic_ncols=True):
            frame = to_frame(item.frame_set, input, rectifier)
            if frame.masked is not None:  # that of a camera which is absent is not known yet
                masked = frame.masked.numpy() | (masked if len(masked) else False)
            row, images, sweep = _row(item, frame)
            points += len(sweep)
            images.tofile(raw["images"])
            sweep.tofile(raw["points"])
            for name, value in {**row, "point_ends": np.array(points)}.items():
                columns.setdefault(name, []).append(value)
        for file in raw.values():
            file.close()
        for name, values in columns.items():
            np.save(temporary / f"{name}.npy", np.stack(values))
        np.save(temporary / "masked.npy", masked)
        (temporary / "report.txt").write_text(recording.report(), "utf-8")
        _to_npy(temporary, "images", np.uint8, (len(columns["stamps_ns"]), *images.shape))
        _to_npy(temporary, "points", np.float32, (points, 3))
        _rename(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _rename(temporary: Path, folder: Path) -> None:
    """Give a folder its final name, unless another process was faster."""
    try:
        temporary.rename(folder)
    except OSError:
        if not folder.is_dir():
            raise


def _row(item: RecordedSet, frame: Frame) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """What is kept of a set: small columns, images uint8 [N, 3, H, W], points float32 [P, 3]."""
    row: dict[str, np.ndarray] = {
        "stamps_ns": np.array(item.frame_set.stamp_ns, np.int64),
        "T_world_ego": item.frame_set.T_world_ego,
        "T_ego_cam": frame.T_ego_cam.numpy(),
        "K": frame.K.numpy(),
        "camera_valid": frame.camera_valid.numpy(),
        "lidar_origin": np.full(3, np.nan, np.float32) if item.sweep is None else item.sweep.origin,
    }
    images = (frame.images * 255).round().to(torch.uint8).numpy()
    points = np.zeros((0, 3), np.float32) if item.sweep is None else item.sweep.points
    return row, images, points


def _to_npy(folder: Path, name: str, kind: type, shape: tuple[int, ...]) -> None:
    """Turn the raw `<name>.bin` into `<name>.npy` without holding it in memory."""
    source, target = folder / f"{name}.bin", np.lib.format.open_memmap(folder / f"{name}.npy", "w+", kind, shape)
    if target.size:
        target[:] = np.memmap(source, kind, "r", shape=shape)
    target.flush()
    source.unlink()
