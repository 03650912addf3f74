"""Data sets in their own layouts: what the simulator writes comes back through the loaders; splits; real samples."""

import re
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml

from letocc_core import config as configuration
from letocc_core.cli import main
from letocc_core.cues.residual import FlowResidual
from letocc_core.cues.votes import VotesConfig
from letocc_core.data.build import build, open_drives, recorded_clips
from letocc_core.data.config import DataConfig, KittiOdometryData, KittiTrackingData, NuScenesData
from letocc_core.data.datasets import kitti, splits
from letocc_core.data.datasets.drive import Drive, DriveFrames
from letocc_core.data.datasets.nuscenes import NuScenes
from letocc_core.data.datasets.voxel_labels import IGNORE, NUSCENES_GRID, SEMANTIC_KITTI_GRID
from letocc_core.data.dynamic import moving_share
from letocc_core.data.recorded_clips import ResidualMasks
from letocc_core.data.simulator.export import simulate_dataset
from letocc_core.data.simulator.rig import Rig
from letocc_core.data.simulator.street import EPOCH_NS, Street
from letocc_core.data.truth import CLASS_NAMES
from letocc_core.errors import ConfigError, DataError
from letocc_core.frame import FlowCue, InputConfig
from letocc_core.geometry import se3
from letocc_core.geometry.camera import project_lidar
from letocc_core.geometry.grid import GridSpec
from letocc_core.training.config import TrainConfig
from letocc_core.training.loop import train
from letocc_core.viz.colours import depth_colours
from letocc_core.viz.lidar import sweep_picture

SEED, SECONDS, SIZE = 3, 1.2, (48, 84)
CONFIG = Path(__file__).resolve().parents[2] / "config"
INPUT = InputConfig(image_size=SIZE, history_interval=0.1)


@pytest.fixture(scope="module")
def roots(tmp_path_factory) -> dict[str, Path]:
    """A street of each layout."""
    base = tmp_path_factory.mktemp("datasets")
    for layout in ("nuscenes", "kitti-odometry", "kitti-tracking"):
        simulate_dataset(base / layout, layout, SEED, 1, SECONDS, image_size=SIZE, workers=0)
    return {path.name: path for path in base.iterdir()}


@pytest.fixture(scope="module")
def nuscenes(roots) -> NuScenes:
    return NuScenes(roots["nuscenes"])


def street(rig: str, **known) -> Street:
    return Street(SEED, Rig.load(rig).resized(*SIZE), **known)


def since_first(T: np.ndarray) -> np.ndarray:
    return np.linalg.inv(T[0]) @ T


def assert_sweeps_match_depth(drive: Drive, truth: Street, i: int, t: float) -> None:
    """Returns lie where the images' true depth says, all but those beside an edge."""
    known = truth.render(t, truth=True, lidar=False).truth.depth
    frame_set, sweep = drive.frame_set(i), drive.sweep(i)
    for n, true_depth in enumerate(known):
        depth = project_lidar(sweep.points, drive.K[i, n], frame_set.T_ego_cam[n], *SIZE)
        there = np.isfinite(depth) & np.isfinite(true_depth)
        near = np.abs(depth[there] - true_depth[there]) < 0.05 * true_depth[there] + 0.1
        assert there.sum() > 50 and near.mean() > 0.85


# nuScenes


def test_nuscenes_comes_back(nuscenes):
    truth = street("nuscenes")
    drive = nuscenes.drive(f"scene-{SEED:04d}", sweeps=True)
    times = np.arange(14) / 12
    np.testing.assert_allclose((drive.stamps_ns - EPOCH_NS) * 1e-9, times, atol=1e-6)
    assert np.flatnonzero(drive.current).tolist() == [0, 6, 12]
    np.testing.assert_allclose(drive.T_world_ego, [truth.pose(t) for t in times], atol=1e-9)
    np.testing.assert_allclose(drive.K, np.tile(truth.rig.intrinsics(), (14, 1, 1, 1)))
    np.testing.assert_allclose(drive.T_ego_cam, np.tile(truth.rig.T_ego_cam(), (14, 1, 1, 1)), atol=1e-9)
    frame = truth.render(times[7], truth=False, lidar=True)
    sweep = drive.sweep(7)
    np.testing.assert_allclose(sweep.points, frame.lidar, atol=1e-4)
    np.testing.assert_allclose(sweep.origin, truth.rig.lidar_origin, atol=1e-6)
    decoded = np.stack(drive.frame_set(7).images)
    assert np.abs(decoded.astype(float) - frame.images).mean() < 4  # JPEG
    assert_sweeps_match_depth(drive, truth, 7, times[7])


