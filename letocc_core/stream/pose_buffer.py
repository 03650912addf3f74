"""A tree of transforms over time, as /tf and /tf_static (or odometry) fill it: what tf2's buffer does, without ROS.

It depends on what it was given alone: no clock, no thread.
"""

import bisect
from dataclasses import dataclass, field

import numpy as np

from letocc_core.errors import PoseError
from letocc_core.geometry import se3


@dataclass
class _Edge:
    """Transforms child -> parent over time."""

    parent: str
    static: bool
    stamps_ns: list[int] = field(default_factory=list)  # increasing
    transforms: list[np.ndarray] = field(default_factory=list)  # [4, 4] m, child -> parent

    def insert(self, stamp_ns: int, T: np.ndarray) -> None:
        place = bisect.bisect_left(self.stamps_ns, stamp_ns)
        if place < len(self.stamps_ns) and self.stamps_ns[place] == stamp_ns:
            self.transforms[place] = T
        else:
            self.stamps_ns.insert(place, stamp_ns)
            self.transforms.insert(place, T)

    def keep(self, first_ns: int, last_ns: int) -> None:
        """Forget what lies outside [first_ns, last_ns]."""
        kept = slice(bisect.bisect_left(self.stamps_ns, first_ns), bisect.bisect_right(self.stamps_ns, last_ns))
        self.stamps_ns, self.transforms = self.stamps_ns[kept], self.transforms[kept]

    def at(self, stamp_ns: int) -> np.ndarray:
        """Interpolated, or extrapolated at the velocity of the two nearest."""
        stamps = self.stamps_ns
        if self.static or len(stamps) == 1:
            return self.transforms[-1]
        i = min(max(bisect.bisect_right(stamps, stamp_ns), 1), len(stamps) - 1)
        if stamps[i - 1] == stamp_ns:
            return self.transforms[i - 1]
        if stamps[i] == stamp_ns:
            return self.transforms[i]
        fraction = (stamp_ns - stamps[i - 1]) / (stamps[i] - stamps[i - 1])
        return se3.interpolate(self.transforms[i - 1], self.transforms[i], fraction)


