"""Cues of recordings on disk: resumed, shared between processes, safe against a killed writer, read into clips."""

import dataclasses
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import get_args

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from letocc_core import cli
from letocc_core.cues.flow import (
    CLASSICAL,
    LEARNED,
    UNKNOWN,
    Chained,
    Dis,
    decode,
    encode,
    flow_estimator,
    from_kitti,
    settings_key,
    to_kitti,
    trusted_flow,
)
from letocc_core.cues.masks import GroundedSam
from letocc_core.cues.networks import CoTracker, FlowNetwork, Raft, UniMatch
from letocc_core.cues.residual import FlowResidual
from letocc_core.cues.semantics import Segmenter
from letocc_core.cues.tuning import TuneConfig, tune
from letocc_core.data import cache
from letocc_core.data.bags.frames import BagClips
from letocc_core.data.bags.writer import BagWriter, optical_frame
from letocc_core.data.build import build
from letocc_core.data.config import BagData, Cue, DataConfig
from letocc_core.data.cue_files import FlowFiles
from letocc_core.data.recorded_clips import choose_clips
from letocc_core.errors import CheckpointError, ConfigError, DataError, MissingDependencyError
from letocc_core.frame import InputConfig, collate
from letocc_core.stream import images
from letocc_core.stream.types import Calibration

INPUT = InputConfig(image_size=(48, 96), history_interval=0.2)
SHIFT = 2  # px a frame to the right
FRAMES = 8


@pytest.fixture(scope="module")
def bag(tmp_path_factory) -> Path:
    """A drive at 10 Hz and 10 m/s past a wall whose texture moves to the right; the second camera misses image 4."""
    path = tmp_path_factory.mktemp("bag") / "drive"
    wall = np.random.default_rng(0).uniform(0, 255, (48, 120, 3))
    wall = cv2.normalize(cv2.GaussianBlur(wall, (0, 0), 2), None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)
    with BagWriter(path) as writer:
        writer.write_tf_static(1, [("base_link", optical_frame(name), np.eye(4)) for name in ("left", "right")])
        for i in range(FRAMES):
            stamp, T = 10**8 * (i + 1), np.eye(4)
            T[0, 3] = i
            writer.write_tf(stamp, "odom", "base_link", T)
            picture = images.encode(np.ascontiguousarray(wall[:, 20 - SHIFT * i :][:, :96]), "png")
            for name in ("left", "right")[: 1 if i == 4 else 2]:
                K = np.array([[80.0, 0, 48], [0, 80, 24], [0, 0, 1]])
                writer.write_camera_info(name, stamp, Calibration(96, 48, K))
                writer.write_encoded_image(name, stamp, picture, "png")
    return path


def settings(bag: Path, **changes) -> BagData:
    values = {"bags": (bag,), "cameras": ("left", "right"), "source_distance": 2.0, "source_sigma": 0.5, "cue": "dis"}
    return BagData(**{**values, **changes})


def written(folder: Path) -> dict[str, int]:
    return {str(p): p.stat().st_mtime_ns for p in folder.rglob("flow_*/*.png")}


