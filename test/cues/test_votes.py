"""Votes of rays on voxels: against boxes met one by one, and against the truth of a street of boxes."""

import dataclasses

import numpy as np
import pytest
import torch
from analytic_street import AnalyticStreet, Rig

from letocc_core.cues import votes
from letocc_core.cues.votes import Instant, RayVotes, VotesConfig
from letocc_core.data.vote_files import read_votes, write_votes
from letocc_core.errors import ConfigError, DataError
from letocc_core.frame import Frame
from letocc_core.geometry.grid import GridSpec
from letocc_core.geometry.ray_casting import add_crossings, add_points

GRID = GridSpec((-12.0, -12.0, -1.0), (12.0, 12.0, 4.6), 0.4)  # the road in the middle of a layer
STEP = 0.2  # s between the frames of the street
SPEED = 5.0  # m/s


def test_crossed_voxels_are_those_whose_box_the_ray_meets():
    rng = np.random.default_rng(0)
    shape, count = (9, 7, 5), 300
    origins = rng.uniform(-3, 12, (count, 3))
    directions = rng.normal(size=(count, 3))
    directions[:20, 0] = 0  # along a face
    until, weights = rng.uniform(0, 15, count), rng.uniform(0.1, 1, count)
    sums = np.zeros(shape, np.float32)
    add_crossings(origins, directions, until, weights, sums)
    cells = np.indices(shape)[..., None]  # each voxel's box is clipped by itself, for all rays at once
    with np.errstate(divide="ignore"):
        faces = [(cells + side - origins.T[:, None, None, None]) / directions.T[:, None, None, None] for side in (0, 1)]
    enters = np.maximum(np.minimum(*faces).max(0), 0)
    leaves = np.maximum(*faces).min(0)
    crossed = leaves > enters
    part = np.clip((until - enters) / np.where(crossed, leaves - enters, 1), 0, 1) * crossed
    assert np.abs(sums - (part * weights).sum(-1)).max() < 1e-4
    assert sums.sum() > 100


def test_ends_count_in_the_voxel_that_holds_them():
    sums = np.zeros((2, 2, 2), np.float32)
    points = np.array([[0.5, 1.5, 0.1], [0.9, 1.0, 0.9], [2.0, 0, 0], [-0.1, 0, 0]])
    add_points(points, np.array([1.0, 2.0, 4.0, 8.0]), sums)
    assert sums[0, 1, 0] == 3 and sums.sum() == 3


def test_a_ray_says_free_before_its_end_matter_at_it_and_nothing_beyond():
    ray = RayVotes(
        origins=np.array([[0.0, 0.2, 0.2]]),
        directions=np.array([[1.0, 0.0, 0.0]]),
        free_until=np.array([2.0]),
        end=np.array([2.6]),
        spread=np.array([0.01]),
        free_weight=np.array([0.5]),
        end_weight=np.array([0.8]),
    )
    eye = np.eye(4)
    instant = Instant(eye, ray)
    found = votes.cast([instant], instant, GridSpec((0, 0, 0), (4.0, 0.4, 0.4), 0.4), VotesConfig())
    free, matter = found[:, :, 0, 0]
    assert np.allclose(free, [0.5] * 5 + [0] * 5)
    assert np.allclose(matter, [0] * 6 + [0.8] + [0] * 3)


def test_votes_are_kept_up_to_rounding_and_in_their_proportion():
    some = np.array([[0.0, 1.0, 100.0], [0.3, 0.03125, 300.0]], np.float32)[..., None, None]
    kept = votes.unpack(votes.pack(some))[..., 0, 0]
    assert np.abs(kept[:, :2] - some[:, :2, 0, 0]).max() < 1 / votes.ROUNDING
    assert kept[1, 2] == pytest.approx(3 * kept[0, 2], rel=0.02)


@pytest.fixture(scope="module")
def street() -> AnalyticStreet:
    return AnalyticStreet.random(1)


@pytest.fixture(scope="module")
def frames(street) -> list[Frame]:
    rig = Rig(headings=(0, 75, -75), height=64, width=96)
    return [street.frame(rig, SPEED * STEP * i, round(STEP * 1e9 * i))[0] for i in range(9)]


@pytest.fixture(scope="module")
def instants(frames) -> list[Instant]:
    config = VotesConfig(depths=48)
    stamps = [int(f.stamp) for f in frames]
    return [
        votes.instant(frame, [frames[j] for j in votes.neighbours(stamps, i, config)], config)
        for i, frame in enumerate(frames)
    ]


