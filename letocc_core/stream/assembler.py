"""Messages in, frame sets out: the one path from images, calibrations and transforms to `FrameSet`s.

The live node and the replay of bags both drive it, so both give the pipeline the same sets. It depends on the order of
the calls alone: no clock, no thread.
"""

import copy
from collections import Counter, deque
from dataclasses import dataclass

import numpy as np

from letocc_core.errors import CalibrationError, DataError, PoseError
from letocc_core.geometry import calibration as intrinsics
from letocc_core.geometry.body_masks import Masks
from letocc_core.stream.pose_buffer import PoseBuffer
from letocc_core.stream.synchronizer import Dropped, ImageSet, Reason, Synchronizer
from letocc_core.stream.types import Calibration, FrameSet


@dataclass(frozen=True)
class AssemblerConfig:
    """How messages become sets."""

    cameras: tuple[str, ...]  # camera names; a set is anchored on the first one that does not stay away
    base_frame: str = "base_link"  # ego frame: x forward, y left, z up, on the road
    fixed_frame: str = "odom"  # frame in which the world stands still
    slop: float = 0.02  # s, largest distance of an image's stamp from the anchor's
    max_wait: float = 0.1  # s of stamps that a set waits for missing cameras
    max_pose_wait: float = 0.2  # s of stamps that a set waits for its transforms and calibrations
    max_extrapolation: float = 0.05  # s that a transform may be extrapolated once the wait is over
    camera_timeout: float = 1.0  # s of stamps after which a camera without images is not waited for; 0: for ever
    require_all: bool = False  # drop sets in which a camera is missing, instead of going on without it
    tf_duration: float = 10.0  # s of transforms that are kept
    odometry: bool = (
        False  # poses come from odometry alone: what transforms say of the base frame's parent does not count
    )


@dataclass(frozen=True, eq=False)
class Arrival:
    """An image that waits for the others of its set."""

    image: np.ndarray  # uint8 RGB [h, w, 3]
    at: float | None = None  # s, when it came; see `FrameSet.arrived`