def test_clip_has_the_flow_to_the_frames_around_it(bag, tmp_path):
    clips = build(DataConfig(bag=settings(bag), cache=tmp_path, workers=0), INPUT, 2)
    by_current = {int(clip.current.stamp) // 10**8 - 1: clip for clip in (clips[i] for i in range(len(clips)))}
    clip = by_current[6]
    assert [int(cue.stamp) // 10**8 - 1 for cue in clip.cues] == [5, 7]
    for cue, sign in zip(clip.cues, (-1, 1), strict=True):
        assert cue.flow.shape == (2, 2, 48, 96) and cue.T_world_ego[0, 3] == 6 + sign
        assert cue.valid[:, 10:-10, 20:-20].float().mean() > 0.95
        found = cue.flow[:, :, 10:-10, 20:-20].flatten(2).median(-1).values
        assert torch.allclose(found, torch.tensor([sign * SHIFT, 0.0]), atol=0.1)
    assert collate([clip, clip]).cues[0].valid.shape == (2, 2, 48, 96)


def test_a_camera_without_an_image_has_no_flow(bag, tmp_path):
    clips = build(DataConfig(bag=settings(bag), cache=tmp_path, workers=0), INPUT, 2)
    cues = {int(c.current.stamp) // 10**8 - 1: c.cues for c in (clips[i] for i in range(len(clips)))}
    for cue in (*cues[4], cues[5][0]):
        assert cue.valid[0].any() and not cue.valid[1].any()
    assert cues[5][1].valid[1].any()


def test_the_previous_frame_may_be_the_source(bag):
    """Let Occ Flow 3.4: one drawn by ego distance, here around 2 m, which is 2 frames."""
    poses = np.tile(np.eye(4), (20, 1, 1))
    poses[:, 0, 3] = np.arange(20)
    scene = (np.arange(20) * 10**8, poses, np.ones(20, bool))
    drawn, _ = choose_clips(*scene, settings(bag, cue_previous="source"), INPUT, 2)
    assert all(c.cues == (c.sources[0], c.current + 1) for c in drawn)
    assert any(c.cues[0] == c.current - 2 for c in drawn)
    beside, _ = choose_clips(*scene, settings(bag), INPUT, 2)
    assert all(c.cues == (c.current - 1, c.current + 1) for c in beside)
    assert all(c.cues == () for c in choose_clips(*scene, settings(bag, cue="none"), INPUT, 2)[0])


def test_shards_together_are_the_whole_and_nothing_is_computed_twice(bag, tmp_path, capsys):
    whole, parts = (BagClips(settings(bag), INPUT, 2, tmp_path / name) for name in ("whole", "parts"))
    count = whole.write_flow()
    assert [parts.write_flow(shard=(i, 3)) for i in (1, 2, 3)] == [len(range(i, count, 3)) for i in range(3)]
    names = [sorted(Path(p).name for p in written(tmp_path / name)) for name in ("whole", "parts")]
    assert names[0] == names[1] and len(names[0]) == count
    for name in names[0]:
        a, b = ((c.flows[0].folder / name).read_bytes() for c in (whole, parts))
        assert a == b
    before = written(tmp_path)
    assert parts.write_flow() == 0 and written(tmp_path) == before
    Path(next(iter(before))).unlink()
    assert whole.write_flow() + parts.write_flow() == 1
    assert f"{count} files to write, about" in capsys.readouterr().err


def test_two_processes_give_what_one_gives(bag, tmp_path):
    one, two = (BagClips(settings(bag), INPUT, 2, tmp_path / name) for name in ("one", "two"))
    one.write_flow(workers=0)
    two.write_flow(workers=2)
    for path in one.flows[0].folder.iterdir():
        assert path.read_bytes() == (two.flows[0].folder / path.name).read_bytes()


def test_a_killed_writer_leaves_only_whole_files(bag, tmp_path):
    """SIGKILL while it writes; what is there can be read, and the next call goes on from there."""
    command = [sys.executable, "-c", _SLOW_WRITER, str(tmp_path)]
    writer = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])})
    while len(list(tmp_path.glob("[0-9]*.npz"))) < 3 and writer.poll() is None:
        time.sleep(0.005)
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    done = list(tmp_path.glob("[0-9]*.npz"))
    assert 3 <= len(done) < 200 and writer.returncode == -signal.SIGKILL
    for path in done:
        assert np.load(path)["x"].shape == (200_000,)
    jobs = {tmp_path / f"{i}.npz": () for i in range(200)}
    went_on = cache.write_missing("test", "file", lambda path: cache.save(path, {"x": np.zeros(1)}), jobs, 0)
    assert went_on == 200 - len(done)


_SLOW_WRITER = """
import sys
from pathlib import Path
from types import SimpleNamespace
import numpy as np
from letocc_core.data.cache import save
for i in range(200):
    save(Path(sys.argv[1]) / f"{i}.npz", {"x": np.random.default_rng(i).random(200_000)}, compressed=True)
"""


def test_missing_and_damaged_files_say_what_to_do(bag, tmp_path):
    clips = BagClips(settings(bag), INPUT, 2, tmp_path)
    with pytest.raises(DataError, match=r"\.png: no such file; compute it with `letocc cues flow`"):
        clips[0]
    clips.write_flow()
    clip = clips.clips[0][1]
    path = clips.flows[0].path(clip.current, clip.cues[0])
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(DataError, match=r"damaged .*delete it"):
        clips[0]


