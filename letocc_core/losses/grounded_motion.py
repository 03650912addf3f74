"""Motion of objects that stand on the ground, from masks and optical flow alone: ours, told without any learned geometry.

Let Occ Flow's flow loss (eq. 9) puts what moves where it is rendered. But parallax puts it elsewhere, and there another
motion, or none, explains its flow. Here an object is where it stands (see `contact`), and its pixels, which move as one,
vote: small groups of them give the velocity that explains their flow best. One pixel says little of motion along its line
of sight; a group says enough. What remains unclear teaches nothing.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Bool, Float, Int, Num
from torch import Tensor

from letocc_core.errors import ConfigError
from letocc_core.frame import FlowCue, Frame
from letocc_core.geometry import camera, contact
from letocc_core.geometry.grid import GridSpec, sample_volume
from letocc_core.geometry.masked import packed, take
from letocc_core.geometry.surfaces import first_surface
from letocc_core.losses import optical_flow
from letocc_core.losses.mean import mean_over, weighted_mean
from letocc_core.rendering.rays import CameraRays, pixel_rays, rays_through

ROUNDS = 3  # of re-weighted least squares
ROAD = 0.2  # m above the ground, up to which matter is the road's
SURFACE = 0.08  # m, signed distance below which there is matter; unsure matter moves as well
MATTER_STEP = 0.75  # voxels between the samples in which matter is looked for
STRIDE = 2  # px between the pixels that vote, both ways
COLUMNS = 12  # px, width of a group; it has the whole height of the image
DEPTH_SPAN = 1.1  # factor of depth that a group spans
DEPTH_TOLERANCE = 1.1  # factor up to which another depth may explain the flow of what stands still
THRESHOLD = 0.7  # px of flow that a still world does not explain, beyond which a pixel seems to move
MOVES = 0.5  # share of a group's pixels that seem to move, from which it does
STILL = 0.15  # and below which it stands still
FEWEST = 8  # pixels of a group that teaches, over all cues
NOISE = 0.5  # px, errors of flow beyond which a pixel's vote is bounded (Huber)
MISFIT = 0.75  # px, mean error of flow of a group up to which its velocity is believed
KNOWN = 0.5  # share of a group's pixels whose flow is known, from which it is believed
UNSURE = 1.0  # m/s, standard error of a group's velocity, where it is least certain, up to which it teaches
UNSURE_SHARE = 0.3  # the same as a share of its speed: of what moves the larger one counts
SLOW = 1.0  # m/s, speed below which a group may stand still
PRIOR = 0.06  # px a m/s, strength of the belief that motion is slow: for what flow shows even less
MATTER = 2.5  # m from where an object stands, up to which the matter that its pixels show is taught as well
LOWEST = 0.6  # m above the ground, of pixels that teach: voxels further down hold road as well


@dataclass(frozen=True)
class GroundedMotion:
    """What the cues say of the pixels of a frame on objects that could move and whose place is known."""

    pixels: Float[Tensor, "B N p 2"]  # px
    points: Float[Tensor, "B N p 3"]  # m, ego axes
    velocity: Float[Tensor, "B N p 2"]  # m/s over the ground in ego axes; 0 where nothing is known
    moves: Bool[Tensor, "B N p"]
    still: Bool[Tensor, "B N p"]  # it could move, but does not; what is neither teaches nothing
    weight: Float[Tensor, "B N p"]  # 1 / pixels of the group, 0 for those that teach nothing

    def taken(self, index: Int[Tensor, "B N q"]) -> "GroundedMotion":
        """Of some of each camera's pixels."""
        return GroundedMotion(*(take(getattr(self, f.name), index) for f in fields(self)))

    def joined(self, other: "GroundedMotion") -> "GroundedMotion":
        """Of the pixels of both."""
        return GroundedMotion(*(torch.cat([getattr(x, f.name) for x in (self, other)], dim=2) for f in fields(self)))


