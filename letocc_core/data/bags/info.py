"""What a bag holds, and what it lacks for running the model on it or for training one from it.

Nothing is promised by names alone: an image of each camera is decoded, and seconds go through the assembler of the live
node; which of the others lack a camera or a pose, the stamps say.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from letocc_core.data.bags import pointcloud
from letocc_core.data.bags import reader as bags
from letocc_core.data.bags.recording import (
    MAX_SWEEP_AGE,
    WENT_BACK,
    WHOLE_RECORDING,
    choose_lidar,
    choose_odometry,
    feed,
    of_one_clock,
)
from letocc_core.errors import DataError, PoseError, counted, show
from letocc_core.geometry import lens
from letocc_core.geometry.body_masks import load as load_masks
from letocc_core.geometry.calibration import off_centre
from letocc_core.stream.assembler import AssemblerConfig, FrameAssembler
from letocc_core.stream.synchronizer import RESTART_AFTER, ImageSet, Synchronizer
from letocc_core.stream.topics import ROOT, CameraTopics, image_of, name_of
from letocc_core.stream.types import Calibration, FrameSet

MIN_TRAINING_DISTANCE = 5.0  # m that the ego vehicle should drive: geometry is learned from parallax
MAX_FRAME_INTERVAL = 0.5  # s between images of a camera that training can still relate
TRIED = 3.0  # s that go through the assembler, from where all cameras have begun and there are poses
LOOKED_AT = 10.0  # s from the first image on whose stamps say which slop a recording needs
MOST = 0.9  # share of image sets that should be complete
SLOP_STEP = 0.005  # s, to which a slop is rounded up
MOST_OF_A_PERIOD = 0.6  # between two images of the anchor, that a slop may be
APART = 1.0  # s by which a camera may begin later or end earlier than the others without a word
TURNED = 0.5  # degrees by which images may be rectified without a word
SAME_PLACE = 1e-3  # m, and difference of directions, within which two transforms are the same
MAX_SPEED = 100.0  # m/s of the ego vehicle; faster, its pose jumps
STEEP = 0.7  # of a unit vector, that points this much up


@dataclass(frozen=True)
class CameraSummary:
    """One camera of a bag."""

    name: str
    image_topic: str
    info_topic: str
    frame_id: str
    images: int
    rate_hz: float  # images a second; 0 with fewer than two
    offset: float  # s, median distance of its images from the nearest of the anchor camera
    calibration: Calibration
    rectified: bool


@dataclass(frozen=True)
class LidarSummary:
    """One point cloud topic of a bag."""

    topic: str
    frame_id: str
    sweeps: int
    rate_hz: float
    points: int  # of the first sweep that has any
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
class Grouping:
    """What the live assembler makes of some seconds, once all cameras and the poses have begun."""

    seconds: float
    sets: int
    complete: int  # of these, with an image of every camera
    slop: float  # s
    dropped: tuple[str, ...]  # a sentence a reason


@dataclass(frozen=True)
class BagInfo:
    """Summary of a bag; `str()` gives the report."""

    path: Path
    seconds: float
    messages: int
    cameras: tuple[CameraSummary, ...]
    lidars: tuple[LidarSummary, ...]
    lidar_topic: str  # of which training and evaluation take the sweeps; empty: none
    edges: tuple[Edge, ...]
    odometry_topics: tuple[str, ...]
    odometry_topic: str  # from which the ego poses come; empty: from /tf
    driven: float | None  # m along the path of the base frame; None without poses
    grouping: Grouping | None  # None without cameras
    left_out: Mapping[str, str]  # topics that are not used, and why
    notes: tuple[str, ...]  # what to look at, though nothing is missing
    missing_to_run: tuple[str, ...]  # each a sentence with the remedy
    missing_to_train: tuple[str, ...]  # besides those

    def __str__(self) -> str:
        lines = [f"{show(self.path)}: {self.seconds:.1f} s, {self.messages} messages", ""]
        lines.append(f"cameras: {len(self.cameras)}")
        for c in self.cameras:
            size = f"{c.calibration.width} x {c.calibration.height}"
            apart = f", {1e3 * c.offset:+.0f} ms from {self.cameras[0].name}" if abs(c.offset) >= 1e-3 else ""
            lines.append(
                f"  {c.name}: {c.images} images of {size} at {c.rate_hz:.1f} Hz, {_lens(c)}, frame {c.frame_id}{apart}"
            )
            lines.append(f"    {c.image_topic} with {c.info_topic}")
        lines.append(f"LiDAR: {len(self.lidars)}")
        for sensor in self.lidars:
            used = ", used" if sensor.topic == self.lidar_topic and len(self.lidars) > 1 else ""
            lines.append(
                f"  {sensor.topic}: {sensor.sweeps} sweeps at {sensor.rate_hz:.1f} Hz, {sensor.points} points "
                f"({', '.join(sensor.fields)}), frame {sensor.frame_id}{used}"
            )
        if self.left_out:
            lines.append("left out:")
            lines += [f"  {topic}: {reason}" for topic, reason in self.left_out.items()]
        lines += ["transforms:", *_draw_tree(self.edges)]
        for topic in self.odometry_topics:
            lines.append(f"odometry: {topic}" + (", with the ego poses" if topic == self.odometry_topic else ""))
        if self.driven is not None:
            lines.append(f"driven: {self.driven:.1f} m")
        if (g := self.grouping) is not None:
            lines.append(
                f"image sets of {g.seconds:.1f} s: {g.sets}, {g.complete} with all of {counted(len(self.cameras), 'camera')} "
                f"(slop {g.slop:g} s)"
            )
            lines += [f"  {sentence}" for sentence in g.dropped]
        lines += [f"note: {sentence}" for sentence in self.notes]
        for purpose, missing in (("run", self.missing_to_run), ("train", self.missing_to_run + self.missing_to_train)):
            lines.append(f"ready to {purpose}: {'no' if missing else 'yes'}")
        lines += [f"  - {sentence}" for sentence in self.missing_to_run + self.missing_to_train]
        return "\n".join(lines)


def bag_info(
    path: str | Path,
    cameras: Sequence[str] = (),
    base_frame: str = "base_link",
    fixed_frame: str = "odom",
    odometry_topic: str = "",
    lidar_topic: str = "",
    slop: float = AssemblerConfig.slop,
    body_masks: str | Path | None = None,
) -> BagInfo:
    """Look through a bag; the arguments are those of `Recording`.

    Raises `DataError` for a bag that cannot be read at all (see `open_bag`).
    """
    with bags.open_bag(path) as bag:
        look = _Look(bag)
        chosen = look.tried(lambda: bag.choose_cameras(cameras)) or ()
        odometry = look.tried(lambda: choose_odometry(bag, odometry_topic, base_frame, fixed_frame))
        lidar = look.tried(lambda: choose_lidar(bag, lidar_topic)) or ""
        stamps = look.stamps(bag.topics(bags.IMAGE, bags.COMPRESSED, bags.POINTS))
        found = look.cameras(chosen, stamps)
        config = AssemblerConfig(
            tuple(c.name for c in found) or ("none",),
            base_frame=base_frame,
            fixed_frame=fixed_frame,
            slop=slop,
            tf_duration=WHOLE_RECORDING,
            odometry=bool(odometry),
        )
        assembler = FrameAssembler(config)
        edges = look.transforms(odometry or "", assembler)
        tree = _Placement(assembler, look)
        for camera in found:
            tree.check(camera, stamps[camera.image_topic])
        look.shared_frames(found)
        if body_masks and found:
            look.masks(found, body_masks)
        driven: float | None = None
        grouping: Grouping | None = None
        if found and odometry is not None:  # else there is no saying which pose counts
            driven, posed_ns = tree.drive(look.forward(stamps[found[0].image_topic], found[0].image_topic))
            begin_ns = max(posed_ns, look.span(found, stamps))
            grouping = look.group(found, config, odometry, stamps, begin_ns)
        look.unpaired(chosen)
        look.without_images(chosen)
        look.heard(found)
        lidars = tuple(_lidar(bag, topic, stamps[topic]) for topic in bag.lidar_topics)
        used = next((sensor for sensor in lidars if sensor.topic == lidar), None)
        anchor_stamps = stamps[found[0].image_topic] if found else []
        lost = [tree.sweeps(used, stamps[lidar], anchor_stamps)] if used and anchor_stamps else []
        times = [t for values in stamps.values() for t in values]
        return BagInfo(
            path=Path(path),
            seconds=(max(times) - min(times)) * 1e-9 if times else 0.0,
            messages=sum(c.msgcount for c in bag.connections),
            cameras=found,
            lidars=lidars,
            lidar_topic=lidar,
            edges=edges,
            odometry_topics=tuple(bag.odometry_topics),
            odometry_topic=odometry or "",
            driven=driven,
            grouping=grouping,
            left_out=bag.skipped | _without(bag.no_pictures, chosen) | bag.no_lidars | bag.no_transforms,
            notes=tuple(look.notes + list(bag.remarks)),
            missing_to_run=tuple(dict.fromkeys(look.problems)),
            missing_to_train=(*_training_problems(found, driven), *filter(None, lost)),
        )


def slop_for(path: str | Path, image_topics: Sequence[str], slop: float = AssemblerConfig.slop) -> float:
    """The slop (s) that groups images of these topics, the first of which is the anchor, by the stamps of the first seconds:
    `slop`, or the larger one that `bag_info` would name, if it makes more sets complete.

    Topics that the bag lacks do not count. Raises `DataError` for a bag that cannot be read at all.
    """
    times: dict[str, list[int]] = {topic: [] for topic in image_topics}
    with bags.open_bag(path) as bag:
        first = None
        for topic, received_ns, message in bag.received(image_topics):
            first = received_ns if first is None else first
            if received_ns > first + LOOKED_AT * 1e9:
                break
            times[topic].append(bags.stamp_ns(message.header))
    times = {topic: stamps for topic, stamps in times.items() if stamps}
    anchor, *others = times or [""]
    if not others or anchor != image_topics[0]:
        return slop
    wanted = _slop_around(anchor, times)
    rate = _rate(times[anchor])
    groups = rate and wanted < MOST_OF_A_PERIOD / rate
    more = groups and wanted > slop and _complete(times, tuple(times), wanted) > _complete(times, tuple(times), slop)
    return wanted if more else slop


def _without(no_pictures: Mapping[str, str], chosen: Sequence[CameraTopics]) -> dict[str, str]:
    used = {camera.image_topic for camera in chosen}
    return {topic: reason for topic, reason in no_pictures.items() if topic not in used}


def _sensor(message: Any) -> str:
    """What of a `camera_info` makes its image smaller than the size that it names."""
    roi = message.roi
    causes = [f"a region of {roi.width} x {roi.height} px"] * bool(roi.width and roi.height)
    if max(message.binning_x, message.binning_y) > 1:
        causes.append(f"a binning of {message.binning_x} x {message.binning_y}")
    return f" (it says {message.width} x {message.height} px with {' and '.join(causes)})" if causes else ""


def _turned(message: Any) -> float:
    """Degrees by which R of a `camera_info` turns the rectified image; 0 where it is not filled."""
    cosine = (np.trace(np.reshape(getattr(message, "r", getattr(message, "R", np.eye(3))), (3, 3))) - 1) / 2
    return float(np.degrees(np.arccos(np.clip(cosine, -1, 1)))) if cosine > -0.5 else 0.0


def _lens(camera: CameraSummary) -> str:
    fisheye = camera.calibration.fisheye
    return "rectified" if camera.rectified and not fisheye else lens.describe(camera.calibration)


class _Look:
    """Goes through a bag and keeps what is wrong with it.

    Attributes:
        problems: sentences; each keeps the bag from being run.
        notes: sentences about what may be right.
    """

    def __init__(self, bag: bags.Bag):
        self.bag = bag
        self.problems: list[str] = []
        self.notes: list[str] = []

    def tried(self, call):
        """What a call gives; None and a problem if it cannot."""
        try:
            return call()
        except DataError as error:
            self.problems.append(str(error))
            return None

    def stamps(self, topics: Sequence[str]) -> dict[str, list[int]]:
        """Header stamps (ns) by topic, of what can be read and has one."""
        out: dict[str, list[int]] = {topic: [] for topic in topics}
        damaged: Counter[str] = Counter()
        empty: Counter[str] = Counter()
        for topic, message in self.bag.readable(topics, lambda topic, error: damaged.update([topic])):
            if (stamp := bags.stamp_ns(message.header)) > 0:
                out[topic].append(stamp)
            else:
                empty[topic] += 1
        self.notes += [f"{topic}: {count} damaged messages are left out" for topic, count in damaged.items()]
        self.notes += [
            f"{topic}: {count} of {count + len(out[topic])} messages are stamped 0 ns and left out; its publisher must fill "
            "header.stamp"
            for topic, count in empty.items()
        ]
        return out

    def forward(self, stamps: Sequence[int], topic: str) -> list[int]:
        """Stamps (ns) that are newer than all before them; a note where time began anew."""
        newest = np.maximum.accumulate(np.asarray(stamps, np.int64))
        back = newest - np.asarray(stamps, np.int64)
        if len(back) and back.max() > RESTART_AFTER * 1e9:
            first = int(np.argmax(back > RESTART_AFTER * 1e9))
            self.notes.append(
                f"{topic}: after {first} images time goes back by {back[first] * 1e-9:.1f} s; {WENT_BACK}"
            )
        return [] if not len(newest) else [int(newest[0]), *newest[1:][np.diff(newest) > 0].tolist()]

    def span(self, cameras: Sequence[CameraSummary], stamps: Mapping[str, list[int]]) -> int:
        """When (ns) the last of the cameras begins, if late; 0 if one has ended by then. A note for each that begins late or ends early."""
        times = {c.name: stamps[c.image_topic] for c in cameras}
        begins = {name: min(of_name) for name, of_name in times.items()}
        ends = {name: max(of_name) for name, of_name in times.items()}
        last = max(begins.values())
        if last >= min(ends.values()):
            return 0
        for name in times:
            late, early = begins[name] - min(begins.values()), max(ends.values()) - ends[name]
            if late > APART * 1e9:
                self.notes.append(
                    f"{name} begins {late * 1e-9:.1f} s after the others; the image sets before go on without it"
                )
            if early > APART * 1e9:
                self.notes.append(
                    f"{name} ends {early * 1e-9:.1f} s before the others; the image sets after go on without it"
                )
        return last if last - min(begins.values()) > APART * 1e9 else 0

    def cameras(self, chosen: Sequence[CameraTopics], stamps: Mapping[str, list[int]]) -> tuple[CameraSummary, ...]:
        """Those whose images and intrinsics can be used."""
        found: list[CameraSummary] = []
        for topics in chosen:
            summary = self._camera(topics, stamps, found[0].image_topic if found else topics.image_topic)
            if summary is not None:
                found.append(summary)
        return tuple(found)

    def masks(self, cameras: Sequence[CameraSummary], folder: str | Path) -> None:
        """Whether those of the vehicle's own body fit the images."""
        found = self.tried(lambda: load_masks(folder, [c.name for c in cameras]))
        sizes = {c.name: (c.calibration.width, c.calibration.height) for c in cameras}
        for name, mask in (found or {}).items():
            height, width = mask.shape
            if (width, height) != sizes[name]:
                self.problems.append(
                    f"{name}: its mask in {show(folder)} is of {width} x {height} px, but its camera_info is of "
                    f"{sizes[name][0]} x {sizes[name][1]} px; compute it again: letocc bag mask"
                )
            self.notes.append(f"{name}: {mask.mean():.1%} of the image is masked as the vehicle itself")

    def _camera(self, topics: CameraTopics, stamps: Mapping[str, list[int]], anchor: str) -> CameraSummary | None:
        name, times = topics.name, stamps[topics.image_topic]
        message = next((m for _, m in self.bag.readable([topics.info_topic])), None)
        image, frame_id = self._image(topics)
        if message is None or image is None or not times:
            if message is None:
                self.problems.append(f"{name}: no message on {topics.info_topic} can be read")
            elif image is not None:
                self.problems.append(
                    f"{name}: no image on {topics.image_topic} has a stamp; its publisher must fill header.stamp"
                )
            return None
        if frame_id.strip("/") != message.header.frame_id.strip("/"):
            self.notes.append(
                f"{name}: its images are in frame '{frame_id}', its camera_info in '{message.header.frame_id}', which counts"
            )
        if topics.rectified and (turned := _turned(message)) > TURNED:
            self.notes.append(
                f"{name}: its images are rectified by a rotation of {turned:.1f} degrees (R of camera_info); its frame "
                f"'{message.header.frame_id}' must be that of the rectified images"
            )
        calibration = self.tried(lambda: bags.calibration(message, topics.info_topic, topics.rectified))
        if calibration is None:
            return None
        height, width = image.shape[:2]
        if (width, height) != (calibration.width, calibration.height):
            self.problems.append(
                f"{name}: images on {topics.image_topic} are of {width} x {height} px, but {topics.info_topic} is of "
                f"{calibration.width} x {calibration.height} px{_sensor(message)}; they must describe the same image: correct the driver, "
                "or record the camera_info that belongs to these images"
            )
        if (sentence := off_centre(calibration)) is not None:
            self.notes.append(f"{name}: {sentence}")
        depth = str(self.bag.bit_depths[topics.image_topic])
        self.notes += [f"{name}: {depth}"] if depth else []
        if name == ROOT:
            theirs = (topics.image_topic, topics.info_topic)
            self.notes.append(
                f"{name}: its topics lie in no namespace; a node hears them under this name: --ros-args "
                + " ".join(f"-r {name}{topic}:={topic}" for topic in theirs)
            )
        return CameraSummary(
            name,
            topics.image_topic,
            topics.info_topic,
            message.header.frame_id,
            len(times),
            _rate(times),
            _offset(times, stamps[anchor]),
            calibration,
            topics.rectified,
        )

    def _image(self, topics: CameraTopics) -> tuple[np.ndarray | None, str]:
        """The first image that can be decoded, and its frame; a problem if there is none."""
        first = None
        for topic, message in self.bag.readable([topics.image_topic]):
            try:
                return self.bag.picture(topic, message), message.header.frame_id
            except DataError as error:
                first = first or error
        self.problems.append(f"{topics.name}: {first or f'no image on {topics.image_topic} can be read'}")
        return None, ""

    def unpaired(self, chosen: Sequence[CameraTopics]) -> None:
        """Say which images have no camera_info, and which belong to a camera of which others are taken."""
        images = [t for t in self.bag.topics(bags.IMAGE, bags.COMPRESSED) if t not in self.bag.no_pictures]
        known = {camera.image_topic: camera for camera in [*self.bag.cameras.values(), *chosen]}
        beside = {camera.name: image for image, camera in known.items()}
        for topic in images:
            namespace = image_of(topic).rpartition("/")[0]
            name = name_of(namespace)
            if topic in known:
                continue
            if name in beside:
                if image_of(topic) != image_of(beside[name]):
                    self.notes.append(f"images on {topic} are not used: those on {beside[name]} are")
                continue
            self.problems.append(
                f"images on {topic} have no camera_info beside them: record {namespace.rstrip('/')}/camera_info"
            )
        for topic, kind in self.bag.videos.items():
            self.problems.append(f"{topic}: {kind}")
        if not chosen and not self.problems:
            self.problems.append("no camera: images and camera_info of at least one are needed")

    def without_images(self, chosen: Sequence[CameraTopics]) -> None:
        """Say which cameras have a camera_info and nothing else."""
        kinds = (bags.IMAGE, bags.COMPRESSED, *bags.VIDEOS, bags.THEORA)
        used = {topic.rpartition("/")[0] for topic in (c.info_topic for c in chosen)}
        seen = {image_of(topic).rpartition("/")[0] for topic in self.bag.topics(*kinds)} | used
        for topic in self.bag.topics(bags.CAMERA_INFO):
            namespace = topic.rpartition("/")[0]
            if namespace not in seen and not any(other.startswith(f"{namespace}/") for other in seen):
                self.notes.append(
                    f"{name_of(namespace)} has {topic} but no image: does its camera run, and was it recorded?"
                )

    def heard(self, cameras: Sequence[CameraSummary]) -> None:
        """Say which parameters a node needs to hear images and transforms of other names than it does by itself."""
        used = [t for t in self.bag.topics(*bags.TRANSFORMS) if t not in self.bag.no_transforms]
        remaps = [
            f"-r /{end}:={t}"
            for t in used
            for end in ("tf", "tf_static")
            if f"/{end}" not in used and t.endswith(f"/{end}")
        ]
        if remaps:
            self.notes.append(f"a node hears these transforms with --ros-args {' '.join(remaps)}")
        compressed = self.bag.topics(bags.COMPRESSED)
        names = {c.image_topic: c.name for c in cameras if c.name != ROOT}
        ends = {topic: topic.removeprefix(f"/{name}/") for topic, name in names.items()}
        found = {(end.removesuffix("/compressed"), topic in compressed) for topic, end in ends.items()}
        apart = [
            t for t, end in ends.items() if "/" in end.removesuffix("/compressed")
        ]  # no image just below its camera
        apart += [t for t in ends if t.endswith("/compressed") != (t in compressed) or ends[t] == "compressed"]
        if len(found) > 1 or apart:
            which = ", ".join(dict.fromkeys(apart)) or "those of the others"
            self.notes.append(f"a node hears CAMERA/image_raw/compressed, one name for all cameras; remap {which}")
            return
        for image, small in found:
            needs = [f"image_topic:={image}"] * (image != "image_raw") + ["transport:=raw"] * (not small)
            self.notes += [f"a node hears these images with {' '.join(needs)}"] if needs else []

    def shared_frames(self, cameras: Sequence[CameraSummary]) -> None:
        """Two cameras of one frame would sit at one place."""
        names = defaultdict(list)
        for camera in cameras:
            names[camera.frame_id].append(camera.name)
        self.problems += [
            f"{' and '.join(group)} have the same frame '{frame}', so they would sit at one place: set a frame_id of its "
            "own for each in the cameras' drivers, or, if they are images of one camera, leave one out: --cameras NAME,NAME"
            for frame, group in names.items()
            if len(group) > 1
        ]

    def transforms(self, odometry_topic: str, assembler: FrameAssembler) -> tuple[Edge, ...]:
        """All transforms and odometry into the assembler; the transforms as edges."""
        stamps: dict[tuple[str, str, bool], list[int]] = defaultdict(list)
        fixed: dict[tuple[str, str], np.ndarray] = {}
        moved: set[tuple[str, str]] = set()
        damaged: list[DataError] = []
        odometry = self.bag.odometry(odometry_topic, damaged.append) if odometry_topic else ()
        for message in of_one_clock(chain(self.bag.transforms(damaged=damaged.append), odometry)):
            if isinstance(message, bags.TransformMessage):
                frames = (message.parent, message.child)
                stamps[message.parent, message.child, message.static].append(message.stamp_ns)
                if message.static and np.abs(message.T - fixed.setdefault(frames, message.T)).max() > SAME_PLACE:
                    moved.add(frames)
            try:
                feed(assembler, message)
            except PoseError as error:
                self.problems.append(str(error))
        self.notes += [
            f"the constant transform from '{child}' to '{parent}' was sent with different values, of which the latest counts: "
            "find the publisher that is wrong"
            for parent, child in sorted(moved)
        ]
        if damaged:
            self.notes.append(f"{len(damaged)} transforms or poses are left out, the first one: {damaged[0]}")
        self._two_parents(stamps, assembler.config)
        return tuple(Edge(*key, len(times), 0.0 if key[2] else _rate(times)) for key, times in sorted(stamps.items()))

    def _two_parents(self, edges: Mapping[tuple[str, str, bool], list[int]], config: AssemblerConfig) -> None:
        parents = defaultdict(set)
        for parent, child, _ in edges:
            if not (config.odometry and child == config.base_frame):  # of which odometry alone knows the place
                parents[child].add(parent)
        self.problems += [
            f"'{child}' has several parents, {' and '.join(sorted(names))}, of which only the latest can count: find the "
            "publisher that is wrong, or choose odometry for the ego poses: --odometry-topic TOPIC"
            for child, names in parents.items()
            if len(names) > 1
        ]

    def group(
        self,
        cameras: Sequence[CameraSummary],
        config: AssemblerConfig,
        odometry_topic: str,
        stamps: Mapping[str, list[int]],
        begin_ns: int,
    ) -> Grouping:
        """Some seconds from a stamp on through the live assembler; a problem for each camera that never joins."""
        assembler = FrameAssembler(config)
        sets: list[FrameSet] = []
        details: dict[tuple[str, str | None], list[str]] = {}
        first = last = None

        def take(items: list) -> None:
            for item in items:
                if isinstance(item, FrameSet):
                    sets.append(item)
                else:
                    details.setdefault((item.reason, item.camera), []).append(item.detail)

        for message in self.bag.messages(
            config.cameras,
            odometry_topic=odometry_topic,
            damaged=lambda error: details.setdefault(("unreadable", None), []).append(str(error)),
        ):
            if isinstance(message, bags.ImageMessage):
                if message.stamp_ns < begin_ns - config.slop * 1e9:
                    continue
                first = message.stamp_ns if first is None else first
                if message.stamp_ns > first + TRIED * 1e9:
                    break
                last = message.stamp_ns
            try:
                feed(assembler, message)
            except DataError:  # named by the look at transforms and cameras
                continue
            take(assembler.poll())
        take(assembler.flush())
        joined = Counter(
            name for item in sets for name, image in zip(config.cameras, item.images, strict=True) if image is not None
        )
        complete = sum(all(image is not None for image in item.images) for item in sets)
        self._judge(cameras, config, stamps, joined, len(sets), complete, details)
        dropped = tuple(f"{len(texts)} x {reason}: {texts[0]}" for (reason, _), texts in details.items())
        lasted = 0.0 if first is None or last is None else (last - first) * 1e-9
        return Grouping(lasted, len(sets), complete, config.slop, dropped)

    def _judge(
        self,
        cameras: Sequence[CameraSummary],
        config: AssemblerConfig,
        stamps: Mapping[str, list[int]],
        joined: Mapping[str, int],
        sets: int,
        complete: int,
        details: Mapping[tuple[str, str | None], list[str]],
    ) -> None:
        if not sets and self.problems:  # which say why
            return
        if not sets:
            reasons = "; ".join(texts[0] for texts in details.values()) or "no camera has an image"
            self.problems.append(f"no image set of the first {TRIED:g} s can be used: {reasons}")
            return
        never = [c for c in cameras if not joined.get(c.name)]
        apart = [c for c in never if ("unmatched", c.name) in details]
        if apart or (complete < MOST * sets and any(abs(c.offset) > config.slop for c in cameras)):
            self.problems.append(
                _apart(apart or [c for c in cameras if abs(c.offset) > config.slop], cameras, config, stamps)
            )
        for camera in never:
            if camera not in apart:
                texts = [text for (_, name), found in details.items() if name == camera.name for text in found]
                why = texts[0] if texts else f"it has no image in the first {TRIED:g} s"
                self.problems.append(f"{camera.name} joins no image set: {why}")
        if not never and complete < MOST * sets:
            self.notes.append(f"only {complete} of {sets} image sets have all cameras; the others go on without")