def test_estimators_are_named(tmp_path):
    frames = SimpleNamespace(folder=tmp_path)
    folders = {FlowFiles(frames, name, flow_estimator(name)).folder for name in ("dis", "dis_fine")}
    assert len(folders) == 2 and all(folder.parent == tmp_path for folder in folders)
    assert settings_key(Dis(2)) != settings_key(Dis(3))
    with pytest.raises(
        ConfigError, match=r"unknown optical-flow estimator 'riff', expected one of: dis, dis_fine, .*unimatch"
    ):
        flow_estimator("riff")
    with pytest.raises(ConfigError, match="'raft' needs weights: --weights FILE, or cue_weights"):
        flow_estimator("raft")
    with pytest.raises(ConfigError, match="'dis' takes no weights; those with weights: raft"):
        flow_estimator("dis", tmp_path)
    assert set(get_args(Cue)) == {"none", *CLASSICAL, *LEARNED}


def test_the_command_writes_what_training_reads(bag, tmp_path, capsys):
    command = ["cues", "flow", str(bag), "--config", str(_configuration(tmp_path)), "--workers", "0", "--shard"]
    assert [cli.main([*command, part]) for part in ("1/2", "2/2")] == [0, 0]
    assert "pairs of frames computed" in capsys.readouterr().out
    clips = BagClips(settings(bag), INPUT, 2, tmp_path / "cache")
    assert clips.write_flow() == 0 and clips[0].cues[0].valid.any()
    with pytest.raises(SystemExit):
        cli.main([*command, "3/2"])


def _configuration(folder: Path) -> Path:
    path = folder / "small.yaml"
    path.write_text(
        "input: {image_size: [48, 96]}\nmodel: {temporal: {frames: 2}}\n"
        f"data: {{bag: {{bags: [elsewhere], cameras: [left, right]}}, cache: {folder / 'cache'}}}\n"
    )
    return path


def test_a_still_picture_has_no_flow(tmp_path):
    """One file serves both directions."""
    image = np.random.default_rng(1).integers(0, 256, (1, 48, 96, 3), np.uint8)
    frames = SimpleNamespace(folder=tmp_path, camera_valid=np.ones((2, 1), bool), pictures=lambda i: image)
    files = FlowFiles(frames, "dis", Dis())
    assert files.write([(1, 0), (0, 1)], workers=0) == 1
    for pair in ((0, 1), (1, 0)):
        flow, valid = decode(files.read(*pair))
        assert valid.all() and np.abs(flow).max() < 0.1


def test_flow_on_disk_is_kittis(tmp_path):
    """u = (R - 2^15) / 64, v = (G - 2^15) / 64, B: known, as OpenCV reads it from blue to red (KITTI's development kit)."""
    flow = np.array([[[1.0, -2.5], [0.0, 0.0], [np.nan, 1.0]]], np.float32)
    png = to_kitti(encode(flow, longest=1.0))
    image = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED)
    assert image.dtype == np.uint16
    assert image[0].tolist() == [[1, 2**15 - 160, 2**15 + 64], [1, 2**15, 2**15], [0, 0, 0]]
    extremes = np.array([[[UNKNOWN + 1, 32767], [UNKNOWN, UNKNOWN], [-1, 0]]], np.int16)
    np.testing.assert_array_equal(from_kitti(to_kitti(extremes), "x"), extremes)
    for damaged in (png[:-5], b"", cv2.imencode(".png", np.zeros((2, 2), np.uint8))[1].tobytes()):
        with pytest.raises(DataError, match="x: not a complete PNG of 16 bits and 3 channels"):
            from_kitti(damaged, "x")


# Across the images between


def sliding(count: int, step: int) -> list[np.ndarray]:
    """Images of a texture that moves `step` px to the right from one to the next."""
    texture = np.random.default_rng(0).uniform(0, 255, (64, 128 + step * count, 3))
    texture = cv2.normalize(cv2.GaussianBlur(texture, (0, 0), 2), None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)
    return [np.ascontiguousarray(texture[:, step * (count - i) :][:, :128]) for i in range(count)]


