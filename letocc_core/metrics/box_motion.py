"""Velocities of what is in labelled boxes, for recordings whose objects somebody has drawn boxes around.

A box file is an .npz without pickled objects; n boxes, each in the ego axes of its own stamp:

| key | array | what |
| --- | --- | --- |
| `stamp` | int64 [n] | ns |
| `centre`, `size` | float [n, 3] | m; length, width and height |
| `yaw` | float [n] | rad, of the length: 0 along x, counterclockwise |
| `velocity` | float [n, 2] | m/s (vx, vy) over the ground; NaN where unknown |
| `stationary` | bool [n] | stands still; may be absent: what is slower than 0.5 m/s then does |

Other keys, such as `label` and `track`, are not read. The matter of a box is the occupied voxels whose centre lies in it,
`MARGIN` more at its sides and `LIFT` above its bottom, where the road is not.
"""

import zipfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int

from letocc_core.errors import DataError
from letocc_core.geometry.grid import GridSpec
from letocc_core.metrics.motion import MOVING_SPEED, Mean, Median, direction_error_deg

REACH = 18.0  # m from base_link, horizontally, up to which the centre of a box counts
MARGIN = 0.2  # m
LIFT = 0.3  # m
SHAPES = {"stamp": (), "centre": (3,), "size": (3,), "yaw": (), "velocity": (2,)}  # of one box


@dataclass(frozen=True, eq=False)
class Boxes:
    """n upright boxes around objects, in ego axes."""

    stamp_ns: Int[np.ndarray, "n"]
    centre: Float[np.ndarray, "n 3"]  # m
    size: Float[np.ndarray, "n 3"]  # m: length, width, height
    yaw: Float[np.ndarray, "n"]  # rad
    velocity: Float[np.ndarray, "n 2"]  # m/s over the ground; NaN = unknown
    stationary: Bool[np.ndarray, "n"]

    @classmethod
    def load(cls, path: Path) -> "Boxes":
        """Read a box file; raises `DataError` that names it, for one that is missing or otherwise than above."""
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in (*SHAPES, "stationary") if name in file.files}
        except FileNotFoundError as error:
            raise DataError(f"{path}: no such file; expected boxes as docs/results-format.md describes") from error
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise DataError(f"{path}: not a box file, or damaged ({type(error).__name__}: {error})") from error
        if missing := [name for name in SHAPES if name not in arrays]:
            raise DataError(f"{path}: lacks {', '.join(missing)}; expected {', '.join(SHAPES)}")
        count = len(arrays["stamp"])
        for name, values in arrays.items():
            expected = (count, *SHAPES.get(name, ()))
            if values.shape != expected or values.dtype.kind not in "fiub":
                raise DataError(f"{path}: {name} is {values.dtype} {list(values.shape)}, expected {list(expected)}")
        velocity = arrays["velocity"].astype(np.float64)
        slow = np.linalg.norm(velocity, axis=1) <= MOVING_SPEED
        centre, size, yaw = (arrays[name].astype(np.float64) for name in ("centre", "size", "yaw"))
        return cls(
            arrays["stamp"].astype(np.int64),
            centre,
            size,
            yaw,
            velocity,
            arrays.get("stationary", slow).astype(bool),
        )

    def nearest(self, stamp_ns: int, within: float) -> "Boxes | None":
        """Those of the one stamp nearest to another, if it is within so many s."""
        if not len(self.stamp_ns):
            return None
        apart = np.abs(self.stamp_ns - stamp_ns)
        if apart.min() > within * 1e9:
            return None
        return self.select(self.stamp_ns == self.stamp_ns[apart.argmin()])

    def select(self, chosen: Bool[np.ndarray, "n"]) -> "Boxes":
        """Some of them."""
        return Boxes(*(values[chosen] for values in vars(self).values()))

    def seen_from(self, T: Float[np.ndarray, "4 4"], stamp_ns: int) -> "Boxes":
        """The same objects at another stamp; `T` leads from these ego axes (m) to those of then."""
        seconds = (stamp_ns - self.stamp_ns) * 1e-9
        way = np.nan_to_num(self.velocity) * seconds[:, None]
        centre = (self.centre + np.pad(way, ((0, 0), (0, 1)))) @ T[:3, :3].T + T[:3, 3]
        yaw = self.yaw + np.arctan2(T[1, 0], T[0, 0])
        stamps = np.full_like(self.stamp_ns, stamp_ns)
        return Boxes(stamps, centre, self.size, yaw, self.velocity @ T[:2, :2].T, self.stationary)

    def holds(self, number: int, points: Float[np.ndarray, "p 3"]) -> Bool[np.ndarray, "p"]:
        """Which points (m, ego axes) are matter of one box, if occupied."""
        offset = points - self.centre[number]
        cos, sin = np.cos(self.yaw[number]), np.sin(self.yaw[number])
        along, across = offset[:, 0] * cos + offset[:, 1] * sin, offset[:, 1] * cos - offset[:, 0] * sin
        length, width, height = self.size[number] / 2
        beside = (np.abs(along) <= length + MARGIN) & (np.abs(across) <= width + MARGIN)
        return beside & (offset[:, 2] >= LIFT - height) & (offset[:, 2] <= height)


