"""From a data set's section of a configuration to its `Drive`s."""

from functools import singledispatch
from pathlib import Path

from letocc_core.data import kitti
from letocc_core.data.clips import KittiOdometryData, KittiRawData, KittiTrackingData, NuScenesData, RecordedData
from letocc_core.data.drive import Drive
from letocc_core.data.nuscenes import CHANNELS, NuScenes
from letocc_core.errors import DataError


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
