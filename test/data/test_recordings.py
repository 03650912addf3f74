"""Real recordings: KITTI and nuScenes into bags, bags into synchronised sets with LiDAR, sets into clips."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from letocc_core import config as configuration
from letocc_core.checkpoint import load_model
from letocc_core.data.bags.convert import kitti_tracking_to_bag
from letocc_core.data.bags.frames import BagClips
from letocc_core.data.bags.info import bag_info
from letocc_core.data.bags.recording import Recording
from letocc_core.data.bags.writer import BagWriter, optical_frame
from letocc_core.data.build import build
from letocc_core.data.config import BagData, DataConfig
from letocc_core.data.recorded_clips import choose_clips
from letocc_core.errors import CalibrationError, ConfigError, DataError
from letocc_core.frame import InputConfig, collate
from letocc_core.geometry.camera import project_lidar
from letocc_core.geometry.grid import sample_volume
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


# Sets with LiDAR


def drive(
    path: Path, frames: int = 12, sweeps: range | None = None, delay_ns: int = 0, cloud_frame: str = "lidar"
) -> Path:
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
                wall = np.float32(30 - (at * 1e-8 - 1) - (cloud_frame == "lidar"))
                columns = {"x": np.full(3, wall), "y": np.arange(3, dtype=np.float32), "z": np.zeros(3, np.float32)}
                bag.write_points(at, cloud_frame, columns)
    return path


@pytest.mark.parametrize("delay_ns", [0, 30_000_000, -30_000_000])
def test_sweeps_are_moved_to_the_stamp_of_the_images(tmp_path, delay_ns):
    sets = list(Recording(drive(tmp_path / "bag", delay_ns=delay_ns)))
    assert len(sets) == 12
    for i, item in enumerate(sets[1:-1], start=1):
        np.testing.assert_allclose(item.sweep.points[:, 0], 30 - i, atol=1e-4)
        np.testing.assert_allclose(item.sweep.origin, [1 + delay_ns * 1e-8, 0, 0], atol=1e-5)


def test_a_cloud_in_ego_axes_comes_from_amid_the_cameras(tmp_path):
    sets = list(Recording(drive(tmp_path / "bag", delay_ns=30_000_000, cloud_frame="base_link")))
    for i, item in enumerate(sets[1:-1], start=1):
        np.testing.assert_allclose(item.sweep.points[:, 0], 30 - i, atol=1e-4)
        np.testing.assert_allclose(item.sweep.origin, [1.5 + 0.3, 0, 1.2], atol=1e-5)


def test_sets_without_a_sweep_near_them_have_none(tmp_path):
    sets = list(Recording(drive(tmp_path / "bag", sweeps=range(0, 3))))
    assert [s.sweep is not None for s in sets] == [True] * 4 + [False] * 8


def test_recording_without_poses_says_why(tmp_path):
    with BagWriter(tmp_path / "bag") as bag:
        bag.write_camera_info("front", 1, Calibration(30, 20, K))
        bag.write_encoded_image("front", 1, png(0), "png")
    with pytest.raises(DataError, match=r"no image set can be used; 1 x set: no_pose.*'base_link'"):
        list(Recording(tmp_path / "bag"))


def test_two_cameras_of_one_frame(tmp_path):
    """Nothing says where the second one sits; the bag's summary names them too."""
    path = tmp_path / "bag"
    with BagWriter(path) as bag:
        bag.write_tf_static(1, [("base_link", optical_frame("front"), np.eye(4))])
        bag.write_tf(10**8, "odom", "base_link", np.eye(4))
        for camera in ("front", "rear"):
            info = {"height": 20, "width": 30, "distortion_model": "plumb_bob", "d": np.zeros(0), "k": K.reshape(-1)}
            info |= {"r": np.eye(3).reshape(-1), "p": np.eye(3, 4).reshape(-1), "binning_x": 0, "binning_y": 0}
            region = {"x_offset": 0, "y_offset": 0, "height": 0, "width": 0, "do_rectify": False}
            info["roi"] = bag.message("sensor_msgs/msg/RegionOfInterest", **region)
            header = bag.header(10**8, "front_optical")
            bag.write(f"/{camera}/camera_info", "sensor_msgs/msg/CameraInfo", 10**8, header=header, **info)
            bag.write_encoded_image(camera, 10**8, png(0), "png")
    with pytest.raises(CalibrationError, match=r"rear: its frame is 'front_optical', as that of front is.*frame_id"):
        list(Recording(path))
    assert any("front and rear have the same frame 'front_optical'" in line for line in bag_info(path).missing_to_run)


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
    assert recording.dropped == {"unreadable message": 1}


# Clips


def settings(bag: Path, **changes) -> BagData:
    return BagData(**{"bags": (bag,), "source_distance": 1.0, "source_sigma": 0.1, **changes})


def test_clip_holds_the_right_frames(tmp_path):
    clips = BagClips(settings(drive(tmp_path / "bag")), INPUT, 2, tmp_path / "cache")
    by_current = {clip.current: clip for _, clip in clips.clips}
    assert sorted(by_current) == list(range(4, 11)) and clips.left_out == 5  # history of more than 0.3 s, a next frame
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


