"""The `data:` section of a configuration: where clips come from."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float

from letocc_core.cues.masks import GroundedSam
from letocc_core.cues.residual import FlowResidual
from letocc_core.cues.semantics import Segmenter
from letocc_core.cues.votes import VotesConfig
from letocc_core.errors import ConfigError

# `cues.flow.CLASSICAL` and `LEARNED`
Cue = Literal["none", "dis", "dis_fine", "dis_chained", "raft", "raft_small", "unimatch", "cotracker"]


@dataclass(frozen=True)
class SimulatorData:
    """Streets rendered on first use and cached; nothing to download."""

    rig: str = "nuscenes"  # name of a rig in config/rigs, or a YAML file
    variety: float = 0.0  # share of the streets that have their own robot like the rig, weather, hills and houses
    first_seed: int = 0  # seed of the first street; evaluation uses seeds from 9000
    scenes: int = 600  # streets
    frames: int = 7  # frames a street, `input.history_interval` apart
    lidar: bool = False  # also simulate LiDAR sweeps for the range loss
    cue: Literal[Cue, "true"] = "none"  # optical flow for motion: by this estimator, or the truth
    cue_weights: Path | None = None  # file of a learned estimator
    cue_device: str = "cpu"  # where that runs: cpu, cuda, cuda:1, ...
    cue_intervals: tuple[float, ...] = (0.05,)  # s to the instants before and after that the flow leads to
    semantics: bool = False  # also give the classes of pixels, as pseudo-labels for a semantic field

    def __post_init__(self):
        if not 0 <= self.variety <= 1:
            raise ConfigError(f"data.simulator.variety: {self.variety}, expected a share from 0 to 1")
        seconds = self.cue_intervals
        if not seconds or min(seconds) <= 0 or len(set(seconds)) < len(seconds):
            raise ConfigError(
                f"data.simulator.cue_intervals: {list(seconds)}, expected one number above 0 or several different ones"
            )


@dataclass(frozen=True)
class InstantsConfig:
    """Which frame's rays are rendered in the voxels of the current one (SelfOcc; its `nuscenes_occ` configuration)."""

    current: float = 0.333  # share of the clips in which it is the current frame itself
    earlier: float = 0.5  # share of the others in which it is an earlier frame, where there is one
    nearest: float = 0.4  # m that the vehicle drove between the two, at least
    farthest: float = 15.0  # m, at most: within the box

    def __post_init__(self):
        if not (0 <= self.current <= 1 and 0 <= self.earlier <= 1 and 0 <= self.nearest < self.farthest):
            raise ConfigError(
                f"data.instants: current {self.current}, earlier {self.earlier}, {self.nearest} to {self.farthest} m; "
                "expected shares from 0 to 1, and distances in this order"
            )

    def choose(
        self,
        distance: Float[np.ndarray, "F"],
        now: int,
        with_sources: Bool[np.ndarray, "F"],
        draw: np.random.Generator,
    ) -> int:
        """The frame to render for frame `now`; `now` itself where no other one will do.

        Args:
            distance: m from frame `now`.
            with_sources: frames that have sources on both sides.
        """
        usable = with_sources & (distance >= self.nearest) & (distance <= self.farthest)
        sides = [np.flatnonzero(usable[:now]), now + np.flatnonzero(usable[now:])]
        wanted, earlier, place = draw.random(3)
        side = sides[0 if earlier < self.earlier else 1]
        side = side if len(side) else np.concatenate(sides)
        return now if wanted < self.current or not len(side) else int(side[int(place * len(side))])


@dataclass(frozen=True, kw_only=True)
class RecordedData:
    """How clips are taken from recordings, whatever their format."""

    first_frame: int = 0  # first frame of each recording that may be a current frame
    # last such frame (inclusive), of all recordings or a list of one for each; nothing after it is read
    last_frame: int | tuple[int, ...] | None = None
    source_distance: float = 0.5  # m, mean ego distance to a source frame
    source_sigma: float = 0.5  # m, its standard deviation
    source_max: float = 6.0  # m, farthest source frame
    source_seconds: float = 1.0  # s, farthest source frame in time, for a vehicle that stands still
    lidar: bool | None = (
        None  # the recording's LiDAR for the range loss: true, it must have one; None, where it has one
    )
    cue: Cue = "none"  # optical flow for motion, to a previous frame and the next one, by this estimator
    cue_weights: Path | None = None  # file of a learned estimator
    cue_device: str = "cpu"  # where that runs: cpu, cuda, cuda:1, ...
    # which previous frame: the one before, or the papers' drawn source; keyframe: this one and the next are keyframes
    cue_previous: Literal["neighbour", "source", "keyframe"] = "neighbour"
    # objects that could move, or what moves by the flow's residual; None: known by the rendered depth alone
    masks: FlowResidual | GroundedSam | None = None
    semantics: Segmenter | None = None  # classes of pixels, for a semantic field

    def last_frames(self, recordings: int) -> tuple[int | None, ...]:
        """`last_frame` of each recording. Raises `ConfigError` if the list is of another number of recordings."""
        if not isinstance(self.last_frame, tuple):
            return (self.last_frame,) * recordings
        if len(self.last_frame) != recordings:
            raise ConfigError(
                f"last_frame: {list(self.last_frame)} for {recordings} recordings; expected one number for all, or one each"
            )
        return self.last_frame


