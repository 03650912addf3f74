"""Every term against hand-worked values and gradients (reference numbers: test_golden.py); the objective on streets."""

import dataclasses
import math

import pytest
import torch
from analytic_street import AnalyticStreet, Rig
from model_cases import line_through
from torch import Tensor
from torch.autograd import gradcheck

from letocc_core.errors import ConfigError, DataError
from letocc_core.frame import Clip, Frame, collate, stack
from letocc_core.geometry import camera, contact
from letocc_core.geometry.grid import GridSpec
from letocc_core.losses import (
    edge,
    eikonal,
    hessian,
    lidar,
    optical_flow,
    photometric,
    queries,
    reprojection,
    semantics,
    sparsity,
)
from letocc_core.losses.grounded_motion import on_objects
from letocc_core.losses.mean import mean_over
from letocc_core.losses.objective import GridScene, StaticStageConfig, background_samples, may_move, stage_losses
from letocc_core.rendering.draws import Draws
from letocc_core.rendering.rays import Rays, pixel_rays
from letocc_core.rendering.render import render

GRID = GridSpec((-12.0, -12.0, -1.2), (12.0, 12.0, 4.4), 0.4)


@dataclasses.dataclass(frozen=True)
class Scene:
    """A signed distance field alone."""

    sdf: Tensor
    flow: Tensor | None = None
    semantics: Tensor | None = None


@pytest.fixture(scope="module")
def street() -> tuple[Clip, Tensor]:
    """A clip of three cameras (64 x 96) that drive 1.6 m a frame, and its true depth."""
    return AnalyticStreet.random(1).clip(Rig(headings=(0, 75, -75), height=64, width=96))


# Photometric


def test_views_that_do_not_see_a_ray_do_not_count():
    errors = torch.tensor([[1.0, 5.0, 1.0], [2.0, 2.0, 1.0]])
    seen = torch.tensor([[True, True, False], [True, False, False]])
    best, counted = photometric.minimum_over_views(errors, seen)
    assert best.tolist() == [1.0, 5.0, 0.0] and counted.tolist() == [True, True, False]


def ramp_frames() -> tuple[Frame, Frame, Frame]:
    """A camera at the ego origin looking along x, with images whose red is u / 10; sources 1 m behind and before it."""
    u = torch.arange(11.0).expand(11, 11) / 10
    T = torch.eye(4)
    T[:3, :3] = torch.tensor([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]])

    def frame(x: float, seconds: int) -> Frame:
        pose = torch.eye(4, dtype=torch.float64)
        pose[0, 3] = x
        return Frame(
            stamp=torch.tensor(seconds * 10**9),
            images=torch.stack([u, torch.zeros_like(u), torch.zeros_like(u)])[None],
            camera_valid=torch.tensor([True]),
            K=torch.tensor([[[10.0, 0, 5], [0, 10, 5], [0, 0, 1]]]),
            T_ego_cam=T[None],
            T_world_ego=pose,
        )

    return stack([frame(0.0, 0)]), stack([frame(-1.0, -1)]), stack([frame(1.0, 1)])


def test_samples_are_looked_up_where_they_project_to():
    now, before, after = ramp_frames()
    # 1.5 m to the right: at 5 m depth u = 8 now, 5 + 15 / 6 = 7.5 in the frame behind, 5 + 15 / 4 = 8.75 in the one ahead
    samples = line_through(torch.tensor([[5.0, -1.5, 0.0], [1.6, -1.0, 0.0]]).view(1, 1, 1, 2, 3))
    target = torch.tensor([0.8, 0.0, 0.0]).view(1, 1, 1, 3)
    each = photometric.match(*samples, target, now, (before, after), average=False)
    assert [float(view.colours[0, 0, 0, 0, 0]) for view in each] == pytest.approx([0.75, 0.875])
    assert [float(view.cost[0, 0, 0, 0]) for view in each] == pytest.approx([0.05 / 3, 0.075 / 3])
    # At 1.6 m the frame ahead (0.6 m) sees it at u = 21.7, off its image: its cost is that of the other sample
    assert each[1].cost[0, 0, 0].tolist() == pytest.approx([0.025, 0.025])
    assert each[1].composited(torch.tensor([0.3, 0.7]).view(1, 1, 1, 2))[..., 0].item() == pytest.approx(0.875)
    assert each[0].cost[0, 0, 0, 1].item() == pytest.approx(abs(0.5 + 1.0 / 2.6 - 0.8) / 3, rel=1e-4)
    (mean,) = photometric.match(*samples, target, now, (before, after))
    assert mean.cost[0, 0, 0].tolist() == pytest.approx([0.125 / 6, abs(0.5 + 1.0 / 2.6 - 0.8) / 3], rel=1e-4)
    assert mean.seen.all()


