"""Camera rigs: what is mounted where. Built-in ones are YAML files in `rigs/`; any other is a YAML file of that form."""

import dataclasses
import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Float

from letocc_core import config
from letocc_core.errors import ConfigError
from letocc_core.geometry.camera import scale_intrinsics

BUILT_IN = Path(__file__).parent / "rigs"


@dataclass(frozen=True)
class CameraMount:
    """A pinhole camera on base_link."""

    position: tuple[float, float, float]  # m, ego axes
    yaw: float  # degrees, left of forward
    width: int = 1600  # px
    height: int = 914  # px
    fov: float = 70.0  # degrees, horizontal
    pitch: float = 0.0  # degrees, downwards


@dataclass(frozen=True)
class LidarMount:
    """A rotating LiDAR on base_link."""

    position: tuple[float, float, float] = (0.9, 0.0, 1.85)  # m, ego axes
    lowest: float = -30.0  # degrees, elevation of the lowest beam
    highest: float = 10.0  # degrees
    beams: int = 32
    columns: int = 720  # measurements a beam a turn
    range: float = 80.0  # m


@dataclass(frozen=True)
class Rig:
    """Cameras by name, all of one image size, and a LiDAR."""

    cameras: dict[str, CameraMount]
    lidar: LidarMount = field(default_factory=LidarMount)

    def __post_init__(self):
        if not self.cameras:
            raise ConfigError("rig: no camera")
        sizes = {(c.height, c.width) for c in self.cameras.values()}
        if len(sizes) > 1:
            raise ConfigError(f"rig: cameras of several sizes {sorted(sizes)}, expected one size for all")

    @classmethod
    def load(cls, rig: str | Path) -> "Rig":
        """A built-in rig by name, or one from a YAML file. Raises `ConfigError` naming the rigs there are."""
        path = BUILT_IN / f"{rig}.yaml"
        if path.is_file():
            return config.load(cls, path)
        if Path(rig).suffix in (".yaml", ".yml"):
            return config.load(cls, rig)
        names = ", ".join(sorted(p.stem for p in BUILT_IN.glob("*.yaml")))
        raise ConfigError(f"rig '{rig}': not one of {names}, nor a YAML file")

    def resized(self, height: int, width: int) -> "Rig":
        """The same rig with images of another size and the same horizontal field of view."""
        return Rig({n: dataclasses.replace(c, height=height, width=width) for n, c in self.cameras.items()}, self.lidar)

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) in px."""
        first = next(iter(self.cameras.values()))
        return first.height, first.width

    def intrinsics(self) -> Float[np.ndarray, "N 3 3"]:
        """Intrinsics of every camera (px), principal point in the middle."""
        return np.stack([_intrinsics(c) for c in self.cameras.values()])

    def T_ego_cam(self) -> Float[np.ndarray, "N 4 4"]:
        """Optical frames (z forward, x right, y down) in base_link."""
        return np.stack([_pose(c) for c in self.cameras.values()])


def _intrinsics(mount: CameraMount) -> Float[np.ndarray, "3 3"]:
    focal = 0.5 / math.tan(math.radians(mount.fov) / 2)
    unit = np.array([[focal, 0, 0.0], [0, focal, 0.0], [0, 0, 1]])  # an image one pixel wide
    K = scale_intrinsics(unit, mount.width, mount.width)
    K[1, 2] = (mount.height - 1) / 2
    return K


def _pose(mount: CameraMount) -> Float[np.ndarray, "4 4"]:
    yaw, pitch = math.radians(mount.yaw), math.radians(mount.pitch)
    forward = np.array([math.cos(yaw) * math.cos(pitch), math.sin(yaw) * math.cos(pitch), -math.sin(pitch)])
    right = np.array([math.sin(yaw), -math.cos(yaw), 0.0])
    T = np.eye(4)
    T[:3, :3] = np.stack([right, np.cross(forward, right), forward], axis=1)
    T[:3, 3] = mount.position
    return T