def test_cameras_that_fire_later_are_placed_where_the_vehicle_was(nuscenes, tmp_path):
    """Another ego pose for one image: its camera moves by the difference, the set's own pose does not."""
    index = nuscenes.index
    drive = nuscenes.drive("scene-0003")
    rows = nuscenes.records("scene-0003")
    late = rows[index.keyframe[rows] & (index.sensor[rows] == 3)][1]
    pose = np.array(index.pose)
    pose[late, 4:] += [1.0, -2.0, 0.5]  # m, in the world
    moved = NuScenes.__new__(NuScenes)
    vars(moved).update(vars(nuscenes), index=replace(index, pose=pose))
    after = moved.drive("scene-0003")
    np.testing.assert_allclose(after.T_world_ego, drive.T_world_ego)
    difference = drive.T_world_ego[1, :3, :3] @ (after.T_ego_cam - drive.T_ego_cam)[1, 3, :3, 3]
    np.testing.assert_allclose(difference, [1.0, -2.0, 0.5], atol=1e-9)
    assert np.abs(after.T_ego_cam - drive.T_ego_cam).sum(axis=(2, 3)).nonzero()[0].tolist() == [1]


def test_cameras_can_be_chosen(nuscenes):
    drive = nuscenes.drive("scene-0003", ("camera_back", "camera_front"))
    whole = nuscenes.drive("scene-0003")
    np.testing.assert_array_equal(drive.images, whole.images[:, [3, 0]])
    with pytest.raises(DataError, match=r"no camera 'camera_top' in nuScenes; expected some of camera_front"):
        nuscenes.drive("scene-0003", ("camera_top",))


@pytest.mark.parametrize("labels", ["occ3d", "openocc"])
def test_nuscenes_labels_come_back(nuscenes, labels):
    truth = street("nuscenes", grid=NUSCENES_GRID, flow_interval=1 / 12).render(0.5).truth
    found = nuscenes.drive("scene-0003", labels=labels).voxel_labels(1)
    assert found.grid.shape == truth.occupancy.shape
    for name, theirs in (("car", "car"), ("road", "driveable_surface"), ("vegetation", "vegetation")):
        np.testing.assert_array_equal(
            found.labels == found.classes.index(theirs), truth.occupancy == CLASS_NAMES.index(name)
        )
    np.testing.assert_array_equal(found.labels == found.free, truth.occupancy == 255)
    if labels == "occ3d":
        np.testing.assert_array_equal(found.scored, truth.visible)
    else:
        np.testing.assert_allclose(found.velocity, truth.velocity, atol=0.01)  # float16 on disk
    assert nuscenes.drive("scene-0003", sweeps=True, labels=labels).voxel_labels(1) is None  # between keyframes


def test_the_index_is_kept_and_follows_the_tables(roots, tmp_path):
    first, second = (NuScenes(roots["nuscenes"], cache=tmp_path) for _ in range(2))
    assert len(list((tmp_path / "nuscenes").iterdir())) == 1
    np.testing.assert_array_equal(first.index.file, second.index.file)
    (roots["nuscenes"] / "v1.0-mini/log.json").touch()
    NuScenes(roots["nuscenes"], cache=tmp_path)
    assert len(list((tmp_path / "nuscenes").iterdir())) == 2


# KITTI


def test_kitti_odometry_comes_back(roots):
    truth = street("kitti")
    drive = kitti.odometry_drive(roots["kitti-odometry"], f"{SEED:02d}")
    times = np.arange(12) / 10
    np.testing.assert_allclose((drive.stamps_ns - drive.stamps_ns[0]) * 1e-9, times, atol=1e-9)
    T_world_cam = np.stack([truth.pose(t) @ truth.rig.T_ego_cam()[0] for t in times])
    np.testing.assert_allclose(
        since_first(drive.T_world_ego @ drive.T_ego_cam[:, 0]), since_first(T_world_cam), atol=1e-9
    )
    np.testing.assert_allclose(drive.K[:, 0], np.tile(truth.rig.intrinsics()[0], (12, 1, 1)))
    frame = truth.render(0.4, truth=False, lidar=True)
    np.testing.assert_array_equal(drive.frame_set(4).images[0], frame.images[0])
    T_cam_ego = np.linalg.inv(drive.T_ego_cam[4, 0])
    in_camera = drive.sweep(4).points @ T_cam_ego[:3, :3].T + T_cam_ego[:3, 3]
    T_cam_street = np.linalg.inv(truth.rig.T_ego_cam()[0])
    np.testing.assert_allclose(in_camera, frame.lidar @ T_cam_street[:3, :3].T + T_cam_street[:3, 3], atol=1e-4)
    assert_sweeps_match_depth(drive, truth, 4, 0.4)


