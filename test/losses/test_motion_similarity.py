"""Motion from the similarity of features: the cue by hand-worked cells, its losses, the two fields, a step of training."""

import dataclasses
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from letocc_core import config as configuration
from letocc_core.checkpoint import read_metadata
from letocc_core.errors import ConfigError
from letocc_core.frame import Clip, Frame
from letocc_core.geometry.grid import GridSpec
from letocc_core.losses import feature_similarity as similarity
from letocc_core.losses.feature_similarity import BevFeatures, SimilarityConfig, VoxelMotion
from letocc_core.losses.objective import MotionConfig, StaticStageConfig, stage_losses
from letocc_core.model.fields import FieldHeads, Fields, FieldsConfig
from letocc_core.training import loop as training
from letocc_core.training.config import TrainConfig

REPOSITORY = Path(__file__).resolve().parents[2]
GRID = GridSpec((-4.0, -4.0, -1.0), (4.0, 4.0, 3.0), 0.5)  # 16 x 16 x 8
SECONDS = 0.25
CONFIG = SimilarityConfig(forward=6.0, sideways=6.0, step=2.0, window=1, temperature=0.01, margin=0.1)


def seen_from_above(*matter: tuple[int, int, int]) -> BevFeatures:
    """One cell of matter for each (x, y, kind); matter of a kind looks alike, and unlike every other kind."""
    features, seen = torch.zeros(1, 4, 16, 16), torch.zeros(1, 16, 16, dtype=torch.bool)
    for x, y, kind in matter:
        features[0, kind, x, y] = 1.0
        seen[0, x, y] = True
    return BevFeatures(features, seen)


def found(now: BevFeatures, later: BevFeatures, T: Tensor | None = None, seconds: float = SECONDS):
    T = torch.eye(4) if T is None else T
    return similarity.compare(now, later, T[None], torch.tensor([seconds]), GRID, CONFIG)


NOW = seen_from_above((8, 8, 0), (3, 4, 1), (12, 3, 2))


def test_matter_that_is_found_elsewhere_moves():
    """Two cells of 0.5 m forward and one to the right in 0.25 s: 4 and -2 m/s. The rest stands."""
    motion = found(NOW, seen_from_above((10, 7, 0), (3, 4, 1), (12, 3, 2)))
    torch.testing.assert_close(motion.velocity[0, :, 8, 8], torch.tensor([4.0, -2.0]), atol=0.01, rtol=0)
    assert motion.moves.nonzero().tolist() == [[0, 8, 8]]
    assert torch.equal(motion.known, NOW.seen)


@pytest.mark.parametrize("seconds", [2 * SECONDS, -SECONDS])
def test_velocity_does_not_depend_on_the_interval(seconds: float):
    cells = round(seconds / SECONDS)
    motion = found(NOW, seen_from_above((8 + 2 * cells, 8, 0), (3, 4, 1), (12, 3, 2)), seconds=seconds)
    torch.testing.assert_close(motion.velocity[0, :, 8, 8], torch.tensor([4.0, 0.0]), atol=0.01, rtol=0)


def test_the_world_stands_while_the_vehicle_drives():
    """1 m forward: everything is two cells nearer in the later frame."""
    T = torch.eye(4)
    T[0, 3] = -1.0
    motion = found(NOW, seen_from_above((6, 8, 0), (1, 4, 1), (10, 3, 2)), T)
    assert not motion.moves.any() and motion.known[0, 8, 8]


def test_a_turned_world_moves_in_the_turned_direction():
    """A quarter turn to the left takes x to y and y to -x."""

    def turned(bev: BevFeatures) -> BevFeatures:
        return BevFeatures(bev.features.transpose(2, 3).flip(2), bev.seen.transpose(1, 2).flip(1))

    plain = found(NOW, seen_from_above((10, 7, 0), (3, 4, 1), (12, 3, 2)))
    motion = found(turned(NOW), turned(seen_from_above((10, 7, 0), (3, 4, 1), (12, 3, 2))))
    expected = torch.stack([-plain.velocity[:, 1], plain.velocity[:, 0]], 1).transpose(2, 3).flip(2)
    torch.testing.assert_close(motion.velocity, expected, atol=1e-4, rtol=0)
    assert torch.equal(motion.moves, plain.moves.transpose(1, 2).flip(1))


