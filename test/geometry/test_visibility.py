"""What a camera sees of occupied and of empty voxels, by hand and beside rays that are followed in small steps."""

import numpy as np
import pytest

from letocc_core.geometry.grid import GridSpec
from letocc_core.geometry.visibility import NEAREST, add_seen

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
