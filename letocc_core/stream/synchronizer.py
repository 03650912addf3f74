"""Groups the images of N cameras into sets by their stamps.

A set is anchored on an image of the first camera; of every other camera it takes the nearest image within `slop`. It
closes as soon as every camera has joined, when a newer set is complete, or when the newest stamp seen is `max_wait`
past it. A camera that stays away for `camera_timeout` is not waited for any more; while the first one stays away, the
sets are anchored on the next that does not. What it answers depends on the order of the calls alone: no clock, no thread.
"""

import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

from letocc_core.errors import ConfigError, DataError

T = TypeVar("T")
RESTART_AFTER = 1.0  # s
MAX_SLOP = 1.0  # s

Reason = Literal[
    "late",  # its set had closed when it came
    "duplicate",  # this camera had delivered an image of that stamp
    "unmatched",  # no image of the anchor camera within the slop
    "overflow",  # more images waiting than the buffer holds
    "incomplete",  # a camera is missing and all are required
    "no_camera_info",  # the camera has not been calibrated
    "bad_camera_info",  # the calibration is of another image size
    "no_transform",  # the camera cannot be placed in the base frame
    "no_pose",  # the base frame cannot be placed in the fixed frame
]


@dataclass(frozen=True)
class Dropped:
    """What was received and will not be used, and why."""

    reason: Reason
    stamp_ns: int  # ns, of the image or of the set
    detail: str  # a sentence for people: what was found, what was expected
    camera: str | None = None  # whose image; None: a whole set
    images: int = 1  # how many images are lost with it


@dataclass(frozen=True, eq=False)
class ImageSet(Generic[T]):
    """One set, an entry per camera in the configured order."""

    stamp_ns: int  # ns, of the anchor
    items: tuple[T | None, ...]  # what was given to `add`; None = missing
    stamps_ns: tuple[int | None, ...]  # ns, each image's own


