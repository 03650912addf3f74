"""Flow cues and the terms that learn motion from them, by hand-worked values and on a wall that moves."""

import dataclasses
import math

import cv2
import numpy as np
import pytest
import torch
from model_cases import line_through
from torch import Tensor
from torch.autograd import gradcheck

from letocc_core.cues import flow as cues
from letocc_core.errors import ConfigError
from letocc_core.frame import Clip, FlowCue, Frame, collate
from letocc_core.geometry.grid import GridSpec
from letocc_core.losses import edge, optical_flow
from letocc_core.losses.objective import GridScene, MotionConfig, StaticStageConfig, stage_losses
from letocc_core.rendering.draws import Draws
from letocc_core.rendering.rays import Rays, camera_rays, object_rays, rays_through
from letocc_core.rendering.render import render

FOCAL, HEIGHT, WIDTH = 40.0, 24, 32
K = torch.tensor([[FOCAL, 0, 15.5], [0, FOCAL, 11.5], [0, 0, 1]])
FORWARD = torch.tensor([[0.0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 1.0], [0, 0, 0, 1]])  # 1 m above base_link
GRID = GridSpec((0.0, -8.0, -2.4), (16.0, 8.0, 4.0), 0.8)
DISTANCE, SPEED, SECONDS = 8.0, 2.0, 0.1  # m ahead, m/s to the left, s to the cue
SHIFT = -SPEED * SECONDS * FOCAL / DISTANCE  # px: -1, as leftward is towards smaller u


def frame(T_ego_cam: Tensor = FORWARD, movable: bool = True) -> Frame:
    """One camera that sees nothing in particular."""
    return Frame(
        torch.tensor([0]),
        torch.rand(1, 1, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(0)),
        torch.ones(1, 1, dtype=torch.bool),
        K[None, None],
        T_ego_cam[None, None],
        torch.eye(4, dtype=torch.float64)[None],
        movable=torch.full((1, 1, HEIGHT, WIDTH), movable),
    )


def cue(
    flow: tuple[float, float] = (SHIFT, 0.0), seconds: float = SECONDS, T_world_ego: Tensor | None = None
) -> FlowCue:
    """The same flow everywhere, to an instant `seconds` away, of a vehicle that has moved to `T_world_ego`."""
    now = frame()
    T = now.T_world_ego if T_world_ego is None else T_world_ego[None].double()
    field = torch.tensor(flow).view(1, 1, 2, 1, 1).expand(1, 1, 2, HEIGHT, WIDTH)
    known = torch.ones(1, 1, HEIGHT, WIDTH, dtype=torch.bool)
    return FlowCue(torch.tensor([round(seconds * 1e9)]), now.K, now.T_ego_cam, T, field, known)


CENTRE = torch.tensor([15.5, 11.5]).view(1, 1, 1, 2)  # the pixel of what lies straight ahead


def at(*points: tuple[float, float, float]) -> tuple[Rays, Tensor]:
    """A ray [1, 1, 1] of the middle pixel through points (ego axes), and their t [1, 1, 1, s] on it."""
    return line_through(torch.tensor(points, dtype=torch.float32).view(1, 1, 1, -1, 3), CENTRE)


def ones(n: int) -> Tensor:
    return torch.full((1, 1, 1, n), 1.0 / n)


def test_flow_of_a_point_that_moves_sideways():
    moving = torch.tensor([0.0, SPEED]).view(1, 1, 1, 1, 2)
    out = optical_flow.rendered_flow(*at((8, 0, 1)), ones(1), frame(), cue(), moving)
    torch.testing.assert_close(out, torch.tensor([SHIFT, 0]).view(1, 1, 1, 2))


def test_flow_of_a_still_point_seen_from_a_moving_vehicle():
    """The vehicle moves 0.4 m to the left: what is 8 m ahead moves 2 px to the right."""
    T = torch.eye(4)
    T[1, 3] = 0.4
    out = optical_flow.rendered_flow(*at((8, 0, 1)), ones(1), frame(), cue(T_world_ego=T))
    torch.testing.assert_close(out, torch.tensor([2.0, 0]).view(1, 1, 1, 2))


def test_flow_is_the_mean_over_the_samples_in_front_of_the_other_camera():
    """Samples 4 and 8 m ahead, both 1 m to the left (u = -10 and -5 px); one lies behind the camera and has no say."""
    samples = at((4, 1, 1), (8, 1, 1), (-3, 1, 1))
    out = optical_flow.rendered_flow(*samples, ones(3), frame(), cue())
    torch.testing.assert_close(out, torch.tensor([-7.5, 0]).view(1, 1, 1, 2))


