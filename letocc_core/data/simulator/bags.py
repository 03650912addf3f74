"""Simulated streets as recordings: a ROS 2 bag a street, and the truth of every frame beside it.

out/street_009000/            the bag (MCAP): images, camera_info, /tf, /tf_static, /points
out/street_009000_truth/      NNNNNN.npz a frame, the fields of `Truth`; truth.yaml: seed, grid, classes
"""

import dataclasses
from pathlib import Path

import numpy as np
import yaml

from letocc_core.data.bags.writer import BagWriter, optical_frame
from letocc_core.data.simulator.rendering import rendered
from letocc_core.data.simulator.rig import Rig
from letocc_core.data.simulator.street import EPOCH_NS, SimFrame, Street
from letocc_core.data.truth import CLASS_NAMES, FREE, Truth
from letocc_core.errors import DataError
from letocc_core.geometry.grid import GridSpec

ODOMETRY_HZ = 50.0  # transforms a second on /tf
MARGIN = 0.2  # s of transforms before the first and after the last image set


def simulate(
    out: Path,
    seed: int = 0,
    scenes: int = 1,
    seconds: float = 5.0,
    rig: str = "nuscenes",
    rate_hz: float = 20.0,
    image_size: tuple[int, int] | None = None,
    grid: GridSpec | None = None,
    workers: int = 2,
) -> list[Path]:
    """Write one bag a street, with consecutive seeds; returns the bags' folders.

    Args:
        image_size: px, height and width; the rig's own if None.
        grid: of the occupancy truth; the default `GridSpec` if None.
        workers: processes that render.

    Raises:
        ConfigError: no such rig. DataError: a bag exists already.
    """
    mounted = Rig.load(rig)
    mounted = mounted.resized(*image_size) if image_size else mounted
    grid = grid or GridSpec()
    times = [i / rate_hz for i in range(max(1, round(seconds * rate_hz)))]
    return [_write_street(Path(out), s, mounted, grid, times, rate_hz, workers) for s in range(seed, seed + scenes)]


@dataclasses.dataclass(frozen=True)
class TruthFolder:
    """The truth beside a simulated bag."""

    path: Path
    interval: float  # s between its frames, also those of its optical flow
    cameras: tuple[str, ...]  # in the order of its images

    @classmethod
    def beside(cls, bag: Path) -> "TruthFolder | None":
        """That of a bag, or None where none lies beside it."""
        path = truth_folder(bag)
        if not (path / "truth.yaml").is_file():
            return None
        about = yaml.safe_load((path / "truth.yaml").read_text("utf-8-sig"))
        if "cameras" not in about:
            raise DataError(
                f"{path / 'truth.yaml'}: does not name its cameras; write the bag with letocc simulate again"
            )
        return cls(path, 1 / about["rate_hz"], tuple(about["cameras"]))

    def at(self, stamp_ns: int) -> Truth:
        """Truth of the image set with this stamp."""
        return load_truth(self.path, round((stamp_ns - EPOCH_NS) * 1e-9 / self.interval))


def load_truth(folder: Path, index: int) -> Truth:
    """Truth of the frame at position `index` of a recording; raises `DataError` if it is not there."""
    path = Path(folder) / f"{index:06d}.npz"
    if not path.is_file():
        raise DataError(f"{path}: no truth of this frame; 'letocc simulate' writes one file a frame")
    with np.load(path) as file:
        return Truth(**{field.name: file[field.name] for field in dataclasses.fields(Truth)})


def truth_folder(bag: Path) -> Path:
    """Where the truth of a simulated bag lies."""
    return bag.with_name(f"{bag.name}_truth")


def _write_street(
    out: Path, seed: int, rig: Rig, grid: GridSpec, times: list[float], rate_hz: float, workers: int
) -> Path:
    path = out / f"street_{seed:06d}"
    out.mkdir(parents=True, exist_ok=True)
    names = list(rig.cameras)
    frames = rendered(seed, rig, grid, times, [True] * len(times), 1 / rate_hz, workers)
    with BagWriter(path) as bag:
        _write_transforms(bag, Street(seed, rig), names, times)
        folder = truth_folder(path)
        folder.mkdir(exist_ok=True)
        for i, frame in enumerate(frames):
            _write_frame(bag, frame, names)
            truth = {field.name: getattr(frame.truth, field.name) for field in dataclasses.fields(Truth)}
            np.savez_compressed(folder / f"{i:06d}.npz", **truth)
    about = {
        "seed": seed,
        "rate_hz": rate_hz,
        "cameras": names,
        "grid": {k: _plain(v) for k, v in dataclasses.asdict(grid).items()},
        "classes": list(CLASS_NAMES),
        "free": FREE,
    }
    (folder / "truth.yaml").write_text(yaml.safe_dump(about))
    return path


def _write_transforms(bag: BagWriter, street: Street, names: list[str], times: list[float]) -> None:
    """Mounts on /tf_static, and base_link in odom (its start) on /tf."""
    static = [("base_link", optical_frame(n), T) for n, T in zip(names, street.rig.T_ego_cam(), strict=True)]
    if street.rig.lidar:
        T_ego_lidar = np.eye(4)
        T_ego_lidar[:3, 3] = street.rig.lidar_origin
        static.append(("base_link", "lidar", T_ego_lidar))
    start = EPOCH_NS - round(MARGIN * 1e9)
    bag.write_tf_static(start, static)
    T_odom_world = np.linalg.inv(street.pose(0.0))
    for i in range(round((times[-1] + 2 * MARGIN) * ODOMETRY_HZ) + 1):
        t = i / ODOMETRY_HZ - MARGIN
        bag.write_tf(EPOCH_NS + round(t * 1e9), "odom", "base_link", T_odom_world @ street.pose(t))


def _write_frame(bag: BagWriter, frame: SimFrame, names: list[str]) -> None:
    for name, image, calibration in zip(names, frame.images, frame.calibrations, strict=True):
        bag.write_camera_info(name, frame.stamp_ns, calibration)
        bag.write_image(name, frame.stamp_ns, image)
    if frame.lidar is None or frame.lidar_velocity is None:
        return
    x, y, z = frame.returns.T
    vx, vy = frame.lidar_velocity.T
    bag.write_points(frame.stamp_ns, "lidar", {"x": x, "y": y, "z": z, "vx": vx, "vy": vy})


def _plain(value):
    return list(value) if isinstance(value, tuple) else value
