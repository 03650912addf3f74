"""Metrics by hand-worked values, and the ray traversal against a plain one."""

import dataclasses
import json
import math

import numpy as np
import pytest

from letocc_core.data.truth import CLASS_NAMES, FREE, Truth
from letocc_core.errors import DataError
from letocc_core.geometry.grid import GridSpec
from letocc_core.geometry.ray_casting import cast, count_crossings
from letocc_core.metrics import frame_score, results
from letocc_core.metrics.baselines import flat_road, mean_occupancy, mean_of, signed_distance
from letocc_core.metrics.budget import DepthByDistance, score_budget
from letocc_core.metrics.depth import DepthRange, DepthScore, depth_errors
from letocc_core.metrics.flow2d import FlowScore
from letocc_core.metrics.frame_score import DepthTruth, Prediction, RayTruth
from letocc_core.metrics.motion import MotionScore, direction_error_deg
from letocc_core.metrics.occupancy import REGIONS, ProbabilityCounts, Shares, VoxelTruth, score_occupancy
from letocc_core.metrics.ray_iou import RayCounts, lidar_directions, select_origins

ROAD, CAR, PEDESTRIAN = (CLASS_NAMES.index(name) for name in ("road", "car", "pedestrian"))
GRID = GridSpec((-4.0, -4.0, -1.0), (4.0, 4.0, 3.0), 0.5)


def plain_cast(occupied, origin, direction):
    """The kernel's traversal for one ray, written the plain way: (distance, voxel, hit)."""
    voxel = [int(c) for c in origin]
    step = [1 if d >= 0 else -1 for d in direction]
    crossing = [
        (v + (s > 0) - o) / d if d else math.inf for v, s, o, d in zip(voxel, step, origin, direction, strict=True)
    ]
    delta = [s / d if d else math.inf for s, d in zip(step, direction, strict=True)]
    last, distance = None, -1.0
    for _ in range(1001):
        inside = all(0 <= v < n for v, n in zip(voxel, occupied.shape, strict=True))
        if not inside and last is not None:
            break
        x, y, z = crossing
        axis = (0 if x < z else 2) if x < y else (1 if y < z else 2)
        if inside:
            last, distance = tuple(voxel), crossing[axis]
            if occupied[last]:
                return distance, last, True
        voxel[axis] += step[axis]
        crossing[axis] += delta[axis]
    return distance, last or (0, 0, 0), False


def test_traversal_equals_the_plain_one():
    rng = np.random.default_rng(0)
    occupied = rng.random((9, 7, 5)) < 0.15
    origins = rng.uniform(-2, [11, 9, 7], (400, 3))
    directions = rng.normal(size=(400, 3))
    directions[:60, 0] = 0  # along the planes too
    directions[:20, 1] = 0
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    hits = cast(occupied, origins, directions)
    for i, (o, d) in enumerate(zip(origins, directions, strict=True)):
        distance, voxel, hit = plain_cast(occupied, o, d)
        assert (hits.distance[i], tuple(hits.voxel[i]), hits.hit[i]) == (np.float32(distance), voxel, hit)
    assert 50 < hits.hit.sum() < 350


def test_traversal_equals_the_plain_one_at_the_protocol_s_size():
    rng = np.random.default_rng(1)
    occupied = rng.random((200, 200, 16)) < 0.01
    directions = lidar_directions()[rng.choice(14040, 200, replace=False)].astype(np.float64)
    origins = rng.uniform((90, 90, 4), (110, 110, 9), (200, 3))
    hits = cast(occupied, origins, directions)
    for i in range(200):
        distance, voxel, hit = plain_cast(occupied, origins[i], directions[i])
        assert (hits.distance[i], tuple(hits.voxel[i]), hits.hit[i]) == (np.float32(distance), voxel, hit)
    assert 20 < hits.hit.sum() < 200


def test_rays_that_are_no_numbers_are_refused():
    occupied, nowhere = np.zeros((2, 2, 2), bool), np.array([[np.nan, 0, 0]])
    for origin, direction in ((nowhere, np.ones((1, 3))), (np.ones((1, 3)), nowhere)):
        with pytest.raises(DataError, match="not a finite number"):
            cast(occupied, origin, direction)


