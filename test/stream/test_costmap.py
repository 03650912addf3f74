"""Answers from above: costs, how far one sees, and that nothing is left of what has gone."""

from dataclasses import replace

import numpy as np
import pytest

from letocc_core.errors import ConfigError
from letocc_core.geometry.grid import GridSpec
from letocc_core.stream.consumers.costmap import (
    OCCUPIED,
    UNKNOWN,
    Band,
    column_costs,
    costs_in_fixed_frame,
    free_ends,
    moving,
)
from letocc_core.stream.consumers.query import occupied_points
from letocc_core.stream.types import OccFlow

GRID = GridSpec((-10.0, -10.0, -1.0), (10.0, 10.0, 3.0), 0.5)
BAND = Band(0.3, 2.0)  # layers 3 to 5, with centres at 0.75, 1.25 and 1.75 m


def answer_of(occupied: np.ndarray, velocity: tuple[float, float] = (0.0, 0.0), unseen: np.ndarray | None = None):
    flow = np.zeros((*GRID.shape, 2), np.float32)
    flow[occupied] = velocity
    observed = np.ones(GRID.shape, bool) if unseen is None else ~unseen
    return OccFlow(0, GRID, np.where(occupied, 0.9, 0.1).astype(np.float32), flow, observed, threshold=0.5)


def box(x: tuple[float, float], y: tuple[float, float], z: tuple[float, float] = (0.5, 2.0)) -> np.ndarray:
    """Voxels whose centres lie between these metres."""
    centres = GRID.centres_of(np.stack(np.indices(GRID.shape), -1))
    low, high = np.array([x, y, z]).T
    return ((centres > low) & (centres < high)).all(-1)