class Synchronizer(Generic[T]):
    """Sets of images out of single images. Every image received is in a set, is dropped, or waits.

    Choose `slop` below half the shortest time between two images of a camera.

    Args:
        cameras: names; the first is the anchor.
        slop: s, largest distance of an image from the anchor's stamp.
        max_wait: s of stamps for which an incomplete set waits for the others.
        camera_timeout: s of stamps without an image, while others have some, after which a camera counts as away;
            with 0 none does.
        require_all: drop incomplete sets; otherwise they are given out with None for the missing ones.
        capacity: images of one camera that may wait.
        restart_after: s; an image this much older than the newest means that time began anew (a bag that loops). What
            was waiting is then closed as by `flush`.

    Raises:
        ConfigError: no camera, a camera named twice, a limit that is not positive, or a slop of more than a second.
    """

    def __init__(
        self,
        cameras: Sequence[str],
        slop: float = 0.02,
        max_wait: float = 0.1,
        camera_timeout: float = 1.0,
        require_all: bool = False,
        capacity: int = 64,
        restart_after: float = RESTART_AFTER,
    ):
        if not cameras or len(set(cameras)) != len(cameras):
            raise ConfigError(f"cameras are {list(cameras)}, expected at least one name and none of them twice")
        durations = {
            "slop": slop,
            "max_wait": max_wait,
            "camera_timeout": camera_timeout,
            "restart_after": restart_after,
        }
        for name, value in durations.items():
            if not value >= 0:
                raise ConfigError(f"{name} is {value} s, expected 0 or more")
        if slop > MAX_SLOP:
            raise ConfigError(f"slop is {slop:g} s, expected {MAX_SLOP:g} s or less; 45 ms are 0.045")
        if capacity < 1:
            raise ConfigError(f"capacity is {capacity} images, expected 1 or more")
        self.cameras = tuple(cameras)
        self.require_all = require_all
        self.capacity = capacity
        self.received = 0
        self.restarts = 0  # how often time began anew
        self.newest_ns: int | None = None
        self._slop, self._max_wait, self._timeout, self._restart_after = (round(v * 1e9) for v in durations.values())
        self._anchor = cameras[0]
        self._elapsed = 0  # ns of stamps; a gap in all cameras counts in part, so that none seems away after it
        self._seen = dict.fromkeys(cameras, 0)  # of `_elapsed`, when each camera's last image came
        self._waiting: dict[str, list[tuple[int, T]]] = {name: [] for name in cameras}
        self._used_ns: dict[str, int] = {}
        self._closed_ns: int | None = None
        self._out: list[ImageSet[T] | Dropped] = []

    @property
    def pending(self) -> int:
        """Images that wait for their set."""
        return sum(map(len, self._waiting.values()))

    def add(self, camera: str, stamp_ns: int, item: T) -> None:
        """Take one image in. Raises `DataError` for a camera that is not one of `cameras`."""
        if camera not in self._waiting:
            raise DataError(f"image of camera '{camera}', expected one of {', '.join(self.cameras)}")
        if self.newest_ns is not None and stamp_ns < self.newest_ns - self._restart_after:
            self._restart()
        self.received += 1
        self._see(camera, stamp_ns)
        waiting = self._waiting[camera]
        place = bisect.bisect_left(waiting, stamp_ns, key=_stamp)
        if self._used_ns.get(camera) == stamp_ns or (place < len(waiting) and waiting[place][0] == stamp_ns):
            self._drop("duplicate", camera, stamp_ns, "the camera had delivered an image of this stamp already")
        elif self._closed_ns is not None and stamp_ns <= self._closed_ns:
            late = (self._closed_ns - stamp_ns) * 1e-9
            self._drop("late", camera, stamp_ns, f"it came after the set {late:.3f} s newer had been closed")
        else:
            waiting.insert(place, (stamp_ns, item))
            self._close_ripe()
            self._drop_hopeless()

    def poll(self) -> list[ImageSet[T] | Dropped]:
        """Everything decided since the last call; sets come with increasing stamps, unless time began anew."""
        out, self._out = self._out, []
        return out

    def flush(self) -> list[ImageSet[T] | Dropped]:
        """Close all sets, complete or not, as at the end of a recording."""
        while self._anchors:
            self._close_oldest()
        for camera, waiting in self._waiting.items():
            self._drop_first(camera, len(waiting), "unmatched")
        return self.poll()

    @property
    def _anchors(self) -> list[tuple[int, T]]:
        return self._waiting[self._anchor]

    @property
    def _others(self) -> list[str]:
        return [camera for camera in self.cameras if camera != self._anchor]

    @property
    def _present(self) -> list[str]:
        """Cameras that do not stay away; at least the one of the latest image."""
        return [camera for camera in self.cameras if self._elapsed - self._seen[camera] <= self._timeout]

    def _see(self, camera: str, stamp_ns: int) -> None:
        """Take note of who delivers, and choose the anchor by it."""
        newest_ns = stamp_ns if self.newest_ns is None else max(stamp_ns, self.newest_ns)
        if self.newest_ns is not None:
            self._elapsed += min(newest_ns - self.newest_ns, self._timeout // 2)
        self.newest_ns = newest_ns
        self._seen[camera] = self._elapsed
        self._choose_anchor()

    def _choose_anchor(self) -> None:
        """The first camera that does not stay away. Sets anchored on another are closed before."""
        if (wanted := self._present[0]) != self._anchor:
            while self._anchors:
                self._close_oldest()
            self._anchor = wanted

    def _restart(self) -> None:
        self._out = self.flush()
        self._used_ns.clear()
        self._elapsed, self._seen = 0, dict.fromkeys(self.cameras, 0)
        self._anchor = self.cameras[0]
        self._closed_ns = self.newest_ns = None
        self.restarts += 1

    def _close_ripe(self) -> None:
        """Close the sets up to the newest complete one, and those that have waited long enough."""
        present = self._present
        if all(self._waiting[camera] for camera in present):  # else none is complete
            complete = [i for i in range(len(self._anchors)) if self._match(i).keys() >= set(present)]
            for _ in range(complete[-1] + 1 if complete else 0):
                self._close_oldest()
        while self._anchors and self._expired(self._anchors[0][0]):
            self._close_oldest()

    def _expired(self, stamp_ns: int) -> bool:
        return self.newest_ns is not None and self.newest_ns >= stamp_ns + self._slop + self._max_wait

    def _match(self, anchor: int) -> dict[str, int]:
        """For each camera that has one, the position of the image that belongs to the anchor at this position."""
        stamp_ns = self._anchors[anchor][0]
        positions = {self._anchor: anchor}
        for camera in self._others:
            near = [
                (abs(stamp - stamp_ns), i)
                for i, (stamp, _) in enumerate(self._waiting[camera])
                if abs(stamp - stamp_ns) <= self._slop and self._nearest_anchor(stamp) == anchor
            ]
            if near:
                positions[camera] = min(near)[1]
        return positions

    def _nearest_anchor(self, stamp_ns: int) -> int:
        return min(range(len(self._anchors)), key=lambda i: abs(self._anchors[i][0] - stamp_ns))

    def _close_oldest(self) -> None:
        stamp_ns = self._anchors[0][0]
        taken = {camera: self._waiting[camera].pop(i) for camera, i in self._match(0).items()}
        self._closed_ns = stamp_ns
        self._used_ns |= {camera: stamp for camera, (stamp, _) in taken.items()}
        missing = [camera for camera in self.cameras if camera not in taken]
        if missing and self.require_all:
            detail = f"no image of {', '.join(missing)} within {self._slop * 1e-9:g} s, and all cameras are required"
            self._out.append(Dropped("incomplete", stamp_ns, detail, None, len(taken)))
        else:
            stamps, items = zip(*(taken.get(camera, (None, None)) for camera in self.cameras), strict=True)
            self._out.append(ImageSet(stamp_ns, items, stamps))
        for camera in self._others:
            self._drop_first(camera, bisect.bisect_right(self._waiting[camera], stamp_ns, key=_stamp), "unmatched")

    def _drop_hopeless(self) -> None:
        """Drop images whose anchor can no longer come, and the oldest of a camera that has too many."""
        for camera in self._others:
            hopeless = 0
            for stamp, _ in self._waiting[camera]:
                if not self._expired(stamp) or any(abs(a - stamp) <= self._slop for a, _ in self._anchors):
                    break
                hopeless += 1
            self._drop_first(camera, hopeless, "unmatched")
        for camera, waiting in self._waiting.items():
            self._drop_first(camera, len(waiting) - self.capacity, "overflow")

    def _drop_first(self, camera: str, count: int, reason: Literal["unmatched", "overflow"]) -> None:
        if reason == "unmatched":
            detail = f"no image of the anchor camera {self._anchor} within {self._slop * 1e-9:g} s that has none yet"
        else:
            detail = f"more than {self.capacity} images of this camera were waiting"
        for _ in range(count):
            self._drop(reason, camera, self._waiting[camera].pop(0)[0], detail)

    def _drop(self, reason: Reason, camera: str, stamp_ns: int, detail: str) -> None:
        self._out.append(Dropped(reason, stamp_ns, f"{camera} at {stamp_ns} ns: {detail}", camera))


def _stamp(entry: tuple[int, object]) -> int:
    return entry[0]
