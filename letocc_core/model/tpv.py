"""Image features to a tri-perspective-view volume (Let Occ Flow 3.2, eqs. 2, 3; TPVFormer, CVPR 2023)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from letocc_core.errors import ConfigError
from letocc_core.geometry import camera, se3
from letocc_core.geometry.grid import GridSpec
from letocc_core.model.deformable_attention import DeformableAttention

AXES = {"xy": (0, 1, 2), "xz": (0, 2, 1), "yz": (1, 2, 0)}  # plane: its two axes, then the one across it
HIDDEN = -10.0  # image coordinate of an anchor behind the camera: outside every feature map


@dataclass(frozen=True)
class EncoderConfig:
    """TPV encoder; `bev` keeps the ground plane only and expands it in height (SelfOcc's variant)."""

    representation: Literal["tpv", "bev"] = "tpv"
    layers: int = 4
    heads: int = 6
    cross_view_points: int = 12  # points a query samples on each plane
    image_points: tuple[int, int, int] = (8, 48, 48)  # points on the images of a query of the xy, xz, yz plane
    anchors: tuple[int, int, int] = (4, 12, 12)  # 3D reference points a query spreads across its plane
    cross_view_anchors: int = 4  # of the same on the other planes

    def __post_init__(self):
        for points, anchors in zip(self.image_points, self.anchors, strict=True):
            if points % anchors:
                raise ConfigError(f"encoder: image_points has {points}, expected a multiple of the {anchors} anchors")
        if self.cross_view_points % self.cross_view_anchors:
            raise ConfigError(
                f"encoder: cross_view_points is {self.cross_view_points}, expected a multiple of cross_view_anchors "
                f"({self.cross_view_anchors})"
            )


@dataclass(frozen=True)
class Looked:
    """Which queries of a plane each camera sees, and where: a matter of calibration alone."""

    query: Int[Tensor, "B N m"]  # numbers of the queries; those of the camera that sees most fill the m
    reference: Float[Tensor, "B N m anchors 2"]  # of their anchors, (x, y) in [0, 1] across the image
    seen: Bool[Tensor, "B N m"]  # False: padding
    share: Float[Tensor, "B Q"]  # 1 over the number of cameras that see a query


class ImageCrossAttention(nn.Module):
    """A query attends to every camera that one of its 3D anchors projects into; the mean over those cameras."""

    def __init__(self, dim: int, heads: int, levels: int, points: int):
        super().__init__()
        self.attention = DeformableAttention(dim, heads, levels, points)

    def forward(
        self,
        query: Float[Tensor, "B Q D"],
        looked: Looked,
        value: Float[Tensor, "V S D"],
        spatial_shapes: Sequence[tuple[int, int]],
    ) -> Float[Tensor, "B Q D"]:
        """Zero where no camera sees a query."""
        B, N, most = looked.query.shape
        index = looked.query[..., None].expand(-1, -1, -1, query.shape[-1])
        queries = query[:, None].expand(-1, N, -1, -1).gather(2, index)
        reference = looked.reference.flatten(0, 1)[:, :, None]
        out = self.attention(queries.flatten(0, 1), reference, value, spatial_shapes)
        out = out.view(B, N, most, -1) * looked.seen[..., None]
        total = torch.zeros_like(query).scatter_add(1, index.flatten(1, 2), out.flatten(1, 2).to(query.dtype))
        return total * looked.share[..., None]


class EncoderLayer(nn.Module):
    """Cross-view hybrid attention, image cross-attention, feed-forward; post-norm."""

    def __init__(self, config: EncoderConfig, dim: int, levels: int, planes: Sequence[str]):
        super().__init__()
        self.cross_view = DeformableAttention(dim, config.heads, len(planes), config.cross_view_points)
        points = dict(zip(AXES, config.image_points, strict=True))
        self.image = nn.ModuleDict({p: ImageCrossAttention(dim, config.heads, levels, points[p]) for p in planes})
        self.feed_forward = nn.Sequential(nn.Linear(dim, 2 * dim), nn.ReLU(), nn.Linear(2 * dim, dim))
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(3))

    def forward(self, query, position, plane_reference, plane_shapes, looked, value, spatial_shapes):
        """Planes' features, concatenated [B, Q, D], after one layer."""
        B = len(query)
        reference = plane_reference[None].expand(B, -1, -1, -1, -1)
        query = self.norms[0](query + self.cross_view(query + position, reference, query, plane_shapes))
        parts = (query + position).split([h * w for h, w in plane_shapes], dim=1)
        seen = [
            self.image[plane](part, looked[plane], value, spatial_shapes)
            for plane, part in zip(self.image, parts, strict=True)
        ]
        query = self.norms[1](query + torch.cat(seen, dim=1))
        return self.norms[2](query + self.feed_forward(query))


