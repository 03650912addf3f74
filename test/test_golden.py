"""Agreement with the public reference implementations: their inputs, their outputs.

`pytest test/test_golden.py --golden DIR` reads every array from DIR, so that further cases of the same arrays can be
tried: no size, number of samples, grid or class list is assumed. Tolerances are those that came with the numbers: counts
and labels exact, float32 distances to 0.1 mm, everything computed in float64 to 1e-5 or better.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from letocc_core.geometry.grid import GridSpec
from letocc_core.geometry.ray_casting import RayHits, cast
from letocc_core.geometry.se3 import from_quaternion
from letocc_core.losses import edge, lidar, photometric
from letocc_core.metrics.depth import METRICS, DepthRange, depth_errors
from letocc_core.metrics.motion import VelocityErrors
from letocc_core.metrics.ray_iou import (
    THRESHOLDS,
    RayCounts,
    Rays,
    distance_error,
    lidar_directions,
    occ_score,
    select_origins,
    total,
)
from letocc_core.model.deformable_attention import ms_deform_attn
from letocc_core.rendering.neus import neus_alpha, neus_weights, selfocc_weights

CLOSE = {"rtol": 1e-5, "atol": 1e-6}  # what the numbers' own page asks of anything that is not a count
FILES = {"depth_metrics", "ms_deform_attn", "neus_render", "photometric", "ray_iou", "silog"}


def load(folder: Path, name: str) -> dict[str, np.ndarray]:
    if not (folder / f"{name}.npz").is_file():
        pytest.skip(f"{folder} has no {name}.npz")
    with np.load(folder / f"{name}.npz") as file:
        return dict(file)


def tensors(folder: Path, name: str) -> dict[str, Tensor]:
    """The numbers of a file in double precision."""
    return {
        k: torch.from_numpy(np.asarray(v, np.float64)) for k, v in load(folder, name).items() if v.dtype.kind in "fui"
    }


def test_every_file_of_the_folder_is_compared(golden):
    found = {path.stem for path in golden.glob("*.npz")}
    assert found and found <= FILES


# RayIoU


@pytest.fixture(scope="module")
def rays(golden: Path) -> dict[str, np.ndarray]:
    return load(golden, "ray_iou")


@pytest.fixture(scope="module")
def grid(rays) -> GridSpec:
    return GridSpec(
        tuple(rays["occ_range"][:3].tolist()), tuple(rays["occ_range"][3:].tolist()), float(rays["voxel_size"])
    )


@pytest.fixture(scope="module")
def hits(rays, grid) -> list[tuple[RayHits, RayHits]]:
    """Per sample: hits in truth and in prediction along all its rays."""
    free = len(rays["class_names_openocc"]) - 1
    out = []
    for i in range(len(rays["num_origins"])):
        lidar_rays = Rays.lidar(rays[f"lidar_origins_{i}"], grid)
        out.append(tuple(lidar_rays.cast(rays[f"sem_{which}_openocc"][i] < free) for which in ("gt", "pred")))
    return out


@pytest.fixture(scope="module")
def error(hits, grid) -> np.ndarray:
    return np.concatenate([distance_error(t, p, grid.voxel_size) for t, p in hits])


def along(hits, which: int, grids: np.ndarray) -> np.ndarray:
    """Values of voxel grids [sample, X, Y, Z, ...] where the rays of all samples stop; `which` 0: truth, 1: prediction."""
    return np.concatenate([grids[i][tuple(h[which].voxel.T)] for i, h in enumerate(hits)])


def test_traversal_equals_the_kernel_for_rays_from_inside_and_outside(rays):
    cases = sorted(name[:-4] for name in rays if name.startswith("dvr") and name.endswith("_occ"))
    assert cases
    for case in cases:
        origin, end = (rays[f"{case}_{name}"].astype(np.float64) for name in ("origin", "end"))
        direction = end - origin
        found = cast(rays[f"{case}_occ"] > 0, origin, direction / np.linalg.norm(direction, axis=1, keepdims=True))
        np.testing.assert_array_equal(found.hit, rays[f"{case}_hit"])
        np.testing.assert_array_equal(found.voxel, rays[f"{case}_voxel"])
        np.testing.assert_allclose(found.distance, rays[f"{case}_dist"], rtol=1e-5, atol=1e-6)


def test_ray_directions(rays):
    np.testing.assert_array_equal(lidar_directions(), rays["lidar_rays"])
    np.testing.assert_allclose(np.arcsin(lidar_directions()[::360, 2].astype(float)), rays["pitch_rad"], atol=1e-6)
    np.testing.assert_array_equal(rays["thresholds"], THRESHOLDS)


def test_distance_label_and_flow_of_every_ray(rays, hits, grid):
    np.testing.assert_array_equal(
        np.repeat(np.arange(len(hits)), [len(t.hit) for t, _ in hits]), rays["ray_sample_index"]
    )
    for which, name in enumerate(("gt", "pred")):
        distance = np.concatenate([h[which].distance for h in hits]) * np.float32(grid.voxel_size)
        np.testing.assert_allclose(distance, rays[f"ray_dist_{name}"], atol=1e-4)
        for labels in ("openocc", "occ3d"):
            np.testing.assert_array_equal(
                along(hits, which, rays[f"sem_{name}_{labels}"]), rays[f"ray_label_{name}_{labels}"]
            )
        np.testing.assert_array_equal(along(hits, which, rays[f"flow_{name}"]), rays[f"ray_flow_{name}"])


def test_exact_rays_stop_at_the_same_place_but_for_the_fragile_ones(rays, grid):
    for which in ("gt", "pred"):
        free, distances = len(rays["class_names_openocc"]) - 1, []
        for i in range(len(rays["num_origins"])):
            origins = (rays[f"lidar_origins_{i}"] - grid.lower) / grid.voxel_size
            starts = np.repeat(origins, len(rays["lidar_rays"]), axis=0)
            directions = np.tile(rays["lidar_rays"].astype(np.float64), (len(origins), 1))
            directions /= np.linalg.norm(directions, axis=1, keepdims=True)
            distances.append(cast(rays[f"sem_{which}_openocc"][i] < free, starts, directions).distance)
        off = np.abs(np.concatenate(distances) * grid.voxel_size - rays[f"ray_dist_{which}"])
        assert off[~rays[f"ray_fragile_{which}"]].max() < 2e-3


@pytest.mark.parametrize("protocol", ["openocc", "occ3d"])
def test_semantic_counts_and_iou(rays, hits, error, protocol):
    classes = len(rays[f"class_names_{protocol}"]) - 1
    labels = [along(hits, w, rays[f"sem_{n}_{protocol}"]) for w, n in enumerate(("gt", "pred"))]
    sample = rays["ray_sample_index"]
    parts = [
        RayCounts.semantic(labels[0][sample == i], labels[1][sample == i], error[sample == i], classes)
        for i in range(len(hits))
    ]
    counts = total(parts)
    np.testing.assert_array_equal(counts.true, rays[f"{protocol}_gt_count"][:classes])
    np.testing.assert_array_equal(counts.predicted, rays[f"{protocol}_pred_count"][:classes])
    np.testing.assert_array_equal(counts.matched, rays[f"{protocol}_tp_count"][:, :classes])
    np.testing.assert_allclose(counts.iou(), rays[f"{protocol}_rayiou_per_class"], rtol=1e-12)
    summary = counts.summary()
    np.testing.assert_allclose([summary[k] for k in ("1m", "2m", "4m")], rays[f"{protocol}_rayiou_mean"], rtol=1e-12)
    assert summary["mean"] == pytest.approx(float(rays[f"{protocol}_rayiou"]), rel=1e-12)


def test_counts_from_distances_in_half_precision(rays, hits):
    """The submission tool packs distances as float16 before it counts."""
    classes = len(rays["class_names_openocc"]) - 1
    labels = [along(hits, w, rays[f"sem_{n}_openocc"]) for w, n in enumerate(("gt", "pred"))]
    packed = [rays[f"ray_dist_{n}"].astype(np.float16).astype(np.float32) for n in ("gt", "pred")]
    counts = RayCounts.semantic(*labels, np.abs(packed[1] - packed[0]), classes)
    np.testing.assert_allclose(counts.iou(), rays["tool_rayiou_per_class"], rtol=1e-12)
    np.testing.assert_allclose(np.nanmean(counts.iou(), axis=1), rays["tool_rayiou_mean"], rtol=1e-12)


def test_geometric_counts_and_iou(rays, hits, grid):
    counts = total([RayCounts.geometric(t.hit, p.hit, distance_error(t, p, grid.voxel_size)) for t, p in hits])
    assert counts.true[0] == rays["geo_gt_count"]
    assert counts.predicted[0] == rays["geo_pred_count"]
    np.testing.assert_array_equal(counts.matched[:, 0], rays["geo_tp_count"])
    np.testing.assert_allclose(counts.iou()[:, 0], rays["geo_rayiou"], rtol=1e-12)
    assert counts.summary()["mean"] == pytest.approx(float(rays["geo_rayiou_mean"]), rel=1e-12)


def test_with_the_class_given_a_miss_at_the_right_distance_counts_too(rays, hits, error):
    """The rays that Let Occ Flow's release counts are those whose distance alone is right."""
    valid = np.concatenate([t.hit for t, _ in hits])
    counts = RayCounts.class_given(np.where(valid, 0, 1), error, classes=1)
    np.testing.assert_array_equal(counts.matched[:, 0], rays["geo_tp_count_distance_only"])
    np.testing.assert_array_equal([counts.true[0], counts.predicted[0]], [valid.sum(), valid.sum()])


