"""What a set costs: `OccFlowPipeline.step` by part, on noise that is seen from a driving vehicle."""

import statistics
from collections.abc import Iterator
from contextlib import nullcontext

import cv2
import numpy as np
import torch

from letocc_core.bench.parts import Parts, Place, Row, Work, rows_of
from letocc_core.compiled import threads
from letocc_core.model import motion_branch, plane_sweep
from letocc_core.stream import pipeline as stream
from letocc_core.stream.pipeline import OccFlowPipeline
from letocc_core.stream.types import Calibration, FrameSet

PERIOD = 0.1  # s between sets
SPEED = 8.0  # m/s
CAMERA_HEIGHT = 1.5  # m


def measure(pipeline: OccFlowPipeline, cameras: int, steps: int, parts: Parts, eager: bool = False) -> list[Row]:
    """Time of each part of a step, once the history is full, and the work that it does.

    Work is counted in a step of its own, of PyTorch's passes alone: the loops compiled for the CPU do the same, unseen.

    Args:
        eager: without those loops.
    """
    warm_up = 2 + round(pipeline.model.config.temporal.frames * pipeline.input.history_interval / PERIOD)
    runs: list[dict[str, float]] = []
    sets = list(frame_sets(*pipeline.input.image_size, cameras, warm_up + steps + 1))
    counted = Parts(parts.clock)
    with threads.plain_passes() if eager else nullcontext():
        for i, frames in enumerate(sets[:-1]):
            parts.seconds.clear()
            with parts.around(places(pipeline)), parts.whole():
                pipeline.step(frames)
            if i >= warm_up:
                runs.append(dict(parts.seconds))
    with threads.plain_passes(), counted.around(places(pipeline)), Work(counted):
        pipeline.step(sets[-1])
    return rows_of(runs, counted)


def step_seconds(pipeline: OccFlowPipeline, cameras: int, steps: int, parts: Parts, eager: bool = False) -> float:
    """Median time of a whole step."""
    warm_up = 2 + round(pipeline.model.config.temporal.frames * pipeline.input.history_interval / PERIOD)
    times = []
    with threads.plain_passes() if eager else nullcontext():
        for frames in frame_sets(*pipeline.input.image_size, cameras, warm_up + steps):
            begin = parts.clock()
            pipeline.step(frames)
            times.append(parts.clock() - begin)
    return statistics.median(times[warm_up:])


def places(pipeline: OccFlowPipeline) -> list[Place]:
    """The parts of a step."""
    model = pipeline.model
    found: list[Place] = [
        ("images made pinhole", stream, "rectify"),
        ("tensors", stream, "to_tensors"),
        ("what cameras see of the planes", model.encoder, "look"),
        ("image backbone and pyramid", model.pyramid, "forward"),
        ("TPV encoder", model.encoder, "forward"),
        ("encoded by an engine", model, "volume"),
        ("temporal fusion", model.temporal, "forward"),
        ("plane sweep", plane_sweep, "sweep_depth"),
        ("plane sweep to voxels", plane_sweep, "lift"),
        ("refinement", model.refinement, "forward"),
        ("fields", model.fields, "forward"),
        ("decoded besides, or by an engine", model, "fields_of"),
        ("what is seen and hidden", pipeline, "_sight"),
        ("answer as arrays", pipeline, "_answer"),
    ]
    if model.motion is not None:
        found += [
            ("surfaces looked up", motion_branch, "find_surfaces"),
            ("velocity sweep", motion_branch, "sweep_velocity"),
            ("motion network", model.motion, "forward"),
        ]
    return found


