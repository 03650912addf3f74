"""Real recordings: KITTI and nuScenes into bags, bags into synchronised sets with LiDAR, sets into clips."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from letocc_core import config as configuration
from letocc_core.data import kitti
from letocc_core.data.bag_clips import BagClips
from letocc_core.data.bag_writer import BagWriter, optical_frame
from letocc_core.data.clips import BagData, DataConfig, build
from letocc_core.data.dataset_bags import kitti_odometry_to_bag, kitti_tracking_to_bag, nuscenes_to_bag
from letocc_core.data.recorded_clips import choose_clips
from letocc_core.data.recording import Recording
from letocc_core.errors import CalibrationError, DataError
from letocc_core.frame import InputConfig, collate
from letocc_core.geometry.camera import project_lidar
from letocc_core.model.let_occ_flow import LetOccFlow, ModelConfig
from letocc_core.stream import images
from letocc_core.stream.types import Calibration

K = np.array([[40.0, 0, 15], [0, 40, 10], [0, 0, 1]])
INPUT = InputConfig(image_size=(20, 30), history_interval=0.2)


def png(seed: int) -> bytes:
    return images.encode(np.random.default_rng(seed).integers(0, 256, (20, 30, 3), np.uint8), "png")


def forward(distance: float) -> np.ndarray:
    T = np.eye(4)
    T[0, 3] = distance
    return T


# LiDAR in an image


def test_project_lidar_by_hand():
    """Camera at the ego origin looking along x: a point 10 m ahead, 1 m left and 2 m up."""
    T_ego_cam = np.array([[0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1.0]])
    behind_it, behind_camera, missing = [20, 2, 4], [-5, 0, 0], [np.nan] * 3
    depth = project_lidar(np.array([[10, 1, 2], behind_it, behind_camera, missing]), K, T_ego_cam, 20, 30)
    assert np.argwhere(np.isfinite(depth)).tolist() == [[10 - 8, 15 - 4]]
    assert depth[2, 11] == 10  # the nearer of two returns on this pixel


# KITTI


@pytest.fixture
def tracking(tmp_path) -> Path:
    """Three frames in the tracking benchmark's layout: the vehicle drives 0.5 m a frame, camera 2 is 6 cm right."""
    base = tmp_path / "kitti" / "training"
    for name in ("image_02/0007", "velodyne/0007", "calib", "poses"):
        (base / name).mkdir(parents=True)
    for i in range(3):
        (base / f"image_02/0007/{i:06d}.png").write_bytes(png(i))
        points = np.array([[10, 0, -1, 0.5], [5, 2, 0, 0.1]], np.float32)
        points.tofile(base / f"velodyne/0007/{i:06d}.bin")
    rows = [" ".join(f"{v}" for v in [1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0.5 * i]) for i in range(3)]
    (base / "poses/0007.txt").write_text("\n".join(rows))
    P2 = np.hstack([K, K @ [[-0.06], [0], [0]]])
    velo_to_camera = "0 -1 0 0 0 0 -1 -0.08 1 0 0 -0.27"
    (base / "calib/0007.txt").write_text(
        f"P2: {' '.join(map(str, P2.reshape(-1)))}\nR_rect {' '.join(map(str, np.eye(3).reshape(-1)))}\n"
        f"Tr_velo_cam {velo_to_camera}\nTr_imu_velo {velo_to_camera}\n\n"
    )
    return tmp_path / "kitti"


def test_tracking_sequence(tracking, tmp_path):
    sets = list(Recording(kitti_tracking_to_bag(tracking, "0007", tmp_path / "bag")))
    assert [s.frame_set.stamp_ns for s in sets] == [10**9, 10**9 + 10**8, 10**9 + 2 * 10**8]
    for i, item in enumerate(sets):
        np.testing.assert_array_equal(item.frame_set.images[0], images.decode_compressed(png(i), ""))
        np.testing.assert_allclose(item.frame_set.T_world_ego, forward(0.5 * i), atol=1e-9)
        np.testing.assert_allclose(item.frame_set.T_ego_cam[0][:3, 3], [0, -0.06, 1.65], atol=1e-9)
        np.testing.assert_allclose(item.sweep.origin, [-0.27, 0, 1.73], atol=1e-6)
        np.testing.assert_allclose(item.sweep.points[0], [9.73, 0, 0.73], atol=1e-5)
    assert sets[0].frame_set.calibrations[0] == Calibration(30, 20, K)


