"""What goes into and comes out of the online path: plain numpy, no ROS, no clock."""

from dataclasses import dataclass, field, replace

import numpy as np

from letocc_core.errors import DataError
from letocc_core.geometry.calibration import Calibration
from letocc_core.geometry.grid import GridSpec


@dataclass(frozen=True, eq=False)
class FrameSet:
    """One synchronised set of raw images, one entry a configured camera, with everything needed to place them."""

    stamp_ns: int  # ns, of the anchor camera's image
    images: tuple[np.ndarray | None, ...]  # uint8 RGB [h, w, 3] as recorded; None = this camera is missing
    calibrations: tuple[Calibration | None, ...]  # None only where the image is missing too
    T_ego_cam: np.ndarray  # [N, 4, 4] m, camera optical frame -> base_link; identity where the image is missing
    T_world_ego: np.ndarray  # [4, 4] m, base_link -> fixed frame at `stamp_ns`
    masks: tuple[
        np.ndarray | None, ...
    ] = ()  # bool [h, w]: pixels without evidence, the vehicle's own body; empty: none
    arrived: float | None = None  # s (`time.monotonic`), when its first image came; None: read from a file

    def calibration(self, camera: int) -> Calibration:
        """Of a camera that has an image; raises `DataError` for one without."""
        found = self.calibrations[camera]
        if found is None:
            raise DataError(
                f"frame set at {self.stamp_ns} ns: camera {camera} has no calibration, expected that of its image"
            )
        return found


@dataclass(frozen=True, eq=False)
class OccFlow:
    """The answer for one frame set, on the grid, in ego axes of `stamp_ns`."""

    stamp_ns: int  # ns
    grid: GridSpec
    probability: np.ndarray  # float32 [X, Y, Z] in [0, 1]: occupied
    velocity: np.ndarray  # float32 [X, Y, Z, 2] m/s: (vx, vy) of the matter relative to the world
    observed: np.ndarray  # bool [X, Y, Z]: the voxel's centre projects into a camera of this set
    threshold: float  # a voxel is occupied where probability > threshold
    labels: np.ndarray | None = None  # uint8 [X, Y, Z]: index into class_names
    class_names: tuple[str, ...] = ()
    ends: np.ndarray | None = (
        None  # bool [X, Y, Z]: occupied below the threshold, as a camera's rays most probably end there
    )
    hidden: np.ndarray | None = None  # bool [X, Y, Z]: observed, but behind an occupied voxel; None: not recorded
    reset_reason: str | None = None  # why the past was forgotten before this set, if it was
    seconds: dict[str, float] = field(default_factory=dict)  # s spent by stage
    rectified: FrameSet | None = None  # the set as the network saw it, without distortion; None: not recorded

    @property
    def occupied(self) -> np.ndarray:
        """bool [X, Y, Z]: observed voxels above the threshold or where rays end; hidden ones are what the network believes."""
        above = self.probability > self.threshold
        return (above if self.ends is None else above | self.ends) & self.observed

    @property
    def seen(self) -> np.ndarray:
        """bool [X, Y, Z]: empty voxels before the first surface that a camera looks at, and that surface.

        All that cameras look at, if what is hidden was not recorded.
        """
        return self.observed if self.hidden is None else self.observed & ~self.hidden

    @property
    def surfaces(self) -> np.ndarray:
        """bool [X, Y, Z]: occupied voxels that a camera sees. What is hidden is unknown, so it does not count."""
        return self.occupied & self.seen

    def believed(self) -> "OccFlow":
        """The same answer for those who trust the network behind surfaces: nothing counts as hidden."""
        return replace(self, hidden=None)
