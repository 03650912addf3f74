"""What every part exchanges: a `Frame` is one set of camera images with its poses, a `Clip` is what training needs of it.

One class serves a single frame and a batch of them: `*batch` below is nothing, or [B]. N cameras of one size H x W.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from letocc_core.errors import ConfigError


@dataclass(frozen=True)
class InputConfig:
    """How images enter the network; the same for training, replay and the live node."""

    image_size: tuple[int, int] = (128, 224)  # px, height and width after resizing and cropping
    history_interval: float = 0.2  # s between the frames that the temporal fusion sees
    max_gap: float = 1.0  # s without images after which the past is forgotten
    fisheye_views: tuple[float, ...] = (0.0,)  # degrees left of its axis: the pinhole images made of a fisheye camera's
    fisheye_fov: float = 90.0  # degrees that each of them sees horizontally

    def __post_init__(self):
        if not self.fisheye_views or not 0 < self.fisheye_fov < 180:
            raise ConfigError(
                f"input: fisheye_views {list(self.fisheye_views)} of fisheye_fov {self.fisheye_fov:g} degrees; expected "
                "one view or more, and less than 180 degrees, which is all that a pinhole image can hold"
            )


@dataclass(frozen=True)
class Frame:
    """Synchronised images of N cameras. Ego = base_link (x forward, y left, z up), camera = optical frame."""

    stamp: Int[Tensor, "*batch"]  # ns, int64
    images: Float[Tensor, "*batch N 3 H W"]  # RGB in [0, 1]; zeros where a camera is absent
    camera_valid: Bool[Tensor, "*batch N"]  # False: this camera has no image in this set
    K: Float[Tensor, "*batch N 3 3"]  # px, float32, of the images as they are here
    T_ego_cam: Float[Tensor, "*batch N 4 4"]  # m, float32
    T_world_ego: Float[Tensor, "*batch 4 4"]  # m, float64

    masked: Bool[Tensor, "*batch N H W"] | None = None  # pixels without evidence, by masks of the vehicle's own body

    # Supervision from sensors and 2D models, absent (None) when not recorded.
    movable: Bool[Tensor, "*batch N H W"] | None = None  # pixels of objects that could move
    own: Bool[Tensor, "*batch N H W"] | None = None  # pixels of the vehicle itself: nothing is to be learned there
    semantics: Int[Tensor, "*batch N H W"] | None = None  # 2D class ids, 255 = ignore
    lidar: Float[Tensor, "*batch P 3"] | None = None  # m, returns in ego axes at this stamp; NaN rows are padding
    lidar_origin: Float[Tensor, "*batch 3"] | None = None  # m, sensor position in ego axes
    votes: Float[Tensor, "*batch 2 X Y Z"] | None = None  # of rays, for free space and for matter (`cues.votes`)

    def to(self, device: torch.device | str) -> "Frame":
        """The same frame on another device."""
        return _with_tensors(self, lambda x: x.to(device))

    def images_alone(self) -> "Frame":
        """The same without what is written in its own axes: LiDAR and votes."""
        return replace(self, lidar=None, lidar_origin=None, votes=None)

    def unsqueeze(self) -> "Frame":
        """A batch of one."""
        return stack([self])


@dataclass(frozen=True)
class FlowCue:
    """Optical flow from the images of a clip's current frame to those of the same cameras at another instant."""

    stamp: Int[Tensor, "*batch"]  # ns, int64, of the other instant, as are the poses and intrinsics
    K: Float[Tensor, "*batch N 3 3"]  # px
    T_ego_cam: Float[Tensor, "*batch N 4 4"]  # m, float32
    T_world_ego: Float[Tensor, "*batch 4 4"]  # m, float64
    flow: Float[Tensor, "*batch N 2 H W"]  # px (u, v), at the pixels of the current images
    valid: Bool[Tensor, "*batch N H W"]  # where it can be trusted

    def to(self, device: torch.device | str) -> "FlowCue":
        """The same cue on another device."""
        return _with_tensors(self, lambda x: x.to(device))


@dataclass(frozen=True)
class Clip:
    """A training sample: the current frame, its past for the network, its neighbours and cues for supervision."""

    current: Frame
    history: tuple[Frame, ...]  # newest first; what the temporal fusion and the plane sweep see
    sources: tuple[Frame, ...]  # frames into which the rendered rays are projected (previous and next)
    cues: tuple[FlowCue, ...] = ()  # for motion; their instants are chosen apart from the sources
    rendered: Frame | None = None  # whose rays are rendered, of another instant or the same; None: the current frame's

    def to(self, device: torch.device | str) -> "Clip":
        return self._with_tensors(lambda x: x.to(device))

    def rows(self, rows: list[int]) -> "Clip":
        """Some of a batch."""
        return self._with_tensors(lambda x: x[rows])

    def _with_tensors(self, change: Callable[[Tensor], Tensor]) -> "Clip":
        return Clip(
            _with_tensors(self.current, change),
            tuple(_with_tensors(f, change) for f in self.history),
            tuple(_with_tensors(f, change) for f in self.sources),
            tuple(_with_tensors(c, change) for c in self.cues),
            None if self.rendered is None else _with_tensors(self.rendered, change),
        )


Item = TypeVar("Item", Frame, FlowCue)


def stack(items: Sequence[Item]) -> Item:
    """A batch [B] of single ones; a field is kept if all have it.

    LiDAR sweeps are padded with NaN rows, and sets of fewer cameras with absent ones.
    """
    cameras = max(len(item.K) for item in items)

    def join(name: str) -> Tensor | None:
        values = [getattr(item, name) for item in items]
        if any(v is None for v in values):
            return None
        if name == "lidar":
            size = max(len(v) for v in values)
            values = [torch.nn.functional.pad(v, (0, 0, 0, size - len(v)), value=float("nan")) for v in values]
        elif name in _OF_CAMERAS:
            values = [_with_absent(v, cameras - len(v)) for v in values]
        return torch.stack(values)

    joined: dict[str, Any] = {f.name: join(f.name) for f in fields(items[0])}
    return type(items[0])(**joined)


_OF_CAMERAS = ("images", "camera_valid", "K", "T_ego_cam", "masked", "movable", "own", "semantics", "flow", "valid")


def _with_absent(values: Tensor, count: int) -> Tensor:
    """A field [N, ...] with `count` cameras more: matrices like the first camera's, all else zero."""
    if not count:
        return values
    more = values[:1] if values.shape[1:] in ((3, 3), (4, 4)) else torch.zeros_like(values[:1])
    return torch.cat([values, more.expand(count, *values.shape[1:])])


def collate(clips: Sequence[Clip]) -> Clip:
    """Batch clips of equal structure (`DataLoader(collate_fn=collate)`)."""

    def together(groups: Iterable[Sequence[Item]]) -> tuple[Item, ...]:
        return tuple(stack(list(items)) for items in zip(*groups, strict=True))

    history, sources, cues = (together(getattr(c, name) for c in clips) for name in ("history", "sources", "cues"))
    rendered = together(() if c.rendered is None else (c.rendered,) for c in clips)
    return Clip(stack([c.current for c in clips]), history, sources, cues, *rendered)


def _with_tensors(item: Item, change: Callable[[Tensor], Tensor]) -> Item:
    """The same with another tensor in place of each of its own."""
    values: dict[str, Any] = {
        f.name: None if (value := getattr(item, f.name)) is None else change(value) for f in fields(item)
    }
    return type(item)(**values)
