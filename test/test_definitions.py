"""The definitions of losses and metrics against small arrays that come with the repository (`golden/make.py`)."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from letocc_core.geometry.ray_casting import cast
from letocc_core.losses.lidar import silog
from letocc_core.losses.photometric import ssim_loss
from letocc_core.metrics.depth import depth_errors
from letocc_core.metrics.ray_iou import RayCounts, distance_error
from letocc_core.model.deformable_attention import ms_deform_attn
from letocc_core.rendering.neus import neus_alpha, neus_weights

sys.path.append(str(Path(__file__).parent / "golden"))
import make


@pytest.fixture(scope="module")
def known() -> dict[str, np.ndarray]:
    with np.load(make.FILE) as file:
        return dict(file)


def tensor(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(values)


def test_the_file_is_what_the_formulas_give(known):
    made = make.make()
    assert made.keys() == known.keys()
    for name, values in made.items():
        np.testing.assert_allclose(values, known[name], rtol=1e-12, atol=1e-14, err_msg=name)


def test_range_loss(known):
    measured, predicted = (tensor(known[name]) for name in ("measured", "predicted"))
    everywhere = torch.ones_like(measured, dtype=torch.bool)
    assert silog(predicted, measured, everywhere, float(known["focus"])).item() == pytest.approx(
        known["silog"], rel=1e-12
    )
    assert silog(predicted, measured, ~everywhere).item() < 1e-4  # nothing is valid


def test_depth_errors(known):
    np.testing.assert_allclose(depth_errors(known["true_depth"], known["depth"]), known["depth_errors"], rtol=1e-12)
    assert depth_errors(np.zeros(3), np.ones(3)) is None


def test_rendering_weights(known):
    beta = tensor(known["beta"])[:, None]
    weights = neus_weights(tensor(known["sdf"]), beta)
    np.testing.assert_allclose(weights, known["weights"], rtol=1e-9, atol=1e-12)
    alpha = neus_alpha(tensor(known["sdf"]), beta)
    np.testing.assert_allclose(weights.sum(-1), 1 - (1 - alpha).prod(-1), rtol=1e-9)


def test_deformable_attention(known):
    shapes = [(h, w) for h, w in known["levels"].tolist()]
    given = (tensor(known[name])[None] for name in ("value", "places", "shares"))
    value, places, shares = given
    found = ms_deform_attn(value, shapes, places, shares)[0]
    np.testing.assert_allclose(found, known["attended"], rtol=1e-9, atol=1e-12)


def test_structural_dissimilarity(known):
    image, other = (tensor(known[name])[None, None] for name in ("image", "other"))
    np.testing.assert_allclose(ssim_loss(image, other)[0, 0], known["dssim"], rtol=1e-7, atol=1e-10)
    assert ssim_loss(image, image).abs().max() < 1e-12


def test_rays_through_voxels_and_their_counts(known):
    found = {name: cast(known[name], known["origins"], known["directions"]) for name in ("occupied", "guessed")}
    for name, hits in found.items():
        np.testing.assert_array_equal(hits.hit, known[f"{name}_hit"])
        np.testing.assert_array_equal(hits.voxel, known[f"{name}_voxel"])
        np.testing.assert_allclose(hits.distance, known[f"{name}_distance"], rtol=1e-5)
    truth, guess = found["occupied"], found["guessed"]
    counts = RayCounts.geometric(truth.hit, guess.hit, distance_error(truth, guess, float(known["voxel_size"])))
    np.testing.assert_array_equal(counts.true, known["rays_true"])
    np.testing.assert_array_equal(counts.predicted, known["rays_predicted"])
    np.testing.assert_array_equal(counts.matched[:, 0], known["rays_matched"])
    assert 0 < counts.matched[0, 0] < counts.matched[2, 0] < counts.true[0]  # the case says something