def column(x: float, y: float) -> tuple[int, int]:
    return int((x + 10) // 0.5), int((y + 10) // 0.5)


def test_costs_of_a_band():
    answer = answer_of(box((4, 5), (0, 1)) | box((-5, -4), (0, 1), (-1, 0)), unseen=box((8, 10), (8, 10), (-1, 3)))
    cost = column_costs(answer, BAND)
    assert cost.dtype == np.int8 and cost[column(4.2, 0.2)] == OCCUPIED
    assert cost[column(9, 9)] == UNKNOWN
    assert cost[column(-4.5, 0.2)] == cost[column(0, 0)] == 10  # below the band, and nothing: 99 * 0.1
    assert (column_costs(answer, Band(-1.0, 0.0))[column(-4.5, 0.2)]) == OCCUPIED
    assert (column_costs(answer, Band(50, 60)) == UNKNOWN).all()
    with pytest.raises(ConfigError, match="from 2 to 1 m"):
        Band(2.0, 1.0)


def test_what_moves_may_be_left_out():
    walker, wall = box((4, 5), (0, 1)), box((6, 7), (0, 1))
    answer = answer_of(walker | wall)
    answer.velocity[walker] = (0.0, 1.4)
    cost = column_costs(answer, BAND, moving(answer, min_speed=0.5))
    assert cost[column(4.2, 0.2)] == 0  # all three layers of the band are left out
    assert cost[column(6.2, 0.2)] == OCCUPIED
    assert column_costs(answer, BAND)[column(4.2, 0.2)] == OCCUPIED


def test_rays_end_before_a_wall_at_the_edge_and_where_nobody_sees():
    answer = answer_of(box((5, 6), (-10, 10)), unseen=box((-10, -6), (-10, 10), (-1, 3)))
    ends = free_ends(answer, BAND, blind=1.0)
    assert np.allclose(ends[:, 2], (0.3 + 2.0) / 2)
    ahead = ends[np.abs(np.arctan2(ends[:, 1], ends[:, 0])) < 0.2]
    assert len(ahead) > 5 and (ahead[:, 0] > 4.4).all() and (ahead[:, 0] < 5.0).all()  # the column before the wall
    behind = ends[np.abs(np.arctan2(ends[:, 1], -ends[:, 0])) < 0.2]
    assert (behind[:, 0] >= -6.0).all() and (behind[:, 0] < -5.4).all()
    left = ends[np.abs(np.arctan2(-ends[:, 0], ends[:, 1])) < 0.1]
    assert (left[:, 1] > 9.4).all()
    assert len(free_ends(answer, Band(50, 60), blind=1.0)) == 0


def test_rays_pass_over_the_blind_ground_around_the_vehicle_and_no_farther():
    near = box((-3, 3), (-3, 3), (-1, 3))
    answer = answer_of(np.zeros(GRID.shape, bool), unseen=near)
    assert len(free_ends(answer, BAND, blind=2.0)) == 0
    assert len(free_ends(answer, BAND, blind=5.0)) > 100
    assert len(free_ends(answer_of(near), BAND, blind=5.0)) == 0  # matter all around: one sees nowhere


def cells_on_line(end: np.ndarray) -> np.ndarray:
    """Columns from the origin to a point, as Nav2's Bresenham walk visits them."""
    first, last = np.array(column(0, 0)), np.floor((end[:2] + 10) / 0.5).astype(int)
    count = int(np.abs(last - first).max()) + 1
    return np.rint(np.linspace(first, last, count)).astype(int)


class ObstacleLayer:
    """What Nav2's layer does with a cloud that marks and another that clears: first clears, then marks; nothing decays."""

    def __init__(self):
        self.marked = np.zeros(GRID.shape[:2], bool)

    def update(self, answer: OccFlow, clear: bool = True) -> None:
        for end in free_ends(answer, BAND, blind=1.0) if clear else ():
            self.marked[tuple(cells_on_line(end).T)] = False
        points = occupied_points(answer, BAND.lowest, BAND.highest)
        self.marked[tuple(np.floor((points.centres[:, :2] + 10) / 0.5).astype(int).T)] = True


def crossing(clear: bool) -> np.ndarray:
    """A walker crosses 5 m ahead, before a wall that is always seen; then ten sets without it."""
    layer, wall = ObstacleLayer(), box((8, 9), (-10, 10))
    for step in range(20):
        layer.update(answer_of(wall | box((4.5, 5.5), (step - 10, step - 9)), (0.0, 5.0)), clear)
    for _ in range(10):
        layer.update(answer_of(wall), clear)
    layer.marked[box((8, 9), (-10, 10)).any(-1)] = False
    return layer.marked


def test_no_ghost_is_left_of_what_has_crossed():
    assert not crossing(clear=True).any()
    assert crossing(clear=False).sum() == 80  # without the clearing cloud all of its way stays


def test_no_trail_is_in_the_costmap_of_what_moves():
    answer = answer_of(box((4.5, 5.5), (-10, 10)), (0.0, 5.0))
    assert (column_costs(answer, BAND, moving(answer, 0.5)) < OCCUPIED).all()


def test_what_is_hidden_is_unknown():
    hidden = box((5, 7), (0, 1)) | box((-5, -4), (0, 1), (0.5, 1.0)) | box((-7, -6), (0, 1), (-1, 0))
    wall = box((4, 5), (0, 1)) | box((6, 7), (0, 1)) | box((-5, -4), (0, 1), (1.5, 2.0))
    answer = replace(answer_of(wall), hidden=hidden)
    cost = column_costs(answer, BAND)
    assert cost[column(4.2, 0.2)] == OCCUPIED
    assert cost[column(5.2, 0.2)] == cost[column(6.2, 0.2)] == UNKNOWN  # empty and occupied, it is believed
    assert cost[column(-4.5, 0.2)] == OCCUPIED  # seen above what is hidden
    assert cost[column(-6.5, 0.2)] == 10  # hidden below the band only
    assert column_costs(replace(answer, hidden=None), BAND)[column(6.2, 0.2)] == OCCUPIED
    shadow = replace(answer_of(np.zeros(GRID.shape, bool)), hidden=box((5, 7), (0, 1)))
    ahead = free_ends(shadow, BAND, 1.0)
    ahead = ahead[(np.abs(ahead[:, 1] - 0.3) < 0.2) & (ahead[:, 0] > 0)]
    assert len(ahead) and (ahead[:, 0] < 5).all()  # free space ends before the shadow


class TestInTheFixedFrame:
    """Costs of 8 x 6 cells of half a metre, seen from a vehicle that stands somewhere in the world."""

    grid = GridSpec((-1.0, -1.5, 0.0), (3.0, 1.5, 0.5), 0.5)

    @staticmethod
    def pose(x: float, y: float, heading: float) -> np.ndarray:
        T = np.eye(4)
        T[:2, :2] = [[np.cos(heading), -np.sin(heading)], [np.sin(heading), np.cos(heading)]]
        T[:2, 3] = x, y
        return T

    def cells(self, cost: np.ndarray, T: np.ndarray) -> dict[tuple[int, int], int]:
        """Known cells by their index from the world's origin."""
        costs, corner = costs_in_fixed_frame(cost, self.grid, T)
        assert costs.shape == (11, 11)  # the diagonal of 10 cells, and one
        first = np.round(np.array(corner) / 0.5).astype(int)
        np.testing.assert_allclose(first * 0.5, corner)
        return {tuple(first + at): int(costs[tuple(at)]) for at in np.argwhere(costs != UNKNOWN)}

    def test_a_quarter_turn_by_whole_cells_moves_every_cell_and_changes_none(self):
        cost = np.arange(48, dtype=np.int8).reshape(8, 6)
        found = self.cells(cost, self.pose(50.0, 7.0, np.pi / 2))
        # cell (i, j) of the vehicle begins at x = -1 + i / 2, y = -1.5 + j / 2; turned left: world x = 50 - y, y = 7 + x
        expected = {(100 + 3 - j - 1, 14 - 2 + i): int(cost[i, j]) for i in range(8) for j in range(6)}
        assert found == expected

    @pytest.mark.parametrize("seed", range(20))
    def test_nothing_occupied_is_lost_and_nothing_is_made_up(self, seed: int):
        rng = np.random.default_rng(seed)
        cost = np.where(rng.random((8, 6)) < 0.1, OCCUPIED, 0).astype(np.int8)
        T = self.pose(*rng.uniform(-60, 60, 2), rng.uniform(-4, 4))
        found = self.cells(cost, T)
        centres = (np.argwhere(cost == OCCUPIED) + 0.5) * 0.5 + self.grid.lower[:2]
        places = centres @ T[:2, :2].T + T[:2, 3]
        for place in places:
            assert found[tuple(np.floor(place / 0.5).astype(int))] == OCCUPIED
        for at, value in found.items():
            if value == OCCUPIED:  # two cells that touch are at most a diagonal apart
                assert np.linalg.norm(places - (np.array(at) + 0.5) * 0.5, axis=1).min() < 0.5 * 2**0.5

    def test_what_stands_still_stays_in_its_cell_as_the_vehicle_moves_by_less(self):
        place = np.array([51.3, 7.2])
        cells = []
        for step in np.linspace(0, 0.4, 9):
            index = np.floor((place - [50.0 + step, 7.0] - self.grid.lower[:2]) / 0.5).astype(int)
            cost = np.zeros((8, 6), np.int8)
            cost[tuple(index)] = OCCUPIED
            cells.append({at for at, c in self.cells(cost, self.pose(50.0 + step, 7.0, 0.0)).items() if c == OCCUPIED})
        assert all((102, 14) in found for found in cells)
