"""Velocities in labelled boxes, by hand; and boxes moved to another stamp."""

from pathlib import Path

import numpy as np
import pytest

from letocc_core.errors import DataError
from letocc_core.geometry.grid import GridSpec
from letocc_core.metrics.box_motion import Boxes, BoxMotionScore

GRID = GridSpec((-20.0, -20.0, -1.0), (20.0, 20.0, 3.0), 0.5)


def write(path: Path, **changes) -> Path:
    """Four boxes of 4 x 2 x 1.5 m that stand on the road: one moves, one stands, one is too far, one is not known."""
    arrays = {
        "stamp": np.array([10**9] * 4),
        "centre": np.array([[8.0, 0, 0.75], [0, 8, 0.75], [18.5, 0, 0.75], [-8, 0, 0.75]]),
        "size": np.tile([4.0, 2.0, 1.5], (4, 1)),
        "yaw": np.array([0.0, np.pi / 2, 0.0, 0.0]),
        "velocity": np.array([[4.0, 3.0], [0.1, 0], [5.0, 0], [np.nan, np.nan]]),
    }
    arrays = {name: values for name, values in (arrays | changes).items() if values is not None}
    np.savez(path, **arrays)
    return path


def voxel(x: float, y: float, z: float) -> tuple[int, int, int]:
    return tuple(np.floor((np.array([x, y, z]) - GRID.lower) / GRID.voxel_size).astype(int))


def test_velocities_in_boxes_by_hand(tmp_path):
    boxes = Boxes.load(write(tmp_path / "boxes.npz"))
    assert boxes.stationary.tolist() == [False, True, False, False]
    occupied, velocity = np.zeros(GRID.shape, bool), np.zeros((*GRID.shape, 2), np.float32)
    for place, said in (
        ((6.25, 0.25, 0.75), (4.0, 3.0)),  # right
        ((9.75, -0.75, 1.25), (0.0, 0.0)),  # 5 m/s wrong, without direction
        ((6.25, 0.25, 0.25), (0.0, 0.0)),  # too near the bottom: the road
        ((11.25, 0.25, 0.75), (9.0, 0.0)),  # before the car
        ((0.25, 9.75, 0.75), (0.6, 0.0)),  # the standing one lies along y
        ((0.75, 6.25, 0.75), (0.0, 0.4)),
        ((-8.25, 0.25, 0.75), (9.0, 9.0)),  # of unknown velocity
    ):
        occupied[voxel(*place)], velocity[voxel(*place)] = True, said
    everywhere = np.ones(GRID.shape, bool)
    score = BoxMotionScore.of(boxes, occupied, velocity, everywhere, GRID)
    expected = {"mave": 2.5, "mave_ratio": 0.5, "direction_error_deg": 45.0, "false_motion": 0.5, "found": 1.0}
    assert score.summary() == pytest.approx(expected)
    empty = BoxMotionScore.of(boxes, np.zeros(GRID.shape, bool), velocity, everywhere, GRID)
    assert empty.summary() == {"found": 0.0}
    assert (score + empty).summary() == pytest.approx(expected | {"found": 0.5})
    assert BoxMotionScore.of(boxes, occupied, velocity, ~everywhere, GRID).summary() == {}  # nobody looks there


def test_the_file_may_say_what_stands(tmp_path):
    boxes = Boxes.load(write(tmp_path / "boxes.npz", stationary=np.array([True, False, False, True])))
    occupied = np.ones(GRID.shape, bool)
    still = np.zeros((*GRID.shape, 2), np.float32)
    score = BoxMotionScore.of(boxes, occupied, still, occupied, GRID).summary()
    assert score == {"false_motion": 0.0, "found": 1.0}  # what is said to move does so at 0.1 m/s


def test_boxes_are_moved_by_the_ego_motion_and_their_own(tmp_path):
    boxes = Boxes.load(write(tmp_path / "boxes.npz"))
    T_now_then = np.eye(4)  # the vehicle has driven 1 m ahead and turned left by 90 degrees
    T_now_then[:2, :2], T_now_then[:2, 3] = [[0, 1], [-1, 0]], [0, 1]
    moved = boxes.seen_from(T_now_then, 10**9 + 10**8)
    # 0.4 m ahead and 0.3 m to the left: (8.4, 0.3) then, which is (0.3, -7.4) now
    np.testing.assert_allclose(moved.centre[0], [0.3, -7.4, 0.75], atol=1e-12)
    np.testing.assert_allclose(moved.velocity[0], [3.0, -4.0], atol=1e-12)
    assert moved.yaw[0] == pytest.approx(-np.pi / 2)
    np.testing.assert_allclose(moved.centre[3], [0, 9, 0.75], atol=1e-12)  # of unknown velocity: as if it stood


def test_the_nearest_stamp_within_reach_is_taken(tmp_path):
    boxes = Boxes.load(write(tmp_path / "boxes.npz", stamp=np.array([0, 0, 10**8, 10**8])))
    assert boxes.nearest(4 * 10**7, 0.06).stamp_ns.tolist() == [0, 0]
    assert boxes.nearest(7 * 10**7, 0.06).centre[0, 0] == 18.5
    assert boxes.nearest(2 * 10**8, 0.06) is None


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"yaw": None}, "lacks yaw; expected stamp, centre, size, yaw, velocity"),
        ({"size": np.ones((4, 2))}, r"size is float64 \[4, 2\], expected \[4, 3\]"),
        ({"stationary": np.ones(3, bool)}, r"stationary is bool \[3\], expected \[4\]"),
        ({"velocity": np.array([object()] * 4)}, "not a box file, or damaged"),
    ],
)
def test_files_that_are_wrong_are_refused(tmp_path, changes, text):
    with pytest.raises(DataError, match=rf"boxes\.npz: .*{text}"):
        Boxes.load(write(tmp_path / "boxes.npz", **changes))
    with pytest.raises(DataError, match=r"absent\.npz: no such file"):
        Boxes.load(tmp_path / "absent.npz")
