"""What a bag holds, and what it lacks for running the model on it or for training one from it."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np

from letocc_core.data.bags import pointcloud
from letocc_core.data.bags import reader as bags
from letocc_core.data.bags.recording import WHOLE_RECORDING, choose_odometry, feed
from letocc_core.errors import DataError, PoseError
from letocc_core.stream.assembler import AssemblerConfig, FrameAssembler
from letocc_core.stream.pose_buffer import PoseBuffer
from letocc_core.stream.types import Calibration

MIN_TRAINING_DISTANCE = 5.0  # m that the ego vehicle should drive: geometry is learned from parallax
MAX_FRAME_INTERVAL = 0.5  # s between images of a camera that training can still relate


@dataclass(frozen=True)
class CameraSummary:
    """One camera of a bag."""

    name: str
    image_topic: str
    frame_id: str
    images: int
    rate_hz: float  # images a second; 0 with fewer than two
    calibration: Calibration


@dataclass(frozen=True)
class LidarSummary:
    """One point cloud topic of a bag."""

    topic: str
    frame_id: str
    sweeps: int
    rate_hz: float
    points: int  # of the first sweep
    fields: tuple[str, ...]


@dataclass(frozen=True)
class Edge:
    """One pair of frames in the tree of transforms."""

    parent: str
    child: str
    static: bool
    count: int
    rate_hz: float


@dataclass(frozen=True)
class BagInfo:
    """Summary of a bag; `str()` gives the report."""

    path: Path
    seconds: float
    messages: int
    cameras: tuple[CameraSummary, ...]
    lidars: tuple[LidarSummary, ...]
    edges: tuple[Edge, ...]
    odometry_topics: tuple[str, ...]
    odometry_topic: str  # from which the ego poses come; empty: from /tf
    driven: float | None  # m along the path of the base frame; None without poses
    missing_to_run: tuple[str, ...]  # each a sentence with the remedy
    missing_to_train: tuple[str, ...]  # besides those

    def __str__(self) -> str:
        lines = [f"{self.path}: {self.seconds:.1f} s, {self.messages} messages", "", f"cameras: {len(self.cameras)}"]
        for c in self.cameras:
            size = f"{c.calibration.width} x {c.calibration.height}"
            lines.append(
                f"  {c.name}: {c.images} images of {size} at {c.rate_hz:.1f} Hz, {_lens(c.calibration)}, "
                f"frame {c.frame_id}"
            )
            lines.append(f"    {c.image_topic}")
        lines.append(f"LiDAR: {len(self.lidars)}")
        for sensor in self.lidars:
            lines.append(
                f"  {sensor.topic}: {sensor.sweeps} sweeps at {sensor.rate_hz:.1f} Hz, {sensor.points} points "
                f"({', '.join(sensor.fields)}), frame {sensor.frame_id}"
            )
        lines += ["transforms:", *_draw_tree(self.edges)]
        for topic in self.odometry_topics:
            lines.append(f"odometry: {topic}" + (", with the ego poses" if topic == self.odometry_topic else ""))
        if self.driven is not None:
            lines.append(f"driven: {self.driven:.1f} m")
        for purpose, missing in (("run", self.missing_to_run), ("train", self.missing_to_run + self.missing_to_train)):
            lines.append(f"ready to {purpose}: {'no' if missing else 'yes'}")
        lines += [f"  - {sentence}" for sentence in self.missing_to_run + self.missing_to_train]
        return "\n".join(lines)


def bag_info(path: str | Path, base_frame: str = "base_link", fixed_frame: str = "odom") -> BagInfo:
    """Look through a bag. Raises `DataError` for a bag that cannot be read at all (see `open_bag`)."""
    with bags.open_bag(path) as bag:
        stamps = _stamps(bag)
        problems: list[str] = []
        cameras = _cameras(bag, stamps, problems)
        odometry_topic = _odometry_topic(bag, base_frame, fixed_frame, problems)
        assembler = FrameAssembler(
            AssemblerConfig(
                tuple(bag.cameras) or ("none",),
                base_frame=base_frame,
                fixed_frame=fixed_frame,
                tf_duration=WHOLE_RECORDING,
            )
        )
        edges = _transforms(bag, odometry_topic, assembler, problems)
        tree = _Placement(assembler.poses, base_frame, fixed_frame)
        for camera in cameras:
            tree.check(
                base_frame, camera.frame_id, stamps[camera.image_topic], f"{camera.name} cannot be placed", problems
            )
        problems += _shared_frames(cameras)
        driven = None
        if cameras:
            driven = tree.drive(stamps[cameras[0].image_topic], problems)
        lidars = tuple(_lidar(bag, topic, stamps[topic]) for topic in bag.lidar_topics)
        times = [t for values in stamps.values() for t in values]
        return BagInfo(
            path=Path(path),
            seconds=(max(times) - min(times)) * 1e-9 if times else 0.0,
            messages=sum(c.msgcount for c in bag.connections),
            cameras=cameras,
            lidars=lidars,
            edges=edges,
            odometry_topics=tuple(bag.odometry_topics),
            odometry_topic=odometry_topic,
            driven=driven,
            missing_to_run=tuple(problems),
            missing_to_train=tuple(_training_problems(cameras, driven)),
        )


def _lens(calibration: Calibration) -> str:
    if calibration.fisheye:
        degrees = np.degrees(calibration.width / calibration.K[0, 0])
        return f"fisheye (equidistant) of about {degrees:.0f} degrees"
    return calibration.distortion_model if calibration.D.any() else "no distortion"


def _stamps(bag: bags.Bag) -> dict[str, list[int]]:
    """Header stamps (ns) by topic, of images and point clouds."""
    topics = bag.topics(bags.IMAGE, bags.COMPRESSED, bags.POINTS)
    out: dict[str, list[int]] = {topic: [] for topic in topics}
    for topic, _, message in bag.raw(topics):
        out[topic].append(bags.stamp_ns(message.header))
    return out


def _cameras(bag: bags.Bag, stamps: Mapping[str, list[int]], problems: list[str]) -> tuple[CameraSummary, ...]:
    used = {camera.image_topic for camera in bag.cameras.values()}
    alone = [t for t in bag.topics(bags.IMAGE, bags.COMPRESSED) if t not in used and not _beside(t, bag)]
    problems += [
        f"images on {topic} have no camera_info beside them: record {topic.rpartition('/image')[0]}/camera_info"
        for topic in alone
    ]
    if not bag.cameras:
        problems.append("no camera: images and camera_info of at least one are needed")
    out = []
    for camera in bag.cameras.values():
        _, _, message = next(bag.raw([camera.info_topic]))
        try:
            calibration = bags.calibration(message, camera.info_topic, camera.rectified)
        except DataError as error:
            problems.append(str(error))
            continue
        times = stamps[camera.image_topic]
        out.append(
            CameraSummary(
                camera.name, camera.image_topic, message.header.frame_id, len(times), _rate(times), calibration
            )
        )
    return tuple(out)


def _beside(topic: str, bag: bags.Bag) -> bool:
    """Another topic of a camera that has a camera_info, such as its raw images beside the compressed ones."""
    return any(topic.startswith(camera.info_topic.removesuffix("camera_info")) for camera in bag.cameras.values())


def _lidar(bag: bags.Bag, topic: str, times: Sequence[int]) -> LidarSummary:
    _, _, message = next(bag.raw([topic]))
    points = pointcloud.to_structured(message, topic)
    return LidarSummary(
        topic, message.header.frame_id, len(times), _rate(times), len(points), tuple(points.dtype.names or ())
    )


def _odometry_topic(bag: bags.Bag, base_frame: str, fixed_frame: str, problems: list[str]) -> str:
    try:
        return choose_odometry(bag, "", base_frame, fixed_frame)
    except DataError as error:
        problems.append(str(error))
        return ""


def _transforms(bag: bags.Bag, odometry_topic: str, assembler: FrameAssembler, problems: list[str]) -> tuple[Edge, ...]:
    """All transforms and odometry into the assembler; the transforms as edges."""
    stamps: dict[tuple[str, str, bool], list[int]] = defaultdict(list)
    odometry = bag.odometry(odometry_topic) if odometry_topic else ()
    for message in chain(bag.transforms(), odometry):
        if isinstance(message, bags.TransformMessage):
            stamps[message.parent, message.child, message.static].append(message.stamp_ns)
        try:
            feed(assembler, message)
        except PoseError as error:
            if str(error) not in problems:
                problems.append(str(error))
    return tuple(Edge(*key, len(times), 0.0 if key[2] else _rate(times)) for key, times in sorted(stamps.items()))


@dataclass(frozen=True)
class _Placement:
    """Asks the tree of transforms for the ego vehicle and its sensors."""

    poses: PoseBuffer
    base_frame: str
    fixed_frame: str

    def check(self, target: str, source: str, stamps: Sequence[int], what: str, problems: list[str]) -> None:
        """Note a problem if `source` has no place in `target` in the middle of the recording."""
        try:
            self.poses.lookup(target, source, stamps[len(stamps) // 2])
        except PoseError as error:
            problems.append(f"{what}: {error}")

    def drive(self, stamps: Sequence[int], problems: list[str]) -> float | None:
        """Length (m) of the ego vehicle's path at the images' stamps; None and a problem if it has none."""
        positions, missing, reason = [], 0, ""
        for stamp in stamps:
            try:
                positions.append(self.poses.lookup(self.fixed_frame, self.base_frame, stamp, extrapolate=True)[:3, 3])
            except PoseError as error:
                missing, reason = missing + 1, str(error)
        if missing:
            problems.append(f"{missing} of {len(stamps)} image sets have no ego pose: {reason}")
        if len(positions) < 2:
            return None
        return float(np.linalg.norm(np.diff(positions, axis=0), axis=1).sum())


def _training_problems(cameras: Sequence[CameraSummary], driven: float | None) -> list[str]:
    """What keeps a bag that can be run from being trained on."""
    slow = [f"{c.name} ({c.rate_hz:.1f} Hz)" for c in cameras if c.rate_hz * MAX_FRAME_INTERVAL < 1]
    out = []
    if slow:
        out.append(
            f"too few images a second for training: {', '.join(slow)}; expected {1 / MAX_FRAME_INTERVAL:g} Hz or more"
        )
    if driven is not None and driven < MIN_TRAINING_DISTANCE:
        out.append(
            f"the vehicle drives only {driven:.1f} m, expected {MIN_TRAINING_DISTANCE:g} m or more: geometry is learnt "
            "from parallax"
        )
    return out


def _rate(stamps: Sequence[int]) -> float:
    """Median rate in Hz."""
    gaps = np.diff(np.unique(stamps))
    return 1e9 / float(np.median(gaps)) if len(gaps) else 0.0


def _shared_frames(cameras: Sequence[CameraSummary]) -> list[str]:
    """A sentence for each frame that is that of several cameras."""
    names = defaultdict(list)
    for camera in cameras:
        names[camera.frame_id].append(camera.name)
    return [
        f"{' and '.join(group)} have the same frame '{frame}', so they would sit at one place: set a frame_id of its own "
        "for each in the cameras' drivers"
        for frame, group in names.items()
        if len(group) > 1
    ]


def _draw_tree(edges: Sequence[Edge]) -> list[str]:
    """The tree of frames, indented by depth."""
    children = defaultdict(list)
    for edge in edges:
        children[edge.parent].append(edge)
    below = {edge.child for edge in edges}

    def draw(frame: str, note: str, depth: int, path: tuple[str, ...]) -> list[str]:
        lines = [f"{'  ' * depth}{frame}{note}"]
        for edge in () if frame in path else children[frame]:
            kind = "static" if edge.static else f"{edge.count} at {edge.rate_hz:.1f} Hz"
            lines += draw(edge.child, f" ({kind})", depth + 1, (*path, frame))
        return lines

    roots = sorted({edge.parent for edge in edges} - below) or sorted({edge.parent for edge in edges})[:1]
    return [line for root in roots for line in draw(root, "", 1, ())] or ["  none"]
