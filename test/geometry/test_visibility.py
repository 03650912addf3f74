"""What a camera sees of occupied and of empty voxels, and where its rays end, by hand and beside rays in small steps."""

import numpy as np
import pytest

from letocc_core.geometry.grid import GridSpec
from letocc_core.geometry.visibility import NEAREST, add_ends, add_seen

ROW = GridSpec((0.0, 0.0, 0.0), (8.0, 1.0, 2.0), 1.0)


def seen_of(occupied: np.ndarray, grid: GridSpec, eye: tuple[float, float, float]) -> np.ndarray:
    seen = np.zeros(grid.shape, bool)
    add_seen(seen, occupied, grid, np.array(eye), np.arange(seen.size))
    return seen


def test_space_before_the_first_surface_and_the_surface_are_seen():
    occupied = np.zeros(ROW.shape, bool)
    occupied[4:6] = True  # a wall, two voxels thick
    seen = seen_of(occupied, ROW, (0.5, 0.5, 0.9))
    assert seen[:5].all()  # up to the wall's first voxels
    assert not seen[5:].any()
    assert seen_of(~occupied & False, ROW, (0.5, 0.5, 0.9)).all()


def test_flat_ground_is_seen_as_far_as_it_goes_and_nothing_below_it():
    grid = GridSpec((0.0, -2.0, -0.8), (40.0, 2.0, 1.6), 0.4)
    occupied = np.zeros(grid.shape, bool)
    occupied[:, :, :2] = True  # ground up to z = 0, and matter below
    seen = seen_of(occupied, grid, (0.2, 0.0, 1.5))
    assert seen[:, :, 1:].all()
    assert not seen[:, :, 0].any()


def test_a_low_thing_hides_what_its_shadow_covers():
    """A box from 3 to 4 m, 1 m high, seen from 2 m above the ground at x = 0: its shadow ends at 8 m."""
    grid = GridSpec((0.0, 0.0, 0.0), (12.0, 1.0, 3.0), 1.0)
    occupied = np.zeros(grid.shape, bool)
    occupied[3, 0, 0] = True
    seen = seen_of(occupied, grid, (0.0, 0.5, 2.0))
    # the ray over its far edge falls 1 m in 4 m: the centre of voxel x, half a metre up, is in the shadow up to x = 6
    np.testing.assert_array_equal(seen[:, 0, 0], [True] * 4 + [False] * 2 + [True] * 6)
    assert seen[:, 0, 1:].all()


def test_matter_around_the_camera_hides_nothing():
    occupied = np.zeros(ROW.shape, bool)
    occupied[0] = True
    assert seen_of(occupied, ROW, (0.5, 0.5, 0.9)).all()
    occupied[2] = True  # farther than `NEAREST`
    assert NEAREST < 1 and not seen_of(occupied, ROW, (0.5, 0.5, 0.9))[3:].any()


def test_a_camera_outside_the_box_sees_into_it():
    occupied = np.zeros(ROW.shape, bool)
    occupied[2] = True
    seen = seen_of(occupied, ROW, (-5.0, 0.5, 1.0))
    assert seen[:3].all() and not seen[3:].any()


def test_only_what_is_asked_for_is_marked_and_marks_stay():
    occupied = np.zeros(ROW.shape, bool)
    occupied[3] = True
    seen = np.zeros(ROW.shape, bool)
    seen[7, 0, 0] = True
    add_seen(seen, occupied, ROW, np.array([0.5, 0.5, 0.9]), np.array([0, 15]))  # (0, 0, 0) and (7, 0, 1)
    assert np.argwhere(seen).tolist() == [[0, 0, 0], [7, 0, 0]]


@pytest.mark.parametrize("seed", range(3))
def test_empty_voxels_are_seen_as_small_steps_to_the_camera_find(seed):
    grid = GridSpec((-4.0, -4.0, -1.0), (4.0, 4.0, 3.0), 0.5)
    rng = np.random.default_rng(seed)
    occupied = rng.random(grid.shape) < 0.06
    eye = rng.uniform((-2, -2, 0), (2, 2, 2))
    seen = seen_of(occupied, grid, tuple(eye))
    free = np.argwhere(~occupied)
    away = eye - grid.centres_of(free)
    distance = np.linalg.norm(away, axis=1)
    way = grid.centres_of(free)[:, None] + np.linspace(0, 1, 2000)[:, None] * away[:, None]
    voxel = np.floor((way - grid.lower) / grid.voxel_size).astype(int)
    place = np.floor((eye - grid.lower) / grid.voxel_size)
    near = (np.abs(voxel - place) <= 2).all(-1)  # about the camera's voxel either may be right
    met = occupied[tuple(np.moveaxis(voxel, -1, 0))]
    certain = ~(met & near).any(1) & (distance > 2)
    expected = ~met.any(1)
    assert (seen[tuple(free.T)] != expected)[certain].mean() < 0.002  # corners that are cut by less than a step
    assert 0.2 < expected[certain].mean() < 0.9


