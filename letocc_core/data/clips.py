"""What training learns from: a data set of clips, of streets or of recordings."""

from abc import ABC, abstractmethod
from dataclasses import replace
from types import MappingProxyType

from torch.utils.data import Dataset

from letocc_core.errors import DataError
from letocc_core.frame import Clip
from letocc_core.geometry.body_masks import Masks


class Clips(Dataset[Clip], ABC):
    """Single clips (`letocc_core.frame.collate` makes batches of them), and what is known of all of them."""

    cameras: tuple[str, ...] = ()  # names, in the order of the frames, where the live node can ask for the same
    body_masks: Masks = MappingProxyType({})  # of the vehicle's own body in the raw images, by camera

    def require_sweeps(self) -> None:
        """Raise `DataError` if no recording has a LiDAR sweep. Streets have those that they were asked for."""

    def with_flow(self) -> "Clips":
        """Those of the source whose optical flow teaches motion: the first, where there are two."""
        return self

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, index: int) -> Clip: ...


class MixedClips(Clips):
    """Clips of a source and of one beside it, such as streets and recordings, in a given proportion.

    Each clip of the first is there once; the other's are repeated, or left out from the end, until they are as many as wanted.
    Clips have no flow cues, since those of two sources lead to other instants. Cameras and body masks are the first's.

    Args:
        share: of the clips that are of the other source, above 0 and below 1.
    """

    def __init__(self, first: Clips, beside: Clips, share: float):
        if not len(beside):
            raise DataError("data.beside: its recordings hold no clip; see the counts that its loader reported")
        self.first, self.beside = first, beside
        self._size = len(first) + max(1, round(len(first) * share / (1 - share)))
        self.cameras, self.body_masks = first.cameras, first.body_masks

    def require_sweeps(self) -> None:
        self.first.require_sweeps()

    def with_flow(self) -> Clips:
        return self.first

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, index: int) -> Clip:
        other = index - len(self.first)
        return replace(self.first[index] if other < 0 else self.beside[other % len(self.beside)], cues=())
