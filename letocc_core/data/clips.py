"""From the `data:` section of a configuration to a data set of `Clip`s."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch.utils.data import Dataset

from letocc_core.cues.masks import GroundedSam
from letocc_core.errors import ConfigError
from letocc_core.frame import InputConfig


@dataclass(frozen=True)
class SimulatorData:
    """Streets rendered on first use and cached; nothing to download."""

    rig: str = "nuscenes"  # name of a rig in config/rigs, or a YAML file
    first_seed: int = 0  # seed of the first street; evaluation uses seeds from 9000
    scenes: int = 600  # streets
    frames: int = 7  # frames a street, `input.history_interval` apart
    lidar: bool = False  # also simulate LiDAR sweeps for the range loss
    cue: Literal["none", "dis", "dis_fine", "true"] = "none"  # optical flow for motion: estimated, or the truth
    cue_interval: float = 0.05  # s to the instants before and after that the flow leads to


@dataclass(frozen=True, kw_only=True)
class RecordedData:
    """How clips are taken from recordings, whatever their format."""

    first_frame: int = 0  # first frame of each recording that may be a current frame
    last_frame: int | None = None  # last such frame (inclusive); nothing after it is read
    source_distance: float = 0.5  # m, mean ego distance to a source frame
    source_sigma: float = 0.5  # m, its standard deviation
    source_max: float = 6.0  # m, farthest source frame
    source_seconds: float = 1.0  # s, farthest source frame in time, for a vehicle that stands still
    lidar: bool = True  # use the recording's LiDAR for the range loss when it has one
    cue: Literal["none", "dis", "dis_fine"] = "none"  # optical flow for motion, to a previous frame and the next one
    cue_previous: Literal["neighbour", "source"] = "neighbour"  # which previous one: the papers' is the drawn source
    masks: GroundedSam | None = None  # find objects that could move; None: the flow alone tells what moves


@dataclass(frozen=True)
class BagData(RecordedData):
    """Recordings in ROS bags: cameras by their camera_info, poses from /tf, LiDAR from any PointCloud2."""

    bags: tuple[Path, ...]  # bag folders or files
    cameras: tuple[str, ...] = ()  # camera names; empty: all that have a camera_info
    base_frame: str = "base_link"  # ego frame
    fixed_frame: str = "odom"  # frame in which the world stands still
    slop: float = 0.02  # s, largest distance of an image's stamp from that of the first camera's
    lidar_topic: str = ""  # which PointCloud2 topic; empty: /points, or else the first


@dataclass(frozen=True)
class DataConfig:
    """Where clips come from: exactly one of the sources."""

    simulator: SimulatorData | None = None
    bag: BagData | None = None
    cache: Path = Path("runs/cache")  # folder for rendered streets and decoded frames
    workers: int = 2  # processes that render streets and compute cues on first use

    def __post_init__(self):
        if (self.simulator is None) == (self.bag is None):
            raise ConfigError("data: give exactly one of data.simulator and data.bag")


def with_bags(override: str) -> str:
    """`data=BAG` or `data=[BAG, BAG]`, short for the key that says which bags to train on; others as they are."""
    key, _, value = override.partition("=")
    if key != "data":
        return override
    return f"data.bag.bags={value if value.startswith('[') else json.dumps([value])}"


def build(config: DataConfig, input_config: InputConfig, past_frames: int) -> Dataset:
    """The data set of clips that `config` describes.

    Args:
        past_frames: frames of history that the model takes, `input_config.history_interval` apart.
    """
    if config.simulator is not None:
        from letocc_core.data.simulator.dataset import SimulatorClips

        streets = config.simulator
        return SimulatorClips(
            seeds=range(streets.first_seed, streets.first_seed + streets.scenes),
            rig=streets.rig,
            input=input_config,
            past_frames=past_frames,
            frames=streets.frames,
            lidar=streets.lidar,
            cue=streets.cue,
            cue_interval=streets.cue_interval,
            cache=config.cache,
            workers=config.workers,
        )
    from letocc_core.data.bag_clips import BagClips

    dataset = BagClips(config.bag, input_config, past_frames, cache=config.cache)
    dataset.write_flow(config.workers)
    dataset.write_masks(config.workers)
    return dataset