@torch.no_grad()
def grounded_motion(frame: Frame, cues: Sequence[FlowCue], grid: GridSpec) -> GroundedMotion:
    """The motion of movable objects inside the box, of each group by the cues that tell it best.

    Args:
        cues: in pairs back and forth, of one interval or several: short ones for what is near, long ones for the rest.

    Raises `ConfigError` without masks of movable objects.
    """
    rays, t, there = _standing(frame, grid, STRIDE)
    group, groups = _groups(rays.pixels, t[..., 0], frame.images.shape[-1])
    pixels = _sum(there.float(), group, groups)
    pairs = [cues[i : i + 2] for i in range(0, len(cues), 2)]
    told = _Told.best([_tell(pair, rays, t, there, pixels, group, frame) for pair in pairs])
    points = rays.at(t)[..., 0, :]
    teaches = there & (points[..., 2] > LOWEST) & (told.moves | told.still)[group]
    return GroundedMotion(
        rays.pixels,
        points,
        told.velocity[group] * teaches[..., None],
        teaches & told.moves[group],
        teaches & told.still[group],
        teaches / _sum(teaches.float(), group, groups).clamp(min=1)[group],
    )


@dataclass(frozen=True)
class MotionTargets:
    """What the voxels of a batch are to learn of motion; it depends on no weight of the motion branch."""

    points: Float[Tensor, "B q 3"]  # m, ego axes, on objects that could move
    velocity: Float[Tensor, "B q 2"]  # m/s there
    moves: Bool[Tensor, "B q"]  # False: it could, but stands still
    weight: Float[Tensor, "B q"]  # 0: padding
    still: Bool[Tensor, "B X Y Z"]  # voxels of matter that cannot move

    @staticmethod
    def stacked(targets: Sequence["MotionTargets"]) -> "MotionTargets":
        """A batch of those of single clips [1, ...]."""
        most = max(one.weight.shape[1] for one in targets)

        def join(name: str) -> Tensor:
            values = [getattr(one, name) for one in targets]
            if name != "still":
                values = [torch.cat([v, v.new_zeros(1, most - v.shape[1], *v.shape[2:])], dim=1) for v in values]
            return torch.cat(values)

        return MotionTargets(*(join(f.name) for f in fields(MotionTargets)))


@torch.no_grad()
def motion_targets(
    sdf: Float[Tensor, "B 1 X Y Z"], grid: GridSpec, frame: Frame, cues: Sequence[FlowCue]
) -> MotionTargets:
    """What cues and geometry say of the motion of voxels.

    An object's motion is taught where it stands, and in the matter that its pixels show, if that is nearby. What cannot
    move is matter of which no camera shows the centre on a movable object.

    Raises `ConfigError` as `grounded_motion` does.
    """
    told = grounded_motion(frame, cues, grid)
    told = told.joined(_matter_shown(sdf, grid, told, frame))
    index, there = packed((told.weight > 0).flatten(1))
    points, velocity, moves, weight = (
        take(x.flatten(1, 2), index) for x in (told.points, told.velocity, told.moves, told.weight)
    )
    return MotionTargets(
        points, velocity, moves, weight * there, (sdf[:, 0] < grid.voxel_size / 2) & ~on_objects(frame, grid)
    )


def grounded_losses(
    flow: Float[Tensor, "B 2 X Y Z"], grid: GridSpec, targets: MotionTargets
) -> dict[str, Float[Tensor, ""]]:
    """Errors (m/s) of the motion of voxels: `flow` on what moves, `parked` on what could, `still` on what cannot."""
    velocity = sample_volume(flow, grid, targets.points, padding="border")
    return {
        "flow": weighted_mean((velocity - targets.velocity).norm(dim=-1), targets.weight * targets.moves),
        "parked": weighted_mean(velocity.norm(dim=-1), targets.weight * ~targets.moves),
        "still": mean_over(flow.norm(dim=1), targets.still),
    }


def on_objects(frame: Frame, grid: GridSpec) -> Bool[Tensor, "B X Y Z"]:
    """Voxels whose centre some camera shows on an object that could move.

    Raises `ConfigError` without masks of movable objects.
    """
    pixels, depth = camera.project_lattice(grid.axes(frame.images.device), frame.K, frame.T_ego_cam)
    seen = camera.in_image(pixels, depth, *frame.images.shape[-2:]) & frame.camera_valid[..., None, None, None]
    return (seen & camera.at_nearest(_movable(frame), pixels)).any(1)


