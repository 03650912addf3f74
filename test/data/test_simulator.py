"""The street simulator: its truths agree with each other, and a seed is a street."""

import numpy as np
import pytest
import torch
import yaml

from letocc_core.data.bags.recording import Recording
from letocc_core.data.config import SimulatorData
from letocc_core.data.simulator.bags import load_truth, simulate, truth_folder
from letocc_core.data.simulator.clips import SimulatorClips
from letocc_core.data.simulator.rig import Rig
from letocc_core.data.simulator.street import Street
from letocc_core.data.truth import CLASS_NAMES, FREE, GROUND_CLASSES, MOVABLE_CLASSES
from letocc_core.errors import ConfigError, DataError
from letocc_core.frame import InputConfig
from letocc_core.geometry.grid import GridSpec
from letocc_core.geometry.rectify import Rectifier

SIZE = (48, 84)
GRID = GridSpec()


@pytest.fixture(scope="module")
def street() -> Street:
    return Street(3, Rig.load("nuscenes").resized(*SIZE), GRID)


@pytest.fixture(scope="module")
def frame(street):
    return street.render(1.0)


def world_points(frame) -> tuple[np.ndarray, np.ndarray]:
    """World points [N, H, W, 3] that the pixels show, and which pixels show any."""
    depth = frame.truth.depth
    v, u = np.mgrid[: depth.shape[1], : depth.shape[2]]
    pixels = np.stack([u, v, np.ones_like(u)], -1)
    rays = np.einsum("nij,hwj->nhwi", np.linalg.inv(frame.K), pixels)
    seen = np.isfinite(depth)
    points = rays * np.where(seen, depth, 1)[..., None]
    T = frame.T_world_ego @ frame.T_ego_cam
    return np.einsum("nij,nhwj->nhwi", T[:, :3, :3], points) + T[:, None, None, :3, 3], seen


