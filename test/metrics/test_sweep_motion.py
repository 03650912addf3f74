"""Velocities judged by LiDAR sweeps alone: counted by hand on a few returns."""

import numpy as np
import pytest

from letocc_core.geometry.grid import GridSpec
from letocc_core.metrics.sweep_motion import SweepMotionScore

GRID = GridSpec((-8.0, -8.0, -1.0), (8.0, 8.0, 3.0), 0.5)
CAR = np.array([[2.1, 3.0, 1.0], [2.1, 3.6, 1.0]])  # its front; it drives away at 5 m/s along x
WALL = np.array([[4.0, -3.0, 1.0], [4.5, -3.0, 1.0], [5.0, -3.0, 1.0]])
LATER = np.concatenate([np.add(CAR, (1.0, 0.0, 0.15)), WALL + 0.1])  # 0.2 s later


def score(car: tuple[float, float], wall: tuple[float, float] = (0.0, 0.0)) -> dict[str, float]:
    velocity = np.array([car] * 2 + [wall] * 3)
    return SweepMotionScore.of(np.concatenate([CAR, WALL]), LATER, velocity, 0.2).summary()


def test_true_velocities_explain_what_has_changed():
    assert score((5.0, 0.0)) == {"explained": 1.0, "spoilt": 0.0}
    assert score((4.0, 0.0)) == {"explained": 1.0, "spoilt": 0.0}  # 0.2 m short, within the tolerance
    assert score((3.0, 0.0)) == {"explained": 0.0, "spoilt": 0.0}
    assert score((0.0, 0.0)) == {"explained": 0.0, "spoilt": 0.0}


def test_false_motion_spoils_what_has_not_changed():
    assert score((5.0, 0.0), wall=(0.0, -2.0)) == {"explained": 1.0, "spoilt": 1.0}  # 0.5 m off the wall
    assert score((5.0, 0.0), wall=(2.5, 0.0)) == {"explained": 1.0, "spoilt": pytest.approx(1 / 3)}  # past its end


def test_what_is_out_of_sight_has_changed_for_everyone():
    gone = np.array([[7.0, 7.0, 1.0]])
    found = SweepMotionScore.of(np.concatenate([CAR, gone]), LATER, np.array([[5.0, 0.0]] * 2 + [[0.0, 0.0]]), 0.2)
    assert found.summary() == {"explained": pytest.approx(2 / 3)}  # nothing has stayed, so nothing can be spoilt
    both = found + SweepMotionScore.of(WALL, LATER, np.zeros((3, 2)), 0.2)
    assert both.summary() == {"explained": pytest.approx(2 / 3), "spoilt": 0.0}


def test_returns_take_the_velocity_of_the_voxel_next_to_them():
    occupied, velocity = np.zeros(GRID.shape, bool), np.zeros((*GRID.shape, 2), np.float32)
    occupied[21, 22:24, 4] = True  # centres at x 2.75, y 3.25 and 3.75, z 1.25: within a metre of the car's returns
    velocity[occupied] = (5.0, 0.0)
    road_treetop_outside = np.array([[2.0, 3.0, 0.2], [2.0, 3.0, 2.8], [9.0, 0.0, 1.0], [np.nan] * 3])
    sweep = np.concatenate([CAR, WALL, road_treetop_outside])

    def judged(seen: bool) -> dict[str, float]:
        observed = np.full(GRID.shape, seen)
        return SweepMotionScore.of_answer(sweep, LATER, 0.2, occupied, velocity, observed, GRID).summary()

    assert judged(True) == {"explained": 1.0, "spoilt": 0.0}
    assert judged(False) == {}