def _movable(frame: Frame) -> Bool[Tensor, "B N H W"]:
    if frame.movable is None:
        raise ConfigError(
            "motion.cue: grounded needs masks of what could move, but the data has none; compute them: letocc cues masks"
        )
    return frame.movable


def _matter_shown(
    sdf: Float[Tensor, "B 1 X Y Z"], grid: GridSpec, told: GroundedMotion, frame: Frame
) -> GroundedMotion:
    """The same of the matter above the road that the pixels show, where it is near where their objects stand."""
    told = told.taken(packed(told.weight > 0)[0])
    rays = rays_through(told.pixels, frame.K, frame.T_ego_cam, grid)
    step = grid.voxel_size * MATTER_STEP
    t = first_surface(sdf - SURFACE, grid, rays.origins, rays.directions, step, (ROAD, grid.upper[2]))
    points = rays.at(torch.where(t.isfinite(), t, 0.0)[..., None])[..., 0, :]
    near = t.isfinite() & ((points - told.points).norm(dim=-1) < MATTER)
    return replace(told, points=points, weight=told.weight * near)


@dataclass(frozen=True)
class _Votes:
    """What each pixel says by one cue."""

    known: Bool[Tensor, "B N p"]
    moves: Bool[Tensor, "B N p"]
    target: Float[Tensor, "B N p 2"]  # px, the flow
    flow: Callable[[Tensor], Tensor]  # px [B, N, p, 2] at velocities (m/s) [B, N, p, 2]
    slope: Callable[[Tensor], tuple[Tensor, Tensor]]  # the same, and what a m/s more adds to it [B, N, p, 2, 2]


def _standing(
    frame: Frame, grid: GridSpec, stride: int
) -> tuple[CameraRays, Float[Tensor, "B N p 1"], Bool[Tensor, "B N p"]]:
    """Rays through the pixels of objects that stand inside the box, at which t (m), and which are not padding."""
    rays, movable = pixel_rays(frame, grid), _movable(frame)
    depth = contact.contact_depth(movable, frame.K, frame.T_ego_cam)
    votes = torch.zeros_like(movable)
    votes[..., ::stride, ::stride] = True
    stands = (votes & rays.valid & (depth > rays.near) & (depth < rays.far)).flatten(2)
    chosen, there = packed(stands)
    t = torch.where(there, take(depth.flatten(2), chosen), 1.0)
    return rays_through(take(rays.pixels.flatten(2, 3), chosen), frame.K, frame.T_ego_cam, grid), t[..., None], there


def _votes(rays: CameraRays, t: Tensor, there: Tensor, frame: Frame, cue: FlowCue) -> _Votes:
    target, known = optical_flow.cue_at(cue, rays.pixels)
    whole = torch.ones_like(t)
    still = optical_flow.rendered_flow(rays, t, whole, frame, cue)
    nearest = optical_flow.nearest_static(target, still, rays, t, whole, frame, cue, DEPTH_TOLERANCE)

    def flow(velocity: Tensor) -> Tensor:
        return optical_flow.rendered_flow(rays, t, whole, frame, cue, velocity[..., None, :])

    def slope(velocity: Tensor) -> tuple[Tensor, Tensor]:
        return optical_flow.flow_slope(rays, t, whole, frame, cue, velocity[..., None, :])

    return _Votes(known & there, (target - nearest).norm(dim=-1) > THRESHOLD, target, flow, slope)


