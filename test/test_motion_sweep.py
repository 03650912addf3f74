"""Evidence of motion from past frames: on a textured wall that moves, and where there is none to be had."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from letocc_core.errors import ConfigError
from letocc_core.geometry.grid import GridSpec
from letocc_core.model.fields import FieldHeads, FieldsConfig
from letocc_core.model.motion_sweep import CHANNELS, SCALE, MotionSweepConfig, View, descriptors, sweep_velocity

FOCAL, HEIGHT, WIDTH = 40.0, 48, 64
DISTANCE = 8.0  # m, of the wall
FORWARD = torch.tensor([[0.0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 1.0], [0, 0, 0, 1]])
GRID = GridSpec((6.4, -3.2, 0.0), (9.6, 3.2, 3.2), 0.8)
CONFIG = MotionSweepConfig(forward=2.0, sideways=6.0, window=3, highest=5.0)
SECONDS = 0.2


def texture(shift: float) -> Tensor:
    """Smooth random brightness [1, 1, H, W], moved to the right by `shift` px."""
    noise = torch.rand(1, 1, HEIGHT, WIDTH + 40, generator=torch.Generator().manual_seed(0))
    smooth = F.avg_pool2d(noise, 3, 1, 1)
    u = torch.arange(WIDTH) + 20 - shift
    return smooth[..., u.round().long()]


def view(seconds: float, shift: float = 0.0, valid: bool = True) -> View:
    K = torch.tensor([[FOCAL, 0, WIDTH / 2 - 0.5], [0, FOCAL, HEIGHT / 2 - 0.5], [0, 0, 1]])
    stamp = torch.tensor([round(seconds * 1e9)])
    return View(stamp, texture(shift), K[None, None], FORWARD[None, None], torch.full((1, 1), valid))


def at_the_wall(evidence: Tensor) -> Tensor:
    """[CHANNELS, n] of the voxels at 8 m, away from the border of the image."""
    return evidence[0, :, 1:3, 2:6, 1:3].flatten(1)


@pytest.mark.parametrize("speed", [0.0, 4.0, -6.0])
def test_a_wall_that_moves_sideways(speed: float):
    """To the left by v dt: 5 px a metre to the left at 8 m, so that it was as far to the right before."""
    before = view(-SECONDS, shift=speed * SECONDS * FOCAL / DISTANCE)
    out = sweep_velocity(view(0.0), [before], [torch.eye(4)[None]], GRID, CONFIG)
    assert out.shape == (1, CHANNELS, *GRID.shape)
    velocity, confidence, advantage = at_the_wall(out)[:2] * SCALE, at_the_wall(out)[2], at_the_wall(out)[3]
    assert (velocity[1].median() - speed).abs() < 0.7
    assert confidence.median() > 0.3
    assert (advantage.median() < 0.05) == (speed == 0)


def test_a_moving_vehicle_sees_a_still_wall():
    """It came 0.8 m from the right: what stands still moved by 4 px to the right, and is found to stand still."""
    T_past_now = torch.eye(4)[None].clone()
    T_past_now[0, 1, 3] = 0.8
    before = view(-SECONDS, shift=-0.8 * FOCAL / DISTANCE)
    out = sweep_velocity(view(0.0), [before], [T_past_now], GRID, CONFIG)
    assert (at_the_wall(out)[1] * SCALE).median().abs() < 0.7


def test_no_evidence_without_cameras_or_above_the_highest():
    nothing = sweep_velocity(view(0.0), [view(-SECONDS, valid=False)], [torch.eye(4)[None]], GRID, CONFIG)
    assert not nothing.any()
    low = dataclasses.replace(CONFIG, highest=1.0)
    out = sweep_velocity(view(0.0), [view(-SECONDS)], [torch.eye(4)[None]], GRID, low)
    assert out[..., :2].any() and not out[..., 2:].any()


def test_a_batch_is_its_samples_one_by_one():
    now, then = [view(0.0), view(0.0, shift=3)], [view(-SECONDS, shift=2), view(-2 * SECONDS, shift=5)]
    T = torch.eye(4)[None]
    alone = [sweep_velocity(a, [b], [T], GRID, CONFIG) for a, b in zip(now, then, strict=True)]

    def join(views: list[View]) -> View:
        return View(**{f.name: torch.cat([getattr(v, f.name) for v in views]) for f in dataclasses.fields(View)})

    both = sweep_velocity(join(now), [join(then)], [T.repeat(2, 1, 1)], GRID, CONFIG)
    torch.testing.assert_close(both, torch.cat(alone))


def test_descriptors_ignore_brightness_and_contrast():
    grey = texture(0)
    torch.testing.assert_close(descriptors(0.2 + grey), descriptors(grey), atol=1e-5, rtol=0)
    assert F.cosine_similarity(descriptors(3 * grey), descriptors(grey), dim=-1).min() > 0.999
    assert not descriptors(torch.full_like(grey, 0.5)).any()


def test_the_velocities_hold_standing_still():
    velocities = MotionSweepConfig(forward=4, sideways=2, step=2).velocities()
    assert velocities.tolist() == [[x, y] for x in (-4, -2, 0, 2, 4) for y in (-2, 0, 2)]


@pytest.mark.parametrize("wrong", [{"window": 4}, {"step": 0.0}, {"forward": 1.0}])
def test_impossible_settings_are_refused(wrong: dict):
    with pytest.raises(ConfigError, match="expected"):
        MotionSweepConfig(**wrong)


def test_the_flow_field_lets_part_of_the_evidence_through():
    """Before training: sigmoid(-1) of the velocity that the evidence gives."""
    heads = FieldHeads(FieldsConfig(hidden=8, flow_scale=1.0), dim=4, motion=CHANNELS)
    evidence = torch.zeros(1, CHANNELS, 2, 2, 2)
    evidence[:, 0], evidence[:, 1] = 0.5, -0.2
    flow = heads(torch.zeros(1, 4, 2, 2, 2), evidence).flow
    share = torch.sigmoid(torch.tensor(-1.0))
    torch.testing.assert_close(flow[0, :, 0, 0, 0], torch.tensor([5.0, -2.0]) * share, atol=0.02, rtol=0.02)
