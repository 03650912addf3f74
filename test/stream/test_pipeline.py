"""The online path as a whole: the past is never encoded twice, online equals offline, what makes it forget."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from letocc_core import checkpoint
from letocc_core import config as configuration
from letocc_core.data.bags.recording import Recording
from letocc_core.data.bags.writer import BagWriter, optical_frame
from letocc_core.errors import CalibrationError, CheckpointError, DataError
from letocc_core.frame import InputConfig
from letocc_core.geometry import camera as cameras
from letocc_core.model.let_occ_flow import LetOccFlow, ModelConfig
from letocc_core.stream.pipeline import OccFlowPipeline, reproduce
from letocc_core.stream.preprocess import to_frame
from letocc_core.stream.snapshot import Snapshot
from letocc_core.stream.types import Calibration, FrameSet

STREET = Path(__file__).resolve().parents[2] / "config" / "street.yaml"
GRID = {"lower": [-6.4, -6.4, -1.0], "upper": [6.4, 6.4, 5.4], "voxel_size": 0.8}
INPUT = InputConfig(image_size=(32, 56), history_interval=0.2, max_gap=0.7)
S = 1_000_000_000
K = np.array([[50.0, 0, 39.5], [0, 50, 23.5], [0, 0, 1]])
FORWARD = np.array(
    [[0.0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 1.5], [0, 0, 0, 1]]
)  # optical frame 1.5 m above base_link


@pytest.fixture(scope="module")
def plain() -> dict:
    """The street configuration on a small grid, as a plain dictionary."""
    text = yaml.safe_load(STREET.read_text())["model"]
    branch = {**text["motion_branch"], "least_speed": 0.0}  # what an untrained network says is slow
    changes = {
        "motion_branch": branch,
        "surface_threshold": None,
        "grid": GRID,
        "occupancy_scale": 1.0,
        "fields": {"sdf_start": 0.0},
    }
    model = configuration.from_dict(ModelConfig, text | changes, str(STREET))
    return {"model": configuration.to_dict(model), "input": configuration.to_dict(INPUT)}


@pytest.fixture(scope="module")
def model(plain) -> LetOccFlow:
    torch.manual_seed(0)
    model = LetOccFlow(configuration.from_dict(ModelConfig, plain["model"], "test")).eval()
    for name, parameter in model.fields.named_parameters():
        if name.endswith("weight"):  # before training they are near zero, and hide every difference
            torch.nn.init.normal_(parameter, std=0.5)
    return model


@pytest.fixture
def pipeline(model) -> OccFlowPipeline:
    return OccFlowPipeline(model, INPUT)


def yaw(degrees: float, x: float = 0.0) -> np.ndarray:
    T = np.eye(4)
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    T[:2, :2] = [[c, -s], [s, c]]
    T[0, 3] = x
    return T


def frame_set(seconds: float, missing: tuple[int, ...] = (), count: int = 3, **changes) -> FrameSet:
    """Three cameras around a vehicle that drives at 5 m/s, with images that differ from set to set."""
    rng = np.random.default_rng(round(seconds * 1000))
    images = [rng.integers(0, 256, (48, 80, 3), np.uint8) for _ in range(count)]
    values = {
        "stamp_ns": round(seconds * S) + S,
        "images": tuple(None if i in missing else image for i, image in enumerate(images)),
        "calibrations": (Calibration(80, 48, K),) * count,
        "T_ego_cam": np.stack([yaw(120 * i) @ FORWARD for i in range(count)]),
        "T_world_ego": yaw(3 * seconds, 1e5 + 5 * seconds),
    }
    return FrameSet(**values | changes)


def test_history_is_never_encoded_again(pipeline):
    images = []
    hook = pipeline.model.pyramid.register_forward_hook(lambda module, inputs, output: images.append(len(inputs[0])))
    for i in range(6):
        pipeline.step(frame_set(0.1 * i))
    hook.remove()
    assert images == [3] * 6  # each set's three images, once


def test_online_equals_the_networks_forward_pass(pipeline, model):
    sets = [frame_set(0.1 * i, missing=(1,) if i == 2 else ()) for i in range(7)]
    frames = [to_frame(item, INPUT).unsqueeze() for item in sets]
    for i, item in enumerate(sets):
        answer = pipeline.step(item)
        history = [frames[j] for j in (i - 2, i - 4) if j >= 0]
        with torch.inference_mode():
            expected = model(frames[i], history)
        probability = expected.probability(model.config.occupancy_scale)[0].numpy()
        np.testing.assert_allclose(answer.probability, probability, atol=1e-5)
        np.testing.assert_allclose(answer.velocity, expected.flow[0].permute(1, 2, 3, 0).numpy(), atol=1e-5)
    alone = OccFlowPipeline(model, INPUT).step(item)
    assert np.abs(alone.probability - answer.probability).max() > 0.01  # the past matters
    assert np.abs(alone.velocity - answer.velocity).max() > 0.01
    assert answer.velocity.shape == (16, 16, 8, 2)
    assert answer.probability.dtype == answer.velocity.dtype == np.float32
    assert answer.reset_reason is None
    assert set(answer.seconds) == {"preprocess", "encode", "decode", "output"}
    assert pipeline.steps == 7


def test_the_same_sets_give_the_same_answers(model):
    sets = [frame_set(0.1 * i) for i in range(4)]
    first, second = ([p.step(item) for item in sets] for p in (OccFlowPipeline(model, INPUT) for _ in range(2)))
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a.probability, b.probability)
        np.testing.assert_array_equal(a.velocity, b.velocity)


@pytest.mark.parametrize(
    ("then", "reason"),
    [
        (frame_set(0.1), "time went back: -0.100 s"),
        (frame_set(0.2), "time went back: 0.000 s"),
        (frame_set(1.0), r"gap in time: 0.800 s without images, limit 0.7 s"),
        (frame_set(0.3, T_world_ego=yaw(0, 1e5 + 8)), "pose jumped: 7.00 m and 1 degrees in 0.100 s"),
        (frame_set(0.3, T_world_ego=yaw(90, 1e5)), "pose jumped: 1.00 m and 89 degrees"),
        (frame_set(0.3, count=2), "cameras changed: 3 before, 2 now"),
        (
            frame_set(0.3, calibrations=(Calibration(80, 48, K),) * 2 + (Calibration(80, 48, K + np.eye(3)),)),
            "camera 2",
        ),
    ],
)
def test_the_past_is_forgotten_with_a_reason(pipeline, model, then, reason):
    for i in range(3):
        pipeline.step(frame_set(0.1 * i))
    answer = pipeline.step(then)
    assert reason in answer.reset_reason
    assert pipeline.resets.total() == 1
    fresh = OccFlowPipeline(model, INPUT).step(then)
    np.testing.assert_array_equal(answer.probability, fresh.probability)
    again = dataclasses.replace(then, stamp_ns=then.stamp_ns + S // 10)
    assert pipeline.step(again).reset_reason is None


def test_a_set_that_cannot_be_used_leaves_the_past_as_it_was(pipeline, model):
    pipeline.step(frame_set(0.0))
    with pytest.raises(DataError, match="none of its 3 cameras has an image"):
        pipeline.step(frame_set(0.1, missing=(0, 1, 2)))
    with pytest.raises(CalibrationError, match=r"camera 0 at .* focal lengths"):
        pipeline.step(frame_set(0.1, calibrations=(Calibration(80, 48, np.zeros((3, 3))),) * 3))
    with pytest.raises(DataError, match="not finite"):
        pipeline.step(frame_set(0.1, T_world_ego=np.full((4, 4), np.nan)))
    other = OccFlowPipeline(model, INPUT)
    other.step(frame_set(0.0))
    np.testing.assert_array_equal(pipeline.step(frame_set(0.2)).probability, other.step(frame_set(0.2)).probability)


def test_a_camera_may_come_and_go(pipeline):
    """A camera that was not calibrated at first is no change of calibration."""
    late = frame_set(0.0, missing=(2,), calibrations=(Calibration(80, 48, K),) * 2 + (None,))
    assert pipeline.step(late).reset_reason is None
    assert pipeline.step(frame_set(0.1)).reset_reason is None
    assert pipeline.step(frame_set(0.2, missing=(0, 1))).reset_reason is None


def test_observed_voxels_by_an_independent_projection(pipeline, model):
    answer = pipeline.step(frame_set(0.0, missing=(1, 2)))
    again = pipeline.step(frame_set(0.1, missing=(1, 2)))
    np.testing.assert_array_equal(answer.observed, again.observed)
    _, K_small = cameras.resize_and_crop(np.zeros((48, 80), np.uint8), K, *INPUT.image_size)
    for index in np.ndindex(answer.observed.shape):
        x, y, z = np.array(GRID["lower"]) + (np.array(index) + 0.5) * 0.8  # camera 0 looks along x from 1.5 m
        u, v = K_small[0, 0] * -y / x + K_small[0, 2], K_small[1, 1] * (1.5 - z) / x + K_small[1, 2]
        assert answer.observed[index] == (x > 0.1 and -0.5 <= u <= 55.5 and -0.5 <= v <= 31.5)
    both = pipeline.step(frame_set(0.2, missing=(2,))).observed
    assert both[answer.observed].all() and both.sum() > answer.observed.sum()
    assert not (answer.occupied & ~answer.observed).any()


def test_what_is_hidden_follows_from_what_is_occupied(model):
    everything = OccFlowPipeline(model, INPUT, threshold=0.0).step(frame_set(0.0))
    nothing = OccFlowPipeline(model, INPUT, threshold=1.0).step(frame_set(0.0))
    assert not nothing.hidden.any() and (nothing.seen == nothing.observed).all()
    assert everything.hidden.any() and not (everything.hidden & ~everything.observed).any()
    np.testing.assert_array_equal(everything.seen | everything.hidden, everything.observed)
    matter = everything.probability > 0
    buried = matter.copy()
    for axis in range(3):  # no face of these is free, nor at the end of the box
        inner = np.roll(matter, 1, axis) & np.roll(matter, -1, axis)
        inner[(slice(None),) * axis + ([0, -1],)] = False
        buried &= inner
    around = np.linalg.norm(everything.grid.centres().numpy() - [0, 0, 1.5], axis=-1) < 2.5  # about the cameras
    assert everything.hidden[buried & everything.observed & ~around].all()


def test_threshold_is_the_models_unless_given(model):
    assert OccFlowPipeline(model, INPUT).threshold == model.config.occupancy_threshold
    answer = OccFlowPipeline(model, INPUT, threshold=0.0).step(frame_set(0.0))
    np.testing.assert_array_equal(answer.occupied, answer.observed)


def test_surfaces_whose_place_is_unsure_are_occupied_too(model):
    found = LetOccFlow(dataclasses.replace(model.config, surface_threshold=0.05))
    found.load_state_dict(model.state_dict())
    answer, before = (OccFlowPipeline(m, INPUT, threshold=0.9).step(frame_set(0.0)) for m in (found, model))
    assert before.ends is None and answer.ends.any()
    assert ((answer.probability[answer.ends] > 0.05) & (answer.probability[answer.ends] <= 0.9)).all()
    np.testing.assert_array_equal(answer.occupied, before.occupied | answer.ends & answer.observed)
    assert answer.hidden.sum() > before.hidden.sum()  # they hide what is behind


def test_what_seems_slower_than_the_least_speed_stands(model):
    branch = dataclasses.replace(model.config.motion_branch, least_speed=1.5)
    limited = LetOccFlow(dataclasses.replace(model.config, motion_branch=branch))
    limited.load_state_dict(model.state_dict())
    before, after = (OccFlowPipeline(m, INPUT) for m in (model, limited))
    flow = torch.tensor([[1.2, 0.8], [1.2, 1.0], [-1.5, 0.0], [0.0, 0.0]]).T.reshape(1, 2, 4, 1, 1)
    np.testing.assert_allclose(before._velocity(flow.clone())[:, 0, 0], flow[0, :, :, 0, 0].T)
    kept = after._velocity(flow.clone())[:, 0, 0]
    np.testing.assert_allclose(kept, [[0, 0], [1.2, 1.0], [-1.5, 0.0], [0, 0]])  # 1.44 m/s, 1.56, 1.5, 0


@pytest.fixture(scope="module")
def saved(tmp_path_factory, model, plain) -> Path:
    path = tmp_path_factory.mktemp("checkpoints") / "tiny.safetensors"
    checkpoint.save(path, model, plain, seed=7, versions={"torch": torch.__version__})
    return path


def test_a_bag_gives_what_its_sets_give(tmp_path, saved, model):
    sets = [frame_set(0.1 * i) for i in range(4)]
    names = ("camera_a", "camera_b", "camera_c")
    with BagWriter(tmp_path / "bag") as bag:
        mounts = [("base_link", optical_frame(n), sets[0].T_ego_cam[i]) for i, n in enumerate(names)]
        bag.write_tf_static(sets[0].stamp_ns, mounts)
        for item in sets:
            bag.write_tf(item.stamp_ns, "odom", "base_link", item.T_world_ego)
            for name, image, calibration in zip(names, item.images, item.calibrations, strict=True):
                bag.write_camera_info(name, item.stamp_ns, calibration)
                bag.write_image(name, item.stamp_ns, image, kind="png")
    recording, pipeline = Recording(tmp_path / "bag"), OccFlowPipeline(model, INPUT)
    recorded = OccFlowPipeline.from_checkpoint(saved)
    answers = [recorded.step(item.frame_set) for item in recording]
    assert [a.stamp_ns for a in answers] == [item.stamp_ns for item in sets]
    for answer, item in zip(answers, sets, strict=True):
        np.testing.assert_allclose(answer.probability, pipeline.step(item).probability, atol=1e-5)
    assert not recording.dropped


def test_a_checkpoint_gives_the_model_back(saved, model, plain):
    loaded, input_config, metadata = checkpoint.load_model(saved)
    assert input_config == INPUT
    assert loaded.config == model.config
    assert not loaded.training
    assert (metadata["config"]["model"]["grid"], metadata["seed"]) == (
        plain["model"]["grid"] | {"lower": GRID["lower"], "upper": GRID["upper"]},
        7,
    )
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)
    checkpoint.load_model(saved, expected=plain)


def test_a_checkpoint_of_another_configuration_says_which_fields_differ(saved, plain, model):
    other = {"model": plain["model"] | {"occupancy_scale": 0.3}, "input": plain["input"] | {"image_size": [64, 56]}}
    with pytest.raises(CheckpointError, match=r"model.occupancy_scale: 1\.0 != 0\.3; input.image_size: \[32, 56\] != "):
        checkpoint.load_model(saved, expected=other)
    with pytest.raises(CheckpointError, match=r"fields that differ .*model.occupancy_scale"):
        checkpoint.load_weights(saved, model, other)
    checkpoint.load_weights(saved, model, {"model": plain["model"], "input": other["input"]})  # weights do not care


def test_bad_checkpoints_are_refused(tmp_path, saved, model, plain):
    with pytest.raises(CheckpointError, match=r"no such checkpoint; checkpoints in .*: tiny\.safetensors"):
        checkpoint.load_model(saved.with_name("missing.safetensors"))
    torch.save(model.state_dict(), tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="pickled checkpoint; refused, because"):
        checkpoint.load_model(tmp_path / "model.safetensors")
    for size, where in ((20, "header"), (saved.stat().st_size // 2, "tensors")):
        damaged = tmp_path / f"{where}.safetensors"
        damaged.write_bytes(saved.read_bytes()[:size])
        with pytest.raises(CheckpointError, match="damaged"):
            checkpoint.load_model(damaged)
    checkpoint.save_file(model.state_dict(), str(tmp_path / "bare.safetensors"))
    with pytest.raises(CheckpointError, match=r"not the configuration that made them .*keys found: none"):
        checkpoint.load_model(tmp_path / "bare.safetensors")
    with torch.no_grad():
        state = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("pyramid.")}
    part = torch.nn.ParameterDict({"extra": torch.zeros(2)})
    part.state_dict = lambda: state | {"extra": torch.zeros(2)}
    checkpoint.save(tmp_path / "part.safetensors", part, plain)
    with pytest.raises(CheckpointError, match=r"lacks pyramid\..* and \d+ more|has extra"):
        checkpoint.load_model(tmp_path / "part.safetensors")


@pytest.fixture(scope="module")
def answered(saved) -> OccFlowPipeline:
    """After a drive in whose last set a camera is missing."""
    pipeline = OccFlowPipeline.from_checkpoint(saved, threshold=0.4)
    for i in range(7):
        pipeline.step(frame_set(0.1 * i, missing=(1,) if i == 6 else ()))
    return pipeline


def test_a_snapshot_holds_the_sets_that_the_network_saw(answered):
    assert [s.stamp_ns for s in answered.last.sets] == [frame_set(t).stamp_ns for t in (0.2, 0.4, 0.6)]
    assert answered.last.sets[-1].images[1] is None
    assert {i.shape for s in answered.last.sets for i in s.images if i is not None} == {(32, 56, 3)}


def test_a_snapshot_gives_the_same_answer_again(answered, saved, tmp_path):
    original, loaded = answered.last, Snapshot.load(answered.last.save(tmp_path / "folder" / "snapshot"))
    for before, after in zip(original.sets, loaded.sets, strict=True):
        assert before.calibrations == after.calibrations
        np.testing.assert_array_equal(before.T_ego_cam, after.T_ego_cam)
        np.testing.assert_array_equal(before.T_world_ego, after.T_world_ego)
    again = reproduce(loaded, saved)
    assert (again.stamp_ns, again.threshold, again.grid) == (original.answer.stamp_ns, 0.4, original.answer.grid)
    for name in ("probability", "velocity", "observed", "occupied", "hidden"):
        np.testing.assert_array_equal(getattr(loaded.answer, name), getattr(original.answer, name))
        np.testing.assert_array_equal(getattr(again, name), getattr(original.answer, name))


def test_a_snapshot_is_computed_again_with_the_threshold_of_surfaces_of_then(saved, tmp_path):
    pipeline = OccFlowPipeline.from_checkpoint(saved, threshold=0.9)
    pipeline.surface_threshold = 0.05
    answer = pipeline.step(frame_set(0.0))
    again = reproduce(Snapshot.load(pipeline.last.save(tmp_path / "snapshot")), saved)
    assert answer.ends.any()
    for name in ("ends", "occupied", "hidden"):
        np.testing.assert_array_equal(getattr(again, name), getattr(answer, name))


def test_a_snapshot_of_before_does_not_tell_what_is_hidden(answered, tmp_path):
    path = answered.last.save(tmp_path / "snapshot")
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files if name != "hidden"}
    np.savez(path, **arrays)
    old = Snapshot.load(path).answer
    assert old.hidden is None
    np.testing.assert_array_equal(old.seen, answered.last.answer.observed)


def test_after_a_reset_there_is_no_snapshot(pipeline):
    assert pipeline.last is None
    pipeline.step(frame_set(0.0))
    assert len(pipeline.last.sets) == 1
    pipeline.reset("asked for")
    assert pipeline.last is None


def test_what_is_no_snapshot_is_refused(answered, tmp_path):
    with pytest.raises(DataError, match=r"absent\.npz: no such file"):
        Snapshot.load(tmp_path / "absent.npz")
    (tmp_path / "text.npz").write_text("nothing of the kind")
    with pytest.raises(DataError, match=r"text\.npz: not a snapshot, or damaged"):
        Snapshot.load(tmp_path / "text.npz")
    path = answered.last.save(tmp_path / "half")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError, match="damaged"):
        Snapshot.load(path)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"images": np.zeros((3, 2, 4), np.uint8)}, "images is uint8"),
        ({"valid": np.ones((1, 3), bool)}, "different numbers of sets"),
        ({"probability": np.zeros((2, 2, 2), np.float32)}, "an answer of"),
        ({"hidden": np.zeros((2, 2, 2), bool)}, "hidden is bool"),
        ({"ends": np.zeros((2, 2, 2), bool)}, "ends is bool"),
        ({"K": np.array([object()])}, "allow_pickle"),
        ({"about": np.array('{"format": "another"}')}, "format is 'another'"),
    ],
)
def test_a_snapshot_that_contradicts_itself_is_refused(answered, tmp_path, change, text):
    path = answered.last.save(tmp_path / "snapshot")
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    np.savez(path, **arrays | change)
    with pytest.raises(DataError, match=text):
        Snapshot.load(path)
