"""Masks of the vehicle's own body: masked pixels teach nothing, are no evidence and see no voxel."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from model_cases import model_config
from test_any_recording import LEVEL

from letocc_core import checkpoint, config
from letocc_core.data.bags.frames import BagClips
from letocc_core.data.bags.info import bag_info
from letocc_core.data.bags.mask import propose
from letocc_core.data.bags.recording import Recording
from letocc_core.data.bags.writer import BagWriter, optical_frame
from letocc_core.data.config import BagData
from letocc_core.errors import DataError
from letocc_core.frame import InputConfig
from letocc_core.geometry import body_masks
from letocc_core.geometry.calibration import Calibration
from letocc_core.losses.sparsity import unseen_voxels
from letocc_core.model import plane_sweep
from letocc_core.model.let_occ_flow import LetOccFlow
from letocc_core.stream.pipeline import OccFlowPipeline
from letocc_core.stream.preprocess import rectify, to_frame
from letocc_core.stream.types import FrameSet

HEIGHT, WIDTH = 48, 80
INTRINSICS = np.array([[40.0, 0, 39.5], [0, 40.0, 23.5], [0, 0, 1]])
INPUT = InputConfig(image_size=(HEIGHT, WIDTH), history_interval=0.1)
BODY = np.zeros((HEIGHT, WIDTH), bool)
BODY[36:, 10:] = True


def camera_pose(height: float = 1.5, pitch: float = 0.3) -> np.ndarray:
    T = np.eye(4)
    c, s = np.cos(pitch), np.sin(pitch)
    T[:3, :3] = np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]]) @ LEVEL
    T[2, 3] = height
    return T


def road(x: float, T_ego_cam: np.ndarray, seed: int = 0, fisheye: bool = False) -> np.ndarray:
    """The picture of a road of random patches of 0.25 m, from a vehicle at x (m)."""
    v, u = np.mgrid[:HEIGHT, :WIDTH].astype(float)
    rays = np.stack([u, v, np.ones_like(u)], -1) @ np.linalg.inv(INTRINSICS).T
    if fisheye:  # an ideal one: the angle from the axis is the radius
        angle = np.hypot(rays[..., 0], rays[..., 1])
        rays[..., :2] *= (np.sin(angle) / np.maximum(angle, 1e-9))[..., None]
        rays[..., 2] = np.cos(angle)
    rays = rays @ T_ego_cam[:3, :3].T
    down = np.where(rays[..., 2] < -1e-3, rays[..., 2], np.nan)
    points = T_ego_cam[:3, 3] + rays * (T_ego_cam[2, 3] / -down)[..., None]
    place = np.nan_to_num(np.floor((points[..., :2] + [x, 0]) * 4)).astype(int)
    shade = np.random.default_rng(seed).integers(40, 220, (512, 512), np.uint8)[
        place[..., 0] % 512, place[..., 1] % 512
    ]
    return np.repeat(np.where(np.isnan(down), 200, shade)[..., None].astype(np.uint8), 3, 2)


def body_drive(path: Path, frames: int = 30, fisheye: bool = False) -> Path:
    """A camera that sees its vehicle's bonnet, and one that does not, 0.6 m a picture."""
    T = camera_pose()
    with BagWriter(path) as bag:
        bag.write_tf_static(1, [("base_link", optical_frame(name), T) for name in ("bare", "bonnet")])
        for i in range(frames):
            stamp, pose = (i + 1) * 10**8, np.eye(4)
            pose[0, 3] = 0.6 * i
            bag.write_tf(stamp, "odom", "base_link", pose)
            for name in ("bare", "bonnet"):
                image = road(0.6 * i, T, fisheye=fisheye)
                if name == "bonnet":
                    stripes = np.where(np.arange(WIDTH) // 5 % 2, 90, 140).astype(np.uint8)[None, :, None]
                    image = np.where(BODY[..., None], stripes, image)
                lens = (np.zeros(4), "equidistant") if fisheye else (np.zeros(0), "plumb_bob")
                bag.write_camera_info(name, stamp, Calibration(WIDTH, HEIGHT, INTRINSICS, *lens))
                bag.write_image(name, stamp, image, "png")
    return path


@pytest.fixture(scope="module")
def bag(tmp_path_factory) -> Path:
    return body_drive(tmp_path_factory.mktemp("body") / "bag")


def test_files_and_text_give_the_same_back(tmp_path):
    masks = {"front": BODY, "side/left": ~BODY}
    assert [p.name for p in body_masks.save(tmp_path / "m", masks)] == ["front.png", "side_left.png"]
    for found in (
        body_masks.load(tmp_path / "m", ["front", "side/left", "rear"]),
        body_masks.from_text(body_masks.to_text(masks), "c"),
    ):
        assert found.keys() == masks.keys()
        for name, mask in masks.items():
            np.testing.assert_array_equal(found[name], mask)
    with pytest.raises(
        DataError, match=r"no mask of any camera; expected rear\.png, found: front\.png, side_left\.png"
    ):
        body_masks.load(tmp_path / "m", ["rear"])
    (tmp_path / "m" / "front.png").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"front\.png: not a readable image"):
        body_masks.load(tmp_path / "m", ["front"])
    with pytest.raises(DataError, match="c: its masks"):
        body_masks.from_text({"front": "%"}, "c")


