"""`letocc data`: what a training configuration finds in its data set, and the LiDAR drawn into the images of a frame.

letocc data config/nuscenes.yaml data.nuscenes.root=/data/nuscenes --picture out/keyframe.png
"""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from letocc_core import config as configuration
from letocc_core.data.build import open_drives
from letocc_core.data.config import BagData, RecordedData
from letocc_core.data.datasets.drive import DriveFrames
from letocc_core.data.recorded_clips import choose_clips, frames_read
from letocc_core.errors import ConfigError, DataError, counted, show
from letocc_core.training.config import TrainConfig
from letocc_core.viz.lidar import sweep_picture


def inspect_data(
    path: Path, overrides: Sequence[str] = (), picture: Path | None = None, sequence: str = "", frame: int = 0
) -> str:
    """A report: a line a sequence.

    Args:
        path: training configuration whose data are of a data set in its own layout.
        overrides: changes to it, `key.sub=value`.
        picture: PNG file to draw a sweep into the images of one frame.
        sequence: which one to draw, by the end of its name; empty: the first.
        frame: position of its frame.

    Raises `ConfigError` for other data, and what loading the data raises.
    """
    config = configuration.load(TrainConfig, path, overrides)
    data = config.data.recorded
    if data is None or isinstance(data, BagData):
        raise ConfigError(f"{path}: its data is not a data set on disk; for bags use `letocc bag info`")
    stores = [
        DriveFrames(drive, config.input, True, config.data.cache) for drive in open_drives(data, config.data.cache)
    ]
    lines = [_line(s, end, data, config) for s, end in zip(stores, frames_read(stores, data), strict=True)]
    if picture is not None:
        chosen = next((store for store in stores if store.name.endswith(sequence)), None)
        if chosen is None or not 0 <= frame < len(chosen):
            names = ", ".join(f"{store.name} ({len(store)} frames)" for store in stores[:20])
            raise DataError(f"no frame {frame} of a sequence '{sequence}'; sequences: {names}")
        drawn = sweep_picture(chosen.frame(frame), chosen.drive.cameras, f"{chosen.name}, frame {frame}")
        picture.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(picture), drawn[..., ::-1])
        lines.append(str(picture))
    return "\n".join(lines)


def _line(store: DriveFrames, end: int, data: RecordedData, config: TrainConfig) -> str:
    """Frames, cameras, time and way of a sequence, and the clips that it gives."""
    past = config.model.temporal.frames
    stamps_ns, poses, complete = store.stamps_ns[:end], store.T_world_ego[:end], store.complete[:end]
    clips, left_out = choose_clips(stamps_ns, poses, complete, data, config.input, past)
    seconds = (store.stamps_ns[-1] - store.stamps_ns[0]) * 1e-9
    way = np.linalg.norm(np.diff(store.T_world_ego[:, :3, 3], axis=0), axis=1).sum()
    return (
        f"{store.name}: {len(store)} frames of {counted(len(store.drive.cameras), 'camera')}, "
        f"{(store.drive.scans != b'').sum()} sweeps, {seconds:.1f} s, {way:.1f} m; {len(clips)} clips, "
        f"{left_out} frames left out{_missing(store)}"
    )


def _missing(store: DriveFrames) -> str:
    """Of the files that the tables name, those that are not there."""
    drive = store.drive
    names = {name for name in (*drive.images.ravel(), *drive.scans) if name}
    missing = sorted(path for name in names if not (path := drive.path(name)).is_file())
    if not missing:
        return ""
    return f"; {len(missing)} of {len(names)} files are missing, such as {show(missing[0])}: extract the archive that holds them"