def test_twice_the_time_is_twice_the_flow_of_the_same_velocity():
    moving = torch.tensor([0.0, SPEED]).view(1, 1, 1, 1, 2)
    once, twice = (
        optical_flow.rendered_flow(*at((8, 0, 1)), ones(1), frame(), cue(seconds=s), moving) for s in (0.1, 0.2)
    )
    torch.testing.assert_close(twice, 2 * once)


def test_a_turned_world_shows_the_same_flow():
    """Points, camera, poses and velocities turned about the vertical axis by 0.7 rad."""
    c, s = math.cos(0.7), math.sin(0.7)
    R = torch.eye(4)
    R[:2, :2] = torch.tensor([[c, -s], [s, c]])
    drive = torch.eye(4)
    drive[:3, 3] = torch.tensor([0.5, 0.1, 0.0])
    (rays, t), velocity = at((8, 0.5, 1.2), (6, -0.5, 0.4)), torch.tensor([[3.0, 1], [-1, 2]]).view(1, 1, 1, 2, 2)
    plain = optical_flow.rendered_flow(rays, t, ones(2), frame(), cue(T_world_ego=drive), velocity)
    there = cue(T_world_ego=R @ drive @ R.T)
    there = dataclasses.replace(there, T_ego_cam=(R @ FORWARD)[None, None])
    turned = optical_flow.rendered_flow(
        *line_through(rays.at(t) @ R[:3, :3].T, CENTRE), ones(2), frame(R @ FORWARD), there, velocity @ R[:2, :2].T
    )
    torch.testing.assert_close(turned, plain, rtol=1e-4, atol=1e-4)


def test_gradients_of_rendered_flow():
    """By finite differences, to the velocities and to the weights."""
    now, other = (dataclasses.replace(x, K=x.K.double(), T_ego_cam=x.T_ego_cam.double()) for x in (frame(), cue()))
    rays, t = line_through(torch.tensor([[4, 1, 1], [8, 0.5, 1.5]]).view(1, 1, 1, 2, 3).double(), CENTRE.double())
    weights = torch.tensor([0.3, 0.6], dtype=torch.float64).view(1, 1, 1, 2).requires_grad_()
    velocity = torch.rand(1, 1, 1, 2, 2, dtype=torch.float64).requires_grad_()
    assert gradcheck(lambda w, v: optical_flow.rendered_flow(rays, t, w, now, other, v), (weights, velocity))


def test_rays_that_a_static_world_does_not_explain_move():
    seen, still = torch.tensor([[[3.0, 4], [0.5, 0], [9, 9]]]), torch.tensor([[[0.0, 0], [0, 0], [9, 7]]])
    car = torch.tensor([[True, True, False]])
    assert optical_flow.dynamic_rays(seen, still, car, 1.0).tolist() == [[True, False, False]]
    assert optical_flow.dynamic_rays(seen, still, ~car, 1.0).tolist() == [[False, False, True]]


def test_an_error_of_depth_does_not_make_a_ray_move():
    """The vehicle goes 1 m to the left: a point 8 m ahead moves by 5 px to the right, at 10 m by 4 px."""
    to_the_left = torch.eye(4, dtype=torch.float64)
    to_the_left[1, 3] = 1.0
    other = cue(T_world_ego=to_the_left)
    rays, t = rays_through(CENTRE, frame().K, frame().T_ego_cam, GRID), torch.full((1, 1, 1, 1), 10.0)
    static = optical_flow.rendered_flow(rays, t, ones(1), frame(), other)
    torch.testing.assert_close(static.flatten(), torch.tensor([4.0, 0.0]), atol=1e-4, rtol=0)

    def nearest(target: list[float], tolerance: float) -> Tensor:
        target = torch.tensor(target).expand_as(static)
        return optical_flow.nearest_static(target, static, rays, t, ones(1), frame(), other, tolerance).flatten()

    close = {"atol": 1e-3, "rtol": 0}
    torch.testing.assert_close(nearest([5.0, 0.5], 1.5), torch.tensor([5.0, 0.0]), **close)  # as if 8 m away
    torch.testing.assert_close(nearest([9.0, 0.0], 1.6), torch.tensor([6.4, 0.0]), **close)  # 6.25 m is the nearest
    torch.testing.assert_close(nearest([1.0, 0.0], 1.6), torch.tensor([2.5, 0.0]), **close)  # and 16 m the farthest
    torch.testing.assert_close(nearest([5.0, 0.5], 1.0), static.flatten(), **close)