def frame_sets(height: int, width: int, cameras: int, count: int) -> Iterator[FrameSet]:
    """Noise of 8 pixels a grain seen by cameras of 70 degrees all around a vehicle that drives straight on."""
    focal = width / 2 / np.tan(np.radians(35))
    calibration = Calibration(width, height, np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]]))
    mounts = np.stack([_mount(2 * np.pi * i / cameras) for i in range(cameras)])
    rng = np.random.default_rng(0)
    coarse = [rng.integers(0, 256, (height // 8, width // 8, 3), np.uint8) for _ in range(cameras)]
    images = tuple(cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC) for noise in coarse)
    for i in range(count):
        T_world_ego = np.eye(4)
        T_world_ego[0, 3] = SPEED * PERIOD * i
        shifted = tuple(np.roll(image, i, axis=1) for image in images)
        yield FrameSet(round(PERIOD * i * 1e9), shifted, (calibration,) * cameras, mounts, T_world_ego)


def _mount(yaw: float) -> np.ndarray:
    """`T_ego_cam` [4, 4] of a camera that looks along `yaw` (rad, from x to y)."""
    c, s = np.cos(yaw), np.sin(yaw)
    return np.array([[s, 0, c, 0], [-c, 0, s, 0], [0, -1, 0, CAMERA_HEIGHT], [0, 0, 0, 1]])


def depth_anything_seconds(cameras: int, size: tuple[int, int], rounds: int, parts: Parts) -> float:
    """Median time of Depth Anything V2 Small (random weights, 24.8 M parameters), images alone to depth alone.

    Args:
        size: px, height and width; made multiples of its patches of 14.
    """
    from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation, Dinov2Config

    backbone = Dinov2Config(
        hidden_size=384, num_attention_heads=6, num_hidden_layers=12, image_size=518, patch_size=14,
        out_indices=[3, 6, 9, 12], reshape_hidden_states=False, apply_layernorm=True,
    )  # fmt: skip
    config = DepthAnythingConfig(
        backbone_config=backbone, reassemble_hidden_size=384, neck_hidden_sizes=[48, 96, 192, 384],
        fusion_hidden_size=64,
    )  # fmt: skip
    model = DepthAnythingForDepthEstimation(config).eval()
    images = torch.rand(cameras, 3, *(n // 14 * 14 for n in size))
    times = []
    with torch.inference_mode():
        for _ in range(rounds + 1):
            begin = parts.clock()
            model(pixel_values=images)
            times.append(parts.clock() - begin)
    return statistics.median(times[1:])


def attention_seconds(rounds: int, parts: Parts) -> dict[str, float]:
    """Median time of deformable attention as the temporal fusion has it at `street`, by three formulations."""
    from transformers.models.deformable_detr.modeling_deformable_detr import MultiScaleDeformableAttention

    from letocc_core.model.deformable_attention import DeformableAttention

    layer = DeformableAttention(32, 2, 2, 4, query_dim=64, average=True).eval()
    torch.nn.init.normal_(layer.offsets.weight, std=0.1)
    B, side = 8, 50
    query, value = torch.randn(B, side * side, 64), torch.randn(B, 2 * side * side, 32)
    x, y = torch.meshgrid(*[(torch.arange(side) + 0.5) / side] * 2, indexing="ij")
    reference = torch.stack([y, x], -1).view(1, -1, 1, 1, 2).expand(B, -1, -1, -1, -1)
    shapes = [(side, side)] * 2
    theirs = MultiScaleDeformableAttention()

    def by_transformers() -> torch.Tensor:
        offsets = layer.offsets(query).view(B, -1, 2, 2, 4, 2) / side
        weights = layer.weights(query).view(B, -1, 2, 2, 4).softmax(-1) / 2
        values = layer.value(value).view(B, -1, 2, 16)
        places = reference[:, :, None] + offsets
        starts = torch.tensor([0, side * side])
        return layer.output(theirs(values, torch.tensor(shapes), shapes, starts, places, weights, 64))

    ways = {"compiled loops": False, "PyTorch's passes": True}
    found: dict[str, float] = {}
    with torch.inference_mode():
        expected = by_transformers()
        for name, eager in ways.items():
            with threads.plain_passes() if eager else nullcontext():
                ours = lambda: layer(query, reference, value, shapes)  # noqa: E731
                assert (ours() - expected).abs().max() < 1e-4 * expected.abs().max(), "the formulations disagree"
                found[name] = _median(ours, rounds, parts)
        found["transformers"] = _median(by_transformers, rounds, parts)
    return found


def _median(function, rounds: int, parts: Parts) -> float:
    times = []
    for _ in range(rounds):
        begin = parts.clock()
        function()
        times.append(parts.clock() - begin)
    return statistics.median(times)