def test_distance_is_to_the_exit_of_the_first_occupied_voxel():
    occupied = np.zeros((10, 3, 3), bool)
    occupied[[4, 7], 1, 1] = True
    along_x = np.array([[1.0, 0, 0]])
    hits = cast(occupied, np.array([[0.25, 1.5, 1.5]]), along_x)
    assert (hits.distance[0], hits.hit[0], tuple(hits.voxel[0])) == (4.75, True, (4, 1, 1))
    inside = cast(occupied, np.array([[4.5, 1.5, 1.5]]), along_x)  # the origin's own voxel counts
    assert (inside.distance[0], inside.hit[0]) == (0.5, True)
    missing = cast(occupied, np.array([[8.5, 1.5, 1.5]]), along_x)  # leaves the grid through voxel 9
    assert (missing.distance[0], missing.hit[0], tuple(missing.voxel[0])) == (1.5, False, (9, 1, 1))
    outside = cast(occupied, np.array([[20.0, 1.5, 1.5]]), along_x)
    assert (outside.distance[0], outside.hit[0], tuple(outside.voxel[0])) == (-1.0, False, (0, 0, 0))


def test_ray_set_of_the_protocol():
    rays = lidar_directions()
    assert rays.shape == (14040, 3) and rays.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(rays, axis=1), 1, atol=1e-6)
    pitch = np.degrees(np.arcsin(rays[::360, 2]))
    assert pitch[0] == pytest.approx(-45) and pitch[9] == pytest.approx(-math.degrees(math.atan(0.1)))
    assert pitch[-1] == pytest.approx(12.548, abs=1e-3)


def test_origins_keep_a_metre_from_the_sides_and_are_at_most_eight():
    positions = np.stack([np.linspace(-30, 30, 61), np.zeros(61), np.full(61, 50.0)], axis=1)  # z is not asked
    chosen = select_origins(positions, GridSpec((-20.0, -20.0, -1.0), (20.0, 20.0, 5.4), 0.4))
    np.testing.assert_array_equal(chosen[:, 0], [-18, -13, -8, -3, 3, 8, 13, 18])
    assert len(select_origins(positions[30:33], GRID)) == 3


def test_geometric_counts_by_hand():
    true_hit = np.array([True, True, True, True, False])
    hit = np.array([True, True, True, False, True])
    error = np.array([0.0, 1.0, 3.0, 0.5, 0.0])  # exactly 1 m is not below 1 m; a miss never matches
    counts = RayCounts.geometric(true_hit, hit, error)
    assert (counts.true[0], counts.predicted[0], counts.matched[:, 0].tolist()) == (4, 3, [1, 2, 3])
    assert counts.summary() == pytest.approx(
        {"1m": 1 / 6, "2m": 2 / 5, "4m": 3 / 4, "mean": (1 / 6 + 2 / 5 + 3 / 4) / 3}
    )


def test_semantic_and_class_given_counts_by_hand():
    true, predicted = np.array([0, 0, 1, 5]), np.array([0, 1, 5, 0])  # 5 is free
    error = np.array([0.5, 0.5, 3.0, 0.0])
    counts = RayCounts.semantic(true, predicted, error, classes=2)
    np.testing.assert_array_equal(counts.true, [2, 1])
    np.testing.assert_array_equal(counts.predicted, [1, 1])
    np.testing.assert_array_equal(counts.matched, [[1, 0], [1, 0], [1, 0]])
    given = RayCounts.class_given(true, error, classes=2)  # IoU_c = TP / (2 N - TP)
    np.testing.assert_allclose(given.iou(), [[1, 0], [1, 0], [1, 1]])


def test_no_ray_gives_no_number():
    nothing = RayCounts.geometric(np.zeros(3, bool), np.ones(3, bool), np.zeros(3))
    assert nothing.summary() == {}