def camera_ahead(movable: Tensor | None = None) -> Frame:
    """One camera of 16 x 16 px at the origin, 1 m above the ground, looking along x."""
    T = torch.tensor([[0.0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 1.0], [0, 0, 0, 1]])
    K = torch.tensor([[8.0, 0, 7.5], [0, 8, 7.5], [0, 0, 1]])
    return Frame(
        torch.tensor([0]), torch.zeros(1, 1, 3, 16, 16), torch.ones(1, 1, dtype=torch.bool), K[None, None],
        T[None, None], torch.eye(4, dtype=torch.float64)[None], movable=movable,
    )  # fmt: skip


def test_voxels_take_the_features_of_the_pixels_that_show_them():
    """Of two voxels one behind the other the nearer one, to the left of the image's middle; none of the road."""
    occupied = torch.zeros(1, *GRID.shape, dtype=torch.bool)
    occupied[0, 11, 8, 4] = True  # centre (1.75, 0.25, 1.25): u = 7.5 - 8 / 7 = 6.36, v = 6.36
    occupied[0, 15, 8, 4] = True  # centre (3.75, 0.25, 1.25): u = 6.97, v = 6.97, more than 1 m behind
    occupied[0, 11, 4, 1] = True  # centre (.., -0.25): below what moves
    maps = torch.arange(64.0).view(1, 1, 1, 8, 8)  # half the image's size: row 3, column 3 for both
    bev = similarity.bev_features(maps, camera_ahead(), occupied, GRID, CONFIG)
    assert bev.seen.nonzero().tolist() == [[0, 11, 8]]
    assert bev.features[0, 0, 11, 8] == 27.0 and bev.features.count_nonzero() == 1
    absent = dataclasses.replace(camera_ahead(), camera_valid=torch.zeros(1, 1, dtype=torch.bool))
    assert not similarity.bev_features(maps, absent, occupied, GRID, CONFIG).seen.any()


def voxel_cue() -> VoxelMotion:
    """Three known voxels in two columns of a grid of 2 x 1 x 2: one moves with (3, -1) m/s, two stand."""
    known = torch.tensor([[[[True, True]], [[True, False]]]])
    moves = torch.tensor([[[[False, True]], [[False, False]]]])
    velocity = torch.tensor([3.0, -1.0]).view(1, 2, 1, 1) * torch.tensor([1.0, 0.0]).view(1, 1, 2, 1)
    return VoxelMotion(velocity, moves, known)


def test_losses_by_hand():
    velocity = torch.zeros(1, 2, 2, 1, 2)
    velocity[0, :, 0, 0, 1] = torch.tensor([1.0, -1.0])  # 2 m/s from the cue
    velocity[0, :, 1, 0, 0] = torch.tensor([0.3, 0.0])
    velocity[0, :, 1, 0, 1] = 9.0  # not known
    share = torch.tensor([0.5, 0.8, 0.5, 0.1]).view(1, 1, 2, 1, 2)
    terms = similarity.similarity_losses(velocity, share, voxel_cue())
    assert float(terms["flow"]) == pytest.approx(2.0)  # one of three moves: counted three times
    assert float(terms["still"]) == pytest.approx(0.1)
    assert float(terms["apart"]) == pytest.approx((2 * math.log(2) - math.log(0.8)) / 3)
    assert similarity.similarity_losses(velocity, None, voxel_cue()).keys() == {"flow", "still"}


