"""Motion without a flow estimator: the network's own features, seen from above, compared between frames.

After SelfOccFlow (arXiv 2602.23894), which draws its cue for motion from the cosine similarity of features and keeps what
stands and what moves apart in two fields. Here a bird's-eye view (BEV) of features is made from the image pyramid and the
geometry that the network finds itself; where the features of a cell are found again a little later tells its velocity.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from letocc_core.errors import ConfigError
from letocc_core.frame import Clip, Frame
from letocc_core.geometry import camera, se3
from letocc_core.geometry.grid import GridSpec
from letocc_core.losses.optical_flow import dynamic_scale
from letocc_core.model.fields import Fields
from letocc_core.model.let_occ_flow import LetOccFlow

AT_ONCE = 16  # velocities that are compared at once, to bound the memory
HIDDEN = 1.0  # m behind the nearest matter on its pixel, from which matter is not seen


@dataclass(frozen=True)
class SimilarityConfig:
    """Velocities tried, in ego axes and relative to the world, and how they are judged. Similarities lie in [-1, 1]."""

    forward: float = 14.0  # m/s, fastest along x, either way
    sideways: float = 6.0  # m/s, fastest along y
    step: float = 2.0  # m/s between the velocities tried
    lowest: float = 0.4  # m, matter below it is road
    highest: float = 3.0  # m, matter above it does not move
    window: int = 3  # cells, odd: side of the square over which similarities are averaged
    temperature: float = 0.05  # of the softmax over velocities
    margin: float = 0.2  # similarity by which a velocity must beat standing still

    def __post_init__(self):
        if self.window % 2 == 0:
            raise ConfigError(f"motion.similarity.window is {self.window} cells, expected an odd number")
        if not (self.step > 0 and self.forward >= self.step and self.sideways >= 0):
            raise ConfigError(
                f"motion.similarity: up to {self.forward} and {self.sideways} m/s in steps of {self.step} m/s, expected "
                "positive speeds of at least one step"
            )

    def velocities(self) -> Float[Tensor, "M 2"]:
        """All that are tried (m/s), standing still among them."""
        x, y = (torch.arange(-int(v / self.step), int(v / self.step) + 1) for v in (self.forward, self.sideways))
        return torch.cartesian_prod(x, y) * self.step


@dataclass(frozen=True)
class BevFeatures:
    """Features of the matter above each cell of the ground."""

    features: Float[Tensor, "B C X Y"]  # zeros where there is none
    seen: Bool[Tensor, "B X Y"]  # a camera sees some


@dataclass(frozen=True)
class BevMotion:
    """How the matter above each cell moves, by the similarity of features."""

    velocity: Float[Tensor, "B 2 X Y"]  # m/s, relative to the world, in ego axes; zeros where it does not move
    moves: Bool[Tensor, "B X Y"]  # some velocity explains it better than standing still
    known: Bool[Tensor, "B X Y"]  # there is matter that was compared


@dataclass(frozen=True)
class VoxelMotion:
    """The cue for a clip's voxels."""

    velocity: Float[Tensor, "B 2 X Y"]  # m/s, of what moves above each cell
    moves: Bool[Tensor, "B X Y Z"]  # known voxels that move like that
    known: Bool[Tensor, "B X Y Z"]  # occupied voxels of which something is known; those that do not move stand


def bev_features(
    maps: Float[Tensor, "B N C h w"],
    frame: Frame,
    occupied: Bool[Tensor, "B X Y Z"],
    grid: GridSpec,
    config: SimilarityConfig,
) -> BevFeatures:
    """Mean feature of the visible occupied voxels above each cell, between `lowest` and `highest`.

    A voxel takes the features of the pixels that it falls on, in all cameras in which no other matter hides it.
    """
    B, _, C, h, w = maps.shape
    sample, *index = could_move(occupied, grid, config).nonzero(as_tuple=True)
    place, visible = _places(grid.centres(maps.device)[tuple(index)], sample, frame, (h, w))
    values = maps.movedim(2, -1).reshape(-1, C)[place] * visible[..., None]
    X, Y, _ = grid.shape
    cell = (sample * X + index[0]) * Y + index[1]
    total = values.new_zeros(B * X * Y, C).index_add_(0, cell, values.sum(1))
    count = values.new_zeros(B * X * Y).index_add_(0, cell, visible.sum(1).to(values))
    mean = total / count.clamp(min=1)[:, None]
    return BevFeatures(mean.view(B, X, Y, C).movedim(-1, 1), (count > 0).view(B, X, Y))


