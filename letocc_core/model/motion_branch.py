"""Motion of what is known to be there: an option besides the papers' network, whose flow field is an MLP at every voxel.

What the plane sweep is to depth, a sweep over velocities is to motion: every surface that a camera sees tries a set of
velocities; if its matter moves like this, where was it in the past images, and do they look alike there? Small patches
are compared, at full resolution for small motion in the image and at a coarse one for large. A network over the ground
plane reads these similarities beside the volume: objects are wider than a voxel, and move as one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from letocc_core.compiled.threads import serves
from letocc_core.errors import ConfigError
from letocc_core.geometry import camera, se3
from letocc_core.geometry.grid import GridSpec
from letocc_core.geometry.masked import packed, take
from letocc_core.geometry.surfaces import first_surface
from letocc_core.model.fields import FLOW_SCALE, Evidence

FLAT = 0.03  # contrast below which a patch has no texture
HIDDEN = 96  # channels between the similarities and the network
TEMPERATURES = (0.03, 0.12)  # of similarities, in which velocities are expected
FAST = 10.0  # m/s, unit of these velocities
STRIDE = 4  # px between the rays that look for surfaces
RAY_STEP = 0.3  # m between the samples of such a ray
LOWEST = 0.2  # m, height of the lowest surfaces that may move: above the road
HIGHEST = 3.0  # m, and of the highest
PATCHES = (1, 4)  # px of the image to a pixel of the 3 x 3 patches that are compared
WIDTH = 32  # channels of each input; the network has 2, 3 and 4 times as many, from fine to coarse


@dataclass(frozen=True)
class MotionBranchConfig:
    """Velocities tried, in ego axes and relative to the world."""

    forward: float = 14.0  # m/s, fastest along x, either way
    sideways: float = 6.0  # m/s, fastest along y
    step: float = 2.0  # m/s between the velocities tried
    expectations: bool = False  # a further input: the velocities that the similarities expect
    least_speed: float = 0.0  # m/s, what seems slower is not told from what stands: answers say that it stands
    surface: float = 0.0  # m, signed distance below which there is matter; above 0: also what is unsure

    REMOVED: ClassVar = {"stride": 4, "ray_step": 0.3, "lowest": 0.2, "highest": 3.0, "patches": [1, 4], "width": 32}

    def __post_init__(self):
        if not (self.step > 0 and self.forward >= self.step and self.sideways >= 0):
            raise ConfigError(
                f"motion_branch: up to {self.forward} and {self.sideways} m/s in steps of {self.step} m/s, expected "
                "positive speeds of at least one step"
            )

    def velocities(self) -> Float[Tensor, "M 2"]:
        """All that are tried (m/s); the middle one is standing still."""
        counts = (int(v / self.step) for v in (self.forward, self.sideways))
        x, y = (torch.arange(-n, n + 1, dtype=torch.float32) for n in counts)
        return torch.cartesian_prod(x, y) * self.step


@dataclass(frozen=True)
class View:
    """What the sweep takes of a frame: full images in grey, with their cameras."""

    stamp: Int[Tensor, "B"]  # ns
    grey: Float[Tensor, "B N H W"]
    K: Float[Tensor, "B N 3 3"]  # px
    T_ego_cam: Float[Tensor, "B N 4 4"]  # m
    camera_valid: Bool[Tensor, "B N"]
    masked: Bool[Tensor, "B N H W"] | None = None  # pixels without evidence


@dataclass(frozen=True)
class Surfaces:
    """Where the rays of cameras first meet matter; rays that do not are left out, as far as the batch's shape allows."""

    points: Float[Tensor, "B N p 3"]  # m, ego axes
    pixels: Float[Tensor, "B N p 2"]  # px
    there: Bool[Tensor, "B N p"]  # False: padding