def test_images_between_carry_a_motion_that_is_too_long_for_one_step():
    """24 px in 6 steps."""
    first, *between, last = sliding(7, 4)
    flow = Chained()(first, last, between)
    np.testing.assert_allclose(np.median(flow[10:-10, 10:90], axis=(0, 1)), [24, 0], atol=0.3)
    assert np.isnan(flow[:, -12:]).any(axis=-1).mean() > 0.9  # has left the image on the way
    there, back = trusted_flow(Chained(), first[None], last[None], between=[x[None] for x in between])
    for found, expected in ((there, 24), (back, -24)):
        pixels, known = decode(found[0])
        assert 0.3 < known.mean() < 0.9 and abs(np.median(pixels[known][:, 0]) - expected) < 0.3
    alone, known = decode(trusted_flow(Dis(), first[None], last[None])[0][0])
    assert not (known & (alone[..., 0] > 20)).any()  # beyond what it may be trusted with


def test_the_images_between_are_those_of_the_recording(bag, tmp_path):
    """From keyframe to keyframe: here every third frame."""
    poses, stamps = np.tile(np.eye(4), (10, 1, 1)), np.arange(10) * 10**8
    poses[:, 0, 3] = np.arange(10)
    data = settings(bag, cue="dis_chained", cue_previous="keyframe")
    keyframes = np.arange(10) % 3 == 0
    drawn, left_out = choose_clips(stamps, poses, keyframes, data, INPUT, 2)
    assert {(c.current, c.cues) for c in drawn} == {(6, (3, 9))} and left_out == 9  # 3 has no past
    clips = BagClips(settings(bag, cue="dis_chained"), INPUT, 2, tmp_path)
    files = clips.flows[0]
    assert files.write([(0, 3)], workers=0) == 1
    flow, known = decode(files.read(0, 3))
    np.testing.assert_allclose(np.median(flow[0][known[0]], axis=0), [3 * SHIFT, 0], atol=0.2)


def test_tracks_are_asked_for_as_the_package_wants_it(tmp_path, monkeypatch):
    """A stand-in with the package's interface moves points by (3, -1) px an image, and loses those of the lower half."""

    class CoTrackerPredictor(torch.nn.Module):
        def __init__(self, checkpoint: str):
            super().__init__()
            assert Path(checkpoint).read_bytes() == b"weights"

        def forward(self, video, queries):
            assert video.shape == (1, 4, 3, 48, 98) and video.max() > 1 and (queries[..., 0] == 0).all()
            steps = torch.arange(4.0)[:, None, None] * torch.tensor([3.0, -1.0])
            return (queries[0, None, :, 1:] + steps)[None], (queries[0, :, 2] < 24).expand(1, 4, -1)

    package, module = ModuleType("cotracker"), ModuleType("cotracker.predictor")
    module.CoTrackerPredictor = CoTrackerPredictor
    estimator = CoTracker(tmp_path / "cotracker2.pth")
    images = np.zeros((4, 48, 98, 3), np.uint8) + 200
    with pytest.raises(MissingDependencyError, match="cotracker"):
        estimator(images[0], images[3], [*images[1:3]])
    monkeypatch.setitem(sys.modules, "cotracker", package)
    monkeypatch.setitem(sys.modules, "cotracker.predictor", module)
    with pytest.raises(CheckpointError, match=r"cotracker2\.pth: no such file; put the weights of CoTracker"):
        estimator(images[0], images[3], [*images[1:3]])
    estimator.weights.write_bytes(b"weights")
    flow = estimator(images[0], images[3], [*images[1:3]])
    assert flow.shape == (48, 98, 2)
    np.testing.assert_allclose(flow[:20], np.broadcast_to([9, -3], (20, 98, 2)), atol=1e-4)
    assert np.isnan(flow[28:]).all()


# Learned estimators


@pytest.mark.parametrize(("kind", "library"), [(Raft, "torchvision"), (UniMatch, "ptlflow")])
def test_learned_estimators_name_what_is_missing(kind, library, tmp_path):
    estimator = kind(tmp_path / "absent.pth")
    image = np.zeros((48, 96, 3), np.uint8)
    with pytest.raises((CheckpointError, MissingDependencyError), match=f"{library}|absent.pth: no such file; put"):
        estimator(image, image)


