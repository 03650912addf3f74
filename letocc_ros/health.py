"""What the node knows of its own state, as /diagnostics shows it: counts, latencies, and causes of trouble by name."""

import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus, KeyValue

RECENT = 3.0  # s for which a problem counts as present after it was last seen
LATENCIES = 200  # answers over which the latency's median and 95th percentile are taken


@dataclass
class Problem:
    """Something that goes wrong, perhaps again and again."""

    text: str
    last: float  # s, of `clock`
    count: int = 1


class Health:
    """Counts and problems of the node; its methods may be called from any thread.

    Args:
        name: of the node, heads the names of the statuses.
        announce: called with the text of a problem that is new, or back after an absence.
        clock: s, monotonic.
    """

    def __init__(self, name: str, announce: Callable[[str], None], clock: Callable[[], float] = time.monotonic):
        self._name, self._announce, self._clock = name, announce, clock
        self._lock = threading.RLock()
        self.failure: str | None = None  # why the node could not be configured
        self.clear({})

    def clear(self, image_topics: dict[str, str]) -> None:
        """Begin anew, waiting for images of these cameras on these topics."""
        with self._lock:
            self._image_topics = dict(image_topics)
            self._images: Counter[str] = Counter()
            self._last_image: dict[str, float] = {}
            self._sets_in = self._sets_out = 0
            self._last_out: float | None = None
            self._dropped: Counter[str] = Counter()
            self._resets: Counter[str] = Counter()
            self._latencies: deque[float] = deque(maxlen=LATENCIES)
            self._steps: deque[float] = deque(maxlen=LATENCIES)
            self._stages: dict[str, float] = {}
            self._problems: dict[tuple[str, ...], Problem] = {}
            self._since = self._clock()

    def image(self, camera: str) -> None:
        """An image has come."""
        with self._lock:
            self._images[camera] += 1
            self._last_image[camera] = self._clock()

    def set_in(self) -> None:
        """A set of images is complete and goes to the network."""
        with self._lock:
            self._sets_in += 1

    def set_out(self, latency: float, stages: dict[str, float], reset_reason: str | None) -> None:
        """A set was answered, `latency` s after its first image came."""
        with self._lock:
            self._sets_out += 1
            self._last_out = self._clock()
            self._latencies.append(latency)
            self._steps.append(sum(stages.values()))
            self._stages = stages
            if reset_reason is not None:
                self._resets[reset_reason.split(":")[0]] += 1

    def drop(self, reason: str, key: tuple[str, ...], text: str) -> None:
        """Something was received and is lost."""
        with self._lock:
            self._dropped[reason] += 1
        self.problem((reason, *key), text)

    def problem(self, key: tuple[str, ...], text: str) -> None:
        """Something is wrong; the same key stands for the same cause, of which the last text is shown."""
        with self._lock:
            now, known = self._clock(), self._problems.get(key)
            if known is not None and now - known.last <= RECENT:
                known.text, known.last, known.count = text, now, known.count + 1
                return
            self._problems[key] = Problem(text, now)
        self._announce(text)

    def statuses(self, state: str) -> list[DiagnosticStatus]:
        """One status of the node in the lifecycle state `state`, and one a camera."""
        with self._lock:
            if state != "active":
                return [self._idle(state)]
            return [self._node_status(), *(self._camera_status(camera) for camera in self._image_topics)]

    def _idle(self, state: str) -> DiagnosticStatus:
        level = DiagnosticStatus.OK if self.failure is None else DiagnosticStatus.ERROR
        return DiagnosticStatus(level=level, name=self._name, message=self.failure or state)

    def _node_status(self) -> DiagnosticStatus:
        now = self._clock()
        causes = [p.text for p in self._problems.values() if now - p.last <= RECENT]
        causes += [self._absence(camera) for camera in self._image_topics if self._is_absent(camera)]
        flowing = self._last_out is not None and now - self._last_out <= RECENT
        if flowing:
            level = DiagnosticStatus.WARN if causes else DiagnosticStatus.OK
        elif causes or now - self._since > RECENT:
            level = DiagnosticStatus.ERROR
        else:
            level = DiagnosticStatus.OK
        message = "; ".join(causes) or ("running" if flowing else "waiting for image sets")
        return DiagnosticStatus(level=level, name=self._name, message=message, values=_pairs(self._values()))

    def _camera_status(self, camera: str) -> DiagnosticStatus:
        absent = self._is_absent(camera)
        return DiagnosticStatus(
            level=DiagnosticStatus.WARN if absent else DiagnosticStatus.OK,
            name=f"{self._name}: {camera}",
            message=self._absence(camera) if absent else "images come",
            values=_pairs({"topic": self._image_topics[camera], "images received": self._images[camera]}),
        )

    def _is_absent(self, camera: str) -> bool:
        return self._clock() - self._last_image.get(camera, self._since) > RECENT

    def _absence(self, camera: str) -> str:
        seen = "since" if camera in self._last_image else "yet"
        return f"no image on {self._image_topics[camera]} {seen} ({RECENT:g} s)"

    def _values(self) -> dict[str, object]:
        values: dict[str, object] = {"sets in": self._sets_in, "sets out": self._sets_out}
        values |= {f"dropped: {reason}": count for reason, count in sorted(self._dropped.items())}
        values |= {f"history reset: {reason}": count for reason, count in sorted(self._resets.items())}
        if self._latencies:
            median, p95 = 1e3 * np.percentile(self._latencies, [50, 95])
            values |= {"latency median (ms)": f"{median:.1f}", "latency p95 (ms)": f"{p95:.1f}"}
            values["network median (ms)"] = f"{1e3 * np.median(self._steps):.1f}"
        values |= {f"last {stage} (ms)": f"{1e3 * seconds:.1f}" for stage, seconds in self._stages.items()}
        return values


def _pairs(values: dict[str, object]) -> list[KeyValue]:
    return [KeyValue(key=key, value=str(value)) for key, value in values.items()]
