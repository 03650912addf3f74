"""Optical flow between two images, where it can be trusted, and how it is kept on disk."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import ClassVar, Literal, Protocol, runtime_checkable

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8, UInt16

from letocc_core.cues import networks
from letocc_core.errors import ConfigError, DataError

LONGEST = 20 / 224  # of an image's width, beyond which DIS is wrong more often than right
STEPS = 64  # of a pixel, in which flow is kept (as KITTI does)
UNKNOWN = np.iinfo(np.int16).min  # of what cannot be trusted
_LOST = (float("nan"),) * 4  # flow of what has left the image


@runtime_checkable
class FlowEstimator(Protocol):
    """A method that finds where each pixel of one image is in another."""

    longest: ClassVar[float]  # of an image's width: longer flow is not to be trusted
    between: ClassVar[bool]  # it wants to see the images between the two

    def __call__(
        self,
        image: UInt8[np.ndarray, "H W 3"],
        other: UInt8[np.ndarray, "H W 3"],
        between: Sequence[UInt8[np.ndarray, "H W 3"]] = (),
    ) -> Float[np.ndarray, "H W 2"]:
        """Flow (u, v) in px at the pixels of `image`; NaN where it lost them.

        Args:
            between: images of the instants between the two, in the order in which they lead there.
        """


@dataclass(frozen=True)
class Dis:
    """Dense inverse search (Kroeger et al., ECCV 2016) of OpenCV; needs no weights.

    On enlarged images it keeps small things that its pyramid would lose.
    """

    longest: ClassVar[float] = LONGEST
    between: ClassVar[bool] = False
    enlarge: int = 2
    preset: Literal["ultrafast", "fast", "medium"] = "medium"

    def __call__(
        self,
        image: UInt8[np.ndarray, "H W 3"],
        other: UInt8[np.ndarray, "H W 3"],
        between: Sequence[UInt8[np.ndarray, "H W 3"]] = (),
    ) -> Float[np.ndarray, "H W 2"]:
        height, width = image.shape[:2]
        size = (width * self.enlarge, height * self.enlarge)
        a, b = (
            cv2.resize(cv2.cvtColor(x, cv2.COLOR_RGB2GRAY), size, interpolation=cv2.INTER_CUBIC) for x in (image, other)
        )
        method = cv2.DISOpticalFlow.create(getattr(cv2, f"DISOPTICAL_FLOW_PRESET_{self.preset.upper()}"))
        found = method.calc(a, b, None)  # type: ignore[call-overload]  # the stubs want a flow to start from
        flow = cv2.resize(found, (width, height), interpolation=cv2.INTER_AREA)
        return flow / self.enlarge


@dataclass(frozen=True)
class Chained:
    """Flow across the images between, one after the other: what moves far in all moves little at a time."""

    longest: ClassVar[float] = 0.5
    between: ClassVar[bool] = True
    step: FlowEstimator = Dis()

    def __call__(
        self,
        image: UInt8[np.ndarray, "H W 3"],
        other: UInt8[np.ndarray, "H W 3"],
        between: Sequence[UInt8[np.ndarray, "H W 3"]] = (),
    ) -> Float[np.ndarray, "H W 2"]:
        height, width = image.shape[:2]
        v, u = np.mgrid[:height, :width].astype(np.float32)
        start = np.stack([u, v], -1)
        flow = np.zeros_like(start)
        for a, b in pairwise((image, *between, other)):
            there = np.nan_to_num(start + flow, nan=-1e4)
            step = self.step(a, b).astype(np.float32)
            flow = flow + cv2.remap(  # type: ignore[call-overload]  # the stubs want x and y apart
                step, there, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=_LOST
            )
        return flow


def consistent(
    forward: Float[np.ndarray, "H W 2"], backward: Float[np.ndarray, "H W 2"], tolerance: float
) -> Bool[np.ndarray, "H W"]:
    """Pixels that come back to within `tolerance` px of where they were: what is hidden in the other image does not."""
    height, width = forward.shape[:2]
    v, u = np.mgrid[:height, :width].astype(np.float32)
    there = np.nan_to_num(np.stack([u, v], -1) + forward.astype(np.float32), nan=-1e4)
    inside = (there >= 0).all(-1) & (there[..., 0] <= width - 1) & (there[..., 1] <= height - 1)
    back = cv2.remap(  # type: ignore[call-overload]  # the stubs want x and y apart
        backward.astype(np.float32), there, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    return inside & (np.linalg.norm(forward + back, axis=-1) <= tolerance)


def trusted_flow(
    estimator: FlowEstimator,
    images: UInt8[np.ndarray, "N H W 3"],
    others: UInt8[np.ndarray, "N H W 3"],
    tolerance: float = 0.5,
    between: Sequence[UInt8[np.ndarray, "N H W 3"]] = (),
) -> tuple[Int[np.ndarray, "N H W 2"], Int[np.ndarray, "N H W 2"]]:
    """Flow of N cameras from `images` to `others`, and back, encoded; `UNKNOWN` where the two disagree.

    Args:
        tolerance: px, largest distance after going there and back.
        between: images of the same cameras at the instants between, from `images` to `others`.
    """
    there, back = (
        np.stack([estimator(a, b, middle) for a, b, *middle in zip(first, last, *path, strict=True)])
        for first, last, path in ((images, others, between), (others, images, between[::-1]))
    )
    forward, backward = (
        encode(np.stack([_where_consistent(f, b, tolerance) for f, b in zip(*pair, strict=True)]), estimator.longest)
        for pair in ((there, back), (back, there))
    )
    return forward, backward


def _where_consistent(forward: np.ndarray, backward: np.ndarray, tolerance: float) -> np.ndarray:
    return np.where(consistent(forward, backward, tolerance)[..., None], forward, np.nan)


def encode(flow: Float[np.ndarray, "*n H W 2"], longest: float = LONGEST) -> Int[np.ndarray, "*n H W 2"]:
    """Flow (px) in int16 steps of 1/64 px; `UNKNOWN` where it is NaN or longer than `longest` widths of the image."""
    with np.errstate(invalid="ignore"):
        known = np.linalg.norm(flow, axis=-1, keepdims=True) <= min(longest * flow.shape[-2], -UNKNOWN // STEPS - 1)
    return np.where(known, np.round(np.where(known, flow, 0) * STEPS), UNKNOWN).astype(np.int16)


def decode(flow: Int[np.ndarray, "*n 2"]) -> tuple[Float[np.ndarray, "*n 2"], Bool[np.ndarray, "*n"]]:
    """Flow in px (0 where unknown), and where it is known."""
    valid = flow[..., 0] != UNKNOWN
    return np.where(valid[..., None], flow, 0).astype(np.float32) / STEPS, valid


def to_kitti(flow: Int[np.ndarray, "H W 2"]) -> bytes:
    """Encoded flow as a PNG in KITTI's format: 16 bits a channel; u and v as 64 * flow + 2^15, and whether it is known."""
    known = flow[..., :1] != UNKNOWN
    shifted = np.where(known, flow.astype(np.int32) + 2**15, 0)
    channels = np.concatenate([shifted, known], -1).astype(np.uint16)
    return cv2.imencode(".png", channels[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 3])[1].tobytes()


