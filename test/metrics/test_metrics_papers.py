"""The papers' figures by hand-worked values."""

import numpy as np
import pytest

from letocc_core.metrics.occupancy import LabelCounts
from letocc_core.metrics.ray_iou import occ_score
from letocc_core.metrics.scene_flow import SceneFlowScore, outliers

FREE = 255


def labels(*values: int) -> np.ndarray:
    return np.array(values, np.uint8).reshape(1, 1, -1)


def test_scene_flow_by_hand():
    focal, baseline = 100.0, 0.5  # disparity = 50 / depth
    true_depth = np.array([1.0, 5.0, 10.0, np.nan, 60.0, 2.0])  # disparity 50, 10, 5, -, too far, 25
    depth = np.array([1.25, 2.5, 10.0, 1.0, 1.0, 2.0])  # 40, 20, 5, ..., 25: off by 10, 10, 0, 0
    true_flow = np.array([[0.0, 0], [30, 40], [100, 0], [1, 0], [1, 0], [np.nan, 0]])
    flow = np.array([[3.0, 4], [30, 49], [109, 0], [99, 0], [99, 0], [9, 9]])  # off by 5, 9, 9 px
    objects = np.array([True, False, True, True, True, False])
    still = np.array([[0.0, 8], [30, 31], [100, 0], [0, 0], [0, 0], [0, 0]])  # off by 8, 9, 0: the second moves
    score = SceneFlowScore.of_image(true_depth, depth, true_flow, flow, objects, still, focal, baseline)
    assert score.summary() == pytest.approx(
        {
            "de": 20 / 4,
            "epe": (5 + 9 + 9) / 3,
            "de_fg": (10 + 0) / 2,
            "epe_fg": (5 + 9) / 2,
            "epe_moving": 9,
            "epe_still": (5 + 9) / 2,
            "d1": 2 / 4,  # 10 px of 50 and of 10 are more than 4 px and 5 %
            "f1": 1 / 3,  # only 9 px of 50 is more than 8 px and 10 %
            "sf1": 2 / 3,  # the first by its disparity, the second by both; the third is right
        }
    )


def test_scene_flow_is_a_mean_over_images_that_have_a_figure():
    def image(depth: float, objects: bool | None) -> SceneFlowScore:
        flow = np.zeros((1, 2))
        foreground = None if objects is None else np.array([objects])
        return SceneFlowScore.of_image(np.array([1.0]), np.array([depth]), flow, flow, foreground, flow, 10.0, 1.0)

    total = image(1.0, False) + image(2.0, True) + image(1.0, None) + image(np.inf, False)
    assert total.summary()["de"] == pytest.approx((0 + 5 + 0 + 10) / 4)
    assert total.summary()["de_fg"] == 5
    assert SceneFlowScore().summary() == {}


def test_an_outlier_exceeds_both_limits():
    found = outliers(np.array([4.0, 5.0, 5.0, 5.0]), np.array([1.0, 100.0, 99.0, 1.0]), 4.0, 0.05)
    assert found.tolist() == [False, False, True, True]


def test_occupancy_of_labels_by_hand():
    true = labels(0, 0, 1, FREE, FREE, 1)
    predicted = labels(0, 1, 1, 1, FREE, FREE)
    counted = np.ones_like(true, bool)
    counts = LabelCounts.of(true, predicted, counted, FREE, classes=3)
    # occupied: 3 of 4 true ones found, 4 predicted; class 0: 1 of 2; class 1: 1 / (2 + 3 - 1); class 2 is nowhere
    assert counts.summary() == pytest.approx(
        {"iou": 3 / 5, "precision": 3 / 4, "recall": 3 / 4, "miou": (1 / 2 + 1 / 4) / 2}
    )
    counted[0, 0, 3:] = False
    assert LabelCounts.of(true, predicted, counted, FREE).summary() == {"iou": 1, "precision": 1, "recall": 1}


def test_occupancy_of_labels_sums_counts_before_dividing():
    one = np.ones((1, 1, 2), bool)
    parts = [LabelCounts.of(labels(0, 0), labels(0, p), one, FREE, 1) for p in (0, FREE)]
    assert (parts[0] + parts[1]).summary() == pytest.approx({"iou": 0.75, "precision": 1, "recall": 0.75, "miou": 0.75})
    nothing = LabelCounts.of(labels(FREE, FREE), labels(FREE, FREE), one, FREE, 1)
    assert nothing.summary() == {}
    predicted_only = LabelCounts.of(labels(FREE, FREE), labels(0, FREE), one, FREE, 1)
    assert predicted_only.summary() == {"iou": 0, "precision": 0, "miou": 0}


def test_score_of_the_challenge():
    assert occ_score(0.4, 1.5) == pytest.approx(0.36)
    assert occ_score(0.4, 0.5) == pytest.approx(0.41)
