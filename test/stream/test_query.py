"""Questions about an answer, with answers worked out by hand."""

from dataclasses import replace

import numpy as np
import pytest

from letocc_core.errors import DataError
from letocc_core.geometry.grid import GridSpec
from letocc_core.stream.consumers.query import occupied_points, states_of, time_to_collision
from letocc_core.stream.types import OccFlow

GRID = GridSpec((-10.0, -10.0, -1.0), (10.0, 10.0, 3.0), 0.5)


def answer_with(*things: tuple[tuple[float, float, float], tuple[float, float]], unseen: tuple = ()) -> OccFlow:
    """Single voxels at points (m) with velocities (m/s); `unseen` points are looked at by no camera."""
    probability = np.zeros(GRID.shape, np.float32)
    velocity = np.zeros((*GRID.shape, 2), np.float32)
    observed = np.ones(GRID.shape, bool)
    for point, way in things:
        at = voxel(point)
        probability[at], velocity[at] = 0.9, way
    for point in unseen:
        observed[voxel(point)] = False
    return OccFlow(0, GRID, probability, velocity, observed, threshold=0.5)


def voxel(point: tuple[float, float, float]) -> tuple[int, ...]:
    return tuple(np.floor((np.array(point) - GRID.lower) / GRID.voxel_size).astype(int))


def test_points_are_the_centres_of_what_is_occupied_between_two_heights():
    answer = answer_with(((3.1, 4.1, 0.6), (3.0, -4.0)), ((3.1, 4.1, -0.9), (0.0, 0.0)), ((1.0, 1.0, 0.6), (1.0, 0.0)))
    points = occupied_points(answer, lowest=0.3)
    np.testing.assert_allclose(points.centres, [[1.25, 1.25, 0.75], [3.25, 4.25, 0.75]])
    np.testing.assert_allclose(points.velocity, [[1.0, 0.0], [3.0, -4.0]])
    np.testing.assert_allclose(points.speed, [1.0, 5.0])
    np.testing.assert_allclose(points.distance, [np.hypot(1.25, 1.25), np.hypot(3.25, 4.25)])
    assert len(occupied_points(answer).centres) == 3


def test_a_point_is_occupied_free_unknown_or_outside():
    answer = answer_with(((5.0, 0.0, 0.5), (2.0, 1.0)), unseen=((-5.0, 0.0, 0.5),))
    states = states_of(
        answer, np.array([[5.4, 0.4, 0.9], [4.9, 0.1, 0.6], [-4.9, 0.1, 0.6], [10.1, 0, 0], [np.nan, 0, 0]])
    )
    assert states.occupied.tolist() == [True, False, False, False, False]
    assert states.free.tolist() == [False, True, False, False, False]
    assert states.known.tolist() == [True, True, False, False, False]
    np.testing.assert_allclose(states.probability, [0.9, 0, np.nan, np.nan, np.nan])
    np.testing.assert_allclose(states.velocity[:2], [[2.0, 1.0], [np.nan, np.nan]])
    with pytest.raises(DataError, match=r"\[3\], expected \[n, 3\]"):
        states_of(answer, np.zeros(3))


def test_time_to_what_stands_and_to_what_comes_towards_one():
    straight, times = np.array([[0.0, 0.0], [8.0, 0.0]]), np.array([0.0, 4.0])  # 2 m/s ahead
    standing = answer_with(((6.1, 0.1, 0.6), (0.0, 0.0)))  # its near side is at 6 m: met after (6 - 1) / 2 s
    assert time_to_collision(standing, straight, times, radius=1.0) == pytest.approx(2.5, abs=0.13)
    coming = answer_with(((6.1, 0.1, 0.6), (-3.0, 0.0)))  # 5 m at 5 m/s
    assert time_to_collision(coming, straight, times, radius=1.0) == pytest.approx(1.0, abs=0.05)
    crossing = answer_with(((4.1, -6.1, 0.6), (0.0, 3.0)))  # from the right: at y -1 m after 1.6 s, robot at 3.2 m
    assert time_to_collision(crossing, straight, times, radius=1.0) == pytest.approx(1.6, abs=0.15)
    leaving = answer_with(((3.1, 0.1, 0.6), (4.0, 0.0)))
    assert time_to_collision(leaving, straight, times, radius=1.0) == np.inf


def test_what_is_hidden_is_not_met_unless_it_is_believed():
    straight, times = np.array([[0.0, 0.0], [8.0, 0.0]]), np.array([0.0, 4.0])
    answer = answer_with(((6.1, 0.1, 0.6), (0.0, 0.0)), ((3.1, 0.1, 0.6), (0.0, 0.0)))
    hidden = np.zeros(GRID.shape, bool)
    hidden[voxel((3.1, 0.1, 0.6))] = True
    answer = replace(answer, hidden=hidden)
    assert time_to_collision(answer, straight, times, radius=1.0) == pytest.approx(2.5, abs=0.13)  # the seen one
    assert time_to_collision(answer.believed(), straight, times, radius=1.0) == pytest.approx(1.0, abs=0.13)
    assert (len(occupied_points(answer).centres), len(occupied_points(answer.believed()).centres)) == (1, 2)
    state = states_of(answer, [[3.1, 0.1, 0.6]])
    assert not state.known[0] and not state.free[0] and state.occupied[0]  # believed, and said to be


def test_what_is_beside_below_or_above_the_way_is_not_met():
    straight, times = np.array([[0.0, 0.0], [8.0, 0.0]]), np.array([0.0, 4.0])
    beside = answer_with(((5.1, 1.3, 0.6), (0, 0)), ((5.1, 0.1, -0.4), (0, 0)), ((5.1, 0.1, 2.6), (0, 0)))
    assert time_to_collision(beside, straight, times, radius=0.9) == np.inf
    assert time_to_collision(beside, straight, times, radius=1.1) < np.inf
    assert time_to_collision(beside, straight, times, radius=0.9, lowest=-1.0) < np.inf
    assert time_to_collision(beside, np.array([[0.0, 0.0]]), np.array([0.0]), radius=0.9) == np.inf


@pytest.mark.parametrize(
    ("path", "times", "said"),
    [
        ([[0.0, 0.0], [1.0, 0.0]], [0.0], r"\[2, 2\] at times of \[1\]"),
        ([[0.0, 0.0, 0.0]], [0.0], r"\[1, 3\]"),
        ([[0.0, 0.0], [1.0, 0.0]], [1.0, 1.0], "do not increase"),
        ([[0.0, np.nan], [1.0, 0.0]], [0.0, 1.0], "not finite"),
    ],
)
def test_a_path_that_is_none_is_refused(path, times, said):
    with pytest.raises(DataError, match=said):
        time_to_collision(answer_with(), np.array(path), np.array(times), radius=1.0)