def test_moving_samples_are_looked_up_where_they_are_then():
    now, before, after = ramp_frames()
    samples = line_through(torch.tensor([[5.0, -1.5, 0.0]]).view(1, 1, 1, 1, 3))
    velocity = torch.tensor([1.0, -0.5]).view(1, 1, 1, 1, 2)  # m/s: with the camera, and 0.5 m to the right each second
    target = torch.tensor([0.8, 0.0, 0.0]).view(1, 1, 1, 3)
    matches = photometric.match(*samples, target, now, (before, after), velocity, average=False)
    assert [float(view.colours[0, 0, 0, 0, 0]) for view in matches] == pytest.approx([0.5 + 1.0 / 5, 0.5 + 2.0 / 5])


def test_absent_source_camera_sees_nothing():
    now, before, after = ramp_frames()
    gone = dataclasses.replace(after, camera_valid=torch.tensor([[False]]))
    samples = line_through(torch.tensor([[5.0, -1.5, 0.0]]).view(1, 1, 1, 1, 3))
    target = torch.tensor([0.8, 0.0, 0.0]).view(1, 1, 1, 3)
    assert not photometric.match(*samples, target, now, (gone,))[0].seen.any()
    (both,) = photometric.match(*samples, target, now, (before, gone))
    assert both.cost.item() == pytest.approx(0.05 / 3)


def test_photometric_gradients():
    generator = torch.Generator().manual_seed(0)
    colours = torch.rand(1, 1, 4, 5, 6, 3, generator=generator, dtype=torch.float64)
    target = torch.rand(1, 1, 4, 5, 3, generator=generator, dtype=torch.float64)
    cost = (colours - target[..., None, :]).abs().mean(-1)
    inside = (torch.rand(1, 1, 4, 5, 6, generator=generator) < 0.8).double()
    view = photometric.Match(colours, cost, inside)
    weights = torch.rand(1, 1, 4, 5, 6, generator=generator, dtype=torch.float64).softmax(-1).requires_grad_()
    assert gradcheck(lambda w: photometric.photometric(view, target, w, 0.85), weights)
    now, before, after = (
        dataclasses.replace(f, images=f.images.double(), K=f.K.double(), T_ego_cam=f.T_ego_cam.double())
        for f in ramp_frames()
    )
    samples = line_through(torch.tensor([[5.0, -1.53, 0.02], [6.0, -1.1, 0.4]]).double().view(1, 1, 1, 2, 3))
    velocity = torch.full((1, 1, 1, 2, 2), 0.1, dtype=torch.float64, requires_grad=True)
    red = torch.tensor([0.8, 0.0, 0.0], dtype=torch.float64).view(1, 1, 1, 3)
    assert gradcheck(lambda v: photometric.match(*samples, red, now, (before, after), v)[0].cost, velocity)


# LiDAR


def test_silog_forgives_most_of_a_common_scale_and_has_a_slope_at_perfection():
    measured = torch.tensor([2.0, 5.0, 20.0])
    valid = torch.ones(3, dtype=torch.bool)
    assert lidar.silog(2 * measured, measured, valid).item() == pytest.approx(math.log(2) * math.sqrt(0.15))
    perfect = measured.clone().requires_grad_()
    lidar.silog(perfect, measured, valid).backward()
    assert perfect.grad.isfinite().all()
    assert lidar.silog(measured, measured, ~valid).item() < 1e-4


# Regularisers


def test_eikonal_of_a_slope():
    ramp = (GRID.centres()[..., 0] * 3)[None, None]
    slope = eikonal.gradient(ramp, GRID.voxel_size)
    torch.testing.assert_close(slope[0, :, 5, 5, 3], torch.tensor([3.0, 0, 0]), atol=1e-4, rtol=0)
    assert eikonal.eikonal(slope.movedim(1, -1)).item() == pytest.approx(4.0, rel=1e-4)
    assert eikonal.eikonal(torch.tensor([[0.0, 0.6, 0.8], [0.0, 0.0, 0.0]])).item() == pytest.approx(0.5, abs=1e-5)


