"""Votes of rays (`cues.votes`) on disk, beside the frames that cast them: a file a recording."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from letocc_core.cues import votes
from letocc_core.cues.votes import Instant, VotesConfig
from letocc_core.data.cache import save
from letocc_core.errors import DataError
from letocc_core.frame import Frame
from letocc_core.geometry.grid import GridSpec


def write_votes(
    path: Path,
    frame: Callable[[int], Frame],
    stamps_ns: Int[np.ndarray, "F"],
    currents: Sequence[int],
    grid: GridSpec,
    config: VotesConfig,
) -> None:
    """Write the votes in the voxels of frames `currents` of one recording.

    Args:
        frame: gives frame i of the recording.
        stamps_ns: of its frames, in order.
    """
    reach = round(config.window * 1e9)
    frames: dict[int, Frame] = {}
    instants: dict[int, Instant] = {}

    def frame_of(i: int) -> Frame:
        if i not in frames:
            frames[i] = frame(i)
        return frames[i]

    packed = {}
    for now in sorted(currents):
        near = np.flatnonzero(np.abs(stamps_ns - stamps_ns[now]) <= reach).tolist()
        for i in near:
            if i not in instants:
                others = [frame_of(j) for j in votes.neighbours(stamps_ns, i, config)]
                around = np.flatnonzero(np.abs(stamps_ns - stamps_ns[i]) <= reach).tolist()
                witnesses = [frame_of(j) for j in around if j != i]
                instants[i] = votes.instant(frame_of(i), others, config, witnesses)
        for kept in (frames, instants):  # what lies behind all windows to come
            for i in [i for i in kept if stamps_ns[i] < stamps_ns[now] - 2 * reach]:
                del kept[i]
        packed[f"{now:06d}"] = votes.pack(votes.cast([instants[i] for i in near], instants[now], grid, config))
    save(path, packed, compressed=True)


def read_votes(path: Path, current: int) -> Float[Tensor, "2 X Y Z"]:
    """The votes in the voxels of a frame; raises `DataError` if the file is missing or lacks it."""
    try:
        with np.load(path) as file:
            return torch.from_numpy(votes.unpack(file[f"{current:06d}"]))
    except (OSError, KeyError, ValueError) as error:
        raise DataError(
            f"{path}: no votes of frame {current} ({error}); delete the file, and it is computed again"
        ) from error
