"""2D cues of a recording on disk, beside its decoded frames: one small file for each pair of frames."""

import hashlib
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import cv2
import numpy as np
from jaxtyping import Int

from letocc_core.cues.flow import UNKNOWN, FlowEstimator, flow_estimator, trusted_flow
from letocc_core.data.cache import save, write_missing
from letocc_core.errors import DataError


@dataclass(frozen=True)
class FlowFiles:
    """Optical flow between frames of one recording, both ways, by one estimator.

    A file `<i>_<j>.npz` (i < j) holds `forward` and `backward`, int16 [N, H, W, 2] as `cues.flow.encode` makes them.
    """

    frames: Path  # folder of the decoded frames (`bag_clips.FrameStore`); their size is the flow's
    estimator: str  # its name

    @property
    def folder(self) -> Path:
        """Where the files lie; another one when the estimator's settings change."""
        settings = hashlib.sha256(repr(flow_estimator(self.estimator)).encode()).hexdigest()[:6]
        return self.frames / f"flow_{self.estimator}_{settings}"

    def path(self, i: int, j: int) -> Path:
        """The file of two frames, in either order."""
        return self.folder / f"{min(i, j):06d}_{max(i, j):06d}.npz"

    def read(self, i: int, j: int) -> Int[np.ndarray, "N H W 2"]:
        """Encoded flow from frame i to frame j; raises `DataError` if its file is missing or damaged."""
        path = self.path(i, j)
        try:
            with np.load(path) as file:
                return file["forward" if i < j else "backward"]
        except FileNotFoundError:
            raise DataError(f"{path}: no such optical flow; compute it with `letocc cues flow`") from None
        except (BadZipFile, ValueError, KeyError, OSError, zlib.error) as error:
            raise DataError(f"{path}: damaged ({error}); delete it, and compute it with `letocc cues flow`") from error

    def write(self, pairs: Iterable[tuple[int, int]], workers: int, shard: tuple[int, int] = (1, 1)) -> int:
        """Compute what is missing of `pairs`, over processes; returns how many files that were."""
        ordered = sorted({(min(pair), max(pair)) for pair in pairs})
        jobs = {self.path(i, j): (self.frames, i, j, flow_estimator(self.estimator)) for i, j in ordered}
        return write_missing("optical flow", "pair", write_flow, jobs, workers, shard)


def write_flow(path: Path, frames: Path, i: int, j: int, estimator: FlowEstimator) -> None:
    """One file: the flow from frame i to frame j and back, unknown for cameras that lack either image."""
    cv2.setNumThreads(1)  # the work is shared by processes
    images = np.load(frames / "images.npy", mmap_mode="r")
    there = np.load(frames / "camera_valid.npy")[[i, j]].all(axis=0)
    flows = trusted_flow(estimator, *(np.ascontiguousarray(images[k].transpose(0, 2, 3, 1)) for k in (i, j)))
    forward, backward = (np.where(there[:, None, None, None], flow, UNKNOWN).astype(np.int16) for flow in flows)
    save(path, {"forward": forward, "backward": backward}, compressed=True)