class FrameAssembler:
    """Frame sets out of single messages; every image ends up in a `FrameSet`, in a `Dropped`, or waits.

    A set waits for its calibrations and transforms for `max_pose_wait`. A camera that cannot be placed by then is left
    out of the set (with `require_all` the set is dropped); a set without a pose is dropped. Images that were taken
    within the slop but not at the set's stamp are placed where the ego vehicle was at their own stamp.
    """

    def __init__(self, config: AssemblerConfig, masks: Masks | None = None):
        """`masks`: of the vehicle's own body in the raw images, by camera; see `geometry.body_masks`."""
        self.config = config
        self._masks = tuple((masks or {}).get(camera) for camera in config.cameras) if masks else ()
        self.poses = PoseBuffer(config.tf_duration, config.max_extrapolation)
        self.emitted = 0  # sets given out
        self.dropped_sets: Counter[str] = Counter()  # by reason
        self.dropped_images: Counter[str] = Counter()  # by reason, single ones only
        self._synchronizer: Synchronizer[Arrival] = Synchronizer(
            config.cameras, config.slop, config.max_wait, config.camera_timeout, config.require_all
        )
        self._by_odometry = config.odometry
        self._mounts = PoseBuffer(config.tf_duration, config.max_extrapolation) if config.odometry else self.poses
        self._restarts = 0
        self._calibrations: dict[str, tuple[Calibration, str]] = {}
        self._queue: deque[ImageSet[Arrival]] = deque()
        self._out: list[FrameSet | Dropped] = []

    @property
    def received_images(self) -> int:
        """Images taken in so far."""
        return self._synchronizer.received

    @property
    def pending_images(self) -> int:
        """Images that wait for others, for calibrations or for transforms."""
        return self._synchronizer.pending + sum(_count(group) for group in self._queue)

    def add_image(self, camera: str, stamp_ns: int, image: np.ndarray, arrived: float | None = None) -> None:
        """Take in an image (uint8 RGB [h, w, 3]), and when it came (s, see `FrameSet.arrived`).

        Raises `DataError` for an unknown camera or another kind of array.
        """
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise DataError(f"{camera}: image is {image.dtype} {list(image.shape)}, expected uint8 [height, width, 3]")
        self._synchronizer.add(camera, stamp_ns, Arrival(image, arrived))
        if self._synchronizer.restarts != self._restarts:
            self._restarts = self._synchronizer.restarts
            self._take(self._synchronizer.poll())
            self._resolve(final=True)
            self.poses.forget_after(stamp_ns)
            self._mounts.forget_after(stamp_ns)
        self._take(self._synchronizer.poll())

    def add_calibration(self, camera: str, calibration: Calibration, frame_id: str) -> None:
        """Take in a camera's intrinsics and the name of its optical frame; the latest counts.

        Raises `CalibrationError` for intrinsics that no camera can have and for the frame of another camera, `DataError`
        for an unknown camera.
        """
        if camera not in self.config.cameras:
            raise DataError(f"camera_info of camera '{camera}', expected one of {', '.join(self.config.cameras)}")
        twin = next((c for c, (_, frame) in self._calibrations.items() if frame == frame_id and c != camera), None)
        if twin is not None:
            raise CalibrationError(
                f"camera_info of {camera}: its frame is '{frame_id}', as that of {twin} is, so both would sit at one place; "
                "expected a frame_id of its own for each: set them in the cameras' drivers"
            )
        known = self._calibrations.get(camera)
        if known is None or known[0] != calibration:
            intrinsics.validate(calibration, f"camera_info of {camera}")
        self._calibrations[camera] = (calibration, frame_id)

    def add_transform(self, parent: str, child: str, stamp_ns: int, T: np.ndarray, static: bool = False) -> None:
        """Take in a transform (child -> parent, [4, 4], m); see `PoseBuffer.set_transform`."""
        self._mounts.set_transform(parent, child, stamp_ns, T, static)
        if self._by_odometry and child.strip("/") != self.config.base_frame:
            self.poses.set_transform(parent, child, stamp_ns, T, static)

    def add_odometry(self, parent: str, child: str, stamp_ns: int, T: np.ndarray) -> None:
        """Take in where odometry says that a frame of the vehicle is (child -> parent, [4, 4], m).

        An unnamed child is the base frame. Another frame than that must be mounted to it by a known transform. From the
        first on, the ego poses are those of odometry, whatever transforms say of the base frame's parent.

        Raises `PoseError` if it is not.
        """
        base = self.config.base_frame
        if child.strip("/") not in ("", base):
            try:
                T = T @ self._mounts.lookup(child, base, stamp_ns)
            except PoseError as error:
                raise PoseError(
                    f"{error}; odometry is of '{child.strip('/')}': if that is the ego frame, name it: --base-frame "
                    f"{child.strip('/')} (data.bag.base_frame, parameter 'base_frame')",
                    error.frames,
                ) from error
        if not self._by_odometry:
            self._by_odometry, self._mounts = True, copy.deepcopy(self.poses)
        self.poses.set_transform(parent, base, stamp_ns, T)

    def locate(self, frame_id: str, stamp_ns: int, extrapolate: bool = False) -> np.ndarray:
        """`T_fixed_frame` [4, 4] (m) of a frame of the vehicle at a stamp; raises `PoseError`."""
        return self.ego_pose(stamp_ns, extrapolate) @ self.mount(frame_id, stamp_ns, extrapolate)

    def mount(self, frame_id: str, stamp_ns: int, extrapolate: bool = False) -> np.ndarray:
        """`T_base_frame` [4, 4] (m) of a frame of the vehicle at a stamp; raises `PoseError`."""
        return self._mounts.lookup(self.config.base_frame, frame_id, stamp_ns, extrapolate)

    def ego_pose(self, stamp_ns: int, extrapolate: bool = False) -> np.ndarray:
        """`T_fixed_base` [4, 4] (m) at a stamp.

        Raises `PoseError`; an absent frame is named with the option that takes another name.
        """
        base, fixed = self.config.base_frame, self.config.fixed_frame
        try:
            return self.poses.lookup(fixed, base, stamp_ns, extrapolate)
        except PoseError as error:
            known = {*self.poses.frames(), *self.poses.frames().values()}
            hints = [
                f"the {kind} frame is called '{name}' here: --{kind}-frame NAME (data.bag.{kind}_frame, parameter "
                f"'{kind}_frame') takes another"
                for kind, name in (("base", base), ("fixed", fixed))
                if known and name.strip("/") not in known
            ]
            raise PoseError("; ".join([str(error), *hints]), error.frames) from error

    def poll(self) -> list[FrameSet | Dropped]:
        """What was decided since the last call: sets with increasing stamps, and what was dropped."""
        self._resolve(final=False)
        out, self._out = self._out, []
        return out

    def flush(self) -> list[FrameSet | Dropped]:
        """Wait for nothing more, as at the end of a recording."""
        self._take(self._synchronizer.flush())
        self._resolve(final=True)
        return self.poll()

    def _take(self, decided: list[ImageSet[Arrival] | Dropped]) -> None:
        for item in decided:
            if isinstance(item, Dropped):
                self._drop(item)
            else:
                self._queue.append(item)

    def _resolve(self, final: bool) -> None:
        """Place the oldest sets for as long as they can be decided."""
        while self._queue:
            group = self._queue[0]
            newest_ns = self._synchronizer.newest_ns or 0
            waited = final or newest_ns >= group.stamp_ns + round(self.config.max_pose_wait * 1e9)
            if not self._place(group, waited):
                return
            self._queue.popleft()

    def _place(self, group: ImageSet[Arrival], waited: bool) -> bool:
        """Give a set out, or drop it; False if it should wait."""
        try:
            T_world_ego = self.ego_pose(group.stamp_ns, waited)
        except PoseError as error:
            if waited:
                self._drop(Dropped("no_pose", group.stamp_ns, str(error), None, _count(group)))
            return waited
        placed, refused = self._place_cameras(group, waited)
        if refused and not waited:
            return False
        present = [T for T in placed if T is not None]
        if not present or (refused and self.config.require_all):
            self._drop(Dropped(refused[0].reason, group.stamp_ns, refused[0].detail, None, _count(group)))
            return True
        for item in refused:
            self._drop(item)
        self.emitted += 1
        self._out.append(self._frame_set(group, placed, T_world_ego))
        return True

    def _place_cameras(self, group: ImageSet[Arrival], waited: bool) -> tuple[list[np.ndarray | None], list[Dropped]]:
        """`T_ego_cam` of each camera with an image, and those that cannot be placed."""
        placed: list[np.ndarray | None] = []
        refused: list[Dropped] = []
        for camera, item, stamp_ns in zip(self.config.cameras, group.items, group.stamps_ns, strict=True):
            if item is None or stamp_ns is None:
                placed.append(None)
                continue
            answer = self._place_camera(camera, item.image, stamp_ns, group.stamp_ns, waited)
            if isinstance(answer, Dropped):
                refused.append(answer)
            placed.append(None if isinstance(answer, Dropped) else answer)
        return placed, refused

    def _place_camera(
        self, camera: str, image: np.ndarray, stamp_ns: int, set_ns: int, waited: bool
    ) -> np.ndarray | Dropped:
        """`T_ego_cam` [4, 4], from the optical frame at the image's stamp to the ego frame at the set's."""

        def refuse(reason: Reason, detail: str) -> Dropped:
            return Dropped(reason, stamp_ns, f"{camera}: {detail}", camera)

        if camera not in self._calibrations:
            return refuse("no_camera_info", "images come but no camera_info; publish it beside the images")
        calibration, frame_id = self._calibrations[camera]
        if image.shape[:2] != (calibration.height, calibration.width):
            height, width = image.shape[:2]
            return refuse(
                "bad_camera_info",
                f"image of {width} x {height} px, but camera_info is of {calibration.width} x {calibration.height} px",
            )
        try:
            T = self.mount(frame_id, stamp_ns, extrapolate=waited)
            if stamp_ns != set_ns:
                T = np.linalg.inv(self.ego_pose(set_ns, waited)) @ self.ego_pose(stamp_ns, waited) @ T
        except PoseError as error:
            return refuse("no_transform", str(error))
        return T

    def _frame_set(
        self, group: ImageSet[Arrival], placed: list[np.ndarray | None], T_world_ego: np.ndarray
    ) -> FrameSet:
        known = [self._calibrations.get(camera) for camera in self.config.cameras]
        items = [None if T is None else item for item, T in zip(group.items, placed, strict=True)]
        return FrameSet(
            stamp_ns=group.stamp_ns,
            images=tuple(None if item is None else item.image for item in items),
            calibrations=tuple(None if entry is None else entry[0] for entry in known),
            T_ego_cam=np.stack([np.eye(4) if T is None else T for T in placed]),
            T_world_ego=T_world_ego,
            masks=self._masks,
            arrived=min((i.at for i in group.items if i is not None and i.at is not None), default=None),
        )

    def _drop(self, item: Dropped) -> None:
        (self.dropped_sets if item.camera is None else self.dropped_images)[item.reason] += 1
        self._out.append(item)


def _count(group: ImageSet) -> int:
    return sum(item is not None for item in group.items)