def matter(street: AnalyticStreet, x: float) -> np.ndarray:
    """Voxels that hold some of a box or of the road, with the vehicle at (x, 0, 0)."""
    low = np.stack(np.meshgrid(*[a.numpy() for a in GRID.axes()], indexing="ij"), -1) - 0.2 + [x, 0, 0]
    boxes = street.boxes
    meets = (low[..., None, :] < boxes[:, 1]) & (low[..., None, :] + 0.4 > boxes[:, 0])
    return meets.all(-1).any(-1) | ((low[..., 2] <= 0) & (low[..., 2] + 0.4 > 0))


def test_what_is_voted_is_as_in_truth(street, instants):
    now = 4
    free, occupied = votes.cast(instants, instants[now], GRID, VotesConfig())
    true = matter(street, SPEED * STEP * now)
    known = free + occupied > 0.5
    share = occupied / np.maximum(free + occupied, 1e-6)
    assert known.mean() > 0.15
    assert (true[known & (share < 0.1)]).mean() < 0.05
    assert (true[known & (share > 0.7)]).mean() > 0.75
    unsure = known & (share > 0.2) & (share <= 0.4)
    assert unsure.sum() > 50 and 0.2 < true[unsure].mean() < 0.5  # calibrated: rays that are unsure do not clear space
    found = share > 0.35
    both, either = (true & found & known).sum(), ((true | found) & known).sum()
    assert both / either > 0.5


def test_other_instants_see_what_this_one_does_not(instants):
    alone = votes.cast([instants[4]], instants[4], GRID, VotesConfig())
    together = votes.cast(instants, instants[4], GRID, VotesConfig())
    assert (together.sum(0) > 0.5).sum() > 1.3 * (alone.sum(0) > 0.5).sum()


def test_without_other_frames_there_is_no_depth_and_so_no_vote(frames):
    alone = votes.instant(frames[0], [], VotesConfig(depths=16))
    assert votes.cast([alone], alone, GRID, VotesConfig()).sum() == 0


def test_pixels_of_the_vehicle_itself_do_not_vote(frames):
    config = VotesConfig(depths=48)
    own = torch.zeros(frames[4].images[:, 0].shape, dtype=torch.bool)
    own[:, 40:] = True
    masked = votes.instant(dataclasses.replace(frames[4], own=own), [frames[3], frames[5]], config).still
    whole = votes.instant(frames[4], [frames[3], frames[5]], config).still
    steepest = masked.directions[:, 2].min()  # of the rays that are left: those of the upper part
    assert 0 < len(masked.origins) < len(whole.origins) and steepest > whole.directions[:, 2].min()
    assert steepest >= (31.5 - 40) / float(frames[4].K[0, 1, 1]) - 1e-6


def box_ahead(frame: Frame, depth: float, height: float = 1.5, kerb: float = 0.0, right: float = 0.0) -> Frame:
    """The frame with the mask of a thing 2 m wide that stands so far ahead and to the right, on the road or so high above it."""
    K, T = frame.K[0], frame.T_ego_cam[0]
    camera_height = float(T[2, 3])
    v, u = torch.meshgrid(torch.arange(64.0), torch.arange(96.0), indexing="ij")
    z = depth - float(T[0, 3])
    x, y = (u - K[0, 2]) / K[0, 0] * z, (v - K[1, 2]) / K[1, 1] * z
    movable = torch.zeros(frame.images[:, 0].shape, dtype=torch.bool)
    movable[0] = ((x - right).abs() < 1) & (y < camera_height - kerb) & (y > camera_height - height)
    return dataclasses.replace(frame, movable=movable)


@pytest.mark.parametrize("kerb", [0.0, votes.KERB])
def test_what_moves_is_where_it_stands_and_no_other_instant_says_otherwise(frames, instants, kerb: float):
    config = VotesConfig(depths=48)
    masked = box_ahead(
        frames[4], 8.0, kerb=kerb
    )  # the images show an empty road there: parallax disagrees with the contact
    stamps = [int(f.stamp) for f in frames]
    now = votes.instant(masked, [frames[j] for j in votes.neighbours(stamps, 4, config)], config)
    assert now.moving_pixels[0].any() and not now.moving_pixels[1:].any()
    free, occupied = votes.cast([*instants[:4], now, *instants[5:]], now, GRID, config)
    share = occupied / np.maximum(free + occupied, 1e-6)
    index, _ = GRID.to_voxel(torch.tensor([[8.2, 0.1, 0.7], [5.0, 0.1, 0.7]]))
    there, before = (tuple(i) for i in index.tolist())
    nearby = share[there[0] - 1 : there[0] + 2, there[1], there[2]]
    assert nearby.max() > 0.7
    assert free[before] > 0 and share[before] < 0.1