def test_poses_from_gps_packets(tmp_path):
    """A vehicle that drives 10 m east and turns left by 90 degrees; camera 0 at the unit's place."""
    metres = 180 / (np.pi * kitti.EARTH_RADIUS * np.cos(np.radians(49)))
    packets = np.zeros((2, 30))
    packets[:, 0], packets[:, 2] = 49, 110
    packets[1, 1], packets[1, 5] = 10 * metres, np.pi / 2
    np.savetxt(tmp_path / "oxts.txt", packets)
    poses = kitti.read_oxts(tmp_path / "oxts.txt", 2, np.eye(4))
    np.testing.assert_allclose(poses[0], np.eye(4), atol=1e-9)
    np.testing.assert_allclose(poses[1][:3, 3], [10, 0, 0], atol=1e-4)
    np.testing.assert_allclose(poses[1][:3, :3], Rotation.from_euler("z", 90, degrees=True).as_matrix(), atol=1e-9)


def _remove(path: str):
    return lambda base: (base / path).unlink()


def _edit(path: str, change):
    return lambda base: (base / path).write_bytes(change((base / path).read_bytes()))


def _replace(path: str, old: bytes, new: bytes):
    return _edit(path, lambda data: data.replace(old, new))


IMAGE, CALIBRATION, POSES, SCANS = "image_02/0007/00000", "calib/0007.txt", "poses/0007.txt", "velodyne/0007/00000"


@pytest.mark.parametrize(
    ("fault", "error", "message"),
    [
        (_remove(IMAGE + "1.png"), DataError, r"000001\.png: missing"),
        (_edit(IMAGE + "2.png", lambda data: data[:-30]), DataError, r"000002\.png: PNG image .* truncated"),
        (_remove(CALIBRATION), CalibrationError, r"0007\.txt: no such calibration file"),
        (_replace(CALIBRATION, b"P2", b"P9"), CalibrationError, "no key P2; keys found: P9, R_"),
        (_replace(CALIBRATION, b"R_rect 1.0", b"R_rect"), CalibrationError, "R_rect has 8 numbers, expected 3 x 3"),
        (_replace(CALIBRATION, b"R_rect 1.0", b"R_rect one"), CalibrationError, r"0007\.txt, line 2"),
        (_edit(POSES, lambda data: data[: data.rindex(b"\n")]), DataError, "2 lines of poses for 3 images"),
        (_replace(POSES, b"0.5", b""), DataError, "line 2: 11 numbers, expected 12"),
        (_remove(POSES), DataError, r"oxts/0007\.txt: no such file with GPS"),
        (_edit(SCANS + "0.bin", lambda data: data[:-3]), DataError, r"000000\.bin: 29 bytes, .* multiple of 16"),
    ],
)
def test_faults_in_a_tracking_sequence(tracking, tmp_path, fault, error, message):
    fault(tracking / "training")
    with pytest.raises(error, match=message):
        kitti_tracking_to_bag(tracking, "0007", tmp_path / "bag")
    assert not (tmp_path / "bag").exists()


def test_unknown_sequence_lists_the_known(tracking, tmp_path):
    (tracking / "training/calib/0008.txt").write_text((tracking / "training/calib/0007.txt").read_text())
    with pytest.raises(DataError, match=r"0008: no such image folder; in .*image_02: 0007"):
        kitti_tracking_to_bag(tracking, "0008", tmp_path / "bag")


