"""A bag as synchronised frame sets with their LiDAR: what training and evaluation on recordings start from.

The sets come from `stream.FrameAssembler`, exactly as the live node would make them of the same messages.
"""

from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import numpy as np

from letocc_core.data.bags import reader as bags
from letocc_core.errors import DataError, PoseError
from letocc_core.stream.assembler import AssemblerConfig, FrameAssembler
from letocc_core.stream.pose_buffer import PoseBuffer
from letocc_core.stream.types import FrameSet

WHOLE_RECORDING = 1e9  # s of transforms to keep: all of them
MAX_SWEEP_AGE = 0.1  # s between an image set and the sweep that goes with it


@dataclass(frozen=True, eq=False)
class Sweep:
    """A LiDAR sweep where the ego vehicle's motion has put it by the stamp of an image set."""

    points: np.ndarray  # [P, 3] float32 m, ego axes at the set's stamp
    origin: np.ndarray  # [3] float32 m, the sensor's position in the same axes


@dataclass(frozen=True, eq=False)
class RecordedSet:
    """One frame set of a recording and the sweep nearest in time, if one is within `MAX_SWEEP_AGE`."""

    frame_set: FrameSet
    sweep: Sweep | None


class Recording:
    """Iterates over the `RecordedSet`s of a bag, in time order; each iteration reads the bag anew.

    Args:
        path: bag folder or file.
        cameras: names, the first is the anchor; empty for all that have a camera_info, by name.
        lidar: read the LiDAR; `lidar_topic` says which, empty for `/points` or else the first.
        odometry_topic: take the ego poses from there; empty: from /tf, or where that does not know `base_frame` in
            `fixed_frame`, from the only odometry topic.
        slop: s, largest distance of an image's stamp from the anchor's.

    After an iteration, `dropped` counts by reason what was received and not used.
    Raises `DataError` for whatever `open_bag` refuses, an unknown camera or LiDAR topic, and, while iterating, a bag
    that gives no set at all.
    """

    def __init__(
        self,
        path: str | Path,
        cameras: Sequence[str] = (),
        base_frame: str = "base_link",
        fixed_frame: str = "odom",
        lidar: bool = True,
        lidar_topic: str = "",
        odometry_topic: str = "",
        slop: float = AssemblerConfig.slop,
    ):
        self.path = Path(path)
        with bags.open_bag(path) as bag:
            self.cameras = tuple(camera.name for camera in bag.choose_cameras(cameras))
            self.lidar_topics = _choose_lidar(bag, lidar_topic) if lidar else ()
            self.odometry_topic = choose_odometry(bag, odometry_topic, base_frame, fixed_frame)
        self.config = AssemblerConfig(self.cameras, base_frame, fixed_frame, slop=slop)
        self.dropped: Counter[str] = Counter()

    def __iter__(self) -> Iterator[RecordedSet]:
        self.dropped = Counter()
        details: dict[str, str] = {}
        count = 0
        with bags.open_bag(self.path) as bag:
            poses = all_poses(bag, self.config, self.odometry_topic, lambda error: None)  # counted when it comes again
            pairing = _SweepPairing(poses, self.config)
            for item in self._assemble(bag, pairing):
                if isinstance(item, FrameSet):
                    pairing.sets.append(item)
                else:
                    self.dropped[item.reason] += 1
                    details.setdefault(item.reason, item.detail)
                for ready in pairing.decided():
                    count += 1
                    yield ready
            for ready in pairing.decided(final=True):
                count += 1
                yield ready
        if pairing.without_pose:
            self.dropped["sweep without pose"] = pairing.without_pose
        if not count:
            reasons = "; ".join(f"{self.dropped[reason]} x {reason}: {text}" for reason, text in details.items())
            raise DataError(f"{self.path}: no image set with a pose; {reasons or 'no image in it'}")

    def _assemble(self, bag: bags.Bag, pairing: "_SweepPairing") -> Iterator:
        """What the assembler decides, message by message; damaged messages are counted."""

        def damaged(error: DataError) -> None:
            self.dropped["damaged message"] += 1

        assembler = FrameAssembler(self.config)
        for message in bag.messages(self.cameras, self.lidar_topics, self.odometry_topic, damaged):
            if isinstance(message, bags.PointsMessage):
                pairing.sweeps.append(message)
            else:
                try:
                    feed(assembler, message)
                except PoseError as error:  # such as a transform that closes a loop
                    damaged(error)
            yield from assembler.poll()
        yield from assembler.flush()


