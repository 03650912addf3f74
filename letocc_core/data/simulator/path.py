"""The street's centre line and where things are along it: s metres along, d metres to the left."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float

STEP = 0.5  # m between the points of the centre line


@dataclass(frozen=True, eq=False)
class CentreLine:
    """A smooth planar curve of unit speed."""

    points: Float[np.ndarray, "n 2"]  # m, STEP apart
    heading: Float[np.ndarray, "n"]  # rad

    @classmethod
    def random(cls, rng: np.random.Generator, length: float, tightest: float = 14.0) -> "CentreLine":
        """Straight stretches, gentle bends and sharp turns; its middle is at the origin, heading along x.

        Args:
            tightest: m, least radius of a turn.
        """
        count = int(length / STEP)
        curvature = np.zeros(count)
        at = 0
        while at < count:
            stretch = int(rng.uniform(25, 70) / STEP)
            kind = rng.choice(["straight", "bend", "turn"], p=[0.5, 0.3, 0.2])
            if kind == "bend":
                curvature[at : at + stretch] = rng.uniform(-0.02, 0.02)
            elif kind == "turn":
                radius, angle = rng.uniform(tightest, tightest + 6), rng.uniform(0.6, 1.5)
                stretch = int(radius * angle / STEP)
                curvature[at : at + stretch] = rng.choice([-1, 1]) / radius
            at += stretch
        ramp = np.ones(12) / 12  # steering takes a few metres
        heading = np.cumsum(np.convolve(curvature, ramp, "same")) * STEP
        heading -= heading[count // 2]
        points = np.cumsum(np.stack([np.cos(heading), np.sin(heading)], 1) * STEP, axis=0)
        return cls(points - points[count // 2], heading)

    @property
    def length(self) -> float:
        return len(self.points) * STEP

    def pose(self, s: float, d: float, reverse: bool = False) -> Float[np.ndarray, "4 4"]:
        """World pose at (s, d), heading along the line, or against it if `reverse`."""
        index = min(max(s / STEP, 0.0), len(self.points) - 1.0)
        i = min(int(index), len(self.points) - 2)
        x, y = (self.points[i + 1] - self.points[i]) * (index - i) + self.points[i]
        heading = (self.heading[i + 1] - self.heading[i]) * (index - i) + self.heading[i]
        T = np.eye(4)
        T[:2, 3] = x - d * np.sin(heading), y + d * np.cos(heading)
        yaw = heading + (np.pi if reverse else 0.0)
        T[:2, :2] = [[np.cos(yaw), -np.sin(yaw)], [np.sin(yaw), np.cos(yaw)]]
        return T

    def distance(self, points: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n"]:
        """Distance (m) of world points to the line."""
        return self._tree.query(points)[0]

    def across(self, points: Float[np.ndarray, "n 2"]) -> tuple[Float[np.ndarray, "n"], Float[np.ndarray, "n"]]:
        """How far (m) world points lie to the left of the line, negative to the right; its heading (rad) beside them."""
        nearest = self._tree.query(points)[1]
        heading = self.heading[nearest]
        x, y = (points - self.points[nearest]).T
        return y * np.cos(heading) - x * np.sin(heading), heading

    @cached_property
    def _tree(self):
        from scipy.spatial import cKDTree

        return cKDTree(self.points)