def test_raft_of_torchvision(tmp_path):
    """The library's network with random weights: what it finds means nothing, how it is called does."""
    try:
        from torchvision.models.optical_flow import raft_small
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"no torchvision that fits this torch: {error}")
    torch.manual_seed(0)
    torch.save(raft_small().state_dict(), tmp_path / "raft.pth")
    estimator = Raft(tmp_path / "raft.pth", size="small", updates=2)
    images = [np.random.default_rng(i).integers(0, 256, (50, 98, 3), np.uint8) for i in range(4)]
    flow = estimator(images[0], images[1])
    assert flow.shape == (50, 98, 2) and np.isfinite(flow).all()
    tuned = tune(estimator, lambda i: (images[i], images[i + 1]), 3, tmp_path / "tuned.safetensors", TuneConfig(1, 1))
    again = Raft(tuned, size="small", updates=2)(images[0], images[1])
    assert again.shape == flow.shape and not np.array_equal(again, flow)
    with pytest.raises(CheckpointError, match=r"not the weights of RAFT \(large\)"):
        Raft(tmp_path / "raft.pth")(images[0], images[1])


def test_unimatch_of_ptlflow(tmp_path):
    try:
        import ptlflow
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"no ptlflow: {error}")
    torch.manual_seed(0)
    torch.save({"state_dict": ptlflow.get_model("unimatch").state_dict()}, tmp_path / "unimatch.ckpt")
    image = np.random.default_rng(0).integers(0, 256, (50, 98, 3), np.uint8)
    flow = UniMatch(tmp_path / "unimatch.ckpt")(image, np.roll(image, 2, axis=1))
    assert flow.shape == (50, 98, 2) and np.isfinite(flow).all()


def test_networks_get_images_of_the_size_that_they_want():
    """A network whose answer is 5 px in its own, enlarged and padded, images."""

    class Five(torch.nn.Module):
        def forward(self, images, others):
            assert images.shape == (2, 3, 128, 264)
            return torch.full((2, 2, 128, 264), 5.0)

    flow = FlowNetwork(Five(), multiple=8, least=128)(torch.rand(2, 3, 32, 65), torch.rand(2, 3, 32, 65))
    assert flow.shape == (2, 2, 32, 65) and torch.allclose(flow, torch.tensor(1.25))


class Constant(torch.nn.Module):
    """The same flow everywhere, a share of the image's size."""

    def __init__(self):
        super().__init__()
        self.share = torch.nn.Parameter(torch.zeros(2))

    def forward(self, images, others):
        height, width = images.shape[-2:]
        brighter = (others.mean((1, 2, 3)) - images.mean((1, 2, 3))).sign()  # which way: the later image is brighter
        flow = brighter[:, None] * self.share * images.new_tensor([width, height])
        return flow[:, :, None, None].expand(-1, -1, height, width)


def test_an_estimator_learns_from_images_alone(tmp_path):
    """From standing still to the true 2 px to the right, on a network that can say one thing only."""
    first, last = sliding(2, 2)
    last = np.clip(last.astype(int) + 12, 0, 255).astype(np.uint8)
    estimator = SimpleNamespace(load=Constant)
    config = TuneConfig(steps=60, batch_size=1, learning_rate=1e-3, crop=0.0)
    out = tune(estimator, lambda i: (first, last), 1, tmp_path / "tuned.safetensors", config)
    share = load_file(out)["share"].numpy()
    np.testing.assert_allclose(share * [128, 64], [2, 0], atol=0.25)
    with pytest.raises(ConfigError, match=r"Dis on 1 pairs of images: expected an estimator with a network"):
        tune(Dis(), lambda i: (first, last), 1, out)


def test_tuning_from_the_command_line_needs_a_network(bag, tmp_path, capsys):
    command = ["cues", "tune", str(bag), "--config", str(_configuration(tmp_path)), "--out", str(tmp_path / "x")]
    assert cli.main([*command, "--estimator", "dis"]) == 1
    assert "Dis on" in capsys.readouterr().err


def test_the_command_takes_a_configuration(bag, tmp_path, capsys):
    assert cli.main(["cues", "flow", str(_configuration(tmp_path)), f"data.bag.bags=[{bag}]", "--workers", "0"]) == 0
    assert re.search(r"[1-9]\d* pairs of frames computed", capsys.readouterr().out)