def test_crossings_by_hand():
    grid = GridSpec((0.0, 0.0, 0.0), (5.0, 2.0, 1.0), 1.0)
    origin = np.array([-1.5, 0.5, 0.5])  # outside the box
    along = [[3.5, 0.5, 0.5], [3.2, 0.6, 0.5], [9.0, 0.5, 0.5], [-0.5, 0.5, 0.5], [-1.5, 0.5, 0.5]]
    crossed = count_crossings(grid, origin, np.array([*along, [1.5, 1.4, 0.5]]))
    # two end in voxel 3, one passes through all five, one ends before the box and one where it begins; the last one has
    # y = 0.95 where it enters the box and 1.25 where it leaves voxel 0
    np.testing.assert_array_equal(crossed[:, 0, 0], [4, 3, 3, 1, 1])
    np.testing.assert_array_equal(crossed[:, 1, 0], [1, 0, 0, 0, 0])
    with pytest.raises(DataError, match="not a finite number"):
        count_crossings(grid, origin, np.array([[np.nan, 0, 0]]))


def test_rays_cross_what_sampling_finds_them_in():
    grid = GridSpec((-2.0, -2.0, -1.0), (2.0, 2.0, 1.0), 0.25)
    origin, ends = np.array([0.1, -0.2, 0.3]), np.random.default_rng(2).uniform(-3, 3, (60, 3))
    crossed = count_crossings(grid, origin, ends)
    way = origin + np.linspace(0, 1, 10_001)[:, None, None] * (ends - origin)
    expected = np.sum([grid.holding(way[:, i]) & ~grid.holding(ends[i : i + 1]) for i in range(60)], axis=0)
    assert (crossed != expected).sum() <= 3  # corners that are cut by less than a step
    assert expected.sum() > 300


def test_iou_precision_and_recall_by_hand():
    grid = GridSpec((0.0, -0.5, 0.0), (10.0, 0.5, 1.0), 1.0)  # a row of voxels, their centres 0.5 to 9.5 m ahead
    labels = np.array([ROAD, ROAD, FREE, CAR, CAR, CAR, FREE, FREE, ROAD, FREE], np.uint8).reshape(grid.shape)
    predicted = np.array([1, 1, 0, 1, 0, 1, 1, 0, 0, 1], bool).reshape(grid.shape)
    visible = np.ones(grid.shape, bool)
    visible[[5, 9]] = False
    nothing = np.zeros((1, 1, 1), np.float32)
    truth = Truth(
        nothing, None, None, nothing > 0, nothing.astype(np.uint8), labels, np.zeros((*grid.shape, 2)), visible
    )
    prediction = Prediction(predicted, np.zeros((*grid.shape, 2)))
    score = frame_score.summary(frame_score.score_voxels(VoxelTruth.from_grid(truth), prediction, grid))
    # visible: five occupied, four said to be, three of these rightly; standing: voxels 2, 3, 4, 6, 7
    assert score["iou"] == {"mean": 3 / 6, "all": 4 / 8, "standing": 1 / 3, "12m": 3 / 6}
    assert score["precision"] == {"mean": 3 / 4, "all": 4 / 6, "standing": 1 / 2, "12m": 3 / 4}
    assert score["recall"] == {"mean": 3 / 5, "all": 4 / 6, "standing": 1 / 2, "12m": 3 / 5}
    assert score["iou_by_distance"] == {"0-4m": 1, "4-8m": 0, "8-12m": 0}
    assert score["precision_by_distance"] == {"0-4m": 1, "4-8m": 0}  # nothing is said to be at 8.5 m
    assert score["recall_by_distance"] == {"0-4m": 1, "4-8m": 0, "8-12m": 0}


def test_what_an_answer_says_is_seen_by_hand():
    row = (6, 1, 1)
    occupied, known, observed, seen, predicted = (np.array(bits, bool).reshape(row) for bits in (
        [0, 0, 1, 1, 0, 0], [1, 1, 1, 0, 0, 1], [1, 1, 1, 1, 1, 0], [1, 1, 0, 1, 0, 0], [0, 1, 1, 1, 0, 0],
    ))  # fmt: skip
    truth = VoxelTruth(occupied, known, np.zeros(row, bool), True)
    grid = GridSpec((0.0, -0.5, 0.0), (6.0, 0.5, 1.0), 1.0)
    prediction = Prediction(predicted, np.zeros((*row, 2)), None, predicted.astype(float), observed, seen)
    score = frame_score.summary(frame_score.score_voxels(truth, prediction, grid))
    # of voxels 0, 1 and 3, said to be seen, one is occupied and two are said to be; a ray reaches 0, 1 and 2
    assert (score["iou"]["seen"], score["precision"]["seen"], score["recall"]["seen"]) == (1 / 2, 1 / 2, 1)
    assert score["sight"] == {"precision": 2 / 3, "recall": 2 / 3, "share": 3 / 5}
    swept = frame_score.score_voxels(VoxelTruth(occupied, known, ~known, False), prediction, grid)
    assert frame_score.summary(swept)["precision"]["seen"] == 0 and "sight" not in swept  # 0 and 1 only


