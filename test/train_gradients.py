"""Gradients of one batch of two clips, by as many processes as this was launched with; the first one saves them."""

import sys
from dataclasses import replace
from pathlib import Path

import torch
from model_cases import frames, model_config

from letocc_core.frame import Clip, FlowCue, Frame
from letocc_core.losses.objective import MotionConfig, StaticStageConfig
from letocc_core.model.let_occ_flow import LetOccFlow
from letocc_core.rendering.draws import Draws
from letocc_core.training.config import StageConfig
from letocc_core.training.distributed import World, joined
from letocc_core.training.loop import StageObjective
from letocc_core.training.sampler import shares

STARTS_FREE = 0.5  # m, SDF of an untrained network
STAGE = StageConfig(
    batch_size=2,
    objective=StaticStageConfig(rows=6, columns=9, samples=16, lidar_samples=20, edge=0.1, dssim=0.5),
    motion=MotionConfig(threshold=0.3),
)


def clip_of(positions: range) -> Clip:
    """Two clips, or one of them: the second one has two cameras less, fewer LiDAR returns and fewer known pixels."""
    after, now, *past = frames(batch=2, count=4, size=(32, 48))
    generator = torch.Generator().manual_seed(3)
    count, (height, width) = now.images.shape[1], now.images.shape[-2:]
    points = torch.rand(2, 50, 3, generator=generator) * torch.tensor([6.0, 6.0, 2.0]) - torch.tensor([3.0, 3.0, 0.5])
    points[1, 10:] = torch.nan
    valid = torch.rand(2, count, height, width, generator=generator) < torch.tensor([0.9, 0.2]).view(2, 1, 1, 1)
    flow = torch.randn(2, count, 2, height, width, generator=generator)
    now = replace(
        now,
        camera_valid=torch.tensor([[True] * count, [True] + [False] * (count - 1)]),
        movable=valid.roll(5, -1),
        lidar=points,
        lidar_origin=torch.tensor([[0.0, 0.0, 1.5]] * 2),
    )
    cues = tuple(FlowCue(s.stamp, s.K, s.T_ego_cam, s.T_world_ego, flow, valid) for s in (past[0], after))
    whole = Clip(now, tuple(past), (past[0], after), cues)
    return Clip(
        _take(whole.current, positions),
        *(tuple(_take(item, positions) for item in items) for items in (whole.history, whole.sources, whole.cues)),
    )


def _take(item: Frame | FlowCue, positions: range) -> Frame | FlowCue:
    return type(item)(**{k: None if v is None else v[positions.start : positions.stop] for k, v in vars(item).items()})


def losses_and_gradients(world: World) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
    """Of a network that already sees surfaces and motion everywhere."""
    torch.manual_seed(0)
    model = LetOccFlow(model_config())
    for head in (model.fields.sdf, model.fields.flow):
        torch.nn.init.normal_(head[-1].weight, std=20)
    model.fields.sdf[-1].bias.data -= STARTS_FREE
    objective = world.parallel(StageObjective(model, STAGE, history_gradient=True))
    (part,) = shares(STAGE.batch_size, world.rank, world.size)
    losses = objective(clip_of(part), 1000, Draws(5, torch.tensor(part)))
    losses["total"].backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return world.mean({name: float(value.detach()) for name, value in losses.items()}), gradients


def threads() -> list[str]:
    """Names of this process's threads, also of those that Python knows nothing of."""
    return [(task / "comm").read_text().strip() for task in Path("/proc/self/task").iterdir()]


if __name__ == "__main__":
    with joined("cpu") as world:
        losses, gradients = losses_and_gradients(world)
        during = threads()
    if world.leads:
        threads_of_gloo = [[name for name in names if "gloo" in name] for names in (during, threads())]
        torch.save({"losses": losses, "gradients": gradients, "threads_of_gloo": threads_of_gloo}, sys.argv[1])
