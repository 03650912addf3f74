"""KITTI and nuScenes on disk: as bags, and what is said of files that are missing or damaged."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from letocc_core.cli import main
from letocc_core.data.bags.convert import kitti_odometry_to_bag, kitti_tracking_to_bag, nuscenes_to_bag
from letocc_core.data.bags.recording import Recording
from letocc_core.data.build import recorded_clips
from letocc_core.data.config import DataConfig, KittiTrackingData
from letocc_core.data.datasets import kitti
from letocc_core.data.datasets.nuscenes import NuScenes
from letocc_core.data.datasets.voxel_labels import read_occ3d, read_openocc, read_semantic_kitti
from letocc_core.errors import CalibrationError, DataError
from letocc_core.frame import InputConfig
from letocc_core.geometry.camera import project_lidar
from letocc_core.stream import images
from letocc_core.stream.types import Calibration

K = np.array([[40.0, 0, 15], [0, 40, 10], [0, 0, 1]])
INPUT = InputConfig(image_size=(20, 30), history_interval=0.1)


def png(seed: int) -> bytes:
    return images.encode(np.random.default_rng(seed).integers(0, 256, (20, 30, 3), np.uint8), "png")


def forward(distance: float) -> np.ndarray:
    T = np.eye(4)
    T[0, 3] = distance
    return T


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


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_tracking_sequence(tracking, tmp_path, mark):
    """Also where an editor has put a byte-order mark before the text."""
    for text in (tracking / "training").glob("*/0007.txt"):
        text.write_bytes(mark + text.read_bytes())
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


def test_several_sequences_are_bags_of_their_own(tracking, tmp_path, capsys):
    for part in ("image_02/{}", "velodyne/{}", "calib/{}.txt", "poses/{}.txt"):
        source, copy = (tracking / "training" / part.format(name) for name in ("0007", "0009"))
        (shutil.copytree if source.is_dir() else shutil.copy)(source, copy)
    out, command = tmp_path / "bags", ["bag", "kitti-tracking", str(tracking), "--out", str(tmp_path / "bags")]
    (tmp_path / "bags").mkdir()
    (tmp_path / "bags" / ".0009.part").mkdir()  # what a killed process left
    assert main([*command, "--workers", "0", "--sequence", "0009", "0007"]) == 0
    assert capsys.readouterr().out.split() == [str(out / "0009"), str(out / "0007")]
    assert sorted(p.name for p in out.iterdir()) == ["0007", "0009"]
    assert all(len(list(Recording(out / name))) == 3 for name in ("0007", "0009"))
    assert main([*command, "--sequence", "0007", "0007"]) == 1
    assert "'0007' is named twice" in capsys.readouterr().err


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


def test_a_file_outside_of_the_data_set_is_not_read(tmp_path):
    for name in ("/etc/hostname", "samples/../../front.jpg"):
        root = _nuscenes(tmp_path / name.replace("/", "_"))
        _replace("v1.0-tiny/sample_data.json", b"samples/front.jpg", name.encode())(root)
        with pytest.raises(
            DataError, match=rf"nuscenes/v1.0-tiny/scene-1: the tables name the file '{name}'.* outside"
        ):
            nuscenes_to_bag(root, "scene-1", tmp_path / "bag")
        with pytest.raises(DataError, match="outside of"):
            NuScenes(root).drive("scene-1").frame_set(0)


def test_a_table_that_is_cut_off(tmp_path):
    """Wherever it ends: within a row, after one, before the closing bracket."""
    root = _nuscenes(tmp_path / "nuscenes")
    table = root / "v1.0-tiny/ego_pose.json"
    whole = json.dumps(json.loads(table.read_bytes()) * 3, indent=0).encode()
    table.write_bytes(whole)
    assert NuScenes(root).scenes == ["scene-1"]
    for end in range(0, len(whole) - 1, 7):
        table.write_bytes(whole[:end])
        with pytest.raises(DataError, match=r"ego_pose\.json: (cut off|not a table of nuScenes|no row)"):
            NuScenes(root)


def test_a_table_without_a_column(tmp_path):
    root = _nuscenes(tmp_path / "nuscenes")
    _replace("v1.0-tiny/sample_data.json", b'"timestamp"', b'"time"')(root)
    with pytest.raises(
        DataError, match=r"sample_data\.json: not a table of nuScenes .*missing required field `timestamp`"
    ):
        NuScenes(root)


def test_large_tables_are_read_in_blocks(tmp_path, monkeypatch):
    """The same index whatever the size of the blocks."""
    from letocc_core.data.datasets import nuscenes

    root = _nuscenes(tmp_path / "nuscenes")
    whole = NuScenes(root).index
    for block in (11, 64, 500):
        monkeypatch.setattr(nuscenes, "BLOCK", block)
        index = NuScenes(root).index
        np.testing.assert_array_equal(index.pose, whole.pose)
        np.testing.assert_array_equal(index.file, whole.file)


def test_tables_with_a_byte_order_mark(tmp_path):
    root = _nuscenes(tmp_path / "nuscenes")
    whole = NuScenes(root).index
    for table in (root / "v1.0-tiny").glob("*.json"):
        table.write_bytes(b"\xef\xbb\xbf" + table.read_bytes())
    index = NuScenes(root).index
    np.testing.assert_array_equal(index.pose, whole.pose)
    np.testing.assert_array_equal(index.file, whole.file)


def test_sets_at_one_instant(tmp_path):
    """Two keyframes with one stamp: neither comes before the other."""
    root = _nuscenes(tmp_path / "nuscenes")
    for name, token in (("sample", "a"), ("sample_data", "d")):
        path = root / f"v1.0-tiny/{name}.json"
        rows = json.loads(path.read_text())
        again = {**rows[0], "token": token * 2} | ({"sample_token": "aa"} if name == "sample_data" else {})
        path.write_text(json.dumps([*rows, again]))
    with pytest.raises(DataError, match=r"v1.0-tiny/scene-1: image set 1 is stamped 1000000 ns, set 0 1000000 ns"):
        NuScenes(root).drive("scene-1")


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (_remove(IMAGE + "1.png"), r"000001\.png: missing"),
        (_edit(IMAGE + "2.png", lambda data: data[:-30]), r"000002\.png: PNG image .* truncated"),
        (_edit(SCANS + "1.bin", lambda data: data[:-3]), r"000001\.bin: 29 bytes, .* multiple of 16.*extract it again"),
        (_edit(POSES, lambda data: data[: data.rindex(b"\n")]), "2 lines of poses for 3 images"),
    ],
)
def test_faults_met_by_training(tracking, tmp_path, fault, message):
    """The same messages where clips are loaded."""
    fault(tracking / "training")
    data = KittiTrackingData(root=tracking, sequences=("0007",))
    with pytest.raises(DataError, match=message):
        clips = recorded_clips(DataConfig(kitti_tracking=data, cache=tmp_path), INPUT, 1)
        [clips[i] for i in range(len(clips))]


def test_an_image_of_another_size(tracking, tmp_path):
    path = tracking / "training/image_02/0007/000001.png"
    path.write_bytes(images.encode(np.zeros((10, 30, 3), np.uint8), "png"))
    with pytest.raises(DataError, match=r"000001\.png: 30 x 10 px, but the calibration of camera_front is of 30 x 20"):
        kitti.tracking_drive(tracking, "0007").frame_set(1)


def test_a_scan_that_was_not_recorded(tracking, tmp_path):
    """A few of KITTI's scans do not exist: those frames are no current frames, and are counted."""
    (tracking / "training/velodyne/0007/000001.bin").unlink()
    data = KittiTrackingData(root=tracking, sequences=("0007",))
    drive = kitti.tracking_drive(tracking, "0007")
    assert [drive.sweep(i) is None for i in range(3)] == [False, True, False]
    with pytest.raises(DataError, match="none of its 3 frames"):
        recorded_clips(DataConfig(kitti_tracking=data, cache=tmp_path), INPUT, 1)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["0.0", "0.2", "0.1"], r"times\.txt, line 3: time stamps do not rise there"),
        (["0.0", "0.1"], r"times\.txt: 2 lines of time stamps for 3 images"),
    ],
)
def test_stamps_of_the_odometry_benchmark(tmp_path, lines, message):
    base = tmp_path / "sequences/00"
    (base / "image_2").mkdir(parents=True)
    for i in range(3):
        (base / f"image_2/{i:06d}.png").write_bytes(png(i))
    (base / "calib.txt").write_text("P2: 40 0 15 0 0 40 10 0 0 0 1 0\n")
    (base / "times.txt").write_text("\n".join(lines))
    with pytest.raises(DataError, match=message):
        kitti.odometry_drive(tmp_path, "00")


def test_labels_of_another_size(tmp_path):
    (tmp_path / "000000.label").write_bytes(bytes(1000))
    with pytest.raises(DataError, match=r"000000\.label: 1000 bytes, expected 4194304 for a grid of 256 x 256 x 32"):
        read_semantic_kitti(tmp_path / "000000.label")
    (tmp_path / "000000.label").write_bytes(bytes(4194304))
    with pytest.raises(DataError, match=r"000000\.invalid: no such file of voxel labels"):
        read_semantic_kitti(tmp_path / "000000.label")
    path = tmp_path / "labels.npz"
    np.savez(path, semantics=np.zeros((200, 200, 8), np.uint8), mask_camera=np.zeros((200, 200, 8), np.uint8))
    with pytest.raises(DataError, match=r"labels\.npz: semantics is \[200, 200, 8\], expected \[200, 200, 16\]"):
        read_occ3d(path)
    with pytest.raises(DataError, match=r"labels\.npz: no array flow; arrays found: semantics, mask_camera"):
        read_openocc(path)
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(DataError, match=r"labels\.npz: damaged .*extract it again"):
        read_occ3d(path)