def test_the_look_at_a_bag_says_what_is_masked(bag, tmp_path):
    body_masks.save(tmp_path / "fit", {"bonnet": BODY})
    info = bag_info(bag, body_masks=tmp_path / "fit")
    assert f"note: bonnet: {BODY.mean():.1%} of the image is masked as the vehicle itself" in str(info)
    body_masks.save(tmp_path / "narrow", {"bonnet": BODY[:, :20]})
    (sentence,) = bag_info(bag, body_masks=str(tmp_path / "narrow")).missing_to_run
    assert f"is of 20 x {BODY.shape[0]} px, but its camera_info is of {BODY.shape[1]} x {BODY.shape[0]} px" in sentence
    (sentence,) = bag_info(bag, body_masks=tmp_path / "absent").missing_to_run
    assert "no mask of any camera" in sentence
    assert bag_info(bag, body_masks="none").missing_to_run == ()


def test_the_body_is_proposed_and_the_road_is_not(bag):
    found = propose(Recording(bag))
    assert found["bare"].mean() < 0.02
    assert (found["bonnet"] & BODY).sum() / (found["bonnet"] | BODY).sum() > 0.75
    with pytest.raises(DataError, match="too few to tell the body from the road"):
        propose(Recording(body_drive(bag.parent / "short", 4)))


def test_the_body_in_a_fisheye_image_is_proposed_as_well(tmp_path):
    found = propose(Recording(body_drive(tmp_path / "fisheye", fisheye=True)))
    assert found["bare"].mean() < 0.02
    assert (found["bonnet"] & BODY).sum() / (found["bonnet"] | BODY).sum() > 0.75


def frame_set(mask: np.ndarray | None = BODY, seed: int = 0, x: float = 0.0, scale: int = 1) -> FrameSet:
    image = np.random.default_rng(seed).integers(0, 256, (HEIGHT * scale, WIDTH * scale, 3), np.uint8)
    pose = np.eye(4)
    pose[0, 3] = x
    K = np.diag([scale, scale, 1]) @ INTRINSICS
    return FrameSet(
        stamp_ns=10**9 + round(x * 10**8),
        images=(image, image.copy()),
        calibrations=(Calibration(WIDTH * scale, HEIGHT * scale, K),) * 2,
        T_ego_cam=np.stack([camera_pose()] * 2),
        T_world_ego=pose,
        masks=() if mask is None else (None, np.kron(mask, np.ones((scale, scale), bool)).astype(bool)),
    )


@pytest.mark.parametrize("scale", [1, 2])
def test_masked_pixels_are_black_and_known(scale):
    raw = frame_set(scale=scale)
    before = raw.images[1].copy()
    frame = to_frame(raw, INPUT)
    assert frame.masked.shape == (2, HEIGHT, WIDTH) and not frame.masked[0].any()
    np.testing.assert_array_equal(frame.masked[1], BODY)
    assert frame.images[1].movedim(0, -1)[frame.masked[1]].sum() == 0 and frame.images[0].min() < frame.images[0].max()
    np.testing.assert_array_equal(raw.images[1], before)  # what was recorded stays
    again = rectify(rectify(raw, INPUT), INPUT)
    np.testing.assert_array_equal(again.masks[1], BODY)
    assert to_frame(frame_set(None), INPUT).masked is None
    with pytest.raises(DataError, match="mask of the vehicle's body in camera 1"):
        to_frame(dataclasses.replace(raw, masks=(None, np.zeros((3, 4), bool))), INPUT)