def ends_of(probability, grid, eye, least=0.1, most=0.5) -> list[list[int]]:
    ends = np.zeros(grid.shape, bool)
    add_ends(ends, np.asarray(probability, np.float32), least, most, grid, np.array(eye), np.arange(ends.size))
    return np.argwhere(ends).tolist()


LINE = GridSpec((0.0, 0.0, 0.0), (8.0, 1.0, 1.0), 1.0)


@pytest.mark.parametrize(
    ("along", "end"),
    [
        ([0, 0, 0, 0.2, 0.4, 0.3, 0, 0], [4]),  # free behind all: 0.8 * 0.6 * 0.7 = 0.34, less than a half
        ([0, 0, 0, 0.2, 0.3, 0, 0, 0], []),  # 0.8 * 0.7 = 0.56: it may as well have met nothing
        ([0, 0, 0, 0.4, 0.45, 0, 0, 0], [3]),  # density 0.4 before 0.6 * 0.45
        ([0, 0, 0, 0.3, 0.9, 0, 0, 0], []),  # a voxel above the threshold stops it, and is a surface already
        ([0, 0.09, 0.09, 0.09, 0.09, 0.09, 0.09, 0.09], []),  # none above the least
    ],
)
def test_where_a_ray_along_a_row_ends(along, end):
    """From outside the box, a voxel before its first centre: the samples are the centres, and nothing is interpolated."""
    probability = np.array(along, np.float32)[:, None, None]
    assert [i for i, _, _ in ends_of(probability, LINE, (-1.0, 0.5, 0.5))] == end


def test_a_wall_whose_distance_is_unsure_is_closed():
    """Five layers of 0.25 are 0.24 free together; 0.75 of each ray would pass a layer."""
    grid = GridSpec((0.0, 0.0, 0.0), (12.0, 12.0, 4.0), 1.0)
    probability = np.zeros(grid.shape, np.float32)
    probability[5:10] = 0.25
    probability[7] = 0.3
    ends = np.array(ends_of(probability, grid, (0.5, 6.0, 2.0)))
    assert set(ends[:, 0]) <= {5, 6, 7}
    ahead = {(j, k) for _, j, k in ends}
    assert {(j, k) for j in range(2, 10) for k in range(4)} <= ahead  # wherever the camera looks through the wall


@pytest.mark.parametrize("seed", range(3))
def test_rays_end_where_an_independent_computation_finds_it(seed):
    from scipy.ndimage import map_coordinates

    grid = GridSpec((-4.0, -4.0, -1.0), (4.0, 4.0, 3.0), 0.5)
    rng = np.random.default_rng(seed)
    probability = (0.5 * rng.random(grid.shape) ** 3).astype(np.float32)
    probability[rng.random(grid.shape) < 0.01] = 0.9
    eye = (rng.uniform((-2, -2, 0), (2, 2, 2)) - grid.lower) / 0.5
    expected = set()
    for voxel in np.ndindex(*grid.shape):
        away = np.array(voxel) + 0.5 - eye
        away /= np.linalg.norm(away)
        free, best, end = 1.0, 0.0, None
        for n in range(60):
            place = eye + away * (NEAREST / 0.5 + 0.5 + n)
            at = tuple(np.floor(place).astype(int))
            if not all(0 <= a < size for a, size in zip(at, grid.shape, strict=True)):
                break
            if probability[at] > 0.5:
                end = None
                free = 1.0
                break
            p = map_coordinates(probability.astype(float), place[:, None] - 0.5, order=1, mode="nearest")[0]
            if free * p > best:
                best, end = free * p, at
            free *= 1 - p
            if free <= min(0.5, best):
                break
        if free <= 0.5 and end is not None and probability[end] > 0.1:
            expected.add(end)
    assert len(expected) > 20
    assert set(map(tuple, ends_of(probability, grid, eye * 0.5 + grid.lower))) == expected
