"""Geometry that does not learn: computed once a clip, and the same each time."""

import dataclasses

import pytest
import torch
from model_cases import frames, model_config

from letocc_core import config as configuration
from letocc_core.errors import ConfigError
from letocc_core.frame import Clip
from letocc_core.frozen import FrozenGeometry
from letocc_core.model.let_occ_flow import LetOccFlow
from letocc_core.train import OptimizerConfig, StageConfig, TrainConfig, forward_clip


def test_geometry_is_computed_once_a_clip_and_the_flow_each_time(tmp_path):
    torch.manual_seed(0)
    model = LetOccFlow(model_config(sweep={}, motion_branch={"forward": 4.0, "sideways": 2.0, "width": 8}))
    now, *past = frames()
    computed = []

    def compute(clip: Clip):
        computed.append(clip)
        return forward_clip(model, clip, False)

    kept, clip = FrozenGeometry(tmp_path), Clip(now, tuple(past), ())
    first, again = (kept.fields(clip, compute, model.motion) for _ in range(2))
    assert len(computed) == 1 and len(list(tmp_path.iterdir())) == 2  # clips in the batch
    assert torch.equal(first.sdf, again.sdf) and torch.equal(first.flow, again.flow)
    whole = compute(clip)
    torch.testing.assert_close(first.sdf, whole.sdf, atol=2e-3, rtol=2e-3)
    torch.testing.assert_close(first.flow, whole.flow, atol=1e-2, rtol=1e-2)
    first.flow.sum().backward()
    assert all((p.grad is not None) == name.startswith("motion.") for name, p in model.named_parameters())
    with torch.no_grad():
        model.motion.last.bias += 1.0
    assert not torch.equal(kept.fields(clip, compute, model.motion).flow, first.flow)
    without_past = kept.fields(dataclasses.replace(clip, history=()), compute, model.motion)
    assert len(list(tmp_path.iterdir())) == 4 and not torch.equal(without_past.sdf, first.sdf)
    for name in ("images", "K", "T_ego_cam", "T_world_ego", "stamp"):
        other = dataclasses.replace(now, **{name: getattr(now, name) + 1})
        kept.fields(dataclasses.replace(clip, current=other), compute, model.motion)
    assert len(list(tmp_path.iterdir())) == 14


def test_geometry_that_learns_is_not_kept():
    with pytest.raises(ConfigError, match="stage static: keep_geometry, but geometry learns"):
        StageConfig(keep_geometry=True)
    plain = {"model": {}, "input": {}, "data": {"simulator": {}}, "stages": [{"name": "motion", "keep_geometry": True}]}
    still = {name: 0 for name in ("photometric", "lidar", "eikonal", "hessian", "sparsity", "behind", "start")}
    plain["stages"][0] |= {"objective": still, "motion": {}, "optimizer": dataclasses.asdict(OptimizerConfig())}
    plain["stages"][0]["optimizer"]["geometry_factor"] = 0
    with pytest.raises(ConfigError, match="the model has none"):
        configuration.from_dict(TrainConfig, plain, "test")