def _apart(
    late: Sequence[CameraSummary],
    cameras: Sequence[CameraSummary],
    config: AssemblerConfig,
    stamps: Mapping[str, list[int]],
) -> str:
    """A sentence about cameras that do not fire together, with what would group them."""
    offsets = ", ".join(f"{c.name} {1e3 * c.offset:+.0f} ms" for c in late)
    text = f"cameras do not fire together: from {cameras[0].name}, {offsets}, with a slop of {config.slop:g} s; "
    times = {c.name: stamps[c.image_topic] for c in cameras}
    period = 1 / cameras[0].rate_hz if cameras[0].rate_hz else np.inf
    best = max(_candidates(times, period), key=lambda item: (item[2], -item[1]), default=None)
    if best is None or not best[2]:
        return (
            text
            + "no slop groups them: record them with one clock, or name those that fire together: --cameras NAME,NAME"
        )
    names, slop, complete = best
    first = "" if names[0] == cameras[0].name else f"--cameras {','.join(names)} "
    option = f"{first}--slop {slop:g}"
    keys = ("data.bag.cameras and " if first else "") + "data.bag.slop"
    return f"{text}{option} groups {complete} of {len(times[names[0]])} (in training {keys}, live the parameters of that name)"


def _candidates(times: Mapping[str, list[int]], period: float) -> list[tuple[tuple[str, ...], float, int]]:
    """For each camera as the anchor: names with it first, the slop (s) that takes in the others, complete sets with it."""
    out = []
    for anchor in times:
        names = (anchor, *(name for name in times if name != anchor))
        slop = _slop_around(anchor, times)
        if slop < MOST_OF_A_PERIOD * period:
            out.append((names, slop, _complete(times, names, slop)))
    return out


