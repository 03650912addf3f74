"""What the node knows of its own state, as /diagnostics shows it: counts, rates, latencies, causes of trouble by name."""

import resource
import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from diagnostic_msgs.msg import DiagnosticStatus, KeyValue

RECENT = 3.0  # s for which a problem counts as present after it was last seen
REPEAT = 30.0  # s after which a problem that lasts is announced again
WINDOW = 5.0  # s over which rates are taken
LATENCIES = 200  # answers over which medians and 95th percentiles are taken


@dataclass
class Problem:
    """Something that goes wrong, perhaps again and again."""

    text: str
    last: float  # s, of `clock`, when it was seen
    announced: float  # s, when it was said


@dataclass
class Stream:
    """Arrivals of one kind."""

    count: int = 0
    times: deque[float] = field(default_factory=lambda: deque(maxlen=512))  # s, of the latest

    def add(self, now: float) -> None:
        """One more."""
        self.count += 1
        self.times.append(now)

    def age(self, now: float) -> float | None:
        """s since the last one, if there was one."""
        return now - self.times[-1] if self.times else None

    def is_recent(self, now: float) -> bool:
        """Whether one came a short while ago."""
        return bool(self.times) and now - self.times[-1] <= RECENT

    def rate(self, now: float) -> float:
        """Hz, over the last `WINDOW`."""
        return sum(now - t <= WINDOW for t in self.times) / WINDOW


