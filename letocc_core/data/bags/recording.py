"""A bag as synchronised frame sets with their LiDAR: what training and evaluation on recordings start from.

The sets come from `stream.FrameAssembler`, exactly as the live node would make them of the same messages.
"""

import re
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import numpy as np

from letocc_core.data.bags import reader as bags
from letocc_core.errors import DataError, PoseError, counted, show
from letocc_core.geometry.body_masks import Masks
from letocc_core.geometry.body_masks import load as masks_of_folder
from letocc_core.stream.assembler import AssemblerConfig, FrameAssembler
from letocc_core.stream.synchronizer import RESTART_AFTER
from letocc_core.stream.types import FrameSet

WHOLE_RECORDING = 1e9  # s of transforms to keep: all of them
OF_CAMERA = re.compile(r"(^|[_/])(depth|camera|stereo)([_/]|$)", re.IGNORECASE)  # in names of clouds made of images
WENT_BACK = (
    "playback looped or the clock began anew; only what is newer than all before it is used: split the recording there to "
    "use the rest"
)
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
        body_masks: of the vehicle's own body, by camera, or the folder where they lie (`geometry.body_masks`).

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
        body_masks: Masks | str | Path | None = None,
    ):
        self.path = Path(path)
        with bags.open_bag(path) as bag:
            self.cameras = tuple(camera.name for camera in bag.choose_cameras(cameras))
            chosen = choose_lidar(bag, lidar_topic) if lidar else ""
            self.lidar_topics = (chosen,) if chosen else ()
            self.odometry_topic = choose_odometry(bag, odometry_topic, base_frame, fixed_frame)
        self.masks = (
            masks_of_folder(body_masks, self.cameras) if isinstance(body_masks, (str, Path)) else dict(body_masks or {})
        )
        self.config = AssemblerConfig(
            self.cameras, base_frame, fixed_frame, slop=slop, odometry=bool(self.odometry_topic)
        )
        self.count = 0  # sets of the latest iteration
        self.dropped: Counter[str] = Counter()
        self.details: dict[str, str] = {}  # by reason, the first one
        self.remarks: tuple[str, ...] = ()  # sentences about what was read otherwise than one might think

    def __iter__(self) -> Iterator[RecordedSet]:
        self.dropped, self.details, self.count = Counter(), {}, 0
        with bags.open_bag(self.path) as bag:
            poses = all_poses(bag, self.config, self.odometry_topic, lambda error: None)  # counted when it comes again
            pairing = _SweepPairing(poses)
            newest_ns = 0
            for item in self._assemble(bag, pairing):
                if isinstance(item, FrameSet) and item.stamp_ns > newest_ns:
                    newest_ns = item.stamp_ns
                    pairing.sets.append(item)
                elif isinstance(item, FrameSet):
                    self._drop(
                        "set: back in time", f"stamped {(newest_ns - item.stamp_ns) * 1e-9:.1f} s earlier; {WENT_BACK}"
                    )
                else:
                    self._drop(f"{'set' if item.camera is None else 'image'}: {item.reason}", item.detail)
                for ready in pairing.decided():
                    self.count += 1
                    yield ready
            for ready in pairing.decided(final=True):
                self.count += 1
                yield ready
            depths = ((camera, bag.bit_depths[camera.image_topic]) for camera in bag.choose_cameras(self.cameras))
            others = (f"{topic}: left out, {reason}" for topic, reason in bag.no_transforms.items())
            self.remarks = (
                *bag.remarks,
                *others,
                *(f"{camera.name}: {depth}" for camera, depth in depths if str(depth)),
            )
        for reason, detail, number in pairing.unused():
            self.dropped[reason] += number
            self.details.setdefault(reason, detail)
        if not self.count:
            raise DataError(f"{show(self.path)}: no image set can be used; {self.losses() or 'no image in it'}")

    def losses(self) -> str:
        """What was received and not used, by reason, and the first case of each; empty if nothing."""
        return "; ".join(f"{number} x {reason} ({self.details[reason]})" for reason, number in self.dropped.items())

    def report(self) -> str:
        """What the latest iteration gave and lost, for people: a line, and one more for each reason and remark."""
        lines = [f"{show(self.path)}: {counted(self.count, 'image set')} of {counted(len(self.cameras), 'camera')}"]
        lines += [f"  left out: {number} x {reason}: {self.details[reason]}" for reason, number in self.dropped.items()]
        return "\n".join([*lines, *(f"  note: {text}" for text in self.remarks)])

    def _drop(self, reason: str, detail: str) -> None:
        self.dropped[reason] += 1
        self.details.setdefault(reason, detail)

    def _assemble(self, bag: bags.Bag, pairing: "_SweepPairing") -> Iterator:
        """What the assembler decides, message by message; what cannot be read or used is counted."""

        def damaged(error: DataError) -> None:
            self._drop("unreadable message", str(error))

        assembler = FrameAssembler(self.config, self.masks)
        for message in bag.messages(self.cameras, self.lidar_topics, self.odometry_topic, damaged):
            if isinstance(message, bags.PointsMessage):
                if not pairing.add(message):
                    self._drop("sweep: back in time", WENT_BACK)
            else:
                try:
                    feed(assembler, message)
                except PoseError as error:  # such as a transform that closes a loop
                    self._drop("transform or pose that joins nothing", str(error))
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


