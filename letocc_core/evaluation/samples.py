"""Sequences for evaluation: image sets in time order with what is known about each."""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from letocc_core.data.bags.reader import open_bag, stamp_ns
from letocc_core.data.bags.recording import RecordedSet, Recording, all_poses
from letocc_core.data.datasets.voxel_labels import VoxelLabels
from letocc_core.data.truth import Truth
from letocc_core.errors import DataError
from letocc_core.frame import InputConfig
from letocc_core.geometry.body_masks import Masks
from letocc_core.geometry.grid import GridSpec
from letocc_core.metrics.box_motion import Boxes
from letocc_core.stream.assembler import FrameAssembler
from letocc_core.stream.preprocess import rectifier_of, rectify
from letocc_core.stream.types import FrameSet

if TYPE_CHECKING:
    from letocc_core.data.datasets.drive import Drive
    from letocc_core.data.simulator.street import SimFrame

BOX_AGE = 0.06  # s between an image set and the boxes that go with it: half of what lies between two at 10 Hz
LATER = 0.3  # s, at least, between the sweeps that judge velocities: slow motion shows only after some time


@dataclass(frozen=True, eq=False)
class Sample:
    """One image set with what is known about it: a simulator's truth, a LiDAR sweep, or both, or nothing."""

    frame_set: FrameSet
    lidar_origin: Float[np.ndarray, "3"]  # m, ego axes: where RayIoU's rays start
    truth: Truth | None = None
    lidar: Float[np.ndarray, "P 3"] | None = None  # m, returns in ego axes
    T_world_ego_next: Float[np.ndarray, "4 4"] | None = None  # m, pose at the frame that `truth.flow_forward` leads to
    flow_interval: float | None = None  # s until then
    labels: VoxelLabels | None = None  # that come with a data set

    lidar_later: Float[np.ndarray, "Q 3"] | None = None  # m, returns of a later sweep in the ego axes of this set
    lidar_seconds: float | None = None  # s until then
    boxes: Boxes | None = None  # labelled objects, in the ego axes of this set and where they are at its stamp

    @property
    def sweep(self) -> Float[np.ndarray, "P 3"]:
        """`lidar`; raises `DataError` where there is none."""
        if self.lidar is None:
            raise DataError(f"the set at {self.frame_set.stamp_ns} ns has no LiDAR sweep, expected one to compare with")
        return self.lidar


def simulated_street(
    seed: int, rig: str, grid: GridSpec, image_size: tuple[int, int], times: Iterable[float]
) -> list[Sample]:
    """One simulated street at the given times (s), with its whole truth on `grid`.

    Args:
        rig: name of a rig in config/rigs, or a YAML file.
        image_size: px, height and width to render.
    """
    from letocc_core.data.simulator.rig import Rig
    from letocc_core.data.simulator.street import Street

    street = Street(seed, Rig.load(rig).require_pinholes("evaluation on streets").resized(*image_size), grid)
    return [_simulated_sample(street.render(t)) for t in times]


def lidar_track(samples: Iterable[Sample]) -> Float[np.ndarray, "n 3"]:
    """Where the LiDAR is at each sample, m in the fixed frame."""
    return np.stack([_place(s.frame_set.T_world_ego, s.lidar_origin) for s in samples])


