"""Measures the online path against truth: what is evaluated is what runs.

    letocc eval models/street.safetensors --data simulator --seeds 9000-9007 --json out.json

A sequence is a list of `Sample`s in time order. Every sample goes through `OccFlowPipeline.step`; those after the
warm-up (until the history is full) are scored, and so are the baselines, by the same code (`metrics.frame_score`).
"""

from collections.abc import Container, Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from letocc_core.errors import DataError
from letocc_core.evaluation.config import EvaluationConfig
from letocc_core.evaluation.depth import depth_truth, read_depth, render_depth
from letocc_core.evaluation.samples import Sample, lidar_track
from letocc_core.metrics import baselines, frame_score
from letocc_core.metrics.box_motion import BoxMotionScore
from letocc_core.metrics.frame_score import DepthTruth, Prediction, RayTruth
from letocc_core.metrics.novel_view import Earlier
from letocc_core.metrics.occupancy import VoxelTruth
from letocc_core.metrics.ray_iou import select_origins
from letocc_core.metrics.sweep_motion import SweepMotionScore
from letocc_core.stream.types import FrameSet, OccFlow

MOTION_GROUPS = ("motion", "flow2d", "sweep_motion", "boxes")  # what velocities change


@runtime_checkable
class Predictor(Protocol):
    """What `evaluate` asks of a pipeline; `OccFlowPipeline` and `Recorded` give it."""

    def step(self, frame_set: FrameSet) -> OccFlow | None: ...
    def reset(self, reason: str) -> None: ...


class Recorded:
    """Outputs computed before, such as those that a node published, in place of a pipeline."""

    def __init__(self, outputs: Iterable[OccFlow]):
        self._outputs = {output.stamp_ns: output for output in outputs}

    def step(self, frame_set: FrameSet) -> OccFlow | None:
        """The output for this set; None if it was dropped."""
        return self._outputs.get(frame_set.stamp_ns)

    def reset(self, reason: str) -> None:
        """Nothing to forget."""


@dataclass(frozen=True)
class Tally:
    """Scores by method over all frames so far; tallies of several processes can be added."""

    scores: Mapping[str, frame_score.Score] = field(default_factory=dict)
    scenes: int = 0
    frames: int = 0

    def __add__(self, other: "Tally") -> "Tally":
        scores = {
            name: frame_score.add(self.scores.get(name, {}), other.scores.get(name, {}))
            for name in [*self.scores, *(n for n in other.scores if n not in self.scores)]
        }
        return Tally(scores, self.scenes + other.scenes, self.frames + other.frames)

    def results(self) -> dict[str, Any]:
        """The measured part of the results format."""
        groups = {name: frame_score.summary(score) for name, score in self.scores.items()}
        return {
            **groups.pop("letocc", {}),
            "baselines": {name: values for name, values in groups.items() if values},
            "scenes": self.scenes,
            "frames": self.frames,
        }


def evaluate(
    pipeline: Predictor,
    drives: Iterable[Sequence[Sample]],
    warmup: int = 0,
    mean_occupancy: Float[np.ndarray, "X Y Z"] | None = None,
    config: EvaluationConfig = EvaluationConfig(),
) -> dict[str, Any]:
    """Run a pipeline over sequences and score it beside the baselines.

    Args:
        warmup: first samples of each sequence that are run but not scored.
        mean_occupancy: share of training frames in which each voxel is occupied; without it that baseline is absent.

    Returns:
        The results format, less what only the caller knows (`checkpoint`, `config`, `versions`, `command`).

    Raises:
        DataError: nothing was scored.
    """
    tally = Tally()
    for drive in drives:
        tally += score_sequence(pipeline, drive, range(warmup, len(drive)), mean_occupancy, config)
    if not tally.frames:
        raise DataError(f"nothing was scored: no sequence has more than {warmup} image sets with truth and an output")
    return tally.results()


def score_sequence(
    pipeline: Predictor,
    sequence: Iterable[Sample],
    scored: Container[int],
    mean_occupancy: Float[np.ndarray, "X Y Z"] | None = None,
    config: EvaluationConfig = EvaluationConfig(),
    track: Float[np.ndarray, "n 3"] | None = None,
) -> Tally:
    """Run all samples through the pipeline and score those whose position is in `scored`.

    Args:
        track: where the LiDAR is at each sample, m in the fixed frame; by default as the samples say.
    """
    track = lidar_track(sequence) if track is None else track
    pipeline.reset("a new sequence begins")
    tally, scorer = Tally(scenes=1), Scorer(track, mean_occupancy, config)
    for position, sample in enumerate(sequence):
        output = pipeline.step(sample.frame_set)
        if scores := scorer.score(sample, output, wanted=position in scored):
            tally += Tally(scores, frames=1)
    return tally


