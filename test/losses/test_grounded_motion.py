"""Motion of objects that stand on the ground, from the exact flow of a moving plate, and from flow that is wrong."""

import dataclasses
import math
from unittest.mock import patch

import pytest
import torch
from torch import Tensor

from letocc_core.errors import ConfigError
from letocc_core.frame import Clip, FlowCue, Frame
from letocc_core.geometry import camera, se3
from letocc_core.geometry.grid import GridSpec
from letocc_core.losses import grounded_motion as grounded
from letocc_core.losses.grounded_motion import (
    GroundedMotion,
    grounded_losses,
    grounded_motion,
    motion_targets,
    on_objects,
)
from letocc_core.losses.objective import GridScene, MotionConfig, StaticStageConfig, stage_losses

FOCAL, HEIGHT, WIDTH, UP = 100.0, 80, 120, 1.5
K = torch.tensor([[FOCAL, 0, 59.5], [0, FOCAL, 39.5], [0, 0, 1]])
FORWARD = torch.tensor([[0.0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, UP], [0, 0, 0, 1]])
GRID = GridSpec((-16.0, -16.0, -0.8), (16.0, 16.0, 4.0), 0.8)
AHEAD = 7.5  # m, the plate: its lower end 20 px below the horizon
TOP, BOTTOM, LEFT, RIGHT = 45, 59, 48, 72  # rows and columns of the plate, the horizon between rows 39 and 40
PLATE = (slice(TOP, BOTTOM + 1), slice(LEFT, RIGHT))


def masked(*parts: tuple[slice, slice]) -> Tensor:
    mask = torch.zeros(1, 1, HEIGHT, WIDTH, dtype=torch.bool)
    for rows, columns in parts:
        mask[0, 0, rows, columns] = True
    return mask


def frame(T_ego_cam: Tensor = FORWARD, movable: Tensor | None = None) -> Frame:
    return Frame(
        torch.tensor([0]),
        torch.zeros(1, 1, 3, HEIGHT, WIDTH),
        torch.ones(1, 1, dtype=torch.bool),
        K[None, None],
        T_ego_cam[None, None],
        torch.eye(4, dtype=torch.float64)[None],
        movable=masked(PLATE) if movable is None else movable,
    )


def flow_of(now: Frame, depth: float, velocity: tuple[float, float], seconds: float, drive: Tensor) -> FlowCue:
    """Of a world that is everywhere `depth` (m) ahead and moves (m/s), seen from a vehicle that has driven to `drive`."""
    v, u = torch.meshgrid(torch.arange(HEIGHT), torch.arange(WIDTH), indexing="ij")
    pixels = torch.stack([u, v], dim=-1).float().view(-1, 2)
    T = now.T_ego_cam[0, 0]
    points = depth * camera.ray_directions(pixels, K) @ T[:3, :3].T + T[:3, 3]
    points = points + seconds * torch.tensor([*velocity, 0.0])
    there, _ = camera.project(se3.transform(se3.inverse(drive @ T), points), K)
    flow = (there - pixels).T.view(1, 1, 2, HEIGHT, WIDTH)
    known = torch.ones(1, 1, HEIGHT, WIDTH, dtype=torch.bool)
    return FlowCue(torch.tensor([round(seconds * 1e9)]), now.K, now.T_ego_cam, drive[None].double(), flow, known)


def moved(x: float, y: float = 0.0) -> Tensor:
    T = torch.eye(4)
    T[:2, 3] = torch.tensor([x, y])
    return T


def settings(**changes: float):
    """Other values of the module's constants, by their names in lower case."""
    return patch.multiple("letocc_core.losses.grounded_motion", **{k.upper(): v for k, v in changes.items()})


def told(
    velocity: tuple[float, float], seconds: float = 0.1, drive: Tensor | None = None, depth: float = AHEAD, **changes
) -> GroundedMotion:
    """What is said of the plate, by cues to the future and to the past."""
    now, drive = frame(), moved(0.0) if drive is None else drive
    cues = [
        flow_of(now, depth, velocity, seconds, drive),
        flow_of(now, depth, velocity, -seconds, se3.inverse(drive)),
    ]
    with settings(**{"prior": 1e-3, "stride": 1} | changes):
        return grounded_motion(now, cues, GRID)


def image(found: GroundedMotion, values: Tensor) -> Tensor:
    """Values [1, 1, p, ...] at their pixels of an image, 0 elsewhere."""
    out = values.new_zeros(1, 1, HEIGHT, WIDTH, *values.shape[3:])
    known = found.moves | found.still
    u, v = found.pixels[known].long().unbind(-1)
    out[0, 0, v, u] = values[known]
    return out


