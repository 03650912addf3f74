"""2D cues of a recording on disk, beside its decoded frames: a file a pair of frames for flow, a file a frame for masks."""

import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from zipfile import BadZipFile

import numpy as np
from jaxtyping import Bool, Int

from letocc_core.cues.flow import UNKNOWN, FlowEstimator, flow_estimator, settings_key, trusted_flow
from letocc_core.cues.masks import GroundedSam
from letocc_core.data.cache import save, write_missing
from letocc_core.errors import DataError

if TYPE_CHECKING:
    from letocc_core.data.recorded_clips import FrameStore


@dataclass(frozen=True)
class FlowFiles:
    """Optical flow between frames of one recording, both ways, by one estimator.

    A file `<i>_<j>.npz` (i < j) holds `forward` and `backward`, int16 [N, H, W, 2] as `cues.flow.encode` makes them.
    """

    frames: "FrameStore"  # their size is the flow's
    estimator: str  # its name

    @property
    def folder(self) -> Path:
        """Where the files lie; another one when the estimator's settings change."""
        return self.frames.folder / f"flow_{self.estimator}_{settings_key(flow_estimator(self.estimator))}"

    def path(self, i: int, j: int) -> Path:
        """The file of two frames, in either order."""
        return self.folder / f"{min(i, j):06d}_{max(i, j):06d}.npz"

    def read(self, i: int, j: int) -> Int[np.ndarray, "N H W 2"]:
        """Encoded flow from frame i to frame j; raises `DataError` if its file is missing or damaged."""
        return _read(self.path(i, j), "forward" if i < j else "backward", "letocc cues flow")

    def write(self, pairs: Iterable[tuple[int, int]], workers: int, shard: tuple[int, int] = (1, 1)) -> int:
        """Compute what is missing of `pairs`, over processes; returns how many files that were."""
        ordered = sorted({(min(pair), max(pair)) for pair in pairs})
        jobs = {self.path(i, j): (self.frames, i, j, flow_estimator(self.estimator)) for i, j in ordered}
        return write_missing("optical flow", "pair", write_flow, jobs, workers, shard)


@dataclass(frozen=True)
class MaskFiles:
    """Pixels of objects that could move, in frames of one recording; a file `<i>.npz` holds packed bits [N, H, W / 8]."""

    frames: "FrameStore"
    estimator: GroundedSam

    @property
    def folder(self) -> Path:
        """Where the files lie; another one when the estimator's settings change."""
        return self.frames.folder / f"movable_{settings_key(self.estimator)}"

    def read(self, i: int, width: int) -> Bool[np.ndarray, "N H W"]:
        """Mask of frame i, `width` px wide; raises `DataError` if its file is missing or damaged."""
        packed = _read(self.folder / f"{i:06d}.npz", "movable", "letocc cues masks")
        return np.unpackbits(packed, axis=-1, count=width).astype(bool)

    def write(self, frames: Iterable[int], workers: int, shard: tuple[int, int] = (1, 1)) -> int:
        """Compute what is missing of `frames`, over processes; returns how many files that were."""
        jobs = {self.folder / f"{i:06d}.npz": (self.frames, i, self.estimator) for i in sorted(set(frames))}
        return write_missing("masks", "frame", write_masks, jobs, workers, shard)


def write_flow(path: Path, frames: "FrameStore", i: int, j: int, estimator: FlowEstimator) -> None:
    """One file: the flow from frame i to frame j and back, unknown for cameras that lack either image."""
    there = frames.camera_valid[[i, j]].all(axis=0)
    flows = trusted_flow(estimator, frames.pictures(i), frames.pictures(j))
    forward, backward = (np.where(there[:, None, None, None], flow, UNKNOWN).astype(np.int16) for flow in flows)
    save(path, {"forward": forward, "backward": backward}, compressed=True)


def write_masks(path: Path, frames: "FrameStore", i: int, estimator: GroundedSam) -> None:
    """One file: the masks of frame i."""
    masks = np.stack([estimator(image) for image in frames.pictures(i)])
    save(path, {"movable": np.packbits(masks, axis=-1)})


def _read(path: Path, name: str, command: str) -> np.ndarray:
    try:
        with np.load(path) as file:
            return file[name]
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; compute it with `{command}`") from None
    except (BadZipFile, ValueError, KeyError, OSError, zlib.error) as error:
        raise DataError(f"{path}: damaged ({error}); delete it, and compute it with `{command}`") from error