def _slop_around(anchor: str, times: Mapping[str, list[int]]) -> float:
    """The slop (s) that takes in nearly all stamps (ns) of the other cameras."""
    others = [stamps for name, stamps in times.items() if stamps and name != anchor]
    far = max((float(np.quantile(np.abs(_differences(stamps, times[anchor])), 0.95)) for stamps in others), default=0.0)
    return round(float(np.ceil((far + 0.001) / SLOP_STEP) * SLOP_STEP), 3)


def _complete(times: Mapping[str, list[int]], names: Sequence[str], slop: float) -> int:
    """Complete sets of these stamps."""
    synchronizer: Synchronizer[int] = Synchronizer(names, slop, camera_timeout=0)
    found = 0
    arrivals = [(stamp, camera) for camera in names for stamp in times[camera]]
    for stamp, camera in sorted(arrivals):
        synchronizer.add(camera, stamp, 0)
        found += _count_complete(synchronizer.poll())
    return found + _count_complete(synchronizer.flush())


def _count_complete(items: Sequence) -> int:
    return sum(isinstance(item, ImageSet) and None not in item.items for item in items)


def _lidar(bag: bags.Bag, topic: str, times: Sequence[int]) -> LidarSummary:
    for _, message in bag.readable([topic]):
        try:
            points = pointcloud.to_structured(message, topic)
        except DataError:
            continue
        if len(points):
            fields = tuple(points.dtype.names or ())
            return LidarSummary(topic, message.header.frame_id, len(times), _rate(times), len(points), fields)
    return LidarSummary(topic, "", len(times), _rate(times), 0, ())