@pytest.mark.parametrize("speed", [0.0, 3.0])
def test_what_the_masks_of_other_instants_show_elsewhere_does_not_stay(frames, speed: float):
    """A thing 8 m ahead of the middle frame that stands in the street, or crosses it."""
    seen = [box_ahead(f, 8 - SPEED * STEP * (i - 4), right=speed * STEP * (i - 4)) for i, f in enumerate(frames)]
    place = np.array([[8.0, 0.0, 0.3]])
    assert votes._stays(seen[4], place, seen[:4] + seen[5:]).item() == (speed == 0)
    assert votes._stays(seen[4], place, []).item()  # nobody says otherwise
    assert votes._stays(seen[4], np.array([[-8.0, 0.0, 0.3]]), seen[:4]).item()  # behind all cameras


def sweep_of(street: AnalyticStreet, frame: Frame) -> Frame:
    """The frame with returns in all directions from 1.8 m above the vehicle."""
    azimuth, elevation = np.meshgrid(np.radians(np.arange(0, 360, 1.0)), np.radians(np.arange(-24, 8, 2.0)))
    directions = np.stack(
        [np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation)], -1
    ).reshape(-1, 3)
    x = float(frame.T_world_ego[0, 3])
    t, _ = street.cast(np.array([x, 0, 1.8]), directions)
    points = np.array([0, 0, 1.8]) + t[np.isfinite(t), None] * directions[np.isfinite(t)]
    return dataclasses.replace(frame, lidar=torch.tensor(points).float(), lidar_origin=torch.tensor([0, 0, 1.8]))


def test_votes_of_a_lidar_are_as_in_truth(street, frames):
    config = VotesConfig(source="lidar")
    instants = [votes.instant(sweep_of(street, frame), [], config) for frame in frames]
    free, occupied = votes.cast(instants, instants[4], GRID, config)
    true = matter(street, SPEED * STEP * 4)
    known, share = free + occupied > 0.5, occupied / np.maximum(free + occupied, 1e-6)
    assert known.mean() > 0.2
    assert true[known & (share < 0.1)].mean() < 0.03
    assert true[known & (share > 0.7)].mean() > 0.95


def test_the_own_sweep_overrules_what_others_saw_there():
    lower = GridSpec((0, 0, 0), (4.0, 0.4, 0.4), 0.4)
    line = {"origins": np.array([[0.0, 0.2, 0.2]]), "directions": np.array([[1.0, 0, 0]]), "spread": np.array([0.01])}
    one = np.ones(1)
    then = RayVotes(**line, free_until=one * 0.7, end=one, free_weight=one * 3, end_weight=one * 3)  # a car at 1 m
    now = RayVotes(**line, free_until=one * 2.7, end=one * 3, free_weight=one, end_weight=one)  # has left
    instants = [Instant(np.eye(4), sweep=rays) for rays in (then, now)]
    free, occupied = votes.cast(instants, instants[1], lower, VotesConfig(source="lidar"))[:, :, 0, 0]
    assert occupied[2] == 0 and free[2] == 1 and occupied[7] == 1


def test_a_lidar_that_is_not_there_is_missed(frames):
    with pytest.raises(DataError, match="no LiDAR sweep"):
        votes.instant(frames[0], [], VotesConfig(source="lidar"))
    assert votes.instant(frames[0], frames[1:2], VotesConfig(source="both", depths=8)).sweep is None


def test_a_recordings_votes_on_disk_are_those_of_its_instants(frames, instants, tmp_path):
    config = VotesConfig(depths=48)
    stamps = np.array([int(f.stamp) for f in frames])
    path = tmp_path / "votes.npz"
    write_votes(path, lambda i: frames[i], stamps, [4, 5], GRID, config)
    expected = votes.unpack(votes.pack(votes.cast(instants, instants[4], GRID, config)))
    assert np.array_equal(read_votes(path, 4).numpy(), expected)
    with pytest.raises(DataError, match="no votes of frame 6"):
        read_votes(path, 6)


def test_neighbours_are_the_nearest_frames_in_time():
    stamps = np.arange(10) * 100_000_000
    config = VotesConfig(seconds=(-0.4, -0.2, 0.2, 0.4))
    assert votes.neighbours(stamps, 5, config) == [1, 3, 7, 9]
    assert votes.neighbours(stamps, 0, config) == [2, 4]
    assert votes.neighbours(stamps[::7], 0, config) == []


def test_settings_that_make_no_sense_are_refused():
    with pytest.raises(ConfigError, match="expected at least one instant, and none at 0"):
        VotesConfig(seconds=(0.0, 0.2))
    with pytest.raises(ConfigError, match="sure"):
        VotesConfig(sure=0.5)
