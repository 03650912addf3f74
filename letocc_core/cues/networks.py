"""Learned estimators of optical flow, through the libraries that keep them; weights come from files on disk."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from letocc_core.errors import CheckpointError, MissingDependencyError

LATTICE = 4  # px between the points that CoTracker follows
POINTS_AT_ONCE = 4096  # points that it follows at a time, for memory


@runtime_checkable
class TrainableFlow(Protocol):
    """An estimator whose network can be trained further (`cues.tuning`)."""

    def load(self) -> nn.Module:
        """The network with its weights; see `FlowNetwork`."""


class FlowNetwork(nn.Module):
    """A library's network behind one signature: images in [0, 1] of any size -> flow in px.

    Args:
        network: takes two batches of images and gives the flow.
        multiple: px, of which it wants height and width to be multiples.
        least: px, the smallest image that it takes.
    """

    def __init__(self, network: nn.Module, multiple: int = 8, least: int = 128):
        super().__init__()
        self.network, self.multiple, self.least = network, multiple, least

    def forward(self, images: Float[Tensor, "B 3 H W"], others: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 2 H W"]:
        """Small images are enlarged, and the rest is padded."""
        height, width = images.shape[-2:]
        scale = max(1.0, self.least / min(height, width))
        size = (round(height * scale), round(width * scale))
        padding = (0, -size[1] % self.multiple, 0, -size[0] % self.multiple)
        a, b = (
            F.pad(F.interpolate(x, size, mode="bilinear", antialias=True), padding, mode="replicate")
            for x in (images, others)
        )
        flow = self.network(a, b)[..., : size[0], : size[1]]
        back = flow.new_tensor([width / size[1], height / size[0]])[:, None, None]
        return F.interpolate(flow, (height, width), mode="bilinear", antialias=True) * back


@dataclass(frozen=True)
class _Learned(ABC):
    """An estimator that is a network."""

    longest: ClassVar[float] = 1.0
    between: ClassVar[bool] = False
    weights: Path  # file with the network's tensors (.pth, .ckpt or .safetensors)
    device: str = field(default="cpu", repr=False)  # cpu, cuda, cuda:1, ...

    @abstractmethod
    def load(self) -> FlowNetwork:
        """The network with its weights; each class says what it raises."""

    def __call__(
        self,
        image: UInt8[np.ndarray, "H W 3"],
        other: UInt8[np.ndarray, "H W 3"],
        between: Sequence[UInt8[np.ndarray, "H W 3"]] = (),
    ) -> Float[np.ndarray, "H W 2"]:
        """Flow (u, v) in px; raises what `load` does."""
        network = _loaded(self)
        with torch.inference_mode():
            [flow] = network(*(to_tensor(x[None]).to(self.device) for x in (image, other)))
        return flow.permute(1, 2, 0).cpu().numpy()


@dataclass(frozen=True)
class Raft(_Learned):
    """RAFT (Teed and Deng, ECCV 2020) of torchvision."""

    size: Literal["large", "small"] = "large"
    updates: int = 12  # of the flow

    def load(self) -> FlowNetwork:
        """Raises `MissingDependencyError` without torchvision, `CheckpointError` for other weights."""
        try:
            from torchvision.models import optical_flow
        except (ImportError, RuntimeError) as error:  # the latter beside a torch that it was not built for
            raise MissingDependencyError(
                f"RAFT needs torchvision, of the version that belongs to torch {torch.__version__} ({error})"
            ) from error
        raft = {"large": optical_flow.raft_large, "small": optical_flow.raft_small}[self.size](weights=None)
        network = FlowNetwork(_TorchvisionRaft(raft, self.updates))
        _put(network, raft, self.weights, f"RAFT ({self.size}) of torchvision, such as raft_{self.size}_C_T_*.pth")
        return network


class _TorchvisionRaft(nn.Module):
    """Wants images in [-1, 1], and gives the flow after every update."""

    def __init__(self, raft: nn.Module, updates: int):
        super().__init__()
        self.raft, self.updates = raft, updates

    def forward(self, images: Tensor, others: Tensor) -> Tensor:
        return self.raft(2 * images - 1, 2 * others - 1, num_flow_updates=self.updates)[-1]


@dataclass(frozen=True)
class UniMatch(_Learned):
    """UniMatch (Xu et al., TPAMI 2023) of ptlflow: the papers' choice for KITTI (Let Occ Flow B.2)."""

    def load(self) -> FlowNetwork:
        """Raises `MissingDependencyError` without ptlflow, `CheckpointError` for other weights."""
        try:
            import ptlflow
        except (ImportError, RuntimeError) as error:
            raise MissingDependencyError(f"UniMatch needs ptlflow ({error}): pip install ptlflow") from error
        model = ptlflow.get_model("unimatch")
        network = FlowNetwork(_Ptlflow(model), multiple=32)
        _put(network, model, self.weights, "UniMatch of ptlflow, such as unimatch-mixdata-*.ckpt")
        return network