def test_flow_of_a_metre_a_second():
    """Across, 8 m ahead, 0.1 s later: 40 / 8 * 0.1 px to the left; along the line of sight of the middle: none.

    What has come to half the distance by then, at 40 m/s, shows twice as much.
    """
    for ahead, expected in ((0.0, -0.5), (-40.0, -1.0)):
        velocity = torch.tensor([ahead, 3.0]).expand(1, 1, 1, 1, 2)
        flow, slope = optical_flow.flow_slope(*at((8.0, 0.0, 1.0)), ones(1), frame(), cue(), velocity)
        torch.testing.assert_close(flow.flatten(), torch.tensor([3 * expected, 0.0]), atol=1e-3, rtol=0)
        torch.testing.assert_close(slope.view(2, 2)[:, 1], torch.tensor([expected, 0]), atol=1e-3, rtol=0)


def test_half_of_the_rays_are_on_movable_objects():
    current = frame()
    current.movable[:] = False
    current.movable[0, 0, 3, 4:7] = True
    draws = Draws(0, torch.arange(1))
    rays = object_rays(current, GRID, 300, draws)
    assert rays.pixels.shape == (1, 1, 300, 2)
    assert sorted(map(tuple, rays.pixels[0, 0, :3].tolist())) == [(4, 3), (5, 3), (6, 3)]
    anywhere = set(map(tuple, rays.pixels[0, 0, 150:].tolist()))
    assert len(anywhere) == 150 and {u > WIDTH / 2 for u, _ in anywhere} == {True, False}
    without = object_rays(dataclasses.replace(current, movable=None), GRID, 8, draws).pixels[0, 0]
    assert len(set(map(tuple, without.tolist()))) > 4


def test_without_masks_the_neighbours_decide_too():
    """A lone ray is a speck, one hole in an object is closed; a corner of the image counts what is inside."""
    moves = torch.zeros(1, 6, 7)
    moves[0, 0, 6] = 5.0  # a speck
    moves[0, 2:, :4] = 5.0
    moves[0, 4, 1] = 0.0  # a hole
    found = optical_flow.dynamic_rays(moves[..., None].expand(-1, -1, -1, 2), torch.zeros(1, 6, 7, 2), None, 1.0)
    expected = torch.zeros(1, 6, 7, dtype=torch.bool)
    expected[0, 2:, :4] = True
    expected[0, 2, 3] = False  # the object's corner: four of nine
    assert torch.equal(found, expected)


@pytest.mark.parametrize(("count", "dynamic", "scale"), [(100, 50, 2), (100, 1, 20), (100, 0, 20), (30, 30, 1)])
def test_rays_that_move_count_as_much_as_the_others(count: int, dynamic: int, scale: float):
    assert optical_flow.dynamic_scale(torch.tensor([count]), torch.tensor([dynamic])).tolist() == [scale]


def test_errors_beyond_a_hundred_medians_are_left_out():
    flow = torch.tensor([[[0.1, 0.1], [0.1, 0.2], [0.2, 0.2], [40, 0]], [[20, 20]] * 4])
    every = torch.ones(2, 4, dtype=torch.bool)
    error, counted = optical_flow.flow_error(flow, torch.zeros(2, 4, 2), every)
    torch.testing.assert_close(error, torch.tensor([[0.2, 0.3, 0.4, 40], [40] * 4]))
    assert counted.tolist() == [[True, True, True, False], [True] * 4]  # medians of the clips: 0.3 and 40
    assert not optical_flow.flow_error(flow, flow, ~every)[1].any()


def test_the_cue_is_read_at_the_nearest_pixel():
    numbered = torch.arange(HEIGHT * WIDTH).view(1, 1, 1, HEIGHT, WIDTH).expand(-1, -1, 2, -1, -1).float()
    holes = torch.ones(1, 1, HEIGHT, WIDTH, dtype=torch.bool)
    holes[..., 3, 5] = False
    pixels = torch.tensor([[4.6, 3.4], [5.6, 2.6], [31.4, 23.4]]).view(1, 1, 3, 2)
    flow, known = optical_flow.cue_at(dataclasses.replace(cue(), flow=numbered, valid=holes), pixels)
    assert flow[0, 0, :, 0].tolist() == [3 * WIDTH + 5, 3 * WIDTH + 6, HEIGHT * WIDTH - 1]
    assert known[0, 0].tolist() == [False, True, True]


