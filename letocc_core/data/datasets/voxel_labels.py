"""Voxel labels that come with data sets, for evaluation: Occ3D and OpenOcc (nuScenes), SemanticKITTI."""

import math
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, UInt8

from letocc_core.errors import DataError
from letocc_core.geometry.grid import GridSpec

IGNORE = 255  # a voxel whose label is not known

# Class names in the order of the ids in the files (nuScenes) or of the learning map (SemanticKITTI).
OPENOCC_CLASSES = (
    "car", "truck", "trailer", "bus", "construction_vehicle", "bicycle", "motorcycle", "pedestrian", "traffic_cone",
    "barrier", "driveable_surface", "other_flat", "sidewalk", "terrain", "manmade", "vegetation", "free",
)  # fmt: skip
OCC3D_CLASSES = (
    "others", "barrier", "bicycle", "bus", "car", "construction_vehicle", "motorcycle", "pedestrian", "traffic_cone",
    "trailer", "truck", "driveable_surface", "other_flat", "sidewalk", "terrain", "manmade", "vegetation", "free",
)  # fmt: skip
SEMANTIC_KITTI_CLASSES = (
    "free", "car", "bicycle", "motorcycle", "truck", "other-vehicle", "person", "bicyclist", "motorcyclist", "road",
    "parking", "sidewalk", "other-ground", "building", "fence", "vegetation", "trunk", "terrain", "pole",
    "traffic-sign",
)  # fmt: skip
# Raw label -> class: the benchmark's learning map. Outliers, other structures and other objects are not scored.
SEMANTIC_KITTI_MAP = {
    0: 0, 1: IGNORE, 10: 1, 11: 2, 13: 5, 15: 3, 16: 5, 18: 4, 20: 5, 30: 6, 31: 7, 32: 8, 40: 9, 44: 10, 48: 11,
    49: 12, 50: 13, 51: 14, 52: IGNORE, 60: 9, 70: 15, 71: 16, 72: 17, 80: 18, 81: 19, 99: IGNORE, 252: 1, 253: 7,
    254: 6, 255: 8, 256: 5, 257: 5, 258: 4, 259: 5,
}  # fmt: skip
NUSCENES_GRID = GridSpec((-40.0, -40.0, -1.0), (40.0, 40.0, 5.4), 0.4)  # ego axes at the keyframe's LiDAR sweep
SEMANTIC_KITTI_GRID = GridSpec((0.0, -25.6, -2.0), (51.2, 25.6, 4.4), 0.2)  # the scanner's axes


@dataclass(frozen=True, eq=False)
class VoxelLabels:
    """Labels of one frame on a grid in its ego axes."""

    grid: GridSpec
    classes: tuple[str, ...]  # names by id; one of them is `free`
    labels: UInt8[np.ndarray, "X Y Z"]  # class ids, `IGNORE` where unknown
    scored: Bool[np.ndarray, "X Y Z"]  # voxels that the benchmark scores
    velocity: Float[np.ndarray, "X Y Z 2"] | None = None  # m/s, (vx, vy) relative to the world, ego axes

    @property
    def free(self) -> int:
        """Class id of empty voxels."""
        return self.classes.index("free")


def read_occ3d(path: Path) -> VoxelLabels:
    """Occ3D's `gts/<scene>/<sample token>/labels.npz`; scored is what a camera sees (its `mask_camera`).

    Raises `DataError` for a missing or damaged file, or arrays of another size.
    """
    file = _read_npz(path, ("semantics", "mask_camera"))
    labels = _sized(path, "semantics", file["semantics"], NUSCENES_GRID.shape)
    scored = _sized(path, "mask_camera", file["mask_camera"], NUSCENES_GRID.shape)
    return VoxelLabels(NUSCENES_GRID, OCC3D_CLASSES, labels.astype(np.uint8), scored.astype(bool))


def read_openocc(path: Path) -> VoxelLabels:
    """OpenOcc v2.1's `openocc_v2/<scene>/<sample token>/labels.npz`, with flow; every voxel is scored.

    Raises as `read_occ3d`.
    """
    file = _read_npz(path, ("semantics", "flow"))
    labels = _sized(path, "semantics", file["semantics"], NUSCENES_GRID.shape)
    velocity = _sized(path, "flow", file["flow"], (*NUSCENES_GRID.shape, 2))
    everywhere = np.ones(NUSCENES_GRID.shape, bool)
    return VoxelLabels(NUSCENES_GRID, OPENOCC_CLASSES, labels.astype(np.uint8), everywhere, velocity.astype(np.float32))


def read_semantic_kitti(path: Path) -> VoxelLabels:
    """SemanticKITTI's `voxels/NNNNNN.label` (uint16) and, beside it, `NNNNNN.invalid` (a bit a voxel: never observed).

    Raises `DataError` for a missing file, one of the wrong size, or a label that the learning map does not know.
    """
    shape = SEMANTIC_KITTI_GRID.shape
    raw = np.frombuffer(_read_exactly(path, 2 * math.prod(shape)), "<u2")
    invalid_file = path.with_suffix(".invalid")
    invalid = np.unpackbits(np.frombuffer(_read_exactly(invalid_file, math.prod(shape) // 8), np.uint8)).astype(bool)
    table = np.full(2**16, -1, np.int16)
    table[list(SEMANTIC_KITTI_MAP)] = list(SEMANTIC_KITTI_MAP.values())
    labels = table[raw]
    if (labels < 0).any():
        raise DataError(f"{path}: label {raw[labels < 0][0]} is not in the learning map; expected SemanticKITTI labels")
    labels = np.where(invalid, IGNORE, labels).astype(np.uint8).reshape(shape)
    return VoxelLabels(SEMANTIC_KITTI_GRID, SEMANTIC_KITTI_CLASSES, labels, labels != IGNORE)


def _read_npz(path: Path, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    try:
        with np.load(path) as file:
            missing = [name for name in names if name not in file.files]
            if missing:
                raise DataError(f"{path}: no array {', '.join(missing)}; arrays found: {', '.join(file.files)}")
            return {name: file[name] for name in names}
    except FileNotFoundError:
        raise DataError(f"{path}: no such file of voxel labels; extract the labels' archive") from None
    except (zipfile.BadZipFile, zlib.error, ValueError, OSError) as error:
        raise DataError(f"{path}: damaged ({error}); extract it again") from error


def _sized(path: Path, name: str, array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    if array.shape != shape:
        raise DataError(f"{path}: {name} is {list(array.shape)}, expected {list(shape)}; are these the right labels?")
    return array


def _read_exactly(path: Path, size: int) -> bytes:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path}: no such file of voxel labels; extract the benchmark's voxel archive") from None
    if len(data) != size:
        raise DataError(f"{path}: {len(data)} bytes, expected {size} for a grid of 256 x 256 x 32; extract it again")
    return data
