"""SelfOcc's tasks: a single frame in, one plane or three, occupancy with classes from 2D labels, depth of later frames."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from model_cases import CONFIG, frames

from letocc_core import config as configuration
from letocc_core.cli import main
from letocc_core.data.datasets.voxel_labels import OCC3D_CLASSES
from letocc_core.data.truth import CLASS_NAMES
from letocc_core.errors import ConfigError
from letocc_core.frame import Clip
from letocc_core.losses.objective import GridScene, stage_losses
from letocc_core.model.let_occ_flow import LetOccFlow
from letocc_core.training.config import TrainConfig

NAMES = ("selfocc_street", "selfocc_nuscenes", "selfocc_kitti")
SMALL = (
    "model.dim=8",
    "model.backbone.widths=[8, 8, 16, 16]",
    "model.backbone.depths=[1, 1, 1, 1]",
    "model.encoder={layers: 1, heads: 2, cross_view_points: 4, cross_view_anchors: 2, image_points: [2, 4, 4], anchors: [2, 4, 4]}",
    "model.temporal.heads=2",
    "model.refinement.groups=2",
    "model.fields.hidden=8",
    "stages.0.objective.rows=4",
    "stages.0.objective.columns=6",
    "stages.0.objective.samples=16",
)
VOXEL = {"selfocc_street": 0.8, "selfocc_nuscenes": 1.6, "selfocc_kitti": 1.6}


def small(name: str, *overrides: str) -> TrainConfig:
    voxels = f"model.grid.voxel_size={VOXEL[name]}"
    return configuration.load(TrainConfig, CONFIG / f"{name}.yaml", [*SMALL, voxels, *overrides])


@pytest.mark.parametrize("planes", ["tpv", "bev"])
@pytest.mark.parametrize("name", NAMES)
def test_configurations_learn_from_a_single_frame_with_three_planes_or_one(name: str, planes: str):
    config = small(name, f"model.encoder.representation={planes}")
    assert config.model.temporal.frames == 0 and config.model.backbone.kind == "resnet"
    torch.manual_seed(0)
    model = LetOccFlow(config.model)
    now, before, after = frames(batch=1, cameras=2, size=(32, 64))
    classes = config.model.fields.classes
    if classes:
        labels = torch.randint(0, classes, (1, 2, 32, 64), generator=torch.Generator().manual_seed(1))
        now = replace(now, semantics=labels.int())
    fields = model(now, motion=False)
    assert fields.sdf.shape == (1, 1, *config.model.grid.shape) and fields.flow is None
    road = config.model.grid.centres()[..., 2] - config.model.fields.sdf_start  # before training there is no surface
    fields = replace(fields, sdf=fields.sdf + road)
    losses = stage_losses(
        GridScene(fields, config.model.grid), Clip(now, (), (before, after)), config.stages[0].objective, 1.0
    )
    assert ("semantics" in losses) == bool(classes)
    losses["total"].backward()
    learns = {n.split(".")[0] for n, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert learns == {"pyramid", "encoder", "refinement", "fields"}
    if classes:
        assert model.fields.semantics[-1].weight.grad.abs().sum() > 0


def test_classes_are_those_of_the_labels_to_measure_by():
    assert configuration.load(TrainConfig, CONFIG / "selfocc_street.yaml").model.fields.class_names == CLASS_NAMES
    nuscenes = configuration.load(TrainConfig, CONFIG / "selfocc_nuscenes.yaml")
    assert nuscenes.model.fields.class_names == OCC3D_CLASSES[:-1] == tuple(nuscenes.data.nuscenes.semantics.classes)


def test_a_semantic_objective_wants_a_semantic_field_and_labels():
    config = small("selfocc_kitti", "stages.0.objective.semantics=0.1")
    now, before, after = frames(batch=1, cameras=1, size=(32, 64))
    clip = Clip(now, (), (before, after))
    fields = LetOccFlow(config.model)(clip.current, clip.history, history_gradient=False, motion=False)
    with pytest.raises(ConfigError, match=r"set model\.fields\.classes"):
        stage_losses(GridScene(fields, config.model.grid), clip, config.stages[0].objective, 0.0)
    with pytest.raises(ConfigError, match="2 class_names for 3 classes"):
        small("selfocc_kitti", "model.fields.classes=3", "model.fields.class_names=[a, b]")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """Trained for a few steps on one camera's street with the simulator's classes as pseudo-labels.

    LiDAR gives the classes surfaces to lie on sooner than images would.
    """
    folder = tmp_path_factory.mktemp("selfocc")
    changes = [
        *SMALL,
        "model.grid.voxel_size=0.8",
        "input.image_size=[32, 64]",
        "data.simulator={rig: kitti, scenes: 1, frames: 4, semantics: true, lidar: true}",
        f"data.cache={folder}",
        "data.workers=0",
        "stages.0.steps=80",
        "stages.0.objective.rows=6",
        "stages.0.objective.columns=8",
        "stages.0.objective.semantics=1",
        "stages.0.objective.lidar=1",
        "stages.0.optimizer={learning_rate: 0.01, warmup_steps: 5}",
        "checkpoint_every=80",
        "picture_every=100",
    ]
    command = ["train", str(CONFIG / "selfocc_street.yaml"), *changes, "--out", str(folder), "--loader-workers", "0"]
    assert main(command) == 0
    return folder / "selfocc_street" / "latest" / "model.safetensors"


def test_classes_are_learned_from_pseudo_labels(checkpoint: Path):
    lines = (checkpoint.parent / "losses.jsonl").read_text().splitlines()
    semantics = [json.loads(line)["semantics"] for line in lines]
    chance = math.log(11)
    assert next(loss for loss in semantics if loss) == pytest.approx(chance, abs=0.2)  # once rays end on something
    assert sum(semantics[-8:]) / 8 < 0.7 * chance


def test_occupancy_classes_and_later_depth_are_measured(checkpoint: Path, tmp_path, capsys):
    tables = ("selfocc-nuscenes", "selfocc-novel-depth-kitti", "selfocc-depth-kitti", "rayiou-semantic")
    chosen = [word for table in tables for word in ("--table", table)]
    path = tmp_path / "found.json"
    data = ["data.scenes=1", "data.frames=3"]
    assert main(["eval", str(checkpoint), *chosen, "--dataset", "simulator", *data, "--json", str(path)]) == 0
    found = {name: ours["figures"] for name, ours in json.loads(path.read_text())["tables"].items()}
    assert {"iou", "precision", "recall"} == set(found["selfocc-nuscenes"]["voxels"])
    assert 0 <= found["selfocc-nuscenes"]["classes"]["miou"] <= 1
    assert found["selfocc-novel-depth-kitti"]["novel_depth"]["abs_rel"] > 0
    assert found["selfocc-depth-kitti"]["depth"]["abs_rel"] > 0
    assert 0 <= found["rayiou-semantic"]["ray_iou"]["mean"] <= 1
    assert "not run" not in capsys.readouterr().out.split("**ours (model)**")[1].splitlines()[0]