def test_hessian_is_zero_on_planes_and_counts_a_kink():
    x, y, z = GRID.centres().unbind(-1)
    assert hessian.hessian((2 * x - y + 0.5 * z)[None, None], GRID.voxel_size).item() == pytest.approx(0, abs=1e-4)
    parabola = torch.arange(5.0).square().view(1, 1, 5, 1, 1)  # second difference 2
    assert hessian.hessian(parabola, 0.5).item() == pytest.approx(2 / 0.25)
    assert hessian.hessian(torch.ones(1, 1, 2, 2, 2), 0.5).item() == 0


def test_free_space_counts_depth_inside_where_unseen():
    sdf = torch.tensor([-2.0, -1.0, 0.5, 3.0]).view(1, 1, 4, 1, 1)
    assert sparsity.free_space(sdf).item() == pytest.approx(0.75)
    unseen = torch.tensor([False, True, True, False]).view(1, 4, 1, 1)
    assert sparsity.free_space(sdf, unseen).item() == pytest.approx(0.5)
    assert sparsity.free_space(sdf, torch.zeros_like(unseen)).item() == 0


def test_free_behind_counts_samples_three_metres_behind():
    t = torch.tensor([[1.0, 4.0, 5.5, 7.0]])
    sdf = torch.tensor([[-1.0, -1.0, -2.0, 4.0]])
    assert sparsity.free_behind(sdf, t, torch.tensor([2.0])).item() == pytest.approx(1.0)
    assert sparsity.free_behind(sdf, t, torch.tensor([9.0])).item() == 0


def test_free_start_counts_how_deep_the_camera_sits_in_matter():
    sdf = torch.tensor([[1.0, 0.5], [0.1, -0.5]], requires_grad=True)
    loss = sparsity.free_start(sdf)
    loss.backward()
    assert loss.item() == pytest.approx((0.3 + 0.9) / 4)
    assert sdf.grad.tolist() == [[0, 0], [-0.25, -0.25]]


def test_voxels_behind_the_only_camera_are_unseen():
    now, _, _ = ramp_frames()
    grid = GridSpec((-4.0, -4.0, -1.0), (4.0, 4.0, 1.0), 1.0)
    unseen = sparsity.unseen_voxels(now, grid)
    assert unseen.shape == (1, *grid.shape) and unseen[0, :4].all() and not unseen[0, 7, 4, 1]
    assert sparsity.unseen_voxels(dataclasses.replace(now, camera_valid=torch.tensor([[False]])), grid).all()


def test_edge_aware_leaves_out_steps_to_invalid_entries():
    values = torch.tensor([[[1.0, 1.0, 9.0]]])
    valid = torch.tensor([[[True, True, False]]])
    assert edge.edge_aware(values, torch.zeros(1, 1, 3, 3), valid).item() == 0
    assert edge.edge_aware(values, torch.zeros(1, 1, 3, 3)).item() == pytest.approx(8 / 2 / (11 / 3), rel=1e-5)


def test_cross_entropy_of_rendered_classes():
    probabilities = torch.tensor([[[0.25, 0.25], [0.0, 0.5], [0.9, 0.1], [0.5, 0.5]]])  # two reach opacity 0.5
    labels = torch.tensor([[0, 1, semantics.IGNORE, 1]])
    valid = torch.tensor([[True, True, True, False]])
    loss = semantics.semantic_cross_entropy(probabilities, labels, valid)
    assert loss.item() == pytest.approx(math.log(2) / 2, rel=1e-5)
    with pytest.raises(DataError, match="label 2 found, expected below 2"):
        semantics.semantic_cross_entropy(probabilities, torch.tensor([[2, 0, 0, 0]]))


def test_gradients_of_the_other_terms():
    generator = torch.Generator().manual_seed(1)

    def random(*shape: int) -> Tensor:
        return (torch.rand(shape, generator=generator, dtype=torch.float64) + 0.1).requires_grad_()

    sdf = (random(1, 1, 4, 5, 3) - 0.6).detach().requires_grad_()
    t, image, labels = torch.arange(6.0).expand(4, 6), random(2, 4, 5, 3).detach(), torch.tensor([0, 1, 2, 255])
    measured, valid = random(7).detach(), torch.tensor([1, 1, 1, 0, 1, 1, 1], dtype=torch.bool)
    assert gradcheck(lambda f: eikonal.eikonal(eikonal.gradient(f, 0.4).movedim(1, -1)), sdf)
    assert gradcheck(lambda f: hessian.hessian(f, 0.4), sdf)
    assert gradcheck(sparsity.free_space, sdf)
    assert gradcheck(lambda f: sparsity.free_behind(f - 0.6, t, torch.ones(4)), random(4, 6))
    assert gradcheck(lambda v: edge.edge_aware(v, image), random(2, 4, 5))
    assert gradcheck(lambda r: lidar.silog(r, measured, valid), random(7))
    assert gradcheck(lambda p: semantics.semantic_cross_entropy(p, labels), random(4, 3))


