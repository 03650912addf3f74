"""Replay of a bag into a folder: answers, figures and report, against the pieces that they are made of."""

import csv
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from letocc_core import checkpoint, cli
from letocc_core import config as configuration
from letocc_core.data.bags import reader
from letocc_core.data.bags.reader import open_bag
from letocc_core.data.config import BagData, DataConfig
from letocc_core.data.simulator.bags import simulate, truth_folder
from letocc_core.errors import DataError
from letocc_core.evaluation import score as evaluate
from letocc_core.evaluation.replay import replay_to_folder
from letocc_core.evaluation.samples import RecordedDrive, lidar_track, simulated_street
from letocc_core.evaluation.tables.run import open_drives
from letocc_core.frame import InputConfig
from letocc_core.geometry.grid import GridSpec
from letocc_core.metrics import results
from letocc_core.model.let_occ_flow import LetOccFlow, ModelConfig
from letocc_core.stream.packing import pack
from letocc_core.stream.pipeline import OccFlowPipeline

STREET = Path(__file__).resolve().parents[2] / "config" / "street.yaml"
GRID = GridSpec((-6.4, -6.4, -1.0), (6.4, 6.4, 5.4), 0.8)
SETS, WARMUP = 5, 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("replay")


@pytest.fixture(scope="module")
def bag(folder: Path) -> Path:
    """Some sets of a simulated street with its truth beside it."""
    [path] = simulate(folder, 9000, seconds=SETS / 5, rate_hz=5.0, image_size=(32, 56), grid=GRID, workers=0)
    return path


@pytest.fixture(scope="module")
def recorded(bag: Path, folder: Path) -> Path:
    """The same as a recording of a real vehicle: without truth."""
    return Path(shutil.copytree(bag, folder / "recorded"))


@pytest.fixture(scope="module")
def models(folder: Path) -> list[Path]:
    """Two untrained checkpoints."""
    section = yaml.safe_load(STREET.read_text())["model"]
    grid = {"lower": GRID.lower, "upper": GRID.upper, "voxel_size": GRID.voxel_size}
    changes = {"grid": grid, "occupancy_scale": 1.0, "fields": {"sdf_start": 0.0}}
    config = configuration.from_dict(ModelConfig, section | changes, "street.yaml")
    plain = {"model": configuration.to_dict(config), "input": {"image_size": [32, 56]}}
    paths = [folder / "old.safetensors", folder / "new.safetensors"]
    for seed, path in enumerate(paths):
        torch.manual_seed(seed)
        model = LetOccFlow(config)
        for name, parameter in model.fields.named_parameters():
            if name.endswith("weight"):
                torch.nn.init.normal_(parameter, std=0.5)
        checkpoint.save(path, model, plain, trained={"static": 1})
    return paths


@pytest.fixture(scope="module")
def replayed(bag: Path, models: list[Path], folder: Path) -> Path:
    out = folder / "one"
    assert cli.main(["replay", str(bag), "--checkpoint", str(models[0]), "--out", str(out)]) == 0
    return out


def test_figures_are_those_of_the_evaluation(replayed: Path, bag: Path, models: list[Path]):
    found = results.read_results(replayed / "metrics.json")
    pipeline, drive = OccFlowPipeline.from_checkpoint(models[0]), list(RecordedDrive(bag))
    expected = evaluate.score_sequence(pipeline, drive, range(WARMUP, SETS)).results()
    assert {k: found[k] for k in expected} == expected
    assert found["frames"] == SETS - WARMUP and {"depth", "flow2d", "sweep_motion", "iou"} <= set(found)


def test_a_bag_evaluates_like_the_street_it_was_recorded_from(bag: Path, monkeypatch):
    """JPEG and the interpolation of poses aside."""
    street = simulated_street(9000, "nuscenes", GRID, (32, 56), np.arange(SETS) / 5)
    for sample, recorded in zip(street, RecordedDrive(bag), strict=True):
        for a, b in zip(sample.frame_set.images, recorded.frame_set.images, strict=True):
            assert np.abs(a.astype(int) - b).mean() < 6  # the same camera at the same place of the list
        np.testing.assert_array_equal(sample.truth.occupancy, recorded.truth.occupancy)
        np.testing.assert_allclose(sample.frame_set.T_ego_cam, recorded.frame_set.T_ego_cam, atol=1e-5)
        assert recorded.flow_interval == pytest.approx(0.2)
    last_but_one, last = street[-2].frame_set.T_world_ego, street[-1].frame_set.T_world_ego
    ahead = list(RecordedDrive(bag))
    moved = np.linalg.inv(ahead[-2].frame_set.T_world_ego) @ ahead[-2].T_world_ego_next
    np.testing.assert_allclose(moved, np.linalg.inv(last_but_one) @ last, atol=1e-3)
    monkeypatch.setattr(reader.images, "decode", None)  # the track takes the poses alone
    np.testing.assert_allclose(RecordedDrive(bag).track, lidar_track(ahead), rtol=1e-15, atol=1e-15)
    assert ahead[-1].T_world_ego_next is None and ahead[-1].lidar_later is None
    assert [s.lidar_seconds for s in ahead[:3]] == pytest.approx([0.4] * 3)  # the first sweep 0.3 s later, at 5 Hz


