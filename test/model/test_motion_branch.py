"""Velocity of what stands in front of cameras, from past images: on a textured wall that moves."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from letocc_core.errors import ConfigError
from letocc_core.geometry.grid import GridSpec, sample_volume
from letocc_core.model import motion_branch
from letocc_core.model.fields import Evidence
from letocc_core.model.motion_branch import (
    MotionBranch,
    MotionBranchConfig,
    Surfaces,
    View,
    descriptors,
    expected_velocities,
    find_surfaces,
    sweep_velocity,
)

FOCAL, HEIGHT, WIDTH = 80.0, 96, 128
DISTANCE = 8.0  # m, of the wall
FORWARD = torch.tensor([[0.0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 1.0], [0, 0, 0, 1]])
GRID = GridSpec((4.8, -4.8, -1.6), (11.2, 4.8, 4.8), 0.4)
COLUMNS = GRID.coarser(2)
CONFIG = MotionBranchConfig(forward=4.0, sideways=6.0)
SECONDS = 0.2
STILL = len(CONFIG.velocities()) // 2


@pytest.fixture(autouse=True)
def _small_branch(monkeypatch):
    monkeypatch.setattr(motion_branch, "PATCHES", (1, 2))
    monkeypatch.setattr(motion_branch, "WIDTH", 8)


def texture(shift: float) -> Tensor:
    """Smooth random brightness [1, 1, H, W], moved to the right by `shift` px."""
    noise = torch.rand(1, 1, HEIGHT, WIDTH + 80, generator=torch.Generator().manual_seed(0))
    smooth = F.avg_pool2d(noise, 5, 1, 2)
    u = torch.arange(WIDTH) + 40 - shift
    return smooth[..., u.round().long()]


def view(seconds: float, shift: float = 0.0, valid: bool = True) -> View:
    K = torch.tensor([[FOCAL, 0, WIDTH / 2 - 0.5], [0, FOCAL, HEIGHT / 2 - 0.5], [0, 0, 1]])
    stamp = torch.tensor([round(seconds * 1e9)])
    return View(stamp, texture(shift), K[None, None], FORWARD[None, None], torch.full((1, 1), valid))


def wall() -> Tensor:
    """SDF [1, 1, X, Y, Z] of matter from `DISTANCE` on."""
    return (DISTANCE - GRID.centres()[..., 0])[None, None]


def sweep(now: View, past: list[View], T_past_now: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Similarities and what is known."""
    surfaces = find_surfaces(wall(), GRID, now)
    return sweep_velocity(surfaces, now, past, T_past_now, COLUMNS, CONFIG.velocities())


def best_velocity(similarity: Tensor, patch: int) -> Tensor:
    """The velocity [2] (m/s) that the columns at the wall like best in the mean."""
    column = int((DISTANCE - COLUMNS.lower[0]) / COLUMNS.voxel_size)
    at_wall = similarity[0, patch, :, column, 3:-3].mean(-1)
    return CONFIG.velocities()[at_wall.argmax()]


def test_surfaces_lie_where_the_signed_distance_crosses_zero():
    surfaces = find_surfaces(wall(), GRID, view(0.0))
    points = surfaces.points[surfaces.there]
    torch.testing.assert_close(points[:, 0], torch.full_like(points[:, 0], DISTANCE), atol=1e-3, rtol=0)
    assert points[:, 2].min() > motion_branch.LOWEST and points[:, 2].max() < motion_branch.HIGHEST
    seen = points @ FORWARD[:3, :3] - FORWARD[:3, 3] @ FORWARD[:3, :3]
    pixels = seen[:, :2] / seen[:, 2:] * FOCAL + torch.tensor([WIDTH / 2 - 0.5, HEIGHT / 2 - 0.5])
    torch.testing.assert_close(pixels, surfaces.pixels[surfaces.there], atol=1e-3, rtol=0)