def velocity_errors(label, guess, error, true, predicted, classes: int, threshold: float) -> VelocityErrors:
    """Of the true positives whose class is one of the first `classes`."""
    matched = (label < classes) & (label == guess) & (error < threshold)
    return VelocityErrors.of(label[matched], true[matched], predicted[matched], classes)


def test_velocity_error_over_true_positives(rays, hits, error):
    names = rays["class_names_openocc"]
    moving = len(rays["flow_class_names"])
    assert list(names[:moving]) == list(rays["flow_class_names"])
    labels = [along(hits, w, rays[f"sem_{n}_openocc"]).astype(int) for w, n in enumerate(("gt", "pred"))]
    flows = [along(hits, w, rays[f"flow_{n}"]) for w, n in enumerate(("gt", "pred"))]
    for k, threshold in enumerate(THRESHOLDS):
        errors = velocity_errors(*labels, error, *flows, moving, threshold)
        np.testing.assert_array_equal(errors.rays, rays["openocc_ave_count"][k, :moving])
        np.testing.assert_allclose(errors.per_class(), rays["openocc_ave_per_class_all_thr"][k, :moving], rtol=1e-5)
    errors = velocity_errors(*labels, error, *flows, moving, 2.0)
    np.testing.assert_allclose(errors.per_class(), rays["openocc_ave_per_class"][:moving], rtol=1e-5)
    assert errors.mave() == pytest.approx(float(rays["openocc_mave"]), rel=1e-5)
    score = occ_score(float(rays["openocc_rayiou"]), errors.mave())
    assert score == pytest.approx(float(rays["openocc_occ_score"]), rel=1e-6)


