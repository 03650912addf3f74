"""Masks of what moves by the residual of optical flow, before a wall that a vehicle drives towards."""

import dataclasses

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from letocc_core import config as configuration
from letocc_core.cues.masks import GroundedSam
from letocc_core.cues.residual import FARTHEST, FlowResidual, closed, opened
from letocc_core.data.config import BagData
from letocc_core.errors import ConfigError
from letocc_core.frame import FlowCue, Frame
from letocc_core.geometry import polyline

HEIGHT, WIDTH, FOCAL = 48, 64, 40.0
K = torch.tensor([[[FOCAL, 0, 31.5], [0, FOCAL, 23.5], [0, 0, 1]]])
T_EGO_CAM = torch.tensor([[[0.0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 1.0], [0, 0, 0, 1]]])  # 1 m above base_link
WALL, STEP = 8.0, 1.0  # m ahead of the camera; m that the vehicle drives towards it
PATCH = (slice(10, 22), slice(20, 40))


def frame(lidar: Tensor | None = None) -> Frame:
    return Frame(
        torch.tensor(0),
        torch.zeros(1, 3, HEIGHT, WIDTH),
        torch.ones(1, dtype=torch.bool),
        K,
        T_EGO_CAM,
        torch.eye(4, dtype=torch.float64),
        lidar=lidar,
        lidar_origin=None if lidar is None else torch.zeros(3),
    )


def cue(flow: Tensor) -> FlowCue:
    """A flow [2, H, W] (px) to the instant at which the vehicle has driven a step."""
    T = torch.eye(4, dtype=torch.float64)
    T[0, 3] = STEP
    known = torch.ones(1, HEIGHT, WIDTH, dtype=torch.bool)
    return FlowCue(torch.tensor(10**8), K, T_EGO_CAM, T, flow[None], known)


def wall_flow(depth: float = WALL) -> Tensor:
    """Flow [2, H, W] of a still wall: away from the middle, by step / (depth - step) of the distance to it."""
    v, u = torch.meshgrid(torch.arange(HEIGHT) - 23.5, torch.arange(WIDTH) - 31.5, indexing="ij")
    return torch.stack([u, v]) * STEP / (depth - STEP)


def moved(flow: Tensor, where: tuple[slice, slice], by: float) -> Tensor:
    out = flow.clone()
    out[(0, *where)] += by
    return out


AIR = FlowResidual(ground=False)


def test_nothing_of_a_still_world_moves_at_whatever_depth():
    for depth in (3.0, 8.0, 40.0):
        assert not AIR(frame(), [cue(wall_flow(depth))]).any()


def test_what_moves_across_its_epipolar_lines_is_found():
    """3 px sideways, where the wall's flow is nearly up and down: no depth explains it. A speck is left out, a hole closed."""
    flow = moved(wall_flow(), PATCH, 3.0)
    flow = moved(flow, (slice(40, 43), slice(28, 31)), 9.0)  # a speck of 3 x 3
    flow = moved(flow, (slice(14, 17), slice(28, 31)), -3.0)  # a hole
    expected = torch.zeros(1, HEIGHT, WIDTH, dtype=torch.bool)
    expected[(0, *PATCH)] = True
    found = dataclasses.replace(AIR, residual=1.4)(frame(), [cue(flow)])
    assert (found ^ expected).sum() <= 0.1 * expected.sum()
    assert not found[0, 40:43].any() and found[0, 14:17, 28:31].all()


def test_the_mean_over_the_cues_counts_and_what_no_cue_knows_does_not_move():
    flow = moved(wall_flow(), PATCH, 3.0)
    assert not dataclasses.replace(AIR, residual=1.7)(frame(), [cue(flow), cue(wall_flow())]).any()
    unknown = dataclasses.replace(cue(flow), valid=torch.zeros(1, HEIGHT, WIDTH, dtype=torch.bool))
    assert not AIR(frame(), [unknown]).any()
    assert torch.equal(AIR(frame(), [cue(flow), unknown]), AIR(frame(), [cue(flow)]))


