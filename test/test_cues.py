"""Cues of recordings on disk: resumed, shared between processes, safe against a killed writer, read into clips."""

import dataclasses
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

from letocc_core import cli
from letocc_core.cues.flow import Dis, decode, flow_estimator, settings_key
from letocc_core.cues.masks import GroundedSam
from letocc_core.data import cache
from letocc_core.data.bag_clips import BagClips
from letocc_core.data.bag_cues import FlowFiles
from letocc_core.data.bag_writer import BagWriter, optical_frame
from letocc_core.data.clips import BagData, DataConfig, build
from letocc_core.data.recorded_clips import choose_clips
from letocc_core.errors import ConfigError, DataError
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
    return {str(p): p.stat().st_mtime_ns for p in folder.rglob("flow_*/*.npz")}


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
        a, b = (np.load(c.flows[0].folder / name) for c in (whole, parts))
        assert np.array_equal(a["forward"], b["forward"]) and np.array_equal(a["backward"], b["backward"])
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
        with np.load(path) as a, np.load(two.flows[0].folder / path.name) as b:
            assert all(np.array_equal(a[k], b[k]) for k in ("forward", "backward"))


def test_a_killed_writer_leaves_only_whole_files(bag, tmp_path):
    """SIGKILL while it writes; what is there can be read, and the next call goes on from there."""
    command = [sys.executable, "-c", _SLOW_WRITER, str(tmp_path)]
    writer = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])})
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
    with pytest.raises(DataError, match=r"\.npz: no such file; compute it with `letocc cues flow`"):
        clips[0]
    clips.write_flow()
    clip = clips.clips[0][1]
    path = clips.flows[0].path(clip.current, clip.cues[0])
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(DataError, match=r"damaged .*delete it"):
        clips[0]


def test_estimators_are_named(tmp_path):
    folders = {FlowFiles(SimpleNamespace(folder=tmp_path), name).folder for name in ("dis", "dis_fine")}
    assert len(folders) == 2 and all(folder.parent == tmp_path for folder in folders)
    assert settings_key(Dis(2)) != settings_key(Dis(3))
    with pytest.raises(ConfigError, match="no estimator of optical flow 'raft'; there are: dis, dis_fine"):
        flow_estimator("raft")


def test_the_command_writes_what_training_reads(bag, tmp_path, capsys):
    command = ["cues", "flow", str(bag), "--config", str(_configuration(tmp_path)), "--workers", "1", "--shard"]
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
    files = FlowFiles(frames, "dis")
    assert files.write([(1, 0), (0, 1)], workers=0) == 1
    for pair in ((0, 1), (1, 0)):
        flow, valid = decode(files.read(*pair))
        assert valid.all() and np.abs(flow).max() < 0.1


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
    assert clips.write_masks(shard=(1, 2)) + clips.write_masks(shard=(2, 2)) == len({c.current for _, c in clips.clips})
    current = clips[0].current
    picture = (current.images[1].permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
    assert np.array_equal(current.movable[1].numpy(), grounded_sam(picture))
    assert clips.write_masks() == 0 and collate([clips[0], clips[1]]).current.movable.shape == (2, 2, 48, 96)


def test_absent_weights_say_which_to_put_where(bag, tmp_path, grounded_sam, capsys):
    command = ["cues", "masks", str(bag), "--workers", "0", "--config", str(_configuration(tmp_path))]
    weights = ["--segmenter", str(grounded_sam.segmenter), "--detector"]
    assert cli.main([*command, *weights, str(tmp_path / "nowhere")]) == 1
    assert re.search(r"nowhere: no transformers checkpoint; put .*grounding-dino-tiny, here", capsys.readouterr().err)
    assert cli.main([*command, *weights, str(grounded_sam.segmenter)]) == 1
    assert "not the checkpoint expected" in capsys.readouterr().err