class Health:
    """Counts and problems of the node; its methods may be called from any thread.

    Args:
        name: of the node, heads the names of the statuses.
        announce: called with the text of a problem that is new, back after an absence, or still there after `REPEAT`.
        clock: s, monotonic.
    """

    def __init__(self, name: str, announce: Callable[[str], None], clock: Callable[[], float] = time.monotonic):
        self._name, self._announce, self._clock = name, announce, clock
        self._lock = threading.RLock()
        self.failure: str | None = None  # why the node could not be configured
        self.clear({})

    def clear(self, image_topics: Mapping[str, str], settings: Mapping[str, object] | None = None) -> None:
        """Begin anew, waiting for images of these cameras on these topics, under what was settled where it was left open."""
        with self._lock:
            self._image_topics = dict(image_topics)
            self._settings = dict(settings or {})
            self._inputs: defaultdict[str, Stream] = defaultdict(Stream)  # by topic
            self._joined: defaultdict[str, Stream] = defaultdict(Stream)  # by camera: images that came into a set
            self._unmatched: dict[str, str] = {}  # by camera: why its last image did not
            self._in, self._out = Stream(), Stream()
            self._heard = 0
            self._dropped: Counter[str] = Counter()
            self._dropped_images = 0
            self._resets: Counter[str] = Counter()
            self._stages: defaultdict[str, deque[float]] = defaultdict(lambda: deque(maxlen=LATENCIES))
            self._problems: dict[tuple[str, ...], Problem] = {}
            self._work_since: float | None = None
            self._since = self._clock()

    def arrived(self, topic: str) -> None:
        """A message has come."""
        with self._lock:
            self._inputs[topic].add(self._clock())

    def set_in(self, cameras: Iterable[str]) -> None:
        """A set of images of these cameras is complete and goes to the network."""
        with self._lock:
            self._in.add(self._clock())
            for camera in cameras:
                self._joined[camera].add(self._clock())

    def set_begun(self) -> None:
        """The network begins with a set."""
        with self._lock:
            self._work_since = self._clock()

    def set_done(self) -> None:
        """The network is done with it, one way or the other."""
        with self._lock:
            self._work_since = None

    def set_out(self, latency: float, stages: Mapping[str, float], heard: int) -> None:
        """A set was answered.

        Args:
            latency: s since its first image came.
            stages: s that each took.
            heard: topics on which someone listens.
        """
        with self._lock:
            self._out.add(self._clock())
            self._heard = heard
            for stage, seconds in {"latency": latency, **stages}.items():
                self._stages[stage].append(seconds)

    def reset(self, reason: str) -> None:
        """The past was forgotten: a kind and, after a colon, the particulars."""
        kind = reason.split(":")[0]
        with self._lock:
            self._resets[kind] += 1
        self.problem(("reset", kind), f"the past is forgotten: {reason}")

    def drop(self, reason: str, key: tuple[str, ...], text: str, images: int = 0) -> None:
        """Something was received and is lost, and with it so many images that came into no set."""
        with self._lock:
            self._dropped[reason] += 1
            self._dropped_images += images
        self.problem((reason, *key), text)

    def drop_unmatched(self, camera: str, text: str) -> None:
        """An image came into no set: no problem unless none of its camera does, as with cameras of different rates."""
        with self._lock:
            self._dropped["unmatched"] += 1
            self._dropped_images += 1
            self._unmatched[camera] = text

    def problem(self, key: tuple[str, ...], text: str) -> None:
        """Something is wrong; the same key stands for the same cause, of which the last text is shown."""
        with self._lock:
            now, known = self._clock(), self._problems.get(key)
            lasting = known is not None and now - known.last <= RECENT
            silent = lasting and now - known.announced <= REPEAT
            self._problems[key] = Problem(text, now, known.announced if silent else now)
        if not silent:
            self._announce(text)

    def statuses(self, state: str) -> list[DiagnosticStatus]:
        """One status of the node in the lifecycle state `state`, and one a camera; to be asked for once a second."""
        with self._lock:
            if state != "active":
                return [self._idle(state)]
            self._look_around()
            return [self._node_status(), *(self._camera_status(camera) for camera in self._image_topics)]

    def _look_around(self) -> None:
        """Problems that show by what does not happen."""
        now = self._clock()
        for camera in self._image_topics:
            if self._is_absent(camera):
                self.problem(("absent", camera), self._absence(camera))
            elif self._never_joins(camera):
                self.problem(("unmatched", camera), f"{self._unmatched[camera]}; see parameter 'slop'")
        if self._work_since is not None and now - self._work_since > RECENT:
            self.problem(("slow",), f"the network has been at work on one set for {now - self._work_since:.0f} s")

    def _idle(self, state: str) -> DiagnosticStatus:
        level = DiagnosticStatus.OK if self.failure is None else DiagnosticStatus.ERROR
        return DiagnosticStatus(level=level, name=self._name, message=self.failure or state, values=_pairs(memory()))

    def _node_status(self) -> DiagnosticStatus:
        now = self._clock()
        causes = [p.text for p in self._problems.values() if now - p.last <= RECENT]
        if self._out.is_recent(now):
            level = DiagnosticStatus.WARN if causes else DiagnosticStatus.OK
            otherwise = "running" if self._heard else "running; nobody listens to an output that is switched on"
        else:
            level = DiagnosticStatus.ERROR if causes or now - self._since > RECENT else DiagnosticStatus.OK
            otherwise = "waiting for image sets"
        message = "; ".join(causes) or otherwise
        return DiagnosticStatus(level=level, name=self._name, message=message, values=_pairs(self._values(now)))

    def _camera_status(self, camera: str) -> DiagnosticStatus:
        absent, now, topic = self._is_absent(camera), self._clock(), self._image_topics[camera]
        images = self._inputs[topic]
        values = {
            "topic": topic,
            "images received": images.count,
            "images in sets": self._joined[camera].count,
            "rate (Hz)": f"{images.rate(now):.1f}",
            "age (s)": _seconds(images.age(now)),
        }
        return DiagnosticStatus(
            level=DiagnosticStatus.WARN if absent else DiagnosticStatus.OK,
            name=f"{self._name}: {camera}",
            message=self._absence(camera) if absent else "images come",
            values=_pairs(values),
        )

    def _is_absent(self, camera: str) -> bool:
        age = self._inputs[self._image_topics[camera]].age(self._clock())
        return (self._clock() - self._since if age is None else age) > RECENT

    def _never_joins(self, camera: str) -> bool:
        """Whether sets are made without this camera for a while, for which only its images' stamps are the reason."""
        now = self._clock()
        recent = self._joined[camera].is_recent(now) or now - self._since <= RECENT
        return camera in self._unmatched and self._in.is_recent(now) and not recent

    def _absence(self, camera: str) -> str:
        topic = self._image_topics[camera]
        age = self._inputs[topic].age(self._clock())
        return f"no image on {topic} yet" if age is None else f"no image on {topic} for {age:.0f} s"

    def _values(self, now: float) -> dict[str, object]:
        values: dict[str, object] = {"sets in": self._in.count, "sets out": self._out.count}
        values["rate (Hz)"] = f"{self._out.rate(now):.1f}"
        values["age of the last answer (s)"] = _seconds(self._out.age(now))
        values["images in no set"] = self._dropped_images
        values |= {f"dropped: {reason}": count for reason, count in sorted(self._dropped.items())}
        values |= {f"history reset: {reason}": count for reason, count in sorted(self._resets.items())}
        for stage, seconds in self._stages.items():
            median, p95 = 1e3 * np.percentile(seconds, [50, 95])
            values |= {f"{stage} median (ms)": f"{median:.1f}", f"{stage} p95 (ms)": f"{p95:.1f}"}
        values |= {f"age of {topic} (s)": _seconds(s.age(now)) for topic, s in sorted(self._inputs.items())}
        return values | memory() | self._settings


def memory() -> dict[str, str]:
    """MB that this process holds, and of the GPU where it uses one."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    values = {"memory (MB)": f"{pages * resource.getpagesize() / 1e6:.0f}"}
    if torch.cuda.is_initialized():
        values["GPU memory (MB)"] = f"{torch.cuda.memory_reserved() / 1e6:.0f}"
    return values


def _seconds(age: float | None) -> str:
    return "none came" if age is None else f"{age:.1f}"


def _pairs(values: dict[str, object]) -> list[KeyValue]:
    return [KeyValue(key=key, value=str(value)) for key, value in values.items()]