@pytest.fixture(scope="session")
def kitti_bag(shared_data, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("kitti") / "0012"
    return kitti_tracking_to_bag(shared_data / "kitti_tracking", "0012", out)


def test_real_road_is_at_height_zero(kitti_bag):
    """LiDAR returns on the lane ahead lie on z = 0, and fall into the lower half of the image."""
    item = next(iter(Recording(kitti_bag)))
    points = item.sweep.points
    lane = points[(points[:, 0] > 5) & (points[:, 0] < 7) & (np.abs(points[:, 1]) < 1.5)]
    assert abs(np.median(lane[:, 2])) < 0.05
    depth = project_lidar(lane, item.frame_set.calibrations[0].K, item.frame_set.T_ego_cam[0], 375, 1242)
    rows = np.argwhere(np.isfinite(depth))[:, 0]
    assert len(rows) > 100 and rows.min() > 200


def test_real_poses_bring_sweeps_together(kitti_bag):
    """What stands above the road is found again 2 s later where the poses say, in slow traffic; not so without them."""
    sets = list(Recording(kitti_bag))
    assert len(sets) == 60
    earlier, later = sets[20], sets[40]
    T = np.linalg.inv(earlier.frame_set.T_world_ego) @ later.frame_set.T_world_ego
    first, second = (item.sweep.points[item.sweep.points[:, 2] > 0.5] for item in (earlier, later))
    moved, unmoved = (np.median(cKDTree(first).query(p)[0]) for p in (second @ T[:3, :3].T + T[:3, 3], second))
    assert T[0, 3] > 2 and moved < 0.2 and unmoved > 2 * moved


def test_real_odometry_sequence(shared_data, tmp_path):
    sets = list(Recording(kitti_odometry_to_bag(shared_data / "kitti_odometry", "06", tmp_path / "06")))
    assert len(sets) == 51 and all(s.sweep is None for s in sets)
    end = sets[-1].frame_set
    assert 55 < end.T_world_ego[0, 3] < 65 and abs(end.T_world_ego[2, 3]) < 1.5
    np.testing.assert_allclose(end.T_ego_cam[0][:3, 3], [0, 0, 1.65], atol=1e-9)


# nuScenes


def test_real_nuscenes_scene(shared_data, tmp_path):
    names = ["camera_front", "camera_front_left", "camera_front_right", "camera_back", "camera_back_left"]
    bag = nuscenes_to_bag(shared_data / "nuscenes", "scene-0061", tmp_path / "bag")
    (item,) = Recording(bag, [*names, "camera_back_right"], slop=0.05)
    assert all(image.shape == (900, 1600, 3) for image in item.frame_set.images)
    forward_axis = item.frame_set.T_ego_cam[:, :3, 2]
    headings = np.degrees(np.arctan2(forward_axis[:, 1], forward_axis[:, 0]))
    np.testing.assert_allclose(headings, [0, 55, -56, 180, 108, -110], atol=3)
    points = item.sweep.points
    near = points[(np.abs(points[:, :2]).max(1) < 8) & (np.linalg.norm(points[:, :2], axis=1) > 4)]
    assert abs(np.median(near[:, 2])) < 0.1


def _nuscenes(root: Path) -> Path:
    """One camera record in the data set's layout."""
    identity = {"rotation": [1, 0, 0, 0], "translation": [0, 0, 1]}
    tables = {
        "scene": [{"token": "s", "name": "scene-1"}],
        "sample": [{"token": "a", "scene_token": "s"}],
        "sample_data": [
            {"token": "d", "sample_token": "a", "ego_pose_token": "e", "calibrated_sensor_token": "c",
             "timestamp": 1000, "is_key_frame": True, "filename": "samples/front.jpg", "width": 30, "height": 20},
        ],
        "calibrated_sensor": [{"token": "c", "sensor_token": "f", "camera_intrinsic": K.tolist(), **identity}],
        "ego_pose": [{"token": "e", **identity}],
        "sensor": [{"token": "f", "channel": "CAM_FRONT"}],
    }  # fmt: skip
    (root / "v1.0-tiny").mkdir(parents=True)
    (root / "samples").mkdir()
    for name, rows in tables.items():
        (root / f"v1.0-tiny/{name}.json").write_text(json.dumps(rows))
    (root / "samples/front.jpg").write_bytes(images.encode(np.zeros((20, 30, 3), np.uint8), "jpeg"))
    return root


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (_remove("samples/front.jpg"), r"front\.jpg: no such image; extract the archive"),
        (_edit("samples/front.jpg", lambda data: data[:-9]), r"front\.jpg: JPEG image .* truncated"),
        (_remove("v1.0-tiny/ego_pose.json"), r"ego_pose\.json: no such table; extract"),
        (_edit("v1.0-tiny/sensor.json", lambda data: data[:-4]), r"sensor\.json: not a table of nuScenes"),
        (_replace("v1.0-tiny/ego_pose.json", b'"e"', b'"x"'), "no row with token e"),
        (_replace("v1.0-tiny/scene.json", b"e-1", b"e-2"), "no scene 'scene-1'; scenes: scene-2"),
        (
            _replace("v1.0-tiny/calibrated_sensor.json", b", [0.0, 0.0, 1.0]", b""),
            "CAM_FRONT of scene-1 has no 3 x 3 camera_intrinsic",
        ),
        (lambda root: (root / "v1.0-tiny").rename(root / "tables"), "expected one folder of tables"),
    ],
)
def test_faults_in_nuscenes(tmp_path, fault, message):
    root = _nuscenes(tmp_path / "nuscenes")
    fault(root)
    with pytest.raises(DataError, match=message):
        nuscenes_to_bag(root, "scene-1", tmp_path / "bag")