def _places(
    points: Float[Tensor, "V 3"], sample: Int[Tensor, "V"], frame: Frame, size: tuple[int, int]
) -> tuple[Int[Tensor, "V N"], Bool[Tensor, "V N"]]:
    """Where points (m, each in the ego axes of its sample) are on all maps [B, N, h, w] laid out in a row, and if seen."""
    N, (h, w) = frame.K.shape[1], size
    height, width = frame.images.shape[-2:]
    in_camera = se3.transform(se3.inverse(frame.T_ego_cam)[sample], points[:, None, None].expand(-1, N, 1, 3))
    pixels, depth = (x[:, :, 0] for x in camera.project(in_camera, frame.K[sample]))
    inside = camera.in_image(pixels, depth, height, width) & frame.camera_valid[sample]
    u, v = ((pixels + 0.5) * pixels.new_tensor([w / width, h / height])).long().unbind(-1)
    view = sample[:, None] * N + torch.arange(N, device=points.device)
    place = (view * h + v.clamp(0, h - 1)) * w + u.clamp(0, w - 1)
    nearest = depth.new_full((frame.K[..., 0, 0].numel() * h * w,), math.inf)
    nearest.scatter_reduce_(0, place[inside], depth[inside], "amin")
    return place, inside & (depth < nearest[place] + HIDDEN)


def could_move(occupied: Bool[Tensor, "B X Y Z"], grid: GridSpec, config: SimilarityConfig) -> Bool[Tensor, "B X Y Z"]:
    """Voxels at the heights at which things move."""
    z = grid.axes(occupied.device)[2]
    return occupied & (z > config.lowest) & (z < config.highest)


def compare(
    now: BevFeatures,
    other: BevFeatures,
    T_other_now: Float[Tensor, "B 4 4"],
    seconds: Float[Tensor, "B"],
    grid: GridSpec,
    config: SimilarityConfig,
) -> BevMotion:
    """The velocity at which each cell's features are found again in the other frame.

    Args:
        other: in the ego axes of its own frame.
        T_other_now: ego frame now -> the other ego frame (m).
        seconds: from now to the other frame; negative for the past.
    """
    velocities = config.velocities().to(now.features)
    a, b = (F.normalize(_centred(x, now.seen, now.features), dim=1) for x in (now, other))
    there = _moved_cells(velocities, T_other_now, seconds, grid)  # [B, M, X, Y, 2]
    similarity = torch.cat([_similarity(a, b, part) for part in there.split(AT_ONCE, dim=1)], dim=1)
    compared = now.seen[:, None] & (there.abs() <= 1).all(-1)
    total, count = (_mean_of_squares(v, config.window) for v in (similarity * compared, compared.to(similarity)))
    score = torch.where(count > 0, total / count.clamp(min=1e-6), -1.0)
    still = (velocities == 0).all(-1).nonzero()[0, 0]
    moves = now.seen & (score.amax(1) > score[:, still] + config.margin)
    velocity = torch.einsum("bmxy,mc->bcxy", (score / config.temperature).softmax(1), velocities)
    return BevMotion(velocity * moves[:, None], moves, now.seen & (count[:, still] > 0))


def similarity_losses(
    velocity: Float[Tensor, "B 2 X Y Z"], dynamic: Float[Tensor, "B 1 X Y Z"] | None, cue: VoxelMotion
) -> dict[str, Tensor]:
    """Errors at the voxels that the cue knows, each the mean over those of a clip, then over the clips.

    `flow`: of the velocity (m/s, L1) of what moves, which is rare and counts more for it (Let Occ Flow eq. 11); `still`:
    of what stands; `apart`: cross-entropy of the share that belongs to the dynamic field (`Fields.dynamic`), where asked.
    """
    count = cue.known.flatten(1).sum(1)
    stands = cue.known & ~cue.moves
    scale = dynamic_scale(count, cue.moves.flatten(1).sum(1)).view(-1, 1, 1, 1)

    def mean(values: Float[Tensor, "B X Y Z"], where: Bool[Tensor, "B X Y Z"]) -> Float[Tensor, ""]:
        return ((values * where).flatten(1).sum(1) / count.clamp(min=1)).mean()

    terms = {
        "flow": mean(scale * (velocity - cue.velocity[..., None]).abs().sum(1), cue.moves),
        "still": mean(velocity.abs().sum(1), stands),
    }
    if dynamic is not None:
        wanted = cue.moves.to(velocity)
        terms["apart"] = mean(F.binary_cross_entropy(dynamic[:, 0], wanted, reduction="none"), cue.known)
    return terms