# A wall 8 m ahead that moves to the left


@dataclasses.dataclass(frozen=True)
class Scene:
    sdf: Tensor
    flow: Tensor
    semantics: Tensor | None = None


def wall() -> Scene:
    sdf = (DISTANCE - GRID.centres()[..., 0])[None, None].clone().requires_grad_()
    return Scene(sdf, torch.zeros(1, 2, *GRID.shape, requires_grad=True))


OBJECTIVE = StaticStageConfig(
    rows=6, columns=8, samples=32, beta_start=0.1, beta_end=0.1,
    photometric=0, eikonal=0, hessian=0, sparsity=0, behind=0, start=0,
)  # fmt: skip


def learn(clip: Clip, config: MotionConfig) -> dict[str, Tensor]:
    return stage_losses(GridScene(wall(), GRID), clip, OBJECTIVE, 1.0, motion=config)


def gradients(clip: Clip, config: MotionConfig) -> tuple[float, float]:
    """Largest gradient of the sum of the terms to the geometry and to the motion."""
    scene = wall()
    stage_losses(GridScene(scene, GRID), clip, OBJECTIVE, 1.0, motion=config)["total"].backward()
    return tuple(0.0 if x.grad is None else float(x.grad.abs().max()) for x in (scene.sdf, scene.flow))


def test_what_moves_teaches_motion_alone():
    clip = Clip(frame(), (), (frame(),), (cue((6 * SHIFT, 0.0)),))
    geometry, motion = gradients(clip, MotionConfig())
    assert geometry == 0 and motion > 0
    geometry, motion = gradients(clip, MotionConfig(disentangle=False))
    assert geometry > 0 and motion > 0


def test_what_does_not_move_teaches_geometry_and_is_held_still():
    """The vehicle drives; the cue is what a wall 0.5 m further away would show, and nothing is movable."""
    T = torch.eye(4)
    T[1, 3] = 0.4
    further = cue((0.4 * FOCAL / (DISTANCE + 0.5), 0.0), T_world_ego=T)
    clip = Clip(frame(movable=False), (), (frame(),), (further,))
    geometry, motion = gradients(clip, MotionConfig())
    assert geometry > 0 and motion == 0
    earlier = dataclasses.replace(further, stamp=-further.stamp)
    clip = dataclasses.replace(clip, cues=(earlier,))
    assert learn(clip, MotionConfig())["static_flow"] > 0
    assert learn(clip, MotionConfig(static_cues="forward"))["static_flow"] == 0
    assert learn(clip, MotionConfig(static_cues="none"))["static_flow"] == 0


@pytest.mark.parametrize("seconds", [SECONDS, -SECONDS, 2 * SECONDS])
def test_a_free_grid_learns_how_the_wall_moves(seconds: float):
    """From flow to the future, to the past, and over twice the time: the same velocity."""
    moved = cue((SHIFT * seconds / SECONDS, 0.0), seconds)
    clip = Clip(frame(), (), (frame(),), (moved,))
    scene = wall()
    optimizer = torch.optim.Adam([scene.flow], lr=0.2)
    for _ in range(40):
        optimizer.zero_grad()
        stage_losses(GridScene(scene, GRID), clip, OBJECTIVE, 1.0, motion=MotionConfig(threshold=0.5))[
            "total"
        ].backward()
        optimizer.step()
    rays = camera_rays(clip.current, GRID, 6, 8)
    velocity = render(scene, GRID, rays, 32, 0.1, motion=True).flow
    torch.testing.assert_close(velocity[..., 1].mean(), torch.tensor(SPEED), atol=0.25, rtol=0)
    assert velocity[..., 0].mean().abs() < 0.4  # along the line of sight, which flow says little about


