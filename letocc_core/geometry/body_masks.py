"""Masks of the vehicle's own body: a PNG a camera, white where bonnet, roof or rig are in the picture.

A masked pixel teaches nothing, is no evidence and sees no voxel. Masks are of the size of the raw images; they travel in a
checkpoint's metadata as text.
"""

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Bool

from letocc_core.errors import DataError, show

NONE = "none"  # in place of a folder: no masks, whatever the checkpoint has
Masks = Mapping[str, Bool[np.ndarray, "H W"]]  # by camera


def file_name(camera: str) -> str:
    """Of a camera's mask; the slashes of a namespace become underscores."""
    return f"{camera.strip('/').replace('/', '_')}.png"


def load(folder: str | Path, cameras: Sequence[str]) -> dict[str, np.ndarray]:
    """The masks of those cameras for which there is one; for the folder `none`, no masks.

    Raises `DataError`: no such folder, none of these cameras in it, or a file that is no picture.
    """
    if str(folder) == NONE:
        return {}
    folder = Path(folder).expanduser()
    files = {camera: folder / file_name(camera) for camera in cameras}
    found = {camera: path for camera, path in files.items() if path.is_file()}
    if not found:
        names = ", ".join(sorted(show(p.name) for p in folder.glob("*.png"))) if folder.is_dir() else "no such folder"
        raise DataError(
            f"{show(folder)}: no mask of any camera; expected {', '.join(p.name for p in files.values())}, found: "
            f"{names or 'no PNG'}; `letocc bag mask` proposes them"
        )
    return {camera: _decode(np.fromfile(path, np.uint8), show(path)) for camera, path in found.items()}


def save(folder: str | Path, masks: Masks) -> list[Path]:
    """Write a PNG a camera; the folder is made."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / file_name(camera) for camera in masks]
    for path, mask in zip(paths, masks.values(), strict=True):
        path.write_bytes(_encode(mask))
    return paths


def to_text(masks: Masks) -> dict[str, str]:
    """For a checkpoint's metadata."""
    return {camera: base64.b64encode(_encode(mask)).decode() for camera, mask in masks.items()}


def from_text(texts: Mapping[str, str], source: str) -> dict[str, np.ndarray]:
    """Back from there; raises `DataError` that names `source`, the checkpoint."""
    try:
        files = {
            camera: np.frombuffer(base64.b64decode(text, validate=True), np.uint8) for camera, text in texts.items()
        }
    except (ValueError, TypeError, AttributeError) as error:
        raise DataError(f"{source}: its masks of the vehicle's body cannot be read ({error})") from error
    return {camera: _decode(file, f"{source}: mask of {camera}") for camera, file in files.items()}


def _encode(mask: np.ndarray) -> bytes:
    return cv2.imencode(".png", mask.astype(np.uint8) * 255)[1].tobytes()


def _decode(file: np.ndarray, source: str) -> np.ndarray:
    image = cv2.imdecode(file, cv2.IMREAD_GRAYSCALE) if len(file) else None
    if image is None:
        raise DataError(f"{source}: not a readable image; expected a PNG, white where the vehicle itself is seen")
    return image > 127
