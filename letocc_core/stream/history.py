"""The rolling past: encoded frames, and which of them the temporal fusion sees."""

import bisect
from typing import Generic, TypeVar

T = TypeVar("T")


class History(Generic[T]):
    """Keeps encoded frames for as long as a later frame may need them; never more than about 8 an interval.

    Args:
        frames: how many past frames the model takes.
        interval: s between them.
    """

    def __init__(self, frames: int, interval: float):
        self.frames = frames
        self._interval = round(interval * 1e9)
        self._stamps_ns: list[int] = []
        self._items: list[T] = []

    def __len__(self) -> int:
        return len(self._items)

    def select(self, stamp_ns: int) -> list[T]:
        """Newest first: for k = 1 to `frames` the frame nearest to `stamp_ns - k * interval`.

        One that is not nearer than half an interval is left out.
        """
        chosen = []
        for k in range(1, self.frames + 1):
            wanted = stamp_ns - k * self._interval
            place = bisect.bisect_left(self._stamps_ns, wanted)
            near = [i for i in (place - 1, place) if 0 <= i < len(self._stamps_ns)]
            best = min(near, key=lambda i: abs(self._stamps_ns[i] - wanted), default=None)
            if best is not None and 2 * abs(self._stamps_ns[best] - wanted) < self._interval:
                chosen.append(self._items[best])
        return chosen

    def add(self, stamp_ns: int, item: T) -> None:
        """Keep a frame newer than all before it. Frames that follow faster than 8 an interval are thinned out."""
        if self._stamps_ns and stamp_ns - self._stamps_ns[-1] < self._interval // 8:
            return
        self._stamps_ns.append(stamp_ns)
        self._items.append(item)
        oldest = bisect.bisect_right(self._stamps_ns, stamp_ns - (2 * self.frames + 1) * self._interval // 2)
        del self._stamps_ns[:oldest], self._items[:oldest]

    def clear(self) -> None:
        """Forget everything."""
        self._stamps_ns.clear()
        self._items.clear()
