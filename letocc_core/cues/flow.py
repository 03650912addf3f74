"""Optical flow between two images, where it can be trusted, and how it is kept on disk."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal, Protocol

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from letocc_core.errors import ConfigError

LONGEST = 20 / 224  # of an image's width, beyond which an estimator is wrong more often than right
STEPS = 64  # of a pixel, in which flow is kept (as KITTI does)
UNKNOWN = np.iinfo(np.int16).min  # of what cannot be trusted


class FlowEstimator(Protocol):
    """A method that finds where each pixel of one image is in another."""

    def __call__(
        self, image: UInt8[np.ndarray, "H W 3"], other: UInt8[np.ndarray, "H W 3"]
    ) -> Float[np.ndarray, "H W 2"]:
        """Flow (u, v) in px at the pixels of `image`."""


@dataclass(frozen=True)
class Dis:
    """Dense inverse search (Kroeger et al., ECCV 2016) of OpenCV; needs no weights.

    On enlarged images it keeps small things that its pyramid would lose.
    """

    enlarge: int = 2
    preset: Literal["ultrafast", "fast", "medium"] = "medium"

    def __call__(
        self, image: UInt8[np.ndarray, "H W 3"], other: UInt8[np.ndarray, "H W 3"]
    ) -> Float[np.ndarray, "H W 2"]:
        height, width = image.shape[:2]
        size = (width * self.enlarge, height * self.enlarge)
        a, b = (
            cv2.resize(cv2.cvtColor(x, cv2.COLOR_RGB2GRAY), size, interpolation=cv2.INTER_CUBIC) for x in (image, other)
        )
        method = cv2.DISOpticalFlow_create(getattr(cv2, f"DISOPTICAL_FLOW_PRESET_{self.preset.upper()}"))
        flow = cv2.resize(method.calc(a, b, None), (width, height), interpolation=cv2.INTER_AREA)
        return flow / self.enlarge


def consistent(
    forward: Float[np.ndarray, "H W 2"], backward: Float[np.ndarray, "H W 2"], tolerance: float
) -> Bool[np.ndarray, "H W"]:
    """Pixels that come back to within `tolerance` px of where they were: what is hidden in the other image does not."""
    height, width = forward.shape[:2]
    v, u = np.mgrid[:height, :width].astype(np.float32)
    there = np.stack([u, v], -1) + forward.astype(np.float32)
    inside = (there >= 0).all(-1) & (there[..., 0] <= width - 1) & (there[..., 1] <= height - 1)
    back = cv2.remap(backward.astype(np.float32), there, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return inside & (np.linalg.norm(forward + back, axis=-1) <= tolerance)


def trusted_flow(
    estimator: FlowEstimator,
    images: UInt8[np.ndarray, "N H W 3"],
    others: UInt8[np.ndarray, "N H W 3"],
    tolerance: float = 0.5,
) -> tuple[Int[np.ndarray, "N H W 2"], Int[np.ndarray, "N H W 2"]]:
    """Flow of N cameras from `images` to `others`, and back, encoded; `UNKNOWN` where the two disagree.

    Args:
        tolerance: px, largest distance after going there and back.
    """
    there, back = (
        np.stack([estimator(a, b) for a, b in zip(*pair, strict=True)]) for pair in ((images, others), (others, images))
    )
    return tuple(
        encode(np.stack([_where_consistent(f, b, tolerance) for f, b in zip(*pair, strict=True)]))
        for pair in ((there, back), (back, there))
    )


def _where_consistent(forward: np.ndarray, backward: np.ndarray, tolerance: float) -> np.ndarray:
    return np.where(consistent(forward, backward, tolerance)[..., None], forward, np.nan)


def encode(flow: Float[np.ndarray, "*n H W 2"]) -> Int[np.ndarray, "*n H W 2"]:
    """Flow (px) in int16 steps of 1/64 px; `UNKNOWN` where it is NaN or longer than `LONGEST` widths of the image."""
    with np.errstate(invalid="ignore"):
        known = np.linalg.norm(flow, axis=-1, keepdims=True) <= min(LONGEST * flow.shape[-2], -UNKNOWN // STEPS - 1)
    return np.where(known, np.round(np.where(known, flow, 0) * STEPS), UNKNOWN).astype(np.int16)


def decode(flow: Int[np.ndarray, "*n 2"]) -> tuple[Float[np.ndarray, "*n 2"], Bool[np.ndarray, "*n"]]:
    """Flow in px (0 where unknown), and where it is known."""
    valid = flow[..., 0] != UNKNOWN
    return np.where(valid[..., None], flow, 0).astype(np.float32) / STEPS, valid


ESTIMATORS: Mapping[str, Callable[[], FlowEstimator]] = {  # by the names that configurations use
    "dis": Dis,
    "dis_fine": partial(Dis, enlarge=3),
}


def flow_estimator(name: str) -> FlowEstimator:
    """The estimator of this name; `ConfigError` with the names there are."""
    if name not in ESTIMATORS:
        raise ConfigError(f"no estimator of optical flow '{name}'; there are: {', '.join(ESTIMATORS)}")
    return ESTIMATORS[name]()


def settings_key(estimator: object) -> str:
    """Six letters that change with the settings of an estimator, for the names of what it made."""
    return hashlib.sha256(repr(estimator).encode()).hexdigest()[:6]