def test_ego_frames_of_kitti(roots):
    """On the road 1.65 m under the camera, or the scanner's, in which the labels are given."""
    road, lidar = (kitti.odometry_drive(roots["kitti-odometry"], "03", ego) for ego in ("road", "lidar"))
    np.testing.assert_allclose(road.T_ego_cam[0, 0, 2, 3], 1.65, atol=1e-9)
    np.testing.assert_allclose(lidar.T_ego_lidar, np.tile(np.eye(4), (12, 1, 1)), atol=1e-9)
    np.testing.assert_allclose(
        since_first(road.T_world_ego @ road.T_ego_lidar), since_first(lidar.T_world_ego), atol=1e-9
    )
    assert road.voxel_labels(0) is None
    labels = lidar.voxel_labels(5)
    assert labels.grid == SEMANTIC_KITTI_GRID and lidar.voxel_labels(4) is None
    points = lidar.sweep(5).points
    voxel, inside = labels.grid.to_voxel(torch.from_numpy(points))
    hit = labels.labels[tuple(voxel[inside].T)] != labels.free
    assert inside.sum() > 1000 and hit.float().mean() > 0.9 if isinstance(hit, torch.Tensor) else hit.mean() > 0.9


def test_kitti_tracking_comes_back(roots):
    """Poses go through GPS packets: millimetres are left of them."""
    truth = street("kitti")
    drive = kitti.tracking_drive(roots["kitti-tracking"], f"{SEED:04d}")
    T_world_cam = np.stack([truth.pose(i / 10) @ truth.rig.T_ego_cam()[0] for i in range(12)])
    found = since_first(drive.T_world_ego @ drive.T_ego_cam[:, 0])
    np.testing.assert_allclose(found, since_first(T_world_cam), atol=2e-3)
    assert_sweeps_match_depth(drive, truth, 6, 0.6)


def test_raw_drive(tmp_path):
    """The raw recordings' files, by hand: one packet a file, calibrations in three files, stamps in nanoseconds."""
    date, base = tmp_path / "2011_09_26", tmp_path / "2011_09_26/2011_09_26_drive_0048_sync"
    for folder in ("image_02/data", "velodyne_points/data", "oxts/data"):
        (base / folder).mkdir(parents=True)
    from letocc_core.stream.images import encode

    for i in range(3):
        (base / f"image_02/data/{i:010d}.png").write_bytes(encode(np.full((20, 30, 3), 40 * i, np.uint8), "png"))
        np.savetxt(base / f"oxts/data/{i:010d}.txt", [[49, 8, 100, 0, 0, 0] + [0] * 24])
    np.float32([[10, 0, -1.7, 0.5]]).tofile(base / "velodyne_points/data/0000000001.bin")
    (base / "image_02/timestamps.txt").write_text(
        "2011-09-26 14:14:10.9\n2011-09-26 14:14:11.004000001\n2011-09-26 14:14:11.1\n"
    )
    (date / "calib_cam_to_cam.txt").write_text(
        "calib_time: 09-Jan-2012 13:57:47\nR_rect_00: 1 0 0 0 1 0 0 0 1\nP_rect_02: 40 0 15 2.4 0 40 10 0 0 0 1 0\n"
    )
    turned = "R: 0 -1 0 0 0 -1 1 0 0\nT: 0 -0.08 -0.27\n"
    (date / "calib_velo_to_cam.txt").write_text(f"calib_time: 15-Mar-2012\n{turned}delta_f: 0 0\n")
    (date / "calib_imu_to_velo.txt").write_text("R: 1 0 0 0 1 0 0 0 1\nT: -0.8 0.3 -0.8\n")
    drive = kitti.raw_drive(tmp_path, "2011_09_26_drive_0048")
    assert np.diff(drive.stamps_ns).tolist() == [104_000_001, 95_999_999]
    assert drive.sweep(0) is None
    np.testing.assert_allclose(drive.sweep(1).points, [[10 - 0.27, 0, 1.65 + 0.08 - 1.7]], atol=1e-6)
    np.testing.assert_allclose(drive.T_ego_cam[1, 0, :3, 3], [0, 0.06, 1.65], atol=1e-9)
    assert drive.current.all() and drive.frame_set(2).images[0].max() == 80  # frames 0 to 21 are measured
    assert kitti.raw_drives(tmp_path, "all") == ["2011_09_26_drive_0048"]