class PoseBuffer:
    """Answers where one frame is in another at a stamp.

    Args:
        duration: s of transforms that are kept, behind the newest one of the same pair of frames.
        max_extrapolation: s beyond the kept transforms for which `lookup` may extrapolate when asked to.
    """

    def __init__(self, duration: float = 10.0, max_extrapolation: float = 0.05):
        self._duration = round(duration * 1e9)
        self._max_extrapolation = round(max_extrapolation * 1e9)
        self._edges: dict[str, _Edge] = {}  # by child

    def set_transform(self, parent: str, child: str, stamp_ns: int, T: np.ndarray, static: bool = False) -> None:
        """Take in `T` (child -> parent, [4, 4], m), as in a `TransformStamped` or an `Odometry` message.

        A child that appears under another parent moves there, and its past is forgotten. A stamp older than `duration`
        before the newest means that time began anew: the pair's past is forgotten then too.

        Raises `PoseError` if the frames are unnamed or the same, or if it would close a loop.
        """
        parent, child = parent.strip("/"), child.strip("/")
        if not parent or not child or parent == child:
            raise PoseError(
                f"transform from '{child}' to '{parent}': expected two different frame names", (parent, child)
            )
        if child in (chain := self._chain(parent)):
            loop = " -> ".join([child, *reversed(chain[: chain.index(child)]), child])
            raise PoseError(
                f"transform from '{child}' to its parent '{parent}' would close a loop ({loop}); each frame has one "
                "parent: find the publisher that is wrong",
                (parent, child),
            )
        edge = self._edges.get(child)
        if edge is None or (edge.parent, edge.static) != (parent, static) or static:
            edge = self._edges[child] = _Edge(parent, static)
        elif stamp_ns < edge.stamps_ns[-1] - self._duration:
            edge.keep(0, -1)
        edge.insert(stamp_ns, np.array(T, np.float64))
        if edge.stamps_ns[0] < edge.stamps_ns[-1] - self._duration:
            edge.keep(edge.stamps_ns[-1] - self._duration, edge.stamps_ns[-1])

    def forget_after(self, stamp_ns: int) -> None:
        """Forget moving transforms newer than a stamp: they belong to an earlier run of the clock."""
        for child, edge in list(self._edges.items()):
            if not edge.static:
                edge.keep(edge.stamps_ns[0], stamp_ns)
                if not edge.stamps_ns:
                    del self._edges[child]

    def lookup(self, target: str, source: str, stamp_ns: int, extrapolate: bool = False) -> np.ndarray:
        """`T_target_source` at a stamp: [4, 4] float64, m.

        Between two transforms it interpolates (slerp, linear); outside it raises, or with `extrapolate` goes on at
        constant velocity for `max_extrapolation` at most.

        Raises `PoseError` that names the frames, and the interval available.
        """
        target, source = target.strip("/"), source.strip("/")
        up, down = self._chain(source), self._chain(target)
        common = next((frame for frame in up if frame in down), None)
        if common is None:
            raise PoseError(self._no_path(target, source, up, down), (target, source))
        T_common_source = self._compose(up[: up.index(common)], stamp_ns, (target, source), extrapolate)
        T_common_target = self._compose(down[: down.index(common)], stamp_ns, (target, source), extrapolate)
        return np.linalg.inv(T_common_target) @ T_common_source

    def around(self, target: str, source: str, stamp_ns: int) -> tuple[float, float]:
        """s from the transform before a stamp and to the one after it, between which `lookup` interpolates; the longest of those on
        the way. Zeros where nothing moves; raises `PoseError` as `lookup`.
        """
        self.lookup(target, source, stamp_ns, extrapolate=True)
        up, down = self._chain(source.strip("/")), self._chain(target.strip("/"))
        before = after = 0
        for child in set(up) ^ set(down):
            edge = self._edges.get(child)
            if edge is None or edge.static:
                continue
            i = bisect.bisect_left(edge.stamps_ns, stamp_ns)
            if i < len(edge.stamps_ns) and edge.stamps_ns[i] == stamp_ns:
                continue
            before = max(before, stamp_ns - edge.stamps_ns[i - 1] if i else 0)
            after = max(after, edge.stamps_ns[i] - stamp_ns if i < len(edge.stamps_ns) else 0)
        return before * 1e-9, after * 1e-9

    def frames(self) -> dict[str, str]:
        """Parent of every frame that has one."""
        return {child: edge.parent for child, edge in self._edges.items()}

    def _chain(self, frame: str) -> list[str]:
        """The frame, its parent, and so on to the root."""
        chain = [frame]
        while chain[-1] in self._edges:
            chain.append(self._edges[chain[-1]].parent)
        return chain

    def _compose(self, children: list[str], stamp_ns: int, frames: tuple[str, str], extrapolate: bool) -> np.ndarray:
        T = np.eye(4)
        for child in children:
            edge = self._edges[child]
            self._check_covered(edge, child, stamp_ns, frames, extrapolate)
            T = edge.at(stamp_ns) @ T
        return T

    def _check_covered(
        self, edge: _Edge, child: str, stamp_ns: int, frames: tuple[str, str], extrapolate: bool
    ) -> None:
        if edge.static:
            return
        first, last = edge.stamps_ns[0], edge.stamps_ns[-1]
        beyond = max(first - stamp_ns, stamp_ns - last)
        limit = self._max_extrapolation if extrapolate and len(edge.stamps_ns) > 1 else 0
        if beyond > limit:
            raise PoseError(
                f"transform from '{frames[1]}' to '{frames[0]}' at {stamp_ns} ns: '{child}' in '{edge.parent}' "
                f"is known from {first} to {last} ns, {beyond * 1e-9:.3f} s away (limit {limit * 1e-9:g} s); does its "
                "publisher run, and by the same clock?",
                frames,
            )

    def _no_path(self, target: str, source: str, up: list[str], down: list[str]) -> str:
        known = sorted({*self._edges, *(edge.parent for edge in self._edges.values())})
        parts = []
        for frame, chain in ((source, up), (target, down)):
            if frame not in known:
                parts.append(f"'{frame}' has not been seen")
            elif len(chain) > 1:
                parts.append(f"'{frame}' hangs from '{chain[-1]}'")
            else:
                parts.append(f"'{frame}' is a root")
        seen = ", ".join(known) or "none"
        return (
            f"no transform from '{source}' to '{target}': {' and '.join(parts)}; frames seen: {seen}; publish "
            "the transform that joins them (/tf or /tf_static)"
        )