def test_the_error_budget_by_hand():
    grid = GridSpec((0.0, -0.5, 0.0), (8.0, 0.5, 1.0), 1.0)
    row = grid.shape
    occupied, said, known, observed, seen = (np.array([c == "x" for c in bits]).reshape(row) for bits in (
        "x..x.xx.", ".xx..x.x", "xxxxxxx.", "xxx.xxxx", "xx..xxxx",
    ))  # fmt: skip
    velocity = np.zeros((*row, 2))
    velocity[0] = (3.0, 0)  # voxels 0 and 1 are within 1 m of it
    truth = VoxelTruth(occupied, known, ~known, True)
    budget = score_budget(truth, said, seen, observed, grid, velocity)["error_budget"].summary()
    # wrong: 0 missed and seen, 1 false and seen, 2 false and hidden, 3 missed outside, 6 missed and seen; of 7 nothing is known
    expected = {
        "false_seen": 1,
        "false_hidden": 1,
        "missed_seen": 2,
        "missed_hidden": 0,
        "missed_outside": 1,
        "moving": 2,
    }
    assert budget == pytest.approx({name: count / 5 for name, count in expected.items()})
    assert "moving" not in score_budget(truth, said, seen, observed, grid)["error_budget"].summary()


def test_depth_by_distance_by_hand():
    true = np.array([[2.0, 10.0, 11.0, 30.0, np.nan]])
    said = np.array([[1.0, 12.0, 11.0, 45.0, 1.0]])
    movable = np.array([[False, True, False, True, True]])
    score = DepthByDistance.of(true, said, np.ones((1, 5), bool), movable, DepthRange())
    expected = {"0-4m": 0.5, "8-12m": 0.1, "20m+": 0.5, "movable": 0.35}
    assert (score + DepthByDistance()).summary() == pytest.approx(expected)


def test_frames_are_added_before_dividing():
    first, second = Shares({"mean": (1, 2), "all": (0, 0)}), Shares({"mean": (3, 3), "12m": (1, 4)})
    assert (first + second).summary() == {"mean": 4 / 5, "12m": 1 / 4}
    assert Shares().summary() == {}


def test_a_sweep_tells_what_is_free_by_hand():
    grid = GridSpec((0.0, 0.0, 0.0), (6.0, 1.0, 2.0), 1.0)
    origin = np.array([0.5, 0.5, 1.5])
    wall, road = [4.5, 0.5, 1.5], [2.5, 0.5, 0.2]
    everywhere = np.ones(grid.shape, bool)
    truth = VoxelTruth.from_sweep(np.array([wall] * 4 + [road, [np.nan] * 3]), origin, grid, everywhere)
    assert np.argwhere(truth.occupied).tolist() == [[2, 0, 0], [4, 0, 1]]
    assert np.argwhere(truth.known & ~truth.occupied).tolist() == [[x, 0, 1] for x in range(4)]
    full = frame_score.summary(score_occupancy(truth, everywhere, grid))
    assert full["iou"] == full["precision"] == {"mean": 2 / 6, "standing": 1 / 5, "12m": 2 / 6}  # nothing said of all
    assert full["recall_by_distance"] == {"0-4m": 1, "4-8m": 1}
    few = VoxelTruth.from_sweep(np.array([wall] * 3), origin, grid, everywhere)
    assert np.argwhere(few.known).tolist() == [[4, 0, 1]]  # three cross the others
    assert not VoxelTruth.from_sweep(np.array([wall] * 4), origin, grid, ~everywhere).known.any()