def feed(assembler: FrameAssembler, message: bags.Message) -> None:
    """Give one message of a bag to an assembler; point clouds are not its business."""
    if isinstance(message, bags.ImageMessage):
        assembler.add_image(message.camera, message.stamp_ns, message.image)
    elif isinstance(message, bags.CalibrationMessage):
        assembler.add_calibration(message.camera, message.calibration, message.frame_id)
    elif isinstance(message, bags.TransformMessage):
        assembler.add_transform(message.parent, message.child, message.stamp_ns, message.T, message.static)
    elif isinstance(message, bags.OdometryMessage):
        assembler.add_odometry(message.parent, message.child, message.stamp_ns, message.T)


class _SweepPairing:
    """Holds sets until the sweep nearest to each is known."""

    def __init__(self, poses: PoseBuffer, config: AssemblerConfig):
        self.poses, self.config = poses, config
        self.sets: deque[FrameSet] = deque()
        self.sweeps: deque[bags.PointsMessage] = deque()
        self.without_pose = 0

    def decided(self, final: bool = False) -> Iterator[RecordedSet]:
        """Sets that no later sweep can change."""
        while self.sets and (final or self._settled(self.sets[0].stamp_ns)):
            frame_set = self.sets.popleft()
            yield RecordedSet(frame_set, self._nearest(frame_set))

    def _settled(self, stamp_ns: int) -> bool:
        """A sweep at or after this stamp has come, or images so much newer that it will not come any more."""
        if self.sweeps and self.sweeps[-1].stamp_ns >= stamp_ns:
            return True
        return self.sets[-1].stamp_ns >= stamp_ns + round(2 * MAX_SWEEP_AGE * 1e9)

    def _nearest(self, frame_set: FrameSet) -> Sweep | None:
        oldest = frame_set.stamp_ns - round(2 * MAX_SWEEP_AGE * 1e9)
        while self.sweeps and self.sweeps[0].stamp_ns < oldest:
            self.sweeps.popleft()
        sweep = min(self.sweeps, key=lambda s: abs(s.stamp_ns - frame_set.stamp_ns), default=None)
        if sweep is None or abs(sweep.stamp_ns - frame_set.stamp_ns) > MAX_SWEEP_AGE * 1e9:
            return None
        try:
            T_world_sensor = self.poses.lookup(
                self.config.fixed_frame, sweep.frame_id, sweep.stamp_ns, extrapolate=True
            )
        except PoseError:
            self.without_pose += 1
            return None
        T = np.linalg.inv(frame_set.T_world_ego) @ T_world_sensor
        points = sweep.points @ T[:3, :3].T + T[:3, 3]
        return Sweep(points.astype(np.float32), T[:3, 3].astype(np.float32))


def all_poses(
    bag: bags.Bag, config: AssemblerConfig, odometry_topic: str = "", damaged: bags.Damaged | None = None
) -> PoseBuffer:
    """Every transform of the bag, and the poses of an odometry topic, as the assembler takes them.

    What cannot be one is told to `damaged`, or without it raises `DataError`.
    """
    assembler = FrameAssembler(replace(config, tf_duration=WHOLE_RECORDING))
    odometry = bag.odometry(odometry_topic, damaged) if odometry_topic else ()
    for message in chain(bag.transforms(damaged=damaged), odometry):
        try:
            feed(assembler, message)
        except DataError as error:
            if damaged is None:
                raise
            damaged(error)
    return assembler.poses


def choose_odometry(bag: bags.Bag, topic: str, base_frame: str, fixed_frame: str) -> str:
    """The topic of the ego poses; empty if /tf has them, or nothing has. Raises `DataError` for one that is not there."""
    found = ", ".join(bag.odometry_topics) or "none"
    if topic and topic not in bag.odometry_topics:
        raise DataError(f"{bag.path}: no odometry on {topic}; nav_msgs/Odometry topics found: {found}")
    if topic or not bag.odometry_topics:
        return topic
    parents = {message.child: message.parent for message in bag.transforms()}
    frame, steps = base_frame, 0
    while frame in parents and frame != fixed_frame and steps <= len(parents):
        frame, steps = parents[frame], steps + 1
    if frame == fixed_frame:
        return ""
    if len(bag.odometry_topics) > 1:
        raise DataError(
            f"{bag.path}: /tf does not place {base_frame} in {fixed_frame}, and there are several odometry topics: {found}; "
            "choose one: data.bag.odometry_topic"
        )
    return bag.odometry_topics[0]


def _choose_lidar(bag: bags.Bag, topic: str) -> tuple[str, ...]:
    if topic and topic not in bag.lidar_topics:
        found = ", ".join(bag.lidar_topics) or "none"
        raise DataError(f"{bag.path}: no point clouds on {topic}; PointCloud2 topics found: {found}")
    chosen = topic or ("/points" if "/points" in bag.lidar_topics else next(iter(bag.lidar_topics), ""))
    return (chosen,) if chosen else ()
