"""One answer with everything that led to it, in one file: what `~/save_snapshot` writes and `letocc view` opens.

The file is an .npz without pickled objects. S sets, oldest first, the last one is the answered one; N cameras;
images as they entered the network (undistorted, resized, cropped to H x W):

| key | array | what |
| --- | --- | --- |
| `stamps_ns` | int64 [S] | ns |
| `images` | uint8 [S, N, H, W, 3] | RGB; zeros where a camera was missing |
| `valid` | bool [S, N] | which cameras had an image |
| `masked` | bool [S, N, H, W] | pixels without evidence, if there are masks of the vehicle's body |
| `K` | float64 [S, N, 3, 3] | px, of these images, without distortion |
| `T_ego_cam` | float64 [S, N, 4, 4] | m, camera optical frame -> ego |
| `T_world_ego` | float64 [S, 4, 4] | m, ego -> fixed frame |
| `probability`, `velocity`, `observed` | as in `OccFlow` | the answer |
| `labels` | as in `OccFlow` | if the model has semantics |
| `ends` | as in `OccFlow` | absent where rays were not asked |
| `hidden` | as in `OccFlow` | absent in files of before it was told |
| `about` | JSON text | format, cameras, grid, thresholds, class names, checkpoint, versions |
"""

import dataclasses
import json
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from letocc_core.errors import DataError
from letocc_core.geometry.grid import GridSpec
from letocc_core.stream.types import Calibration, FrameSet, OccFlow

FORMAT = "letocc snapshot 1"
ARRAYS = {  # name -> kind of numbers, number of axes
    "stamps_ns": ("i", 1),
    "images": ("u", 5),
    "valid": ("b", 2),
    "K": ("f", 4),
    "T_ego_cam": ("f", 4),
    "T_world_ego": ("f", 3),
    "probability": ("f", 3),
    "velocity": ("f", 4),
    "observed": ("b", 3),
}