def upper(mask: Tensor) -> Tensor:
    """Without what is less than 0.6 m above the ground: at 7.5 m, 12 px below the horizon and further down."""
    return mask & (torch.arange(HEIGHT) < 52)[:, None]


@pytest.mark.parametrize("velocity", [(0.0, 3.0), (5.0, 0.0), (-4.0, 2.0)])
@pytest.mark.parametrize("drive", [moved(0.0), moved(0.5, 0.1)])
def test_flow_of_a_plate_tells_its_velocity(velocity: tuple[float, float], drive: Tensor):
    """Across and along the line of sight, from a vehicle that stands or drives. Measured at rest: 3 % for 0.5 m."""
    found = told(velocity, drive=drive, threshold=0.3)
    assert torch.equal(image(found, found.moves), upper(masked(PLATE))) and not found.still.any()
    ahead = found.points[found.moves][:, 0]
    torch.testing.assert_close(ahead, torch.full_like(ahead, AHEAD))
    torch.testing.assert_close(found.weight.sum(), torch.tensor(2.0))  # of two groups of twelve columns
    expected = torch.tensor(velocity).expand(int(found.moves.sum()), 2)
    torch.testing.assert_close(found.velocity[found.moves], expected, atol=0.2, rtol=0)


def test_the_same_velocity_over_twice_the_time():
    once, twice = (told((2.0, 2.0), seconds, threshold=0.15).velocity for seconds in (0.05, 0.1))
    assert once.norm(dim=-1).max() > 2.5
    torch.testing.assert_close(once, twice, atol=0.15, rtol=0)


def test_in_a_turned_world_the_velocity_is_turned():
    c, s = math.cos(0.7), math.sin(0.7)
    R = torch.eye(4)
    R[:2, :2] = torch.tensor([[c, -s], [s, c]])
    velocity = torch.tensor([3.0, 2.0])
    plain = told(tuple(velocity.tolist()), drive=moved(0.4)).velocity
    now = frame(R @ FORWARD)
    turned_velocity = tuple((R[:2, :2] @ velocity).tolist())
    cues = [
        flow_of(now, AHEAD, turned_velocity, seconds, R @ moved(drive) @ R.T)
        for seconds, drive in ((0.1, 0.4), (-0.1, -0.4))
    ]
    with settings(prior=1e-3, stride=1):
        turned = grounded_motion(now, cues, GRID).velocity
    torch.testing.assert_close(turned, plain @ R[:2, :2].T, atol=1e-2, rtol=0)
    assert turned.abs().max() > 2


def test_a_part_of_the_pixels_votes_for_all():
    sparse, full = told((-4.0, 2.0), stride=2), told((-4.0, 2.0))
    assert sparse.pixels[sparse.moves].remainder(2).max() == 0
    assert sparse.moves.sum() == 3 * 12 and full.moves.sum() == 7 * 24  # rows of which 45 is the first, columns
    for found in (sparse, full):
        expected = torch.tensor([-4.0, 2.0]).expand(int(found.moves.sum()), 2)
        torch.testing.assert_close(found.velocity[found.moves], expected, atol=0.2, rtol=0)


def test_what_stands_does_not_move_although_it_is_a_little_nearer_than_it_seems():
    found = told((0.0, 0.0), drive=moved(0.8, 0.2), depth=AHEAD * 1.08)
    assert torch.equal(image(found, found.still), upper(masked(PLATE))) and not found.moves.any()
    strict = told((0.0, 0.0), drive=moved(0.8, 0.2), depth=AHEAD * 1.08, depth_tolerance=1.0, threshold=0.1)
    assert strict.moves.any()


def test_a_third_of_the_flow_may_be_wrong():
    now = frame()
    good = flow_of(now, AHEAD, (0.0, 3.0), 0.1, moved(0.0))
    wrong = torch.rand(HEIGHT, WIDTH, generator=torch.Generator().manual_seed(0)) < 0.33
    flow = torch.where(wrong, torch.tensor([20.0, -5.0]).view(1, 1, 2, 1, 1), good.flow)
    with settings(misfit=20.0):
        found = grounded_motion(now, [dataclasses.replace(good, flow=flow)], GRID)
    across = found.velocity[found.moves][:, 1]
    assert len(across)
    torch.testing.assert_close(across, torch.full_like(across, 3.0), atol=1.0, rtol=0)

    strict = grounded_motion(now, [dataclasses.replace(good, flow=flow)], GRID)
    assert not strict.moves.any()  # so much disagreement teaches nothing