class RecordedDrive:
    """The image sets of a bag in time order, as `Recording` groups them; each iteration reads the bag anew.

    A set comes with the LiDAR sweep nearest to it and the first one at least `LATER` after it, and, for a bag that
    `letocc simulate` wrote, with the truth that lies beside the bag. Sets of cameras with distortion come as `input` wants
    them, undistorted; others as they are. Raises `DataError` as `Recording` does, and for truth that is not there, or of
    a fisheye camera.
    """

    def __init__(
        self,
        bag: Path,
        cameras: tuple[str, ...] = (),
        base_frame: str = "base_link",
        fixed_frame: str = "odom",
        slop: float = 0.02,
        odometry_topic: str = "",
        lidar_topic: str = "",
        body_masks: Masks | str | Path | None = None,
        input: InputConfig | None = None,
        boxes: Path | None = None,
    ):
        """As `Recording`, and a file of boxes (`metrics.box_motion`). A truth beside the bag knows its own cameras' order."""
        from letocc_core.data.simulator.bags import TruthFolder

        self.truth = TruthFolder.beside(Path(bag))
        self.recording = Recording(
            bag,
            cameras if self.truth is None else self.truth.cameras,
            base_frame,
            fixed_frame,
            lidar_topic=lidar_topic,
            odometry_topic=odometry_topic,
            slop=slop,
            body_masks=body_masks,
        )
        self.input = input or InputConfig()
        self._rectifier = rectifier_of(self.input)
        self._boxes = None if boxes is None else Boxes.load(boxes)

    def __iter__(self) -> Iterator[Sample]:
        waiting: deque[Sample] = deque()
        for item in self.recording:
            waiting.append(self._sample(item))
            while _seconds_between(waiting[0], waiting[-1]) >= LATER:
                yield self._with_later(waiting)
        while waiting:
            yield self._with_later(waiting)

    @cached_property
    def track(self) -> Float[np.ndarray, "n 3"]:
        """Where the LiDAR is at each set, m in the fixed frame; empty without truth, which alone asks for it.

        By the poses at the stamps of the first camera: no image is read.
        """
        if self.truth is None:
            return np.zeros((0, 3))
        with open_bag(self.recording.path) as bag:
            anchor = bag.choose_cameras(self.recording.cameras)[0]
            stamps = [stamp_ns(message.header) for _, message in bag.readable([anchor.info_topic])]
            sweeps = bag.readable(self.recording.lidar_topics)
            frame = next((message.header.frame_id for _, message in sweeps), self.recording.config.base_frame)
        origins = [self._poses.mount(frame, t, extrapolate=True)[:3, 3].astype(np.float32) for t in stamps]
        poses = [self._poses.ego_pose(t, extrapolate=True) for t in stamps]
        return np.stack([_place(T, origin) for T, origin in zip(poses, origins, strict=True)])

    def _sample(self, item: RecordedSet) -> Sample:
        truth = self.truth.at(item.frame_set.stamp_ns) if self.truth else None
        frame_set = self._undistorted(item.frame_set)
        boxes = self._boxes_at(frame_set)
        if item.sweep is None:
            return Sample(frame_set, np.zeros(3), truth, boxes=boxes)
        return Sample(frame_set, item.sweep.origin, truth, item.sweep.points, boxes=boxes)

    @cached_property
    def _poses(self) -> FrameAssembler:
        """Knows every pose of the bag."""
        with open_bag(self.recording.path) as bag:
            return all_poses(bag, self.recording.config, self.recording.odometry_topic, lambda error: None)

    def _boxes_at(self, frame_set: FrameSet) -> Boxes | None:
        """The boxes of the stamp nearest to a set, moved to it by the ego motion and their own."""
        boxes = None if self._boxes is None else self._boxes.nearest(frame_set.stamp_ns, BOX_AGE)
        if boxes is None:
            return None
        T_world_then = self._poses.ego_pose(int(boxes.stamp_ns[0]), extrapolate=True)
        return boxes.seen_from(np.linalg.inv(frame_set.T_world_ego) @ T_world_then, frame_set.stamp_ns)

    def _undistorted(self, frame_set: FrameSet) -> FrameSet:
        if not any(c is not None and c.distorted for c in frame_set.calibrations):
            return frame_set
        if self.truth is not None:
            raise DataError(
                f"{self.recording.path}: the truth beside it is of raw images with distortion, to which answers cannot be "
                f"compared; move {self.truth.path} elsewhere to go on without it"
            )
        return rectify(frame_set, self.input, self._rectifier)

    def _with_later(self, waiting: deque[Sample]) -> Sample:
        """Take the first of the samples, and tell it what the ones behind it say."""
        sample = waiting.popleft()
        known: dict[str, Any] = {}
        if self.truth is not None:
            known["flow_interval"] = self.truth.interval
            ahead = (s for s in waiting if abs(_seconds_between(sample, s) - self.truth.interval) < 1e-3)
            known["T_world_ego_next"] = next((s.frame_set.T_world_ego for s in ahead), None)
        later = next((s for s in waiting if s.lidar is not None and _seconds_between(sample, s) >= LATER), None)
        if sample.lidar is not None and later is not None:
            T = np.linalg.inv(sample.frame_set.T_world_ego) @ later.frame_set.T_world_ego
            known["lidar_later"] = later.lidar @ T[:3, :3].T + T[:3, 3]
            known["lidar_seconds"] = _seconds_between(sample, later)
        return replace(sample, **known)


class LabelledDrive:
    """The image sets of a data set's drive with their LiDAR sweeps and voxel labels, read as they are asked for."""

    def __init__(self, drive: "Drive"):
        self.drive = drive

    def __len__(self) -> int:
        return len(self.drive)

    def __iter__(self) -> Iterator[Sample]:
        for i in range(len(self.drive)):
            sweep = self.drive.sweep(i)
            yield Sample(
                self.drive.frame_set(i),
                self.drive.T_ego_lidar[i, :3, 3],
                lidar=None if sweep is None else sweep.points,
                labels=self.drive.voxel_labels(i),
            )

    @property
    def track(self) -> Float[np.ndarray, "n 3"]:
        """Where the LiDAR is at each set, m in the fixed frame."""
        return (self.drive.T_world_ego @ self.drive.T_ego_lidar)[:, :3, 3]


def _place(T_world_ego: Float[np.ndarray, "4 4"], origin: Float[np.ndarray, "3"]) -> Float[np.ndarray, "3"]:
    return (T_world_ego @ np.append(origin, 1.0))[:3]


def _seconds_between(first: Sample, second: Sample) -> float:
    return (second.frame_set.stamp_ns - first.frame_set.stamp_ns) * 1e-9


def _simulated_sample(frame: "SimFrame") -> Sample:
    frame_set = FrameSet(
        stamp_ns=frame.stamp_ns,
        images=tuple(frame.images),
        calibrations=frame.calibrations,
        T_ego_cam=frame.T_ego_cam,
        T_world_ego=frame.T_world_ego,
    )
    return Sample(frame_set, frame.lidar_origin, frame.truth, None, frame.T_world_ego_next, frame.flow_interval)
