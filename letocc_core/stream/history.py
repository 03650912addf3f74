"""The rolling past: encoded frames, and which of them the temporal fusion sees."""

import bisect
from collections.abc import Sequence
from typing import Generic, TypeVar

import numpy as np
from jaxtyping import Int

T = TypeVar("T")


def past_frames(
    stamps_ns: Sequence[int] | Int[np.ndarray, "n"], stamp_ns: int, interval: float, count: int
) -> list[int | None]:
    """Which frames are the past of one, live and in training: for k = 1 to `count` the one nearest to k intervals before.

    Args:
        stamps_ns: of the frames before it, in ns, increasing.
        interval: s.

    Returns positions, newest first; None where no frame is nearer than half an interval, of two as near the older.
    """
    interval_ns = round(interval * 1e9)
    chosen: list[int | None] = []
    for k in range(1, count + 1):
        wanted = stamp_ns - k * interval_ns
        place = bisect.bisect_left(stamps_ns, wanted)
        near = [i for i in (place - 1, place) if 0 <= i < len(stamps_ns)]
        best = min(near, key=lambda i: abs(int(stamps_ns[i]) - wanted), default=None)
        chosen.append(best if best is not None and 2 * abs(int(stamps_ns[best]) - wanted) < interval_ns else None)
    return chosen


class History(Generic[T]):
    """Keeps encoded frames for as long as a later frame may need them; never more than about 8 an interval.

    Args:
        frames: how many past frames the model takes.
        interval: s between them.
    """

    def __init__(self, frames: int, interval: float):
        self.frames, self.interval = frames, interval
        self._interval = round(interval * 1e9)
        self._stamps_ns: list[int] = []
        self._items: list[T] = []

    def __len__(self) -> int:
        return len(self._items)

    def select(self, stamp_ns: int) -> list[T]:
        """Newest first: those of `past_frames` that are there."""
        positions = past_frames(self._stamps_ns, stamp_ns, self.interval, self.frames)
        return [self._items[i] for i in positions if i is not None]

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