def test_gradients_of_the_losses():
    velocity = torch.randn(1, 2, 2, 1, 2, dtype=torch.float64, requires_grad=True)
    share = (torch.rand(1, 1, 2, 1, 2, dtype=torch.float64) * 0.8 + 0.1).requires_grad_()
    cue = dataclasses.replace(voxel_cue(), velocity=voxel_cue().velocity.double())
    gradcheck(lambda v, s: tuple(similarity.similarity_losses(v, s, cue).values()), (velocity, share))


def test_what_stands_and_what_moves_make_up_the_scene():
    sdf, share = torch.linspace(-1, 1, 4).view(1, 1, 4, 1, 1), torch.tensor([0.1, 0.5, 0.9, 0.3]).view(1, 1, 4, 1, 1)
    still, moving = Fields(sdf, None, dynamic=share).parts(0.2)
    torch.testing.assert_close(-0.2 * torch.logaddexp(-still / 0.2, -moving / 0.2), sdf)
    torch.testing.assert_close(torch.sigmoid((still - moving) / 0.2), share)


def test_only_the_dynamic_field_moves():
    torch.manual_seed(0)
    heads, volume = FieldHeads(FieldsConfig(hidden=8, dynamic=True), 6), torch.randn(1, 6, 4, 4, 2)
    fields = heads(volume)
    alone = heads._evaluate(heads.flow, volume) * heads.config.flow_scale
    torch.testing.assert_close(fields.flow, alone * fields.dynamic)
    assert heads(volume, motion=False).dynamic is None


OBJECTIVE = StaticStageConfig(
    rows=4, columns=4, samples=16, photometric=0, eikonal=0, hessian=0, sparsity=0, behind=0, start=0,
)  # fmt: skip


def test_without_any_cue_the_rest_stands():
    """Only rays through what cannot move are held still; photometry has to teach the others."""
    sdf = (3.0 - GRID.centres()[..., 0])[None, None]
    flow = torch.zeros(1, 2, *GRID.shape, requires_grad=True)
    fields, plain = Fields(sdf, flow + 0.5), MotionConfig(cue="none", still=0.1)
    free, held = (
        Clip(camera_ahead(torch.full((1, 1, 16, 16), movable)), (), (camera_ahead(),)) for movable in (True, False)
    )
    assert stage_losses(fields, GRID, free, OBJECTIVE, 1.0, motion=plain)["still"] == 0
    held_still = stage_losses(fields, GRID, held, OBJECTIVE, 1.0, motion=plain)["still"].detach()
    assert float(held_still) == pytest.approx(0.1, rel=0.05)
    with pytest.raises(ConfigError, match="no features were compared"):
        stage_losses(fields, GRID, held, OBJECTIVE, 1.0, motion=MotionConfig(cue="similarity"))


def test_a_stage_trains_on_the_similarity_of_features(tmp_path):
    """With the two fields, from a checkpoint that has one; without any optical flow."""
    changes = [
        "input.image_size=[32, 64]", "model.grid={voxel_size: 0.8}", f"data.cache={tmp_path}", "data.workers=0",
        "data.simulator={scenes: 1, frames: 5, cue: none}", "model.fields.dynamic=true",
        *(f"stages.{i}.{c}" for i in (0, 1) for c in ("steps=2", "objective={rows: 4, columns: 6, samples: 16}")),
        "stages.1.motion={cue: similarity, similarity: {margin: 0.0}}",
    ]  # fmt: skip
    config = configuration.load(TrainConfig, REPOSITORY / "config/ablation/base.yaml", changes)
    init = training.train(config.only_stage("static"), "static", out=tmp_path, loader_workers=0) / "model.safetensors"
    folder = training.train(config.only_stage("motion"), "motion", out=tmp_path, loader_workers=0, init=init)
    assert read_metadata(folder / "model.safetensors")["trained"] == {"static": 2, "motion": 2}
    logged = (folder / "losses.jsonl").read_text()
    assert '"apart"' in logged and '"still"' in logged and "static_flow" not in logged
