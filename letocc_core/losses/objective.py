"""The objective of a stage: the terms that shape geometry (SelfOcc's), and with `MotionConfig` those that teach motion."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from letocc_core.errors import ConfigError
from letocc_core.frame import Clip, FlowCue, Frame
from letocc_core.geometry import camera
from letocc_core.geometry.grid import GridSpec, sample_unit, sample_volume
from letocc_core.losses import edge, eikonal, hessian, lidar, optical_flow, photometric, queries, semantics, sparsity
from letocc_core.losses.grounded_motion import MotionTargets, grounded_losses, motion_targets, on_objects
from letocc_core.losses.mean import mean_over, total
from letocc_core.losses.reprojection import as_rendered
from letocc_core.rendering.draws import Draws
from letocc_core.rendering.rays import CameraRays, Rays, camera_rays, lidar_rays, object_rays
from letocc_core.rendering.render import Rendered, SceneFields, composite, render

TERMS = ("photometric", "eikonal", "hessian", "edge", "sparsity", "behind", "start", "lidar", "semantics", "queries")
MET = 0.1  # share of a ray's weight in what may move, from which it teaches nothing at another instant
FAR_AWAY = 500.0  # m, depth of the farthest background sample


@dataclass(frozen=True)
class StaticStageConfig:
    """Rays, schedule and weights; the defaults suit the small configurations."""

    rows: int = 16  # rays a camera, down
    columns: int = 28  # rays a camera, across
    samples: int = 64  # along a ray
    lidar_samples: int = 1024  # LiDAR rays a frame
    beta_start: float = 0.5  # m, surface width at the start
    beta_end: float = 0.2  # m, and at the end of the annealing
    beta_anneal: float = 0.7  # share of the stage over which it falls
    sources: Literal["mean", "minimum"] = "mean"  # over source frames: sample by sample (SelfOcc), or best of each ray
    background: int = 2  # samples beyond the box, up to 500 m, of which the best stands for what leaves it; 0: none
    ground: float = -0.2  # m, height below which a ray that leaves the box has met the ground inside it
    dssim: float = 0.0  # share of D-SSIM in the photometric term
    auto_mask: Literal["best_sample", "rendered", "none"] = "best_sample"  # what an unwarped source must not beat
    movable: bool = True  # use rays through movable objects: parked ones teach, moving ones mislead
    photometric: float = 1.0  # weights from here on
    lidar: float = 0.05
    eikonal: float = 0.01
    hessian: float = 0.002
    edge: float = 0.0
    sparsity: float = 0.002  # in voxels that no camera sees
    behind: float = 0.002  # more than 3 m behind the rendered surface
    start: float = 0.05  # matter where rays start: at the cameras
    semantics: float = 0.0
    queries: float = 0.0  # cross-entropy of occupancy against the votes of rays, which `data` has to make

    REMOVED: ClassVar = {"contact": 0.0}

    def __post_init__(self):
        for name in ("rows", "columns", "samples", "lidar_samples"):
            if getattr(self, name) < 2:
                raise ConfigError(f"objective.{name} is {getattr(self, name)}, expected at least 2")
        if not (self.beta_start > 0 and self.beta_end > 0):
            raise ConfigError(f"objective.beta: {self.beta_start} to {self.beta_end} m, expected positive lengths")
        if not 0 <= self.dssim <= 1:
            raise ConfigError(f"objective.dssim is {self.dssim}, expected a share from 0 to 1")

    def shapes_geometry(self) -> bool:
        """Whether any term but those of motion has a weight."""
        return any(getattr(self, name) > 0 for name in TERMS)

    def renders(self) -> bool:
        """Whether any term but `queries` has a weight: those that rays of the images are rendered for."""
        return any(getattr(self, name) > 0 for name in TERMS if name != "queries")

    def beta(self, progress: float) -> float:
        """Surface width (m) at `progress` in [0, 1] of the stage: linear, then constant."""
        done = min(progress / self.beta_anneal, 1.0) if self.beta_anneal > 0 else 1.0
        return self.beta_start + (self.beta_end - self.beta_start) * done


@dataclass(frozen=True)
class MotionConfig:
    """What the motion stage adds: a cue tells what moves, and how (Let Occ Flow 3.4).

    Weights are of errors in pixels with `cue: flow`, else in m/s.
    """

    cue: Literal["flow", "grounded"] = (
        "flow"  # optical flow where things are rendered (the paper's), or where they stand
    )
    flow: float = 0.02  # weight of the cue on rays that move: supervises motion only, their geometry is not touched
    static_flow: float = 0.005  # weight of the cue on the others: supervises geometry
    static_cues: Literal["both", "forward", "none"] = "both"  # which cues do so (Table 6)
    still: float = 0.1  # weight of the motion (m/s) of what cannot move
    parked: float = 0.1  # weight of the motion of objects that could move, but do not
    threshold: float = 1.0  # px of flow that a static world does not explain, beyond which a ray moves; 8 at full size
    flow_edge: float = 0.0  # weight of the steps (m/s) of the rendered motion where the image has none (papers: 0.01)
    disentangle: bool = True  # tell moving rays from the others; False: all supervise motion and geometry (Table 5)
    rays: int = 0  # a camera, half of them on movable objects; 0: those of the geometry
    depth_tolerance: float = 1.0  # factor up to which another depth of a ray may explain its flow; 1: none may (eq. 10)

    REMOVED: ClassVar = {
        "apart": ...,
        "similarity": ...,
        "speed": 0.0,
        "grounded": {
            **{"stride": 2, "columns": 12, "depth": 1.1, "depth_tolerance": 1.1, "threshold": 0.7, "moves": 0.5},
            **{"still": 0.15, "fewest": 8, "noise": 0.5, "misfit": 0.75, "known": 0.5, "unsure": 1.0},
            **{"unsure_share": 0.3, "slow": 1.0, "prior": 0.06, "matter": 2.5, "lowest": 0.6},
        },
    }

    def renders(self) -> bool:
        """Whether motion is learned along rays."""
        return self.cue == "flow" or self.flow_edge > 0

    def __post_init__(self):
        if self.flow_edge > 0 and self.rays:
            raise ConfigError(
                f"motion.flow_edge needs the lattice of the geometry's rays: motion.rays is {self.rays}, expected 0"
            )
        if self.depth_tolerance < 1:
            raise ConfigError(f"motion.depth_tolerance is {self.depth_tolerance}, expected a factor of 1 or more")


@dataclass(frozen=True)
class GridScene:
    """What the network found, and what is known already of the motion that it should have found."""

    fields: SceneFields
    grid: GridSpec
    occupancy_scale: float = 0.1  # m, of the probability that `queries` teaches (`ModelConfig.occupancy_scale`)
    motion: MotionTargets | None = None  # of `cue: grounded`; None: worked out from the clip's cues


def stage_losses(
    scene: GridScene,
    clip: Clip,
    config: StaticStageConfig,
    progress: float,
    draws: Draws | None = None,
    motion: MotionConfig | None = None,
) -> dict[str, Tensor]:
    """Weighted terms and their sum, `total`, of a batched clip; terms of weight 0 are absent.

    Every term is the mean of what it is for each clip alone.

    Args:
        progress: share of the stage that is done, for the annealing of beta.
        motion: also learn how the world moves.
        draws: of the rays' jitter; None: cell centres and uniform samples.
    """
    beta, fields, grid = config.beta(progress), scene.fields, scene.grid
    weighted: dict[str, Tensor] = {}
    seen = None
    if config.renders() or (motion and motion.renders() and not motion.rays):
        rays = camera_rays(as_rendered(clip).current, grid, config.rows, config.columns, draws)
        if config.semantics > 0 and fields.semantics is None:
            raise ConfigError(
                "objective.semantics is on, but the model has no semantic field: set model.fields.classes"
            )
        seconds = None
        if motion is not None and clip.rendered is not None:  # what moves is somewhere else at another instant
            seconds = (clip.rendered.stamp - clip.current.stamp).to(rays.near) * 1e-9
        seen = render(
            *(fields, grid, rays, config.samples, beta, draws),
            motion=motion is not None,
            semantics=config.semantics > 0,
            seconds=seconds,
        )
        weighted = _geometry_terms(scene, seen, clip, config, beta, draws)
        if motion is not None and motion.renders() and clip.rendered is not None:  # the cues are of the current images
            rays = camera_rays(clip.current, grid, config.rows, config.columns, draws)
            seen = render(fields, grid, rays, config.samples, beta, draws, motion=True)
    if config.queries > 0:
        weighted["queries"] = config.queries * _queries(scene, clip.current)
    if motion is not None and motion.renders() and motion.rays:
        rays = object_rays(clip.current, grid, motion.rays, draws)
        seen = render(fields, grid, rays, config.samples, beta, draws, motion=True)
    if motion is not None:
        found = motion_terms(scene, seen, clip, motion)
        if motion.flow_edge > 0 and seen is not None:
            found["flow_edge"] = _flow_edge(seen, clip.current)
        weighted |= {name: weight * found[name] for name in found if (weight := getattr(motion, name)) > 0}
    return {**weighted, "total": _sum(weighted.values())}


def _sum(terms: Iterable[Tensor]) -> Tensor:
    return reduce(torch.add, terms)


def _geometry_terms(
    scene: GridScene,
    seen: Rendered[CameraRays],
    clip: Clip,
    config: StaticStageConfig,
    beta: float,
    draws: Draws | None,
) -> dict[str, Tensor]:
    """Weighted terms that shape geometry (and semantics).

    Rays of another instant than the current one's teach by photometry alone, and where velocities are not rendered only
    where nothing moves.
    """
    fields, grid, rays, rendered = scene.fields, scene.grid, seen.rays, as_rendered(clip)
    target = photometric.sample_colours(rendered.current.images, rays.pixels)
    left_out, own = None, None
    if clip.rendered is not None:
        own = clip.rendered.stamp == clip.current.stamp
        if seen.velocity is None:
            others = ~own.view(-1, *[1] * (rays.valid.dim() - 1))
            left_out = others & may_move(seen, clip, rendered.current, grid)

    def of_own(term: Callable[..., Tensor], *values: Tensor) -> Tensor:
        """A term of the clips whose own rays these are; the others have 0 of it."""
        if own is None or own.all():
            return term(*values)
        return term(*(v[own] for v in values)) * own.float().mean() if own.any() else values[0].sum() * 0

    terms = {
        "photometric": lambda: photometric_term(seen, target, rendered, config, left_out),
        "eikonal": lambda: _eikonal(fields, grid, seen),
        "hessian": lambda: hessian.hessian(fields.sdf, grid.voxel_size),
        "edge": lambda: _edge(seen, target),
        "sparsity": lambda: of_own(sparsity.free_space, fields.sdf, sparsity.unseen_voxels(clip.current, grid)),
        "behind": lambda: of_own(sparsity.free_behind, seen.sdf[..., 1:], seen.t, seen.depth),
        "start": lambda: of_own(sparsity.free_start, seen.sdf[..., 0]),
        "lidar": lambda: _lidar(scene, clip.current, config, beta, draws),
        "semantics": lambda: _semantics(seen, rendered.current),
    }
    if clip.current.lidar is None:
        del terms["lidar"]
    return {name: weight * term() for name, term in terms.items() if (weight := getattr(config, name)) > 0}


def may_move(seen: Rendered[CameraRays], clip: Clip, frame: Frame, grid: GridSpec) -> Bool[Tensor, "B N h w"]:
    """Rays through pixels of the rendered frame that may move, or that end in what the current images show as movable."""
    rays = seen.rays
    out = torch.zeros_like(rays.valid)
    if frame.movable is not None:
        out = out | camera.at_nearest(frame.movable, rays.pixels)
    if clip.current.movable is not None:
        shown = on_objects(clip.current, grid).float()[:, None]
        met = sample_unit(shown, rays.in_units(grid).at(seen.t))[..., 0]
        out = out | (torch.linalg.vecdot(seen.weights.detach(), met) > MET)
    return out


def _queries(scene: GridScene, frame: Frame) -> Tensor:
    if frame.votes is None:
        raise ConfigError("objective.queries is on, but the data has no votes of rays: set data.votes: {}")
    movable = None if frame.movable is None else on_objects(frame, scene.grid)
    return queries.query_cross_entropy(scene.fields.sdf, frame.votes, scene.occupancy_scale, movable)


def motion_terms(
    scene: GridScene, seen: Rendered[CameraRays] | None, clip: Clip, config: MotionConfig
) -> dict[str, Tensor]:
    """Terms that teach motion, by the name of their weight in `config`.

    Raises `ConfigError` if what `config.cue` asks for is not there.
    """
    if not clip.cues:
        raise ConfigError("a motion stage needs flow cues; set data.simulator.cue or data.bag.cue to dis")
    if config.cue == "grounded":
        assert scene.fields.flow is not None  # asked of the network with `motion`
        targets = scene.motion or motion_targets(scene.fields.sdf, scene.grid, clip.current, clip.cues)
        return grounded_losses(scene.fields.flow, scene.grid, targets)
    assert seen is not None  # `config.renders()`
    found = [_cue_terms(seen, clip, cue, config) for cue in clip.cues]
    return {name: _sum(terms[name] for terms in found) / len(found) for name in found[0]}


def _flow_edge(seen: Rendered[CameraRays], frame: Frame) -> Tensor:
    """Smooth motion where the image is smooth; what lies beyond the box does not count."""
    assert seen.flow is not None  # rendered with `motion`
    colours = photometric.sample_colours(frame.images, seen.rays.pixels)
    return edge.steps(seen.flow.flatten(0, 1), colours.flatten(0, 1), seen.hits.flatten(0, 1))


def _speed(seen: Rendered) -> Tensor:
    """Rendered motion (m/s, L1) of each ray; its geometry is not touched."""
    assert seen.velocity is not None  # rendered with `motion`
    return composite(seen.weights.detach(), seen.velocity).abs().sum(-1)


def _cue_terms(seen: Rendered[CameraRays], clip: Clip, cue: FlowCue, config: MotionConfig) -> dict[str, Tensor]:
    """The terms of one cue. A ray that the cue does not know, on an object that could move, teaches nothing."""
    rays, inside = seen.rays, seen.hits
    target, known = optical_flow.cue_at(cue, rays.pixels)
    known = known & inside  # what lies beyond the box has no voxels that could move
    movable = None if clip.current.movable is None else camera.at_nearest(clip.current.movable, rays.pixels)

    def flow(weights: Tensor, velocity: Tensor | None) -> Tensor:
        return optical_flow.rendered_flow(rays, seen.t, weights, clip.current, cue, velocity)

    static = flow(seen.weights, None)
    moves = known
    if config.disentangle:
        nearest = optical_flow.nearest_static(
            target, static.detach(), rays, seen.t, seen.weights.detach(), clip.current, cue, config.depth_tolerance
        )
        moves = known & optical_flow.dynamic_rays(target, nearest, movable, config.threshold)
    moving = flow(seen.weights.detach() if config.disentangle else seen.weights, seen.velocity)
    teaches = config.static_cues == "both" or (config.static_cues == "forward" and cue_is_later(clip, cue))
    error, counted = optical_flow.flow_error(moving, target, moves)
    scale = optical_flow.dynamic_scale(total(known), total(moves))
    return {
        "flow": (scale * total(torch.where(counted, error, 0.0)) / total(known).clamp(min=1)).mean(),
        "static_flow": mean_over(*optical_flow.flow_error(static, target, known & ~moves & teaches)),
        **_still(_speed(seen), inside, known & ~moves, movable),
    }


def _still(speed: Tensor, inside: Tensor, explained: Tensor, movable: Tensor | None) -> dict[str, Tensor]:
    """Mean speed of rays on objects that could move but do not, and of all others: each as much as the other kind."""
    if movable is None:
        return {"still": mean_over(speed, inside & explained)}
    return {"parked": mean_over(speed, explained & movable), "still": mean_over(speed, inside & ~movable)}


def cue_is_later(clip: Clip, cue: FlowCue) -> bool:
    """Whether a cue leads to the future of its clip."""
    return bool((cue.stamp > clip.current.stamp).all())


def photometric_term(
    seen: Rendered[CameraRays],
    target: Float[Tensor, "B N h w 3"],
    clip: Clip,
    config: StaticStageConfig,
    left_out: Bool[Tensor, "B N h w"] | None = None,
) -> Float[Tensor, ""]:
    """Photometric error of the lattice's rays: samples inside the box, and one share for what leaves it.

    The part of a ray that no surface stops ends somewhere beyond the box. It costs what the best of
    `config.background` samples out there costs, so that sky and far houses need no wall at the box's end.

    Rays on which nothing seems to move are left out: those that an unwarped source explains better than the rendered
    colours (Monodepth2), or better than the best of all their samples, which does not give up rays yet to be solved.
    """
    rays = seen.rays
    t = torch.cat([seen.t, background_samples(rays, config)], dim=-1)
    velocity = seen.velocity
    if velocity is not None:  # what lies beyond the box stands still
        velocity = F.pad(velocity.movedim(-1, 0), (0, config.background)).movedim(0, -1)
    views = photometric.match(rays, t, target, clip.current, clip.sources, velocity, config.sources == "mean")
    weights = [_with_background(seen, view.cost[..., config.samples :]) for view in views]
    errors = [photometric.photometric(v, target, w, config.dssim) for v, w in zip(views, weights, strict=True)]
    seen_by = torch.stack([view.seen for view in views])
    best, counted = photometric.minimum_over_views(torch.stack(errors), seen_by, _unwarped(rays, target, clip, config))
    if config.auto_mask == "best_sample":
        counted = counted & _moves(views, photometric.unwarped_error(rays.pixels, target, clip.sources, 0.0))
    counted = counted & rays.valid
    if left_out is not None:
        counted = counted & ~left_out
    if not config.movable and clip.current.movable is not None:
        counted = counted & ~camera.at_nearest(clip.current.movable, rays.pixels)
    return mean_over(best, counted)


def _unwarped(rays: CameraRays, target: Tensor, clip: Clip, config: StaticStageConfig) -> Tensor | None:
    if config.auto_mask != "rendered":
        return None
    return photometric.unwarped_error(rays.pixels, target, clip.sources, config.dssim)


def _moves(views: Sequence[photometric.Match], unwarped: Float[Tensor, "U *r"]) -> Tensor:
    """Rays [*r] with a sample in some view that matches better than every unwarped source does."""
    return torch.stack([view.cost.amin(-1) for view in views]).amin(0) < unwarped.amin(0)


def background_samples(rays: Rays, config: StaticStageConfig) -> Float[Tensor, "*r k"]:
    """t (m) at which the part of a ray that no surface in the box stops may end.

    Beyond the box, uniform in inverse depth up to `FAR_AWAY`; one sample: the latter. A ray that leaves the box below the
    ground ends there: else a part of the road would be taken for holes, through which some distance matches by chance.
    """
    share = torch.linspace(0, 1, config.background + 1, device=rays.far.device, dtype=rays.far.dtype)[1:]
    nearest = 1 / rays.far.clamp(max=FAR_AWAY)[..., None]
    beyond = 1 / (nearest + (1 / FAR_AWAY - nearest) * share)
    below = rays.at(rays.far[..., None])[..., 2] < config.ground
    return torch.where(below, rays.far[..., None], beyond)


def _with_background(seen: Rendered, cost: Float[Tensor, "*r k"]) -> Float[Tensor, "*r s"]:
    """Weights of the samples in the box and of the background samples: the best of these takes the rest of the ray."""
    if cost.shape[-1] == 0:
        return seen.weights
    chosen = F.one_hot(cost.argmin(-1), cost.shape[-1])
    return torch.cat([seen.weights, (1 - seen.opacity).clamp(min=0)[..., None] * chosen], dim=-1)


def _eikonal(fields: SceneFields, grid: GridSpec, seen: Rendered) -> Tensor:
    """At every fourth sample of the rays, from the grid's own gradient."""
    slope = eikonal.gradient(fields.sdf, grid.voxel_size)
    points = seen.rays.at(seen.t[..., ::4]).flatten(1, -2)
    return eikonal.eikonal(sample_volume(slope, grid, points, padding="border"))


def _edge(seen: Rendered, target: Tensor) -> Tensor:
    """Smooth inverse depth where the image is smooth; rays that leave the box have no depth to smooth."""
    inverse = 1 / seen.depth.clamp(min=0.5)
    return edge.edge_aware(inverse.flatten(0, 1), target.flatten(0, 1), seen.hits.flatten(0, 1))


def _lidar(scene: GridScene, frame: Frame, config: StaticStageConfig, beta: float, draws: Draws | None) -> Tensor:
    rays, ranges = lidar_rays(frame, scene.grid, config.lidar_samples, draws)
    seen = render(scene.fields, scene.grid, rays, config.samples, beta, draws)
    return torch.vmap(lidar.silog)(seen.depth, ranges, rays.valid).mean()


def _semantics(seen: Rendered[CameraRays], frame: Frame) -> Tensor:
    if frame.semantics is None:
        raise ConfigError("objective.semantics is on, but the data has no 2D class labels; set it to 0 or record them")
    assert seen.semantics is not None  # rendered with `semantics`
    labels = camera.at_nearest(frame.semantics, seen.rays.pixels)
    return semantics.semantic_cross_entropy(seen.semantics, labels, seen.hits)  # what lies beyond the box has no class