@dataclass
class _OneClock:
    """Tells the stamps of one run of a clock from those after it began anew, until they are newer than all before."""

    newest_ns: int = 0
    began_anew: bool = False

    def takes(self, stamp_ns: int) -> bool:
        """Whether a stamp (ns), which comes after those asked about before, is of the first run."""
        self.began_anew |= stamp_ns < self.newest_ns - RESTART_AFTER * 1e9
        if self.began_anew and stamp_ns <= self.newest_ns:
            return False
        self.began_anew = False
        self.newest_ns = max(self.newest_ns, stamp_ns)
        return True


class _SweepPairing:
    """Holds sets until the sweep nearest to each is known."""

    def __init__(self, poses: FrameAssembler):
        self.poses = poses
        self.sets: deque[FrameSet] = deque()
        self.sweeps: deque[bags.PointsMessage] = deque()
        self._clock = _OneClock()
        self._used: set[int] = set()  # stamps (ns) of sweeps that went with a set
        self._far: set[int] = set()  # stamps of those that no set was near to
        self._without_pose: dict[int, str] = {}  # why, by stamp

    def add(self, sweep: bags.PointsMessage) -> bool:
        """Take in a sweep, unless it is of another run of the clock."""
        belongs = self._clock.takes(sweep.stamp_ns)
        if belongs:
            self.sweeps.append(sweep)
        return belongs

    def unused(self) -> Iterator[tuple[str, str, int]]:
        """Reason, first case and number of sweeps that went with no set."""
        while self.sweeps:
            self._forget()
        if self._without_pose:
            yield "sweep: no_pose", next(iter(self._without_pose.values())), len(self._without_pose)
        if self._far:
            detail = f"no image set within {MAX_SWEEP_AGE:g} s, or another sweep is nearer to it"
            yield "sweep: unmatched", detail, len(self._far)

    def _forget(self) -> None:
        """The oldest sweep will not be asked for any more."""
        stamp_ns = self.sweeps.popleft().stamp_ns
        if stamp_ns not in self._used and stamp_ns not in self._without_pose:
            self._far.add(stamp_ns)

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
            self._forget()
        sweep = min(self.sweeps, key=lambda s: abs(s.stamp_ns - frame_set.stamp_ns), default=None)
        if sweep is None or abs(sweep.stamp_ns - frame_set.stamp_ns) > MAX_SWEEP_AGE * 1e9:
            return None
        try:
            T_world_sensor = self.poses.locate(sweep.frame_id, sweep.stamp_ns, extrapolate=True)
        except PoseError as error:
            self._without_pose.setdefault(sweep.stamp_ns, str(error))
            return None
        self._used.add(sweep.stamp_ns)
        T = np.linalg.inv(frame_set.T_world_ego) @ T_world_sensor
        points = sweep.points @ T[:3, :3].T + T[:3, 3]
        in_ego_axes = (
            sweep.frame_id == self.poses.config.base_frame
        )  # whose origin, on the road, is no place for a LiDAR
        place = _middle_of_cameras(frame_set) if in_ego_axes else np.zeros(3)
        return Sweep(points.astype(np.float32), (T[:3, :3] @ place + T[:3, 3]).astype(np.float32))


