"""What clips of recordings are made from: the frames of one recording, wherever they lie."""

from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from letocc_core.frame import Frame


@runtime_checkable
class FrameStore(Protocol):
    """The F frames of one recording with N cameras, at the network's size. It goes to other processes cheaply."""

    @property
    def name(self) -> str:
        """Of the recording, for messages."""

    @property
    def folder(self) -> Path:
        """Where cues of these frames are kept."""

    @property
    def stamps_ns(self) -> Int[np.ndarray, "F"]:
        """ns"""

    @property
    def T_world_ego(self) -> Float[np.ndarray, "F 4 4"]:
        """m"""

    @property
    def camera_valid(self) -> Bool[np.ndarray, "F N"]:
        """Cameras that have an image."""

    @property
    def T_ego_cam(self) -> Float[np.ndarray, "F N 4 4"]:
        """m, from each camera to the ego frame."""

    @property
    def K(self) -> Float[np.ndarray, "F N 3 3"]:
        """px"""

    @property
    def has_sweep(self) -> Bool[np.ndarray, "F"]:
        """Frames with a LiDAR sweep that is used."""

    @property
    def complete(self) -> Bool[np.ndarray, "F"]:
        """Frames that may be current frames."""

    def __len__(self) -> int: ...

    def frame(self, i: int, lidar: bool = True) -> Frame:
        """Frame i; with `lidar` its sweep, if it has one."""

    def pictures(self, i: int) -> UInt8[np.ndarray, "N H W 3"]:
        """The images of frame i alone; zeros where a camera is absent."""
