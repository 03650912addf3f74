"""What a training step costs, by part, on noise with every supervision that the stage takes."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from letocc_core.bench.inference import model_places
from letocc_core.bench.parts import Parts, Place, Row, Work, rows_of
from letocc_core.compiled import threads
from letocc_core.frame import Clip, FlowCue, Frame
from letocc_core.losses import objective as objectives
from letocc_core.losses import photometric
from letocc_core.losses.objective import MotionConfig
from letocc_core.model.let_occ_flow import LetOccFlow
from letocc_core.rendering import render as rendering
from letocc_core.rendering.draws import Draws
from letocc_core.training import loop
from letocc_core.training.config import StageConfig, TrainConfig

SPEED = 5.0  # m/s of the vehicle
CAMERA_HEIGHT = 1.5  # m
RETURNS = 34_000  # of a LiDAR sweep


@dataclass(frozen=True)
class Subject:
    """A stage of a configuration, and where it runs."""

    config: TrainConfig
    stage: StageConfig
    device: torch.device

    @classmethod
    def of(cls, config: TrainConfig, stage: int, device: torch.device, motion: bool = False) -> "Subject":
        """Stage by number; `motion`: with the terms of a motion stage, whatever it says."""
        chosen = config.stages[stage]
        if motion and chosen.motion is None:
            chosen = replace(chosen, motion=MotionConfig())
        return cls(config, chosen, device)


def measure(subject: Subject, cameras: int, steps: int, parts: Parts) -> list[Row]:
    """Time of each part of a step on one clip, after one that is not counted, and the work of PyTorch's passes alone."""
    model = loop.build_model(subject.config, subject.device).train()
    objective = loop.StageObjective(model, subject.stage, subject.config.history_gradient)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    clip = noise_clip(subject, cameras, 1)
    draws = Draws(0, torch.arange(1, device=subject.device))

    def step(parts: Parts, number: int) -> None:
        total = objective(clip, number, draws)["total"]
        with parts.part("backward"):
            total.backward()
        with parts.part("optimiser"):
            nn.utils.clip_grad_norm_(model.parameters(), subject.stage.optimizer.clip_norm)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    runs = []
    for number in range(steps + 1):
        parts.seconds.clear()
        with parts.around(places(model)), parts.whole():
            step(parts, number)
        if number:
            runs.append(dict(parts.seconds))
    counted = Parts(parts.clock)
    with threads.plain_passes(), counted.around(places(model)), Work(counted):
        step(counted, steps + 1)
    return rows_of(runs, counted)


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

    runs = []
    for number in range(steps + 1):
        parts.seconds.clear()
        with parts.around(rendering_places()), parts.whole():
            step(parts)
        if number:
            runs.append(dict(parts.seconds))
    counted = Parts(parts.clock)
    with threads.plain_passes(), counted.around(rendering_places()), Work(counted):
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
    after, now, *before = (_noise_frame(config, cameras, batch, k - 1) for k in range(max(past, 1) + 2))
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


def _noise_frame(config: TrainConfig, cameras: int, batch: int, back: int) -> Frame:
    """`back` intervals before the current one; cameras of 70 degrees all around."""
    height, width = config.input.image_size
    yaw = torch.arange(cameras) * (2 * torch.pi / cameras)
    c, s, zero = yaw.cos(), yaw.sin(), torch.zeros(cameras)
    T_ego_cam = torch.eye(4).repeat(cameras, 1, 1)
    T_ego_cam[:, :3, :3] = torch.stack([s, zero, c, -c, zero, s, zero, zero - 1, zero], 1).view(-1, 3, 3)
    T_ego_cam[:, :3, 3] = torch.stack([c, s, zero + CAMERA_HEIGHT], 1)
    focal = width / 2 / np.tan(np.radians(35))
    K = torch.tensor([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]], dtype=torch.float32)
    T_world_ego = torch.eye(4, dtype=torch.float64)
    T_world_ego[0, 3] = -back * config.input.history_interval * SPEED
    return Frame(
        stamp=torch.full((batch,), -round(back * config.input.history_interval * 1e9)),
        images=torch.rand(batch, cameras, 3, height, width, generator=torch.Generator().manual_seed(back + 7)),
        camera_valid=torch.ones(batch, cameras, dtype=torch.bool),
        K=K.repeat(batch, cameras, 1, 1),
        T_ego_cam=T_ego_cam.repeat(batch, 1, 1, 1),
        T_world_ego=T_world_ego.repeat(batch, 1, 1),
    )
