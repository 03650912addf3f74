"""Images as the only truth: a textured wall seen from two places, whose geometry explains the second image."""

from dataclasses import replace

import numpy as np
import pytest

from letocc_core.evaluation import score as evaluate
from letocc_core.evaluation.depth import read_depth, render_depth
from letocc_core.evaluation.samples import Sample
from letocc_core.geometry.grid import GridSpec
from letocc_core.metrics.novel_view import Earlier, NovelViewScore
from letocc_core.stream.types import Calibration, FrameSet, OccFlow

GRID = GridSpec((0.0, -8.0, -3.2), (12.8, 8.0, 3.2), 0.4)
HEIGHT, WIDTH = 48, 96
K = np.array([[60.0, 0, 47.5], [0, 60.0, 23.5], [0, 0, 1]])
T_EGO_CAM = np.eye(4)
T_EGO_CAM[:3, :3] = [[0, 0, 1], [-1, 0, 0], [0, -1, 0]]
WALL = 9.0  # m ahead of the first place
EMPTY = np.full(GRID.shape, 5.0, np.float32)


def picture(x: float) -> np.ndarray:
    """The wall's stripes, in both directions, as a camera sees them that is at x (m)."""
    v, u = np.indices((HEIGHT, WIDTH))
    y, z = ((w - c) / 60.0 * (WALL - x) for w, c in ((u, 47.5), (v, 23.5)))
    waves = [np.sin(2 * y + 0.3), np.cos(1.5 * z + y), np.sin(1.7 * z)]
    return np.round(127.5 + 100 * np.stack(waves, -1)).astype(np.uint8)


def frames(x: float) -> FrameSet:
    pose = np.eye(4)
    pose[0, 3] = x
    calibration = Calibration(WIDTH, HEIGHT, K)
    return FrameSet(round(x * 1e9), (picture(x),), (calibration,), T_EGO_CAM[None], pose)


def wall(at: float) -> np.ndarray:
    return np.broadcast_to((at - GRID.centres().numpy()[..., 0]).astype(np.float32), GRID.shape).copy()


def l1(sdf: np.ndarray, method: str = "letocc") -> float:
    probability = 1 / (1 + np.exp(np.clip(sdf / 0.05, -50, 50)))
    scores = Earlier(frames(0.0), probability, GRID).score(frames(2.0), read_depth, render_depth)
    return scores[method]["novel_view"].summary()["l1"]


def test_the_true_geometry_explains_the_next_image():
    assert l1(wall(WALL)) < 0.02
    assert l1(wall(6.5)) > 5 * l1(wall(WALL)) and l1(EMPTY) > 2 * l1(wall(WALL))
    assert l1(wall(WALL), "constant_depth") < 0.1  # 8 m from the second place, 7 m is the truth
    assert l1(wall(WALL), "flat_road") > 5 * l1(wall(WALL))


def test_figures_by_hand():
    rng = np.random.default_rng(0)
    image = rng.uniform(0.2, 0.8, (6, 8, 3))
    counted = np.ones((6, 8), bool)
    same = NovelViewScore.of(image, image, counted).summary()
    assert (same["l1"], same["dssim"], same["psnr"]) == (0, pytest.approx(0, abs=1e-6), pytest.approx(100))
    brighter = NovelViewScore.of(image, image + 0.1, counted)
    assert brighter.summary()["l1"] == pytest.approx(0.1) and brighter.summary()["psnr"] == pytest.approx(20)
    both = brighter + NovelViewScore.of(image, image, counted)
    assert both.summary()["l1"] == pytest.approx(0.05)
    wrong = image.copy()
    wrong[0, 0] = 0.0
    counted[0, 0] = False
    assert NovelViewScore.of(image, wrong, counted).summary()["dssim"] == pytest.approx(0, abs=1e-6)
    assert NovelViewScore.of(image, wrong, ~np.ones_like(counted)).summary() == {}


class Rigid:
    """Answers with the wall, where it is seen from each set."""

    def step(self, frame_set: FrameSet) -> OccFlow:
        sdf = wall(WALL - frame_set.T_world_ego[0, 3])
        shape, seen = GRID.shape, np.ones(GRID.shape, bool)
        velocity = np.zeros((*shape, 2))
        return OccFlow(frame_set.stamp_ns, GRID, (sdf < 0).astype(np.float32), velocity, seen, 0.5, rectified=frame_set)

    def reset(self, reason: str) -> None:
        """Nothing to forget."""


def test_a_drive_with_nothing_but_images_is_scored_from_its_second_set():
    drive = [Sample(frames(0.5 * i), np.zeros(3)) for i in range(4)]
    tally = evaluate.score_sequence(Rigid(), drive, range(4))
    found = tally.results()
    assert tally.frames == 3 and set(found) == {"novel_view", "baselines", "scenes", "frames"}
    assert set(found["baselines"]) == {"flat_road", "constant_depth"}
    assert found["novel_view"]["l1"] < found["baselines"]["flat_road"]["novel_view"]["l1"]
    absent = replace(drive[1], frame_set=replace(drive[1].frame_set, images=(None,), calibrations=(None,)))
    assert evaluate.score_sequence(Rigid(), [drive[0], absent, *drive[2:]], range(4)).frames == 1