def test_motion_is_smooth_where_the_image_is():
    """A step of (2, -1) m/s in the middle of four columns: once in a plain image, once at an edge of it, once unknown."""
    flow = torch.zeros(3, 2, 4, 2)
    flow[:, :, 2:] = torch.tensor([2.0, -1.0])
    image, valid = torch.zeros(3, 2, 4, 3), torch.ones(3, 2, 4, dtype=torch.bool)
    image[1, :, 2:] = 1.0
    valid[2, :, 2:] = False
    found = [float(edge.steps(flow[i : i + 1], image[i : i + 1], valid[i : i + 1])) for i in range(3)]
    assert found == pytest.approx([1.0, math.exp(-1.0), 0.0])  # of three steps along x, one
    gradcheck(lambda f: edge.steps(f, image.double(), valid), flow.double().requires_grad_())


def test_a_stage_smooths_motion():
    clip = Clip(frame(), (), (frame(),), (cue(),))
    scene = wall()
    uneven = dataclasses.replace(scene, flow=torch.zeros_like(scene.flow) + (GRID.centres()[..., 1] > 0))
    plain = MotionConfig(flow_edge=0.01)
    assert stage_losses(GridScene(uneven, GRID), clip, OBJECTIVE, 1.0, motion=plain)["flow_edge"] > 0
    assert stage_losses(GridScene(scene, GRID), clip, OBJECTIVE, 1.0, motion=plain)["flow_edge"] == 0
    grounded = MotionConfig(cue="grounded", flow_edge=0.01)  # whose own terms want no rays
    moving = dataclasses.replace(clip, cues=(cue(),))
    assert stage_losses(GridScene(uneven, GRID), moving, OBJECTIVE, 1.0, motion=grounded)["flow_edge"] > 0
    with pytest.raises(ConfigError, match=r"flow_edge needs the lattice"):
        MotionConfig(flow_edge=0.01, rays=100)


def test_a_motion_stage_without_cues_is_refused():
    with pytest.raises(ConfigError, match="needs flow cues"):
        learn(Clip(frame(), (), (frame(),)), MotionConfig())


# The cues themselves


def test_consistent_flow_comes_back():
    forward, backward = np.zeros((8, 10, 2), np.float32), np.zeros((8, 10, 2), np.float32)
    forward[..., 0], backward[..., 0] = 2.0, -2.0
    backward[:, 5, 0] = -3.0  # seen from column 3, this pixel comes back to column 2
    good = cues.consistent(forward, backward, 0.5)
    assert good[0].tolist() == [True, True, True, False, True, True, True, True, False, False]  # the last two leave


def test_flow_survives_its_encoding():
    flow = np.zeros((1, 224, 2))
    flow[0, :4] = [[1.5, -2.25], [0.1, 0.2], [np.nan, 1.0], [15, 15]]
    decoded, valid = cues.decode(cues.encode(flow))
    assert valid[0, :4].tolist() == [True, True, False, False]  # the last one is longer than 20 px of 224
    np.testing.assert_allclose(decoded[0, :2], flow[0, :2], atol=0.5 / cues.STEPS)
    assert (decoded[0, 2:] == 0).all()


def test_dis_finds_a_shift():
    rng = np.random.default_rng(0)
    large = cv2.GaussianBlur(rng.uniform(0, 255, (80, 120, 3)), (0, 0), 2)
    large = ((large - large.min()) / np.ptp(large) * 255).astype(np.uint8)
    image, other = large[10:74, 10:106], large[8:72, 7:103]  # what was at (u, v) is at (u + 3, v + 2)
    flow, valid = cues.decode(cues.trusted_flow(cues.Dis(), image[None], other[None])[0])
    assert valid[0, 10:-10, 10:-10].mean() > 0.95
    inner = flow[0, 10:-10, 10:-10][valid[0, 10:-10, 10:-10]]
    assert np.abs(np.median(inner, axis=0) - (3, 2)).max() < 0.1


def test_cues_are_batched_with_their_clips():
    one = Clip(frame(), (), (frame(),), (cue(), cue(seconds=-SECONDS)))
    single = dataclasses.replace(
        one,
        current=dataclasses.replace(one.current, **{f.name: v[0] for f in dataclasses.fields(Frame) if (v := getattr(one.current, f.name)) is not None}),
        sources=(),
        cues=tuple(FlowCue(**{f.name: getattr(c, f.name)[0] for f in dataclasses.fields(FlowCue)}) for c in one.cues),
    )  # fmt: skip
    both = collate([single, single])
    assert len(both.cues) == 2 and both.cues[0].flow.shape == (2, 1, 2, HEIGHT, WIDTH)
    assert both.cues[1].stamp.tolist() == [-100_000_000] * 2
    assert both.to("cpu").cues[0].valid.all()