def test_a_table_reads_a_bag_as_its_section_says(bag: Path):
    section = BagData(bags=(bag,), cameras=("camera_front", "camera_back"), lidar_topic="/points")
    [drive] = open_drives(DataConfig(bag=section), GRID, InputConfig(image_size=(32, 56)))
    samples = list(drive.samples)
    assert len(samples) == len(drive.track) == SETS and SETS - 1 in drive.positions
    assert len(samples[0].frame_set.images) == 6 and samples[0].lidar is not None  # the truth knows its cameras


def test_the_same_numbers_every_time(replayed: Path, bag: Path, models: list[Path], folder: Path):
    again = folder / "again"
    [summary] = replay_to_folder(bag, models[:1], again)
    assert (summary["sets"], summary["scored"], summary["dropped"], summary["resets"]) == (SETS, SETS - WARMUP, {}, {})
    first, second = (results.read_results(out / "metrics.json") for out in (replayed, again))
    assert first | {"command": "", "versions": {}} == second | {"command": "", "versions": {}}
    assert (replayed / "frames.csv").read_bytes() == (again / "frames.csv").read_bytes()
    with pytest.raises(DataError, match="exists already"):
        replay_to_folder(bag, models[:1], again)


def test_the_bag_of_answers_holds_what_the_pipeline_says(replayed: Path, bag: Path, models: list[Path]):
    with open_bag(replayed / "answers") as written:
        stored = [m for _, _, m in written.raw(["/occ_flow_node/occupancy"])]
        clouds = [m for _, _, m in written.raw(["/occ_flow_node/points"])]
        assert len(list(written.transforms())) == SETS
    pipeline = OccFlowPipeline.from_checkpoint(models[0])
    answers = [pipeline.step(sample.frame_set) for sample in RecordedDrive(bag)]
    for message, cloud, answer in zip(stored, clouds, answers, strict=True):
        packed = pack(answer)
        np.testing.assert_array_equal(message.probability, packed.probability.reshape(-1))
        np.testing.assert_array_equal(np.stack([message.vx, message.vy], 1), packed.velocity)
        np.testing.assert_array_equal(message.occupied, np.flatnonzero(answer.occupied))
        assert (message.size_x, message.size_y, message.size_z) == GRID.shape
        assert cloud.width == np.count_nonzero(answer.occupied & ~answer.hidden)


def test_the_report_needs_no_other_file(replayed: Path):
    page = (replayed / "report.html").read_text()
    assert not re.search(r"(src|href)=\"(?!data:|#)", page)
    assert page.count("data:image/png;base64,") == SETS - WARMUP  # fewer than are shown at most
    for words in ("Replay of street_009000", "RayIoU", "zero_velocity", "image_size", "letocc replay", "trained"):
        assert words in page
    assert page.count("<svg") >= 5
    assert "<th>flat_road</th>" in page and "<td>RayIoU@1</td>" in page  # a wide table stands upright
    rows = list(csv.DictReader((replayed / "frames.csv").open()))
    figures = [float(row["ray_iou_objects.mean"]) for row in rows[WARMUP:]]
    shown = [int(n) for n in re.findall(r"<h3>Set (\d+)", page)]
    assert [figures[n - WARMUP] for n in shown] == sorted(figures)  # the worst first
    assert rows[0]["depth.abs_rel"] == ""


def test_two_checkpoints_side_by_side(recorded: Path, models: list[Path], folder: Path, replayed: Path):
    """On a bag with LiDAR alone."""
    out = folder / "two"
    assert cli.main(["replay", str(recorded), "--compare", *map(str, models), "--out", str(out)]) == 0
    old, new = (results.read_results(out / name / "metrics.json") for name in ("old", "new"))
    assert old["depth"] != new["depth"] and "sweep_motion" in old and "motion" not in old
    roads = [_without_sight(result["baselines"]["flat_road"]) for result in (old, new)]
    assert roads[0] == roads[1]
    page = (out / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 2 * (SETS - WARMUP)
    assert "repeat(2, 1fr)" in page and "<th>old</th><th>new</th>" in page


def test_a_truth_that_cannot_be_read_is_named(bag: Path, folder: Path):
    copy = Path(shutil.copytree(bag, folder / "copy"))
    truth = Path(shutil.copytree(truth_folder(bag), truth_folder(copy)))
    (truth / "000001.npz").unlink()
    with pytest.raises(DataError, match=r"000001\.npz: no truth of this frame"):
        list(RecordedDrive(copy))
    about = yaml.safe_load((truth / "truth.yaml").read_text())
    (truth / "truth.yaml").write_text(json.dumps({k: v for k, v in about.items() if k != "cameras"}))
    with pytest.raises(DataError, match=r"truth\.yaml: does not name its cameras"):
        RecordedDrive(copy)


def _without_sight(groups: dict) -> dict:
    """Figures less those among the voxels that the answer calls seen, which are the model's own."""
    return {name: {k: v for k, v in group.items() if k != "seen"} for name, group in groups.items()}