def test_what_is_not_known_teaches_nothing():
    """Objects cut off by the image, groups of few pixels, flow that is not trusted, cameras that are not there."""
    cut, small = (slice(60, HEIGHT), slice(0, 24)), (slice(57, 59), slice(100, 102))
    now = frame(movable=masked(cut, small))
    cue = flow_of(now, AHEAD, (0.0, 3.0), 0.1, moved(0.0))
    found = grounded_motion(now, [cue], GRID)
    assert not (found.moves | found.still).any() and found.velocity.abs().max() == 0
    now = frame()
    for other, blind in (
        (dataclasses.replace(cue, valid=torch.zeros_like(cue.valid)), now),
        (cue, dataclasses.replace(now, camera_valid=torch.zeros_like(now.camera_valid))),
    ):
        found = grounded_motion(blind, [other], GRID)
        assert not (found.moves | found.still).any()


def test_a_motion_that_flow_hardly_shows_teaches_nothing():
    """The plate drives ahead, at 0.5 m/s: too little flow to move, and too few pixels to know that it stands."""
    assert not told((0.5, 0.0), unsure=1e-3).still.any() and told((0.5, 0.0), unsure=10.0).still.any()


def test_of_several_intervals_each_group_is_told_by_the_one_that_tells_it_best(monkeypatch):
    """The plate drives ahead at 5 m/s: 0.05 s show too little, 0.4 s enough, unless their flow is lost in its left half."""
    now = frame()

    def cues(seconds: float) -> list[FlowCue]:
        return [flow_of(now, AHEAD, (5.0, 0.0), s, moved(0.0)) for s in (-seconds, seconds)]

    for name, value in (("PRIOR", 1e-3), ("STRIDE", 1), ("MOVES", 0.3)):
        monkeypatch.setattr(grounded, name, value)
    short, long = cues(0.05), cues(0.4)
    assert not grounded_motion(now, short, GRID).moves.any()
    told_by_both = grounded_motion(now, [*short, *long], GRID)
    assert torch.equal(image(told_by_both, told_by_both.moves), upper(masked(PLATE)))
    assert (told_by_both.velocity - grounded_motion(now, long, GRID).velocity).abs().max() == 0
    seen = torch.arange(WIDTH) >= WIDTH // 2
    long = [dataclasses.replace(cue, valid=cue.valid & seen) for cue in long]
    half = grounded_motion(now, [*short, *long], GRID)
    assert torch.equal(image(half, half.moves), upper(masked(PLATE)) & seen)


@pytest.mark.parametrize("share, teaches", [(0.25, False), (0.75, True)])
def test_a_group_is_believed_if_enough_of_its_flow_is_known(share: float, teaches: bool):
    now = frame()
    cue = flow_of(now, AHEAD, (0.0, 3.0), 0.1, moved(0.0))
    cue = dataclasses.replace(cue, valid=cue.valid & (torch.arange(HEIGHT) % 4 < 4 * share)[:, None])
    with settings(stride=1):
        assert bool(grounded_motion(now, [cue], GRID).moves.any()) == teaches


@pytest.mark.parametrize("slow, stands", [(1.0, True), (0.2, False)])
def test_what_hardly_shows_flow_stands_only_if_its_velocity_says_so_too(slow: float, stands: bool):
    """At 0.5 m/s no pixel's flow is beyond the threshold."""
    found = told((0.5, 0.0), unsure=10.0, slow=slow)
    assert bool(found.still.any()) == stands and not found.moves.any()


def test_cameras_and_clips_do_not_mix(monkeypatch):
    """Two clips of two cameras each, of which one plate moves to the left, one to the right, one not at all."""
    now = frame()
    speeds = ((0.0, 3.0), (0.0, -3.0), (0.0, 0.0), (4.0, 0.0))
    flows = [flow_of(now, AHEAD, speed, 0.1, moved(0.0)) for speed in speeds]

    def four(x: Tensor) -> Tensor:
        return x.expand(2, 2, *x.shape[2:])

    def two(x: Tensor) -> Tensor:
        return x.expand(2, *x.shape[1:])

    frames = Frame(
        two(now.stamp), four(now.images), four(now.camera_valid), four(now.K), four(now.T_ego_cam),
        two(now.T_world_ego), movable=four(now.movable),
    )  # fmt: skip
    flow = torch.cat([f.flow for f in flows]).view(2, 2, 2, HEIGHT, WIDTH)
    cue = FlowCue(two(flows[0].stamp), four(now.K), four(now.T_ego_cam), two(flows[0].T_world_ego), flow,
                  four(flows[0].valid))  # fmt: skip
    monkeypatch.setattr(grounded, "STRIDE", 1)
    monkeypatch.setattr(grounded, "PRIOR", 1e-3)
    monkeypatch.setattr(grounded, "THRESHOLD", 0.3)
    together = grounded_motion(frames, [cue], GRID)
    for i, alone in enumerate(flows):
        found = grounded_motion(now, [alone], GRID)
        for a, b in ((together.velocity, found.velocity), (together.moves, found.moves), (together.still, found.still)):
            torch.testing.assert_close(a.flatten(0, 1)[i], b[0, 0], atol=1e-4, rtol=0)


