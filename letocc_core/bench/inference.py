"""What a set costs: `OccFlowPipeline.step` by part, on noise that is seen from a driving vehicle."""

from collections.abc import Iterator
from contextlib import nullcontext

import cv2
import numpy as np

from letocc_core.bench.parts import Parts, Place, Row, Work, rows_of
from letocc_core.compiled import threads
from letocc_core.model import motion_branch, plane_sweep
from letocc_core.model.let_occ_flow import LetOccFlow
from letocc_core.stream import pipeline as stream
from letocc_core.stream.pipeline import OccFlowPipeline
from letocc_core.stream.types import Calibration, FrameSet

PERIOD = 0.1  # s between sets, unless told otherwise
SPEED = 8.0  # m/s
CAMERA_HEIGHT = 1.5  # m


def measure(pipeline: OccFlowPipeline, cameras: int, steps: int, parts: Parts, eager: bool = False) -> list[Row]:
    """Time of each part of a step, once the history is full, and the work that it does.

    Work is counted in a step of its own, of PyTorch's passes alone: the loops compiled for the CPU do the same, unseen.

    Args:
        eager: without those loops.
    """
    drive = Drive(pipeline, cameras, parts, eager)
    runs = []
    with parts.around(places(pipeline)):
        for _ in range(steps):
            parts.seconds.clear()
            drive.step()
            runs.append(dict(parts.seconds))
    counted = Parts(parts.clock)
    with threads.plain_passes(), counted.around(places(pipeline)), Work(counted):
        pipeline.step(next(drive.sets))
    return rows_of(runs, counted)


class Drive:
    """A pipeline whose history is full, and image sets for it without end."""

    def __init__(self, pipeline: OccFlowPipeline, cameras: int, parts: Parts, eager: bool = False):
        self.pipeline, self.parts, self.eager = pipeline, parts, eager
        self.sets = frame_sets(*pipeline.input.image_size, cameras, pipeline.input.history_interval)
        for _ in range(1 + pipeline.model.config.temporal.frames):
            self.step()

    def step(self) -> float:
        """Answer the next set; returns the time that it took (s)."""
        frames = next(self.sets)
        with threads.plain_passes() if self.eager else nullcontext():
            begin = self.parts.clock()
            with self.parts.whole():
                self.pipeline.step(frames)
            return self.parts.clock() - begin


def places(pipeline: OccFlowPipeline) -> list[Place]:
    """The parts of a step."""
    return [
        ("images made pinhole", stream, "rectify"),
        ("tensors", stream, "to_tensors"),
        *model_places(pipeline.model),
        ("where rays end", pipeline._sight, "ends"),
        ("what is seen and hidden", pipeline._sight, "looked_at"),
        ("answer as arrays", pipeline, "_answer"),
    ]


def model_places(model: LetOccFlow) -> list[Place]:
    """The parts of the network."""
    found: list[Place] = [
        ("what cameras see of the planes", model.encoder, "look"),
        ("image backbone and pyramid", model.pyramid, "forward"),
        ("TPV encoder", model.encoder, "forward"),
        ("encoded besides, or by an engine", model, "volume"),
        ("temporal fusion", model.temporal, "forward"),
        ("plane sweep", plane_sweep, "sweep_depth"),
        ("plane sweep to voxels", plane_sweep, "lift"),
        ("refinement", model.refinement, "forward"),
        ("fields", model.fields, "forward"),
        ("decoded besides, or by an engine", model, "fields_of"),
    ]
    if model.motion is None:
        return found
    return [
        *found,
        ("columns of the volume", model.motion, "columns"),
        ("surfaces looked up", motion_branch, "find_surfaces"),
        ("velocity sweep", motion_branch, "sweep_velocity"),
        ("motion network", model.motion, "forward"),
    ]


def frame_sets(height: int, width: int, cameras: int, period: float = PERIOD) -> Iterator[FrameSet]:
    """Noise of 8 pixels a grain seen by cameras of 70 degrees all around a vehicle that drives straight on, without end.

    Args:
        period: s between sets.
    """
    focal = width / 2 / np.tan(np.radians(35))
    calibration = Calibration(width, height, np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]]))
    mounts = np.stack([_mount(2 * np.pi * i / cameras) for i in range(cameras)])
    rng = np.random.default_rng(0)
    coarse = [rng.integers(0, 256, (height // 8, width // 8, 3), np.uint8) for _ in range(cameras)]
    images = tuple(cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC) for noise in coarse)
    i = 0
    while True:
        T_world_ego = np.eye(4)
        T_world_ego[0, 3] = SPEED * period * i
        shifted = tuple(np.roll(image, i, axis=1) for image in images)
        yield FrameSet(round(period * i * 1e9), shifted, (calibration,) * cameras, mounts, T_world_ego)
        i += 1


def _mount(yaw: float) -> np.ndarray:
    """`T_ego_cam` [4, 4] of a camera that looks along `yaw` (rad, from x to y)."""
    c, s = np.cos(yaw), np.sin(yaw)
    return np.array([[s, 0, c, 0], [-c, 0, s, 0], [0, -1, 0, CAMERA_HEIGHT], [0, 0, 0, 1]])