# Looking at a data set


def test_what_a_configuration_finds(roots, tmp_path, capsys):
    command = ["data", str(CONFIG / "nuscenes.yaml"), f"data.nuscenes.root={roots['nuscenes']}", f"data.cache={tmp_path}",
               "input.image_size=[48, 84]", "--picture", str(tmp_path / "a/b.png")]  # fmt: skip
    assert main(command) == 0
    assert "scene-0003: 14 frames of 6 cameras, 14 sweeps, 1.1 s" in capsys.readouterr().out
    assert cv2.imread(str(tmp_path / "a/b.png")).shape == (3 * 24 + 60 + 2 * (48 + 26) + 24, 24 + 3 * (84 + 24), 3)
    assert main([*command, "--sequence", "scene-0004"]) == 1
    assert "no frame 0 of a sequence 'scene-0004'; sequences: nuscenes/v1.0-mini/scene-0003" in capsys.readouterr().err
    assert main(["data", str(CONFIG / "street.yaml")]) == 1
    assert "its data is not a data set on disk" in capsys.readouterr().err


def test_files_that_the_tables_name_and_nobody_extracted(roots, tmp_path, capsys):
    root = shutil.copytree(roots["nuscenes"], tmp_path / "nuscenes")
    gone = sorted((root / "samples" / "CAM_BACK").iterdir())[:2]
    for file in gone:
        file.unlink()
    command = ["data", str(CONFIG / "nuscenes.yaml"), f"data.nuscenes.root={root}", f"data.cache={tmp_path}",
               "data.nuscenes.split=all", "data.nuscenes.sweeps=true"]  # fmt: skip
    assert main(command) == 0
    named = str(gone[0])
    assert re.search(rf"; 2 of \d+ files are missing, such as {named}: extract the archive", capsys.readouterr().out)


def test_a_return_is_drawn_where_it_projects(roots):
    """One 10 m ahead at the camera's height, which sits 6 cm left of the ego frame: a dot of the colour of 10 m."""
    drive = kitti.tracking_drive(roots["kitti-tracking"], "0003")
    frame = DriveFrames(drive, INPUT, True, Path("unused")).frame(0)
    picture = sweep_picture(replace(frame, lidar=torch.tensor([[10.0, 0, 1.65]])), drive.cameras, "")
    u, v = frame.K[0, 0, 2] + frame.K[0, 0, 0] * 0.006, frame.K[0, 1, 2]
    np.testing.assert_array_equal(
        picture[90 + round(float(v)), 24 + round(float(u))], depth_colours(np.array([10.0]))[0]
    )
    with pytest.raises(DataError, match="no LiDAR sweep to draw"):
        sweep_picture(replace(frame, lidar=None), drive.cameras, "this frame")


# Splits


def test_official_splits_have_their_sizes():
    scenes = [f"scene-{i:04d}" for i in range(1, 1111)]
    val = [s for s in scenes if splits.nuscenes_split(s, "v1.0-trainval") == "val"]
    assert {"scene-0003", "scene-0012", "scene-0555", "scene-1073"} <= set(val)
    assert not {"scene-0001", "scene-0061", "scene-0257", "scene-1100"} & set(val)
    assert [s for s in scenes if splits.nuscenes_split(s, "v1.0-mini") == "val"] == ["scene-0103", "scene-0916"]
    assert len(splits.KITTI_TRACKING["train"][1]) == 18 and len(splits.KITTI_TRACKING["val"][1]) == 15
    assert sum(len(splits.eigen_test_frames(drive)) for drive in splits.eigen_drives("val")) == 697
    assert len(splits.eigen_drives("train")) == 33 and len(splits.eigen_drives("val")) == 28
    assert splits.eigen_test_frames("2011_09_26_drive_0046")[:3] == [0, 5, 10]
    assert not set(splits.eigen_drives("train")) & set(splits.eigen_drives("val"))