def test_clips_count_alike_however_many_of_their_rays_do():
    values = torch.tensor([[1.0, 2.0, 6.0], [4.0, 9.0, 9.0], [5.0, 5.0, 5.0]])
    counted = torch.tensor([[True, True, True], [True, False, False], [False, False, False]])
    assert mean_over(values, counted).item() == pytest.approx((3 + 4 + 0) / 3)


def test_gradients_of_flow_errors_and_of_where_rays_start():
    generator = torch.Generator().manual_seed(2)
    flow, cue = torch.rand(2, 2, 5, 2, generator=generator, dtype=torch.float64)
    counted = torch.tensor([[True, True, False, True, True], [False, True, True, False, True]])
    assert gradcheck(lambda f: mean_over(*optical_flow.flow_error(f, cue, counted)), flow.requires_grad_())
    sdf = torch.tensor([[0.1, -0.7], [0.9, 0.3]], dtype=torch.float64, requires_grad=True)
    assert gradcheck(sparsity.free_start, sdf)


# The static stage


def config(**values) -> StaticStageConfig:
    return StaticStageConfig(**{"rows": 12, "columns": 18, **values})


def test_the_true_street_explains_the_images(street):
    clip, _ = street
    grid = GridSpec((-12.0, -12.0, -0.8), (12.0, 12.0, 4.0), 0.2)
    sharp = config(samples=128, beta_start=0.03, beta_end=0.03, auto_mask="none")
    truth = AnalyticStreet.random(1).distance(grid)
    losses = [
        stage_losses(GridScene(Scene(sdf), grid), clip, sharp, 1.0)["photometric"].item()
        for sdf in (truth, truth + 1.0, torch.ones_like(truth))
    ]
    assert losses[0] < 0.6 * losses[1] and losses[0] < 0.6 * losses[2]


def test_terms_are_weighted_and_summed(street):
    clip, _ = street
    scene = Scene(GRID.centres()[..., 2][None, None].clone())
    once = stage_losses(GridScene(scene, GRID), clip, config(edge=0.02), 0.5)
    twice = stage_losses(GridScene(scene, GRID), clip, config(edge=0.04, behind=0.0), 0.5)
    assert set(once) == {"photometric", "eikonal", "hessian", "edge", "sparsity", "behind", "start", "total"}
    assert "behind" not in twice and twice["edge"].item() == pytest.approx(2 * once["edge"].item())
    assert once["total"].item() == pytest.approx(sum(v.item() for k, v in once.items() if k != "total"))


def test_a_batch_is_the_mean_of_its_clips(street):
    clip, _ = street
    other, _ = AnalyticStreet.random(2).clip(Rig(headings=(0, 75, -75), height=64, width=96))
    fields = torch.stack([GRID.centres()[..., 2], GRID.centres()[..., 2] - 0.3])[:, None]
    plain = config(edge=0.02)
    single = [Clip(*(_first(part) for part in (c.current, c.history, c.sources))) for c in (clip, other)]
    both = stage_losses(GridScene(Scene(fields), GRID), collate(single), plain, 0.5)["total"]
    alone = [
        stage_losses(GridScene(Scene(fields[i : i + 1]), GRID), c, plain, 0.5)["total"]
        for i, c in enumerate((clip, other))
    ]
    torch.testing.assert_close(both, (alone[0] + alone[1]) / 2, rtol=1e-4, atol=1e-6)


def _first(part: Frame | tuple[Frame, ...]) -> Frame | tuple[Frame, ...]:
    """The single frames of a batch of one."""
    if isinstance(part, tuple):
        return tuple(_first(frame) for frame in part)
    values = {f.name: getattr(part, f.name) for f in dataclasses.fields(part)}
    return Frame(**{name: None if value is None else value[0] for name, value in values.items()})


def test_cameras_together_equal_cameras_alone(street):
    clip, _ = street

    def only(frame: Frame, n: int) -> Frame:
        names = ("images", "camera_valid", "K", "T_ego_cam")
        return dataclasses.replace(frame, **{name: getattr(frame, name)[:, n : n + 1] for name in names})

    scene = Scene(GRID.centres()[..., 2][None, None] - 0.2)
    plain = config(auto_mask="none", dssim=0.3)
    together = stage_losses(GridScene(scene, GRID), clip, plain, 0.5)["photometric"]
    alone = [
        stage_losses(
            GridScene(scene, GRID), Clip(only(clip.current, n), (), tuple(only(s, n) for s in clip.sources)), plain, 0.5
        )
        for n in range(3)
    ]
    torch.testing.assert_close(together, sum(losses["photometric"] for losses in alone) / 3)