def test_velocity_error_over_class_agnostic_true_positives(rays, hits, error):
    both = np.concatenate([t.hit & p.hit for t, p in hits])
    label = along(hits, 0, rays["sem_gt_openocc"])
    flows = [along(hits, w, rays[f"flow_{n}"]) for w, n in enumerate(("gt", "pred"))]
    matched = both & (error < 2)
    for name, chosen in (("all", matched), ("flowclasses", matched & (label < len(rays["flow_class_names"])))):
        errors = VelocityErrors.of(np.zeros(chosen.sum(), int), flows[0][chosen], flows[1][chosen], 1)
        assert errors.mave() == pytest.approx(float(rays[f"geo_ave_tp2_{name}"]), rel=1e-5)


def test_absent_classes_and_errors_exactly_at_the_threshold(rays):
    classes, moving = len(rays["class_names_openocc"]) - 1, len(rays["flow_class_names"])
    true, predicted = rays["edge_gt"], rays["edge_pred"]
    error = np.abs(predicted[:, 1] - true[:, 1])
    label, guess = true[:, 0].astype(int), predicted[:, 0].astype(int)
    sample = rays["edge_sample_index"]
    parts = [sample == i for i in np.unique(sample)]
    counts = total([RayCounts.semantic(label[p], guess[p], error[p], classes) for p in parts])
    np.testing.assert_array_equal(counts.true, rays["edge_gt_count"][:classes])
    np.testing.assert_array_equal(counts.predicted, rays["edge_pred_count"][:classes])
    np.testing.assert_array_equal(counts.matched, rays["edge_tp_count"][:, :classes])
    np.testing.assert_allclose(counts.iou(), rays["edge_rayiou_per_class"], rtol=1e-12)
    summary = counts.summary()
    np.testing.assert_allclose([summary[k] for k in ("1m", "2m", "4m")], rays["edge_rayiou_mean"], rtol=1e-12)
    assert summary["mean"] == pytest.approx(float(rays["edge_rayiou"]), rel=1e-12)
    errors = velocity_errors(label, guess, error, true[:, 2:], predicted[:, 2:], moving, 2.0)
    np.testing.assert_allclose(errors.per_class(), rays["edge_ave_per_class"][:moving], rtol=1e-5)
    assert errors.mave() == pytest.approx(float(rays["edge_mave"]), rel=1e-5)


