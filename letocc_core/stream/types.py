"""What goes into and comes out of the online path: plain numpy, no ROS, no clock."""

from dataclasses import dataclass, field

import numpy as np

from letocc_core.geometry.grid import GridSpec


@dataclass(frozen=True, eq=False)
class Calibration:
    """One camera as `sensor_msgs/CameraInfo` describes it."""

    width: int  # px
    height: int  # px
    K: np.ndarray  # [3, 3] px, of the raw image
    D: np.ndarray = field(default_factory=lambda: np.zeros(0))  # distortion coefficients, of `distortion_model`
    distortion_model: str = "plumb_bob"  # plumb_bob, rational_polynomial or equidistant

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Calibration) and (
            (self.width, self.height, self.distortion_model) == (other.width, other.height, other.distortion_model)
            and np.array_equal(self.K, other.K)
            and np.array_equal(self.D, other.D)
        )


@dataclass(frozen=True, eq=False)
class FrameSet:
    """One synchronised set of raw images, one entry a configured camera, with everything needed to place them."""

    stamp_ns: int  # ns, of the anchor camera's image
    images: tuple[np.ndarray | None, ...]  # uint8 RGB [h, w, 3] as recorded; None = this camera is missing
    calibrations: tuple[Calibration, ...]
    T_ego_cam: np.ndarray  # [N, 4, 4] m, camera optical frame -> base_link
    T_world_ego: np.ndarray  # [4, 4] m, base_link -> fixed frame at `stamp_ns`


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
    reset_reason: str | None = None  # why the past was forgotten before this set, if it was
    seconds: dict[str, float] = field(default_factory=dict)  # s spent by stage

    @property
    def occupied(self) -> np.ndarray:
        """bool [X, Y, Z]: observed voxels above the threshold."""
        return (self.probability > self.threshold) & self.observed
