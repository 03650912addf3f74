"""The papers' tables: figures as printed, protocols by hand-worked scenes, and our row beside them."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from letocc_core.data.config import DataConfig
from letocc_core.data.datasets.voxel_labels import IGNORE, VoxelLabels
from letocc_core.data.simulator.export import simulate_dataset
from letocc_core.errors import ConfigError
from letocc_core.evaluation.config import EvaluationConfig
from letocc_core.evaluation.samples import Sample
from letocc_core.evaluation.tables.measure import Measurement, class_names
from letocc_core.evaluation.tables.protocol import (
    DepthProtocol,
    NovelDepthProtocol,
    OriginsProtocol,
    Protocol,
    SceneFlowProtocol,
    cropped,
)
from letocc_core.evaluation.tables.published import Ours, find_table, load_tables, report
from letocc_core.evaluation.tables.run import data_config, open_drives
from letocc_core.frame import InputConfig
from letocc_core.geometry.grid import GridSpec
from letocc_core.metrics.baselines import signed_distance
from letocc_core.model.fields import Fields
from letocc_core.stream.types import Calibration, FrameSet

GRID = GridSpec((0.0, -4.0, -1.0), (8.0, 4.0, 3.0), 0.5)
WALL = 6.0  # m ahead: voxels from x = 6 on are occupied
CLASSES = ("road", "car", "truck", "free")
EVALUATION = EvaluationConfig(samples=256, beta=0.02)
INPUT = InputConfig(image_size=(32, 64))
K = np.array([[40.0, 0, 31.5], [0, 40.0, 15.5], [0, 0, 1]])
T_EGO_CAM = np.eye(4)
T_EGO_CAM[:3, :3], T_EGO_CAM[:3, 3] = [[0, 0, 1], [-1, 0, 0], [0, -1, 0]], [0.5, 0.0, 1.0]


def fields(wall: float = WALL, velocity: tuple[float, float] = (0.0, 0.0), classes: int = 0, best: int = 0) -> Fields:
    """A wall at `wall` m ahead, everything moving at `velocity`, all of one class."""
    sdf = (wall - GRID.centres()[..., 0])[None, None]
    flow = torch.tensor(velocity).view(1, 2, 1, 1, 1).expand(1, 2, *GRID.shape).contiguous()
    semantics = None
    if classes:
        semantics = torch.zeros(1, classes, *GRID.shape)
        semantics[:, best] = 1
    return Fields(sdf, flow, semantics)


def labels(name: str = "car", velocity: tuple[float, float] = (0.0, 0.0)) -> VoxelLabels:
    """The wall in truth, made of one class."""
    grid = np.full(GRID.shape, CLASSES.index("free"), np.uint8)
    grid[12:] = CLASSES.index(name)
    moves = np.zeros((*GRID.shape, 2), np.float32)
    moves[12:] = velocity
    return VoxelLabels(GRID, CLASSES, grid, np.ones(GRID.shape, bool), moves)


def sample(truth: VoxelLabels | None = None, x: float = 0.0, seconds: float = 0.0, lidar: bool = False) -> Sample:
    """The vehicle `x` m further on, with LiDAR returns on the wall (which stands still in the world)."""
    pose = np.eye(4)
    pose[0, 3] = x
    pixels = np.random.default_rng(0).integers(0, 255, (32, 64, 3), np.uint8)
    frames = FrameSet(int(seconds * 1e9), (pixels,), (Calibration(64, 32, K),), T_EGO_CAM[None], pose)
    y, z = np.meshgrid(np.linspace(-2, 2, 21), np.linspace(0.2, 1.8, 9))
    points = np.stack([np.full(y.size, WALL - x), y.ravel(), z.ravel()], axis=1) if lidar else None
    return Sample(frames, np.array([0.5, 0.0, 1.5]), lidar=points, labels=truth)


def measure(protocol: Protocol, *steps: tuple[Sample, Fields | None]) -> Measurement:
    found = Measurement(protocol, GRID, INPUT, EVALUATION)
    found.begin(np.array([[1.5, 0.0, 1.5]]))
    for step in steps:
        found.add(*step)
    return found


def test_figures_are_as_printed():
    tables = load_tables()
    assert {"letoccflow-1", "letoccflow-2", "letoccflow-3", "selfocc-nuscenes", "selfocc-kitti"} <= set(tables)
    for table in tables.values():
        for row in table.rows:
            values = dict(zip((c.figure for c in table.columns), row.values, strict=True))
            if values.get("ray_iou.mean") is not None and not row.note:
                three = np.mean([values[f"ray_iou.{k}"] for k in ("1m", "2m", "4m")])
                assert values["ray_iou.mean"] == pytest.approx(three, abs=0.02), row.method
            if values.get("voxels.precision") and not row.note:
                p, r = values["voxels.precision"] / 100, values["voxels.recall"] / 100
                assert values["voxels.iou"] == pytest.approx(100 / (1 / p + 1 / r - 1), abs=0.02), row.method
            for name in ("depth", "novel_depth"):
                shares = [values[f"{name}.a{k}"] for k in (1, 2, 3) if values.get(f"{name}.a{k}") is not None]
                assert shares == sorted(shares), row.method
    with pytest.raises(ConfigError, match="no table 'x'; tables: letoccflow-1"):
        find_table("x")


def test_protocols_of_tables_can_be_changed():
    table = find_table("letoccflow-1")
    assert table.protocol.threshold == 0 and table.protocol.crop_truth == ((0, 6), (6, 6), (0, 4))
    changed = table.with_overrides(["protocol.threshold=0.1", "protocol.crop_truth=[[0, 0], [0, 0], [0, 0]]"])
    assert changed.protocol.threshold == 0.1 and changed.protocol.crop_truth == ((0, 0),) * 3
    with pytest.raises(ConfigError, match=r"unknown key 'protocol\.treshold'; did you mean 'protocol\.threshold'"):
        table.with_overrides(["protocol.treshold=1"])


def test_our_row_says_what_was_measured_and_what_was_not():
    table = find_table("letoccflow-3")
    assert report(table, None).count("not run") == 6  # five cells and the remark
    figures = {"ray_iou": {"1m": 0.25, "2m": 0.5, "4m": 0.75, "mean": 0.5}}
    ours = Ours(
        "letocc", "simulator: 1 drive", 3, figures, {"velocity": "no flow", "depth": "no LiDAR"}, ("simulated",)
    )
    text = report(table, ours)
    row = next(line for line in text.splitlines() if "**letocc**" in line)
    assert row.split("|")[2:7] == ["    25.00 ", "    50.00 ", "    75.00 ", "  50.00 ", " not run "]
    assert (
        "Not comparable with the rows above: simulated." in text
        and "velocity: not run: no flow." in text
        and "LiDAR" not in text.split("Ours")[1]
    )
    assert "† RenderOcc*: printed so" in text


def test_crop_frees_the_sides():
    grid = np.ones((4, 5, 6), np.uint8)
    out = cropped(grid, ((1, 0), (0, 2), (2, 1)), 9)
    assert (out[1:, :3, 2:5] == 1).all() and (out == 9).sum() == 4 * 5 * 6 - 3 * 3 * 3 and (grid == 1).all()


def test_ray_iou_by_class_wants_the_class():
    right = measure(Protocol(rays="semantic"), (sample(labels("car")), fields(classes=3, best=1))).figures()
    assert right["ray_iou"] == {"1m": 1, "2m": 1, "4m": 1, "mean": 1}
    wrong = measure(Protocol(rays="semantic"), (sample(labels("car")), fields(classes=3, best=2))).figures()
    assert wrong["ray_iou"]["mean"] == 0
    without = measure(Protocol(rays="semantic"), (sample(labels("car")), fields()))
    assert without.figures() == {} and "no semantic field" in without.missing["ray_iou"]


def test_ray_iou_of_the_release_gives_the_class():
    step = (sample(labels("car")), fields(classes=3, best=2))
    assert measure(Protocol(rays="class_given"), step).figures()["ray_iou"]["mean"] == 1
    # 1.5 m too near: rays straight ahead are off by 1.5 m, steep ones by more: right within 2 or 4 m, never within 1
    near = (sample(labels("car")), fields(wall=WALL - 1.5))
    found = measure(Protocol(rays="class_given"), near)
    counts = found.score["ray_iou"]
    assert counts.matched[0, 1] == 0 and 0 < counts.matched[1, 1] < counts.matched[2, 1] == counts.true[1]
    assert found.figures()["ray_iou"]["2m"] == pytest.approx(
        counts.matched[1, 1] / (2 * counts.true[1] - counts.matched[1, 1])
    )
    assert measure(Protocol(rays="occupied_given"), near).figures() == found.figures()


def test_a_miss_counts_only_where_the_class_is_given():
    truth = labels("car")
    nothing = fields(wall=100.0)  # rays leave the box 2 m behind the wall's face, at the end of the same voxel or later
    given = measure(Protocol(rays="class_given"), (sample(truth), nothing)).figures()["ray_iou"]
    assert given["4m"] > 0.9
    assert measure(Protocol(rays="geometric"), (sample(truth), nothing)).figures()["ray_iou"]["4m"] == 0


def test_where_rays_start():
    steps = [(sample(labels("car"), x=0.1 * i), fields(wall=WALL)) for i in range(4)]
    track = np.array([[1.5 + 0.1 * i, 0.0, 1.5] for i in range(30)])

    def rays(**origins) -> float:
        found = Measurement(Protocol(rays="geometric", origins=OriginsProtocol(**origins)), GRID, INPUT, EVALUATION)
        found.begin(track)
        for item, answer in steps:
            found.add(replace(item, lidar_origin=np.array([1.5, 0.0, 1.5])), answer)
        return found.score["ray_iou"].true[0]

    one = rays(before=0, after=0)  # four frames, each from its own place, at the same distance from the wall
    assert rays(before=1, after=0) / one == pytest.approx(7 / 4, rel=0.1)
    assert rays(before=0, after=9, distance=0.11) / one == pytest.approx(2, rel=0.1)
    assert rays() / one == pytest.approx(8, rel=0.4)  # at most 8


def test_crops_and_threshold_change_what_is_occupied():
    step = (sample(labels("car")), fields())
    everything = ((0, 4), (0, 0), (0, 0))  # the wall
    assert measure(Protocol(rays="geometric", crop_truth=everything), step).figures() == {}
    assert measure(Protocol(rays="geometric", crop_prediction=everything), step).figures()["ray_iou"]["mean"] == 0
    iou = measure(Protocol(voxels="occupied"), step).figures()["voxels"]
    assert iou == {"iou": 1, "precision": 1, "recall": 1}
    thicker = measure(Protocol(voxels="occupied", threshold=0.3), step).figures()["voxels"]  # one more layer of voxels
    assert thicker == {"iou": 4 / 5, "precision": 4 / 5, "recall": 1}


def test_rays_that_meet_the_unknown_first_do_not_count():
    truth = labels("car")
    hidden = truth.labels.copy()
    hidden[11, :8] = IGNORE  # in front of the right half of the wall
    all_rays = measure(Protocol(rays="geometric"), (sample(truth), fields())).score["ray_iou"].true[0]
    some = measure(Protocol(rays="geometric"), (sample(replace(truth, labels=hidden)), fields()))
    assert 0.4 < some.score["ray_iou"].true[0] / all_rays < 0.6 and some.figures()["ray_iou"]["mean"] == 1


def test_labels_on_another_grid_are_met_where_they_are():
    fine = GridSpec((2.0, -2.0, 0.0), (7.0, 2.0, 2.0), 0.25)
    grid = np.full(fine.shape, CLASSES.index("free"), np.uint8)
    grid[16:] = CLASSES.index("car")  # from x = 6
    truth = VoxelLabels(fine, CLASSES, grid, np.ones(fine.shape, bool))
    assert measure(Protocol(voxels="occupied"), (sample(truth), fields())).figures()["voxels"]["iou"] == 1
    larger = GridSpec((0.0, -4.0, -1.0), (12.0, 4.0, 3.0), 0.5)  # beyond the model's box is free
    beyond = VoxelLabels(larger, CLASSES, np.zeros(larger.shape, np.uint8), np.ones(larger.shape, bool))
    found = measure(Protocol(voxels="occupied"), (sample(beyond), fields())).score["voxels"]
    assert found.predicted[0] == 4 * 16 * 8


def test_mean_iou_over_classes_and_classes_that_count_as_free():
    truth = labels("car")
    truth.labels[12:, :8] = CLASSES.index("road")
    step = (sample(truth), fields(classes=3, best=1))
    found = measure(Protocol(voxels="labels"), step).figures()
    assert found["voxels"]["iou"] == 1
    assert found["classes"]["miou"] == pytest.approx((0 + 1 / 2) / 2)  # road never; car half of what is said; no truck
    assert measure(Protocol(voxels="labels", free_classes=("road",)), step).figures()["voxels"]["iou"] == 1 / 2
    without = measure(Protocol(voxels="labels"), (sample(truth), fields()))
    assert "classes" not in without.figures() and "no semantic field" in without.missing["classes"]


def test_velocity_error_of_the_classes_asked_for():
    step = (sample(labels("car", (3.0, 4.0))), fields(velocity=(3.0, 0.0)))
    protocol = Protocol(rays="class_given", velocity_classes=("car", "bus"))
    assert measure(protocol, step).figures()["velocity"] == {"mave": pytest.approx(4.0)}
    assert "velocity" not in measure(replace(protocol, velocity_classes=("truck",)), step).figures()
    lacking = measure(protocol, (sample(replace(labels("car"), velocity=None)), fields()))
    assert "no velocities" in lacking.missing["velocity"]


def test_depth_of_the_current_frame_and_median_scaling():
    far = fields(wall=WALL + 1.0)  # every point at 6.5 m instead of 5.5 m from the camera
    found = measure(Protocol(depth=DepthProtocol()), (sample(lidar=True), far)).figures()["depth"]
    assert found["abs_rel"] == pytest.approx(1 / 5.5, rel=0.02) and found["a1"] == 1
    scaled = measure(Protocol(depth=DepthProtocol(median_scaling=True)), (sample(lidar=True), far)).figures()["depth"]
    assert scaled["abs_rel"] < 1e-3
    nothing = measure(Protocol(depth=DepthProtocol()), (sample(), far))
    assert nothing.figures() == {} and "neither LiDAR" in nothing.missing["depth"]


def test_depth_only_in_a_part_of_the_image():
    left = Protocol(depth=DepthProtocol(area=(0.0, 1.0, 0.0, 0.4)))
    step = (sample(lidar=True), fields())
    assert measure(left, step).figures()["depth"]["abs_rel"] < 0.02
    none = Protocol(depth=DepthProtocol(area=(0.0, 0.05, 0.0, 0.05)))
    assert measure(none, step).figures() == {}


def test_novel_depth_is_that_of_later_cameras_from_earlier_fields():
    protocol = Protocol(novel_depth=NovelDepthProtocol(step=0.4, distance=1.3))
    steps = [(sample(x=x, lidar=True), fields() if x == 0 else None) for x in (0.0, 0.2, 0.5, 1.0, 1.5)]
    found = measure(protocol, *steps)
    assert found.score["novel_depth"].images == 2  # 0.5 and 1.0 m on; 0.2 m is too near, 1.5 m too far
    assert found.figures()["novel_depth"]["abs_rel"] < 0.02
    wrong = measure(protocol, (steps[0][0], fields(wall=WALL + 1)), *steps[1:]).figures()["novel_depth"]
    assert wrong["abs_rel"] == pytest.approx((1 / 5.0 + 1 / 4.5) / 2, rel=0.03)
    assert measure(Protocol(depth=DepthProtocol()), *steps).score["depth"].images == 1


def test_scene_flow_of_a_recording_is_measured_against_the_estimator():
    still = Protocol(scene_flow=SceneFlowProtocol(image_size=(32, 64)))
    steps = [(sample(x=0.0, lidar=True), fields()), (sample(x=0.0, seconds=0.1, lidar=True), None)]
    found = measure(still, *steps).figures()["scene_flow"]  # the same image twice: nothing moves
    assert found["de"] < 0.1 and found["epe"] < 0.1 and found["d1"] == found["sf1"] == 0
    assert "de_fg" not in found and "epe_moving" not in found and found["epe_still"] == found["epe"]
    moving = [(steps[0][0], fields(velocity=(0.0, -10.0))), steps[1]]  # 1 m to the right at 5.5 m: 40 / 5.5 px
    assert measure(still, *moving).figures()["scene_flow"]["epe"] == pytest.approx(40 / 5.5, rel=0.02)
    double = Protocol(scene_flow=SceneFlowProtocol(image_size=(64, 128)))
    assert measure(double, *moving).figures()["scene_flow"]["epe"] == pytest.approx(80 / 5.5, rel=0.02)


def checkpoint_of(folder, **changes):
    """An untrained checkpoint of the small network; returns its path."""
    from model_cases import model_config

    from letocc_core import checkpoint
    from letocc_core import config as configuration
    from letocc_core.model.let_occ_flow import LetOccFlow

    torch.manual_seed(0)
    config = model_config(**changes)
    plain = {
        "model": configuration.to_dict(config),
        "input": {"image_size": [32, 64]},
        "data": {"simulator": {"rig": "kitti"}},
    }
    checkpoint.save(folder / "tiny.safetensors", LetOccFlow(config), plain, seed=0)
    return folder / "tiny.safetensors"


def test_eval_fills_in_our_row_from_simulated_streets(tmp_path, capsys):
    from letocc_core.cli import main

    path = checkpoint_of(tmp_path)
    command = ["eval", str(path), "--dataset", "simulator", "--table", "letoccflow-1", "--table", "letoccflow-2"]
    data = ["data.scenes=1", "data.frames=3", "protocol.crop_truth=[[0,0],[0,0],[0,0]]"]
    assert main([*command, *data, "--frames", "0-1", "--json", str(tmp_path / "out.json")]) == 0
    text = capsys.readouterr().out
    assert text.count("ours (tiny)") == 2 and "47.06" in text and "Not comparable" in text
    found = json.loads((tmp_path / "out.json").read_text())
    occupancy, motion = (found["tables"][name] for name in ("letoccflow-1", "letoccflow-2"))
    assert set(occupancy["figures"]) == {"ray_iou", "depth"} and occupancy["frames"] == 2
    assert {"de", "epe", "d1", "f1", "sf1"} <= set(motion["figures"]["scene_flow"]) and motion["frames"] == 2
    assert occupancy["figures"]["depth"]["abs_rel"] > 0 and "the protocol was changed" in occupancy["unlike"]


def test_eval_says_what_is_wrong_with_a_request(tmp_path, capsys):
    from letocc_core.cli import main

    path = str(checkpoint_of(tmp_path))
    for arguments, message in (
        (["--table", "x"], "no table 'x'; tables: letoccflow-1"),
        (["--table", "letoccflow-1", "threshold=1"], "expected protocol.KEY=VALUE or data.KEY=VALUE"),
        (["--table", "letoccflow-1", "--dataset", "simulator", "data.scene=1"], "did you mean 'simulator.scenes'"),
        (["--table", "letoccflow-1", "--dataset", "sim"], "unknown key 'sim'; did you mean 'simulator'"),
        (["protocol.threshold=1"], "go with --table NAME"),
    ):
        assert main(["eval", path, *arguments]) == 1
        assert message in capsys.readouterr().err


def test_only_what_is_wanted_is_waited_for():
    both = [(sample(x=x, seconds=x, lidar=True), fields()) for x in (0.0, 1.0)]
    assert not measure(Protocol(depth=DepthProtocol()), *both).waits
    assert measure(Protocol(scene_flow=SceneFlowProtocol()), both[0]).waits
    far = (sample(x=20.0, seconds=3.0, lidar=True), None)
    assert measure(Protocol(novel_depth=NovelDepthProtocol()), *both).waits
    assert not measure(Protocol(novel_depth=NovelDepthProtocol()), *both, far).waits


def test_recorded_drives_are_measured_in_their_own_layout(shared_data, tmp_path, capsys):
    from letocc_core.cli import main

    path, tracking, nuscenes = str(checkpoint_of(tmp_path)), shared_data / "kitti_tracking", shared_data / "nuscenes"
    flow = ["--table", "letoccflow-2", f"data.root={tracking}", "data.split=train", "data.sequences=['0012']"]
    depth = ["--table", "selfocc-depth-nuscenes", f"data.root={nuscenes}", "data.split=all", f"data.cache={tmp_path}"]
    groups = {}
    for name, arguments in (("scene_flow", flow), ("depth", depth)):
        assert main(["eval", path, *arguments, "--frames", "0-1", "--json", str(tmp_path / "out.json")]) == 0
        (ours,) = json.loads((tmp_path / "out.json").read_text())["tables"].values()
        groups[name] = ours["figures"][name]
        assert ours["unlike"]
    assert groups["scene_flow"]["de"] > 0 and 0 <= groups["scene_flow"]["sf1"] <= 1
    assert groups["depth"]["abs_rel"] > 0
    unlabelled = [*depth[2:], "--table", "letoccflow-3"]
    assert main(["eval", path, *unlabelled]) == 1
    assert "labels.npz: no such file of voxel labels" in capsys.readouterr().err


def perfect(voxels: VoxelLabels, semantics: bool) -> Fields:
    """Fields that say what the labels say."""
    occupied = (voxels.labels != voxels.free) & (voxels.labels != IGNORE)
    sdf = torch.from_numpy(signed_distance(occupied, voxels.grid.voxel_size))[None, None]
    moves = np.zeros((*voxels.grid.shape, 2), np.float32) if voxels.velocity is None else voxels.velocity
    known = Fields(sdf, torch.from_numpy(moves).movedim(-1, 0)[None])
    if not semantics:
        return known
    names = class_names(voxels)
    numbers = torch.tensor([names.index(n) if n in names else 0 for n in voxels.classes])[
        voxels.labels.astype(int) % 255
    ]
    return replace(known, semantics=torch.nn.functional.one_hot(numbers, len(names)).movedim(-1, 0)[None].float())


def score_perfectly(tables: list[str], data: DataConfig, *overrides: str) -> dict[str, dict]:
    """Figures of a model that knows the labels, at the labelled frames of a data set."""
    found = {}
    for drive in open_drives(data, GRID, INPUT):
        for item in drive.samples:
            if item.labels is None:
                continue
            for name in tables:
                protocol = find_table(name).with_overrides(list(overrides)).protocol
                grid = item.labels.grid
                found.setdefault(name, Measurement(protocol, grid, INPUT, EVALUATION))
                found[name].begin(drive.track)
                found[name].add(
                    item, perfect(item.labels, semantics=protocol.rays == "semantic" or protocol.voxels == "labels")
                )
    return {name: measurement.figures() for name, measurement in found.items()}


def test_what_nuscenes_labels_say_scores_perfectly(tmp_path):
    simulate_dataset(tmp_path / "data", "nuscenes", 3, 1, 0.2, image_size=(32, 64), workers=0)
    overrides = [f"data.root={tmp_path / 'data'}", "data.split=all", f"data.cache={tmp_path}"]
    everything = ["protocol.crop_prediction=[[0, 0], [0, 0], [0, 0]]", "protocol.crop_truth=[[0, 0], [0, 0], [0, 0]]"]
    openocc = score_perfectly(
        ["rayiou-semantic", "letoccflow-3"], data_config("nuscenes", "openocc", {}, overrides), *everything
    )
    for figures in openocc.values():
        assert figures["ray_iou"] == {"1m": 1, "2m": 1, "4m": 1, "mean": 1} and figures["velocity"]["mave"] < 1e-3
    occ3d = data_config("nuscenes", "occ3d", {}, overrides)
    figures = score_perfectly(["selfocc-nuscenes"], occ3d, everything[0])["selfocc-nuscenes"]
    assert figures["voxels"] == {"iou": 1, "precision": 1, "recall": 1} and figures["classes"]["miou"] == 1
    cropped_figures = score_perfectly(["selfocc-nuscenes"], occ3d)["selfocc-nuscenes"]["voxels"]
    assert cropped_figures["precision"] == 1 and 0.5 < cropped_figures["recall"] < 1


def test_what_semantic_kitti_s_labels_say_scores_perfectly(tmp_path):
    simulate_dataset(tmp_path, "kitti-odometry", 3, 1, 0.5, image_size=(48, 160), workers=0)
    overrides = [f"data.root={tmp_path}", "data.split=all", "data.ego=lidar"]
    data = data_config("kitti_odometry", "", {}, overrides)
    found = score_perfectly(["letoccflow-1", "selfocc-kitti"], data)
    assert found["letoccflow-1"]["ray_iou"] == {"1m": 1, "2m": 1, "4m": 1, "mean": 1}
    assert found["letoccflow-1"]["depth"]["abs_rel"] < 0.2  # the scanner's axes are those of the labels
    assert found["selfocc-kitti"]["voxels"]["precision"] == 1
