"""Geometry that does not learn: computed once a clip, and the same each time."""

import dataclasses

import pytest
import torch
from model_cases import frames, model_config

from letocc_core import config as configuration
from letocc_core.errors import ConfigError
from letocc_core.frame import Clip, Frame
from letocc_core.geometry.grid import GridSpec
from letocc_core.losses.grounded_motion import MotionTargets, grounded_losses
from letocc_core.losses.objective import MotionConfig
from letocc_core.model.fields import Fields
from letocc_core.model.let_occ_flow import LetOccFlow
from letocc_core.rendering.draws import Draws
from letocc_core.training.config import OptimizerConfig, StageConfig, TrainConfig
from letocc_core.training.frozen import FrozenGeometry
from letocc_core.training.loop import StageObjective


def test_geometry_is_computed_once_a_clip(tmp_path):
    torch.manual_seed(0)
    model = LetOccFlow(model_config(sweep={}, motion_branch={"forward": 4.0, "sideways": 2.0}))
    now, *past = frames()
    computed, learned = [], targets(model.config.grid)

    def compute(clip: Clip):
        computed.append(clip)
        fields = model(clip.current, clip.history, history_gradient=False)
        return fields, learned

    kept, clip = FrozenGeometry(tmp_path), Clip(now, tuple(past), ())
    (first, told), (again, told_again) = (kept.known(clip, compute) for _ in range(2))
    assert len(computed) == 1 and len(list(tmp_path.iterdir())) == 2  # clips in the batch
    assert torch.equal(first.sdf, again.sdf)
    for name in ("similarity", "known", "columns"):
        assert torch.equal(getattr(first.evidence, name), getattr(again.evidence, name))
    next(tmp_path.iterdir()).unlink()  # of one of them: the other need not be computed again
    kept.known(clip, compute)
    assert len(computed[-1].current.stamp) == 1
    whole, _ = compute(clip)
    torch.testing.assert_close(first.sdf, whole.sdf, atol=2e-3, rtol=2e-3)
    flow = model.motion(first.evidence, first.sdf)
    torch.testing.assert_close(flow, whole.flow, atol=1e-2, rtol=1e-2)
    for found in (told, told_again):
        losses, expected = (grounded_losses(flow, model.config.grid, t) for t in (found, learned))
        for name in expected:
            torch.testing.assert_close(losses[name], expected[name], atol=1e-3, rtol=1e-3)
    flow.sum().backward()
    assert all((p.grad is not None) == name.startswith("motion.") for name, p in model.named_parameters())
    files = len(list(tmp_path.iterdir()))
    kept.known(Clip(padded(now), tuple(padded(f) for f in past), ()), compute)
    assert len(list(tmp_path.iterdir())) == files
    without_past, _ = kept.known(dataclasses.replace(clip, history=()), compute)
    assert len(list(tmp_path.iterdir())) == 4 and not torch.equal(without_past.sdf, first.sdf)
    for name in ("images", "K", "T_ego_cam", "T_world_ego", "stamp"):
        other = dataclasses.replace(now, **{name: getattr(now, name) + 1})
        kept.known(dataclasses.replace(clip, current=other), compute)
    assert len(list(tmp_path.iterdir())) == 14


def padded(frame: Frame) -> Frame:
    """The same with a camera that is absent, as in a batch with a clip of more cameras."""
    more = {name: getattr(frame, name) for name in ("images", "camera_valid", "K", "T_ego_cam")}
    more = {name: torch.cat([x, torch.zeros_like(x[:, :1])], dim=1) for name, x in more.items()}
    more["K"][:, -1], more["T_ego_cam"][:, -1] = frame.K[:, 0], frame.T_ego_cam[:, 0]
    return dataclasses.replace(frame, **more)


def targets(grid: GridSpec) -> MotionTargets:
    """Of two clips: the first has three points, of which the second is padding, the other one."""
    lower, upper = (torch.tensor(x) for x in (grid.lower, grid.upper))
    points = lower + (upper - lower) * torch.rand(2, 3, 3)
    weight = torch.tensor([[0.5, 0.0, 0.25], [1.0, 0.0, 0.0]])
    moves = torch.tensor([[True, False, False], [True, False, False]])
    return MotionTargets(points, 4 * torch.rand(2, 3, 2), moves, weight, torch.rand(2, *grid.shape) > 0.5)


def test_geometry_that_learns_is_not_kept():
    with pytest.raises(ConfigError, match="stage static: keep_geometry, but geometry learns"):
        StageConfig(keep_geometry=True)
    plain = {"model": {}, "input": {}, "data": {"simulator": {}}, "stages": [{"name": "motion", "keep_geometry": True}]}
    still = {name: 0 for name in ("photometric", "lidar", "eikonal", "hessian", "sparsity", "behind", "start")}
    plain["stages"][0] |= {"objective": still, "motion": {}, "optimizer": dataclasses.asdict(OptimizerConfig())}
    plain["stages"][0]["optimizer"]["geometry_lr_multiplier"] = 0
    with pytest.raises(ConfigError, match="stage motion: keep_geometry is for"):
        configuration.from_dict(TrainConfig, plain, "test")
    plain["stages"][0] |= {"keep_geometry": False, "half_turn_augmentation": 0.5}
    with pytest.raises(ConfigError, match="stage motion: half_turn_augmentation is for"):
        configuration.from_dict(TrainConfig, plain, "test")
    for share, message in ((1.5, "expected a share"), (0.5, "is for motion, which this stage does not learn")):
        with pytest.raises(ConfigError, match=message):
            StageConfig(half_turn_augmentation=share)


def test_half_turn_augmentation_is_drawn_for_each_clip():
    """A share of one turns all clips, which is another flow of the same geometry; a share of a half some of them."""
    torch.manual_seed(0)
    model = LetOccFlow(model_config(sweep={}, motion_branch={"forward": 4.0, "sideways": 2.0})).eval()
    now, *past = frames()
    clip = Clip(now, tuple(past), ())

    def fields(share: float) -> Fields:
        stage = StageConfig(motion=MotionConfig(), half_turn_augmentation=share)
        with torch.no_grad():
            return StageObjective(model, stage, False)._fields(clip, Draws(4, torch.arange(2)).uniform() < share)

    none, half, whole = (fields(share) for share in (0.0, 0.5, 1.0))
    turned = Draws(4, torch.arange(2)).uniform() < 0.5
    assert turned.any() and not turned.all() and not torch.equal(none.flow, whole.flow)
    for found, turn in ((none, torch.zeros(2).bool()), (half, turned), (whole, torch.ones(2).bool())):
        assert torch.equal(found.sdf, none.sdf)
        assert torch.equal(found.flow, model.motion(none.evidence, none.sdf, turn))