def test_a_ray_says_nothing_of_the_ground_that_it_grazes():
    """From 1.5 m down to the road 9 m ahead: it is more than a voxel above the road for the first third of its way."""
    grid = GridSpec((0.0, 0.0, 0.0), (10.0, 1.0, 2.0), 1.0)
    origin, road = np.array([0.5, 0.5, 1.5]), np.array([[9.5, 0.5, 0.0]] * 4)
    low = VoxelTruth.from_sweep(road, origin, grid, np.ones(grid.shape, bool))
    assert np.argwhere(low.known & ~low.occupied).tolist() == [[x, 0, 1] for x in range(3)]
    # a wall of that height instead: to its foot the way is free, from 1 m down at 5.8 m in the lower layer
    foot = np.array([[9.5, 0.5, 0.45]] * 4)
    wall = VoxelTruth.from_sweep(foot, origin, grid, np.ones(grid.shape, bool))
    assert np.argwhere((wall.known & ~wall.occupied)[:, 0, 1]).ravel().tolist() == list(range(5))
    assert np.argwhere((wall.known & ~wall.occupied)[:, 0, 0]).ravel().tolist() == list(range(4, 9))


def test_probabilities_are_counted_by_hand():
    grid_row = (6, 1, 1)
    probability = np.array([0.05, 0.15, 0.75, 0.75, 0.95, 1.0]).reshape(grid_row)
    occupied = np.array([0, 1, 1, 0, 1, 1], bool).reshape(grid_row)
    observed, known = np.ones(grid_row, bool), np.ones(grid_row, bool)
    observed[4] = False
    truth = VoxelTruth(occupied, known, np.zeros(grid_row, bool), False)
    counts = ProbabilityCounts.of(truth, probability, observed)
    at = counts.at_thresholds()
    # above 0.2: voxels 2, 3, 5, two of them rightly, of four; the one that no camera looks at is missed at any threshold
    assert (at["iou"][19], at["precision"][19], at["recall"][19]) == (2 / 5, 2 / 3, 2 / 4)
    assert (at["iou"][9], at["iou"][0], at["recall"][98]) == (3 / 5, 3 / 6, 1 / 4)
    expected = {"best_threshold": 0.05, "best_iou": 3 / 5, "calibration_error": (0.05 + 0.85 + 2 * 0.25) / 5}
    assert counts.summary() == pytest.approx(expected | {"0-10%": 0, "10-20%": 1, "70-80%": 0.5, "90-100%": 1})
    twice = (counts + counts).summary()
    assert twice == pytest.approx(counts.summary())
    empty = VoxelTruth(~known, ~known, ~known, False)
    assert ProbabilityCounts.of(empty, probability, observed).summary() == {}


def test_depth_errors_by_hand():
    true = np.array([1.0, 2.0, 0.0, np.inf, np.nan, 100.0])
    predicted = np.array([2.0, 1.0, 5.0, 5.0, 5.0, 5.0])
    errors = depth_errors(true, predicted)
    expected = [0.75, 0.75, 1.0, math.log(2), 0, 0, 0]
    np.testing.assert_allclose(errors, expected)
    assert depth_errors(true, predicted, valid=np.zeros(6, bool)) is None
    np.testing.assert_allclose(depth_errors(true[:2], 7 * true[:2], median_scaling=True)[:4], 0, atol=1e-12)
    clipped = depth_errors(np.array([40.0]), np.array([1e9]), limits=DepthRange(0.1, 80.0))
    assert clipped[0] == 1.0


def test_depth_score_is_the_mean_over_images_and_refuses_nan():
    true = np.array([[1.0, 1.0], [1.0, np.nan], [np.nan, np.nan]])
    score = DepthScore.of_images(true, np.array([[1.0, 2.0], [3.0, 1.0], [1.0, 1.0]]), np.ones((3, 2), bool))
    assert (score.images, score.summary()["abs_rel"]) == (2, pytest.approx((0.5 + 2.0) / 2))
    assert set(score.summary()) == set(results.GROUPS["depth"])
    with pytest.raises(DataError, match="not finite at 1 of 1"):
        depth_errors(np.array([1.0]), np.array([np.nan]))


