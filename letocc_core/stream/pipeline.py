"""What happens when a set of images arrives: the one implementation, driven by the live node and by offline replay."""

import math
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from letocc_core import checkpoint
from letocc_core.frame import Frame, InputConfig
from letocc_core.model.let_occ_flow import EncodedFrame, Fields, LetOccFlow
from letocc_core.stream.history import History
from letocc_core.stream.preprocess import rectifier_of, rectify, to_tensors
from letocc_core.stream.sight import Sight
from letocc_core.stream.snapshot import Snapshot
from letocc_core.stream.types import Calibration, FrameSet, OccFlow


@dataclass(frozen=True)
class Past:
    """A frame that has been answered: what the network keeps of it, and what it was given."""

    encoded: EncodedFrame
    frames: FrameSet  # rectified


@dataclass(frozen=True)
class MotionLimits:
    """An ego motion beyond these is a jump of the pose, not a motion."""

    max_speed: float = 60.0  # m/s
    max_turn_rate: float = 10.0  # rad/s


class OccFlowPipeline:
    """Frame sets in, occupancy and velocity out. Synchronous; use it from one thread at a time.

    Args:
        model: put into evaluation mode and onto `device`.
        input: how images enter the network, and how far apart its past frames are.
        threshold: a voxel is occupied above this probability (default: the model's own).
        surface_threshold: and above this one where a camera's rays most probably end (default: the model's own).
        limits: motion that counts as a jump of the pose.

    Attributes:
        fields: of the last step, on `device`; inference tensors, so no gradient can be taken through them.
        last: the last answer with the image sets that it came from; None before the first and after a reset.
        steps: sets answered.
        resets: how often the past was forgotten, by reason.
    """

    def __init__(
        self,
        model: LetOccFlow,
        input: InputConfig,
        threshold: float | None = None,
        device: torch.device | str = "cpu",
        limits: MotionLimits = MotionLimits(),
        surface_threshold: float | None = None,
    ):
        self.model = model.to(device).eval()
        self.input = input
        self.threshold = model.config.occupancy_threshold if threshold is None else threshold
        self.surface_threshold = model.config.surface_threshold if surface_threshold is None else surface_threshold
        self.device = torch.device(device)
        self.limits = limits
        self.fields: Fields | None = None
        self.last: Snapshot | None = None
        self.steps = 0
        self.resets: Counter[str] = Counter()
        self._history: History[Past] = History(model.config.temporal.frames, input.history_interval)
        self._previous: FrameSet | None = None
        self._rectifier = rectifier_of(input)
        self._sight = Sight(model.config.grid)
        self._seconds: dict[str, float] = {}

    @classmethod
    def from_checkpoint(
        cls,
        path: str | Path,
        threshold: float | None = None,
        device: torch.device | str = "cpu",
        limits: MotionLimits = MotionLimits(),
        backend: str = "torch",
    ) -> "OccFlowPipeline":
        """A pipeline with the model and the input configuration of a checkpoint; raises `CheckpointError`.

        Args:
            backend: what computes the network (`letocc_core.engines.backends`).
        """
        model, input, _ = checkpoint.load_model(path, device)
        if backend != "torch":
            from letocc_core.engines.backends import run_by

            run_by(backend, model, path)
        return cls(model, input, threshold, device, limits)

    @torch.inference_mode()
    def step(self, frames: FrameSet) -> OccFlow:
        """Answer one set of images, given those before it. Sets come in the order of their stamps.

        Raises `CalibrationError` or `DataError` for a set that cannot be used; the past is then as it was.
        """
        self._seconds = {}
        with self._timed("preprocess"):  # undistorted, resized, cropped
            rectified = rectify(frames, self.input, self._rectifier)
            frame = to_tensors(rectified).unsqueeze().to(self.device)
        reason = self._discontinuity(frames, rectified)
        if reason is not None:
            self.reset(reason)
        with self._timed("encode"):  # only the new images; what is kept of the past is never encoded again
            current = self.model.encode(frame)
        with self._timed("decode"):  # past volumes warped by the newest poses, fused, refined, read out
            past = self._history.select(frames.stamp_ns)
            self.fields = self.model.decode(current, [p.encoded for p in past])
        threshold, least = self.threshold, self.surface_threshold  # which another thread may change meanwhile
        with self._timed("output"):
            values = self._answer(frame, self.fields, threshold, least)
        self._history.add(frames.stamp_ns, Past(current, rectified))
        self._previous = frames
        self.steps += 1
        answer = OccFlow(
            frames.stamp_ns, reset_reason=reason, seconds=dict(self._seconds), rectified=rectified, **values
        )
        sets = (*(p.frames for p in reversed(past)), rectified)
        self.last = Snapshot(sets, answer, {"surface_threshold": least})
        return answer

    def warm_up(self, cameras: int) -> None:
        """Answer two blank sets and forget them, so that slow first calls and errors such as no memory come now."""
        height, width = self.input.image_size
        image = np.zeros((height, width, 3), np.uint8)
        calibration = Calibration(width, height, np.array([[width, 0, width / 2], [0, width, height / 2], [0, 0, 1.0]]))
        mounts = np.broadcast_to(np.eye(4), (cameras, 4, 4))
        for stamp_ns in (0, round(self.input.history_interval * 1e9)):
            self.step(FrameSet(stamp_ns, (image,) * cameras, (calibration,) * cameras, mounts, np.eye(4)))
        self._history.clear()
        self._previous = self.last = self.fields = None
        self.steps = 0
        self.resets.clear()

    def reset(self, reason: str) -> None:
        """Forget the past, and count why."""
        self._history.clear()
        self._previous = self.last = None
        self.resets[reason.split(":")[0]] += 1

    def _discontinuity(self, frames: FrameSet, rectified: FrameSet) -> str | None:
        """Why the past has nothing to do with this set, if so; a kind and, after a colon, the numbers."""
        before = self._previous
        if before is None:
            return None
        dt = (frames.stamp_ns - before.stamp_ns) * 1e-9
        if dt <= 0:
            return f"time went back: {dt:.3f} s from the set before"
        if dt > self.input.max_gap:
            return f"gap in time: {dt:.3f} s without images, limit {self.input.max_gap:g} s"
        if len(frames.images) != len(before.images):
            return f"cameras changed: {len(before.images)} before, {len(frames.images)} now"
        if self.last is not None and len(rectified.images) != (views := len(self.last.sets[-1].images)):
            return f"cameras changed: {views} views of them before, {len(rectified.images)} now"
        for i, (old, new) in enumerate(zip(before.calibrations, frames.calibrations, strict=True)):
            if None not in (old, new) and old != new:
                return f"calibration changed: of camera {i}"
        motion = np.linalg.inv(before.T_world_ego) @ frames.T_world_ego
        distance = float(np.linalg.norm(motion[:3, 3]))
        angle = float(Rotation.from_matrix(motion[:3, :3]).magnitude())
        if distance > self.limits.max_speed * dt or angle > self.limits.max_turn_rate * dt:
            return f"pose jumped: {distance:.2f} m and {np.degrees(angle):.0f} degrees in {dt:.3f} s"
        return None

    def _answer(self, frame: Frame, fields: Fields, threshold: float, least: float | None) -> dict:
        """The fields of an `OccFlow` as numpy arrays."""
        assert fields.flow is not None  # `decode` was asked for motion
        config = self.model.config
        labels = None if fields.semantics is None else fields.semantics[0].argmax(0).byte().cpu().numpy()
        probability = fields.probability(config.occupancy_scale)[0].float().cpu().numpy()
        ends = None if least is None else self._sight.ends(frame, probability, least, threshold)
        above = probability > threshold
        observed, hidden = self._sight.looked_at(frame, above if ends is None else above | ends)
        return {
            "grid": config.grid,
            "probability": probability,
            "velocity": self._velocity(fields.flow),
            "observed": observed,
            "ends": ends,
            "hidden": hidden,
            "threshold": float(threshold),
            "labels": labels,
            "class_names": () if labels is None else config.fields.class_names,
        }

    def _velocity(self, flow: Tensor) -> np.ndarray:
        """float32 [X, Y, Z, 2] m/s, zero where the speed is below `motion_branch.least_speed`."""
        velocity = flow[0].permute(1, 2, 3, 0).float().contiguous().cpu().numpy()
        branch = self.model.config.motion_branch
        if branch is not None and branch.least_speed > 0:
            velocity[np.hypot(velocity[..., 0], velocity[..., 1]) < branch.least_speed] = 0
        return velocity

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self._seconds[stage] = time.perf_counter() - start


def reproduce(snapshot: Snapshot, checkpoint: str | Path, device: torch.device | str = "cpu") -> OccFlow:
    """The answer that a checkpoint gives for a snapshot's images and poses; raises `CheckpointError`."""
    unlimited = MotionLimits(math.inf, math.inf)
    pipeline = OccFlowPipeline.from_checkpoint(checkpoint, snapshot.answer.threshold, device, unlimited)
    pipeline.surface_threshold = snapshot.about.get("surface_threshold", pipeline.surface_threshold)
    pipeline.input = replace(pipeline.input, max_gap=math.inf)  # a snapshot holds no more sets than the network takes
    return [pipeline.step(frames) for frames in snapshot.sets][-1]
