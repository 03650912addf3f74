"""Training samples from ROS bags: a current frame, its past for the network, two source frames for the losses.

Source frames are the papers': one before and one after the current frame, drawn by a Gaussian over the distance that
the ego vehicle drove between them (Let Occ Flow, 3.4). Flow cues lead to the frames recorded just before and after it, or
to the source before it, as the papers' auxiliary previous frame. Images are decoded once, at the network's size, into a
cache on disk, and their optical flow is kept beside them.
"""

import dataclasses
import hashlib
import json
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Int
from torch.utils.data import Dataset

from letocc_core.cues.flow import decode
from letocc_core.data.bag_cues import FlowFiles, MaskFiles
from letocc_core.data.recording import RecordedSet, Recording
from letocc_core.errors import DataError
from letocc_core.frame import Clip, FlowCue, Frame, InputConfig
from letocc_core.geometry.rectify import Rectifier
from letocc_core.stream.preprocess import to_frame

if TYPE_CHECKING:
    from letocc_core.data.clips import BagData

DRAWS = 4  # pairs of source frames drawn for each current frame
CACHE_VERSION = 1  # raise it when the files below change


@dataclass(frozen=True)
class ClipIndices:
    """A clip by the positions of its frames in the recording."""

    current: int
    history: tuple[int, ...]  # newest first
    sources: tuple[int, int]  # before and after
    cues: tuple[int, ...] = ()  # where optical flow leads to: before and after, or nowhere


class BagClips(Dataset):
    """Clips of one or more bags (`letocc_core.frame.Clip`, one sample each; collate them).

    Args:
        data: which bags, cameras and frames, and how source frames are chosen.
        input: image size and history interval.
        past_frames: frames of history, `input.history_interval` apart (nearest recorded frame within half of that).
        cache: folder for decoded frames and their cues (`write_flow`, `write_masks`).

    A frame is a current frame if its whole history and a source on either side exist, and its sweep where the recording
    has LiDAR; `left_out` counts the others.
    Raises `DataError` if a bag gives no clip at all, and for whatever `Recording` refuses.
    """

    def __init__(self, data: "BagData", input: InputConfig, past_frames: int, cache: Path):
        self.stores = [FrameStore.open(Path(path), data, input, cache) for path in data.bags]
        self.clips: list[tuple[int, ClipIndices]] = []
        self.left_out = 0
        for i, store in enumerate(self.stores):
            complete = store.has_sweep | ~store.has_sweep.any()
            clips, left_out = choose_clips(store.stamps_ns, store.T_world_ego, complete, data, input, past_frames)
            if not clips:
                raise DataError(
                    f"{data.bags[i]}: none of its {len(store)} frames has {past_frames} past frames "
                    f"{input.history_interval} s apart and a source frame within {data.source_max} m and "
                    f"{data.source_seconds} s on either side; check data.bag.first_frame, last_frame and the rate"
                )
            self.clips += [(i, clip) for clip in clips]
            self.left_out += left_out
        self.flows = [] if data.cue == "none" else [FlowFiles(store.folder, data.cue) for store in self.stores]
        self.masks = [] if data.masks is None else [MaskFiles(store.folder, data.masks) for store in self.stores]

    def write_flow(self, workers: int = 0, shard: tuple[int, int] = (1, 1)) -> int:
        """Compute the optical flow of all clips that is not on disk yet; returns how many files that were.

        Args:
            workers: processes; 0: this one.
            shard: (i, n) for the i-th of n callers, which share the work.
        """
        return sum(
            files.write([(c.current, j) for k, c in self.clips if k == i for j in c.cues], workers, shard)
            for i, files in enumerate(self.flows)
        )

    def write_masks(self, workers: int = 0, shard: tuple[int, int] = (1, 1)) -> int:
        """The same for the masks of objects that could move."""
        return sum(
            files.write([c.current for k, c in self.clips if k == i], workers, shard)
            for i, files in enumerate(self.masks)
        )

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> Clip:
        number, clip = self.clips[index]
        store = self.stores[number]
        current = store.frame(clip.current)
        if self.masks:
            movable = self.masks[number].read(clip.current, current.images.shape[-1])
            current = dataclasses.replace(current, movable=torch.from_numpy(movable))
        return Clip(
            current,
            tuple(store.frame(i, lidar=False) for i in clip.history),
            tuple(store.frame(i, lidar=False) for i in clip.sources),
            tuple(store.cue(j, self.flows[number].read(clip.current, j)) for j in clip.cues),
        )


def choose_clips(
    stamps_ns: np.ndarray,
    T_world_ego: np.ndarray,
    complete: np.ndarray,
    data: "BagData",
    input: InputConfig,
    past_frames: int,
) -> tuple[list[ClipIndices], int]:
    """All clips of a recording with stamps [F] (ns) and poses [F, 4, 4] (m), and how many current frames give none.

    Only frames that are `complete` ([F] bool) become current frames. The draws depend on the frame's position alone, so
    a data set is the same every time it is made.
    """
    last = len(stamps_ns) - 1 if data.last_frame is None else min(data.last_frame, len(stamps_ns) - 1)
    clips: list[ClipIndices] = []
    left_out = 0
    for current in range(data.first_frame, last + 1):
        history = _history(stamps_ns, current, input.history_interval, past_frames)
        distance = np.linalg.norm(T_world_ego[:, :3, 3] - T_world_ego[current, :3, 3], axis=-1)
        seconds = np.abs(stamps_ns - stamps_ns[current]) * 1e-9
        usable = (distance <= data.source_max) & (seconds <= data.source_seconds) & (np.arange(len(stamps_ns)) <= last)
        before, after = np.flatnonzero(usable[:current]), current + 1 + np.flatnonzero(usable[current + 1 :])
        if not complete[current] or history is None or not len(before) or not len(after):
            left_out += 1
            continue
        generator = np.random.default_rng(current)
        pairs = {
            tuple(_draw(side, distance[side], data, generator) for side in (before, after)): None for _ in range(DRAWS)
        }
        clips += [ClipIndices(current, history, pair, _cues(pair, before, after, data)) for pair in pairs]
    return clips, left_out