def test_a_ray_cannot_hide_where_no_source_looks(street):
    """A wall right before the side cameras is on no source image; the loss must still push it away."""
    clip, _ = street
    y = GRID.centres()[..., 1]
    wall = (1.4 - y).abs()[None, None] - 0.3  # the camera at 75 degrees looks through it
    sdf = wall.clone().requires_grad_()
    still = config(auto_mask="none", eikonal=0.0, hessian=0.0, sparsity=0.0, behind=0.0)
    stage_losses(GridScene(Scene(sdf), GRID), clip, still, 0.0)["total"].backward()
    inside = (wall < 0) & (GRID.centres()[..., 0] > 0) & (GRID.centres()[..., 2].abs() < 3)
    assert sdf.grad[inside].abs().sum() > 0
    assert (sdf.grad[inside]).sum() < 0  # descending makes it free


def test_what_leaves_the_box_ends_far_away_or_on_the_ground():
    """From 1.5 m above the road: one ray leaves the box ahead at 10 m, the other through its floor at 5 m."""
    rays = Rays(
        torch.tensor([0.0, 0, 1.5]).expand(2, 3),
        torch.tensor([[1.0, 0, 0], [1, 0, -0.5]]),
        torch.zeros(2),
        torch.tensor([10.0, 5.0]),
        torch.ones(2, dtype=torch.bool),
    )
    two, one = (background_samples(rays, StaticStageConfig(background=n)).double() for n in (2, 1))
    expected = torch.tensor([[1 / 0.051, 500], [5, 5]]).double()  # halfway from 1/10 to 1/500: 0.051
    torch.testing.assert_close(two, expected, rtol=1e-5, atol=0)
    torch.testing.assert_close(one, expected[:, 1:], rtol=1e-5, atol=0)


@pytest.mark.parametrize("mask", ["best_sample", "rendered"])
def test_a_vehicle_that_stands_still_learns_nothing(street, mask):
    clip, _ = street
    parked = Clip(clip.current, (), (clip.current, clip.current))
    losses = stage_losses(
        GridScene(Scene(GRID.centres()[..., 2][None, None]), GRID), parked, config(auto_mask=mask), 0.5
    )
    assert losses["photometric"].item() == 0


def test_movable_pixels_can_be_left_out(street):
    clip, _ = street
    scene = Scene(GRID.centres()[..., 2][None, None])
    masked = dataclasses.replace(clip.current, movable=torch.ones(1, 3, 64, 96, dtype=torch.bool))
    losses = stage_losses(GridScene(scene, GRID), dataclasses.replace(clip, current=masked), config(movable=False), 0.5)
    assert losses["photometric"].item() == 0
    assert stage_losses(GridScene(scene, GRID), clip, config(movable=False), 0.5)["photometric"].item() > 0


def test_lidar_term_is_there_when_the_sweep_is(street):
    clip, _ = street
    sweep = torch.tensor([[[5.0, 1.0, 0.0], [4.0, -3.0, 0.0]]])
    frame = dataclasses.replace(clip.current, lidar=sweep, lidar_origin=torch.tensor([[0.0, 0.0, 1.8]]))
    road = Scene(GRID.centres()[..., 2][None, None])
    sharp = config(beta_start=0.02, beta_end=0.02, samples=128, lidar=1.0)
    assert (
        stage_losses(GridScene(road, GRID), dataclasses.replace(clip, current=frame), sharp, 0.5)["lidar"].item() < 0.03
    )
    raised = Scene(road.sdf - 1.0)
    assert (
        stage_losses(GridScene(raised, GRID), dataclasses.replace(clip, current=frame), sharp, 0.5)["lidar"].item()
        > 0.2
    )


def test_semantic_term_wants_labels(street):
    clip, _ = street
    scene = Scene(GRID.centres()[..., 2][None, None], None, torch.zeros(1, 2, *GRID.shape))
    with pytest.raises(ConfigError, match="semantics"):
        stage_losses(GridScene(scene, GRID), clip, config(semantics=0.1), 0.5)
    labelled = dataclasses.replace(clip.current, semantics=torch.zeros(1, 3, 64, 96, dtype=torch.long))
    losses = stage_losses(
        GridScene(scene, GRID), dataclasses.replace(clip, current=labelled), config(semantics=1.0), 0.5
    )
    assert losses["semantics"].item() == pytest.approx(math.log(2), rel=1e-3)