@dataclass(frozen=True)
class _Placement:
    """Asks the tree of transforms for the ego vehicle and its sensors."""

    assembler: FrameAssembler
    look: _Look

    def check(self, camera: CameraSummary, stamps: Sequence[int]) -> None:
        """Note a problem if a camera has no place on the vehicle in the middle of the recording, or looks upwards."""
        if not stamps:
            return
        if not camera.frame_id.strip("/"):
            self.look.problems.append(
                f"{camera.name} cannot be placed: {camera.info_topic} names no frame; its driver must fill header.frame_id with "
                "the camera's optical frame"
            )
            return
        try:
            T = self.assembler.mount(camera.frame_id, stamps[len(stamps) // 2])
        except PoseError as error:
            self.look.problems.append(f"{camera.name} cannot be placed: {error}")
            return
        base = self.assembler.config.base_frame
        if T[2, 2] > STEEP:
            self.look.problems.append(
                f"{camera.name} would look up: the z axis of its frame '{camera.frame_id}' points up in {base}. It seems to "
                "be the camera's body frame (x forward); an optical frame has z forward, x right, y down: publish one "
                "and name it in the images' and camera_info's frame_id"
            )
        elif T[2, 1] > STEEP:
            self.look.problems.append(
                f"{camera.name} would stand on its head: the y axis of its frame '{camera.frame_id}' points up in {base}, and "
                "it is to point down in the image (z forward, x right); axes of another convention, such as y up and z "
                "backward, must be turned: correct the transform"
            )
        elif abs(T[2, 1]) < 1 - STEEP and T[2, 2] > -STEEP:
            self.look.notes.append(
                f"{camera.name} lies on its side: the y axis of its frame '{camera.frame_id}' is level in {base}; right for "
                "a camera that is mounted so, wrong if the transform is inverted"
            )

    def drive(self, stamps: Sequence[int]) -> tuple[float | None, int]:
        """Length (m) of the ego vehicle's path at the images' stamps, and the first of these (ns) with a pose.

        None and 0 where it has none. A problem if many have none, a note if some.
        """
        config = self.assembler.config
        positions, posed, missing, reason = [], [], 0, ""
        for stamp in stamps:
            try:
                position = self.assembler.ego_pose(stamp, extrapolate=True)[:3, 3]
                before, after = self.assembler.poses.around(config.fixed_frame, config.base_frame, stamp)
            except PoseError as error:
                missing, reason = missing + 1, str(error)
                continue
            if after > config.max_pose_wait and before > config.max_extrapolation:
                missing += 1
                reason = reason or f"{stamp} ns lies in a gap of {before + after:.1f} s between two transforms or poses"
                continue
            positions.append(position)
            posed.append(stamp)
        if missing:
            found = self.look.problems if missing > (1 - MOST) * len(stamps) else self.look.notes
            found.append(f"{missing} of {len(stamps)} image sets have no ego pose: {reason}")
        if len(positions) < 2:
            return None, posed[0] if posed else 0
        steps = np.linalg.norm(np.diff(positions, axis=0), axis=1)
        fastest = int(np.argmax(steps / (np.diff(posed) * 1e-9)))
        if steps[fastest] > MAX_SPEED * (posed[fastest + 1] - posed[fastest]) * 1e-9:
            self.look.notes.append(
                f"the ego pose jumps by {steps[fastest]:.1f} m between the images at {posed[fastest]} and {posed[fastest + 1]} ns: "
                "a localisation that corrects itself, or two publishers? Odometry, which drifts instead, suits better"
            )
        return float(steps.sum()), posed[0]

    def sweeps(self, lidar: LidarSummary, stamps: Sequence[int], images: Sequence[int]) -> str | None:
        """A sentence if the LiDAR can go with no image set."""
        near = np.sort(np.asarray(stamps, np.int64))[
            np.abs(_differences(stamps, images, inside=False)) <= MAX_SWEEP_AGE
        ]
        reason = f"none lies within {MAX_SWEEP_AGE:g} s of an image" if len(stamps) else "none has a stamp"
        if len(near):
            try:
                self.assembler.mount(lidar.frame_id, int(near[len(near) // 2]), extrapolate=True)
                return None
            except PoseError as error:
                reason = str(error)
        return f"no sweep of {lidar.topic} can be used: {reason}; mend that, or go on without it: data.bag.lidar=false"


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


def _offset(stamps: Sequence[int], anchor: Sequence[int]) -> float:
    """Median distance (s) of stamps from the nearest of the anchor's."""
    return float(np.median(_differences(stamps, anchor))) if len(stamps) and len(anchor) else 0.0


def _differences(stamps: Sequence[int], anchor: Sequence[int], inside: bool = True) -> np.ndarray:
    """s from the nearest of the anchor's stamps, of each stamp; `inside`: of those while the anchor runs, if any."""
    own, others = np.sort(np.asarray(stamps, np.int64)), np.sort(np.asarray(anchor, np.int64))
    if not len(others):
        return np.full(len(own), np.inf)
    meanwhile = own[(own >= others[0]) & (own <= others[-1])]
    own = meanwhile if inside and len(meanwhile) else own
    after = others.searchsorted(own).clip(max=len(others) - 1)
    before = (after - 1).clip(min=0)
    nearest = np.where(np.abs(own - others[before]) < np.abs(own - others[after]), others[before], others[after])
    return (own - nearest) * 1e-9


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
