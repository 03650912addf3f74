"""What a training step costs, by part, on noise with every supervision that the stage takes."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import islice

import torch
from jaxtyping import Float
from torch import Tensor, nn

from letocc_core.bench.inference import CAMERA_HEIGHT, frame_sets, model_places
from letocc_core.bench.parts import Parts, Place, Row, Work, rows_of, timed_runs
from letocc_core.compiled import threads
from letocc_core.frame import Clip, FlowCue, stack
from letocc_core.losses import objective as objectives
from letocc_core.losses import photometric
from letocc_core.model.let_occ_flow import LetOccFlow
from letocc_core.rendering import render as rendering
from letocc_core.rendering.draws import Draws
from letocc_core.stream.preprocess import to_tensors
from letocc_core.training import loop
from letocc_core.training.config import StageConfig, TrainConfig

RETURNS = 34_000  # of a LiDAR sweep


@dataclass(frozen=True)
class Subject:
    """A stage of a configuration, and where it runs."""

    config: TrainConfig
    stage: StageConfig
    device: torch.device

    @classmethod
    def of(cls, config: TrainConfig, stage: int, device: torch.device) -> "Subject":
        """Stage by number."""
        return cls(config, config.stages[stage], device)


def measure(subject: Subject, cameras: int, steps: int, parts: Parts) -> list[Row]:
    """Time of each part of a step on one clip, after one that is not counted, and the work of PyTorch's passes alone."""
    model = loop.build_model(subject.config, subject.device).train()
    objective = loop.StageObjective(model, subject.stage, subject.config.history_gradient)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    clip = noise_clip(subject, cameras, 1)
    draws = Draws(0, torch.arange(1, device=subject.device))

    def step(parts: Parts) -> None:
        total = objective(clip, 0, draws)["total"]
        with parts.part("backward"):
            total.backward()
        with parts.part("optimiser"):
            nn.utils.clip_grad_norm_(model.parameters(), subject.stage.optimizer.clip_norm)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    return _rows(step, steps, parts, places(model))


def measure_rendering(subject: Subject, cameras: int, steps: int, parts: Parts) -> list[Row]:
    """Time of rendering the rays of a step and of its losses, forward and backward, on fields that are parameters."""
    clip = noise_clip(subject, cameras, 1)
    fields = rough_ground(subject, 1)
    scene = objectives.GridScene(fields, subject.config.model.grid, subject.config.model.occupancy_scale)
    stage = subject.stage

    def step(parts: Parts) -> None:
        total = objectives.stage_losses(scene, clip, stage.objective, 1.0, None, stage.motion)["total"]
        with parts.part("backward"):
            total.backward()

    return _rows(step, steps, parts, rendering_places())


def _rows(step: Callable[[Parts], None], steps: int, parts: Parts, places: list[Place]) -> list[Row]:
    runs = timed_runs(parts, lambda: step(parts), steps, places)
    counted = Parts(parts.clock)
    with threads.plain_passes(), counted.around(places), Work(counted):
        step(counted)
    return rows_of(runs, counted)


def places(model: LetOccFlow) -> list[Place]:
    """The parts of a step's forward pass."""
    return [*model_places(model), *rendering_places()]


def rendering_places() -> list[Place]:
    """The parts of rendering and losses."""
    return [
        ("rays placed", objectives, "camera_rays"),
        ("rays rendered", objectives, "render"),
        ("fields read along rays", rendering, "sample_unit"),
        ("photometric term", photometric, "match"),
        ("LiDAR term", objectives, "_lidar"),
        ("eikonal term", objectives, "_eikonal"),
        ("Hessian term", objectives.hessian, "hessian"),
        ("votes of rays", objectives.queries, "query_cross_entropy"),
        ("unseen voxels", objectives.sparsity, "unseen_voxels"),
        ("motion terms", objectives, "motion_terms"),
        ("other losses", objectives, "_geometry_terms"),
    ]


@dataclass(frozen=True)
class Volumes:
    """Fields that are parameters."""

    sdf: Float[Tensor, "B 1 X Y Z"]  # m
    flow: Float[Tensor, "B 2 X Y Z"]  # m/s
    semantics: None = None


def rough_ground(subject: Subject, batch: int) -> Volumes:
    """Ground with things on it, that move."""
    generator, grid = torch.Generator().manual_seed(2), subject.config.model.grid
    height = grid.centres()[..., 2].expand(batch, 1, *grid.shape)
    coarse = [max(n // 4, 1) for n in grid.shape]
    noise = torch.rand(batch, 1, *coarse, generator=generator)
    noise = nn.functional.interpolate(noise, grid.shape, mode="trilinear") * 3
    flow = torch.randn(batch, 2, *grid.shape, generator=generator)
    return Volumes((height + 0.5 - noise).to(subject.device).requires_grad_(), flow.to(subject.device).requires_grad_())


def noise_clip(subject: Subject, cameras: int, batch: int) -> Clip:
    """Images of noise around a vehicle that drives straight on, with every supervision that the stage takes."""
    config, stage = subject.config, subject.stage
    past = config.model.temporal.frames
    sets = frame_sets(*config.input.image_size, cameras, config.input.history_interval)
    frames = [stack([to_tensors(item)] * batch) for item in islice(sets, max(past, 1) + 2)]
    after, now, *before = frames[::-1]
    generator = torch.Generator().manual_seed(1)
    now = replace(now, movable=torch.rand(now.images[:, :, 0].shape, generator=generator) < 0.5)
    if stage.objective.lidar > 0 and config.data.bag is not None:
        points = torch.randn(batch, RETURNS, 3, generator=generator) * torch.tensor([20.0, 20.0, 1.0])
        now = replace(now, lidar=points, lidar_origin=torch.tensor([[0.0, 0.0, CAMERA_HEIGHT]]).expand(batch, -1))
    if stage.objective.queries > 0:
        votes = torch.rand(batch, 2, *config.model.grid.shape, generator=generator)
        now = replace(now, votes=votes * (votes[:, :1] > 0.5))
    cues: tuple[FlowCue, ...] = ()
    if stage.motion is not None:
        flow = torch.randn(now.images[:, :, :2].shape, generator=generator) * 20
        known = torch.rand(now.images[:, :, 0].shape, generator=generator) < 0.7
        cues = tuple(FlowCue(f.stamp, f.K, f.T_ego_cam, f.T_world_ego, flow, known) for f in (before[0], after))
    return Clip(now, tuple(before[:past]), (before[0], after), cues).to(subject.device)