class _Ptlflow(nn.Module):
    """Wants a pair of images in one tensor, with the colours from blue to red."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, images: Tensor, others: Tensor) -> Tensor:
        return self.model({"images": torch.stack([images, others], dim=1).flip(2)})["flows"][:, 0]


@dataclass(frozen=True)
class CoTracker:
    """CoTracker (Karaev et al.) of its authors' package: points followed through the images between (Let Occ Flow B.2)."""

    longest: ClassVar[float] = 1.0
    between: ClassVar[bool] = True
    weights: Path  # the package's checkpoint, such as cotracker2.pth
    device: str = field(default="cpu", repr=False)

    def load(self) -> Any:
        """The predictor. Raises `MissingDependencyError` without the package, `CheckpointError` without the weights."""
        try:
            from cotracker.predictor import CoTrackerPredictor
        except ImportError as error:
            raise MissingDependencyError(
                f"tracks need the package cotracker ({error}): "
                "pip install git+https://github.com/facebookresearch/co-tracker"
            ) from error
        _require(self.weights, "CoTracker, such as cotracker2.pth")
        return CoTrackerPredictor(checkpoint=str(self.weights)).to(self.device)

    def __call__(
        self,
        image: UInt8[np.ndarray, "H W 3"],
        other: UInt8[np.ndarray, "H W 3"],
        between: Sequence[UInt8[np.ndarray, "H W 3"]] = (),
    ) -> Float[np.ndarray, "H W 2"]:
        """Flow (u, v) in px, by interpolation between tracked points; NaN where they are hidden at the end."""
        height, width = image.shape[:2]
        rows, columns = -(-height // LATTICE), -(-width // LATTICE)
        v, u = (np.mgrid[:rows, :columns].astype(np.float32) + 0.5) * LATTICE - 0.5
        start = torch.from_numpy(np.stack([u, v], -1).reshape(-1, 2)).to(self.device)
        video = torch.from_numpy(np.stack([image, *between, other])).permute(0, 3, 1, 2)[None].float().to(self.device)
        flow = torch.cat([self._follow(video, points) for points in start.split(POINTS_AT_ONCE)])
        lattice = flow.reshape(rows, columns, 2).cpu().numpy()
        whole = cv2.resize(lattice, (columns * LATTICE, rows * LATTICE), interpolation=cv2.INTER_LINEAR)
        return whole[:height, :width]

    def _follow(self, video: Float[Tensor, "1 T 3 H W"], points: Float[Tensor, "n 2"]) -> Float[Tensor, "n 2"]:
        """How far each point (px) of the first image has moved by the last."""
        queries = F.pad(points, (1, 0))[None]  # (image 0, u, v)
        with torch.inference_mode():
            tracks, visible = _loaded(self)(video, queries=queries)
        return torch.where(visible[0, -1, :, None], tracks[0, -1] - points, torch.nan)


@lru_cache(maxsize=2)
def _loaded(estimator: _Learned | CoTracker) -> nn.Module:
    """Ready to use, once a process."""
    return estimator.load().eval().to(estimator.device)


def to_tensor(images: UInt8[np.ndarray, "B H W 3"]) -> Float[Tensor, "B 3 H W"]:
    """Images as networks take them, in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() / 255


def _put(network: FlowNetwork, inner: nn.Module, weights: Path, what: str) -> None:
    """Load a file into the library's network, or into ours if it was tuned by us. Raises `CheckpointError`."""
    _require(weights, what)
    try:
        if weights.suffix == ".safetensors":
            tensors = load_file(weights)
        else:
            tensors = torch.load(weights, map_location="cpu", weights_only=True)
            tensors = tensors.get("state_dict", tensors)
        (network if any(name.startswith("network.") for name in tensors) else inner).load_state_dict(tensors)
    except (OSError, EOFError, ValueError, RuntimeError, AttributeError, UnpicklingError, SafetensorError) as error:
        raise CheckpointError(f"{weights}: not the weights of {what} ({error})") from error


def _require(weights: Path, what: str) -> None:
    if not weights.is_file():
        raise CheckpointError(f"{weights}: no such file; put the weights of {what}, there")