class TPVEncoder(nn.Module):
    """Three axis-aligned planes of queries gather image features; their broadcast sum is the volume."""

    def __init__(self, config: EncoderConfig, grid: GridSpec, dim: int, levels: int):
        super().__init__()
        self.config, self.grid = config, grid
        self.planes = tuple(AXES) if config.representation == "tpv" else ("xy",)
        self.shapes = [tuple(grid.shape[a] for a in AXES[p][:2]) for p in self.planes]
        queries = sum(h * w for h, w in self.shapes)
        self.query = nn.Parameter(torch.randn(queries, dim) * 0.02)
        self.position = nn.Parameter(torch.randn(queries, dim) * 0.02)
        self.level = nn.Parameter(torch.zeros(levels, dim))
        self.layers = nn.ModuleList(EncoderLayer(config, dim, levels, self.planes) for _ in range(config.layers))
        if config.representation == "bev":
            self.expand = nn.Linear(dim, dim * grid.shape[2])
        anchors = dict(zip(AXES, config.anchors, strict=True))
        for plane in self.planes:
            self.register_buffer(f"anchors_{plane}", self._plane_anchors(plane, anchors[plane]), persistent=False)
        self.register_buffer("plane_reference", self._plane_reference(), persistent=False)

    def forward(
        self, maps: Sequence[Float[Tensor, "B N D _ _"]], looked: Mapping[str, Looked]
    ) -> Float[Tensor, "B D x y z"]:
        """Volume in ego axes from the cameras' feature pyramids, given what `look` says of each plane."""
        B = len(maps[0])
        spatial_shapes = [tuple(m.shape[-2:]) for m in maps]
        value = torch.cat(
            [m.flatten(3).transpose(2, 3) + embedding for m, embedding in zip(maps, self.level, strict=True)], dim=2
        ).flatten(0, 1)
        query, position = (p[None].expand(B, -1, -1) for p in (self.query, self.position))
        for layer in self.layers:
            query = layer(query, position, self.plane_reference, self.shapes, looked, value, spatial_shapes)
        return self._volume(query)

    def look(
        self,
        K: Float[Tensor, "B N 3 3"],
        T_ego_cam: Float[Tensor, "B N 4 4"],
        camera_valid: Bool[Tensor, "B N"],
        image_size: tuple[int, int],
        masked: Bool[Tensor, "B N H W"] | None = None,
    ) -> dict[str, Looked]:
        """Which queries of each plane every camera sees; `image_size` (height, width) is what K belongs to.

        Args:
            masked: pixels that see nothing.
        """
        found = {}
        for plane in self.planes:
            anchors = getattr(self, f"anchors_{plane}")
            locations, seen = project_anchors(anchors, K, T_ego_cam, camera_valid, image_size, masked)
            most = max(int(seen.sum(-1).max()), 1)
            query = seen.int().argsort(dim=-1, descending=True, stable=True)[..., :most]  # seen ones first
            reference = locations.gather(2, query[..., None, None].expand(-1, -1, -1, *locations.shape[3:]))
            found[plane] = Looked(query, reference, seen.gather(2, query), 1 / seen.sum(1).clamp(min=1))
        return found

    def _volume(self, query: Float[Tensor, "B Q D"]) -> Float[Tensor, "B D x y z"]:
        """Broadcast each plane across itself and add them up (or expand the ground plane in height)."""
        B, _, D = query.shape
        X, Y, Z = self.grid.shape
        if self.config.representation == "bev":
            return self.expand(query).view(B, X, Y, D, Z).permute(0, 3, 1, 2, 4)
        parts = query.transpose(1, 2).split([h * w for h, w in self.shapes], dim=2)
        xy, xz, yz = (part.view(B, D, h, w) for part, (h, w) in zip(parts, self.shapes, strict=True))
        return xy[..., None] + xz[:, :, :, None] + yz[:, :, None]

    def _plane_anchors(self, plane: str, count: int) -> Float[Tensor, "Q anchors 3"]:
        """3D points (m, ego) of each query: its cell on the plane, `count` evenly spaced places across it."""
        first, second, across = AXES[plane]
        centres = self.grid.centres().movedim((first, second, across), (0, 1, 2))
        cells = centres[:, :, :1].expand(-1, -1, count, -1).clone()
        low, high = self.grid.lower[across], self.grid.upper[across]
        cells[..., across] = low + (torch.arange(count) + 0.5) / count * (high - low)
        return cells.flatten(0, 1)

    def _plane_reference(self) -> Float[Tensor, "Q planes anchors 2"]:
        """Where each query's anchors fall on every plane, (x, y) of its map in [0, 1]."""
        parts = []
        for plane in self.planes:
            unit = (self.grid.to_unit(self._plane_anchors(plane, self.config.cross_view_anchors)) + 1) / 2
            parts.append(torch.stack([unit[..., [AXES[p][1], AXES[p][0]]] for p in self.planes], dim=1))
        return torch.cat(parts)


def project_anchors(
    anchors: Float[Tensor, "Q anchors 3"],
    K: Float[Tensor, "B N 3 3"],
    T_ego_cam: Float[Tensor, "B N 4 4"],
    camera_valid: Bool[Tensor, "B N"],
    image_size: tuple[int, int],
    masked: Bool[Tensor, "B N H W"] | None = None,
) -> tuple[Float[Tensor, "B N Q anchors 2"], Bool[Tensor, "B N Q"]]:
    """Image coordinates in [0, 1] of 3D anchors (m, ego) in every camera, and which queries a camera sees."""
    Q, count = anchors.shape[:2]
    B, N = camera_valid.shape
    points = se3.transform(se3.inverse(T_ego_cam), anchors.view(1, 1, -1, 3).expand(B, N, -1, -1))
    pixels, depth = camera.project(points, K)
    inside = camera.in_image(pixels, depth, *image_size) & camera_valid[..., None]
    if masked is not None:
        inside &= ~camera.at_nearest(masked, pixels.nan_to_num(0.0).clamp(-1, max(image_size)))
    locations = (camera.to_unit(pixels, *image_size) + 1) / 2
    locations = torch.where((depth > camera.MIN_DEPTH)[..., None], locations, HIDDEN).clamp(HIDDEN, -HIDDEN)
    return locations.view(B, N, Q, count, 2), inside.view(B, N, Q, count).any(-1)