def test_each_recording_may_end_at_a_frame_of_its_own(tmp_path):
    bags = [drive(tmp_path / name, 16) for name in ("first", "second")]
    data = dataclasses.replace(settings(bags[0], source_sigma=5.0), bags=tuple(bags), last_frame=(9, 12))
    clips = BagClips(data, INPUT, 2, tmp_path / "cache").clips
    for number, last in enumerate(data.last_frame):
        assert max(i for k, c in clips if k == number for i in (c.current, *c.history, *c.sources)) == last
    with pytest.raises(ConfigError, match=r"\[9, 12, 13\] for 2 recordings"):
        BagClips(dataclasses.replace(data, last_frame=(9, 12, 13)), INPUT, 2, tmp_path / "cache")
    path = tmp_path / "data.yaml"
    path.write_text("bag: {bags: [a, b], last_frame: [9, 12]}")
    assert configuration.load(DataConfig, path).bag.last_frame == (9, 12)


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
    assert {c.current for _, c in clips.clips} == {4, 5, 6}
    batch = collate([clips[0], clips[1]])
    assert batch.current.lidar.shape == (2, 3, 3) and batch.current.images.shape == (2, 1, 3, 20, 30)
    without = BagClips(settings(tmp_path / "bag", lidar=False), INPUT, 2, tmp_path / "cache")
    assert without[0].current.lidar is None and len(without) > len(clips)


def test_a_lidar_that_is_asked_for_must_be_there(tmp_path):
    clips = BagClips(settings(drive(tmp_path / "bag", 30, range(0)), lidar=True), INPUT, 1, tmp_path / "cache")
    with pytest.raises(DataError, match=r"bag: no LiDAR sweep goes with any of the 30 frames.*lidar: false"):
        clips.require_sweeps()
    with_sweeps = BagClips(settings(drive(tmp_path / "more", 30), lidar=True), INPUT, 1, tmp_path / "cache")
    with_sweeps.require_sweeps()
    assert f"{with_sweeps.sweeps} of 30 frames have a LiDAR sweep" in with_sweeps.summary() and with_sweeps.sweeps >= 28


def test_a_lidar_that_never_joins_is_an_error_whoever_asked(tmp_path, capsys):
    bag = drive(tmp_path / "bag", 30, cloud_frame="nowhere")
    with pytest.raises(
        DataError, match=r"30 x sweep: no_pose.*\n.*its LiDAR /points gives no sweep.*data.bag.lidar=false"
    ):
        BagClips(settings(bag), INPUT, 1, tmp_path / "cache")
    BagClips(settings(bag, lidar=False), INPUT, 1, tmp_path / "cache")
    assert "bag: 30 image sets of 1 camera" in capsys.readouterr().err


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


@pytest.fixture(scope="session")
def kitti_bag(shared_data, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("kitti") / "0012"
    return kitti_tracking_to_bag(shared_data / "kitti_tracking", "0012", out)


CONFIG = Path(__file__).resolve().parents[2] / "config" / "kitti_small.yaml"


@pytest.fixture(scope="session")
def kitti_clips(kitti_bag, tmp_path_factory) -> BagClips:
    """Those that config/kitti_small.yaml trains on."""
    sections = yaml.safe_load(CONFIG.read_text())
    plain = {**sections["data"], "cache": str(tmp_path_factory.mktemp("cache"))}
    data = configuration.from_dict(DataConfig, plain, str(CONFIG))
    data = dataclasses.replace(data, bag=dataclasses.replace(data.bag, bags=(kitti_bag,)))
    return build(data, configuration.from_dict(InputConfig, sections["input"], str(CONFIG)), 2)


def test_kitti_configuration_takes_the_real_drive(kitti_clips):
    """config/kitti_small.yaml: its clips fit its model, the LiDAR fills its box, and what moves is found."""
    clips = kitti_clips
    model = LetOccFlow(configuration.from_dict(ModelConfig, yaml.safe_load(CONFIG.read_text())["model"], str(CONFIG)))
    assert max(c.sources[1] for _, c in clips.clips) == 44 and len(clips) > 100
    clip = collate([clips[0], clips[len(clips) - 1]])
    grid = model.config.grid
    inside = ((clip.current.lidar >= torch.tensor(grid.lower)) & (clip.current.lidar < torch.tensor(grid.upper))).all(
        -1
    )
    assert inside.float().mean() > 0.5
    left, right = clip.current.movable.float().mean(dim=(0, 1, 2)).split(160)  # a lorry overtakes on the right
    assert left.mean() < 0.05 and right.mean() > 0.3
    with torch.no_grad():
        fields = model(clip.current, clip.history)
    assert fields.sdf.shape == (2, 1, 64, 64, 16) and torch.isfinite(fields.sdf).all()


def test_the_shipped_checkpoint_has_the_lorry_move_and_little_else(kitti_clips):
    """What the cameras see of the last frame that trained it, by the side of the road that it is on."""
    model, input_config, metadata = load_model(CONFIG.parents[1] / "models" / "kitti_small.safetensors")
    assert input_config.image_size == (96, 320) and metadata["trained"] == {"static": 600, "motion": 400}
    clip = collate([kitti_clips[len(kitti_clips) - 1]])
    with torch.no_grad():
        fields = model(clip.current, clip.history)
    grid = model.config.grid
    points = clip.current.lidar[0][clip.current.lidar[0, :, 2] > 0.5]  # returns above the road
    points = points[grid.to_voxel(points)[1]]
    speed = sample_volume(fields.flow, grid, points[None])[0, :, 0]  # m/s ahead
    assert speed[points[:, 1] < -2].median() > 0.5  # in the lane to the right
    assert speed[points[:, 1] > -1].abs().median() < 0.1