# Sets with LiDAR


def drive(path: Path, frames: int = 12, sweeps: range | None = None, delay_ns: int = 0) -> Path:
    """10 Hz, 1 m a frame along x; a wall at world x = 30 m seen by a LiDAR 1 m ahead of base_link, `delay_ns` late."""
    camera = np.array([[0, 0, 1, 1.5], [-1, 0, 0, 0], [0, -1, 0, 1.2], [0, 0, 0, 1]])
    with BagWriter(path) as bag:
        bag.write_tf_static(10**8, [("base_link", optical_frame("front"), camera), ("base_link", "lidar", forward(1))])
        for i in range(frames):
            stamp = 10**8 * (i + 1)
            bag.write_tf(stamp, "odom", "base_link", forward(i))
            bag.write_camera_info("front", stamp, Calibration(30, 20, K))
            bag.write_encoded_image("front", stamp, png(i), "png")
            if i in (range(frames) if sweeps is None else sweeps):
                at = stamp + delay_ns
                wall = np.float32(30 - (at * 1e-8 - 1) - 1)
                columns = {"x": np.full(3, wall), "y": np.arange(3, dtype=np.float32), "z": np.zeros(3, np.float32)}
                bag.write_points(at, "lidar", columns)
    return path


@pytest.mark.parametrize("delay_ns", [0, 30_000_000, -30_000_000])
def test_sweeps_are_moved_to_the_stamp_of_the_images(tmp_path, delay_ns):
    sets = list(Recording(drive(tmp_path / "bag", delay_ns=delay_ns)))
    assert len(sets) == 12
    for i, item in enumerate(sets[1:-1], start=1):
        np.testing.assert_allclose(item.sweep.points[:, 0], 30 - i, atol=1e-4)
        np.testing.assert_allclose(item.sweep.origin, [1 + delay_ns * 1e-8, 0, 0], atol=1e-5)


def test_sets_without_a_sweep_near_them_have_none(tmp_path):
    sets = list(Recording(drive(tmp_path / "bag", sweeps=range(0, 3))))
    assert [s.sweep is not None for s in sets] == [True] * 4 + [False] * 8