@dataclass(frozen=True, eq=False)
class FrameStore:
    """The decoded frames of one recording, F of N cameras, mapped from files so that loader processes share them."""

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

    @classmethod
    def open(cls, path: Path, data: "BagData", input: InputConfig, cache: Path) -> "FrameStore":
        """From the cache, filled first if it does not hold this recording in this form."""
        recording = Recording(
            path, data.cameras, data.base_frame, data.fixed_frame, data.lidar, data.lidar_topic, data.slop
        )
        folder = cache / "bags" / f"{path.stem}-{_key(recording, input)}"
        if not folder.is_dir():
            _fill(folder, recording, input)
        arrays = [f.name for f in dataclasses.fields(cls) if f.name != "folder"]
        return cls(folder, **{name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in arrays})

    def __len__(self) -> int:
        return len(self.stamps_ns)

    @property
    def has_sweep(self) -> np.ndarray:
        """[F] bool: this frame has a LiDAR sweep."""
        return np.isfinite(self.lidar_origin).all(-1)

    def frame(self, i: int, lidar: bool = True) -> Frame:
        """Frame i; with `lidar` its sweep, if it has one."""
        points = origin = None
        if lidar and self.has_sweep[i]:
            start = self.point_ends[i - 1] if i else 0
            points = torch.tensor(self.points[start : self.point_ends[i]])
            origin = torch.tensor(self.lidar_origin[i])
        return Frame(
            stamp=torch.tensor(self.stamps_ns[i]),
            images=torch.tensor(self.images[i]).float() / 255,
            camera_valid=torch.tensor(self.camera_valid[i]),
            K=torch.tensor(self.K[i]),
            T_ego_cam=torch.tensor(self.T_ego_cam[i]),
            T_world_ego=torch.tensor(self.T_world_ego[i]),
            lidar=points,
            lidar_origin=origin,
        )

    def cue(self, i: int, flow: Int[np.ndarray, "N H W 2"]) -> FlowCue:
        """The cue whose encoded flow leads to frame i."""
        pixels, valid = decode(flow)
        return FlowCue(
            stamp=torch.tensor(self.stamps_ns[i]),
            K=torch.tensor(self.K[i]),
            T_ego_cam=torch.tensor(self.T_ego_cam[i]),
            T_world_ego=torch.tensor(self.T_world_ego[i]),
            flow=torch.from_numpy(pixels).movedim(-1, 1),
            valid=torch.from_numpy(valid),
        )


def _cues(sources: tuple[int, int], before: np.ndarray, after: np.ndarray, data: "BagData") -> tuple[int, ...]:
    """Frames to which the optical flow of a clip leads."""
    if data.cue == "none":
        return ()
    return (int(before[-1]) if data.cue_previous == "neighbour" else sources[0], int(after[0]))


def _history(stamps_ns: np.ndarray, current: int, interval: float, count: int) -> tuple[int, ...] | None:
    """Frames nearest to 1, 2, ... intervals before the current one, or None if one is missing."""
    found = []
    for k in range(1, count + 1):
        gap = np.abs(stamps_ns[:current] - (stamps_ns[current] - k * interval * 1e9))
        if not len(gap) or gap.min() > interval * 0.5e9:
            return None
        found.append(int(gap.argmin()))
    return tuple(found)


def _draw(candidates: np.ndarray, distance: np.ndarray, data: "BagData", generator: np.random.Generator) -> int:
    """One candidate, with probability by a Gaussian over its distance (m) from the current frame."""
    exponent = -0.5 * ((distance - data.source_distance) / data.source_sigma) ** 2
    weight = np.exp(exponent - exponent.max())
    return int(generator.choice(candidates, p=weight / weight.sum()))


def _key(recording: Recording, input: InputConfig) -> str:
    """Changes with the recording's files and with everything that decides what a decoded frame looks like."""
    path = recording.path.resolve()
    files = [path] if path.is_file() else sorted(p for p in path.iterdir() if p.is_file())
    about = {
        "version": CACHE_VERSION,
        "files": [(str(p), p.stat().st_size, p.stat().st_mtime_ns) for p in files],
        "assembler": dataclasses.asdict(recording.config),
        "lidar": recording.lidar_topics,
        "image_size": input.image_size,
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
        rectifier = Rectifier(*input.image_size)
        raw = {name: (temporary / f"{name}.bin").open("wb") for name in ("images", "points")}
        points = 0
        for item in tqdm(recording, desc=f"decoding {recording.path.name}", unit="set", dynamic_ncols=True):
            row, images, sweep = _row(item, input, rectifier)
            points += len(sweep)
            images.tofile(raw["images"])
            sweep.tofile(raw["points"])
            for name, value in {**row, "point_ends": np.int64(points)}.items():
                columns.setdefault(name, []).append(value)
        for file in raw.values():
            file.close()
        for name, values in columns.items():
            np.save(temporary / f"{name}.npy", np.stack(values))
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


def _row(
    item: RecordedSet, input: InputConfig, rectifier: Rectifier
) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """What is kept of a set: small columns, images uint8 [N, 3, H, W], points float32 [P, 3]."""
    frame = to_frame(item.frame_set, input, rectifier)
    row = {
        "stamps_ns": np.int64(item.frame_set.stamp_ns),
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
