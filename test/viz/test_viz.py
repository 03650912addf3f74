"""Pictures: what must be where, on small grids; files that open."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from letocc_core.errors import DataError
from letocc_core.geometry.grid import GridSpec
from letocc_core.stream.types import OccFlow
from letocc_core.viz import colours
from letocc_core.viz.birdseye import arrow_of, birdseye, objects_of
from letocc_core.viz.overview import Moment, left_to_right, overview, save_png
from letocc_core.viz.replay_gif import write_gif
from letocc_core.viz.voxels import View, render_voxels, voxel_heights

GRID = GridSpec((-8.0, -8.0, -1.0), (8.0, 8.0, 3.0), 0.5)
STILL = np.zeros((*GRID.shape, 2), np.float32)


def block(x: slice, y: slice, z: slice) -> np.ndarray:
    occupied = np.zeros(GRID.shape, bool)
    occupied[x, y, z] = True
    return occupied


def close(pixel: np.ndarray, colour: tuple, tolerance: int = 3) -> bool:
    return bool(np.abs(pixel.astype(int) - colour).max() <= tolerance)


def test_bird_sees_forward_up_and_left_to_the_left():
    ahead_left = block(slice(30, 32), slice(30, 32), slice(2, 8))  # x 7 to 8 m, y 7 to 8 m
    picture = birdseye(ahead_left, STILL, GRID, 320)
    top = colours.height_colours(np.array([2.75]))
    assert close(picture[5, 5], top) and close(picture[15, 15], top) and close(picture[25, 25], colours.EMPTY)
    assert close(picture[5, -5], colours.EMPTY) and close(picture[-5, 5], colours.EMPTY)
    assert close(picture[140, 160], colours.EGO)  # the nose points up


def test_bird_marks_columns_that_nobody_sees():
    seen = np.ones(GRID.shape, bool)
    seen[:4] = False  # behind
    road = block(slice(0, 2), slice(0, 32), slice(1, 2))
    picture = birdseye(road, STILL, GRID, 320, seen)
    assert close(picture[-5, 100], colours.GROUND)  # occupied anyway
    assert close(picture[-30, 100], colours.UNSEEN)
    assert close(picture[60, 100], colours.EMPTY)


def test_things_that_move_are_found_with_their_mean_velocity():
    occupied = block(slice(4, 8), slice(4, 6), slice(2, 4)) | block(slice(20, 24), slice(20, 22), slice(2, 5))
    velocity = STILL.copy()
    velocity[4:8, 4:6] = (2.0, -1.0)
    velocity[20:24, 20:22] = (0.1, 0.0)  # too slow to draw
    (found,) = objects_of(occupied, velocity, GRID)
    start, tip = arrow_of(found)
    np.testing.assert_allclose(start, (-5.0, -5.5, 1.0))  # middle of the upper side
    np.testing.assert_allclose(tip - start, (2.4, -1.2, 0.0))  # the way of 1.2 s


def test_directions_have_colours_of_their_own():
    forward, left, back, right = colours.direction_colours(np.array([[2.0, 0], [0, 0.7], [-5, 0], [0, -1]])).astype(int)
    assert forward[0] > 200 > forward[1:].max() and left[1] > 200 and back[0] < 100 < back[1:].min() and right[2] > 200
    wheel = colours.direction_wheel(33)
    assert (
        close(wheel[3, 16], tuple(forward)) and close(wheel[16, 3], tuple(left)) and close(wheel[-4, 16], tuple(back))
    )
    assert close(wheel[0, 0], colours.PAPER)


def test_what_moves_is_coloured_and_has_an_arrow():
    car = block(slice(10, 14), slice(20, 24), slice(2, 4))
    velocity = STILL.copy()
    velocity[car] = (0.0, 4.0)  # to the left: 4.8 m in 1.2 s
    to_the_left = tuple(colours.direction_colours(np.array([0.0, 4.0])))
    picture = birdseye(car, velocity, GRID, 320, objects=objects_of(car, velocity, GRID))
    assert close(picture[180 + 5, 85], to_the_left)  # a corner of the car: x -3 m, y 3.7 m
    assert close(picture[200, 60], to_the_left)  # on the arrow: y 5 m
    assert close(birdseye(car, STILL, GRID, 320)[185, 85], colours.height_colours(np.array([0.75]))[0])


def test_view_projects_what_its_rays_look_at():
    view = View((-10.0, 2.0, 8.0), (0.0, 0.0, 0.0), 40.0, 60, 80)
    row, column = 17, 55
    ray = view.rays()[row * view.width + column]
    np.testing.assert_allclose(view.project(np.array([view.eye + ray * 7.0])), [[column + 0.5, row + 0.5]], atol=1e-6)
    right, down, forward = view.axes()
    assert right[1] < 0 and down[2] < 0 and forward[0] > 0  # looking forward: right is -y


def test_voxel_picture_shows_the_nearest_and_the_sky():
    view = View((-20.0, 0.0, 0.75), (0.0, 0.0, 0.75), 30.0, 61, 61)
    front, behind = block(slice(10, 11), slice(0, 32), slice(2, 5)), block(slice(20, 21), slice(0, 32), slice(2, 8))
    colour = np.zeros((*GRID.shape, 3), np.uint8)
    colour[10], colour[20] = (200, 0, 0), (0, 200, 0)
    picture = render_voxels(front | behind, colour, GRID, view, ego=False)
    middle, above, sky = picture[30, 30].astype(int), picture[24, 30].astype(int), picture[2, 30]
    assert middle[0] > 80 and middle[1] == 0  # red wall
    assert above[1] > 80 and above[0] == 0  # the green one rises behind it
    assert close(sky, colours.SKY)


def test_ego_box_is_hidden_by_what_stands_before_it():
    view = View((-20.0, 0.0, 0.75), (0.0, 0.0, 0.75), 30.0, 61, 61)
    colour = np.full((*GRID.shape, 3), 90, np.uint8)
    nothing, wall = np.zeros(GRID.shape, bool), block(slice(8, 9), slice(None), slice(None))
    orange = [render_voxels(o, colour, GRID, view)[30, 30].astype(int) for o in (nothing, wall)]
    assert orange[0][0] > orange[0][2] + 80 and abs(orange[1][0] - orange[1][2]) < 5


def test_colour_scales():
    depth = colours.depth_colours(np.array([1.0, 2.0, 5.0, 20.0, 40.0, 90.0]))
    brightness = depth.astype(int).sum(1)
    assert brightness[0] == brightness[1] and (np.diff(brightness[1:5]) < 0).all() and brightness[4] == brightness[5]
    for unknown in (np.inf, np.nan, 0.0):
        assert close(colours.depth_colours(np.array([unknown]))[0], colours.UNSEEN)
    assert close(colours.height_colours(np.array([0.0]))[0], colours.GROUND)


def test_cameras_from_left_to_right():
    def looking(degrees: float) -> np.ndarray:
        T = np.eye(4)
        c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
        T[:3, :3] = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ [[0, 0, 1], [-1, 0, 0], [0, -1, 0]]
        return T

    order = left_to_right(np.stack([looking(a) for a in (0, 55, -55, 180, 110, -110)]))
    assert order == [4, 1, 0, 2, 5, 3]


def moment(cameras: int = 6, truth: bool = True) -> Moment:
    occupied = block(slice(0, 32), slice(0, 32), slice(1, 2)) | block(slice(22, 26), slice(4, 8), slice(2, 5))
    velocity = STILL.copy()
    velocity[22:26, 4:8] = (3.0, 0.0)
    output = OccFlow(1_200_000_000, GRID, occupied * np.float32(0.9), velocity, np.ones(GRID.shape, bool), 0.5)
    images = [np.full((24, 48, 3), 40 * i, np.uint8) for i in range(cameras - 1)] + [None] * (cameras > 1)
    images = images or [np.zeros((24, 80, 3), np.uint8)]
    depth = [None if image is None else np.full((12, 24), 7.0) for image in images]
    known = {"true_occupied": occupied, "true_velocity": velocity, "true_depth": depth} if truth else {}
    return Moment(output, images, [f"camera_{i}" for i in range(len(images))], depth, **known)


@pytest.mark.parametrize(("cameras", "truth"), [(6, True), (1, False)])
def test_overview_is_a_page_with_computed_and_true_rows(tmp_path: Path, cameras: int, truth: bool):
    page = overview(moment(cameras, truth), "Title", "caption")
    path = save_png(tmp_path / "new" / "overview.png", page)
    with Image.open(path) as image:
        assert image.size == (1800, page.shape[0])
    assert (page.shape[0] > 1300) == truth
    forward = colours.direction_colours(np.array([3.0, 0.0]))
    assert (np.abs(page.astype(int) - forward).max(-1) < 4).sum() > 100  # the car and its arrow


def test_gif_repeats_and_holds_every_moment(tmp_path: Path):
    path = write_gif(tmp_path / "replay.gif", [moment(), moment(truth=False), moment(1)][:2], "Title", fps=10.0)
    with Image.open(path) as image:
        assert (image.n_frames, image.info["loop"], image.info["duration"]) == (2, 0, 100)
    with pytest.raises(DataError, match="no output to animate"):
        write_gif(tmp_path / "empty.gif", [], "Title")


def test_heights_are_those_of_the_voxel_centres():
    np.testing.assert_allclose(voxel_heights(GRID)[3, 4], np.arange(8) * 0.5 - 0.75)


def test_depth_strip_has_images_above_their_depth():
    import torch

    from letocc_core.frame import Frame
    from letocc_core.losses.objective import StaticStageConfig
    from letocc_core.viz.depth import depth_strip

    K = torch.tensor([[24.0, 0, 23.5], [0, 24.0, 11.5], [0, 0, 1]]).repeat(1, 2, 1, 1)
    T = torch.tensor([[0, 0, 1.0, 0], [-1, 0, 0, 0], [0, -1, 0, 1.3], [0, 0, 0, 1]]).repeat(1, 2, 1, 1)
    images = torch.full((1, 2, 3, 24, 48), 0.5)
    frame = Frame(
        torch.zeros(1, dtype=torch.int64), images, torch.tensor([[True, False]]), K, T, torch.eye(4).double()[None]
    )
    flat = GRID.centres()[..., 2][None, None]
    fields = type("Fields", (), {"sdf": flat, "flow": None, "semantics": None})
    strip = depth_strip(fields, GRID, frame, StaticStageConfig(beta_end=0.05), progress=1.0)
    assert strip.shape == (48, 96, 3) and close(strip[5, 5], (127, 127, 127))
    assert close(strip[24, 24], colours.UNSEEN)  # above the horizon
    assert close(strip[-1, 24], colours.depth_colours(np.array([1.3 * 24 / 11.0])), 25)
    assert close(strip[-1, 60], colours.UNSEEN)  # an absent camera