def test_motion_by_hand():
    true = np.array([[2.0, 0], [0, 4.0], [0, 0], [0, 0], [0.1, 0]])
    predicted = np.array([[2.0, 1.0], [0, 0], [0, 1.0], [0, 0], [0.2, 0]])
    rays = MotionScore.of_rays(np.array([0, 1, 1, 1, 0]), true, predicted, np.array([1, 0, 1, 1, 1], bool), 3)
    # classes 0 and 1, moving rays only; one of them can be supervised
    assert rays.summary() == pytest.approx({"mave": (1.0 + 4.0) / 2, "mave_supervised": 1.0})
    everywhere = np.ones(5, bool)
    voxels = MotionScore.of_voxels(true, predicted, everywhere, 3).summary()
    assert voxels["direction_error_deg"] == pytest.approx((math.degrees(math.atan(0.5)) + 90) / 2)
    assert voxels["false_motion"] == pytest.approx(1 / 3) and voxels["found"] == 1
    first = np.array([1, 0, 1, 0, 0], bool)  # one of the two that move, and one that stands still and seems to move
    voxels = MotionScore.of_voxels(true, predicted, first, 3).summary()
    assert voxels["direction_error_deg"] == pytest.approx(math.degrees(math.atan(0.5)))
    assert voxels["false_motion"] == 1 and voxels["found"] == 0.5
    np.testing.assert_allclose(direction_error_deg(np.array([[1.0, 0]]), np.array([[-1.0, 0]])), 180)


def test_direction_is_the_median_over_all_frames():
    def frame(*degrees: float) -> MotionScore:
        angles = np.radians(degrees)
        true, found = np.tile([3.0, 0.0], (len(degrees), 1)), np.ones(len(degrees), bool)
        return MotionScore.of_voxels(true, np.stack([np.cos(angles), np.sin(angles)], axis=1), found, 2)

    assert (frame(5, 170, -10) + frame(-20, 90)).summary()["direction_error_deg"] == pytest.approx(20)
    assert frame().summary() == {}


def test_false_motion_counts_occupied_visible_voxels_of_every_class():
    truth, _ = scene()
    velocity = np.zeros_like(truth.velocity)
    velocity[:4] = (0.6, 0.0)  # four of the sixteen rows of road move, it is said
    occupied = truth.occupancy != FREE
    occupied[:, 0, 0] = True  # a ghost below the road: not counted
    hidden = truth.visible.copy()
    hidden[:2] = False
    score = frame_score.summary(
        frame_score.score_voxel_motion(dataclasses.replace(truth, visible=hidden), Prediction(occupied, velocity))
    )
    road = (truth.occupancy == ROAD) & hidden
    assert score["motion"]["false_motion"] == pytest.approx(road[:4].sum() / road.sum())
    assert score["motion"]["direction_error_deg"] == 90  # the car is said to stand


def test_flow_error_by_hand():
    true = np.array([[1.0, 0], [0, 0], [np.nan, 0]])
    score = FlowScore.of(true, np.array([[4.0, 4], [0, 1], [0, 0]]), np.ones(3, bool), np.array([True, False, True]))
    assert score.summary() == {"epe": 3.0, "epe_fg": 5.0}


def scene():
    """A road and a car that drives at 5 m/s, seen by one camera at the origin that looks along x."""
    labels = np.full(GRID.shape, FREE, np.uint8)
    labels[:, :, 1:2] = ROAD
    labels[13:15, 6:10, 2:5] = CAR
    velocity = np.zeros((*GRID.shape, 2), np.float32)
    velocity[labels == CAR] = (5.0, 0.0)
    K = np.array([[[20.0, 0, 20], [0, 20, 10], [0, 0, 1]]])
    T = np.eye(4)
    T[:3, :3], T[:3, 3] = [[0, 0, 1], [-1, 0, 0], [0, -1, 0]], [0.0, 0.0, 1.0]
    depth = np.full((1, 21, 41), 2.5, np.float32)
    flow = np.zeros((1, 21, 41, 2), np.float32)
    truth = Truth(
        depth, flow, flow, depth > 0, np.full(depth.shape, CAR, np.uint8), labels, velocity, np.ones(GRID.shape, bool)
    )
    pixels = np.array([[[20.0, 10.0], [0.0, 10.0]]])
    return truth, DepthTruth(K, T[None], pixels, np.array([[2.5, 2.5]]))