def test_what_keeps_its_distance_is_beyond_the_ground():
    """Something ahead drives as fast as the vehicle: no flow, as if it were infinitely far; below the horizon it cannot."""
    still = torch.zeros(2, HEIGHT, WIDTH)
    assert not AIR(frame(), [cue(still)]).any()
    found = FlowResidual()(frame(), [cue(still)])
    assert not found[0, :24].any() and found[0, 36:].all()


def test_lidar_says_what_an_image_cannot():
    """Flow of a wall 4 m ahead where the sweep has one at 8 m: along the epipolar lines, so only a known depth tells."""
    flow = wall_flow(4.0)
    y, z = torch.meshgrid(torch.arange(-40, 41) * 0.2, torch.arange(-30, 31) * 0.2, indexing="ij")
    sweep = torch.stack([torch.full_like(y, WALL), y, z + 1.0], dim=-1).flatten(0, 1)
    assert not AIR(frame(), [cue(flow)]).any()
    found = dataclasses.replace(AIR, gap=1)(frame(sweep), [cue(flow)])[0]
    assert found[:12].all() and found[-12:].all() and not found[20:28, 28:36].any()  # in the middle nothing shows
    assert not AIR(frame(sweep), [cue(wall_flow())]).any()


def test_bounds_of_depth_by_hand():
    """10 px below the horizon the ground is 40 * 1 / 10 m away; a return 5 m ahead counts two pixels around it."""
    row = 33  # 9.5 px below the middle
    lidar = torch.tensor([[5.0, 0.0, 1.0], [float("nan")] * 3])
    masks = FlowResidual(tolerance=1.25)
    near, far = masks.depths(frame(lidar))
    torch.testing.assert_close(far[0, row, 3].item(), FOCAL / 9.5 * 1.25)
    assert near[0, row, 3] == masks.nearest and far[0, 0, 0] == FARTHEST
    around = (slice(22, 27), slice(30, 35))  # it falls on pixel (31.5, 23.5), which rounds to (32, 24)
    torch.testing.assert_close(near[0][around], torch.full((5, 5), 4.0))
    torch.testing.assert_close(far[0][around], torch.full((5, 5), 6.25))
    assert (near[0] != masks.nearest).sum() == 25


@pytest.mark.parametrize("size", [1, 3, 5])
def test_morphology_is_scipys(size: int):
    mask = np.random.default_rng(0).random((2, 20, 30)) < 0.5
    for ours, theirs in ((opened, ndimage.grey_opening), (closed, ndimage.grey_closing)):
        expected = theirs(mask.astype(np.uint8), size=(1, size, size), mode="nearest")[:, 4:-4, 4:-4]
        assert np.array_equal(ours(torch.from_numpy(mask), size).numpy()[:, 4:-4, 4:-4], expected)


def test_the_nearest_place_of_a_line():
    path = torch.tensor([[0.0, 0.0], [2.0, 0.0], [2.0, 2.0]])[:, None].expand(-1, 3, -1)
    points = torch.tensor([[1.0, -1.0], [3.0, 1.5], [-1.0, 0.5]])
    torch.testing.assert_close(polyline.nearest_on(path, points), torch.tensor([[1.0, 0.0], [2.0, 1.5], [0.0, 0.0]]))


def test_the_keys_of_a_configuration_say_which_masks():
    def masks(**keys):
        return configuration.from_dict(BagData, {"bags": ["a"], "masks": keys}, "test").masks

    assert masks(residual=1.5) == FlowResidual(1.5)
    assert masks(detector="a", segmenter="b", threshold=0.2).threshold == 0.2
    assert isinstance(masks(detector="a", segmenter="b"), GroundedSam)


@pytest.mark.parametrize("wrong", [{"speck": 4}, {"gap": 2}, {"tolerance": 0.9}, {"nearest": 0.0}])
def test_impossible_settings_are_refused(wrong: dict):
    with pytest.raises(ConfigError, match="masks: "):
        FlowResidual(**wrong)