def test_beta_falls_then_stays():
    schedule = StaticStageConfig(beta_start=0.5, beta_end=0.2, beta_anneal=0.7)
    assert [schedule.beta(p) for p in (0.0, 0.35, 0.7, 1.0)] == pytest.approx([0.5, 0.35, 0.2, 0.2])
    assert StaticStageConfig(beta_anneal=0.0).beta(0.0) == pytest.approx(0.2)


@pytest.mark.parametrize("wrong", [{"rows": 1}, {"beta_end": 0.0}, {"dssim": 1.5}])
def test_impossible_configuration_is_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong)).split("_")[0]):
        StaticStageConfig(**wrong)


def learn(clip: Clip, settings: StaticStageConfig, steps: int) -> Tensor:
    """A free SDF grid, no network, after `steps` of Adam on the static stage's objective."""
    sdf = torch.full((1, 1, *GRID.shape), 1.0, requires_grad=True)
    optimizer = torch.optim.Adam([sdf], lr=0.1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps, 0.005)
    for step in range(steps):
        optimizer.zero_grad()
        stage_losses(GridScene(Scene(sdf), GRID), clip, settings, step / steps, Draws(step, torch.arange(1)))[
            "total"
        ].backward()
        optimizer.step()
        schedule.step()
    return sdf.detach()


def depth_error(sdf: Tensor, clip: Clip, depth: Tensor) -> float:
    """Mean relative error of the depth of pixels whose true point is in the box."""
    rays = pixel_rays(clip.current, GRID)
    seen = render(Scene(sdf), GRID, rays, 96, 0.1)
    inside = depth < rays.far
    return ((seen.depth - depth).abs() / depth)[inside].mean().item()


def test_images_alone_teach_a_free_grid_the_street(street):
    clip, depth = street
    before = depth_error(torch.full((1, 1, *GRID.shape), 1.0), clip, depth)
    after = depth_error(learn(clip, config(), 100), clip, depth)
    print(f"abs rel of a free grid: {before:.3f} -> {after:.3f}")
    assert before > 0.5 and after < 0.2


FORWARD = torch.tensor([[0.0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 1.5], [0, 0, 0, 1]])  # a camera 1.5 m above the road


def test_objects_stand_where_the_ray_through_their_lowest_pixel_meets_the_road():
    """15 px below the horizon with a focal length of 100 px: 0.15 m down a metre, so that 1.5 m down are 10 m away."""
    K = torch.tensor([[100.0, 0, 31.5], [0, 100, 49.5], [0, 0, 1]])[None, None]
    movable = torch.zeros(1, 1, 100, 64, dtype=torch.bool)
    movable[0, 0, 30:65, 10] = True  # stands at the lower border of row 64
    movable[0, 0, 20:40, 20] = True  # hangs above the horizon
    movable[0, 0, 60:, 30] = True  # reaches below the image
    depth = contact.contact_depth(movable, K, FORWARD[None, None])[0, 0]
    torch.testing.assert_close(depth[30:65, 10], torch.full((35,), 10.0))
    assert torch.isfinite(depth).sum() == 35


def test_objects_on_top_of_each_other_stand_where_each_ends():
    K = torch.tensor([[100.0, 0, 31.5], [0, 100, 49.5], [0, 0, 1]])[None, None]
    movable = torch.zeros(1, 1, 100, 64, dtype=torch.bool)
    movable[0, 0, 50:55, 10] = movable[0, 0, 60:80, 10] = True
    depth = contact.contact_depth(movable, K, FORWARD[None, None])[0, 0, :, 10]
    torch.testing.assert_close(depth[50], torch.tensor(30.0))
    torch.testing.assert_close(depth[60], torch.tensor(5.0))


# Queries


def test_queries_are_the_cross_entropy_against_the_share_of_votes():
    sdf = torch.tensor([0.1, -0.1, 0.0, 3.0]).view(1, 1, 4, 1, 1)  # probabilities 0.269, 0.731, 0.5 and about 0
    votes = torch.tensor([[3.0, 0.0, 0.25, 0.0], [1.0, 2.0, 0.25, 0.0]]).view(1, 2, 4, 1, 1)
    found = queries.query_cross_entropy(sdf, votes, 0.1)
    p = 1 / (1 + math.e)
    terms = [0.25 * -math.log(p) + 0.75 * -math.log(1 - p), -math.log(1 - p), math.log(2)]
    assert found.item() == pytest.approx((terms[0] + terms[1] + 0.5 * terms[2]) / 2.5)


