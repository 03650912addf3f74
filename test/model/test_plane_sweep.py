"""The plane sweep measures depth where there is parallax, and says so where there is none."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from analytic_street import INTERVAL, AnalyticStreet, Rig

from letocc_core.geometry import camera, se3
from letocc_core.geometry.grid import GridSpec
from letocc_core.model import plane_sweep
from letocc_core.model.plane_sweep import SweptDepth


@pytest.fixture(autouse=True)
def _small_window(monkeypatch):
    monkeypatch.setattr(plane_sweep, "WINDOW", 3)  # the street's texture is fine


def sweep(speed: float, **changes) -> tuple[SweptDepth, torch.Tensor, dict]:
    """Evidence from a street and two past frames at `speed` (m/s), and the true depth of its pixels [1, N, h, w]."""
    street, rig = AnalyticStreet.random(1), Rig(headings=(0, 60, 180))
    seen = [street.frame(rig, -speed * INTERVAL * k, 0) for k in range(3)]
    grey = [F.avg_pool2d(plane_sweep.brightness(frame.images[None]), 2) for frame, _ in seen]
    K, T_ego_cam = plane_sweep.half_intrinsics(rig.K[None].float()), rig.T_ego_cam[None].float()
    poses = [frame.T_world_ego[None] for frame, _ in seen]
    T = [se3.inverse(T_ego_cam) @ se3.relative(p, poses[0])[:, None] @ T_ego_cam for p in poses[1:]]
    arguments = {"K": K, "past_K": [K, K], "T_past_now": T, "past_valid": [torch.ones(1, 3, dtype=torch.bool)] * 2}
    swept = plane_sweep.sweep_depth(grey[0], grey[1:], **{**arguments, **changes})
    return swept, seen[0][1][None, :, ::4, ::4], {"K": K, "T_ego_cam": T_ego_cam, "grey": grey, **arguments}


def test_depth_is_right_where_it_is_confident():
    swept, truth, _ = sweep(speed=6.0)
    near = (truth > plane_sweep.NEAREST) & (truth < 25)
    error = (swept.depth - truth).abs() / truth
    confident = near & (swept.confidence > 0.5)
    assert confident.sum() > 0.5 * near.sum()
    assert error[confident].mean() < 0.15 and error[confident].median() < 0.05


def test_standing_still_is_no_evidence():
    swept, _, about = sweep(speed=0.0)
    assert (swept.confidence == 0).all()
    assert not plane_sweep.lift(swept, GridSpec(), about["K"], about["T_ego_cam"]).any()


def test_cameras_without_a_past_image_have_no_evidence():
    absent = torch.tensor([[True, False, True]])
    swept, _, _ = sweep(speed=6.0, past_valid=[absent, absent])
    assert (swept.confidence[:, 1] == 0).all() and (swept.confidence[:, 0] > 0.5).any()


def test_exposure_does_not_matter():
    swept, _, about = sweep(speed=6.0)
    brighter = [0.6 * grey + 0.2 for grey in about["grey"][1:]]
    again = plane_sweep.sweep_depth(
        about["grey"][0], brighter, *(about[k] for k in ("K", "past_K", "T_past_now", "past_valid"))
    )
    sure = swept.confidence > 0.8
    assert ((again.depth - swept.depth).abs() / swept.depth)[sure].mean() < 0.02


def test_correlation_agrees_with_numpy():
    generator = torch.Generator().manual_seed(0)
    a, b = torch.rand(1, 1, 10, 12, generator=generator), torch.rand(1, 2, 10, 12, generator=generator)
    found = plane_sweep.correlation(a, b, 5)
    assert found.shape == (1, 2, 5, 6)
    x, y = a[0, 0, 2:7, 4:9].flatten().numpy(), b[0, 1, 2:7, 4:9].flatten().numpy()
    np.testing.assert_allclose(found[0, 1, 2, 3], np.corrcoef(x, y)[0, 1], atol=1e-3)
    assert (plane_sweep.correlation(a, torch.ones_like(b), 5).abs() < 0.05).all()


def test_aggregation_by_hand_and_without_penalties():
    cost = torch.tensor([[0.0, 1.0, 1.0], [1.0, 1.0, 0.0]]).T.reshape(1, 3, 1, 2)  # 3 hypotheses at 2 pixels in a row
    total = plane_sweep.aggregate(cost, small_step=0.25, large_step=0.5)[0, :, 0]
    # across, to pixel 1 from pixel 0: least costs 0, 0.25, 0.5; to pixel 0 from pixel 1: 0.5, 0.25, 0; down: no change
    assert torch.allclose(total[:, 1], (4 * cost[0, :, 0, 1] + torch.tensor([0.0, 0.25, 0.5])) / 4)
    assert torch.allclose(total[:, 0], (4 * cost[0, :, 0, 0] + torch.tensor([0.5, 0.25, 0.0])) / 4)
    noise = torch.rand(2, 4, 5, 6)
    assert torch.allclose(plane_sweep.aggregate(noise, 0.0, 0.0), noise, atol=1e-6)


def test_lifting_a_known_wall(monkeypatch):
    """A wall 8 m before a camera at the origin that looks along x."""
    monkeypatch.setattr(plane_sweep, "TRUNCATION", 2.0)
    grid = GridSpec((0.0, -4.0, -2.0), (12.0, 4.0, 2.0), 0.5)
    K = torch.tensor([[20.0, 0, 15.5], [0, 20.0, 11.5], [0, 0, 1]]).view(1, 1, 3, 3)
    T_ego_cam = torch.tensor([[0.0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]]).view(1, 1, 4, 4)
    inverse = torch.linspace(1 / 40, 1 / 2, 20)
    one = torch.ones(1, 1, 12, 16)
    probability = torch.zeros(1, 1, 20, 12, 16)
    probability[:, :, int((inverse - 1 / 8).abs().argmin())] = 1
    out = plane_sweep.lift(SweptDepth(probability, 8 * one, one, inverse), grid, K, T_ego_cam)
    distance, surface, hidden, known = out[0, :, :, 8, 4]  # the voxels at y = z = 0.25 m
    x = grid.centres()[:, 8, 4, 0]
    assert torch.allclose(distance[(x > 1) & (x < 9.9)], ((8 - x) / 2).clamp(-1, 1)[(x > 1) & (x < 9.9)], atol=1e-5)
    assert (known[(x > 1) & (x < 9.9)] == 1).all() and (known[x > 10.1] == 0).all()
    assert abs(x[surface.argmax()] - 8) < 1
    assert (hidden[x > 9] > 0.9).all() and (hidden[(x > 1) & (x < 6)] < 0.1).all()
    pixels, depth = camera.project(se3.transform(se3.inverse(T_ego_cam), grid.centres().view(1, 1, -1, 3)), K)
    outside = ~camera.in_image(pixels / 2, depth, 12, 16).view(grid.shape)
    assert outside.any() and not out[0, :, outside].any()