class Scorer:
    """Scores answers, set by set in time order.

    Args:
        track: where the LiDAR is during the drive, m in the fixed frame: RayIoU's rays start there.
        mean_occupancy: as in `evaluate`.
    """

    def __init__(
        self,
        track: Float[np.ndarray, "n 3"],
        mean_occupancy: Float[np.ndarray, "X Y Z"] | None = None,
        config: EvaluationConfig = EvaluationConfig(),
    ):
        self.track, self.mean_occupancy, self.config = track, mean_occupancy, config
        self._earlier: Earlier | None = None
        self._depths: dict[str, tuple[bytes, np.ndarray]] = {}

    def score(self, sample: Sample, output: OccFlow | None, wanted: bool = True) -> dict[str, frame_score.Score]:
        """Scores of the model and the baselines on the set that `output` answers, by method.

        Against a simulator's truth or the LiDAR; where there is neither, against the set's own images, as the set before
        foretells them. Empty for a set that was dropped or about which nothing is known; without `wanted` none are made.
        """
        earlier, self._earlier = self._earlier, None
        if output is None:
            return {}
        if sample.truth is not None or sample.lidar is not None:
            arguments = (sample, self.track, output, self.mean_occupancy, self.config, self._depths)
            return score_frame(*arguments) if wanted else {}
        frames = output.rectified
        if frames is None:  # recorded outputs: nobody knows what the network saw
            return {}
        self._earlier = Earlier(frames, output.probability, output.grid)
        return {} if earlier is None or not wanted else earlier.score(frames, read_depth, render_depth)


def score_frame(
    sample: Sample,
    track: Float[np.ndarray, "n 3"],
    output: OccFlow,
    mean_occupancy: Float[np.ndarray, "X Y Z"] | None = None,
    config: EvaluationConfig = EvaluationConfig(),
    depths: MutableMapping[str, tuple[bytes, np.ndarray]] | None = None,
) -> dict[str, frame_score.Score]:
    """Scores of the model (`letocc`) and of all baselines on one frame.

    Args:
        track: where the LiDAR is during the drive, m in the fixed frame: RayIoU's rays start there.
        mean_occupancy: as in `evaluate`.
        depths: keeps the depth of the baselines, which is the same for every frame with the same pixels and cameras.
    """
    grid, depths = output.grid, {} if depths is None else depths
    pixels = depth_truth(sample, config.depth_stride)
    rays, voxels = _ray_truth(sample, track, output, pixels), _voxel_truth(sample, output)

    true_velocity = None if sample.truth is None else sample.truth.velocity

    def score_motion(prediction: Prediction) -> frame_score.Score:
        found = frame_score.score_rays(rays, prediction)
        found = frame_score.add(found, frame_score.score_depth(pixels, prediction, grid, config.depth_limits))
        if sample.truth is not None:
            found = frame_score.add(found, frame_score.score_voxel_motion(sample.truth, prediction))
        found = frame_score.add(found, _score_sweeps(sample, prediction, output))
        if sample.boxes is not None:
            given = (prediction.occupied, prediction.velocity, output.observed, grid)
            found = frame_score.add(found, {"boxes": BoxMotionScore.of(sample.boxes, *given)})
        return found

    def score(prediction: Prediction) -> frame_score.Score:
        found = frame_score.score_voxels(voxels, prediction, grid, true_velocity)
        return frame_score.add(score_motion(prediction), found)

    still = np.zeros_like(output.velocity)
    depth = read_depth(output.probability, grid, pixels, config)
    seen = None if output.hidden is None else output.seen
    predicted = Prediction(output.occupied, output.velocity, depth, output.probability, output.observed, seen)
    scores = {"letocc": score(predicted)}
    sceneries = {"flat_road": baselines.flat_road(grid)}
    if mean_occupancy is not None:
        sceneries["mean_occupancy"] = baselines.mean_occupancy(mean_occupancy, grid)
    for name, scenery in sceneries.items():
        view = b"".join(values.tobytes() for values in (pixels.pixels, pixels.K, pixels.T_ego_cam))
        if depths.get(name, (b"",))[0] != view:
            depths[name] = view, render_depth(scenery.sdf, grid, pixels, config)
        said = scenery.occupied & output.observed
        scores[name] = score(Prediction(said, still, depths[name][1], seen=seen))
    standing = score_motion(replace(predicted, velocity=still))
    scores["zero_velocity"] = {k: standing[k] for k in MOTION_GROUPS if k in standing}
    return scores


def _score_sweeps(sample: Sample, prediction: Prediction, output: OccFlow) -> frame_score.Score:
    """`sweep_motion`: whether the velocities take the LiDAR's returns to where the later sweep has them, if there is one."""
    if sample.lidar is None or sample.lidar_later is None or sample.lidar_seconds is None:
        return {}
    score = SweepMotionScore.of_answer(
        sample.lidar,
        sample.lidar_later,
        sample.lidar_seconds,
        prediction.occupied,
        prediction.velocity,
        output.observed,
        output.grid,
    )
    return {"sweep_motion": score}


def _ray_truth(sample: Sample, track: np.ndarray, output: OccFlow, cues: DepthTruth) -> RayTruth:
    grid = output.grid
    if sample.truth is None:
        return RayTruth.from_sweep(sample.sweep, sample.lidar_origin, grid, output.observed)
    if sample.truth.occupancy.shape != grid.shape:
        raise DataError(
            f"the truth's grid is {sample.truth.occupancy.shape}, the model's {grid.shape}; record it on the model's"
        )
    T_ego_world = np.linalg.inv(sample.frame_set.T_world_ego)
    origins = track @ T_ego_world[:3, :3].T + T_ego_world[:3, 3]
    return RayTruth.from_grid(sample.truth, select_origins(origins, grid), grid, cues)


def _voxel_truth(sample: Sample, output: OccFlow) -> VoxelTruth:
    if sample.truth is None:
        return VoxelTruth.from_sweep(sample.sweep, sample.lidar_origin, output.grid, output.observed)
    return VoxelTruth.from_grid(sample.truth)
