"""2D cues of a recording on disk, beside its decoded frames, as PNG files.

Optical flow has a file a pair of frames, in KITTI's 16-bit format; what is known of single images (movable objects,
classes) a file a frame, of 8 bits. The images of all cameras lie one above the other.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import cv2
import numpy as np
from jaxtyping import Int, UInt8

from letocc_core.cues.flow import UNKNOWN, FlowEstimator, from_kitti, settings_key, to_kitti, trusted_flow
from letocc_core.data.cache import write_bytes, write_missing
from letocc_core.errors import DataError

if TYPE_CHECKING:
    from letocc_core.data.frame_store import FrameStore

PictureKind = Literal["movable", "semantics"]
COMMANDS = {"movable": "letocc cues masks", "semantics": "letocc cues semantics"}
Labeller = Callable[[UInt8[np.ndarray, "H W 3"]], np.ndarray]  # of each pixel: a class, or whether it could move


@dataclass(frozen=True)
class FlowFiles:
    """Optical flow between frames of one recording, both ways, by one estimator.

    A file `<i>_<j>.png` (i < j) holds the flow from i to j of all cameras and, below it, that from j to i.
    """

    frames: "FrameStore"  # their size is the flow's
    name: str  # of the estimator
    estimator: FlowEstimator

    @property
    def folder(self) -> Path:
        """Where the files lie; another one when the estimator's settings change."""
        return self.frames.folder / f"flow_{self.name}_{settings_key(self.estimator)}"

    def path(self, i: int, j: int) -> Path:
        """The file of two frames, in either order."""
        return self.folder / f"{min(i, j):06d}_{max(i, j):06d}.png"

    def read(self, i: int, j: int) -> Int[np.ndarray, "N H W 2"]:
        """Encoded flow from frame i to frame j; raises `DataError` if its file is missing or damaged."""
        path, cameras = self.path(i, j), self.frames.camera_valid.shape[1]
        both = _read(path, "letocc cues flow", lambda data: from_kitti(data, "found"))
        return both.reshape(2, cameras, -1, *both.shape[1:])[0 if i < j else 1]

    def write(self, pairs: Iterable[tuple[int, int]], workers: int, shard: tuple[int, int] = (1, 1)) -> int:
        """Compute what is missing of `pairs`, over processes; returns how many files that were."""
        ordered = sorted({(min(pair), max(pair)) for pair in pairs})
        jobs = {self.path(i, j): (self.frames, i, j, self.estimator) for i, j in ordered}
        return write_missing("optical flow", "pair", write_flow, jobs, workers, shard)


@dataclass(frozen=True)
class PictureFiles:
    """What is known of the pixels of single frames of one recording: a file `<i>.png`."""

    frames: "FrameStore"
    kind: PictureKind
    estimator: Labeller

    @property
    def folder(self) -> Path:
        """Where the files lie; another one when the estimator's settings change."""
        return self.frames.folder / f"{self.kind}_{settings_key(self.estimator)}"

    def read(self, i: int) -> UInt8[np.ndarray, "N H W"]:
        """Labels of frame i; raises `DataError` if its file is missing or damaged."""
        image = _read(self.folder / f"{i:06d}.png", COMMANDS[self.kind], _grey)
        return image.reshape(self.frames.camera_valid.shape[1], -1, image.shape[1])

    def write(self, frames: Iterable[int], workers: int, shard: tuple[int, int] = (1, 1)) -> int:
        """Compute what is missing of `frames`, over processes; returns how many files that were."""
        jobs = {self.folder / f"{i:06d}.png": (self.frames, i, self.estimator) for i in sorted(set(frames))}
        return write_missing(self.kind, "frame", write_labels, jobs, workers, shard)


def write_flow(path: Path, frames: "FrameStore", i: int, j: int, estimator: FlowEstimator) -> None:
    """One file: the flow from frame i to frame j and back, unknown for cameras that lack either image."""
    there = np.logical_and.reduce(frames.camera_valid[[i, j]])
    between = [frames.pictures(k) for k in range(i + 1, j) if frames.camera_valid[k].all()] if estimator.between else []
    flows = trusted_flow(estimator, frames.pictures(i), frames.pictures(j), between=between)
    known = np.stack([np.where(there[:, None, None, None], flow, UNKNOWN) for flow in flows]).astype(np.int16)
    write_bytes(path, to_kitti(known.reshape(-1, *known.shape[-2:])))


def write_labels(path: Path, frames: "FrameStore", i: int, estimator: Labeller) -> None:
    """One file: the labels of frame i."""
    labels = np.concatenate([estimator(image).astype(np.uint8) for image in frames.pictures(i)])
    write_bytes(path, cv2.imencode(".png", labels)[1].tobytes())


def _read(path: Path, command: str, decode: Callable[[bytes], np.ndarray]) -> np.ndarray:
    try:
        return decode(path.read_bytes())
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; compute it with `{command}`") from None
    except DataError as error:
        raise DataError(f"{path}: damaged ({error}); delete it, and compute it with `{command}`") from error


def _grey(png: bytes) -> UInt8[np.ndarray, "h w"]:
    image = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED) if b"IEND" in png[-16:] else None
    if image is None or image.dtype != np.uint8 or image.ndim != 2:
        raise DataError("not a complete PNG of 8 bits and one channel")
    return image