def test_a_split_without_scenes_says_so(roots, tmp_path):
    with pytest.raises(DataError, match=r"none of its 1 scenes is of the split 'val'"):
        open_drives(NuScenesData(root=roots["nuscenes"], split="val"), tmp_path)


# Clips


def clips_of(section: str, data, tmp_path: Path, **changes):
    return recorded_clips(DataConfig(**{section: data}, cache=tmp_path), replace(INPUT, **changes), 2)


def test_clips_of_nuscenes(roots, tmp_path):
    """Current frames are keyframes, sources and past come from between them; the world stands in the right place."""
    clips = clips_of("nuscenes", NuScenesData(root=roots["nuscenes"], sweeps=True), tmp_path, history_interval=0.25)
    clip = clips[0]
    assert {c.current for _, c in clips.clips} == {6, 12}
    assert clip.current.images.shape == (6, 3, *SIZE) and len(clip.history) == 2
    assert clip.history[0].lidar is None and clip.current.lidar.shape[1] == 3
    assert int(clip.sources[0].stamp) < int(clip.current.stamp) < int(clip.sources[1].stamp)
    truth = street("nuscenes")
    for frame in (clip.current, *clip.history, *clip.sources):
        at = (int(frame.stamp) - EPOCH_NS) * 1e-9
        np.testing.assert_allclose(frame.T_world_ego, truth.pose(at), atol=1e-5)


def test_flow_of_a_still_world_follows_from_what_was_read(roots):
    """Poses, intrinsics, stamps and LiDAR of two frames give the optical flow of what stands still."""
    drive = kitti.tracking_drive(roots["kitti-tracking"], "0003")
    store = DriveFrames(drive, INPUT, True, Path("unused"))
    truth = street("kitti", flow_interval=0.1).render(0.5).truth
    known = np.isfinite(truth.flow_forward).all(-1)
    for part, low, high in ((~truth.movable, 0.0, 0.05), (known, 0.0, 1.0)):
        cue = FlowCue(
            stamp=torch.tensor(drive.stamps_ns[6]),
            K=torch.tensor(store.K[6]).float(),
            T_ego_cam=torch.tensor(drive.T_ego_cam[6]).float(),
            T_world_ego=torch.tensor(drive.T_world_ego[6]),
            flow=torch.from_numpy(np.nan_to_num(truth.flow_forward)).movedim(-1, 1),
            valid=torch.from_numpy(known & part),
        )
        assert low <= moving_share(store.frame(5), cue, pixels=1.0) <= high
    still = moving_share(store.frame(5), replace(cue, T_world_ego=torch.tensor(drive.T_world_ego[5])), pixels=1.0)
    assert still > 0.3  # without the ego motion all of it seems to move


def test_moving_share_by_hand():
    """Four returns 10 m ahead, the camera stands still, K = 10: one has moved 2 px, one has no known flow."""
    from letocc_core.frame import Frame

    T_ego_cam = torch.tensor([[0.0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]])
    K = torch.tensor([[10.0, 0, 4], [0, 10, 4], [0, 0, 1]])
    points = torch.tensor([[10.0, y, 0] for y in (4.0, 2, 0, -2)] + [[-5.0, 0, 0]])  # pixels 0, 2, 4, 6; one behind
    frame = Frame(
        stamp=torch.tensor(0), images=torch.zeros(1, 3, 9, 9), camera_valid=torch.ones(1, dtype=torch.bool), K=K[None],
        T_ego_cam=T_ego_cam[None], T_world_ego=torch.eye(4, dtype=torch.float64), lidar=points,
        lidar_origin=torch.zeros(3),
    )  # fmt: skip
    flow, valid = torch.zeros(1, 2, 9, 9), torch.ones(1, 9, 9, dtype=torch.bool)
    flow[0, 0, 4, 2], valid[0, 4, 6] = 2.0, False
    cue = FlowCue(torch.tensor(1), K[None], T_ego_cam[None], torch.eye(4, dtype=torch.float64), flow, valid)
    assert moving_share(frame, cue, 1.5) == pytest.approx(1 / 3)
    assert moving_share(frame, cue, 2.5) == 0
    assert moving_share(replace(frame, lidar=None), cue, 1.5) == 0