@dataclasses.dataclass(frozen=True)
class Scene:
    sdf: Tensor
    flow: Tensor
    semantics: Tensor | None = None


OBJECTIVE = StaticStageConfig(
    samples=32, beta_start=0.1, beta_end=0.1, photometric=0, eikonal=0, hessian=0, sparsity=0, behind=0, start=0
)


def at(volume: Tensor, *point: float) -> Tensor:
    (i, j, k), _ = GRID.to_voxel(torch.tensor(point))
    return volume.detach()[0, :, i, j, k]


def test_a_free_grid_learns_the_motion_of_what_stands_although_its_geometry_is_wrong(monkeypatch):
    """The plate is 7.5 m ahead, but the geometry knows only a wall 12 m ahead."""
    sdf = (12.0 - GRID.centres()[..., 0])[None, None].clone().requires_grad_()
    scene = Scene(sdf, torch.zeros(1, 2, *GRID.shape, requires_grad=True))
    now = frame()
    clip = Clip(now, (), (now,), (flow_of(now, AHEAD, (4.0, 2.0), 0.1, moved(0.3)),))
    motion = MotionConfig(cue="grounded", flow=1.0, still=0.2)
    monkeypatch.setattr(grounded, "PRIOR", 1e-3)
    optimizer = torch.optim.Adam([scene.flow], lr=0.2)
    for _ in range(60):
        optimizer.zero_grad()
        found = stage_losses(GridScene(scene, GRID), clip, OBJECTIVE, 1.0, motion=motion)
        found["total"].backward()
        optimizer.step()
    assert scene.sdf.grad is None or scene.sdf.grad.abs().max() == 0
    torch.testing.assert_close(at(scene.flow, AHEAD, 0.0, 0.9), torch.tensor([4.0, 2.0]), atol=0.5, rtol=0)
    assert at(scene.flow, 12.0, 4.0, 2.0).norm() < 0.5


@pytest.mark.parametrize("distance, taught", [(1.5, True), (4.0, False)])
def test_matter_that_an_objects_pixels_show_nearby_learns_its_motion_too(distance: float, taught: bool):
    """A wall behind the plate: its voxels there get a gradient if they are near enough."""
    sdf = (AHEAD + distance - GRID.centres()[..., 0])[None, None]
    flow = torch.zeros(1, 2, *GRID.shape, requires_grad=True)
    now = frame()
    cues = [flow_of(now, AHEAD, (4.0, 2.0), 0.1, moved(0.3))]
    with settings(prior=1e-3):
        grounded_losses(flow, GRID, motion_targets(sdf, GRID, now, cues))["flow"].backward()
    learns = flow.grad.abs().sum(1)[0] > 0
    beyond = GRID.centres()[..., 0] > AHEAD + 1.0
    assert learns[~beyond].any() and learns[beyond].any() == taught
    if taught:
        torch.testing.assert_close(
            GRID.centres()[learns & beyond][:, 0].mean(), torch.tensor(AHEAD + distance), atol=0.8, rtol=0
        )


def test_without_masks_a_grounded_cue_is_refused():
    now = dataclasses.replace(frame(), movable=None)
    clip = Clip(now, (), (now,), (flow_of(now, AHEAD, (0.0, 0.0), 0.1, moved(0.0)),))
    scene = Scene(torch.ones(1, 1, *GRID.shape), torch.zeros(1, 2, *GRID.shape))
    with pytest.raises(ConfigError, match="needs masks of what could move"):
        stage_losses(GridScene(scene, GRID), clip, OBJECTIVE, 1.0, motion=MotionConfig(cue="grounded"))


def test_matter_that_no_camera_shows_on_an_object_stands_still():
    """The mean speed of the wall's voxels that are not behind the plate; of free ones none counts."""
    now = frame()
    sdf, flow = (12.0 - GRID.centres()[..., 0])[None, None], torch.zeros(1, 2, *GRID.shape)
    hidden = on_objects(now, GRID)
    assert hidden.any() and not hidden[0][GRID.centres()[..., 0] < 0].any()
    flow[:, 0] = torch.where(hidden, 5.0, 0.0)
    free = (GRID.centres()[..., 0] < 11.0)[None, None]
    cue = flow_of(now, AHEAD, (0.0, 0.0), 0.1, moved(0.0))
    for still, expected in ((flow, 0.0), (flow + 9 * free, 0.0), (flow + 2 * ~free, 2 * math.sqrt(2))):
        found = grounded_losses(still, GRID, motion_targets(sdf, GRID, now, [cue]))["still"]
        assert float(found) == pytest.approx(expected, abs=1e-5)