class MotionBranch(nn.Module):
    """Volume, SDF and images -> evidence -> velocity of every voxel. Geometry gets no gradient from here.

    Args:
        grid: output voxels; the network works on columns of twice their size.
        dim: channels of the volume.
        past: frames of history.
    """

    def __init__(self, config: MotionBranchConfig, grid: GridSpec, dim: int, past: int):
        super().__init__()
        self.config, self.grid = config, grid
        self.above = min(int((grid.axes()[2] <= LOWEST).sum()), grid.shape[2] - 1)  # first layer above the road
        layers, width = grid.coarser(2).shape[2], WIDTH
        similarities = past * (len(PATCHES) * len(config.velocities()) + 1)
        self.read_motion = nn.Sequential(nn.Conv2d(similarities, HIDDEN, 1), nn.ReLU(), nn.Conv2d(HIDDEN, width, 1))
        self.read_volume = nn.Conv2d((dim + 1) * layers, width, 1)
        self.read_expected, inputs = None, 2
        if config.expectations:
            lists, inputs = past * len(PATCHES) + 1, 3
            self.read_expected = nn.Sequential(
                nn.Conv2d(4 * len(TEMPERATURES) * lists, HIDDEN, 1), nn.ReLU(), nn.Conv2d(HIDDEN, width, 1)
            )
        self.down = nn.ModuleList(
            [ResidualBlock2d(inputs * width, 2 * width), ResidualBlock2d(2 * width, 3 * width, 2),
             nn.Sequential(ResidualBlock2d(3 * width, 4 * width, 2), ResidualBlock2d(4 * width, 4 * width))]
        )  # fmt: skip
        self.up = nn.ModuleList([ResidualBlock2d(7 * width, 3 * width), ResidualBlock2d(5 * width, 2 * width)])
        self.last = nn.Conv2d(2 * width, 2 * layers, 1)
        nn.init.normal_(self.last.weight, std=1e-3)
        nn.init.zeros_(self.last.bias)  # type: ignore[arg-type]  # it has one

    def convolutions(self) -> list[nn.Module]:
        """The parts that hold no geometry and no velocities yet."""
        readers = [m for m in (self.read_motion, self.read_volume, self.read_expected) if m is not None]
        return [*readers, *self.down, *self.up]

    @torch.no_grad()
    def columns(self, volume: Float[Tensor, "B C X Y Z"], sdf: Float[Tensor, "B 1 X Y Z"]) -> Float[Tensor, "B c x y"]:
        """The volume's channels and matter (SDF in m), layer by layer over columns of twice the voxels' size."""
        occupied = F.max_pool3d(torch.sigmoid(-sdf / (0.25 * self.grid.voxel_size)), 2)
        return torch.cat([F.avg_pool3d(volume, 2), occupied], dim=1).movedim(-1, 2).flatten(1, 2)

    @torch.no_grad()
    def evidence(
        self,
        columns: Float[Tensor, "B c x y"],
        sdf: Float[Tensor, "B 1 X Y Z"],
        now: View,
        past: Sequence[View],
        T_past_now: Sequence[Float[Tensor, "B 4 4"]],
    ) -> Evidence:
        """What is known of each column from the images of now and the past.

        Args:
            columns: volume and matter, as of `columns`.
            sdf: m.
            past: newest first.
            T_past_now: ego frame now -> ego frame in the past (m).
        """
        surfaces = find_surfaces(sdf - self.config.surface, self.grid, now)
        velocities = self.config.velocities().to(now.grey)
        similarity, known = sweep_velocity(surfaces, now, past, T_past_now, self.grid.coarser(2), velocities)
        return Evidence(similarity, known, columns)

    def forward(
        self,
        evidence: Evidence,
        sdf: Float[Tensor, "B 1 X Y Z"],
        turned: Bool[Tensor, "B"] | None = None,
    ) -> Float[Tensor, "B 2 X Y Z"]:
        """Velocity (m/s) of every voxel; the SDF (m) tells where something stands on the road.

        Args:
            turned: clips that the network sees after half a turn; for training, as hardly any heading is special.
        """
        if turned is not None:
            which = turned[:, None, None, None]
            sdf = torch.where(which[..., None], sdf.flip(2, 3), sdf)
            flow = self(evidence.turned(turned), sdf)
            return torch.where(which[..., None], -flow.flip(2, 3), flow)
        lists = evidence.similarity
        inputs = [
            self.read_motion(torch.cat([lists.flatten(1, 2), evidence.known], dim=1)),
            self.read_volume(evidence.columns),
        ]
        if self.read_expected:
            lists = lists.permute(0, 3, 4, 1, 2)  # a list's numbers are neighbours in memory, as the sweep leaves them
            lists = torch.cat([lists, lists.mean(-2, keepdim=True)], dim=-2)
            inputs.append(self.read_expected(expected_velocities(lists, self.config.velocities().to(lists))))
        levels = [torch.cat(inputs, dim=1)]
        for block in self.down:
            levels.append(block(levels[-1]))
        out = levels.pop()
        for block, finer in zip(self.up, levels[:0:-1], strict=True):
            out = F.interpolate(out, size=finer.shape[-2:], mode="bilinear", align_corners=False)
            out = block(torch.cat([out, finer], dim=1))
        velocity = self.last(out).unflatten(1, (2, -1)).movedim(2, -1) * FLOW_SCALE
        velocity = F.interpolate(velocity, scale_factor=2, mode="trilinear", align_corners=False)
        return self._still_road(velocity, sdf)

    def _still_road(self, velocity: Float[Tensor, "B 2 X Y Z"], sdf: Float[Tensor, "B 1 X Y Z"]) -> Tensor:
        """Nothing below `LOWEST` moves, but the foot of what does: in the layer below, what has two of matter above it."""
        above = self.above
        stands = (sdf[..., above : above + 2] < self.config.surface).all(-1, keepdim=True)
        foot = velocity[..., above : above + 1] * stands
        road = torch.zeros_like(velocity[..., :above])
        return torch.cat([road[..., 1:], foot[..., :above], velocity[..., above:]], dim=-1)