@torch.no_grad()
def similarity_cue(model: LetOccFlow, clip: Clip, fields: Fields, config: SimilarityConfig) -> VoxelMotion:
    """The cue of a clip: from its current frame, whose fields are given, to its last source frame.

    Where movable objects are known in the images, nothing else moves.
    """
    grid, later = model.config.grid, clip.sources[-1]
    encoded = [model.encode(frame) for frame in (later, clip.current, *clip.history)]
    now, movable = features_of(model, clip.current, fields, config)
    other, _ = features_of(model, later, model.decode(encoded[0], encoded[1:], motion=False), config)
    seconds = (later.stamp - clip.current.stamp).float() * 1e-9
    T_later_now = se3.relative(later.T_world_ego, clip.current.T_world_ego)
    found = compare(now, other, T_later_now, seconds, grid, config)
    known = _occupied(model, fields) & found.known[..., None]
    moves = could_move(known, grid, config) & (found.moves & movable)[..., None]
    return VoxelMotion(found.velocity, moves, known)


def _occupied(model: LetOccFlow, fields: Fields) -> Bool[Tensor, "B X Y Z"]:
    return fields.probability(model.config.occupancy_scale) > model.config.occupancy_threshold


def features_of(
    model: LetOccFlow, frame: Frame, fields: Fields, config: SimilarityConfig
) -> tuple[BevFeatures, Bool[Tensor, "B X Y"]]:
    """A frame's pyramid features from above, and which cells hold something movable: all where that is not known."""
    B, N = frame.images.shape[:2]
    finest = model.pyramid(frame.images.flatten(0, 1))[0]
    maps = finest.view(B, N, *finest.shape[1:])
    movable = torch.ones_like(maps[:, :, :1])
    if frame.movable is not None:
        movable = F.adaptive_max_pool2d(frame.movable.to(maps), maps.shape[-2:])[:, :, None]
    both = bev_features(torch.cat([maps, movable], dim=2), frame, _occupied(model, fields), model.config.grid, config)
    return BevFeatures(both.features[:, :-1], both.seen), both.features[:, -1] > 0.5


def _centred(
    bev: BevFeatures, seen: Bool[Tensor, "B X Y"], reference: Float[Tensor, "B C X Y"]
) -> Float[Tensor, "B C X Y"]:
    """Features without what all of them have in common: the mean of `reference` over its `seen` cells."""
    count = seen.flatten(1).sum(1).clamp(min=1)[:, None]
    mean = (reference * seen[:, None]).flatten(2).sum(2) / count
    return (bev.features - mean[..., None, None]) * bev.seen[:, None]


def _similarity(
    a: Float[Tensor, "B C X Y"], b: Float[Tensor, "B C X Y"], there: Float[Tensor, "B M X Y 2"]
) -> Float[Tensor, "B M X Y"]:
    """Cosine of each cell's features `a`, of length 1, and those of `b` at each of M places."""
    found = F.grid_sample(b, there.flatten(1, 2), align_corners=False).unflatten(2, there.shape[1:3])
    return torch.einsum("bcxy,bcmxy->bmxy", a, F.normalize(found, dim=1))


def _moved_cells(
    velocities: Float[Tensor, "M 2"], T_other_now: Float[Tensor, "B 4 4"], seconds: Float[Tensor, "B"], grid: GridSpec
) -> Float[Tensor, "B M X Y 2"]:
    """Where each cell is in the other frame if it moves at each velocity, as grid_sample coordinates (y, x)."""
    x, y, _ = grid.axes(velocities.device)
    ground = torch.stack([*torch.meshgrid(x, y, indexing="ij"), torch.zeros(len(x), len(y)).to(x)], dim=-1)
    shift = F.pad(velocities * seconds[:, None, None], (0, 1))  # [B, M, 3]
    points = ground + shift[:, :, None, None]
    there = se3.transform(T_other_now, points.flatten(1, 3)).view(points.shape)
    return grid.to_unit(there)[..., :2].flip(-1)


def _mean_of_squares(values: Float[Tensor, "B M X Y"], side: int) -> Float[Tensor, "B M X Y"]:
    return F.avg_pool2d(values, side, stride=1, padding=side // 2)