def test_what_could_move_counts_more():
    """Two voxels of error ln 2 and ln 4, of which the second is shown on an object."""
    sdf, votes = torch.zeros(1, 1, 2, 1, 1), torch.tensor([[1.0, 1.0], [0.0, 0.0]]).view(1, 2, 2, 1, 1)
    sdf[0, 0, 1] = -0.1 * math.log(3)  # probability 3/4, error ln 4
    shown = torch.tensor([False, True]).view(1, 2, 1, 1)
    found = queries.query_cross_entropy(sdf, votes, 0.1, shown).item()
    assert found == pytest.approx((math.log(2) + queries.MOVABLE * math.log(4)) / (1 + queries.MOVABLE))


def test_what_nobody_voted_on_is_not_taught():
    sdf = torch.zeros(2, 1, 2, 1, 1, requires_grad=True)
    votes = torch.zeros(2, 2, 2, 1, 1)
    votes[0, :, 0] = 1
    votes[0, 1, 0] = 3
    queries.query_cross_entropy(sdf, votes, 0.1).backward()
    assert sdf.grad[0, 0, 0].item() > 0  # more matter: the SDF has to fall
    assert sdf.grad.count_nonzero() == 1


def test_least_cross_entropy_says_what_share_of_the_votes_is_for_matter():
    sdf = torch.zeros(1, 1, 1, 1, 1, requires_grad=True)
    votes = torch.tensor([7.0, 3.0]).view(1, 2, 1, 1, 1)
    optimizer = torch.optim.SGD([sdf], 0.05)
    for _ in range(300):
        optimizer.zero_grad()
        queries.query_cross_entropy(sdf, votes, 0.1).backward()
        optimizer.step()
    assert torch.sigmoid(-sdf / 0.1).item() == pytest.approx(0.3, abs=1e-3)


def test_queries_want_votes(street):
    clip, _ = street
    alone = config(photometric=0, eikonal=0, hessian=0, sparsity=0, behind=0, start=0, queries=1.0)
    scene = Scene(torch.zeros(1, 1, *GRID.shape))
    with pytest.raises(ConfigError, match=r"data\.votes"):
        stage_losses(GridScene(scene, GRID), clip, alone, 0.5)
    votes = torch.ones(1, 2, *GRID.shape)
    voted = dataclasses.replace(clip, current=dataclasses.replace(clip.current, votes=votes))
    losses = stage_losses(GridScene(scene, GRID), voted, alone, 0.5)
    assert set(losses) == {"queries", "total"} and losses["queries"].item() == pytest.approx(math.log(2))


def test_queries_count_the_voxels_that_are_shown_on_what_could_move(street):
    """Matter ahead, votes for free space everywhere: it counts more where the camera that looks ahead shows the mask."""
    clip, _ = street
    alone = config(photometric=0, eikonal=0, hessian=0, sparsity=0, behind=0, start=0, queries=1.0)
    ahead = GRID.centres()[..., 0] > GRID.centres()[..., 0].mean()
    scene = GridScene(Scene(torch.where(ahead, -0.3, 0.3)[None, None]), GRID, occupancy_scale=0.1)
    votes = torch.stack([torch.ones(GRID.shape), torch.zeros(GRID.shape)])[None]
    movable = torch.zeros(clip.current.images[:, :, 0].shape, dtype=torch.bool)
    movable[:, 0] = True  # all that the first camera sees
    now = dataclasses.replace(clip.current, votes=votes, movable=movable)
    shown = on_objects(now, GRID)[0]
    error = torch.where(ahead, math.log(1 + math.exp(3)), math.log(1 + math.exp(-3)))
    weight = torch.where(shown, queries.MOVABLE, 1.0)
    assert 0 < shown.sum() < shown.numel()
    found = stage_losses(scene, dataclasses.replace(clip, current=now), alone, 0.5)["queries"].item()
    assert found == pytest.approx(((error * weight).sum() / weight.sum()).item(), rel=1e-4)
    assert found != pytest.approx(error.mean().item(), rel=1e-2)


# Rays of other instants


def instants_clip() -> Clip:
    """A current frame, and one 1.6 m further on with sources around it, on one street (three cameras of 64 x 96)."""
    rig = Rig(headings=(0, 75, -75), height=64, width=96)
    street = AnalyticStreet.random(1)
    frames = [stack([street.frame(rig, 0.8 * i, round(1e8 * i))[0]]) for i in range(5)]
    return Clip(frames[0], (), (frames[1], frames[3]), rendered=frames[2])