def _groups(
    pixels: Float[Tensor, "B N p 2"], depth: Float[Tensor, "B N p"], width: int
) -> tuple[Int[Tensor, "B N p"], int]:
    """Number of the group of each pixel, and how many there are: by camera, column and depth (m)."""
    strip, strips = (pixels[..., 0] // COLUMNS).long(), math.ceil(width / COLUMNS)
    layer = (depth.log() / math.log(DEPTH_SPAN)).round().long()
    layer = layer - layer.min()
    layers = int(layer.max()) + 1
    view = torch.arange(pixels[..., 0, 0].numel(), device=pixels.device).view(*pixels.shape[:2], 1)
    return (view * strips + strip) * layers + layer, int(view.max() + 1) * strips * layers


@dataclass(frozen=True)
class _Told:
    """What the cues of an interval say of each group."""

    velocity: Float[Tensor, "groups 2"]  # m/s; 0 where nothing moves
    moves: Bool[Tensor, "groups"]
    still: Bool[Tensor, "groups"]
    error: Float[Tensor, "groups"]  # m/s, standard error; infinite where the cues are not to be believed

    @staticmethod
    def best(told: Sequence["_Told"]) -> "_Told":
        """Of each group what is least uncertain."""
        chosen = torch.stack([one.error for one in told]).argmin(0)
        group = torch.arange(len(chosen), device=chosen.device)
        return _Told(*(torch.stack([getattr(one, f.name) for one in told])[chosen, group] for f in fields(_Told)))


def _tell(
    cues: Sequence[FlowCue],
    rays: CameraRays,
    t: Float[Tensor, "B N p 1"],
    there: Bool[Tensor, "B N p"],
    pixels: Float[Tensor, "groups"],
    group: Int[Tensor, "B N p"],
    frame: Frame,
) -> _Told:
    """What cues say of groups of so many pixels."""
    votes = [_votes(rays, t, there, frame, cue) for cue in cues]
    groups = len(pixels)
    velocity, error = _velocity(votes, group, groups)
    count = _sum(torch.stack([vote.known for vote in votes]).float().sum(0), group, groups)

    def mean(values: Sequence[Tensor]) -> Tensor:
        """Mean [groups] of what the pixels [B, N, p] that know each cue say."""
        known = [vote.known * value for vote, value in zip(votes, values, strict=True)]
        return _sum(torch.stack(known).sum(0), group, groups) / count.clamp(min=1)

    share = mean([vote.moves for vote in votes])
    misfit = mean([(vote.target - vote.flow(velocity[group])).norm(dim=-1) for vote in votes])
    speed = velocity.norm(dim=-1)
    believed = (count >= FEWEST) & (count >= KNOWN * len(votes) * pixels) & (misfit < MISFIT)
    moves = believed & (error < torch.clamp(UNSURE_SHARE * speed, min=UNSURE)) & (share >= MOVES)
    still = believed & (error < UNSURE) & (share < STILL) & (speed < SLOW)
    return _Told(velocity * moves[:, None], moves, still, torch.where(believed, error, torch.inf))


def _velocity(
    votes: Sequence[_Votes], group: Int[Tensor, "B N p"], groups: int
) -> tuple[Float[Tensor, "groups 2"], Float[Tensor, "groups"]]:
    """Velocity (m/s) that explains the flow of each group, and its standard error in the least certain direction.

    By Gauss-Newton steps of least squares robust against wrong flow, as if the pixels' errors had nothing to do with
    each other.
    """
    velocity = torch.zeros(groups, 2, device=group.device)
    prior = PRIOR**2 * torch.eye(2).to(velocity)
    for _ in range(ROUNDS):
        normal, right = torch.zeros_like(prior), torch.zeros_like(velocity)
        for vote in votes:
            flow, slope = vote.slope(velocity[group])
            left = vote.target - flow
            bounded = vote.known * (NOISE / left.norm(dim=-1).clamp(min=NOISE))
            weighted = slope.mT * bounded[..., None, None]
            normal = normal + _sum(weighted @ slope, group, groups)
            right = right + _sum(_times(weighted, left), group, groups)
        velocity = velocity + torch.linalg.solve(normal + prior, right - velocity @ prior)
    least = torch.linalg.eigvalsh(normal)[..., 0].clamp(min=1e-12)
    return velocity, NOISE / least.sqrt()


def _times(matrix: Float[Tensor, "*p 2 2"], vector: Float[Tensor, "*p 2"]) -> Float[Tensor, "*p 2"]:
    return (matrix @ vector[..., None])[..., 0]


def _sum(values: Num[Tensor, "B N p *c"], group: Int[Tensor, "B N p"], groups: int) -> Num[Tensor, "groups *c"]:
    out = values.new_zeros(groups, *values.shape[3:])
    return out.index_add_(0, group.flatten(), values.flatten(0, 2))