@dataclass(frozen=True, eq=False)
class Snapshot:
    """An answer and the image sets that it was computed from."""

    sets: tuple[FrameSet, ...]  # oldest first, rectified; the last one is the answered one, the others are its past
    answer: OccFlow
    about: dict[str, Any] = field(default_factory=dict)  # JSON: cameras, checkpoint, versions, surface_threshold, ...

    def save(self, path: str | Path) -> Path:
        """Write the file; its folder is made. Returns the path, with `.npz` at its end."""
        path = Path(path)
        path = path if path.suffix == ".npz" else path.with_name(f"{path.name}.npz")
        path.parent.mkdir(parents=True, exist_ok=True)
        answer = self.answer
        known = {"labels": answer.labels, "ends": answer.ends, "hidden": answer.hidden}
        about = self.about | {
            "format": FORMAT,
            "grid": dataclasses.asdict(answer.grid),
            "threshold": answer.threshold,
            "class_names": list(answer.class_names),
        }
        arrays: dict[str, Any] = {
            **_stack(self.sets),
            "probability": answer.probability,
            "velocity": answer.velocity,
            "observed": answer.observed,
            "about": np.array(json.dumps(about)),
            **{name: values for name, values in known.items() if values is not None},
        }
        np.savez(path, **arrays)
        return path

    @classmethod
    def load(cls, path: str | Path) -> "Snapshot":
        """Read a file; raises `DataError` that names it, for one that is missing, damaged or of another kind."""
        path = Path(path)
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            about = json.loads(str(arrays.pop("about")))
            if about["format"] != FORMAT:
                raise DataError(f"{path}: format is '{about['format']}', expected '{FORMAT}'")
            _check(arrays)
            return cls(_unstack(arrays), _answer(arrays, about), about)
        except FileNotFoundError as error:
            raise DataError(f"{path}: no such file; expected what the node's ~/save_snapshot wrote") from error
        except (OSError, KeyError, ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
            raise DataError(f"{path}: not a snapshot, or damaged ({type(error).__name__}: {error})") from error


def _stack(sets: tuple[FrameSet, ...]) -> dict[str, np.ndarray]:
    shape = next(image.shape for image in sets[-1].images if image is not None)
    blank = np.zeros(shape, np.uint8)
    none = np.zeros(shape[:2], bool)
    masked = [[none if m is None else m for m in s.masks or [None] * len(s.images)] for s in sets]
    return {
        **({"masked": np.array(masked)} if any(s.masks for s in sets) else {}),
        "stamps_ns": np.array([s.stamp_ns for s in sets], np.int64),
        "images": np.stack([[blank if i is None else i for i in s.images] for s in sets]),
        "valid": np.array([[i is not None for i in s.images] for s in sets]),
        "K": np.stack([[np.eye(3) if c is None else c.K for c in s.calibrations] for s in sets]),
        "T_ego_cam": np.stack([s.T_ego_cam for s in sets]),
        "T_world_ego": np.stack([s.T_world_ego for s in sets]),
    }


def _unstack(arrays: dict[str, np.ndarray]) -> tuple[FrameSet, ...]:
    height, width = arrays["images"].shape[2:4]
    valid = arrays["valid"]
    return tuple(
        FrameSet(
            stamp_ns=int(stamp_ns),
            images=tuple(image if ok else None for image, ok in zip(arrays["images"][s], valid[s], strict=True)),
            calibrations=tuple(
                Calibration(width, height, K) if ok else None for K, ok in zip(arrays["K"][s], valid[s], strict=True)
            ),
            T_ego_cam=arrays["T_ego_cam"][s],
            T_world_ego=arrays["T_world_ego"][s],
            masks=tuple(arrays["masked"][s]) if "masked" in arrays else (),
        )
        for s, stamp_ns in enumerate(arrays["stamps_ns"])
    )


def _answer(arrays: dict[str, np.ndarray], about: dict[str, Any]) -> OccFlow:
    grid = GridSpec(tuple(about["grid"]["lower"]), tuple(about["grid"]["upper"]), about["grid"]["voxel_size"])
    shape = arrays["probability"].shape
    if not shape == grid.shape == arrays["observed"].shape or arrays["velocity"].shape != (*shape, 2):
        raise ValueError(f"an answer of {list(shape)} voxels, expected {list(grid.shape)} as its grid says")
    return OccFlow(
        stamp_ns=int(arrays["stamps_ns"][-1]),
        grid=grid,
        probability=arrays["probability"],
        velocity=arrays["velocity"],
        observed=arrays["observed"],
        threshold=float(about["threshold"]),
        labels=arrays.get("labels"),
        ends=arrays.get("ends"),
        hidden=arrays.get("hidden"),
        class_names=tuple(about["class_names"]),
    )


def _check(arrays: dict[str, np.ndarray]) -> None:
    """Raise `ValueError` or `KeyError` for arrays that are not what the table above says."""
    for name, (kind, axes) in ARRAYS.items():
        found = arrays[name]
        if found.dtype.kind != kind or found.ndim != axes:
            raise ValueError(f"{name} is {found.dtype} {list(found.shape)}, expected {axes} axes of kind '{kind}'")
    for name in ("ends", "hidden"):
        found = arrays.get(name, arrays["observed"])
        if found.dtype != bool or found.shape != arrays["observed"].shape:
            raise ValueError(f"{name} is {found.dtype} {list(found.shape)}, expected bool, of the shape of observed")
    leading = {"stamps_ns": 1, "images": 2, "valid": 2, "K": 2, "T_ego_cam": 2, "T_world_ego": 1}
    sets, cameras = arrays["images"].shape[:2]
    if "masked" in arrays and (arrays["masked"].dtype != bool or arrays["masked"].shape != arrays["images"].shape[:4]):
        raise ValueError(
            f"masked is {arrays['masked'].dtype} {list(arrays['masked'].shape)}, expected one of each pixel"
        )
    if not sets or any(arrays[name].shape[:n] != (sets, cameras)[:n] for name, n in leading.items()):
        raise ValueError(f"arrays of different numbers of sets or cameras, expected {sets} and {cameras}")
