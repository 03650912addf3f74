"""Rays and volume rendering against hand-worked values and plain loops (reference numbers: test_golden.py)."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from analytic_street import AnalyticStreet, Rig
from torch import Tensor

from letocc_core.errors import DataError
from letocc_core.frame import Frame, stack
from letocc_core.geometry import camera, se3
from letocc_core.geometry.grid import GridSpec, sample_volume
from letocc_core.rendering.draws import Draws
from letocc_core.rendering.neus import neus_alpha, neus_weights
from letocc_core.rendering.rays import Rays, camera_rays, lidar_rays, pixel_rays, rays_through, sample_edges
from letocc_core.rendering.render import render

GRID = GridSpec((-8.0, -8.0, -0.8), (8.0, 8.0, 2.4), 0.4)


@dataclasses.dataclass(frozen=True)
class Scene:
    """Fields made by hand."""

    sdf: Tensor
    flow: Tensor | None = None
    semantics: Tensor | None = None


SMALL_RIG = Rig(headings=(0, 90), height=24, width=32)


def blank_frame(batch: int = 1, rig: Rig = SMALL_RIG, **values) -> Frame:
    cameras = len(rig.headings)
    frame = Frame(
        stamp=torch.tensor(0),
        images=torch.rand(cameras, 3, rig.height, rig.width, generator=torch.Generator().manual_seed(0)),
        camera_valid=torch.ones(cameras, dtype=torch.bool),
        K=rig.K.float(),
        T_ego_cam=rig.T_ego_cam.float(),
        T_world_ego=torch.eye(4, dtype=torch.float64),
    )
    return stack([dataclasses.replace(frame, **values)] * batch)


def draws(batch: int = 1, seed: int = 0) -> Draws:
    return Draws(seed, torch.arange(batch))


def one_ray(near: float = 0.0, far: float = 4.0, length: float = 1.0) -> Rays:
    """A ray [1, 1] along x from the origin."""
    ones = torch.ones(1, 1)
    direction = torch.tensor([length, 0.0, 0.0]).expand(1, 1, 3)
    return Rays(torch.zeros(1, 1, 3), direction, near * ones, far * ones, ones > 0)


# Weights


def test_weights_hold_in_float32_deep_inside_a_surface():
    deep = torch.linspace(1.0, -500.0, 32, requires_grad=True)
    weights, alpha = neus_weights(deep, 0.05), neus_alpha(deep, 0.05)
    weights[3].backward()
    assert (
        alpha.isfinite().all() and deep.grad.isfinite().all() and weights.sum().item() == pytest.approx(1.0, abs=1e-5)
    )


def test_a_rising_distance_weighs_nothing():
    weights = neus_weights(torch.tensor([0.1, 0.5, 0.5, 2.0]), 0.2)
    assert weights.tolist() == [0, 0, 0]


# Rays


def test_pixel_in_the_middle_looks_straight_ahead_and_ends_at_the_box():
    rig = Rig(headings=(0,), height=25, width=33)
    frame = blank_frame(rig=rig)
    rays = rays_through(torch.tensor([[[[16.0, 12.0]]]]), frame.K, frame.T_ego_cam, GRID)
    torch.testing.assert_close(rays.origins[0, 0, 0], torch.tensor([1.0, 0.0, 1.5]))
    torch.testing.assert_close(rays.directions[0, 0, 0], torch.tensor([1.0, 0.0, 0.0]))
    assert rays.near.item() == pytest.approx(camera.MIN_DEPTH) and rays.far.item() == pytest.approx(7.0)


def test_rays_of_a_camera_outside_the_box_enter_it_or_miss_it():
    T = torch.eye(4)[None, None].clone()
    T[0, 0, :3, :3] = torch.tensor([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]])
    T[0, 0, :3, 3] = torch.tensor([-10.0, 0, 0])
    K = torch.tensor([[10.0, 0, 0], [0, 10, 0], [0, 0, 1]])[None, None]
    rays = rays_through(torch.tensor([[[[0.0, 0.0], [0.0, -50.0]]]]), K, T, GRID)  # ahead, and steeply up
    assert rays.valid.tolist() == [[[True, False]]]
    assert (rays.near[0, 0, 0].item(), rays.far[0, 0, 0].item()) == pytest.approx((2.0, 18.0))


def test_t_of_a_camera_ray_is_its_depth():
    frame = blank_frame()
    rays = camera_rays(frame, GRID, 4, 5, draws())
    assert rays.near.shape == (1, 2, 4, 5)
    points = rays.at(torch.full((1, 2, 4, 5, 1), 3.0))[..., 0, :]
    pixels, depth = camera.project(se3.transform(se3.inverse(frame.T_ego_cam), points.flatten(2, 3)), frame.K)
    torch.testing.assert_close(depth, torch.full_like(depth, 3.0))
    torch.testing.assert_close(pixels.view(rays.pixels.shape), rays.pixels, atol=1e-4, rtol=1e-4)


def test_lattice_is_regular_and_jittered_once_a_camera():
    frame = blank_frame(batch=2)
    centred = camera_rays(frame, GRID, 6, 8).pixels
    torch.testing.assert_close(centred[0, 0, 0, 0], torch.tensor([1.5, 1.5]))  # the middle of 4 x 4 pixels
    jittered = camera_rays(frame, GRID, 6, 8, draws(2)).pixels
    shift = jittered - centred
    assert (shift - shift[:, :, :1, :1]).abs().max() < 1e-5 and shift.abs().max() <= 2
    assert len(shift[:, :, 0, 0].reshape(-1, 2).unique(dim=0)) == 4


def test_every_pixel_and_every_block_of_pixels():
    frame = blank_frame()
    v, u = torch.meshgrid(torch.arange(24.0), torch.arange(32.0), indexing="ij")
    torch.testing.assert_close(pixel_rays(frame, GRID).pixels[0, 1], torch.stack([u, v], -1))
    assert pixel_rays(frame, GRID, 4).pixels[0, 0, 0, 0].tolist() == [1.5, 1.5]


def test_absent_camera_has_no_valid_ray():
    rays = camera_rays(blank_frame(camera_valid=torch.tensor([True, False])), GRID, 2, 2)
    assert rays.valid[0, 0].all() and not rays.valid[0, 1].any()


def test_single_frame_is_refused_with_what_to_do():
    single, _ = AnalyticStreet.random(0).frame(SMALL_RIG, 0.0, 0)
    with pytest.raises(DataError, match="unsqueeze"):
        camera_rays(single, GRID, 2, 2)


def test_lidar_rays_end_at_their_returns():
    points = torch.tensor([[3.0, 4.0, 1.0], [50.0, 0.0, 0.0], [float("nan")] * 3, [0.0, -2.0, 1.0]])
    frame = blank_frame(lidar=points, lidar_origin=torch.tensor([0.0, 0.0, 1.0]))
    rays, ranges = lidar_rays(frame, GRID, 4, draws())
    assert rays.valid.sum() == 2 and sorted(ranges[rays.valid].tolist()) == pytest.approx([2.0, 5.0])
    ends = rays.at(ranges[..., None])[..., 0, :][rays.valid]
    assert sorted(ends.tolist()) == [pytest.approx([0.0, -2.0, 1.0]), pytest.approx([3.0, 4.0, 1.0])]
    assert lidar_rays(frame, GRID, 1)[1].shape == (1, 1)
    with pytest.raises(DataError, match="LiDAR"):
        lidar_rays(blank_frame(), GRID, 4)


def test_draws_depend_on_the_place_in_the_batch_alone():
    """Together, shared out, with other lengths: the same numbers; other seeds, places and calls: others."""
    together = draws(3)
    first, second = together.uniform(4, 5), together.uniform(7)
    assert first.shape == (3, 4, 5) and not torch.equal(first[:, 0], second[:, :5])
    alone = Draws(0, torch.tensor([1, 2]))
    assert torch.equal(alone.uniform(2, 5), first[1:, :2]) and torch.equal(alone.uniform(9)[:, :7], second[1:])
    assert not torch.equal(draws(3, seed=1).uniform(4, 5), first)
    assert not torch.equal(draws(3, seed=2**40).uniform(4, 5), first)


@pytest.mark.parametrize("seed", [0, 1, 2**62])
def test_draws_are_uniform_and_independent(seed):
    """Moments and correlations within 4 standard deviations of their means."""
    x = draws(4, seed).uniform(50_000).double()
    sigma = 1 / (12 * x.shape[1]) ** 0.5
    assert ((x.mean(1) - 0.5).abs() < 4 * sigma).all() and (x >= 0).all() and (x < 1).all()
    assert ((x.var(1) - 1 / 12).abs() < 4 * (1 / 180 / x.shape[1]) ** 0.5).all()
    counts = torch.stack([torch.histc(row, 64, 0, 1) for row in x])
    assert (((counts - counts.mean()) ** 2 / counts.mean()).sum(1) < 63 + 4 * (2 * 63) ** 0.5).all()
    between = torch.corrcoef(torch.cat([x, x.roll(1, 1)]))  # of clips, and of successive numbers
    assert (between - torch.eye(8)).abs().max() < 4 / x.shape[1] ** 0.5


def test_samples_stay_in_their_strata():
    edges = sample_edges(one_ray(), 4)
    assert edges[0, 0].tolist() == [0, 1, 2, 3, 4]
    moved = sample_edges(one_ray(), 4, draws())[0, 0]
    assert (moved[0], moved[-1]) == (0, 4) and (moved.diff() > 0).all() and not torch.equal(moved, edges[0, 0])


# Rendering


def test_a_wall_is_rendered_where_it_stands():
    wall = 3.1 - GRID.centres()[..., 0]
    seen = render(Scene(wall[None, None]), GRID, one_ray(), 256, 0.02)
    assert seen.depth.item() == pytest.approx(3.1, abs=0.02) and seen.opacity.item() == pytest.approx(1.0, abs=1e-3)
    other = render(Scene(wall[None, None]), GRID, one_ray(length=2.0, far=3.0), 256, 0.02)
    assert other.depth.item() == pytest.approx(1.55, abs=0.02)  # t is in units of the direction
    selfocc = render(Scene(wall[None, None]), GRID, one_ray(), 256, 0.02, weighting="selfocc")
    assert selfocc.depth.item() == pytest.approx(3.1 * 1.02, abs=0.02)  # its transmittance grows by 1e-4 a sample


def test_free_space_is_far_away_or_nowhere():
    free = Scene(torch.ones(1, 1, *GRID.shape))
    assert render(free, GRID, one_ray(), 16, 0.1).depth.item() == pytest.approx(4.0)
    nothing = render(free, GRID, one_ray(), 16, 0.1, background="none")
    assert nothing.depth.item() == 0 and nothing.opacity.item() == 0


def test_flow_and_classes_are_composited_with_the_weights():
    wall = (2.0 - GRID.centres()[..., 0])[None, None]
    flow = torch.tensor([1.5, -0.5]).view(1, 2, 1, 1, 1).expand(1, 2, *GRID.shape)
    classes = torch.tensor([0.0, 20.0, 0.0]).view(1, 3, 1, 1, 1).expand(1, 3, *GRID.shape)
    seen = render(Scene(wall, flow, classes), GRID, one_ray(), 64, 0.05, motion=True, semantics=True)
    torch.testing.assert_close(seen.flow[0, 0], seen.opacity.item() * torch.tensor([1.5, -0.5]))
    torch.testing.assert_close(seen.semantics.sum(-1), seen.opacity)
    assert seen.semantics.argmax() == 1
    assert seen.velocity.shape == (1, 1, 64, 2)


def test_true_distance_of_a_street_renders_its_depth():
    street, rig = AnalyticStreet.random(3), Rig(headings=(0, 90), height=48, width=64)
    grid = GridSpec((-12.0, -12.0, -0.8), (12.0, 12.0, 4.0), 0.2)
    frame, depth = street.frame(rig, 0.0, 0)
    rays = pixel_rays(stack([frame]), grid)
    seen = render(Scene(street.distance(grid)), grid, rays, 192, 0.03)
    inside = depth[None] < rays.far
    error = ((seen.depth - depth[None]).abs() / depth[None])[inside]
    assert inside.float().mean() > 0.4 and error.median() < 0.02 and error.mean() < 0.06


def test_batch_and_cameras_equal_a_loop_over_single_rays():
    frame = blank_frame(batch=2)
    generator = torch.Generator().manual_seed(0)
    scene = Scene(torch.randn(2, 1, *GRID.shape, generator=generator) + 0.3)
    rays = camera_rays(frame, GRID, 3, 4)
    together = render(scene, GRID, rays, 24, 0.3)
    for b, n, i, j in np.ndindex(*rays.near.shape):
        t = torch.linspace(rays.near[b, n, i, j], rays.far[b, n, i, j], 25)
        points = rays.origins[b, n, i, j] + t[:, None] * rays.directions[b, n, i, j]
        sdf = sample_volume(scene.sdf[b : b + 1], GRID, points[None], padding="border")[0, :, 0]
        passed, depth = 1.0, 0.0
        for k in range(24):
            s0, s1 = torch.sigmoid(sdf[k] / 0.3).item(), torch.sigmoid(sdf[k + 1] / 0.3).item()
            alpha = max((s0 - s1) / s0, 0)
            depth += passed * alpha * (t[k] + t[k + 1]).item() / 2
            passed *= 1 - alpha
        depth += passed * rays.far[b, n, i, j].item()
        assert together.depth[b, n, i, j].item() == pytest.approx(depth, rel=1e-3)


def test_depth_is_differentiable_in_the_field():
    grid = GridSpec((0.0, -0.4, -0.4), (1.6, 0.4, 0.4), 0.4)
    ends = torch.ones(1, 1, dtype=torch.float64)
    along = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64).expand(1, 1, 3)
    ray = Rays(torch.zeros(1, 1, 3, dtype=torch.float64), along, 0.1 * ends, 1.5 * ends, ends > 0)
    sdf = torch.linspace(0.9, -0.7, 4, dtype=torch.float64).view(1, 1, 4, 1, 1).expand(1, 1, *grid.shape).clone()
    assert torch.autograd.gradcheck(lambda f: render(Scene(f), grid, ray, 8, 0.3).depth, sdf.requires_grad_())


def test_matter_is_rendered_where_it_is_at_another_instant():
    grid = GridSpec((0.0, -4.0, -4.0), (16.0, 4.0, 4.0), 0.5)
    sdf = (10 - grid.centres()[..., 0])[None, None].expand(2, -1, -1, -1, -1)  # a wall 10 m ahead
    flow = torch.zeros(2, 2, *grid.shape)
    flow[:, 0] = -2.0
    scene = SimpleNamespace(sdf=sdf, flow=flow, semantics=None)
    pixels = torch.full((2, 1, 1, 2), 5.0)
    K = torch.tensor([[10.0, 0, 5], [0, 10, 5], [0, 0, 1]]).expand(2, 1, 3, 3)
    T = torch.eye(4)
    T[:3, :3] = torch.tensor([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]])
    rays = rays_through(pixels, K, T.expand(2, 1, 4, 4), grid)
    seconds = torch.tensor([1.0, -0.5])
    seen = render(scene, grid, rays, 256, 0.01, motion=True, seconds=seconds)
    assert seen.depth.flatten().tolist() == pytest.approx([8.0, 11.0], abs=0.1)
    assert render(scene, grid, rays, 256, 0.01).depth.flatten().tolist() == pytest.approx([10.0, 10.0], abs=0.1)
