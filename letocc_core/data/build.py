"""From the `data:` section of a configuration to data sets: of `Clip`s for training, of `Drive`s as they lie on disk."""

import sys
from functools import singledispatch
from pathlib import Path
from typing import TYPE_CHECKING

from letocc_core.data.clips import Clips
from letocc_core.data.config import (
    DataConfig,
    KittiOdometryData,
    KittiRawData,
    KittiTrackingData,
    NuScenesData,
    RecordedData,
)
from letocc_core.data.datasets import kitti
from letocc_core.data.datasets.drive import Drive
from letocc_core.data.datasets.nuscenes import CHANNELS, NuScenes
from letocc_core.errors import ConfigError, DataError
from letocc_core.frame import InputConfig
from letocc_core.geometry.grid import GridSpec

if TYPE_CHECKING:
    from letocc_core.data.recorded_clips import RecordedClips
    from letocc_core.data.simulator.clips import SimulatorClips


@singledispatch
def open_drives(data: RecordedData, cache: Path) -> list[Drive]:
    """The sequences that a section names: of its official split, or those that it lists.

    Args:
        data: `NuScenesData`, `KittiOdometryData`, `KittiTrackingData` or `KittiRawData`.
        cache: folder that keeps the index of tables.

    Raises `DataError` for whatever is missing, `CalibrationError` for calibrations.
    """
    raise TypeError(f"{type(data).__name__} is no section of a data set in its own layout")


@open_drives.register
def _(data: NuScenesData, cache: Path) -> list[Drive]:
    dataset = NuScenes(data.root, data.version, cache)
    scenes = data.scenes or dataset.split(data.split)
    if not scenes:
        raise DataError(
            f"{dataset.tables}: none of its {len(dataset.scenes)} scenes is of the split '{data.split}'; choose another "
            "data.nuscenes.split, or name data.nuscenes.scenes"
        )
    return [dataset.drive(s, data.cameras or tuple(CHANNELS.values()), data.sweeps, data.labels) for s in scenes]


@open_drives.register
def _(data: KittiOdometryData, cache: Path) -> list[Drive]:
    sequences = data.sequences or kitti.odometry_sequences(data.root, data.split)
    return [kitti.odometry_drive(data.root, sequence, data.ego) for sequence in sequences]


@open_drives.register
def _(data: KittiTrackingData, cache: Path) -> list[Drive]:
    sequences = kitti.tracking_sequences(data.root, data.split)
    if data.sequences:
        half = "testing" if data.split == "val" else "training"
        sequences = [(half, sequence) for sequence in data.sequences]
    return [kitti.tracking_drive(data.root, sequence, half, data.ego) for half, sequence in sequences]


@open_drives.register
def _(data: KittiRawData, cache: Path) -> list[Drive]:
    return [
        kitti.raw_drive(data.root, drive, data.ego) for drive in data.drives or kitti.raw_drives(data.root, data.split)
    ]


def build(config: DataConfig, input_config: InputConfig, past_frames: int, grid: GridSpec | None = None) -> Clips:
    """The data set of clips that `config` describes.

    Args:
        past_frames: frames of history that the model takes, `input_config.history_interval` apart.
        grid: whose voxels rays vote on; None: the default one.
    """
    grid = grid or GridSpec()
    if config.simulator is not None:
        return simulated_clips(config, input_config, past_frames, grid)
    dataset = recorded_clips(config, input_config, past_frames)
    dataset.write_flow(config.workers)
    dataset.write_pictures(config.workers)
    if config.votes is not None:
        dataset.add_votes(config.votes, grid, config.workers)
    if isinstance(config.recorded, KittiTrackingData):
        dataset.repeat_dynamic(config.recorded)
    print(f"data: {dataset.summary()}", file=sys.stderr)
    return dataset


def simulated_clips(
    config: DataConfig,
    input_config: InputConfig,
    past_frames: int,
    grid: GridSpec | None = None,
    shard: tuple[int, int] = (1, 1),
) -> "SimulatorClips":
    """Clips of streets, rendered where they are missing: those of the i-th of n parts for a `shard` (i, n).

    Args:
        grid: whose voxels rays vote on; None: without `config.votes`.
    """
    from letocc_core.data.simulator.clips import SimulatorClips

    streets = config.simulator
    if streets is None:
        raise ConfigError(f"the source is data.{config.source}, expected data.simulator")
    return SimulatorClips(
        seeds=range(streets.first_seed, streets.first_seed + streets.scenes),
        rig=streets.rig,
        input=input_config,
        past_frames=past_frames,
        frames=streets.frames,
        lidar=streets.lidar,
        cue=streets.cue,
        cue_intervals=streets.cue_intervals,
        cue_weights=streets.cue_weights,
        cue_device=streets.cue_device,
        semantics=streets.semantics,
        votes=None if grid is None else config.votes,
        grid=grid,
        instants=config.instants,
        variety=streets.variety,
        cache=config.cache,
        workers=config.workers,
        shard=shard,
    )


def recorded_clips(config: DataConfig, input_config: InputConfig, past_frames: int) -> "RecordedClips":
    """Clips of recordings, whose cues may not be on disk yet; as of `build`."""
    from letocc_core.data.bags.frames import BagClips
    from letocc_core.data.datasets.drive import DriveFrames
    from letocc_core.data.recorded_clips import RecordedClips

    if config.bag is not None:
        return BagClips(config.bag, input_config, past_frames, config.cache, config.instants)
    data = config.recorded
    if data is None:
        raise ConfigError(f"the source is data.{config.source}, expected recordings")
    drives = open_drives(data, config.cache)
    stores = [DriveFrames(drive, input_config, data.lidar is not False, config.cache) for drive in drives]
    return RecordedClips(stores, data, input_config, past_frames, config.instants)