def test_the_command_computes_the_cues_of_streets_in_shares(tmp_path, capsys):
    path = tmp_path / "street.yaml"
    path.write_text(
        "input: {image_size: [24, 48]}\nmodel: {temporal: {frames: 1}}\n"
        f"data: {{simulator: {{rig: kitti, scenes: 2, frames: 3}}, cache: {tmp_path / 'cache'}}}\n"
    )
    for part in ("1/2", "2/2"):
        assert cli.main(["cues", "flow", str(path), "--workers", "0", "--shard", part]) == 0
        count = len(list((tmp_path / "cache").rglob("*_dis_*.npz")))
        assert count == int(part[0])
    assert cli.main(["cues", "masks", str(path), "--detector", "a", "--segmenter", "b"]) == 1
    assert "'masks' takes recordings; simulated streets know their own" in capsys.readouterr().err


# Classes of pixels


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory) -> Segmenter:
    """SegFormer at a toy size with random weights."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("segformer")
    config = transformers.SegformerConfig(
        num_encoder_blocks=2, depths=[1, 1], sr_ratios=[2, 1], hidden_sizes=[8, 16], patch_sizes=[7, 3], strides=[4, 2],
        num_attention_heads=[1, 1], mlp_ratios=[2, 2], decoder_hidden_size=16,
        id2label={0: "road", 1: "car", 2: "truck", 3: "sky"}, label2id={"road": 0, "car": 1, "truck": 2, "sky": 3},
    )  # fmt: skip
    transformers.SegformerForSemanticSegmentation(config).save_pretrained(folder)
    transformers.SegformerImageProcessor(size={"height": 48, "width": 96}).save_pretrained(folder)
    return Segmenter(folder, {"ground": ("road",), "vehicle": ("car", "truck")})


def test_labels_become_our_classes(segmenter):
    names = {0: "road", 1: "car", 2: "truck", 3: "sky"}
    assert segmenter._numbers(names).tolist() == [0, 1, 1, 255]
    image = np.random.default_rng(0).integers(0, 256, (50, 98, 3), np.uint8)
    labels = segmenter(image)
    assert labels.shape == (50, 98) and set(np.unique(labels)) <= {0, 1, 255}
    with pytest.raises(
        ConfigError, match=r"semantics\.classes\.sea: .* has no label 'water'; it has: road, car, truck"
    ):
        Segmenter(segmenter.model, {"sea": ("water",)})(image)
    with pytest.raises(CheckpointError, match="absent: no transformers checkpoint; put the folder of a semantic"):
        Segmenter(segmenter.model / "absent", {"ground": ("road",)})(image)


def test_clips_have_the_classes_that_were_computed(bag, tmp_path, segmenter, capsys):
    command = ["cues", "semantics", str(bag), "--config", str(_configuration(tmp_path)), "--workers", "0"]
    assert cli.main([*command, "--model", str(segmenter.model), "--classes", "ground=road;vehicle=car,truck"]) == 0
    assert "frames computed" in capsys.readouterr().out
    clips = BagClips(settings(bag, cue="none", semantics=segmenter), INPUT, 2, tmp_path / "cache")
    assert clips.write_pictures() == 0
    current = clips[0].current
    picture = (current.images[1].permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
    assert np.array_equal(current.semantics[1].numpy(), segmenter(picture))


# Masks


@pytest.fixture(scope="module")
def grounded_sam(tmp_path_factory) -> GroundedSam:
    """The real models at toy sizes with random weights: what they find means nothing, how they are called does."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("weights")
    _toy_detector(transformers, folder / "detector")
    _toy_segmenter(transformers, folder / "segmenter")
    return GroundedSam(folder / "detector", folder / "segmenter", threshold=0.0, text_threshold=0.0)