def test_dynamic_frames_are_drawn_more_often(roots, tmp_path):
    data = KittiTrackingData(root=roots["kitti-tracking"], sequences=("0003",), cue="dis")
    config = DataConfig(kitti_tracking=data, cache=tmp_path, workers=0)
    plain = build(config, INPUT, 2)
    every = build(replace(config, kitti_tracking=replace(data, dynamic_repeat=3, dynamic_share=-1.0)), INPUT, 2)
    none = build(replace(config, kitti_tracking=replace(data, dynamic_repeat=3, dynamic_share=1.0)), INPUT, 2)
    assert len(every) == 3 * len(plain) and len(none) == len(plain)
    with pytest.raises(ConfigError, match="dynamic_repeat needs optical flow"):
        build(replace(config, kitti_tracking=replace(data, dynamic_repeat=2, cue="none")), INPUT, 2)


def test_cues_of_a_data_set_are_written_by_other_processes(roots, tmp_path):
    data = KittiTrackingData(root=roots["kitti-tracking"], sequences=("0003",), cue="dis", last_frame=4)
    clips = clips_of("kitti_tracking", data, tmp_path)
    assert clips.write_flow() > 0 and clips.write_flow() == 0
    assert clips[0].cues[0].flow.shape == (1, 2, *SIZE)


def test_what_moves_by_its_flow_votes_as_such(roots, tmp_path):
    data = KittiTrackingData(root=roots["kitti-tracking"], sequences=("0003",), cue="dis", lidar=False, last_frame=7)
    grid = GridSpec((0, -4, -0.8), (8.0, 4.0, 2.4), 0.8)
    votes = VotesConfig(depths=16, seconds=(-0.1, 0.1), window=0.2)
    plain = clips_of("kitti_tracking", data, tmp_path)
    every = FlowResidual(residual=-1.0, speck=1, gap=1)  # px: takes all whose flow is known to move
    masked = clips_of("kitti_tracking", replace(data, masks=every), tmp_path)
    masked.write_flow()
    for clips in (plain, masked):
        clips.add_votes(votes, grid)
    assert plain.votes != masked.votes
    current = masked[0].current
    moves = ResidualMasks(every, masked.flows[0], {masked.clips[0][1].current: masked.clips[0][1].cues})
    found = moves(masked.stores[0], masked.clips[0][1].current, current)
    assert found is not None and torch.equal(found, current.movable) and found.float().mean() > 0.9
    assert moves(masked.stores[0], 0, current) is None  # no flow leads from there
    still, moving = (clips[0].current.votes for clips in (plain, masked))
    assert still.sum() > 0 and moving.sum() > 0 and not torch.equal(still, moving)


TINY = [
    "model.dim=12", "model.backbone.widths=[8, 8, 8, 8]", "model.backbone.depths=[1, 1, 1, 1]", "model.encoder.layers=1",
    "model.encoder.heads=2", "model.encoder.image_points=[2, 2, 2]", "model.encoder.anchors=[2, 2, 2]",
    "model.encoder.cross_view_points=4", "model.temporal.heads=2", "model.temporal.points=2", "model.refinement.groups=2",
    "model.refinement.blocks=[1, 1, 1]", "model.fields.hidden=8", "input.image_size=[32, 64]", "input.history_interval=0.1",
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "section", "layout", "voxel", "changes"),
    [
        ("nuscenes", "nuscenes", "nuscenes", 1.6, []),
        ("semantickitti", "kitti_odometry", "kitti-odometry", 0.8, ["data.kitti_odometry.sequences=['03']"]),
        ("kitti_mot", "kitti_tracking", "kitti-tracking", 0.8, ["data.kitti_tracking.sequences=['0003']"]),
    ],
)
def test_the_papers_configurations_train_on_their_data_sets(roots, tmp_path, name, section, layout, voxel, changes):
    """Their files, with a network and images of a size for a test."""
    path = CONFIG / f"{name}.yaml"
    stages = len(yaml.safe_load(path.read_text())["stages"])
    objective = ("steps=1", "batch_size=1", "objective.rows=4", "objective.columns=6", "objective.samples=8",
                 "objective.lidar_samples=16")  # fmt: skip
    overrides = [
        *TINY, f"model.grid.voxel_size={voxel}", f"data.{section}.root={roots[layout]}", f"data.cache={tmp_path}",
        "data.workers=0", *changes, *(f"stages.{i}.{change}" for i in range(stages) for change in objective),
    ]  # fmt: skip
    config = configuration.load(TrainConfig, path, overrides)
    folder = train(config, name, tmp_path / "runs", loader_workers=0)
    assert (folder / "model.safetensors").is_file()