def test_origins_chosen_along_a_drive(rays, grid):
    wxyz, places = rays["origsel_ego2global_rotation_wxyz"], rays["origsel_ego2global_translation"]
    egos = [from_quaternion(q[[1, 2, 3, 0]], t) for q, t in zip(wxyz, places, strict=True)]
    sensor = from_quaternion(
        rays["origsel_lidar2ego_rotation_wxyz"][[1, 2, 3, 0]], rays["origsel_lidar2ego_translation"]
    )
    positions = np.stack([(ego @ sensor)[:, 3] for ego in egos])
    chosen = [select_origins((np.linalg.inv(ego) @ positions.T).T[:, :3], grid) for ego in egos]
    np.testing.assert_array_equal([len(c) for c in chosen], rays["origsel_count"])
    np.testing.assert_allclose(np.concatenate(chosen), rays["origsel_origins"], atol=1e-6)


# Depth


@pytest.fixture(scope="module")
def depths(golden: Path) -> dict[str, np.ndarray]:
    return load(golden, "depth_metrics")


@pytest.mark.parametrize("name", ["noscale_clipped", "medscale_clipped", "noscale_unclipped"])
def test_depth_metrics(depths, name):
    assert tuple(depths["metric_names"]) == METRICS
    limits = DepthRange(float(depths["min_depth"]), float(depths["max_depth"]))
    if name == "noscale_unclipped":
        limits = DepthRange(0.0, np.inf)
    scaling = name.startswith("medscale")
    rows = [
        depth_errors(t, p, m, limits, scaling)
        for t, p, m in zip(depths["gt"], depths["pred"], depths["mask"], strict=True)
    ]
    np.testing.assert_allclose(rows, depths[f"errors_{name}"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(np.mean(rows, axis=0), depths[f"mean_errors_{name}"], rtol=1e-5, atol=1e-6)


def test_pixels_that_count_and_the_ratio_of_medians(depths):
    limits = DepthRange(float(depths["min_depth"]), float(depths["max_depth"]))
    for t, p, m, ratio in zip(depths["gt"], depths["pred"], depths["mask"], depths["median_ratio"], strict=True):
        np.testing.assert_array_equal(depth_errors(t, p, limits=limits), depth_errors(t, p, m, limits))
        scaled = depth_errors(t, p.astype(np.float64) * ratio, limits=limits)
        np.testing.assert_allclose(scaled, depth_errors(t, p, limits=limits, median_scaling=True), rtol=1e-6, atol=1e-9)


# Photometric


@pytest.fixture(scope="module")
def images(golden: Path) -> dict[str, Tensor]:
    return tensors(golden, "photometric")


def lattice(image: Tensor) -> Tensor:
    """[B, 3, h, w] as [1, B, h, w, 3]."""
    return image.movedim(1, -1)[None]


def photometric_errors(views: list[Tensor], target: Tensor) -> Tensor:
    """Errors [V, B, h, w] of views whose only sample a ray has the images' colours, with weight 1."""
    errors = []
    for image in views:
        colours = lattice(image)
        cost = (colours - lattice(target)).abs().mean(-1)[..., None]
        view = photometric.Match(colours[..., None, :], cost, torch.ones_like(cost))
        errors.append(photometric.photometric(view, lattice(target), torch.ones_like(cost), 0.85)[0])
    return torch.stack(errors)


def test_ssim(images):
    pred = images["pred"].clone().requires_grad_()
    loss = photometric.ssim_loss(pred, images["target"])
    torch.testing.assert_close(loss, images["ssim_loss_map"], rtol=1e-6, atol=1e-8)
    (slope,) = torch.autograd.grad(loss.mean(), pred)
    torch.testing.assert_close(slope, images["grad_ssim_mean_wrt_pred"], rtol=1e-5, atol=1e-10)


def test_photometric_error_and_its_gradients(images):
    pred, target = (images[name].clone().requires_grad_() for name in ("pred", "target"))
    error = photometric_errors([pred], target)[0]
    torch.testing.assert_close(error, images["photometric_map"][:, 0], rtol=1e-6, atol=1e-8)
    assert error.mean().item() == pytest.approx(images["photometric_mean"].item(), rel=1e-6)
    slopes = torch.autograd.grad(error.mean(), (pred, target))
    for slope, name in zip(slopes, ("pred", "target"), strict=True):
        torch.testing.assert_close(slope, images[f"grad_photometric_mean_wrt_{name}"], rtol=1e-5, atol=1e-10)


def test_minimum_over_views_and_auto_mask(images):
    errors = photometric_errors([images["pred"], images["pred_second"]], images["target"])
    torch.testing.assert_close(errors, images["reprojection_maps"].transpose(0, 1), rtol=1e-6, atol=1e-8)
    unwarped = photometric_errors([images["source_first"], images["source_second"]], images["target"])
    torch.testing.assert_close(unwarped, images["identity_maps"].transpose(0, 1), rtol=1e-6, atol=1e-8)
    seen = torch.ones_like(errors, dtype=torch.bool)
    best, counted = photometric.minimum_over_views(errors, seen, unwarped)
    warped = images["automask_min_index"] >= 2
    assert torch.equal(counted, warped)
    assert torch.equal(errors.argmin(0)[warped] + 2, images["automask_min_index"][warped].long())
    least = torch.where(counted, best, unwarped.amin(0))
    torch.testing.assert_close(least, images["automask_min_map"], rtol=1e-6, atol=1e-8)
    assert least.mean().item() == pytest.approx(images["automask_mean"].item(), rel=1e-6)


def test_edge_aware_smoothness_and_its_gradients(images):
    disparity = images["disp"][:, 0].clone().requires_grad_()
    target = images["target"].clone().requires_grad_()
    loss = edge.edge_aware(disparity, target.movedim(1, -1))
    assert loss.item() == pytest.approx(images["smooth_loss"].item(), rel=1e-6)
    slopes = torch.autograd.grad(loss, (disparity, target))
    torch.testing.assert_close(slopes[0], images["grad_smooth_wrt_disp"][:, 0], rtol=1e-5, atol=1e-10)
    torch.testing.assert_close(slopes[1], images["grad_smooth_wrt_image"], rtol=1e-5, atol=1e-10)
    normal = images["norm_disp"][:, 0]  # normalising again changes nothing
    assert edge.edge_aware(normal, images["target"].movedim(1, -1)).item() == pytest.approx(loss.item(), rel=1e-5)
    depth = edge.edge_aware(1 / images["disp"][:, 0], images["target"].movedim(1, -1), eps=1e-6)
    assert depth.item() == pytest.approx(images["smooth_loss_selfocc_depth"].item(), rel=1e-6)


# LiDAR


@pytest.mark.parametrize("which", ["all", "masked"])
def test_scale_invariant_log_error(golden, which):
    data = tensors(golden, "silog")
    mask = torch.from_numpy(load(golden, "silog")["mask"])
    pred = data["pred"].clone().requires_grad_()
    loss = lidar.silog(
        pred, data["gt"], mask if which == "masked" else torch.ones_like(mask), data["variance_focus"].item()
    )
    assert loss.item() == pytest.approx(data[f"loss_{which}"].item(), rel=1e-6)
    assert 10 * loss.item() == pytest.approx(data[f"loss_x10_peer_{which}"].item(), rel=1e-5)
    (slope,) = torch.autograd.grad(loss, pred)
    torch.testing.assert_close(slope, data[f"grad_{which}"], rtol=1e-6, atol=1e-10)


# Deformable attention


def test_deformable_attention_and_its_gradients(golden):
    data = load(golden, "ms_deform_attn")
    value, locations, weights = (
        torch.from_numpy(data[name]).double().requires_grad_()
        for name in ("value", "sampling_locations", "attention_weights")
    )
    shapes = [tuple(shape) for shape in data["spatial_shapes"].tolist()]
    output = ms_deform_attn(value, shapes, locations, weights)
    output.backward(torch.from_numpy(data["grad_output"]).double())
    np.testing.assert_allclose(output.detach(), data["output"], rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(value.grad, data["grad_value"], rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(weights.grad, data["grad_weights"], rtol=1e-9, atol=1e-10)
    smooth = data["location_kink_distance"] > 1e-4
    np.testing.assert_allclose(locations.grad[smooth], data["grad_locations"][smooth], rtol=1e-8, atol=1e-9)


# Rendering


@pytest.fixture(scope="module")
def sdf_rays(golden: Path) -> dict[str, Tensor]:
    return tensors(golden, "neus_render")


def middles(t: Tensor) -> Tensor:
    return (t[:, 1:] + t[:, :-1]) / 2


def test_weights_opacity_and_depth(sdf_rays):
    edges = sdf_rays["sdf"], 1 / sdf_rays["inv_s"][:, None]
    weights = neus_weights(*edges)
    torch.testing.assert_close(neus_alpha(*edges), sdf_rays["alpha"], **CLOSE)
    torch.testing.assert_close(weights, sdf_rays["weights"], **CLOSE)
    left = 1 - torch.cat([torch.zeros_like(weights[:, :1]), weights.cumsum(-1)], dim=-1)
    torch.testing.assert_close(left, sdf_rays["transmittance"], **CLOSE)
    torch.testing.assert_close(weights.sum(-1), sdf_rays["opacity"], **CLOSE)
    depth = (weights * middles(sdf_rays["t"])).sum(-1)
    torch.testing.assert_close(depth, sdf_rays["depth_sum"], **CLOSE)
    torch.testing.assert_close(depth / (weights.sum(-1) + 1e-10), sdf_rays["depth_normalised"], **CLOSE)


def test_gradients_of_weights_opacity_and_depth(sdf_rays):
    sdf = sdf_rays["sdf"].clone().requires_grad_()
    weights = neus_weights(sdf, 1 / sdf_rays["inv_s"][:, None])
    depth, opacity = (weights * middles(sdf_rays["t"])).sum(-1), weights.sum(-1)
    for value, name in (
        (depth, "grad_depth_sum_wrt_sdf"),
        (opacity, "grad_opacity_wrt_sdf"),
        (depth / (opacity + 1e-10), "grad_depth_normalised_wrt_sdf"),
        ((weights * sdf_rays["grad_weights_upstream"]).sum(-1), "grad_weights_vjp_wrt_sdf"),
    ):
        (slope,) = torch.autograd.grad(value.sum(), sdf, retain_graph=True)
        torch.testing.assert_close(slope, sdf_rays[name], **CLOSE)


def test_single_precision_holds_where_the_quotient_as_written_does_not(golden, sdf_rays):
    edges = sdf_rays["sdf"].float(), (1 / sdf_rays["inv_s"][:, None]).float()
    weights, alpha = neus_weights(*edges), neus_alpha(*edges)
    torch.testing.assert_close(weights.double(), sdf_rays["weights"], rtol=1e-3, atol=2e-6)
    naive = torch.from_numpy(load(golden, "neus_render")["naive_float32_alpha_ok"])
    assert alpha.isfinite().all()
    torch.testing.assert_close(alpha[naive].double(), sdf_rays["alpha"][naive], rtol=2e-3, atol=1e-5)


@pytest.mark.parametrize(("name", "position"), [("cos0", 0), ("cos05", 1), ("cos1", 2)])
def test_selfocc_s_rendering(sdf_rays, name, position):
    steps = sdf_rays["t"].diff(dim=-1)
    weights, alpha = selfocc_weights(
        sdf_rays["sdf"][:, :-1],
        sdf_rays["dsdf_dt"][:, :-1],
        steps,
        1 / sdf_rays["inv_s"][:, None],
        sdf_rays["selfocc_cos_anneal_ratios"][position].item(),
    )
    torch.testing.assert_close(alpha, sdf_rays[f"selfocc_alpha_{name}"], **CLOSE)
    torch.testing.assert_close(weights, sdf_rays[f"selfocc_weights_{name}"], **CLOSE)
    torch.testing.assert_close(weights / alpha, sdf_rays[f"selfocc_transmittance_{name}"][:, :-1], **CLOSE)
    opacity = weights.sum(-1)
    torch.testing.assert_close(opacity, sdf_rays[f"selfocc_opacity_{name}"], **CLOSE)
    place = middles(sdf_rays["t"])
    depth = ((weights * place).sum(-1) / (opacity + 1e-10)).clamp(place.min(), place.max())
    torch.testing.assert_close(depth, sdf_rays[f"selfocc_depth_{name}"], **CLOSE)