def project(points: np.ndarray, K: np.ndarray, T_world_cam: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    local = (points - T_world_cam[:3, 3]) @ T_world_cam[:3, :3]
    with np.errstate(divide="ignore", invalid="ignore"):
        pixels = local @ K.T
        return pixels[..., :2] / pixels[..., 2:], local[..., 2]


def test_seeds_differ(street, frame):
    assert not np.array_equal(frame.images, Street(4, street.rig).render(1.0, truth=False).images)


def test_images_show_texture_and_sky(frame):
    labels = frame.truth.semantics
    assert frame.images.dtype == np.uint8 and frame.images.shape == (6, *SIZE, 3)
    assert (np.isfinite(frame.truth.depth) == (labels != FREE)).all()
    assert frame.images[labels != FREE].std() > 15
    assert {CLASS_NAMES[i] for i in np.unique(labels[labels != FREE])} >= {"road", "building"}


def test_flow_of_what_stands_still_is_the_reprojection(street, frame):
    points, seen = world_points(frame)
    seen &= ~frame.movable
    later = street.pose(1.0 + street.flow_interval)
    for camera in range(6):
        pixels, depth = project(points[camera], frame.K[camera], later @ frame.T_ego_cam[camera])
        v, u = np.mgrid[: SIZE[0], : SIZE[1]]
        expected = pixels - np.stack([u, v], -1)
        flow = frame.truth.flow_forward[camera]
        compared = seen[camera] & (depth > 0.2) & np.isfinite(flow).all(-1)
        assert np.abs(flow - expected)[compared].max() < 0.02


def test_flow_and_velocity_of_what_moves_agree(street, frame):
    """A moving pixel's point, moved by the velocity of its voxel, lands where the flow says."""
    points, seen = world_points(frame)
    T_ego_world = np.linalg.inv(frame.T_world_ego)
    later = street.pose(1.0 + street.flow_interval)
    errors = []
    for camera in range(6):
        chosen = seen[camera] & frame.movable[camera]
        local = points[camera][chosen] @ T_ego_world[:3, :3].T + T_ego_world[:3, 3]
        index, inside = GRID.to_voxel(torch.from_numpy(local))
        velocity = np.zeros((len(local), 3))
        velocity[inside.numpy(), :2] = frame.truth.velocity[tuple(index[inside].T.numpy())]
        moving = np.linalg.norm(velocity, axis=1) > 1
        moved = points[camera][chosen] + velocity @ frame.T_world_ego[:3, :3].T * street.flow_interval
        pixels, _ = project(moved, frame.K[camera], later @ frame.T_ego_cam[camera])
        v, u = np.nonzero(chosen)
        flow = frame.truth.flow_forward[camera][chosen]
        errors.append(np.linalg.norm(pixels - np.stack([u, v], -1) - flow, axis=1)[moving])
    errors = np.concatenate(errors)
    assert len(errors) > 20 and np.median(errors) < 0.2


def test_pixels_show_occupied_voxels(frame):
    points, seen = world_points(frame)
    T = np.linalg.inv(frame.T_world_ego)
    index, inside = GRID.to_voxel(torch.from_numpy(points[seen] @ T[:3, :3].T + T[:3, 3]))
    occupied = torch.from_numpy(frame.truth.occupancy != FREE)[None, None].float()
    grown = torch.nn.functional.max_pool3d(occupied, 3, 1, 1)[0, 0]
    assert grown[tuple(index[inside].T)].mean() > 0.98


def test_visible_voxels_hold_the_visible_surfaces(frame):
    truth = frame.truth
    assert 0.2 < truth.visible.mean() < 0.9
    surface = truth.visible & (truth.occupancy != FREE)
    assert surface.any() and (truth.visible & (truth.occupancy == FREE)).any()
    assert truth.occupancy[50, 50, 2] == CLASS_NAMES.index("road")  # below the ego vehicle


def test_lidar_meets_what_the_cameras_see(frame):
    points = frame.lidar @ frame.T_world_ego[:3, :3].T + frame.T_world_ego[:3, 3]
    errors = []
    for camera in range(6):
        pixels, depth = project(points, frame.K[camera], frame.T_world_ego @ frame.T_ego_cam[camera])
        u, v = np.round(np.nan_to_num(pixels, nan=-1)).astype(int).T
        inside = (depth > 0.5) & (u >= 0) & (v >= 0) & (u < SIZE[1]) & (v < SIZE[0])
        errors.append(np.abs(frame.truth.depth[camera][v[inside], u[inside]] / depth[inside] - 1))
    assert np.median(np.concatenate(errors)) < 0.03
    moving = np.linalg.norm(frame.lidar_velocity, axis=1) > 0.5
    assert 0 < moving.sum() < 0.5 * len(moving)


def test_velocity_is_the_finite_difference_of_positions(street):
    for i, actor in enumerate(street.world.actors[:5]):
        a, b = (actor.pose(street.world.line, 1.0 + d)[:2, 3] for d in (-0.1, 0.1))
        assert np.allclose(street._velocity(i, 1.0)[:2], (b - a) / 0.2, atol=0.3)


def test_nothing_drives_through_the_ego_vehicle():
    for seed in range(6):
        world = Street(seed, Rig.load("kitti").resized(8, 16)).world
        for t in np.arange(0, 6, 0.5):
            ego = world.T_world_ego(t)[:2, 3]
            nearest = min(np.hypot(*(a.pose(world.line, t)[:2, 3] - ego)) for a in world.actors)
            assert nearest > 1.5, f"seed {seed} at {t} s"


def test_clips_are_cached_and_hold_their_neighbours(tmp_path):
    options = {
        "rig": "kitti", "input": InputConfig((24, 80)), "past_frames": 2, "frames": 5, "lidar": True, "workers": 0,
        "cache": tmp_path,
    }  # fmt: skip
    clips = SimulatorClips(range(2), **options)
    assert len(clips) == 4  # 5 frames less two of history and one after, in two streets
    clip = clips[3]
    interval = round(0.2e9)
    assert [int(f.stamp - clip.current.stamp) for f in clip.history] == [-interval, -2 * interval]
    assert [int(f.stamp - clip.current.stamp) for f in clip.sources] == [-interval, interval]
    written = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.npz")}
    again = SimulatorClips(range(2), **options)[3]
    assert torch.equal(again.current.images, clip.current.images) and torch.equal(
        again.current.lidar, clip.current.lidar
    )
    assert written == {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.npz")}


def test_cues_of_a_clip_lead_to_the_instants_around_it(tmp_path):
    """True flow as rendered; estimated flow agrees with it on most pixels; streets that are there are not rendered again."""
    options = {
        "rig": "kitti", "input": InputConfig((48, 160)), "past_frames": 1, "frames": 3, "lidar": False, "workers": 0,
        "cache": tmp_path,
    }  # fmt: skip
    plain = SimulatorClips(range(3, 4), **options)[0]
    written = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.npz")}
    true, estimated = (SimulatorClips(range(3, 4), **options, cue=cue)[0] for cue in ("true", "dis"))
    assert {p: p.stat().st_mtime_ns for p in written} == written
    assert plain.cues == () and torch.equal(plain.current.images, true.current.images)
    street = Street(3, Rig.load("kitti").resized(48, 160))
    frame = street.render(0.2)
    for cue, flow, sign in zip(true.cues, (frame.truth.flow_backward, frame.truth.flow_forward), (-1, 1), strict=True):
        assert int(cue.stamp - true.current.stamp) == sign * 50_000_000
        assert np.array_equal(cue.T_world_ego.numpy(), street.pose(0.2 + sign * 0.05))
        short = np.nan_to_num(np.linalg.norm(flow, axis=-1), nan=99) <= 20 / 224 * 160
        assert np.array_equal(cue.valid.numpy(), short)
        assert np.abs(cue.flow.movedim(1, -1).numpy() - flow)[short].max() <= 0.5 / 64 + 1e-4
    several = SimulatorClips(range(3, 4), **options, cue="true", cue_intervals=(0.05, 0.1))[0].cues
    offsets = [int(cue.stamp - true.current.stamp) // 1_000_000 for cue in several]
    assert offsets == [-50, 50, -100, 100] and torch.equal(several[1].flow, true.cues[1].flow)
    for seen, known in zip(estimated.cues, true.cues, strict=True):
        both = seen.valid & known.valid
        error = (seen.flow - known.flow).norm(dim=1)[both]
        assert both.float().mean() > 0.3 and error.median() < 0.5


def test_bag_holds_what_was_rendered(tmp_path):
    [bag] = simulate(tmp_path, seed=7, seconds=0.4, rate_hz=5, image_size=(48, 84), workers=0)
    names = tuple(Rig.load("nuscenes").cameras)
    sets = [recorded.frame_set for recorded in Recording(bag, names, "base_link", "odom")]
    street = Street(7, Rig.load("nuscenes").resized(48, 84), GRID, 0.2)
    assert len(sets) == 2
    for i, frame_set in enumerate(sets):
        frame = street.render(0.2 * i)
        assert frame_set.stamp_ns == frame.stamp_ns
        errors = [np.abs(a.astype(int) - b).mean() for a, b in zip(frame_set.images, frame.images, strict=True)]
        assert max(errors) < 6  # JPEG
        assert np.allclose(frame_set.T_ego_cam, frame.T_ego_cam, atol=1e-6)
        start = street.pose(0.0)
        assert np.allclose(start @ frame_set.T_world_ego, frame.T_world_ego, atol=1e-3)
        truth = load_truth(truth_folder(bag), i)
        assert np.array_equal(truth.occupancy, frame.truth.occupancy)
    with pytest.raises(DataError, match="no truth of this frame"):
        load_truth(truth_folder(bag), 9)


def test_rigs(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("cameras: {left: {position: [0, 0.2, 1], yaw: 90, width: 100, height: 60, fov: 90}}")
    rig = Rig.load(path)
    assert np.allclose(rig.T_ego_cam()[0, :3, 2], [0, 1, 0])  # looks left
    assert rig.intrinsics()[0, 0, 0] == pytest.approx(50)
    for name, message in (("nuscens", "not one of kitti, nuscenes"), (tmp_path / "no.yaml", "no such configuration")):
        with pytest.raises(ConfigError, match=message):
            Rig.load(name)
    path.write_text("cameras: {a: {position: [0, 0, 1], yaw: 0, width: 9}, b: {position: [0, 0, 1], yaw: 0}}")
    with pytest.raises(ConfigError, match="several sizes"):
        Rig.load(path)


def test_class_lists_are_consistent():
    assert set(GROUND_CLASSES) | set(MOVABLE_CLASSES) <= set(CLASS_NAMES)


def test_a_rig_with_a_fisheye_and_no_lidar(tmp_path):
    """What the fisheye shows is what pinhole cameras at its place show: its views equal theirs."""
    pinholes = {
        f"view_{yaw}": {"position": [0.5, 0, 1.2], "yaw": yaw, "fov": 90, "width": 240, "height": 150}
        for yaw in (50, -50)
    }
    fisheye = {"position": [0.5, 0, 1.2], "yaw": 0, "fov": 200, "width": 480, "height": 300, "lens": "fisheye"}
    rigs = {"pinholes": pinholes, "fisheye": {"front": fisheye}}
    frames = {}
    for name, cameras in rigs.items():
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump({"cameras": cameras, "lidar": None}, sort_keys=False))
        frames[name] = Street(3, Rig.load(path), GridSpec(voxel_size=1.6)).render(1.0)
    raw = frames["fisheye"]
    assert raw.lidar is None and raw.truth.visible.mean() > 0.05
    views = Rectifier(150, 240, fisheye_views=(50, -50))(raw.images[0], raw.calibrations[0], "front")
    for i, view in enumerate(views):
        np.testing.assert_allclose(view.K, frames["pinholes"].K[i])
        np.testing.assert_allclose(raw.T_ego_cam[0] @ view.T_cam_view, frames["pinholes"].T_ego_cam[i], atol=1e-12)
        seen = (view.image > 0).any(-1)
        difference = np.abs(view.image.astype(float) - frames["pinholes"].images[i])[seen]
        assert seen.mean() > 0.9 and np.median(difference) < 8
    depth, flow = raw.truth.depth[0, 150, 240], raw.truth.flow_forward[0]
    assert np.isfinite(depth) and np.isfinite(flow[150, 240]).all()
    with pytest.raises(ConfigError, match="front has a fisheye lens; training on streets takes pinhole cameras"):
        Rig.load(tmp_path / "fisheye.yaml").require_pinholes("training on streets")


@pytest.mark.parametrize("seconds", [(), (0.1, 0.1), (0.0,), (-0.05,)])
def test_intervals_that_lead_nowhere_are_refused(seconds: tuple[float, ...]):
    with pytest.raises(ConfigError, match="cue_intervals: "):
        SimulatorData(cue_intervals=seconds)
