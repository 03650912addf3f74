"""Frames, cameras and grids against numbers worked out by hand and against scipy."""

import math

import cv2
import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from letocc_core.errors import ConfigError, DataError
from letocc_core.frame import Clip, Frame, collate, stack
from letocc_core.geometry import camera, se3
from letocc_core.geometry.grid import GridSpec, sample_volume
from letocc_core.geometry.masked import packed, take
from letocc_core.geometry.surfaces import first_surface

GRID = GridSpec((0.0, -1.0, 0.0), (2.0, 1.0, 1.0), 0.5)


def random_pose(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return se3.from_quaternion(Rotation.random(random_state=seed).as_quat(), rng.normal(size=3) * 10)


def test_inverse_and_relative():
    A, B = (torch.from_numpy(random_pose(s)) for s in (1, 2))
    assert torch.allclose(se3.inverse(A) @ A, torch.eye(4, dtype=torch.float64), atol=1e-12)
    points = torch.randn(5, 3, dtype=torch.float64)
    there = se3.transform(A, se3.transform(se3.relative(A, B).double(), points))
    assert torch.allclose(there, se3.transform(B, points), atol=1e-4)


def test_relative_keeps_precision_far_from_the_origin():
    far = torch.eye(4, dtype=torch.float64)
    far[0, 3] = 5e6  # UTM northings
    near = far.clone()
    near[0, 3] += 0.125
    assert se3.relative(far, near)[0, 3] == 0.125


def test_quaternion_round_trip_and_faults():
    T = random_pose(3)
    assert np.allclose(se3.from_quaternion(*se3.to_quaternion(T)), T)
    half = math.sqrt(0.5)
    T = se3.from_quaternion([0, 0, half, half], [1, 2, 3])  # 90 degrees left about z
    assert np.allclose(T @ [1, 0, 0, 1], [1, 3, 3, 1])
    with pytest.raises(DataError, match=r"length 0\.500"):
        se3.from_quaternion([0, 0, 0, 0.5], [0, 0, 0])
    with pytest.raises(DataError, match="non-finite"):
        se3.from_quaternion([0, 0, 0, 1], [np.nan, 0, 0])


@pytest.mark.parametrize("fraction", [0.0, 0.3, 1.0, 1.4, -0.2])
def test_interpolation_is_constant_velocity(fraction):
    T0 = random_pose(4)
    step = np.eye(4)
    step[:3, :3] = Rotation.from_rotvec([0.1, -0.2, 0.3]).as_matrix()
    T1 = T0 @ step
    T1[:3, 3] += [1, 2, 3]
    T = se3.interpolate(T0, T1, fraction)
    assert np.allclose(T[:3, :3], T0[:3, :3] @ Rotation.from_rotvec(fraction * np.array([0.1, -0.2, 0.3])).as_matrix())
    assert np.allclose(T[:3, 3], T0[:3, 3] + fraction * np.array([1, 2, 3]))


def test_grid_indices_and_centres():
    assert GRID.shape == (4, 4, 2)
    assert GRID.centres()[1, 2, 0].tolist() == [0.75, 0.25, 0.25]
    assert GRID.to_index(torch.tensor([0.75, 0.25, 0.25])).tolist() == [1, 2, 0]
    index, inside = GRID.to_voxel(torch.tensor([[0.0, -1.0, 0.0], [1.99, 0.99, 0.99], [2.0, 0.0, 0.5], [-0.01, 0, 0]]))
    assert inside.tolist() == [True, True, False, False]
    assert index[1].tolist() == [3, 3, 1]
    assert GRID.coarser(2).shape == (2, 2, 1)


def test_rays_cross_the_box_and_its_part_between_two_heights():
    """Down at 45 degrees from above the middle, along x from the middle, and past the box."""
    origins = torch.tensor([[1.0, 0.0, 2.0], [1.0, 0.0, 0.5], [1.0, 5.0, 0.5]])
    directions = torch.tensor([[0.5, 0.0, -0.5], [2.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    near, far = GRID.crossing(origins, directions)
    assert near[:2].tolist() == [2.0, -0.5] and far[:2].tolist() == [2.0, 0.5] and far[2] < near[2]
    near, far = GRID.crossing(torch.tensor([0.0, 0.0, 0.2]), torch.tensor([1.0, 0.0, 0.1]), (0.3, 0.35))
    torch.testing.assert_close(torch.stack([near, far]), torch.tensor([1.0, 1.5]))


def test_grid_refuses_a_box_that_is_no_whole_number_of_voxels():
    with pytest.raises(ConfigError, match=r"z from 0\.0 to 1\.0 m holds 1\.429 voxels"):
        GridSpec((0.0, 0.0, 0.0), (7.0, 7.0, 1.0), 0.7)
    with pytest.raises(ConfigError, match="positive"):
        GridSpec(voxel_size=0.0)


def test_sampling_reads_a_linear_field_exactly():
    field = (GRID.centres() @ torch.tensor([1.0, 10.0, 100.0]))[None, None]
    points = torch.tensor([[[0.75, 0.25, 0.25], [0.9, 0.1, 0.5], [1.0, 0.0, 0.4]]])
    assert torch.allclose(
        sample_volume(field, GRID, points)[..., 0], points @ torch.tensor([1.0, 10.0, 100.0]), atol=1e-4
    )
    assert sample_volume(field, GRID, torch.tensor([[[9.0, 0.0, 0.5]]])).item() == 0


def test_projection_by_hand():
    K = torch.tensor([[100.0, 0, 50], [0, 100, 40], [0, 0, 1]])
    pixels, depth = camera.project(torch.tensor([[1.0, -0.5, 2.0], [0.0, 0.0, -1.0]]), K)
    assert pixels[0].tolist() == [100, 15]
    assert depth.tolist() == [2, -1]
    assert camera.in_image(pixels, depth, 80, 101).tolist() == [True, False]
    back = camera.ray_directions(pixels[:1], K) * 2
    assert torch.allclose(back, torch.tensor([[1.0, -0.5, 2.0]]))


def test_a_lattice_projects_as_its_points_do():
    K = torch.tensor([[100.0, 0, 50], [0, 110, 40], [0, 0, 1]]).expand(2, 3, 3, 3)
    T_ego_cam = torch.stack([torch.from_numpy(random_pose(s)) / 10 for s in range(6)]).view(2, 3, 4, 4)
    T_ego_cam[..., :3, :3] *= 10
    points = GRID.centres().double().view(1, 1, -1, 3).expand(2, 3, -1, -1)
    expected, depths = camera.project(se3.transform(se3.inverse(T_ego_cam), points), K.double())
    axes = [axis.double() for axis in GRID.axes()]
    pixels, depth = camera.project_lattice(axes, K.double(), T_ego_cam)
    assert depth.shape == (2, 3, *GRID.shape) and (depth > camera.MIN_DEPTH).any() and (depth < 0).any()
    torch.testing.assert_close(depth.flatten(2), depths)
    torch.testing.assert_close(pixels.flatten(2, 4), expected)
    one, _ = camera.project_lattice(axes, K[0, 0].double(), T_ego_cam[1, 2])
    torch.testing.assert_close(one, pixels[1, 2])


def test_resizing_keeps_projections_on_the_same_content():
    """A bright blob lands where the changed intrinsics say."""
    K = np.array([[300.0, 0, 160], [0, 300, 100], [0, 0, 1]])
    point = np.array([0.2, 0.1, 2.0])
    u, v, _ = K @ point / 2.0
    yy, xx = np.mgrid[:200, :320]
    image = np.exp(-((xx - u) ** 2 + (yy - v) ** 2) / 50).astype(np.float32)
    small, K_small = camera.resize_and_crop(image, K, 90, 128)
    assert small.shape == (90, 128)
    u2, v2, _ = K_small @ point / 2.0
    moments = cv2.moments(small)
    assert abs(moments["m10"] / moments["m00"] - u2) < 0.1
    assert abs(moments["m01"] / moments["m00"] - v2) < 0.1


def frame(points: int) -> Frame:
    return Frame(
        stamp=torch.tensor(points),
        images=torch.zeros(2, 3, 4, 5),
        camera_valid=torch.ones(2, dtype=torch.bool),
        K=torch.eye(3).expand(2, 3, 3),
        T_ego_cam=torch.eye(4).expand(2, 4, 4),
        T_world_ego=torch.eye(4, dtype=torch.float64),
        lidar=torch.zeros(points, 3),
        movable=torch.zeros(2, 4, 5, dtype=torch.bool) if points == 3 else None,
    )


def test_stacking_pads_lidar_and_drops_what_not_all_have():
    batch = stack([frame(3), frame(1)])
    assert batch.images.shape == (2, 2, 3, 4, 5)
    assert batch.lidar.shape == (2, 3, 3)
    assert batch.lidar[1].isnan().any(-1).tolist() == [False, True, True]
    assert batch.movable is None and batch.lidar_origin is None
    clips = [Clip(frame(1), (frame(2),), (frame(3), frame(4)))] * 2
    assert collate(clips).sources[1].stamp.tolist() == [4, 4]


def test_what_a_mask_picks_is_packed_to_the_front():
    mask = torch.tensor([[False, True, False, True], [False, False, True, False]])
    index, there = packed(mask)
    assert there.tolist() == [[True, True], [True, False]]
    assert index[there].tolist() == [1, 3, 2]
    values = torch.arange(16.0).view(2, 4, 2)
    assert take(values, index)[there].tolist() == [[2, 3], [6, 7], [12, 13]]
    assert take(values[..., 0], index)[there].tolist() == [2, 6, 12]
    assert [x.shape for x in packed(torch.zeros(3, 5, dtype=torch.bool))] == [(3, 1), (3, 1)]


def test_rays_meet_the_first_surface_between_the_heights():
    """A wall from 1.2 m on; a ray over it, one that goes down and meets it below the lower height, one behind it."""
    grid = GridSpec((0.0, -1.0, 0.0), (2.0, 1.0, 1.0), 0.1)
    sdf = (1.2 - grid.centres()[..., 0])[None, None]
    starts = [[-0.5, 0.0, 0.5], [-0.5, 0.0, 0.9], [-0.5, 0.0, 0.5], [-0.5, 3.0, 0.5]]
    directions = [[1.0, 0.0, 0.0], [1.0, 0.0, 0.1], [1.0, 0.0, -0.2], [1.0, 0.0, 0.0]]
    origins, directions = (torch.tensor(x)[None, None] for x in (starts, directions))
    t = first_surface(sdf, grid, origins, directions, 0.07, (0.2, 0.8))[0, 0]
    torch.testing.assert_close(t, torch.tensor([1.7, torch.inf, torch.inf, torch.inf]), atol=1e-3, rtol=0)