# Writing


@pytest.mark.parametrize(
    ("layout", "rig", "message"),
    [
        ("nuscenes", "kitti_rig", r"layout of nuScenes has the cameras camera_front.*the rig has front"),
        ("kitti-odometry", "nuscenes", "one camera and a LiDAR; the rig has 6 cameras"),
        ("waymo", "nuscenes", "no layout 'waymo'; layouts: nuscenes, kitti-odometry, kitti-tracking"),
    ],
)
def test_a_layout_takes_its_rigs(tmp_path, layout, rig, message):
    if rig == "kitti_rig":
        rig = str(tmp_path / "rig.yaml")
        Path(rig).write_text("cameras: {front: {position: [0, 0, 1], yaw: 0}}\n")
    with pytest.raises(ConfigError, match=message):
        simulate_dataset(tmp_path / "out", layout, rig=rig, workers=0)


def test_the_command_writes_a_layout(tmp_path, capsys):
    command = ["simulate", "--format", "kitti-tracking", "--out", str(tmp_path / "kitti"), "--seconds", "0.1",
               "--size", "24", "42", "--workers", "0"]  # fmt: skip
    assert main(command) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "kitti/training/image_02/0000")
    assert len(kitti.tracking_drive(tmp_path / "kitti", "0000")) == 1
    assert main([*command, "--rate", "5"]) == 1
    assert "--rate applies to bags only; the layout kitti-tracking has a fixed rate" in capsys.readouterr().err


def test_nothing_is_written_over(roots):
    with pytest.raises(DataError, match=r"v1\.0-mini: exists already"):
        simulate_dataset(roots["nuscenes"], "nuscenes", seconds=0.1, workers=0)


# Real samples


def test_real_keyframe_lands_on_its_images(shared_data):
    """Returns on the ground around the vehicle fall below the horizon, and all six cameras see some of the sweep."""
    drive = NuScenes(shared_data / "nuscenes").drive("scene-0061")
    frame_set, sweep = drive.frame_set(0), drive.sweep(0)
    for n in range(6):
        depth = project_lidar(sweep.points, drive.K[0, n], frame_set.T_ego_cam[n], 900, 1600)
        assert np.isfinite(depth).sum() > 1500
        ground = sweep.points[(np.abs(sweep.points[:, 2]) < 0.2)]
        rows = np.argwhere(np.isfinite(project_lidar(ground, drive.K[0, n], frame_set.T_ego_cam[n], 900, 1600)))[:, 0]
        assert len(rows) > 50 and rows.min() > 450


def test_real_kitti_loads(shared_data, tmp_path):
    tracking = clips_of(
        "kitti_tracking",
        KittiTrackingData(root=shared_data / "kitti_tracking", sequences=("0012",)),
        tmp_path,
        image_size=(48, 160),
    )
    assert len({c.current for _, c in tracking.clips}) > 50 and tracking[0].current.lidar.shape[0] > 10_000
    odometry = clips_of(
        "kitti_odometry",
        KittiOdometryData(root=shared_data / "kitti_odometry", sequences=("06",)),
        tmp_path,
        image_size=(48, 160),
    )
    clip = odometry[0]
    travelled = se3.relative(clip.history[0].T_world_ego, clip.current.T_world_ego)[0, 3]
    assert 1.0 < travelled < 1.5 and clip.current.lidar is None
    with pytest.raises(DataError, match=r"no key Tr; keys found: P0, P1"):
        kitti.odometry_drive(shared_data / "kitti_odometry", "06", "lidar")


def test_ignored_labels_are_not_scored(tmp_path):
    raw = np.zeros((256, 256, 32), "<u2")
    raw[0, 0, :4] = 10, 52, 259, 30
    invalid = np.zeros(raw.shape, bool)
    invalid[0, 0, 3] = True
    raw.tofile(tmp_path / "000000.label")
    np.packbits(invalid).tofile(tmp_path / "000000.invalid")
    from letocc_core.data.datasets.voxel_labels import read_semantic_kitti

    found = read_semantic_kitti(tmp_path / "000000.label")
    assert found.labels[0, 0, :5].tolist() == [1, IGNORE, 5, IGNORE, 0]
    assert found.scored[0, 0, :5].tolist() == [True, False, True, False, True] and found.scored[1:].all()
