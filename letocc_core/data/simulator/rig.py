"""Rigs: which cameras and LiDAR are mounted where. Built-in ones are YAML files in `rigs/`; any other is a YAML file of that form."""

import dataclasses
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float

from letocc_core import config
from letocc_core.errors import ConfigError
from letocc_core.geometry.calibration import Calibration
from letocc_core.geometry.camera import pinhole_intrinsics
from letocc_core.geometry.lens import project_fisheye

BUILT_IN = Path(__file__).parent / "rigs"


@dataclass(frozen=True)
class CameraMount:
    """A camera on base_link."""

    position: tuple[float, float, float]  # m, ego axes
    yaw: float  # degrees, left of forward
    width: int = 1600  # px
    height: int = 914  # px
    fov: float = 70.0  # degrees, horizontal
    pitch: float = 0.0  # degrees, downwards
    # fisheye: equidistant. Not in `repr`, of which caches of streets make their names: those have pinholes
    lens: Literal["pinhole", "fisheye"] = field(default="pinhole", repr=False)
    roll: float = field(default=0.0, repr=False)  # degrees, clockwise about the optical axis
    # where the optical axis meets the image, right and down of its middle, as shares of width and height
    off_centre: tuple[float, float] = field(default=(0.0, 0.0), repr=False)


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
    """Cameras by name, all of one image size, and a LiDAR, if there is one."""

    cameras: dict[str, CameraMount]
    lidar: LidarMount | None = field(default_factory=LidarMount)

    def __post_init__(self):
        if not self.cameras:
            raise ConfigError("rig: no camera, expected at least one")
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

    def only(self, name: str) -> "Rig":
        """The rig with one of its cameras."""
        return Rig({name: self.cameras[name]}, self.lidar)

    def resized(self, height: int, width: int) -> "Rig":
        """The same rig with images of another size and the same horizontal field of view."""
        return Rig({n: dataclasses.replace(c, height=height, width=width) for n, c in self.cameras.items()}, self.lidar)

    @property
    def lidar_origin(self) -> Float[np.ndarray, "3"]:
        """The LiDAR's position (m, ego axes); without one, that of the middle of the cameras."""
        return np.array(self.lidar.position) if self.lidar else self.T_ego_cam()[:, :3, 3].mean(0)

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) in px."""
        first = next(iter(self.cameras.values()))
        return first.height, first.width

    def require_pinholes(self, purpose: str) -> "Rig":
        """This rig; raises `ConfigError` naming the camera and `purpose` if one of its cameras is a fisheye."""
        for name, mount in self.cameras.items():
            if mount.lens != "pinhole":
                raise ConfigError(
                    f"rig: {name} has a {mount.lens} lens; {purpose} takes pinhole cameras. Write bags of this rig with "
                    "`letocc simulate`, and train on those"
                )
        return self

    def calibrations(self) -> tuple[Calibration, ...]:
        """What each camera's camera_info says."""
        models = {"pinhole": (np.zeros(0), "plumb_bob"), "fisheye": (np.zeros(4), "equidistant")}
        cameras = zip(self.cameras.values(), self.intrinsics(), strict=True)
        return tuple(Calibration(c.width, c.height, K, *models[c.lens]) for c, K in cameras)

    def rays(self) -> Float[np.ndarray, "N H W 3"]:
        """Direction of every pixel in its camera's optical axes: with z = 1 for a pinhole, of length 1 for a fisheye."""
        height, width = self.image_size
        v, u = np.mgrid[:height, :width].astype(np.float64)
        out = []
        for mount, K in zip(self.cameras.values(), self.intrinsics(), strict=True):
            x, y = (u - K[0, 2]) / K[0, 0], (v - K[1, 2]) / K[1, 1]
            if mount.lens == "fisheye":
                angle = np.hypot(x, y)
                sine = np.sinc(angle / np.pi)  # sin(angle) / angle
                out.append(np.stack([x * sine, y * sine, np.cos(angle)], -1))
            else:
                out.append(np.stack([x, y, np.ones_like(x)], -1))
        return np.stack(out)

    def project(
        self, points: Float[np.ndarray, "N n 3"]
    ) -> tuple[Float[np.ndarray, "N n 2"], Float[np.ndarray, "N n"]]:
        """Pixels of points (m, each camera's optical frame), and how many `rays` long the way to them is.

        Points that are nearer than 0.1 of those have no meaningful pixel.
        """
        pixels, reach = np.empty_like(points[..., :2]), points[..., 2].copy()
        for i, (mount, K) in enumerate(zip(self.cameras.values(), self.intrinsics(), strict=True)):
            if mount.lens == "fisheye":
                pixels[i] = project_fisheye(points[i], K, np.zeros(4))
                reach[i] = np.linalg.norm(points[i], axis=-1)
            else:
                pixels[i] = points[i, :, :2] / np.maximum(reach[i], 0.1)[:, None] * np.diag(K)[:2] + K[:2, 2]
        return pixels, reach

    def intrinsics(self) -> Float[np.ndarray, "N 3 3"]:
        """Intrinsics of every camera (px), principal point in the middle unless `off_centre`; a fisheye's focal lengths are px a radian."""
        return np.stack([_intrinsics(c) for c in self.cameras.values()])

    def T_ego_cam(self) -> Float[np.ndarray, "N 4 4"]:
        """Optical frames (z forward, x right, y down) in base_link."""
        return np.stack([_pose(c) for c in self.cameras.values()])


def _intrinsics(mount: CameraMount) -> Float[np.ndarray, "3 3"]:
    K = pinhole_intrinsics(mount.height, mount.width, mount.fov if mount.lens == "pinhole" else 90.0)
    if mount.lens == "fisheye":
        K[0, 0] = K[1, 1] = mount.width / math.radians(mount.fov)
    K[:2, 2] += np.multiply(mount.off_centre, (mount.width, mount.height))
    return K


def _pose(mount: CameraMount) -> Float[np.ndarray, "4 4"]:
    yaw, pitch = math.radians(mount.yaw), math.radians(mount.pitch)
    forward = np.array([math.cos(yaw) * math.cos(pitch), math.sin(yaw) * math.cos(pitch), -math.sin(pitch)])
    right = np.array([math.sin(yaw), -math.cos(yaw), 0.0])
    T = np.eye(4)
    down = np.cross(forward, right)
    if mount.roll:
        cosine, sine = math.cos(math.radians(mount.roll)), math.sin(math.radians(mount.roll))
        right, down = cosine * right + sine * down, cosine * down - sine * right
    T[:3, :3] = np.stack([right, down, forward], axis=1)
    T[:3, 3] = mount.position
    return T