def test_a_perfect_prediction_scores_one():
    truth, cues = scene()
    rays = RayTruth.from_grid(truth, np.array([[0.0, 0.0, 1.6]]), GRID, cues)
    perfect = Prediction(truth.occupancy != FREE, truth.velocity, np.array([[2.5, 2.5]]))
    score = frame_score.add(frame_score.score_rays(rays, perfect), frame_score.score_voxel_motion(truth, perfect))
    score = frame_score.add(score, frame_score.score_voxels(VoxelTruth.from_grid(truth), perfect, GRID))
    score = frame_score.summary(frame_score.add(score, frame_score.score_depth(cues, perfect, GRID, DepthRange())))
    assert score["ray_iou"] == score["ray_iou_objects"] == {"1m": 1, "2m": 1, "4m": 1, "mean": 1}
    assert score["iou"] == score["precision"] == score["recall"] == dict.fromkeys(set(REGIONS) - {"seen"}, 1)
    assert score["depth"] == {"abs_rel": 0, "sq_rel": 0, "rmse": 0, "rmse_log": 0, "a1": 1, "a2": 1, "a3": 1}
    assert score["motion"]["mave"] == score["motion"]["direction_error_deg"] == 0


def test_an_occupied_origin_hides_everything():
    truth, cues = scene()
    rays = RayTruth.from_grid(truth, np.array([[0.0, 0.0, 1.6]]), GRID, cues)
    everything = Prediction(np.ones(GRID.shape, bool), truth.velocity)
    iou = frame_score.summary(frame_score.score_rays(rays, everything))["ray_iou"]
    assert iou["1m"] < 0.2 and iou["4m"] > iou["1m"]


def test_objects_are_the_rays_that_do_not_end_on_the_ground():
    truth, cues = scene()
    rays = RayTruth.from_grid(truth, np.array([[0.0, 0.0, 1.6]]), GRID, cues)
    np.testing.assert_array_equal(rays.is_object, truth.occupancy[tuple(rays.hits.voxel.T)] == CAR)
    assert rays.hits.hit.all() and 0 < rays.is_object.mean() < 0.5
    road = flat_road(GRID)
    road_only = frame_score.summary(frame_score.score_rays(rays, Prediction(road.occupied, truth.velocity * 0)))
    assert road_only["ray_iou"]["1m"] < 1 and road_only["ray_iou_objects"]["1m"] < road_only["ray_iou"]["1m"]


def test_a_sweep_scores_like_a_grid_whose_voxels_are_its_returns():
    origin = np.array([0.0, 0.0, 1.0])
    points = np.array([[2.75, 0.2, 1.0], [0.2, 2.75, 0.05], [np.nan, 0, 0], [90.0, 0, 1]])
    truth = RayTruth.from_sweep(points, origin, GRID, np.ones(GRID.shape, bool))
    occupied = np.zeros(GRID.shape, bool)
    occupied[tuple(truth.hits.voxel.T)] = True
    score = frame_score.score_rays(truth, Prediction(occupied, np.zeros((*GRID.shape, 2))))
    assert score["ray_iou"].true[0] == 2 and score["ray_iou"].summary()["1m"] == 1
    assert truth.is_object.tolist() == [True, False]
    assert "motion" not in score
    unseen = RayTruth.from_sweep(points, origin, GRID, np.zeros(GRID.shape, bool))
    assert frame_score.summary(frame_score.score_rays(unseen, Prediction(occupied, np.zeros((*GRID.shape, 2))))) == {}


def test_cues_see_what_is_far_enough_slow_enough_and_not_hidden():
    truth, cues = scene()
    truth.depth[:] = 5.0
    points = np.array([[5.0, 0, 1.0], [2.0, 0, 1.0], [8.0, 0, 1.0], [-5.0, 0, 1.0], [5.0, 9.0, 1.0]])
    assert frame_score.cue_sees(points, truth, cues.K, cues.T_ego_cam).tolist() == [True, False, False, False, False]
    truth.flow_forward[..., 0] = 21.0
    assert not frame_score.cue_sees(points, truth, cues.K, cues.T_ego_cam).any()


