"""Evaluation of a whole sequence by a pipeline that answers from the truth, or badly, on a small analytic street."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from letocc_core.data.truth import CLASS_NAMES, FREE, Truth
from letocc_core.errors import DataError
from letocc_core.evaluation import score as evaluate
from letocc_core.evaluation.config import EvaluationConfig
from letocc_core.evaluation.depth import depth_images, read_depth
from letocc_core.evaluation.moment import moment_of
from letocc_core.evaluation.samples import Sample
from letocc_core.evaluation.score import Recorded, Tally
from letocc_core.geometry.grid import GridSpec
from letocc_core.metrics import results
from letocc_core.metrics.baselines import signed_distance
from letocc_core.metrics.frame_score import DepthTruth
from letocc_core.metrics.occupancy import REGIONS
from letocc_core.stream.types import Calibration, FrameSet, OccFlow

GRID = GridSpec((-8.0, -8.0, -1.0), (8.0, 8.0, 3.0), 0.5)
HEIGHT, WIDTH = 24, 48
K = np.array([[24.0, 0, 23.5], [0, 24.0, 11.5], [0, 0, 1]])
T_EGO_CAM = np.eye(4)
T_EGO_CAM[:3, :3], T_EGO_CAM[:3, 3] = [[0, 0, 1], [-1, 0, 0], [0, -1, 0]], [0.0, 0.0, 1.3]
WALL = 6.0  # m ahead
CONFIG = EvaluationConfig(depth_stride=4, samples=128)


def street_truth() -> Truth:
    """Flat ground at z = 0 and a wall across the road, half of it a car that comes nearer at 2 m/s."""
    labels = np.full(GRID.shape, FREE, np.uint8)
    labels[:, :, 1] = CLASS_NAMES.index("road")
    labels[28:, :, 2:] = CLASS_NAMES.index("building")
    labels[28:, 12:20, 2:5] = CLASS_NAMES.index("car")
    velocity = np.zeros((*GRID.shape, 2), np.float32)
    velocity[labels == CLASS_NAMES.index("car")] = (-2.0, 0.0)
    v = np.mgrid[:HEIGHT, :WIDTH][0]
    below = np.maximum((v - K[1, 2]) / K[1, 1], 1e-9)
    depth = np.minimum(T_EGO_CAM[2, 3] / below, WALL)[None].astype(np.float32)
    flow = np.zeros((1, HEIGHT, WIDTH, 2), np.float32)
    return Truth(
        depth, flow, flow, depth > 5, np.zeros(depth.shape, np.uint8), labels, velocity, np.ones(GRID.shape, bool)
    )


def street_sdf() -> np.ndarray:
    """Exact signed distance of that street, m."""
    centres = GRID.centres().numpy()
    return np.minimum(centres[..., 2], WALL - centres[..., 0]).astype(np.float32)


def frame_set(index: int) -> FrameSet:
    pose = np.eye(4)
    pose[0, 3] = 0.5 * index
    images = (np.zeros((HEIGHT, WIDTH, 3), np.uint8),)
    return FrameSet(index * 200_000_000, images, (Calibration(WIDTH, HEIGHT, K),), T_EGO_CAM[None], pose)


@pytest.fixture(scope="module")
def drive() -> list[Sample]:
    truth, origin = street_truth(), np.array([0.0, 0.0, 1.7])
    return [Sample(frame_set(i), origin, truth, None, frame_set(i + 1).T_world_ego, 0.2) for i in range(4)]


class Oracle:
    """Answers with the truth; counts what it is asked."""

    def __init__(self, threshold: float = 0.5):
        self.steps, self.resets, self.threshold = 0, 0, threshold

    def step(self, frames: FrameSet) -> OccFlow:
        self.steps += 1
        truth = street_truth()
        probability = (truth.occupancy != FREE).astype(np.float32)
        seen = np.ones(GRID.shape, bool)
        return OccFlow(frames.stamp_ns, GRID, probability, truth.velocity, seen, self.threshold)

    def reset(self, reason: str) -> None:
        self.resets += 1


def test_an_oracle_scores_one_and_beats_every_baseline(drive):
    oracle = Oracle()
    share = np.zeros(GRID.shape, np.float32)
    share[:, :, 1] = 0.9
    found = evaluate.evaluate(oracle, [drive, drive[:3]], warmup=2, mean_occupancy=share, config=CONFIG)
    assert (oracle.steps, oracle.resets, found["scenes"], found["frames"]) == (7, 2, 2, 3)
    assert found["ray_iou"] == found["ray_iou_objects"] == {"1m": 1, "2m": 1, "4m": 1, "mean": 1}
    assert found["iou"] == found["precision"] == dict.fromkeys(set(REGIONS) - {"seen"}, 1)
    assert found["recall_by_distance"] == {"0-4m": 1, "4-8m": 1, "8-12m": 1}
    assert found["probability"]["best_iou"] == 1 and found["probability"]["calibration_error"] == 0
    assert found["depth"]["abs_rel"] < 0.04  # read from voxels of 0.5 m
    assert found["motion"]["mave"] == 0
    for name in ("flat_road", "mean_occupancy"):
        baseline = found["baselines"][name]
        assert baseline["ray_iou"]["mean"] < 0.9
        assert baseline["ray_iou_objects"]["1m"] < 0.6
        assert baseline["depth"]["abs_rel"] > 3 * found["depth"]["abs_rel"]
    assert found["baselines"]["flat_road"]["ray_iou"] == found["baselines"]["mean_occupancy"]["ray_iou"]
    assert found["baselines"]["zero_velocity"]["motion"]["mave"] == pytest.approx(2.0)
    assert set(found["baselines"]["zero_velocity"]) == {"motion", "flow2d"}
    results.validate_results({**found, "versions": {}})


def test_tallies_of_several_processes_add_up(drive):
    whole = evaluate.score_sequence(Oracle(), drive, range(4), config=CONFIG)
    parts = [evaluate.score_sequence(Oracle(), drive, half, config=CONFIG) for half in (range(2), range(2, 4))]
    together = sum(parts, start=Tally())
    assert together.frames == whole.frames == 4
    for group in ("ray_iou", "iou", "depth", "motion", "flow2d"):
        assert together.results()[group] == pytest.approx(whole.results()[group])


def test_what_no_camera_sees_counts_as_free(drive):
    class Blind(Oracle):
        def step(self, frames):
            return replace(super().step(frames), observed=np.zeros(GRID.shape, bool))

    found = evaluate.evaluate(Blind(), [drive[:1]], config=CONFIG)
    assert found["ray_iou"]["4m"] == found["iou"]["mean"] == 0
    assert found["baselines"]["flat_road"]["ray_iou"]["4m"] == 0


def test_published_outputs_are_scored_like_a_pipeline(drive):
    occupied = street_truth().occupancy != FREE
    distance = signed_distance(occupied, GRID.voxel_size)
    probability = (np.round(254 / (1 + np.exp(distance / 0.1))) / 254).astype(np.float32)
    outputs = [replace(Oracle().step(s.frame_set), probability=probability) for s in drive[:2]]
    found = evaluate.evaluate(Recorded(outputs), [drive], config=CONFIG)
    assert found["frames"] == 2  # the sets that the node dropped are left out
    assert found["ray_iou"]["mean"] == 1
    assert found["depth"]["abs_rel"] < 0.12  # the surface is where the probability crosses one half


def test_a_lidar_sweep_is_truth_enough():
    rng = np.random.default_rng(0)
    wall = np.stack([np.full(300, WALL + 0.1), rng.uniform(-5, 5, 300), rng.uniform(0.2, 2.5, 300)], axis=1)
    sample = Sample(frame_set(0), np.array([0.0, 0.0, 1.7]), lidar=wall.astype(np.float32))
    unscored = Sample(frame_set(1), np.zeros(3))
    found = evaluate.evaluate(Oracle(), [[sample, unscored]], config=CONFIG)
    assert found["frames"] == 1
    assert found["ray_iou"]["1m"] == 1 and found["ray_iou_objects"]["1m"] == 1
    assert found["depth"]["abs_rel"] < 0.05
    assert found["recall"]["mean"] == found["recall"]["standing"] == 1
    assert found["baselines"]["flat_road"]["recall"]["standing"] == 0
    assert not {"motion", "flow2d"} & set(found) and "all" not in found["iou"]


def test_nothing_to_score_is_an_error(drive):
    with pytest.raises(DataError, match="nothing was scored"):
        evaluate.evaluate(Oracle(), [drive], warmup=4, config=CONFIG)


def test_truth_on_another_grid_is_refused(drive):
    other = replace(drive[0].truth, occupancy=drive[0].truth.occupancy[:-1])
    with pytest.raises(DataError, match="truth's grid"):
        evaluate.evaluate(Oracle(), [[replace(drive[0], truth=other)]], config=CONFIG)


@pytest.mark.parametrize(("p", "voxels"), [(0.5, 1.0), (0.2, np.log(0.5) / np.log(0.8)), (0.75, 0.5)])
def test_depth_is_where_half_of_the_rays_have_met_matter(p: float, voxels: float):
    """In evenly filled space, of which each voxel stops a ray with probability p; the ray begins at the box."""
    target = DepthTruth(K[None], T_EGO_CAM[None], np.array([[[23.5, 11.5]]]), np.zeros((1, 1)))
    empty = read_depth(np.full(GRID.shape, 1e-3), GRID, target)
    near = read_depth(np.full(GRID.shape, 1 - 1e-9), GRID, target)  # within a small part of the first voxel
    found = read_depth(np.full(GRID.shape, p), GRID, target)
    first = np.log(2) / np.log(510) * GRID.voxel_size
    assert np.isclose(found - near, voxels * GRID.voxel_size - first, atol=1e-4)
    assert np.isclose(target.points(empty)[..., 0], GRID.upper[0], atol=1e-4)


def test_depth_images_cover_every_camera():
    probability = 1 / (1 + np.exp(np.clip(street_sdf() / 0.05, -50, 50)))
    depth = depth_images(probability, GRID, frame_set(0))[0]
    assert depth.shape == (HEIGHT // 2, WIDTH // 2)
    true = street_truth().depth[0, 1::2, 1::2]
    assert np.nanmedian(np.abs(depth - true) / true) < 0.03
    assert depth_images(probability, GRID, frame_set(0), columns=12)[0].shape == (HEIGHT // 4, 12)


def test_a_sample_becomes_a_picture_with_what_is_known_about_it(drive):
    output = Oracle().step(drive[0].frame_set)
    full = moment_of(drive[0], output, ["camera_front"])
    assert full.depth[0].shape == (HEIGHT // 2, WIDTH // 2) and full.true_depth[0].shape == (HEIGHT, WIDTH)
    np.testing.assert_array_equal(full.true_occupied, drive[0].truth.occupancy != FREE)
    sweep = Sample(frame_set(0), np.zeros(3), lidar=np.array([[1.1, 0.1, 0.1], [np.nan] * 3, [90.0, 0, 0]]))
    recorded = moment_of(sweep, output, ["camera_front"], depth=False)
    assert np.argwhere(recorded.true_occupied).tolist() == [[18, 16, 2]]
    assert recorded.depth is None and recorded.true_depth is None


def test_a_checkpoint_is_measured_on_simulated_streets(tmp_path, capsys):
    """Random weights of the street configuration, on another box: what counts is that everything is there."""
    import yaml

    from letocc_core import checkpoint
    from letocc_core import config as configuration
    from letocc_core.evaluation.checkpoint import evaluate_checkpoint
    from letocc_core.frame import InputConfig
    from letocc_core.model.let_occ_flow import LetOccFlow, ModelConfig

    section = yaml.safe_load((Path(__file__).parents[2] / "config" / "street.yaml").read_text())["model"]
    model_config = replace(configuration.from_dict(ModelConfig, section, "street.yaml"), grid=GRID)
    torch.manual_seed(0)
    plain = {
        "model": configuration.to_dict(model_config),
        "input": configuration.to_dict(InputConfig(image_size=(32, 96))),
        "data": {"simulator": {"rig": "kitti", "first_seed": 0, "scenes": 2}},
    }
    path = tmp_path / "model.safetensors"
    checkpoint.save(path, LetOccFlow(model_config), plain)
    config = EvaluationConfig(seconds=0.6, training_streets=1, depth_stride=8)
    json = tmp_path / "out.json"
    found = evaluate_checkpoint(
        path, seeds=range(9000, 9001), json=json, workers=0, command="letocc eval", cache=tmp_path, config=config
    )
    assert results.read_results(json) == found
    assert (found["scenes"], found["frames"]) == (1, 4 - model_config.temporal.frames)
    assert set(found["baselines"]) == {"flat_road", "mean_occupancy", "zero_velocity"}
    assert "mean_occupancy" in capsys.readouterr().out
    assert list(tmp_path.glob("mean_occupancy_*.npz"))