def test_recording_without_poses_says_why(tmp_path):
    with BagWriter(tmp_path / "bag") as bag:
        bag.write_camera_info("front", 1, Calibration(30, 20, K))
        bag.write_encoded_image("front", 1, png(0), "png")
    with pytest.raises(DataError, match=r"no image set with a pose; 1 x no_pose.*'base_link'"):
        list(Recording(tmp_path / "bag"))


def test_unknown_lidar_topic(tmp_path):
    with pytest.raises(DataError, match="/velodyne; PointCloud2 topics found: /points"):
        Recording(drive(tmp_path / "bag", 2), lidar_topic="/velodyne")


def test_damaged_and_lost_images_are_counted(tmp_path):
    path = tmp_path / "bag"
    with BagWriter(path) as bag:
        bag.write_tf_static(1, [("base_link", optical_frame("front"), np.eye(4))])
        for i in range(4):
            stamp = 10**8 * (i + 1)
            bag.write_tf(stamp, "odom", "base_link", forward(i))
            bag.write_camera_info("front", stamp, Calibration(30, 20, K))
            bag.write_encoded_image("front", stamp, png(i)[: -20 if i == 2 else None], "png")
    recording = Recording(path)
    assert [s.frame_set.stamp_ns for s in recording] == [10**8, 2 * 10**8, 4 * 10**8]
    assert recording.dropped == {"damaged message": 1}


# Clips


def settings(bag: Path, **changes) -> BagData:
    return BagData(**{"bags": (bag,), "source_distance": 1.0, "source_sigma": 0.1, **changes})