def test_a_frame_in_the_axes_of_another_sees_the_same_points():
    clip = instants_clip()
    moved = reprojection.in_axes_of(clip.rendered, clip.current)
    assert torch.allclose(moved.T_ego_cam[0, :, 0, 3], clip.rendered.T_ego_cam[0, :, 0, 3] + 1.6)
    world = clip.rendered.T_world_ego @ clip.rendered.T_ego_cam[:, 0].double()
    assert torch.allclose(moved.T_world_ego @ moved.T_ego_cam[:, 0].double(), world, atol=1e-6)


def test_true_geometry_explains_the_images_of_another_instant():
    clip, true = instants_clip(), AnalyticStreet.random(1).distance(GRID)
    cost = {
        name: stage_losses(GridScene(Scene(sdf), GRID), clip, config(beta_end=0.1), 1.0)["photometric"].item()
        for name, sdf in (("true", true), ("turned", true.flip(2)), ("empty", torch.full_like(true, 2.0)))
    }
    assert cost["true"] < 0.8 * min(cost["turned"], cost["empty"]), cost


def test_other_instants_teach_by_photometry_alone_and_not_what_moves_then():
    clip, scene = instants_clip(), Scene(AnalyticStreet.random(1).distance(GRID) - 0.5)
    found = stage_losses(GridScene(scene, GRID), clip, config(), 0.5)
    assert found["start"].item() == found["behind"].item() == found["sparsity"].item() == 0
    assert found["photometric"].item() > 0
    own = dataclasses.replace(clip, rendered=clip.current)
    assert stage_losses(GridScene(scene, GRID), own, config(), 0.5)["behind"].item() > 0
    moving = torch.ones(clip.rendered.images[:, :, 0].shape, dtype=torch.bool)
    masked = dataclasses.replace(clip, rendered=dataclasses.replace(clip.rendered, movable=moving))
    assert stage_losses(GridScene(scene, GRID), masked, config(), 0.5)["photometric"].item() == 0


def test_rays_of_another_instant_that_end_in_what_may_move_now_are_found():
    clip = instants_clip()
    there = reprojection.as_rendered(clip).current
    rays = pixel_rays(there, GRID, 8)
    seen = render(Scene(AnalyticStreet.random(1).distance(GRID)), GRID, rays, 64, 0.05)
    movable = torch.zeros(clip.current.images[:, :, 0].shape, dtype=torch.bool)
    movable[:, 0] = True  # whatever the front camera shows now
    masked = dataclasses.replace(clip, current=dataclasses.replace(clip.current, movable=movable))
    left_out = may_move(seen, masked, there, GRID)
    ends = rays.at(seen.depth[..., None])[..., 0, :]
    T = torch.linalg.inv(clip.current.T_ego_cam[0, 0])
    pixels, depth = camera.project(ends[0].flatten(0, -2) @ T[:3, :3].T + T[:3, 3], clip.current.K[0, 0])
    shown = camera.in_image(pixels, depth, 64, 96).view(left_out[0].shape) & (seen.opacity[0] > 0.9)
    assert left_out[0][shown].float().mean() > 0.9
    outside = ~camera.in_image(pixels, depth, 64 + 16, 96 + 16).view(left_out[0].shape)
    assert left_out[0][outside].float().mean() < 0.1


def test_a_batch_of_own_and_other_instants_is_the_mean_of_both():
    other = instants_clip()
    own = dataclasses.replace(other, rendered=other.current, sources=(other.sources[0], other.rendered))
    single = [
        dataclasses.replace(c, **{n: (f if (f := getattr(c, n)) is None else type(f)(**{
            k: None if v is None else v[0] for k, v in vars(f).items()})) for n in ("current", "rendered")},
            sources=tuple(type(f)(**{k: None if v is None else v[0] for k, v in vars(f).items()}) for f in c.sources))
        for c in (other, own)
    ]  # fmt: skip
    sdf = torch.randn(2, 1, *GRID.shape, generator=torch.Generator().manual_seed(3)) * 0.2
    together = stage_losses(GridScene(Scene(sdf), GRID), collate(single), config(), 0.5)
    alone = [stage_losses(GridScene(Scene(sdf[i : i + 1]), GRID), c, config(), 0.5) for i, c in enumerate((other, own))]
    for name, value in together.items():
        assert value.item() == pytest.approx(sum(a[name].item() for a in alone) / 2, rel=1e-4), name
