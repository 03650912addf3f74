"""Which voxels are free and which hold matter, as rays of many instants vote: supervision without any label.

After QueryOcc (CVPR 2026): before the depth that a ray sees space is free, just behind it is matter, and nothing is said
beyond. Depth is our own, by plane sweep with the images before *and after* each instant, for training may look ahead; or
a LiDAR's, which needs no geometry of our own. The vehicle drives past most things, so that what is far off now is near
a second later, where a plane sweep is good to centimetres: rays of the instants around the current one vote in its
voxels, each by how well it knows its end. A voxel's share of votes for matter is a probability in the true proportion of
free and occupied space, not in one that a sampling of points would make.

What moves is somewhere else at other instants. Pixels of objects that could move vote at other instants only if the object
stands: if its depth by parallax is the one at which its mask meets the road (`geometry.contact`), which a fast motion tells
apart, and if the other instants show such an object at the same place, where what walks is no more. What moves now votes
now, at the depth at which it stands on the road, and no other instant votes where it is shown.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, UInt8

from letocc_core.errors import ConfigError, DataError
from letocc_core.frame import Frame
from letocc_core.geometry import camera, se3
from letocc_core.geometry.contact import contact_depth
from letocc_core.geometry.grid import GridSpec
from letocc_core.model import plane_sweep

SWEEP_STRIDE = 4  # px of the full images between the pixels that a plane sweep gives depth for
ROWS = 2  # rays that take the place of one such pixel downwards: the road is seen at a grazing angle
LEAST_SPREAD = 0.015  # of depth: standard error of a depth that a plane sweep is sure of
CLEAR = 2.0  # standard errors before its end, up to which a ray says that space is free: it is nearer than one in a sixth of all
PLACES = ((-0.8, 0.25), (0.0, 0.5), (0.8, 0.25))  # of an end, in standard errors, and the share of the vote there
RANGE_SPREAD = 0.03  # m, standard error of a LiDAR's range
KERB = 0.15  # m above the road, up to which what moves may stand: a walker on a pavement is nearer than it seems
CONTACT_ROW = 0.35  # px, error of the row in which its mask meets the ground
THICKNESS = 0.4  # m that the thinnest of what moves, a walker, is deep
DEEP = (0.125, 0.375, 0.625, 0.875)  # places between its front and its back that hold matter, a vote for each
STANDING = 0.2  # largest |log| of parallax depth over contact depth of an object that stands
STAYS = 0.7  # share of the other instants that see its place, from which they show it there
WITNESSED = 0.5  # m above the road, of the point that they look at
ROAD = 0.4  # m above base_link, up to which a LiDAR's return may be of the road
OVERRULES = 0.9  # votes of the own sweep in a voxel, from which no other ray counts there
ROUNDING = 32.0  # steps of a vote on disk
VERSION = 3  # raise when the same frames give other votes, so that files of before are not read


@dataclass(frozen=True)
class VotesConfig:
    """Which rays vote, and how much."""

    source: Literal["camera", "lidar", "both", "truth"] = "camera"  # whose rays; truth: a bound, of simulated streets
    seconds: tuple[float, ...] = (-0.4, -0.2, 0.2, 0.4)  # s to the instants whose images give the depth of one
    window: float = 3.2  # s before and after a frame, of the instants whose rays vote in its voxels
    depths: int = 80  # inverse depths that the plane sweep tries
    nearest: float = 1.3  # m, nearest of them
    confidence: float = 0.6  # of the plane sweep, from which a ray votes
    margin: float = 0.25  # m from the surface that a ray ends on, nearer than which it does not vote for free space
    sure: float = 0.1  # m across that surface, up to which an end has its whole vote; beyond by its square
    unsure: float = 0.3  # m, beyond which it has none
    farthest: float = 25.0  # m, of ends
    contact_farthest: float = 20.0  # m, of ends by where objects stand on the road

    def __post_init__(self):
        if len(self.seconds) < 1 or 0.0 in self.seconds:
            raise ConfigError(f"votes.seconds: {list(self.seconds)}, expected at least one instant, and none at 0")
        if not 0 < self.sure <= self.unsure:
            raise ConfigError(f"votes: sure {self.sure}, unsure {self.unsure}, expected 0 < sure <= unsure (m)")


@dataclass(frozen=True, eq=False)
class RayVotes:
    """Rays of one instant, R of them, in its ego axes. `t` counts in `directions`."""

    origins: Float[np.ndarray, "R 3"]  # m
    directions: Float[np.ndarray, "R 3"]  # m per unit of t
    free_until: Float[np.ndarray, "R"]  # t up to which space is free; 0: says nothing of it
    end: Float[np.ndarray, "R"]  # t of the surface
    spread: Float[np.ndarray, "R"]  # its standard error
    free_weight: Float[np.ndarray, "R"]
    end_weight: Float[np.ndarray, "R"]

    def joined(self, other: "RayVotes") -> "RayVotes":
        """The rays of both."""
        names = ("origins", "directions", "free_until", "end", "spread", "free_weight", "end_weight")
        return RayVotes(*(np.concatenate([getattr(self, n), getattr(other, n)]) for n in names))


@dataclass(frozen=True, eq=False)
class Instant:
    """What one frame says: rays that hold at any instant, those that hold at its own only, and where these are."""

    T_world_ego: Float[np.ndarray, "4 4"]  # m
    still: RayVotes | None = None  # of cameras
    moving: RayVotes | None = None  # of what moves, which other instants must not vote on
    moving_pixels: Bool[np.ndarray, "N H W"] | None = None
    K: Float[np.ndarray, "N 3 3"] | None = None
    T_ego_cam: Float[np.ndarray, "N 4 4"] | None = None
    sweep: RayVotes | None = None  # of a LiDAR; where it looks, it overrules all others at its own instant


def neighbours(stamps_ns: Sequence[int] | Int[np.ndarray, "n"], i: int, config: VotesConfig) -> list[int]:
    """The frames nearest to each of `config.seconds` from frame i; those that are absent are left out."""
    stamps = np.asarray(stamps_ns, np.int64)
    found = []
    for seconds in config.seconds:
        gap = np.abs(stamps - stamps[i] - round(seconds * 1e9))
        j = int(gap.argmin())
        if gap[j] < 0.25e9 * abs(seconds) and j != i and j not in found:
            found.append(j)
    return found


@torch.no_grad()
def camera_votes(
    frame: Frame, others: Sequence[Frame], config: VotesConfig, witnesses: Sequence[Frame] = ()
) -> Instant:
    """What the images of a frame say, by their plane-sweep depth from other frames of the same cameras.

    Args:
        frame, others: single frames. Without `movable` masks nothing is taken to move.
        witnesses: frames of other instants, whose masks tell what stays.
    """
    swept, deviation = _depth(frame, others, config)
    rays = [_camera_rays(frame, n, swept, deviation, config, witnesses) for n in range(len(frame.images))]
    still, moving, masks = (list(column) for column in zip(*rays, strict=True))
    joined = _concatenate(still)
    K, T_ego_cam = frame.K.double().numpy(), frame.T_ego_cam.double().numpy()
    pose = frame.T_world_ego.numpy()
    if frame.movable is None:
        return Instant(pose, joined, None, None, K, T_ego_cam)
    return Instant(pose, joined, _concatenate(moving), np.stack(masks), K, T_ego_cam)


def instant(frame: Frame, others: Sequence[Frame], config: VotesConfig, witnesses: Sequence[Frame] = ()) -> Instant:
    """What a frame says, by `config.source`; see `camera_votes`. Raises `DataError` for LiDAR alone without a sweep."""
    found = Instant(frame.T_world_ego.numpy())
    if config.source in ("camera", "both"):
        found = camera_votes(frame, others, config, witnesses)
    if config.source == "lidar" or (config.source == "both" and frame.lidar is not None):
        found = replace(found, sweep=lidar_votes(frame, config))
    return found


def lidar_votes(frame: Frame, config: VotesConfig) -> RayVotes:
    """What a LiDAR sweep says: before a return space is free, at its end is matter.

    A ray that ends near the road grazes it: it says nothing of what is lower than `margin` above its end.
    """
    if frame.lidar is None or frame.lidar_origin is None:
        raise DataError("data.votes.source is lidar, but a frame has no LiDAR sweep; set it to both or camera")
    points = frame.lidar.double().numpy()
    points = points[np.isfinite(points).all(1)]
    origin = frame.lidar_origin.double().numpy()
    offsets = points - origin
    ranges = np.linalg.norm(offsets, axis=1)
    keep = ranges > config.margin
    offsets, ranges, points = offsets[keep], ranges[keep], points[keep]
    free = ranges - config.margin
    grazes = (points[:, 2] < ROAD) & (offsets[:, 2] < 0)
    above = ranges * np.clip(1 - config.margin / np.maximum(-offsets[:, 2], 1e-6), 0, 1)
    ones = np.ones_like(ranges)
    return RayVotes(
        np.broadcast_to(origin, offsets.shape).copy(),
        offsets / ranges[:, None],
        np.where(grazes, np.minimum(free, above), free),
        ranges,
        RANGE_SPREAD * ones,
        ones,
        ones,
    )


def cast(
    instants: Sequence[Instant], now: Instant, grid: GridSpec, config: VotesConfig
) -> Float[np.ndarray, "2 X Y Z"]:
    """Votes for free space and for matter in the voxels of the instant `now`, which need not be among the others."""
    votes = np.zeros((2, *grid.shape), np.float32)
    T_now_world = np.linalg.inv(now.T_world_ego)
    for instant in instants:
        for rays in (instant.still, instant.sweep):
            if instant is not now and rays is not None:
                _cast(rays, T_now_world @ instant.T_world_ego, grid, votes)
    if now.moving_pixels is not None and now.moving_pixels.any():
        votes[:, _shown(now, now.moving_pixels, grid)] = 0
    for rays in (now.still, now.moving):
        if rays is not None:
            _cast(rays, np.eye(4), grid, votes)
    if now.sweep is None:
        return votes
    seen = np.zeros_like(votes)
    _cast(now.sweep, np.eye(4), grid, seen)
    return np.where(seen.sum(0) >= OVERRULES, seen, votes)


def pack(votes: Float[np.ndarray, "2 X Y Z"]) -> UInt8[np.ndarray, "2 X Y Z"]:
    """Votes as they are kept on disk: rounded, and where there are more than 8 of a kind, both scaled down to that."""
    most = 255 / ROUNDING
    scale = np.minimum(1, most / np.maximum(votes.max(0), most))
    return np.rint(votes * scale * ROUNDING).astype(np.uint8)


def unpack(packed: UInt8[np.ndarray, "2 X Y Z"]) -> Float[np.ndarray, "2 X Y Z"]:
    """The votes, up to rounding."""
    return packed.astype(np.float32) / ROUNDING


def _depth(frame: Frame, others: Sequence[Frame], config: VotesConfig) -> tuple[plane_sweep.SweptDepth, np.ndarray]:
    """Plane-sweep depth of every fourth pixel, and the standard deviation of its inverse (1/m)."""
    others = others or [frame]  # which shows no parallax, and so gives no depth
    T_cam = frame.T_ego_cam[None]
    grey, *other_grey = (F.avg_pool2d(plane_sweep.brightness(f.images[None]), 2) for f in (frame, *others))
    K, *other_K = (plane_sweep.half_intrinsics(f.K[None]) for f in (frame, *others))
    T = [
        se3.inverse(f.T_ego_cam[None]) @ se3.relative(f.T_world_ego[None], frame.T_world_ego[None])[:, None] @ T_cam
        for f in others
    ]
    valid = [(f.camera_valid & frame.camera_valid)[None] for f in others]
    swept = plane_sweep.sweep_depth(grey, other_grey, K, other_K, T, valid, config.depths, config.nearest)
    inverse = swept.inverse_depths.view(1, -1, 1, 1)
    off = inverse - 1 / swept.depth[0][:, None]
    return swept, (swept.probability[0] * off**2).sum(1).sqrt().numpy()


def _camera_rays(
    frame: Frame,
    n: int,
    swept: plane_sweep.SweptDepth,
    deviation: np.ndarray,
    config: VotesConfig,
    witnesses: Sequence[Frame],
) -> tuple[RayVotes, RayVotes | None, Bool[np.ndarray, "H W"] | None]:
    """Rays of one camera: of what stands, of what moves, and the mask of what moves (full size)."""
    inverse = (1 / swept.depth[0, n]).numpy()
    rows, columns = inverse.shape
    smooth = cv2.blur(inverse, (3, 3))
    down, across = (np.gradient(smooth, axis=a) / SWEEP_STRIDE for a in (0, 1))  # 1/m a px

    def finer(values: np.ndarray) -> np.ndarray:
        return cv2.resize(values.astype(np.float32), (columns, rows * ROWS), interpolation=cv2.INTER_LINEAR)

    inverse, sigma, sure, down, across = map(
        finer, (inverse, deviation[n], swept.confidence[0, n].numpy(), down, across)
    )
    u = np.arange(columns) * SWEEP_STRIDE + 0.5
    v = ((np.arange(rows * ROWS) + 0.5) / ROWS - 0.5) * SWEEP_STRIDE + 0.5
    u, v = np.meshgrid(u, v)
    K, T = frame.K[n].double().numpy(), frame.T_ego_cam[n].double().numpy()
    x, y = (u - K[0, 2]) / K[0, 0], (v - K[1, 2]) / K[1, 1]
    directions = np.stack([x, y, np.ones_like(x)], -1) @ T[:3, :3].T
    # the plane through the surface: inverse depth is linear in the pixel, and its slope gives the plane's distance
    normal = np.stack([across * K[0, 0], down * K[1, 1]], -1)
    along = inverse - x * normal[..., 0] - y * normal[..., 1]
    plane = 1 / np.sqrt((normal**2).sum(-1) + along**2)  # m from the camera
    depth = 1 / inverse
    spread = np.maximum(sigma * depth**2, LEAST_SPREAD * depth)
    across_plane = spread * np.minimum(plane / depth, 1)
    reach = depth * (1 - (config.margin + CLEAR * across_plane) / np.maximum(plane, 1e-3))
    reach = np.minimum(reach, depth - config.margin)
    counted = sure > config.confidence
    nearest = (v.round().astype(int), u.round().astype(int))
    if frame.own is not None:  # and what a window of the plane sweep mixes with it
        counted &= ~cv2.dilate(frame.own[n].numpy().astype(np.uint8), np.ones((7, 7), np.uint8))[nearest].astype(bool)
    moving_rays, mask = None, None
    if frame.movable is not None:
        movable = frame.movable[n]
        depths = contact_depth(movable[None, None], frame.K[None, n : n + 1], frame.T_ego_cam[None, n : n + 1])
        on, contact = movable.numpy()[nearest], depths[0, 0].numpy()[nearest]
        with np.errstate(divide="ignore"):
            stands = on & counted & (np.abs(np.log(depth / contact)) < STANDING)
        stands[stands] = _stays(frame, T[:3, 3] + directions[stands] * contact[stands][:, None], witnesses)
        counted &= ~on | stands
        moves = on & ~stands
        placed = moves & (contact < config.contact_farthest)
        moving_rays = _moving_rays(directions, placed, contact, K, T, config)
        height, width = movable.shape
        grown = cv2.resize(moves.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST)
        mask = cv2.dilate(grown, np.ones((5, 5), np.uint8)).astype(bool)
    ends = counted & (depth < config.farthest) & (across_plane < config.unsure)
    end_weight = ends * sure * np.minimum(1, config.sure / across_plane) ** 2
    still = _rays(directions, T, counted, reach, depth, spread, sure, end_weight)
    return still, moving_rays, mask


def _moving_rays(
    directions: Float[np.ndarray, "h w 3"],
    placed: Bool[np.ndarray, "h w"],
    contact: Float[np.ndarray, "h w"],
    K: Float[np.ndarray, "3 3"],
    T_ego_cam: Float[np.ndarray, "4 4"],
    config: VotesConfig,
) -> RayVotes:
    """Rays of what moves: its matter from where it may stand at the nearest, on a kerb, to its own thickness behind.

    Args:
        placed: pixels that vote.
        contact: m, depth at which the objects on them meet the road.
    """
    contact = np.where(placed, contact, 1.0)
    above = max(T_ego_cam[2, 3], 2 * KERB)
    row = CONTACT_ROW * contact**2 / (K[1, 1] * above)
    front, back = contact * (1 - KERB / above) - row, contact + row + THICKNESS
    ones = np.ones_like(contact)
    free = front - config.margin

    def ending(share: float) -> RayVotes:
        return _rays(
            directions, T_ego_cam, placed, free, front + (back - front) * share, 0 * ones, ones / len(DEEP), ones
        )

    return _concatenate([ending(share) for share in DEEP])


def _stays(frame: Frame, points: Float[np.ndarray, "P 3"], witnesses: Sequence[Frame]) -> Bool[np.ndarray, "P"]:
    """Whether most other instants that see the places of objects (ego axes, m) show what could move there.

    A place that no other instant sees stays.
    """
    raised = torch.from_numpy(np.c_[points[:, :2], np.full(len(points), WITNESSED)]).float()
    seen, shown = torch.zeros(len(points)), torch.zeros(len(points))
    for other in witnesses:
        if other.movable is None:
            continue
        T_other_frame = se3.relative(other.T_world_ego, frame.T_world_ego)
        T = se3.inverse(other.T_ego_cam) @ T_other_frame
        pixels, depth = camera.project(se3.transform(T, raised.expand(len(T), -1, -1)), other.K)
        inside = camera.in_image(pixels, depth, *other.movable.shape[-2:]) & other.camera_valid[:, None]
        on = camera.at_nearest(other.movable[None], pixels[None])[0]
        seen += inside.any(0)
        shown += (inside & on).any(0)
    return (shown >= STAYS * seen).numpy()


def _rays(
    directions: np.ndarray,
    T: np.ndarray,
    chosen: np.ndarray,
    free_until: np.ndarray,
    end: np.ndarray,
    spread: np.ndarray,
    free_weight: np.ndarray,
    end_weight: np.ndarray,
) -> RayVotes:
    """The chosen pixels' rays from a camera's place."""
    flat = [np.asarray(a[chosen], np.float64) for a in (directions, free_until, end, spread, free_weight, end_weight)]
    return RayVotes(np.broadcast_to(T[:3, 3], flat[0].shape).copy(), *flat)


def _concatenate(rays: Sequence[RayVotes]) -> RayVotes:
    out = rays[0]
    for more in rays[1:]:
        out = out.joined(more)
    return out


def _shown(now: Instant, moving: Bool[np.ndarray, "N H W"], grid: GridSpec) -> Bool[np.ndarray, "X Y Z"]:
    """Voxels whose centre some camera shows on what moves."""
    K, T = torch.from_numpy(now.K).float(), torch.from_numpy(now.T_ego_cam).float()
    pixels, depth = camera.project_lattice(grid.axes(), K, T)
    inside = camera.in_image(pixels, depth, *moving.shape[-2:])
    on = camera.at_nearest(torch.from_numpy(moving)[None], pixels[None])[0]
    return (inside & on).any(0).numpy()


def _cast(rays: RayVotes, T: Float[np.ndarray, "4 4"], grid: GridSpec, votes: np.ndarray) -> None:
    """Add the votes of rays, given in axes that `T` takes to those of the grid."""
    from letocc_core.geometry import ray_casting  # numba, which training from what is on disk does not need

    origins = (rays.origins @ T[:3, :3].T + T[:3, 3] - np.asarray(grid.lower)) / grid.voxel_size
    directions = rays.directions @ T[:3, :3].T / grid.voxel_size
    ray_casting.add_crossings(origins, directions, rays.free_until, rays.free_weight, votes[0])
    for place, share in PLACES:
        ends = origins + directions * (rays.end + place * rays.spread)[:, None]
        ray_casting.add_points(ends, share * rays.end_weight, votes[1])
