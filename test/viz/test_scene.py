"""What viewers draw, on small grids."""

from dataclasses import replace

import numpy as np

from letocc_core.geometry.grid import GridSpec
from letocc_core.stream.types import Calibration, FrameSet, OccFlow
from letocc_core.viz import colours
from letocc_core.viz.viewers.scene import guessed, layer_colours, look, reduced, surface, uncovered, voxels_of

GRID = GridSpec((-8.0, -8.0, -1.0), (8.0, 8.0, 3.0), 0.5)
FORWARD = np.array([[0.0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 1.0], [0, 0, 0, 1]])  # optical frame 1 m above the road


def answer_of(occupied: np.ndarray, observed: np.ndarray | None = None, speed: float = 0.0) -> OccFlow:
    velocity = np.zeros((*GRID.shape, 2), np.float32)
    velocity[occupied] = (speed, 0.0)
    observed = np.ones(GRID.shape, bool) if observed is None else observed
    return OccFlow(0, GRID, 0.8 * occupied.astype(np.float32), velocity, observed, threshold=0.5)


def block(x: slice, y: slice, z: slice) -> np.ndarray:
    occupied = np.zeros(GRID.shape, bool)
    occupied[x, y, z] = True
    return occupied


def test_what_nobody_can_see_of_a_block_is_not_drawn():
    occupied = block(slice(4, 9), slice(4, 8), slice(0, 4))  # 5 x 4 x 4 with 3 x 2 x 2 inside
    assert uncovered(occupied).sum() == 5 * 4 * 4 - 3 * 2 * 2
    assert not uncovered(occupied)[5:8, 5:7, 1:3].any()
    assert uncovered(np.ones((3, 3, 3), bool)).sum() == 26  # the grid's own faces are open


def test_voxels_to_draw_have_their_places_and_colours():
    answer = answer_of(block(slice(4, 5), slice(6, 7), slice(5, 6)), speed=10.0)
    voxels = voxels_of(answer, surface(answer))
    np.testing.assert_allclose(voxels.centres, [[-5.75, -4.75, 1.75]])
    np.testing.assert_array_equal(voxels.colours("height"), colours.height_colours(np.array([1.75])))
    np.testing.assert_array_equal(voxels.colours("speed"), colours.speed_colours(np.array([10.0])))
    np.testing.assert_array_equal(voxels.colours("probability"), colours.probability_colours(np.array([0.8])))


def test_the_speed_scale_tells_standing_from_slow_and_fast():
    still, slow, fast, faster = colours.speed_colours(np.array([0.4, 0.6, 10.0, 30.0]))
    assert tuple(still) == colours.GROUND != tuple(slow)
    assert tuple(fast) == tuple(faster) and int(fast.sum()) > int(slow.sum())


def test_guesses_are_told_from_what_is_seen():
    occupied, observed = block(slice(4, 6), slice(4, 5), slice(4, 5)), np.ones(GRID.shape, bool)
    observed[5] = False
    answer = answer_of(occupied, observed)
    assert np.argwhere(guessed(answer)).tolist() == [[5, 4, 4]]
    assert voxels_of(answer, surface(answer)).index.tolist() == [[4, 4, 4]]
    behind = replace(answer, observed=np.ones(GRID.shape, bool), hidden=~observed)
    assert np.array_equal(guessed(behind), guessed(answer)) and np.array_equal(surface(behind), surface(answer))


def frame_set(height: int, width: int, focal: float) -> FrameSet:
    K = np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]])
    image = np.zeros((height, width, 3), np.uint8)
    return FrameSet(0, (image, None), (Calibration(width, height, K), None), np.stack([FORWARD, np.eye(4)]), np.eye(4))


def test_pixels_know_the_voxel_they_look_at_and_how_far_it_is():
    wall = block(slice(26, 27), slice(None), slice(None))  # x 5 to 5.5 m
    seen, missing = look(answer_of(wall), frame_set(41, 61, 40.0), stride=1)
    assert missing is None
    heights = 1.0 + 5.0 * (20 - np.arange(41)) / 40.0  # m, where each row meets the wall
    meets = (heights > -0.99) & (heights < 2.99)  # beyond is above or below the grid
    np.testing.assert_allclose(seen.depth[meets], 5.0, atol=1e-4)  # along the axis, everywhere on a wall across it
    assert np.isnan(seen.depth[heights > 3.01]).all() and not seen.layer[heights < -1.01].any()
    for row in (6, 13, 21, 34):
        assert (seen.layer[row] == 1 + int((heights[row] + 1.0) / 0.5)).all()


def test_pixels_that_look_at_nothing_say_so():
    seen, _ = look(answer_of(block(slice(26, 27), slice(16, 17), slice(4, 5))), frame_set(41, 61, 40.0), stride=2)
    assert (seen.layer > 0).sum() == np.isfinite(seen.depth).sum() > 0
    assert seen.layer[-1, 0] == 0 and np.isnan(seen.depth[-1, 0])


def test_layers_have_the_colour_of_their_height():
    np.testing.assert_array_equal(layer_colours(GRID)[4], colours.height_colours(np.array([1.25]))[0])


def test_wide_images_are_reduced_with_their_intrinsics():
    small = reduced(frame_set(90, 160, 80.0), widest=80)
    assert small.images[0].shape == (45, 80, 3) and small.images[1] is None
    calibration = small.calibrations[0]
    assert (calibration.width, calibration.height) == (80, 45)
    # the same ray through the corner of the image: half a pixel outside of its first one
    before, after = frame_set(90, 160, 80.0).calibrations[0].K, calibration.K
    corner = np.array([-0.5, -0.5, 1.0])
    np.testing.assert_allclose(np.linalg.inv(after) @ corner, np.linalg.inv(before) @ corner, atol=1e-9)
    same = reduced(frame_set(90, 160, 80.0), widest=160)
    assert same.images[0].shape == (90, 160, 3)