def test_clip_holds_the_right_frames(tmp_path):
    clips = BagClips(settings(drive(tmp_path / "bag")), INPUT, 2, tmp_path / "cache")
    by_current = {clip.current: clip for _, clip in clips.clips}
    assert sorted(by_current) == list(range(3, 11)) and clips.left_out == 4  # history of 0.3 s at least, a next frame
    assert by_current[6].history == (4, 2) and by_current[6].sources == (5, 7)
    clip = clips[[c.current for _, c in clips.clips].index(6)]
    assert [int(f.stamp) // 10**8 for f in (clip.current, *clip.history, *clip.sources)] == [7, 5, 3, 6, 8]
    for frame in (clip.current, *clip.history, *clip.sources):
        expected = images.decode_compressed(png(int(frame.stamp) // 10**8 - 1), "")
        np.testing.assert_array_equal(frame.images[0].permute(1, 2, 0).mul(255).round().to(torch.uint8), expected)
    assert clip.current.T_world_ego.dtype == torch.float64 and clip.current.T_world_ego[0, 3] == 6
    np.testing.assert_allclose(clip.current.lidar[:, 0], 24, atol=1e-4)
    assert clip.sources[0].lidar is None


def test_training_and_evaluation_frames_do_not_mix(tmp_path):
    bag = drive(tmp_path / "bag", 24)
    training = BagClips(settings(bag, last_frame=13, source_sigma=5.0), INPUT, 2, tmp_path / "cache")
    used = {i for _, c in training.clips for i in (c.current, *c.history, *c.sources)}
    assert max(used) <= 13
    held_out = BagClips(settings(bag, first_frame=14, source_sigma=5.0), INPUT, 2, tmp_path / "cache")
    assert min(c.current for _, c in held_out.clips) == 14
    assert len(list((tmp_path / "cache/bags").iterdir())) == 1  # decoded once for both


def test_sources_follow_the_distance():
    """20 Hz at 10 m/s: sources lie 0.5 m +- 0.5 m away, never farther than 6 m or 1 s; standing still, within 1 s."""
    stamps = np.arange(200) * 50_000_000
    moving = np.stack([forward(0.5 * i) for i in range(200)])
    data = BagData(bags=())
    clips, _ = choose_clips(stamps, moving, np.ones(200, bool), data, INPUT, 2)
    away = np.array([[c.current - c.sources[0], c.sources[1] - c.current] for c in clips]) * 0.5
    assert away.min() >= 0.5 and 0.5 < away.mean() < 1.2 and away.max() < 3
    standing, _ = choose_clips(stamps, np.stack([np.eye(4)] * 200), np.ones(200, bool), data, INPUT, 2)
    frames_away = np.array([[c.current - c.sources[0], c.sources[1] - c.current] for c in standing])
    assert frames_away.min() >= 1 and frames_away.max() <= 20


def test_clips_are_the_same_every_time():
    stamps, poses = np.arange(50) * 10**8, np.stack([forward(0.2 * i) for i in range(50)])
    data = BagData(bags=())
    first, second = (choose_clips(stamps, poses, np.ones(50, bool), data, INPUT, 2) for _ in range(2))
    assert first == second


def test_frames_without_a_sweep_are_no_current_frames(tmp_path):
    clips = BagClips(settings(drive(tmp_path / "bag", sweeps=range(0, 6))), INPUT, 2, tmp_path / "cache")
    assert {c.current for _, c in clips.clips} == {3, 4, 5, 6}
    batch = collate([clips[0], clips[1]])
    assert batch.current.lidar.shape == (2, 3, 3) and batch.current.images.shape == (2, 1, 3, 20, 30)
    without = BagClips(settings(tmp_path / "bag", lidar=False), INPUT, 2, tmp_path / "cache")
    assert without[0].current.lidar is None and len(without) > len(clips)


def test_too_short_a_recording_says_what_to_check(tmp_path):
    with pytest.raises(DataError, match=r"none of its 3 frames has 2 past frames.*first_frame, last_frame"):
        BagClips(settings(drive(tmp_path / "bag", 3)), INPUT, 2, tmp_path / "cache")


def test_changed_settings_do_not_take_the_cached_frames(tmp_path):
    bag = drive(tmp_path / "bag")
    small = dataclasses.replace(INPUT, image_size=(10, 16))
    shapes = [
        tuple(BagClips(settings(bag), config, 2, tmp_path / "cache")[0].current.images.shape[-2:])
        for config in (INPUT, small)
    ]
    assert shapes == [(20, 30), (10, 16)]


def test_nothing_half_decoded_stays_in_the_cache(tmp_path):
    with BagWriter(tmp_path / "bag") as bag:
        bag.write_camera_info("front", 1, Calibration(30, 20, K))
        bag.write_encoded_image("front", 1, png(0), "png")
    with pytest.raises(DataError, match="no image set"):
        BagClips(settings(tmp_path / "bag"), INPUT, 2, tmp_path / "cache")
    assert list((tmp_path / "cache/bags").iterdir()) == []


def test_kitti_configuration_takes_the_real_drive(kitti_bag, tmp_path):
    """config/kitti_small.yaml: its clips fit its model, and the LiDAR fills its box."""
    path = Path(__file__).resolve().parents[1] / "config" / "kitti_small.yaml"
    sections = yaml.safe_load(path.read_text())
    data = configuration.from_dict(DataConfig, {**sections["data"], "cache": str(tmp_path)}, str(path))
    data = dataclasses.replace(data, bag=dataclasses.replace(data.bag, bags=(kitti_bag,)))
    model = LetOccFlow(configuration.from_dict(ModelConfig, sections["model"], str(path)))
    input_config = configuration.from_dict(InputConfig, sections["input"], str(path))
    clips = build(data, input_config, model.config.temporal.frames)
    assert max(c.sources[1] for _, c in clips.clips) == 44 and len(clips) > 100
    clip = collate([clips[0], clips[len(clips) - 1]])
    grid = model.config.grid
    inside = ((clip.current.lidar >= torch.tensor(grid.lower)) & (clip.current.lidar < torch.tensor(grid.upper))).all(
        -1
    )
    assert inside.float().mean() > 0.5
    with torch.no_grad():
        fields = model(clip.current, clip.history)
    assert fields.sdf.shape == (2, 1, 64, 64, 16) and torch.isfinite(fields.sdf).all()