def _middle_of_cameras(frame_set: FrameSet) -> np.ndarray:
    """[3] m, ego axes: where a LiDAR is taken to be if its cloud does not say."""
    present = [i for i, image in enumerate(frame_set.images) if image is not None]
    return frame_set.T_ego_cam[present, :3, 3].mean(0)


def all_poses(
    bag: bags.Bag, config: AssemblerConfig, odometry_topic: str = "", damaged: bags.Damaged | None = None
) -> FrameAssembler:
    """An assembler that knows every transform of the bag, and the poses of an odometry topic.

    What cannot be one is told to `damaged`, or without it raises `DataError`.
    """
    assembler = FrameAssembler(replace(config, tf_duration=WHOLE_RECORDING))
    odometry = bag.odometry(odometry_topic, damaged) if odometry_topic else ()
    for message in of_one_clock(chain(bag.transforms(damaged=damaged), odometry)):
        try:
            feed(assembler, message)
        except DataError as error:
            if damaged is None:
                raise
            damaged(error)
    return assembler


def of_one_clock(
    messages: Iterable[bags.TransformMessage | bags.OdometryMessage],
) -> Iterator[bags.TransformMessage | bags.OdometryMessage]:
    """Without the moving transforms and poses of another run of the clock."""
    clocks: defaultdict[tuple[str, str], _OneClock] = defaultdict(_OneClock)
    for message in messages:
        constant = isinstance(message, bags.TransformMessage) and message.static
        if constant or clocks[message.parent, message.child].takes(message.stamp_ns):
            yield message


def choose_odometry(bag: bags.Bag, topic: str, base_frame: str, fixed_frame: str) -> str:
    """The topic of the ego poses; empty if /tf has them, or nothing has. Raises `DataError` for one that is not there."""
    found = ", ".join(bag.odometry_topics) or "none"
    if topic and topic not in bag.odometry_topics:
        raise DataError(f"{show(bag.path)}: no odometry on {topic}; nav_msgs/Odometry topics found: {found}")
    if topic or not bag.odometry_topics:
        return topic
    parents = {message.child: message.parent for message in bag.transforms(damaged=lambda error: None)}
    frame, steps = base_frame, 0
    while frame in parents and frame != fixed_frame and steps <= len(parents):
        frame, steps = parents[frame], steps + 1
    if frame == fixed_frame:
        return ""
    if len(bag.odometry_topics) > 1:
        raise DataError(
            f"{show(bag.path)}: /tf does not place {base_frame} in {fixed_frame}, and there are several odometry topics: {found}; "
            "choose one: --odometry-topic TOPIC (data.bag.odometry_topic)"
        )
    return bag.odometry_topics[0]


def choose_lidar(bag: bags.Bag, topic: str = "") -> str:
    """The topic of the LiDAR: the one asked for, `/points`, or else the first, those of cameras last; empty if there is none.

    Raises `DataError` for one that is not there, or that holds no points.
    """
    if topic and topic not in bag.lidar_topics:
        found = ", ".join(bag.lidar_topics) or "none"
        others = "".join(f"; {name}: {reason}" for name, reason in bag.no_lidars.items())
        raise DataError(f"{show(bag.path)}: no point clouds on {topic}; PointCloud2 topics found: {found}{others}")
    return topic or min(
        bag.lidar_topics, key=lambda name: (name != "/points", bool(OF_CAMERA.search(name)), name), default=""
    )
