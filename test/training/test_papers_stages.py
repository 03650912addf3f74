"""The configurations at the papers' sizes, scaled down: both stages take a step, and only the second one learns motion."""

from pathlib import Path

import pytest
import torch
import yaml

from letocc_core import config as configuration
from letocc_core.training.config import TrainConfig
from letocc_core.training.loop import build_model, train

CONFIG = Path(__file__).resolve().parents[2] / "config"
SMALLER = [
    "model.dim=12",
    "model.backbone={kind: convnext, widths: [8, 8, 16, 16], depths: [1, 1, 1, 1]}",
    "model.encoder={layers: 1, heads: 2, cross_view_points: 2, cross_view_anchors: 2, image_points: [2, 2, 2], anchors: [2, 2, 2]}",
    "model.temporal={kind: bfam, frames: 2, points: 2, heads: 2}",
    "model.refinement={blocks: [1, 1, 1], groups: 2}",
    "model.fields.hidden=8",
    "input.image_size=[32, 64]",
    "input.history_interval=0.2",
    *(
        f"stages.{i}.{change}"
        for i in (0, 1)
        for change in ("steps=1", "batch_size=2", "objective.rows=4", "objective.columns=6", "objective.samples=16")
    ),
]


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


def smaller(name: str, cache: Path) -> TrainConfig:
    """`name`.yaml with a smaller network, on simulated streets of one camera."""
    plain = yaml.safe_load((CONFIG / f"{name}.yaml").read_text())
    source = next(key for key in plain["data"] if key not in ("instants", "votes", "cache", "workers"))
    simulator = "{rig: kitti, first_seed: 3, scenes: 1, frames: 7, lidar: true, cue: dis}"
    changes = [
        "model.grid.voxel_size=1.6",
        f"data.{source}=null",
        f"data.simulator={simulator}",
        f"data.cache={cache}",
        "data.workers=0",
    ]
    return configuration.load(TrainConfig, CONFIG / f"{name}.yaml", [*SMALLER, *changes])


@pytest.mark.parametrize("name", ["nuscenes", "kitti_mot", "semantickitti"])
def test_the_first_stage_leaves_the_flow_head_alone_and_the_second_one_moves_it(name, cache, tmp_path):
    config = smaller(name, cache)
    assert [stage.name for stage in config.stages] == ["static", "motion"]
    before = build_model(config, torch.device("cpu")).state_dict()
    for stage, moves in (("static", False), ("motion", True)):
        folder = train(config.only_stage(stage), name, tmp_path / stage, loader_workers=0)
        after = _weights(folder / "model.safetensors")
        assert not torch.equal(after["fields.sdf.2.weight"], before["fields.sdf.2.weight"])
        assert torch.equal(after["fields.flow.2.weight"], before["fields.flow.2.weight"]) != moves, stage


@pytest.mark.parametrize("name", ["nuscenes", "kitti_mot", "semantickitti"])
def test_two_thirds_of_the_rays_are_of_other_instants_and_weights_are_the_papers(name):
    config = configuration.load(TrainConfig, CONFIG / f"{name}.yaml")
    assert config.data.instants.current == pytest.approx(1 / 3, abs=1e-3)
    assert config.data.instants.nearest == 0.4 and config.data.instants.farthest == 30
    motion = config.stages[1].motion
    assert (motion.cue, motion.flow, motion.still, motion.flow_edge, motion.threshold) == ("flow", 0.005, 0.1, 0.01, 8)
    assert config.stages[1].optimizer.geometry_lr_multiplier == 0.25


def _weights(path: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(path)