def _toy_detector(transformers, folder: Path) -> None:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", "car", "person"]
    tokenizer = transformers.BertTokenizer(vocab={word: i for i, word in enumerate(words)})
    swin = {"embed_dim": 8, "depths": [1] * 4, "num_heads": [1] * 4, "window_size": 4, "out_indices": [2, 3, 4]}
    bert = {"num_hidden_layers": 1, "num_attention_heads": 2, "hidden_size": 16, "intermediate_size": 16}
    config = transformers.GroundingDinoConfig(
        backbone_config=transformers.SwinConfig(**swin),
        text_config=transformers.BertConfig(vocab_size=len(words), **bert),
        num_queries=5, d_model=32, encoder_layers=2, decoder_layers=2, encoder_ffn_dim=16, decoder_ffn_dim=16,
        encoder_attention_heads=2, decoder_attention_heads=2,
    )  # fmt: skip
    pictures = transformers.GroundingDinoImageProcessor(size={"shortest_edge": 48, "longest_edge": 96})
    transformers.GroundingDinoProcessor(pictures, tokenizer).save_pretrained(folder)
    transformers.GroundingDinoForObjectDetection(config).save_pretrained(folder)


def _toy_segmenter(transformers, folder: Path) -> None:
    small = {"num_hidden_layers": 1, "num_attention_heads": 2, "hidden_size": 16, "mlp_dim": 16}
    size = {"image_size": 64, "patch_size": 16}
    config = transformers.SamConfig(
        vision_config=transformers.SamVisionConfig(
            **small, **size, output_channels=16, global_attn_indexes=[0], num_pos_feats=8
        ),
        prompt_encoder_config=transformers.SamPromptEncoderConfig(hidden_size=16, mask_input_channels=4, **size),
        mask_decoder_config=transformers.SamMaskDecoderConfig(**small, iou_head_hidden_dim=16),
    )
    square = {"height": 64, "width": 64}
    pictures = transformers.SamImageProcessor(size={"longest_edge": 64}, pad_size=square)
    transformers.SamProcessor(pictures).save_pretrained(folder)
    transformers.SamModel(config).save_pretrained(folder)


def test_masks_are_inside_the_image_and_need_a_box(grounded_sam):
    image = np.random.default_rng(0).integers(0, 256, (48, 96, 3), np.uint8)
    mask = grounded_sam(image)
    assert mask.shape == (48, 96) and mask.dtype == bool and mask.any()
    nothing = dataclasses.replace(grounded_sam, threshold=1.0)
    assert not nothing(image).any()


def test_clips_have_the_masks_that_were_computed(bag, tmp_path, grounded_sam):
    data = settings(bag, cue="none", masks=grounded_sam)
    clips = BagClips(data, INPUT, 2, tmp_path)
    with pytest.raises(DataError, match="no such file; compute it with `letocc cues masks`"):
        clips[0]
    assert clips.write_pictures(shard=(1, 2)) + clips.write_pictures(shard=(2, 2)) == len(
        {c.current for _, c in clips.clips}
    )
    current = clips[0].current
    picture = (current.images[1].permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
    assert np.array_equal(current.movable[1].numpy(), grounded_sam(picture))
    assert clips.write_pictures() == 0 and collate([clips[0], clips[1]]).current.movable.shape == (2, 2, 48, 96)


def test_clips_have_the_masks_that_their_flow_tells(bag, tmp_path):
    """The vehicle drives straight ahead at 10 m/s, the texture moves to the right at 2 px a frame."""
    masks = FlowResidual(ground=False)
    with pytest.raises(ConfigError, match="set cue, for example to dis"):
        BagClips(settings(bag, cue="none", masks=masks), INPUT, 2, tmp_path)
    clips = BagClips(settings(bag, masks=masks), INPUT, 2, tmp_path)
    clips.write_flow()
    clip = clips[0]
    assert torch.equal(clip.current.movable, masks(clip.current, clip.cues))
    assert clip.current.movable.any() and not clip.current.movable.all() and clips.write_pictures() == 0


def test_absent_weights_say_which_to_put_where(bag, tmp_path, grounded_sam, capsys):
    command = ["cues", "masks", str(bag), "--workers", "0", "--config", str(_configuration(tmp_path))]
    weights = ["--segmenter", str(grounded_sam.segmenter), "--detector"]
    assert cli.main([*command, *weights, str(tmp_path / "nowhere")]) == 1
    assert re.search(r"nowhere: no transformers checkpoint; put .*grounding-dino-tiny, here", capsys.readouterr().err)
    assert cli.main([*command, *weights, str(grounded_sam.segmenter)]) == 1
    assert "not the expected checkpoint" in capsys.readouterr().err
