"""Agreement with the public reference implementations: their inputs, their outputs."""

from pathlib import Path

import numpy as np
import pytest

from letocc_core.geometry.grid import GridSpec
from letocc_core.geometry.ray_casting import cast
from letocc_core.geometry.se3 import from_quaternion
from letocc_core.metrics.depth import METRICS, DepthRange, depth_errors
from letocc_core.metrics.motion import VelocityErrors
from letocc_core.metrics.ray_iou import RayCounts, Rays, distance_error, lidar_directions, select_origins, total

NUSCENES = GridSpec((-40.0, -40.0, -1.0), (40.0, 40.0, 5.4), 0.4)
FLOW_CLASSES = 8  # OpenOcc ids 0 to 7


@pytest.fixture(scope="module")
def rays(golden: Path) -> dict[str, np.ndarray]:
    with np.load(golden / "ray_iou.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def hits(rays):
    """Per sample: hits in truth and in prediction along all its rays."""
    out = []
    for i in range(3):
        lidar = Rays.lidar(rays[f"lidar_origins_{i}"], NUSCENES)
        out.append([lidar.cast(rays[f"sem_{which}_openocc"][i] < 16) for which in ("gt", "pred")])
    return out


def per_ray(hits, which: int, grids: np.ndarray) -> np.ndarray:
    """Values of voxel grids [sample, X, Y, Z, ...] where the rays of all samples stop."""
    return np.concatenate([grids[i][tuple(h[which].voxel.T)] for i, h in enumerate(hits)])


@pytest.mark.parametrize("k", range(3))
def test_traversal_equals_the_kernel_for_rays_from_inside_and_outside(rays, k):
    origin, end = (rays[f"dvr{k}_{name}"].astype(np.float64) for name in ("origin", "end"))
    direction = end - origin
    hits = cast(rays[f"dvr{k}_occ"] > 0, origin, direction / np.linalg.norm(direction, axis=1, keepdims=True))
    np.testing.assert_array_equal(hits.hit, rays[f"dvr{k}_hit"])
    np.testing.assert_array_equal(hits.voxel, rays[f"dvr{k}_voxel"])
    np.testing.assert_allclose(hits.distance, rays[f"dvr{k}_dist"], rtol=1e-6)


def test_ray_directions(rays):
    np.testing.assert_array_equal(lidar_directions(), rays["lidar_rays"])


def test_distance_label_and_flow_of_every_ray(rays, hits):
    for which, name in enumerate(("gt", "pred")):
        distance = np.concatenate([h[which].distance for h in hits]) * np.float32(0.4)
        np.testing.assert_allclose(distance, rays[f"ray_dist_{name}"], atol=1e-4)
        for grid in ("openocc", "occ3d"):
            labels = per_ray(hits, which, rays[f"sem_{name}_{grid}"])
            np.testing.assert_array_equal(labels, rays[f"ray_label_{name}_{grid}"])
        np.testing.assert_array_equal(per_ray(hits, which, rays[f"flow_{name}"]), rays[f"ray_flow_{name}"])


@pytest.mark.parametrize(("protocol", "classes"), [("openocc", 16), ("occ3d", 17)])
def test_semantic_counts_and_iou(rays, hits, protocol, classes):
    counts = total(
        [
            RayCounts.semantic(
                rays[f"sem_gt_{protocol}"][i][tuple(true.voxel.T)],
                rays[f"sem_pred_{protocol}"][i][tuple(predicted.voxel.T)],
                distance_error(true, predicted, 0.4),
                classes,
            )
            for i, (true, predicted) in enumerate(hits)
        ]
    )
    np.testing.assert_array_equal(counts.true, rays[f"{protocol}_gt_count"][:classes])
    np.testing.assert_array_equal(counts.predicted, rays[f"{protocol}_pred_count"][:classes])
    np.testing.assert_array_equal(counts.matched, rays[f"{protocol}_tp_count"][:, :classes])
    np.testing.assert_allclose(counts.iou(), rays[f"{protocol}_rayiou_per_class"], rtol=1e-12)
    summary = counts.summary()
    np.testing.assert_allclose([summary[k] for k in ("1m", "2m", "4m")], rays[f"{protocol}_rayiou_mean"], rtol=1e-12)
    assert summary["mean"] == pytest.approx(float(rays[f"{protocol}_rayiou"]), rel=1e-12)


def test_geometric_counts_and_iou(rays, hits):
    counts = total([RayCounts.geometric(t.hit, p.hit, distance_error(t, p, 0.4)) for t, p in hits])
    assert counts.true[0] == rays["geo_gt_count"]
    assert counts.predicted[0] == rays["geo_pred_count"]
    np.testing.assert_array_equal(counts.matched[:, 0], rays["geo_tp_count"])
    np.testing.assert_allclose(counts.iou()[:, 0], rays["geo_rayiou"], rtol=1e-12)


def test_velocity_error_over_true_positives(rays, hits):
    error = np.concatenate([distance_error(t, p, 0.4) for t, p in hits])
    label, predicted = (per_ray(hits, w, rays[f"sem_{n}_openocc"]).astype(int) for w, n in enumerate(("gt", "pred")))
    matched = (label < FLOW_CLASSES) & (label == predicted) & (error < 2)
    flow = [per_ray(hits, w, rays[f"flow_{n}"])[matched] for w, n in enumerate(("gt", "pred"))]
    errors = VelocityErrors.of(label[matched], *flow, FLOW_CLASSES)
    np.testing.assert_array_equal(errors.rays, rays["openocc_ave_count"][1, :FLOW_CLASSES])
    np.testing.assert_allclose(errors.per_class(), rays["openocc_ave_per_class"][:FLOW_CLASSES], rtol=1e-5)
    assert errors.mave() == pytest.approx(float(rays["openocc_mave"]), rel=1e-5)


def test_absent_classes_and_errors_exactly_at_the_threshold(rays):
    true, predicted = rays["edge_gt"], rays["edge_pred"]
    error = np.abs(predicted[:, 1] - true[:, 1])
    label, guess = true[:, 0].astype(int), predicted[:, 0].astype(int)
    counts = RayCounts.semantic(label, guess, error, 16)
    np.testing.assert_array_equal(counts.matched, rays["edge_tp_count"][:, :16])
    np.testing.assert_allclose(counts.iou(), rays["edge_rayiou_per_class"], rtol=1e-12)
    assert counts.summary()["mean"] == pytest.approx(float(rays["edge_rayiou"]), rel=1e-12)
    matched = (label < FLOW_CLASSES) & (label == guess) & (error < 2)
    errors = VelocityErrors.of(label[matched], true[matched, 2:], predicted[matched, 2:], FLOW_CLASSES)
    np.testing.assert_allclose(errors.per_class(), rays["edge_ave_per_class"][:FLOW_CLASSES], rtol=1e-5)


def test_origins_chosen_along_a_drive(rays):
    wxyz, places = rays["origsel_ego2global_rotation_wxyz"], rays["origsel_ego2global_translation"]
    egos = [from_quaternion(q[[1, 2, 3, 0]], t) for q, t in zip(wxyz, places, strict=True)]
    sensor = from_quaternion(
        rays["origsel_lidar2ego_rotation_wxyz"][[1, 2, 3, 0]], rays["origsel_lidar2ego_translation"]
    )
    positions = np.stack([(ego @ sensor)[:, 3] for ego in egos])
    chosen = [select_origins((np.linalg.inv(ego) @ positions.T).T[:, :3], NUSCENES) for ego in egos]
    np.testing.assert_array_equal([len(c) for c in chosen], rays["origsel_count"])
    np.testing.assert_allclose(np.concatenate(chosen), rays["origsel_origins"], atol=1e-6)


@pytest.mark.parametrize(("name", "scaling"), [("noscale_clipped", False), ("medscale_clipped", True)])
def test_depth_metrics(golden, name, scaling):
    data = np.load(golden / "depth_metrics.npz")
    assert tuple(data["metric_names"]) == METRICS
    limits = DepthRange(float(data["min_depth"]), float(data["max_depth"]))
    rows = [
        depth_errors(t, p, limits=limits, median_scaling=scaling) for t, p in zip(data["gt"], data["pred"], strict=True)
    ]
    np.testing.assert_allclose(rows, data[f"errors_{name}"], rtol=1e-5)
    np.testing.assert_allclose(np.mean(rows, axis=0), data[f"mean_errors_{name}"], rtol=1e-5)
