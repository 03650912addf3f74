"""What training learns from: a data set of clips, of streets or of recordings."""

from abc import ABC, abstractmethod
from types import MappingProxyType

from torch.utils.data import Dataset

from letocc_core.frame import Clip
from letocc_core.geometry.body_masks import Masks


class Clips(Dataset[Clip], ABC):
    """Single clips (`letocc_core.frame.collate` makes batches of them), and what is known of all of them."""

    cameras: tuple[str, ...] = ()  # names, in the order of the frames, where the live node can ask for the same
    body_masks: Masks = MappingProxyType({})  # of the vehicle's own body in the raw images, by camera

    def require_sweeps(self) -> None:
        """Raise `DataError` if no recording has a LiDAR sweep. Streets have those that they were asked for."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, index: int) -> Clip: ...