@dataclass(frozen=True)
class BagData(RecordedData):
    """Recordings in ROS bags: cameras by their camera_info, poses from /tf or odometry, LiDAR from any PointCloud2."""

    bags: tuple[Path, ...]  # bag folders or files
    cameras: tuple[str, ...] = ()  # camera names; empty: all that have a camera_info
    base_frame: str = "base_link"  # ego frame
    fixed_frame: str = "odom"  # frame in which the world stands still
    slop: float = 0.02  # s, largest distance of an image's stamp from that of the first camera's
    body_masks: Path | None = (
        None  # folder of the vehicle's own body in the pictures, a PNG a camera: `letocc bag mask`
    )
    lidar_topic: str = ""  # which PointCloud2 topic; empty: /points, or else the first
    odometry_topic: str = (
        ""  # nav_msgs/Odometry with the ego poses; empty: /tf, or the only such topic where it has none
    )


@dataclass(frozen=True)
class NuScenesData(RecordedData):
    """nuScenes in its own layout; see docs/data.md."""

    root: Path = Path("data/nuscenes")  # folder with samples/, sweeps/ and the tables of a version
    version: str | None = None  # v1.0-trainval, v1.0-mini, ...; None if there is one folder of tables
    split: Literal["train", "val", "test", "all"] = "train"  # the official one
    scenes: tuple[str, ...] = ()  # only these, such as scene-0061; empty: all of the split
    cameras: tuple[str, ...] = ()  # names such as camera_front; empty: all six
    sweeps: bool = False  # also the images between keyframes, as past frames and sources
    labels: Literal["none", "occ3d", "openocc"] = "none"  # voxel labels to evaluate against


@dataclass(frozen=True)
class KittiOdometryData(RecordedData):
    """KITTI's odometry benchmark with SemanticKITTI's labels; see docs/data.md."""

    root: Path = Path("data/kitti_odometry")  # folder with sequences/ and poses/
    split: Literal["train", "val", "all"] = "train"  # SemanticKITTI's
    sequences: tuple[str, ...] = ()  # these instead, such as 06
    ego: Literal["road", "lidar"] = "road"  # ego frame: on the road below the camera, or the scanner's (as the papers')


@dataclass(frozen=True)
class KittiTrackingData(RecordedData):
    """KITTI's tracking benchmark, the papers' KITTI-MOT; see docs/data.md."""

    root: Path = Path("data/kitti_tracking")  # folder with training/ and testing/
    split: Literal["train", "val", "all"] = "train"  # the paper's: val is of the benchmark's testing half
    sequences: tuple[str, ...] = ()  # these instead, such as 0012, from the split's half
    ego: Literal["road", "lidar"] = "road"  # ego frame: on the road below the camera, or the scanner's (as the papers')
    dynamic_repeat: int = 1  # times that clips of dynamic frames are listed (Let Occ Flow, Appendix A)
    dynamic_pixels: float = 3.0  # px that the flow of a LiDAR return differs from a still world's where things move
    dynamic_share: float = 0.02  # share of such returns that makes a frame dynamic


@dataclass(frozen=True)
class KittiRawData(RecordedData):
    """KITTI's raw recordings with the Eigen split for depth; see docs/data.md."""

    root: Path = Path("data/kitti_raw")  # folder with 2011_09_26/ and so on
    split: Literal["train", "val", "all"] = "train"  # of Eigen et al.; in val only the measured frames are current
    drives: tuple[str, ...] = ()  # these instead, such as 2011_09_26_drive_0001
    ego: Literal["road", "lidar"] = "road"  # ego frame: on the road below the camera, or the scanner's (as the papers')


@dataclass(frozen=True)
class DataConfig:
    """Where clips come from: exactly one of the sources."""

    simulator: SimulatorData | None = None
    bag: BagData | None = None
    nuscenes: NuScenesData | None = None
    kitti_odometry: KittiOdometryData | None = None
    kitti_tracking: KittiTrackingData | None = None
    kitti_raw: KittiRawData | None = None
    instants: InstantsConfig | None = None  # whose rays are rendered; None: the current frame's alone
    votes: VotesConfig | None = None  # what rays say of voxels, for `objective.queries`
    cache: Path = Path("runs/cache")  # folder for rendered streets, decoded frames, cues and indices of tables
    workers: int = 2  # processes that render streets and compute cues on first use

    def __post_init__(self):
        given = [name for name in SOURCES if getattr(self, name) is not None]
        if len(given) != 1:
            names = ", ".join(f"data.{name}" for name in SOURCES)
            raise ConfigError(f"data: {' and '.join(given) or 'no source'} given, expected exactly one of {names}")
        if self.votes is not None and self.votes.source == "truth" and self.simulator is None:
            raise ConfigError(
                "data.votes.source is truth, which only simulated streets have; set it to camera, lidar or both"
            )

    @property
    def source(self) -> str:
        """Name of the source."""
        return next(name for name in SOURCES if getattr(self, name) is not None)

    @property
    def recorded(self) -> RecordedData | None:
        """The source, if it is recordings."""
        found = getattr(self, self.source)
        return found if isinstance(found, RecordedData) else None


SOURCES = ("simulator", "bag", "nuscenes", "kitti_odometry", "kitti_tracking", "kitti_raw")


def with_bags(override: str) -> str:
    """`data=BAG` or `data=[BAG, BAG]`, short for the key that says which bags to train on; others as they are."""
    key, _, value = override.partition("=")
    if key != "data":
        return override
    return f"data.bag.bags={value if value.startswith('[') else json.dumps([value])}"