@torch.no_grad()
def test_nothing_under_a_mask_reaches_the_answer():
    """Whatever the body looks like, and a camera that sees its vehicle alone might as well not be there."""
    torch.manual_seed(0)
    model = LetOccFlow(model_config(sweep={})).eval()

    def answers(change: bool, mask: np.ndarray, absent: bool = False) -> list:
        pipeline = OccFlowPipeline(model, INPUT)
        out = []
        for i in range(3):
            frames = frame_set(mask, seed=i, x=1.0 * i)
            if change:
                frames.images[1][mask] = 7 * i
            if absent:
                frames = dataclasses.replace(frames, images=(frames.images[0], None), masks=())
            out.append(pipeline.step(frames))
        return out

    for a, b in zip(answers(False, BODY), answers(True, BODY), strict=True):
        np.testing.assert_array_equal(a.probability, b.probability)
        np.testing.assert_array_equal(a.observed, b.observed)
    everything = np.ones_like(BODY)
    for a, b in zip(answers(False, everything), answers(False, everything, absent=True), strict=True):
        np.testing.assert_allclose(a.probability, b.probability, atol=1e-5)
        np.testing.assert_array_equal(a.observed, b.observed)


def test_voxels_seen_through_a_mask_alone_are_not_seen():
    grid = model_config().grid
    alone = dataclasses.replace(frame_set(), images=(None, frame_set().images[1]))
    masked = unseen_voxels(to_frame(alone, INPUT).unsqueeze(), grid)
    free = unseen_voxels(to_frame(dataclasses.replace(alone, masks=()), INPUT).unsqueeze(), grid)
    assert (masked & ~free).any() and not (free & ~masked).any()


def test_the_plane_sweep_knows_nothing_of_masked_pixels():
    masked = torch.from_numpy(BODY)[None, None]
    half = plane_sweep.half_masked(masked)
    assert half[0, 0, 24 - 6 - 2 :, 10:].all() and not half[0, 0, :10].any()
    grey = torch.rand(1, 1, HEIGHT // 2, WIDTH // 2, generator=torch.Generator().manual_seed(0))
    K_half = plane_sweep.half_intrinsics(torch.tensor(INTRINSICS, dtype=torch.float32)[None, None])
    T = torch.eye(4)[None, None].clone()
    T[..., 0, 3] = 0.5
    valid = torch.ones(1, 1, dtype=torch.bool)
    swept = [
        plane_sweep.sweep_depth(grey, [grey], K_half, [K_half], [T], [valid], masked=masks)
        for masks in ((), (half, None), (None, half))
    ]
    assert (swept[0].confidence[0, 0][half[0, 0, ::2, ::2]] > 0).any()
    assert (swept[1].confidence[0, 0][half[0, 0, ::2, ::2]] == 0).all()
    assert swept[2].confidence.sum() < swept[0].confidence.sum()


def test_clips_and_checkpoints_carry_the_masks(bag, tmp_path):
    body_masks.save(tmp_path / "masks", {"bonnet": BODY})
    data = BagData(bags=(bag,), body_masks=tmp_path / "masks", source_distance=0.6)
    clips = BagClips(data, INPUT, 1, tmp_path / "cache")
    clip = clips[0]
    for frame in (clip.current, *clip.history, *clip.sources):
        np.testing.assert_array_equal(frame.masked, np.stack([np.zeros_like(BODY), BODY]))
        assert frame.own is frame.masked or torch.equal(frame.own, frame.masked)
    assert list(clips.body_masks) == ["bonnet"]
    plain = BagClips(dataclasses.replace(data, body_masks=None), INPUT, 1, tmp_path / "cache")
    assert plain[0].current.masked is None and len(list((tmp_path / "cache" / "bags").iterdir())) == 2
    path = tmp_path / "c.safetensors"
    sections = {"model": config.to_dict(model_config()), "input": config.to_dict(INPUT)}
    text = body_masks.to_text(clips.body_masks)
    checkpoint.save(path, torch.nn.Linear(1, 1), sections, cameras=["bare", "bonnet"], body_masks=text)
    found = body_masks.from_text(checkpoint.read_metadata(path)["body_masks"], "c")
    np.testing.assert_array_equal(found["bonnet"], BODY)
    sets = [item.frame_set for item in Recording(bag, body_masks=found)]
    assert sets[0].masks[0] is None and sets[0].masks[1].sum() == BODY.sum()