class ResidualBlock2d(nn.Module):
    """Two 3 x 3 convolutions and a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1, groups: int = 4):
        super().__init__()
        self.first = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False), nn.GroupNorm(groups, outputs)
        )
        self.second = nn.Sequential(
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False), nn.GroupNorm(groups, outputs)
        )
        same = inputs == outputs and stride == 1
        self.shortcut = nn.Identity() if same else nn.Conv2d(inputs, outputs, 1, stride)

    def forward(self, x: Float[Tensor, "B C x y"]) -> Float[Tensor, "B D u v"]:
        return F.relu(self.second(F.relu(self.first(x))) + self.shortcut(x))


def expected_velocities(
    lists: Float[Tensor, "B x y k M"], velocities: Float[Tensor, "M 2"]
) -> Float[Tensor, "B K x y"]:
    """Of each of k lists: the mean velocity (in `FAST`), similarity and largest share of the M velocities' softmax.

    At each of the temperatures, sharp and blunt.
    """
    if serves(lists) and not lists.requires_grad:
        from letocc_core.compiled.velocity import expectations

        return expectations(lists, velocities / FAST, TEMPERATURES).flatten(-2).movedim(-1, 1)
    found = []
    for temperature in TEMPERATURES:
        share = (lists / temperature).softmax(-1)
        alike = (share * lists).sum(-1, keepdim=True)
        found += [share @ (velocities / FAST), alike, share.amax(-1, keepdim=True)]
    return torch.cat(found, dim=-1).flatten(-2).movedim(-1, 1)


@torch.no_grad()
def find_surfaces(sdf: Float[Tensor, "B 1 X Y Z"], grid: GridSpec, now: View) -> Surfaces:
    """Where rays through every `STRIDE`-th pixel first meet a negative SDF (m), between the two heights."""
    B, N, H, W = now.grey.shape
    v, u = (torch.arange(STRIDE // 2, n, STRIDE, device=sdf.device) for n in (H, W))
    pixels = torch.cartesian_prod(v, u).flip(-1).to(sdf).expand(B, N, -1, -1)
    directions = camera.ray_directions(pixels, now.K) @ now.T_ego_cam[..., :3, :3].mT
    origins = now.T_ego_cam[..., None, :3, 3].expand_as(directions)
    t = first_surface(sdf, grid, origins, directions, RAY_STEP, (LOWEST, HIGHEST))
    there = t.isfinite() & now.camera_valid[..., None]
    if now.masked is not None:
        there &= ~camera.at_nearest(now.masked, pixels)
    hit = origins + torch.where(there, t, 0.0)[..., None] * directions
    index, there = packed(there)
    return Surfaces(take(hit, index), take(pixels, index), there)


@torch.no_grad()
def sweep_velocity(
    surfaces: Surfaces,
    now: View,
    past: Sequence[View],
    T_past_now: Sequence[Float[Tensor, "B 4 4"]],
    grid: GridSpec,
    velocities: Float[Tensor, "M 2"],
) -> tuple[Float[Tensor, "B k M x y"], Float[Tensor, "B p x y"]]:
    """How much more alike the past looks for each velocity (m/s) than for standing still, over the columns of `grid`.

    For each past frame and patch size, and each velocity, the mean over the surfaces of 3 x 3 columns, in [-2, 2]; then for
    each past frame whether there is any.
    """
    column, inside = _columns(surfaces, grid)
    weight = (surfaces.there & inside).to(now.grey)
    here = [_at(descriptors(now.grey, size), surfaces.pixels[..., None, :], size) for size in PATCHES]
    similarities, known = [], []
    if serves(now.grey):
        column = torch.where(weight > 0, column, -1).flatten(0, 1)
        for other, T in zip(past, T_past_now, strict=True):
            sums = _compiled_sums(surfaces, column, velocities, here, now, other, T, grid)
            count, *means = (_mean_over_neighbours(s, grid) for s in sums)
            known.append((count[:, len(velocities) // 2] > 0).to(count))
            for mean in means:
                mean = mean / count.clamp(min=1e-3)
                still = mean[:, len(velocities) // 2, None]
                similarities.append((mean - still) * known[-1][:, None])
        lists = torch.stack([s.movedim(1, -1) for s in similarities], dim=-2)  # as they lie in memory
        return lists.permute(0, 3, 4, 1, 2), torch.stack(known, dim=1)
    for other, T in zip(past, T_past_now, strict=True):
        pixels, shown = _project_moved(surfaces.points, velocities, now, other, T)
        shown = shown * weight[..., None]
        count = _mean_of_columns(shown, column, grid)
        known.append((count[:, len(velocities) // 2] > 0).to(count))
        for size, patch in zip(PATCHES, here, strict=True):
            alike = torch.einsum("ecpm,ecpk->epk", patch, _at(descriptors(other.grey, size), pixels, size))
            mean = _mean_of_columns(alike.view_as(shown) * shown, column, grid) / count.clamp(min=1e-3)
            still = mean[:, len(velocities) // 2, None]
            similarities.append((mean - still) * known[-1][:, None])
    return torch.stack(similarities, dim=1), torch.stack(known, dim=1)


def _compiled_sums(
    surfaces: Surfaces,
    column: Int[Tensor, "M p"],
    velocities: Float[Tensor, "k 2"],
    here: Sequence[Float[Tensor, "M c p 1"]],
    now: View,
    other: View,
    T_past_now: Float[Tensor, "B 4 4"],
    grid: GridSpec,
) -> Float[Tensor, "lists columns k"]:
    """Of each column and velocity on a CPU: how many points a past image shows, and their likeness for each patch size."""
    from letocc_core.compiled.velocity import alike_by_column

    P, moves = _lines(velocities, now, other, T_past_now)
    column = torch.where(other.camera_valid.flatten()[:, None], column, -1)
    there = [descriptors(other.grey, size) for size in PATCHES]
    columns = len(now.grey) * grid.shape[0] * grid.shape[1]
    points, patches = surfaces.points.flatten(0, 1), [patch[..., 0] for patch in here]
    height, width = other.grey.shape[-2:]
    view = P.flatten(0, 1), moves.flatten(0, 1), (height, width), camera.MIN_DEPTH
    masked = None if other.masked is None else other.masked.flatten(0, 1)
    return alike_by_column(points, column, *view, patches, there, PATCHES, columns, masked)


def descriptors(grey: Float[Tensor, "B N H W"], size: int) -> Float[Tensor, "V 9 h w"]:
    """Of all B N images in a row, each 3 x 3 neighbourhood without its mean, of length 1, or shorter where there is little texture.

    Args:
        size: px of the image to a pixel of the neighbourhood.
    """
    small = F.avg_pool2d(grey.flatten(0, 1)[:, None], size)
    if serves(small):
        from letocc_core.compiled.velocity import descriptors

        return descriptors(small[:, 0], FLAT).movedim(-1, 1)
    patches = F.unfold(F.pad(small, (1, 1, 1, 1), mode="replicate"), 3).unflatten(-1, small.shape[-2:])
    patches = patches - patches.mean(1, keepdim=True)
    return patches / (patches.square().sum(1, keepdim=True).sqrt() + FLAT)


def _at(maps: Float[Tensor, "V c h w"], pixels: Float[Tensor, "B N p k 2"], size: int) -> Float[Tensor, "V c p k"]:
    """Maps of an image `size` times as large at pixels of it; beyond the border, those of the border."""
    height, width = (n * size for n in maps.shape[-2:])
    where = camera.to_unit(pixels.flatten(0, 1), height, width)
    return F.grid_sample(maps, where, padding_mode="border", align_corners=False)


def _project_moved(
    points: Float[Tensor, "B N p 3"],
    velocities: Float[Tensor, "k 2"],
    now: View,
    other: View,
    T_past_now: Float[Tensor, "B 4 4"],
) -> tuple[Float[Tensor, "B N p k 2"], Bool[Tensor, "B N p k"]]:
    """Pixels where each camera saw its points earlier if they move at each velocity, and whether it did.

    In homogeneous coordinates a point moves along a line.
    """
    P, moves = _lines(velocities, now, other, T_past_now)
    still = points @ P[..., :3].mT + P[..., None, :, 3]
    moved = still[..., None, :] + moves[:, :, None]
    pixels = moved[..., :2] / moved[..., 2:].clamp(min=camera.MIN_DEPTH)
    shown = camera.in_image(pixels, moved[..., 2], *other.grey.shape[-2:])
    if other.masked is not None:
        shown = shown & ~camera.at_nearest(other.masked, pixels.clamp(-1, max(other.grey.shape[-2:])))
    return pixels, shown & other.camera_valid[..., None, None]


def _lines(
    velocities: Float[Tensor, "k 2"], now: View, other: View, T_past_now: Float[Tensor, "B 4 4"]
) -> tuple[Float[Tensor, "B N 3 4"], Float[Tensor, "B N k 3"]]:
    """From points (m) to homogeneous pixels of each camera in the past, and what each velocity adds to these."""
    P = other.K @ (se3.inverse(other.T_ego_cam) @ T_past_now[:, None])[..., :3, :]
    seconds = (other.stamp - now.stamp).to(velocities.dtype) * 1e-9
    return P, torch.einsum("bnij,kj,b->bnki", P[..., :2], velocities, seconds)


def _columns(surfaces: Surfaces, grid: GridSpec) -> tuple[Int[Tensor, "B N p"], Bool[Tensor, "B N p"]]:
    """Number of the column of `grid` over the whole batch that holds each point, and whether one does."""
    x, y = grid.shape[:2]
    index, inside = grid.to_voxel(surfaces.points)
    batch = torch.arange(len(index), device=index.device).view(-1, 1, 1)
    column = (batch * x + index[..., 0].clamp(0, x - 1)) * y + index[..., 1].clamp(0, y - 1)
    return column, inside


def _mean_of_columns(
    values: Float[Tensor, "B N p k"], column: Int[Tensor, "B N p"], grid: GridSpec
) -> Float[Tensor, "B k x y"]:
    """Sums over the points of each column, averaged over 3 x 3 columns; zeros beyond the border count."""
    sums = values.new_zeros(len(values) * grid.shape[0] * grid.shape[1], values.shape[-1])
    return _mean_over_neighbours(sums.index_add_(0, column.flatten(), values.flatten(0, 2)), grid)


def _mean_over_neighbours(sums: Float[Tensor, "columns k"], grid: GridSpec) -> Float[Tensor, "B k x y"]:
    """Averages over 3 x 3 columns; zeros beyond the border count."""
    x, y = grid.shape[:2]
    return F.avg_pool2d(sums.view(-1, x, y, sums.shape[-1]).movedim(-1, 1), 3, stride=1, padding=1)