def from_kitti(png: bytes, source: str) -> Int[np.ndarray, "H W 2"]:
    """Encoded flow of a PNG in KITTI's format. Raises `DataError`, headed by `source`, for anything else."""
    whole = b"IEND" in png[-16:]
    image = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED) if whole else None
    if image is None or image.dtype != np.uint16 or image.ndim != 3 or image.shape[2] != 3:
        raise DataError(f"{source}: not a complete PNG of 16 bits and 3 channels, the format of optical flow")
    channels: UInt16[np.ndarray, "H W 3"] = image[..., ::-1]
    flow = (channels[..., :2].astype(np.int32) - 2**15).astype(np.int16)
    return np.where(channels[..., 2:] > 0, flow, UNKNOWN).astype(np.int16)


CLASSICAL: Mapping[str, Callable[[], FlowEstimator]] = {  # by the names that configurations use
    "dis": Dis,
    "dis_fine": partial(Dis, enlarge=3),
    "dis_chained": Chained,
}
LEARNED: Mapping[str, Callable[[Path, str], FlowEstimator]] = {  # from weights, on a device
    "raft": networks.Raft,
    "raft_small": partial(networks.Raft, size="small"),
    "unimatch": networks.UniMatch,
    "cotracker": networks.CoTracker,
}


def flow_estimator(name: str, weights: Path | None = None, device: str = "cpu") -> FlowEstimator:
    """The estimator of this name.

    Args:
        weights: file of a learned one.
        device: where a learned one runs.

    Raises `ConfigError` for an unknown name (with those there are), and for weights that are missing or not wanted.
    """
    if name in CLASSICAL:
        if weights is not None:
            raise ConfigError(f"optical flow by '{name}' takes no weights; those with weights: {', '.join(LEARNED)}")
        return CLASSICAL[name]()
    if name not in LEARNED:
        raise ConfigError(
            f"unknown optical-flow estimator '{name}', expected one of: {', '.join([*CLASSICAL, *LEARNED])}"
        )
    if weights is None:
        raise ConfigError(
            f"optical flow by '{name}' needs weights: --weights FILE, or cue_weights in the configuration"
        )
    return LEARNED[name](weights, device)


def settings_key(estimator: object) -> str:
    """Six letters that change with the settings of an estimator, for the names of what it made."""
    return hashlib.sha256(repr(estimator).encode()).hexdigest()[:6]
