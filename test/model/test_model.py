"""The network: shapes, variants, invariances, and what a missing camera or past frame does."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from model_cases import box, frames, model_config

from letocc_core.errors import CheckpointError, ConfigError
from letocc_core.frame import Frame
from letocc_core.geometry import se3
from letocc_core.model.backbone import BackboneConfig, build_backbone
from letocc_core.model.let_occ_flow import LetOccFlow
from letocc_core.model.parameters import by_module
from letocc_core.model.temporal import TemporalConfig, TemporalFusion, warp

VARIANTS = {
    "tpv": {},
    "bev": {"encoder": {"representation": "bev"}},
    "no_fusion": {"temporal": {"kind": "none"}},
    "concatenation": {"temporal": {"kind": "concat_conv3d"}},
    "bev_forward": {"temporal": {"kind": "bev_forward"}},
    "resnet": {"backbone": {"kind": "resnet"}},
    "semantics": {"fields": {"classes": 3}},
    "sweep": {"sweep": {}},
    "sweep_prior": {"sweep": {"prior": True}},
    "recomputed": {"checkpoint_activations": True},
}


def build(**changes) -> LetOccFlow:
    """A small model whose every parameter is away from its start, so that nothing is hidden by a zero."""
    torch.manual_seed(3)
    model = LetOccFlow(model_config(**changes)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return model


def pick(frame: Frame, cameras: list[int] | slice = slice(None), batch: slice = slice(None)) -> Frame:
    """Some cameras and samples of a batched frame."""
    return Frame(
        frame.stamp[batch],
        frame.images[batch][:, cameras],
        frame.camera_valid[batch][:, cameras],
        frame.K[batch][:, cameras],
        frame.T_ego_cam[batch][:, cameras],
        frame.T_world_ego[batch],
    )


@pytest.mark.parametrize("variant", VARIANTS)
def test_shapes_and_a_gradient_for_every_parameter(variant: str):
    model = build(**VARIANTS[variant])
    current, *past = frames()
    fields = model(current, past)
    grid = model.config.grid.shape
    assert fields.sdf.shape == (2, 1, *grid) and fields.flow.shape == (2, 2, *grid)
    loss = fields.sdf.square().mean() + fields.flow.square().mean()
    if fields.semantics is not None:
        assert fields.semantics.shape == (2, 3, *grid)
        loss = loss + fields.semantics.square().mean()
    loss.backward()
    untouched = {name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0}
    assert not untouched


def test_sdf_and_flow_start_near_free_and_still():
    fields = LetOccFlow(model_config())(*frames(count=1))
    assert (fields.sdf - 0.5).abs().max() < 0.1 and fields.flow.abs().max() < 0.1
    assert torch.allclose(fields.probability(0.1), torch.sigmoid(-fields.sdf[:, 0] / 0.1))


@torch.no_grad()
@pytest.mark.parametrize("variant", ["tpv", "sweep"])
def test_a_batch_gives_what_its_samples_give_alone(variant: str):
    model = build(**VARIANTS[variant])
    batch = frames(batch=2)
    together = model(batch[0], batch[1:]).sdf
    for i in range(2):
        alone = [pick(frame, batch=slice(i, i + 1)) for frame in batch]
        assert torch.allclose(model(alone[0], alone[1:]).sdf, together[i : i + 1], atol=1e-5)


@torch.no_grad()
def test_the_order_of_the_cameras_does_not_matter():
    model = build(sweep={})
    current, *past = frames()
    shuffled = [pick(frame, [2, 0, 1]) for frame in (current, *past)]
    assert torch.allclose(model(current, past).sdf, model(shuffled[0], shuffled[1:]).sdf, atol=1e-5)


@torch.no_grad()
def test_a_missing_camera_counts_for_nothing_and_any_number_will_do():
    model = build(sweep={})
    without = [pick(frame, [0, 1]) for frame in frames()]
    absent = [
        replace(frame, camera_valid=torch.tensor([[True, True, False]]).expand(2, 3)) for frame in frames()
    ]  # its image holds noise, which must not be looked at
    expected = model(without[0], without[1:]).sdf
    assert torch.allclose(model(absent[0], absent[1:]).sdf, expected, atol=1e-5)
    assert not torch.allclose(model(frames()[0], frames()[1:]).sdf, expected, atol=1e-3)


@torch.no_grad()
def test_what_is_kept_of_a_calibration_serves_that_calibration_alone():
    """While answering, what cameras see is kept from set to set: after each change the volume is as if nothing were kept."""
    model, frame = build(), frames(1, 2)[0]
    halves = frame.images[..., : frame.images.shape[-1] // 2]
    others = [
        replace(frame, K=frame.K * torch.tensor([1.2, 1, 1])[:, None]),
        replace(frame, T_ego_cam=frame.T_ego_cam.roll(1, dims=1)),
        replace(frame, camera_valid=torch.tensor([[True, False]])),
        replace(frame, own=torch.ones_like(frame.images[:, :, 0], dtype=torch.bool)),
        replace(frame, images=halves),
    ]
    for other in (frame, *others):
        with torch.inference_mode():
            model.encode(frame)
            kept = model.encode(other).volume
        with torch.no_grad():
            torch.testing.assert_close(kept, model.encode(other).volume)


def test_no_camera_at_all_still_gives_an_answer():
    current = replace(frames(count=1)[0], camera_valid=torch.zeros(2, 3, dtype=torch.bool))
    assert build(sweep={})(current).sdf.isfinite().all()


@torch.no_grad()
def test_an_empty_history_is_the_current_frame_repeated():
    model = build(sweep={})
    now, before, _ = frames()
    current, past = model.encode(now), model.encode(before)
    assert torch.equal(model.decode(current).sdf, model.decode(current, [current, current]).sdf)
    assert torch.equal(model.decode(current, [past]).sdf, model.decode(current, [past, past]).sdf)


@torch.no_grad()
def test_decoding_never_looks_at_images_again(monkeypatch: pytest.MonkeyPatch):
    model = build()
    encoded = [model.encode(frame) for frame in frames()]
    monkeypatch.setattr(model.pyramid, "forward", lambda *_: pytest.fail("the backbone ran"))
    assert model.decode(encoded[0], encoded[1:]).sdf.isfinite().all()


@torch.no_grad()
def test_poses_matter_only_relative_to_each_other():
    model = build(sweep={})
    T = torch.from_numpy(se3.from_quaternion(np.array([0, 0, 0.6, 0.8]), np.array([1e5, -3e5, 20.0])))
    moved = [replace(frame, T_world_ego=T @ frame.T_world_ego) for frame in frames()]
    expected = model(frames()[0], frames()[1:]).sdf
    assert torch.allclose(model(moved[0], moved[1:]).sdf, expected, atol=1e-4)


def test_warp_by_nothing_is_nothing_and_by_whole_voxels_a_shift():
    grid = box()
    volume = torch.randn(2, 3, *grid.shape)
    same, inside = warp(volume, grid, torch.eye(4).repeat(2, 1, 1))
    assert torch.allclose(same, volume, atol=1e-5) and inside.all()
    forward = torch.eye(4).repeat(2, 1, 1)
    forward[:, 0, 3] = 2 * grid.voxel_size  # the vehicle has moved two voxels ahead since
    shifted, inside = warp(volume, grid, forward)
    assert torch.allclose(shifted[:, :, :-2], volume[:, :, 2:], atol=1e-4)
    assert inside[:, :-2].all() and not inside[:, -2:].any() and (shifted[:, :, -2:] == 0).all()


def test_warp_agrees_with_scipy_on_a_turn():
    from scipy.ndimage import map_coordinates

    grid = box()
    volume = torch.randn(1, 1, *grid.shape)
    T = torch.from_numpy(se3.from_quaternion(np.array([0, 0, 0.1, 0.995]), np.array([0.3, -0.2, 0.1]))).float()[None]
    warped, _ = warp(volume, grid, T)
    index = grid.to_index(se3.transform(T, grid.centres().view(1, -1, 3)))[0]
    inner = ((index >= 0) & (index <= torch.tensor(grid.shape) - 1)).all(-1)
    expected = map_coordinates(volume[0, 0].numpy(), index.T.numpy(), order=1)
    assert inner.sum() > 100
    assert torch.allclose(warped[0, 0].flatten()[inner], torch.from_numpy(expected)[inner], atol=1e-4)


def test_backward_forward_attention_brings_the_past_in_at_its_place():
    grid = box()
    fusion = TemporalFusion(TemporalConfig(points=2, heads=2), grid, 8)
    for step in (*fusion.backward_steps, *fusion.forward_steps):
        torch.nn.init.zeros_(step.attention.offsets.bias)  # look straight at the reference points
    current, past = torch.zeros(1, 8, *grid.shape), torch.zeros(1, 8, *grid.shape)
    past[:, :, 2, 6, 1] = 1.0
    T = torch.eye(4)[None]
    change = (fusion(current, [past, past], [T, T]) - fusion(current, [current, current], [T, T])).abs().sum(1)[0]
    place = divmod(int(change.sum(-1).argmax()), grid.shape[1])
    assert change.max() > 0 and place == (2, 6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"grid": {"upper": [4.4, 4.8, 2.2]}}, "even"),
        ({"dim": 9}, "encoder.heads"),
        ({"encoder": {"image_points": [3, 4, 4]}}, "image_points has 3"),
        ({"encoder": {"cross_view_points": 5}}, "cross_view_points"),
        ({"sweep": {"window": 4}}, "only 5 is supported"),
        ({"sweep": {}, "temporal": {"frames": 0}}, "temporal.frames is 0"),
        ({"backbone": {"kinds": "resnet"}}, "did you mean 'backbone.kind'"),
    ],
)
def test_a_wrong_configuration_says_what_is_wrong(changes: dict, message: str):
    with pytest.raises(ConfigError, match=message):
        model_config(**changes)


def test_backbone_weights_that_are_not_there_say_which_folder(tmp_path):
    with pytest.raises(CheckpointError, match=str(tmp_path / "convnext")):
        build_backbone(BackboneConfig(weights=tmp_path / "convnext"))


def test_backbone_starts_from_a_folder_of_weights(tmp_path):
    config = BackboneConfig(widths=(8, 8, 16, 16), depths=(1, 1, 1, 1))
    saved = build_backbone(config)
    saved.save_pretrained(tmp_path)
    loaded = build_backbone(replace(config, weights=tmp_path))
    assert all(
        torch.equal(a, b) for a, b in zip(saved.state_dict().values(), loaded.state_dict().values(), strict=True)
    )


@pytest.mark.parametrize("branch", [None, {"forward": 4.0, "sideways": 2.0}])
def test_the_table_of_parameters_leaves_nothing_out(branch: dict | None):
    model = build(sweep={}, motion_branch=branch)
    assert sum(by_module(model).values()) == sum(p.numel() for p in model.parameters())


def test_bfloat16_changes_little_and_leaves_geometry_alone():
    """Fields and gradients in float32, near those of float32; poses far from the origin lose nothing."""
    current, *past = frames(batch=1, size=(32, 48))
    fields, norms = [], []
    for precision in (torch.float32, torch.bfloat16):
        torch.manual_seed(0)
        model = LetOccFlow(model_config(checkpoint_activations=precision == torch.bfloat16))
        torch.nn.init.normal_(model.fields.sdf[-1].weight)
        if precision == torch.bfloat16:
            model.multiply_in_bfloat16("cpu")
        fields.append(model(current, past).sdf)
        fields[-1].square().mean().backward()
        norms.append(torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None]))
    assert fields[1].dtype == torch.float32 and not torch.equal(*fields)
    assert (fields[0] - fields[1]).abs().mean() < 0.05 * fields[0].std()
    torch.testing.assert_close(norms[1], norms[0], rtol=0.3, atol=0.02 * float(norms[0].max()))


def test_every_parameter_is_of_one_group():
    branch = {"forward": 4.0, "sideways": 2.0}
    for model in (build(), build(sweep={}, motion_branch=branch)):
        groups = model.parameter_groups()
        assert sorted(id(p) for group in groups.values() for p in group) == sorted(map(id, model.parameters()))
        named = {id(p): name for name, p in model.named_parameters()}
        assert {named[id(p)].split(".")[0] for p in groups["motion"]} <= {"fields", "motion"}
        assert all(named[id(p)].startswith("pyramid.backbone.") for p in groups["backbone"])
        assert groups["motion"] and groups["backbone"] and model.fields.sdf[0].weight is groups["geometry"][-4]
