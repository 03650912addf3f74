"""Truth that a simulator (or a labelled data set) knows about a frame: for evaluation only, never for training."""

from dataclasses import dataclass

import numpy as np

CLASS_NAMES = (
    "road", "kerb", "ground", "building", "vegetation", "pole", "sign", "car", "lorry", "cyclist", "pedestrian",
)  # fmt: skip
GROUND_CLASSES = ("road", "kerb", "ground")  # what RayIoU on objects leaves out
MOVABLE_CLASSES = ("car", "lorry", "cyclist", "pedestrian")
FREE = 255  # label of empty voxels, and of pixels that see the sky


@dataclass(frozen=True, eq=False)
class Truth:
    """Truth of one frame of N cameras (H x W as rendered) on the grid [X, Y, Z]."""

    depth: np.ndarray  # float32 [N, H, W] m along z of the optical frame, of a fisheye along its ray; inf = sky
    flow_forward: np.ndarray | None  # float32 [N, H, W, 2] px (du, dv) to the next frame; NaN where unknown
    flow_backward: np.ndarray | None  # float32 [N, H, W, 2] px to the previous frame
    movable: np.ndarray  # bool [N, H, W]: pixels of MOVABLE_CLASSES, parked ones too
    semantics: np.ndarray  # uint8 [N, H, W]: index into CLASS_NAMES, FREE = sky
    occupancy: np.ndarray  # uint8 [X, Y, Z]: index into CLASS_NAMES, FREE = empty
    velocity: np.ndarray  # float32 [X, Y, Z, 2] m/s: (vx, vy) of the matter relative to the world, in ego axes
    visible: np.ndarray  # bool [X, Y, Z]: some camera or LiDAR ray reaches this voxel (surface or empty before it)