def test_implied_flow_of_a_moving_point_seen_from_a_moving_ego():
    _, cues = scene()
    T_next_ego = np.eye(4)
    T_next_ego[0, 3] = -0.5  # ego drove 0.5 m forward
    cues = DepthTruth(
        cues.K, cues.T_ego_cam, np.array([[[24.0, 10.0], [24.0, 10.0]]]), np.array([[2.5, 2.5]]),
        np.zeros((1, 2, 2)), np.ones((1, 2), bool), T_next_ego, 0.1,
    )  # fmt: skip
    velocity = np.zeros((*GRID.shape, 2))
    velocity[..., 0], velocity[..., 1] = 10.0, -2.0  # 1 m away and 0.2 m to the right
    flow = frame_score.implied_flow(cues, np.array([[2.5, 5.0]]), velocity, GRID)
    np.testing.assert_allclose(flow[0, 0], [20 * 0.7 / 3.0 - 4, 0], atol=1e-9)
    np.testing.assert_allclose(flow[0, 1], [20 * 1.2 / 5.5 - 4, 0], atol=1e-9)  # outside the box: the nearest voxel's


def test_baseline_sceneries():
    road = flat_road(GRID)
    assert road.occupied.sum() == 16 * 16 and road.occupied[:, :, 1].all()  # z = 0 is the upper face of voxel 1
    np.testing.assert_allclose(road.sdf[3, 3], np.arange(8) * 0.5 - 0.75)
    empty, full = np.full(GRID.shape, FREE, np.uint8), np.full(GRID.shape, ROAD, np.uint8)
    np.testing.assert_allclose(mean_of([empty, full, full]), 2 / 3)
    assert mean_occupancy(np.full(GRID.shape, 0.5), GRID).occupied.sum() == 0
    line = np.zeros((7, 1, 1), bool)
    line[3:5] = True
    np.testing.assert_allclose(signed_distance(line, 0.4)[:, 0, 0], [1.0, 0.6, 0.2, -0.2, -0.2, 0.2, 0.6], atol=1e-6)


RESULTS = {
    "ray_iou": {"1m": 0.5, "2m": 0.6, "4m": 0.7, "mean": 0.6},
    "depth": {"abs_rel": 0.2},
    "baselines": {"flat_road": {"ray_iou": {"mean": 0.3}}, "zero_velocity": {"motion": {"mave": 4.0}}},
    "scenes": 1,
    "frames": 2,
    "versions": {"letocc": "0.1.0"},
}


def test_result_files_keep_their_content(tmp_path):
    results.write_results(tmp_path / "out" / "result.json", RESULTS)
    assert results.read_results(tmp_path / "out" / "result.json") == RESULTS


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rayiou": {}}, "rayiou: unknown key"),
        ({"ray_iou": {"3m": 0.1}}, "ray_iou.3m: unknown key; known: 1m, 2m, 4m, mean"),
        ({"ray_iou": {"1m": 1.5}}, "ray_iou.1m is 1.5, out of range"),
        ({"depth": {"abs_rel": float("nan")}}, "depth.abs_rel is nan, expected a finite number"),
        ({"baselines": {"oracle": {}}}, "baselines.oracle: unknown; known: flat_road"),
        ({"baselines": {"flat_road": {"scenes": 3}}}, "baselines.flat_road.scenes: unknown key"),
        ({"frames": "2"}, "frames is '2', expected int"),
    ],
)
def test_result_files_that_are_wrong_are_refused(change, message):
    with pytest.raises(DataError, match="results-format") as error:
        results.validate_results({**RESULTS, **change})
    assert message in str(error.value)


def test_unreadable_result_files(tmp_path):
    path = tmp_path / "result.json"
    for content, message in ((None, "cannot be read"), ("{", "not JSON"), (json.dumps([1]), "found list")):
        if content is not None:
            path.write_text(content)
        with pytest.raises(DataError, match=message):
            results.read_results(path)


def test_table_has_a_row_a_method_and_only_columns_with_numbers():
    table = results.markdown_table(results.rows(RESULTS, "ours")).splitlines()
    assert len(table) == 5 and len({len(line) for line in table}) == 1
    assert "RMSE" not in table[0] and "mAVE" in table[0]
    assert table[2].split("|")[1].strip() == "ours" and "0.600" in table[2]
