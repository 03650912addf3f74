"""Objects out of moving voxels, by hand-placed voxels."""

from dataclasses import replace

import numpy as np
import pytest

from letocc_core.data.simulator.rig import Rig
from letocc_core.data.simulator.street import Street
from letocc_core.data.truth import FREE
from letocc_core.geometry.grid import GridSpec
from letocc_core.stream.consumers.objects import MovingObject, moving_objects
from letocc_core.stream.types import OccFlow

GRID = GridSpec((0.0, 0.0, 0.0), (10.0, 10.0, 2.0), 0.5)


def answer(*blocks: tuple[tuple[slice, slice, slice], tuple[float, float]]) -> OccFlow:
    """Blocks of occupied voxels with one velocity (m/s) each."""
    probability, velocity = np.zeros(GRID.shape, np.float32), np.zeros((*GRID.shape, 2), np.float32)
    for block, motion in blocks:
        probability[block], velocity[block] = 1, motion
    return OccFlow(0, GRID, probability, velocity, np.ones(GRID.shape, bool), 0.5)


CAR = (slice(2, 10), slice(2, 6), slice(0, 3))  # x 1 to 5 m, y 1 to 3 m, z 0 to 1.5 m


def test_one_object_by_hand():
    (found,) = moving_objects(answer((CAR, (5.0, 0.0))), 0.5, 3)
    assert found == MovingObject((3.0, 2.0, 0.75), (4.0, 2.0, 1.5), (5.0, 0.0), 8 * 4 * 3)
    assert found.heading == 0


def test_a_box_turns_with_the_motion():
    (found,) = moving_objects(answer((CAR, (0.0, -5.0))), 0.5, 3)
    np.testing.assert_allclose(found.position, (3.0, 2.0, 0.75), atol=1e-6)
    np.testing.assert_allclose(found.size, (2.0, 4.0, 1.5), atol=1e-6)  # along y it is 2 m long
    assert found.heading == pytest.approx(-np.pi / 2)


def test_touching_objects_that_go_different_ways_are_two():
    other = (slice(2, 10), slice(6, 8), slice(0, 3))
    first, second = moving_objects(answer((CAR, (5.0, 0.0)), (other, (-5.0, 0.0))), 0.5, 3)
    assert (first.velocity, second.velocity) == ((5.0, 0.0), (-5.0, 0.0))
    assert first.voxels == 2 * second.voxels
    assert len(moving_objects(answer((CAR, (5.0, 0.0)), (other, (4.0, 0.0))), 0.5, 3)) == 1


def test_corners_touch_and_gaps_part():
    corner = (slice(10, 12), slice(6, 8), slice(3, 4))
    assert len(moving_objects(answer((CAR, (5.0, 0.0)), (corner, (5.0, 0.0))), 0.5, 3)) == 1
    apart = (slice(11, 13), slice(2, 6), slice(0, 3))
    assert [o.voxels for o in moving_objects(answer((CAR, (5.0, 0.0)), (apart, (5.0, 0.0))), 0.5, 3)] == [96, 24]


def test_what_is_slow_small_unseen_or_free_is_no_object():
    assert not moving_objects(answer((CAR, (0.3, 0.3))), 0.5, 3)
    assert not moving_objects(answer((CAR, (5.0, 0.0))), 0.5, 97)
    assert not moving_objects(answer(), 0.5, 1)
    hidden = answer((CAR, (5.0, 0.0)))
    hidden.observed[:] = False
    assert not moving_objects(hidden, 0.5, 3)


def test_what_is_hidden_counts_only_if_asked_for():
    """The car's rear third is seen; a car behind it is hidden altogether."""
    behind = (slice(12, 18), slice(2, 6), slice(0, 3))
    item = answer((CAR, (5.0, 0.0)), (behind, (5.0, 0.0)))
    hidden = item.occupied.copy()
    hidden[2:4] = False
    item = replace(item, hidden=hidden)
    (seen,) = moving_objects(item, 0.5, 3)
    assert (seen.voxels, seen.position[0], seen.size[0]) == (2 * 4 * 3, 1.5, 1.0)
    assert [o.voxels for o in moving_objects(item.believed(), 0.5, 3)] == [8 * 4 * 3, 6 * 4 * 3]


@pytest.mark.parametrize("seed", [3, 4])
def test_the_truth_of_a_street_gives_its_traffic(seed: int):
    """Every car, cyclist and pedestrian that moves inside of the box, each once, to a voxel and to its own velocity."""
    grid = GridSpec()
    street = Street(seed, Rig.load("nuscenes").resized(24, 42), grid)
    frame = street.render(1.0)
    occupied = frame.truth.occupancy != FREE
    seen = np.ones(grid.shape, bool)
    found = moving_objects(OccFlow(0, grid, occupied.astype(np.float32), frame.truth.velocity, seen, 0.5), 0.5, 3)
    T_ego_world = np.linalg.inv(frame.T_world_ego)
    places = np.array([T_ego_world @ actor.pose(street.world.line, 1.0)[:, 3] for actor in street.world.actors])
    inside = np.flatnonzero((np.abs(places[:, :2]) < 19).all(1)).tolist()
    assert len(inside) == len(found) == 9
    for i in inside:
        near = min(found, key=lambda item: np.linalg.norm(item.position[:2] - places[i, :2]))
        assert np.linalg.norm(near.position[:2] - places[i, :2]) < grid.voxel_size
        np.testing.assert_allclose(near.velocity, T_ego_world[:2, :2] @ street._velocity(i, 1.0)[:2], atol=1e-3)