@dataclass(frozen=True, eq=False)
class BoxMotionScore:
    """The `boxes` group of the results format; add the scores of all frames."""

    error: Mean = field(default_factory=Mean)  # m/s, one entry a moving object
    still: Mean = field(default_factory=Mean)  # m/s, of zero velocity at the same objects
    direction: Median = field(default_factory=Median)  # degrees, one entry a voxel of moving objects
    false_motion: Mean = field(default_factory=Mean)  # one entry a voxel of standing objects
    found: Mean = field(default_factory=Mean)  # one entry an object: whether it has matter

    @classmethod
    def of(
        cls,
        boxes: Boxes,
        occupied: Bool[np.ndarray, "X Y Z"],
        velocity: Float[np.ndarray, "X Y Z 2"],
        observed: Bool[np.ndarray, "X Y Z"],
        grid: GridSpec,
    ) -> "BoxMotionScore":
        """Score of one frame, at the boxes within `REACH` that hold a voxel that cameras look at."""
        looked = np.argwhere(observed)
        centres, matter = grid.centres_of(looked), occupied[tuple(looked.T)]
        said = velocity[tuple(looked.T)].astype(np.float64)
        score = cls()
        for number in np.flatnonzero(np.hypot(*boxes.centre[:, :2].T) <= REACH).tolist():
            inside = boxes.holds(number, centres)
            if inside.any():
                true, stands = boxes.velocity[number], bool(boxes.stationary[number])
                score += cls._of_object(true, stands, said[inside & matter])
        return score

    @classmethod
    def _of_object(cls, true: Float[np.ndarray, "2"], stands: bool, said: Float[np.ndarray, "v 2"]) -> "BoxMotionScore":
        """Score of the matter of one object."""
        found = Mean.of(np.array([len(said) > 0]))
        speed = float(np.linalg.norm(true))
        if not len(said):
            return cls(found=found)
        if stands:
            return cls(found=found, false_motion=Mean.of(np.linalg.norm(said, axis=1) > MOVING_SPEED))
        if not speed > MOVING_SPEED:  # or unknown
            return cls(found=found)
        error = float(np.linalg.norm(said - true, axis=1).mean())
        angles = direction_error_deg(np.broadcast_to(true, said.shape), said).astype(np.float32)
        return cls(Mean(error, 1), Mean(speed, 1), Median(angles), found=found)

    def __add__(self, other: "BoxMotionScore") -> "BoxMotionScore":
        return BoxMotionScore(
            *(mine + theirs for mine, theirs in zip(vars(self).values(), vars(other).values(), strict=True))
        )

    def summary(self) -> dict[str, float]:
        """`mave` (m/s), `mave_ratio`, `direction_error_deg`, `false_motion`, `found` (shares); without those of nothing."""
        values = {
            "mave": self.error.value(),
            "mave_ratio": self.error.sum / self.still.sum if self.still.sum else None,
            "direction_error_deg": self.direction.value(),
            "false_motion": self.false_motion.value(),
            "found": self.found.value(),
        }
        return {k: v for k, v in values.items() if v is not None}