def test_surfaces_of_a_rough_field_are_those_of_a_walk_along_every_ray():
    """Ray by ray, step by step, in the whole box: what is found between the heights is what a ray meets first."""
    generator = torch.Generator().manual_seed(3)
    noise = torch.rand(1, 1, *(n // 4 for n in GRID.shape), generator=generator)
    sdf = F.interpolate(noise, GRID.shape, mode="trilinear") * 2 - 0.7
    now = view(0.0)
    surfaces = find_surfaces(sdf, GRID, now)
    found = dict(zip(map(tuple, surfaces.pixels[0, 0].tolist()), surfaces.points[0, 0], strict=True))
    found = {pixel: found[pixel] for pixel, there in zip(found, surfaces.there[0, 0], strict=True) if there}
    for v in range(2, HEIGHT, motion_branch.STRIDE):
        for u in range(2, WIDTH, motion_branch.STRIDE):
            direction = torch.tensor([1.0, (WIDTH / 2 - 0.5 - u) / FOCAL, (HEIGHT / 2 - 0.5 - v) / FOCAL])
            t = 0.5 + motion_branch.RAY_STEP * torch.arange(40)
            points = FORWARD[:3, 3] + t[:, None] * direction
            inside = ((points > torch.tensor(GRID.lower)) & (points < torch.tensor(GRID.upper))).all(-1)
            values = sample_volume(sdf, GRID, points[None], padding="border")[0, :, 0]
            hits = torch.nonzero(inside & (values < 0))
            point = None
            if len(hits):
                k = int(hits[0])
                before, behind = float(values[k - 1].clamp(min=0)), float(values[k].clamp(max=-1e-6))
                point = FORWARD[:3, 3] + (t[k] + motion_branch.RAY_STEP * behind / (before - behind)) * direction
            if point is not None and motion_branch.LOWEST < point[2] < motion_branch.HIGHEST:
                torch.testing.assert_close(found.pop((float(u), float(v))), point, atol=1e-3, rtol=0)
    assert not found


def test_no_surface_in_an_empty_box_or_without_cameras():
    assert not find_surfaces(torch.ones_like(wall()), GRID, view(0.0)).there.any()
    assert not find_surfaces(wall(), GRID, view(0.0, valid=False)).there.any()


@pytest.mark.parametrize("patch", [0, 1])
@pytest.mark.parametrize("speed", [0.0, 4.0, -6.0])
def test_a_wall_that_moves_sideways(speed: float, patch: int):
    """To the left by v dt: 10 px a metre to the left at 8 m, so that it was as far to the right before."""
    before = view(-SECONDS, shift=speed * SECONDS * FOCAL / DISTANCE)
    assert best_velocity(sweep(view(0.0), [before], [torch.eye(4)[None]])[0], patch)[1] == speed


def test_a_moving_vehicle_sees_a_still_wall():
    """It came 0.8 m from the right: what stands still moved by 8 px to the right, and is found to stand still."""
    T_past_now = torch.eye(4)[None].clone()
    T_past_now[0, 1, 3] = 0.8
    before = view(-SECONDS, shift=-0.8 * FOCAL / DISTANCE)
    similarity, _ = sweep(view(0.0), [before], [T_past_now])
    assert best_velocity(similarity, 0).tolist() == [0, 0]
    assert not similarity[:, :, STILL].any()  # all are compared with standing still


def test_a_past_without_cameras_is_not_known():
    past = [view(-SECONDS), view(-2 * SECONDS, valid=False)]
    similarity, known = sweep(view(0.0), past, [torch.eye(4)[None]] * 2)
    assert known[:, 0].any() and not known[:, 1].any()
    assert similarity[:, :2].any() and not similarity[:, 2:].any()  # two patch sizes each


def test_a_batch_is_its_samples_one_by_one():
    now, then = [view(0.0), view(0.0, shift=3)], [view(-SECONDS, shift=2), view(-2 * SECONDS, shift=5)]
    T = torch.eye(4)[None]
    alone = [sweep(a, [b], [T]) for a, b in zip(now, then, strict=True)]

    def join(views: list[View]) -> View:
        given = [f.name for f in dataclasses.fields(View) if getattr(views[0], f.name) is not None]
        return View(**{name: torch.cat([getattr(v, name) for v in views]) for name in given})

    surfaces = find_surfaces(wall().expand(2, -1, -1, -1, -1), GRID, join(now))
    both = sweep_velocity(surfaces, join(now), [join(then)], [T.repeat(2, 1, 1)], COLUMNS, CONFIG.velocities())
    for found, parts in zip(both, zip(*alone, strict=True), strict=True):
        torch.testing.assert_close(found, torch.cat(parts))


def test_points_outside_the_columns_count_nowhere():
    surfaces = Surfaces(torch.full((1, 1, 3, 3), 100.0), torch.zeros(1, 1, 3, 2), torch.ones(1, 1, 3).bool())
    velocities = CONFIG.velocities()
    found = sweep_velocity(surfaces, view(0.0), [view(-SECONDS)], [torch.eye(4)[None]], COLUMNS, velocities)
    assert not any(values.any() for values in found)


def test_descriptors_ignore_brightness_and_contrast():
    grey = texture(0)
    torch.testing.assert_close(descriptors(0.2 + grey, 2), descriptors(grey, 2), atol=1e-5, rtol=0)
    assert F.cosine_similarity(descriptors(5 * grey, 1), descriptors(20 * grey, 1), dim=1).min() > 0.9
    assert not descriptors(torch.full_like(grey, 0.5), 1).any()


def test_the_velocities_hold_standing_still():
    velocities = MotionBranchConfig(forward=4, sideways=2, step=2).velocities()
    assert velocities.tolist() == [[x, y] for x in (-4, -2, 0, 2, 4) for y in (-2, 0, 2)]


@pytest.mark.parametrize("wrong", [{"step": 0.0}, {"forward": 1.0}])
def test_impossible_settings_are_refused(wrong: dict):
    with pytest.raises(ConfigError, match="expected"):
        MotionBranchConfig(**wrong)


def test_the_branch_starts_near_standing_still_and_leaves_geometry_alone():
    torch.manual_seed(0)
    branch = MotionBranch(CONFIG, GRID, dim=4, past=1)
    volume = torch.randn(1, 4, *GRID.shape, requires_grad=True)
    sdf = wall().requires_grad_()
    flow = branch(
        branch.evidence(branch.columns(volume, sdf), sdf, view(0.0), [view(-SECONDS, shift=4)], [torch.eye(4)[None]]),
        sdf.detach(),
    )
    assert flow.shape == (1, 2, *GRID.shape) and flow.abs().max() < 0.5
    flow.square().mean().backward()
    assert volume.grad is None and sdf.grad is None
    assert all(p.grad is not None for p in branch.parameters())


@pytest.mark.parametrize(("surface", "seen"), [(0.0, False), (0.08, True)])
def test_unsure_matter_stops_rays_if_so_configured(surface: float, seen: bool):
    """A wall whose signed distance comes down to 0.05 m, as a probability of 0.38 has it."""
    branch = MotionBranch(dataclasses.replace(CONFIG, surface=surface), GRID, dim=4, past=1)
    past = [view(-SECONDS, shift=4)], [torch.eye(4)[None]]
    sdf = wall().clamp(min=0.05)
    columns = branch.columns(torch.zeros(1, 4, *GRID.shape), sdf)
    known = branch.evidence(columns, sdf, view(0.0), *past).known
    assert bool((known > 0).any()) == seen


def test_the_road_stands_still_under_what_moves(monkeypatch):
    """Layers at -1.4, -1.0, ... m: the one at 0.2 m is the lowest that is known as road, the next may move."""
    monkeypatch.setattr(motion_branch, "LOWEST", 0.3)
    branch = MotionBranch(CONFIG, GRID, dim=4, past=1)
    moving = torch.full((1, 2, *GRID.shape), 3.0)
    sdf = torch.ones(1, 1, *GRID.shape)
    sdf[:, :, 5] = -0.1  # a wall across one row of columns
    sdf[:, :, 7, :, 5] = -0.1  # thick road across another
    sdf[:, :, 9] = 0.1  # hardly matter: no foot
    found = branch._still_road(moving, sdf)[0, 0]
    layers = GRID.axes()[2]
    road, foot = layers < 0.1, (layers > 0.1) & (layers < 0.3)
    assert road.sum() == 4 and foot.sum() == 1
    assert (found[..., layers > 0.3] == 3.0).all() and (found[..., road] == 0.0).all()
    assert (found[5][..., foot] == 3.0).all() and (found[[*range(5), *range(6, 16)]][..., foot] == 0.0).all()


def test_the_velocity_that_similarities_expect():
    """Of one peak its velocity; of two equal ones the mean, each with half of the shares; of none no motion."""
    velocities = CONFIG.velocities()
    similarity = torch.full((1, 3, len(velocities), 1, 1), -10.0)
    similarity[0, 0, 3] = similarity[0, 1, 3] = similarity[0, 1, 8] = 0.9
    similarity[0, 2] = 0.5
    found = expected_velocities(similarity.permute(0, 3, 4, 1, 2), velocities).view(
        3, 2, 4
    )  # lists, temperatures, values
    both = (velocities[3] + velocities[8]) / 2
    rows = [[*velocities[3] / 10, 0.9, 1.0], [*both / 10, 0.9, 0.5], [0.0, 0.0, 0.5, 1 / len(velocities)]]
    torch.testing.assert_close(found, torch.tensor(rows)[:, None].expand(3, 2, 4))


@pytest.mark.parametrize("expectations", [False, True])
def test_after_half_a_turn_the_branch_sees_the_same_scene(expectations: bool):
    """Evidence and geometry of a scene that has been turned, in every part by hand; turning twice changes nothing."""
    torch.manual_seed(0)
    branch = MotionBranch(dataclasses.replace(CONFIG, expectations=expectations), GRID, 4, 2)
    velocities = CONFIG.velocities()
    (x, y), M = COLUMNS.shape[:2], len(velocities)
    evidence = Evidence(torch.rand(2, 4, M, x, y), torch.rand(2, 2, x, y), torch.rand(2, 5 * COLUMNS.shape[2], x, y))
    sdf = torch.rand(2, 1, *GRID.shape) - 0.5
    other = Evidence(*(torch.zeros_like(x) for x in (evidence.similarity, evidence.known, evidence.columns)))
    for i in range(x):
        other.known[:, :, i] = evidence.known[:, :, x - 1 - i].flip(-1)
        other.columns[:, :, i] = evidence.columns[:, :, x - 1 - i].flip(-1)
        for k in range(M):
            opposite = int((velocities + velocities[k]).abs().sum(1).argmin())
            other.similarity[:, :, k, i] = evidence.similarity[:, :, opposite, x - 1 - i].flip(-1)
    none, both = torch.zeros(2).bool(), torch.ones(2).bool()
    assert torch.equal(branch(evidence, sdf, none), branch(evidence, sdf))
    torch.testing.assert_close(-branch(evidence, sdf, both).flip(2, 3), branch(other, sdf.flip(2, 3)))
    torch.testing.assert_close(branch(other, sdf.flip(2, 3), both), -branch(evidence, sdf).flip(2, 3))
    mixed = branch(evidence, sdf, torch.tensor([True, False]))
    torch.testing.assert_close(mixed[0], branch(evidence, sdf, both)[0])
    torch.testing.assert_close(mixed[1], branch(evidence, sdf)[1])
